"""LDK (rust-lightning) in Node.js processes; a test that finds no Node.js is skipped."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import node_packages
import pytest

from tests.contract.redis_servers import make_certificate
from zmqex.adapters.lightning.lnd import LndLightning


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


class LdkNodes:
    """Two LDK nodes with a channel over TCP, behind a REST interface in LND's shape."""

    def __init__(self, folder: Path) -> None:
        """Start them; the certificate and the macaroons go to `folder`."""
        node = node_js()
        make_certificate(folder)
        self.certificate = folder / "cert.pem"
        self.macaroons = []
        for name in ("payer", "payee"):
            path = folder / f"{name}.macaroon"
            path.write_bytes(secrets.token_bytes(40))
            path.chmod(0o600)
            self.macaroons.append(path)
        self._process = subprocess.Popen(
            [
                node.program,
                node.folder / "lnd_facade.mjs",
                self.certificate,
                folder / "key.pem",
                *(path.read_bytes().hex() for path in self.macaroons),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.urls: list[str] = self._answer()["urls"]

    def mine(self, blocks: int) -> int:
        """Blocks for both nodes; the height."""
        assert self._process.stdin
        self._process.stdin.write(f"{json.dumps({'mine': blocks})}\n")
        self._process.stdin.flush()
        return int(self._answer()["height"])

    def client(self, number: int, **options: Any) -> LndLightning:  # noqa: ANN401
        """Our LND client before one of them."""
        return LndLightning(self.urls[number], self.macaroons[number], self.certificate, **options)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the nodes have ended"
        answer: dict[str, Any] = json.loads(line)
        return answer
