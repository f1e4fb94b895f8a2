"""A data home per test, on a path that is short enough for Unix sockets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.nodes import Home


@pytest.fixture
def user() -> Iterator[Home]:
    """One user of this machine; its nodes end with the test."""
    yield from _home()


@pytest.fixture
def stranger() -> Iterator[Home]:
    """Another user, who shares nothing with the first but the machine."""
    yield from _home()


def _home() -> Iterator[Home]:
    path = Path(tempfile.mkdtemp(prefix="zq-"))
    path.chmod(0o700)
    home = Home(path)
    yield home
    home.close()
    shutil.rmtree(path, ignore_errors=True)
