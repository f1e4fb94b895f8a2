"""One thread that does jobs in the order in which they come.

A hand-over is an entry in a queue and nothing else: an executor makes a future for each, which
costs a commit that waits for nothing but the disk another tenth.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
Job = Callable[[], object]


class Worker:
    """All methods may be called from any thread but its own."""

    def __init__(self, name: str) -> None:
        """Start the thread.  It ends with the process, if nobody ends it before."""
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._ended = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def begin(self, job: Job) -> None:
        """Queue a job; what it raises is lost.  Raises `RuntimeError` after `end`."""
        with self._lock:
            if self._ended:
                raise RuntimeError("the thread has ended")
            self._jobs.put(job)

    def ask(self, job: Callable[[], T]) -> Future[T]:
        """Queue a job whose result somebody waits for; raises as `begin` does."""
        answer: Future[T] = Future()

        def work() -> None:
            try:
                result = job()
            except BaseException as error:
                answer.set_exception(error)
                raise
            answer.set_result(result)

        self.begin(work)
        return answer

    def end(self) -> None:
        """Wait until all that is queued is done.  Repeating is fine."""
        with self._lock:
            self._ended = True
            self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            # Whoever waits for a result has been told; the next job is another caller's.
            with contextlib.suppress(BaseException):
                job()
