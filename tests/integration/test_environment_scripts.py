"""The scripts that make the environment, each run by a shell with the PATH of another machine.

Making an environment for real takes most of a minute and is what every run of the tests began with.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = "scripts/zmqex"
TOOLS = ("cat", "cmp", "dirname", "env", "id", "readlink", "sh")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a copy of the scripts and of pyproject.toml in a directory with a space in its name."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a PATH with the tools of every system and no Python."""
    place = tmp_path / "bin"
    place.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, f"{name} is on every system"
        (place / name).symlink_to(found)
    return place


def write_program(place: Path, text: str) -> None:
    """Write an executable shell script."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)


def start(checkout: Path, path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Start scripts/zmqex there and wait for its end."""
    return subprocess.run(
        [PROGRAM, *words],
        cwd=checkout,
        env=os.environ | {"PATH": str(path)},
        check=False,
        capture_output=True,
        text=True,
    )


def make_ready(checkout: Path, program: str) -> None:
    """Put a stamped environment in place whose zmqex is a shell script."""
    venv = checkout / ".venv"
    write_program(venv / "bin" / "zmqex", program)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "stamp").write_text(f"{checkout}\n{(checkout / 'pyproject.toml').read_text()}")


def test_a_machine_without_python_is_told_so_in_one_sentence(checkout: Path, path: Path) -> None:
    """Exit code 2 and one line, no trace of a shell."""
    done = start(checkout, path)
    assert done.returncode == 2
    assert done.stderr == "zmqex needs Python 3.11 or newer, and no python3 was found.\n"


def test_a_python_that_is_too_old_is_named_with_its_version(checkout: Path, path: Path) -> None:
    """Python 3.9 is found and refused."""
    write_program(path / "python3", 'case "$2" in *print*) echo 3.9 ;; *) exit 1 ;; esac')
    done = start(checkout, path)
    assert done.returncode == 2
    assert done.stderr == "zmqex needs Python 3.11 or newer, and the newest here is 3.9.\n"


def test_a_python_without_ensurepip_gets_the_one_command_that_fixes_it(
    checkout: Path,
    path: Path,
) -> None:
    """As on Debian, where python3.11 comes without python3.11-venv."""
    hide = "import sys; sys.modules['ensurepip'] = None; exec(sys.argv[1])"
    write_program(path / "python3.11", f'exec "{sys.executable}" -c "{hide}" "$2"')
    write_program(path / "apt-get", "exit 1")
    done = start(checkout, path)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert done.returncode == 2
    assert done.stderr.startswith(f"Python {version} lacks its venv and ensurepip modules; ")
    assert done.stderr.endswith(f"apt-get install python{version}-venv\n")
    assert not (checkout / ".venv").exists()


def test_a_ready_environment_is_entered_at_once_with_every_argument(
    checkout: Path,
    path: Path,
) -> None:
    """No Python is looked for; words, exit code and the name as typed pass through."""
    make_ready(checkout, 'printf "%s|" "$ZMQEX_INVOKED_AS" "$@"; exit 7')
    done = start(checkout, path, "order", "buy", "1 BTC @ 1 USD", "")
    assert done.stdout == "scripts/zmqex|order|buy|1 BTC @ 1 USD||"
    assert (done.returncode, done.stderr) == (7, "")


def test_a_signal_reaches_zmqex_itself(checkout: Path, path: Path) -> None:
    """The shell has become zmqex, so that nothing stands between it and Ctrl-C."""
    make_ready(checkout, "echo $$; exec cat")
    with subprocess.Popen(
        [PROGRAM],
        cwd=checkout,
        env=os.environ | {"PATH": str(path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT


@pytest.mark.parametrize("change", ["project", "place", "python"])
def test_an_environment_that_no_longer_fits_is_not_entered(
    checkout: Path,
    path: Path,
    change: str,
) -> None:
    """Other dependencies, another place or a Python that is gone: it has to be made again."""
    make_ready(checkout, "echo entered")
    match change:
        case "project":
            (checkout / "pyproject.toml").write_text("[project]\n")
        case "place":
            checkout = checkout.rename(checkout.with_name("moved"))
        case _:
            (checkout / ".venv" / "bin" / "python").unlink()
    done = start(checkout, path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no python3 was found" in done.stderr
