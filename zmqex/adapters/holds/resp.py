"""Redis' protocol, as far as a hold server is asked: words go out, answers of their kind come back.

Not for subscriptions: what a server pushes by itself is left out.
"""

from __future__ import annotations

from typing import Any, Final

from redis.exceptions import InvalidResponse, NoScriptError, ResponseError

Word = bytes | str | int

_END: Final = b"\r\n"
_NO_SCRIPT: Final = "NOSCRIPT"
_NESTED_MAX: Final = 8


def packed(*words: Word) -> bytes:
    """A command as it is sent."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


class Answers:
    """Cuts a stream of bytes into answers: bytes, integers, None, lists of these, or errors."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """What is whole by now; an error is given, not raised.

        Raises `InvalidResponse` where these are no answers; nothing after that can be read.
        """
        self._bytes += data
        found, read = list[Any](), 0
        try:
            while read < len(self._bytes):
                pushed = self._bytes.startswith(b">", read)
                answer, read = self._answer(read, _NESTED_MAX)
                if not pushed:
                    found.append(answer)
        except _Unfinished:
            pass
        except ValueError as error:
            message = f"not an answer: {bytes(self._bytes[read : read + 40])!r}"
            raise InvalidResponse(message) from error
        del self._bytes[:read]
        return found

    def _answer(self, start: int, depth: int) -> tuple[Any, int]:
        """The answer at `start`, and where the next one begins."""
        end = self._bytes.find(_END, start)
        if end < 0:
            raise _Unfinished
        kind, text = self._bytes[start : start + 1], bytes(self._bytes[start + 1 : end])
        after = end + len(_END)
        match bytes(kind):
            case b"+":
                return text, after
            case b"-":
                return _error(text.decode(errors="replace")), after
            case b":":
                return int(text), after
            case b"_":
                return None, after
            case b"$":
                return self._bulk(int(text), after)
            case b"*" | b">" if depth:
                return self._list(int(text), after, depth - 1)
        raise ValueError(kind)

    def _bulk(self, length: int, start: int) -> tuple[bytes | None, int]:
        if length < 0:
            return None, start
        end = start + length
        if len(self._bytes) < end + len(_END):
            raise _Unfinished
        return bytes(self._bytes[start:end]), end + len(_END)

    def _list(self, length: int, start: int, depth: int) -> tuple[list[Any] | None, int]:
        if length < 0:
            return None, start
        answers = list[Any]()
        for _ in range(length):
            answer, start = self._answer(start, depth)
            answers.append(answer)
        return answers, start


class _Unfinished(Exception):  # noqa: N818 - no error
    """More bytes have to come."""


def _error(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith(_NO_SCRIPT) else ResponseError(text)
