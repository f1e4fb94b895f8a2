"""LDK (rust-lightning) in Node.js processes; a test that finds no Node.js is skipped."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import node_packages
import pytest


def node_js() -> node_packages.Node:
    """Node.js with the packages, or a skip with the reason."""
    try:
        return node_packages.ensure()
    except node_packages.NoNodeError as error:
        pytest.skip(f"no Node.js packages: {error}")


class Asker:
    """A process that answers each JSON line with one."""

    def __init__(self, questions: IO[str], answers: IO[str]) -> None:
        """Its ends."""
        self._questions, self._answers = questions, answers

    def ask(self, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Ask in portions that fit the pipes, and give the answers in order."""
        answers: list[dict[str, Any]] = []
        for start in range(0, len(questions), 20):
            portion = questions[start : start + 20]
            self._questions.write("".join(f"{json.dumps(one)}\n" for one in portion))
            self._questions.flush()
            answers += [json.loads(self._answers.readline()) for _ in portion]
        return answers


@contextmanager
def bolt11_of_ldk() -> Iterator[Asker]:
    """LDK's codec."""
    node = node_js()
    command = [node.program, node.folder / "bolt11.mjs"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield Asker(process.stdin, process.stdout)
        finally:
            process.kill()
