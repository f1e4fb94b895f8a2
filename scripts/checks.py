"""Every check and test, one step after the other; the last lines say what came of it.

    scripts/test                everything, in at most 10 minutes on 2 cores
    scripts/test --fast         no real sockets, processes or wheel: unit, property and contract
    scripts/test --long         everything, then the long runs; docs/evidence/*.json says how long
    scripts/test ARGS...        only `pytest ARGS...`: one file, one test, -k words

A step that fails does not stop the next; the exit code is 1 then.  No root is needed, and what
was skipped is printed.  With CI=true the system packages below are installed, and a skip fails.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

import node_packages

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
EVIDENCE = ROOT / "docs" / "evidence"
CI = os.environ.get("CI") == "true"

# Program that a test needs -> the Debian package that brings it.
SYSTEM_PACKAGES = {"redis-server": "redis-server", "ip": "iproute2"}
# Those of them that start a service nobody asked for.
SERVICES = ("redis-server",)

PURE = ("market", "trading", "protocol", "dht", "bolt11", "kernel")
# Tests without sockets and processes of their own: safe side by side.  The first count for the
# coverage of the pure packages; counting would make the others, of many tries, twice as slow.
QUICK_TESTS = ("tests/unit", "tests/contract", "tests/test_house_rules.py")
MANY_TRIES = ("tests/property", "tests/simulation")
SLOW_TESTS = ("tests/integration", "tests/end_to_end")

# Where a long run may leave figures of its own, as JSON, for its evidence.
FIGURES_VARIABLE = "ZMQEX_FIGURES"
# Name -> command, run from the root by --long, each leaving docs/evidence/NAME.json.  A part of
# the project with a soak, a chaos run or a simulation of its own adds its row here.
LONG_RUNS: dict[str, tuple[str, ...]] = {
    "properties": ("pytest", "-q", "--timeout=3600", "tests/property"),
    "simulation": ("python", "scripts/simulate.py", "--seeds", "1-1000", "--jobs", "2"),
    "mutation": ("python", "scripts/mutation.py"),
    "chaos": ("python", "scripts/chaos.py", "--rounds", "30", "--json"),
    "chaos-naive": ("python", "scripts/chaos.py", "--rounds", "3", "--scheme", "naive", "--json"),
}


@dataclass
class Outcome:
    """What the steps have brought so far."""

    failed_steps: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    tests_passed: int = 0
    tests_failed: int = 0
    tests_skipped: int = 0


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; answer 0 when all of it passed."""
    if set(arguments) & {"-h", "--help"}:
        print(__doc__)
        return 0
    os.chdir(ROOT)
    options = [word for word in arguments if word in ("--fast", "--long")]
    chosen = [word for word in arguments if word not in options]
    if chosen:
        print("Only pytest, as arguments were given.", flush=True)
        return subprocess.run([BIN / "pytest", *chosen], check=False).returncode
    outcome = Outcome()
    for name, step in _steps(options):
        started = time.monotonic()
        print(f"=== {name}", flush=True)
        passed = step(outcome)
        if not passed:
            outcome.failed_steps.append(name)
        word = "passed" if passed else "FAILED"
        print(f"=== {name}: {word} in {time.monotonic() - started:.1f} s", flush=True)
    return _report(outcome)


Step = Callable[[Outcome], bool]


def _steps(options: list[str]) -> Iterator[tuple[str, Step]]:
    if CI:
        yield "system packages", _install_packages
    yield "format", _command("ruff", "format", "--check")
    yield "lint", _command("ruff", "check")
    yield "types", _command("mypy")
    yield "imports", _command("lint-imports", "--no-logo")
    yield "unit and contract tests", _quick_tests
    yield (
        "branch coverage of the pure packages",
        _command(
            "coverage",
            "report",
            "--fail-under=100",
            f"--include={_pure_files()}",
        ),
    )
    yield "properties, exhaustive walks and simulated networks", _many_tries
    if "--fast" not in options:
        yield "Node.js and its packages", _node_packages
        yield "integration and end-to-end tests", _slow_tests
        yield "tests that measure seconds", _lone_tests
        yield "wheel in a fresh environment", _wheel
    if "--long" in options:
        for name, command in LONG_RUNS.items():
            yield f"long: {name}", _long_run(name, command)


def _pure_files() -> str:
    return ",".join(f"zmqex/{name}/*" for name in PURE)


def _command(program: str, *arguments: str) -> Step:
    """Make a step of a program of the environment; it speaks only when it fails."""
    return lambda _: _quietly(BIN / program, *arguments)


def _quietly(*command: str | Path) -> bool:
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        print(done.stdout, flush=True)
    return done.returncode == 0


def _install_packages(_: Outcome) -> bool:
    """Install what is missing, and leave no service running that nobody asked for."""
    missing = [package for program, package in SYSTEM_PACKAGES.items() if not shutil.which(program)]
    if not missing:
        return True
    root = () if os.geteuid() == 0 else ("sudo", "-n")
    apt = (*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y")
    installed = _quietly(*apt, "update") and _quietly(
        *apt,
        "install",
        "--no-install-recommends",
        *missing,
    )
    if installed and Path("/run/systemd/system").exists():
        services = [package for package in missing if package in SERVICES]
        return not services or _quietly(*root, "systemctl", "disable", "--now", *services)
    return installed


def _quick_tests(outcome: Outcome) -> bool:
    Path(".coverage").unlink(missing_ok=True)
    coverage = [f"--cov=zmqex.{name}" for name in PURE]
    return _pytest(outcome, *QUICK_TESTS, "-n2", *coverage, "--cov-branch", "--cov-report=")


def _node_packages(_: Outcome) -> bool:
    """Install what some tests speak to; without it they are skipped, which fails in CI."""
    try:
        node_packages.ensure()
    except node_packages.NoNodeError as error:
        print(f"no Node.js packages: {error}", flush=True)
        return not CI
    return True


def _many_tries(outcome: Outcome) -> bool:
    return _pytest(outcome, *MANY_TRIES, "-n2")


def _slow_tests(outcome: Outcome) -> bool:
    """Two at a time: they mostly wait for each other's processes."""
    return _pytest(outcome, *SLOW_TESTS, "-n2", "-mnot alone", "--durations=10")


def _lone_tests(outcome: Outcome) -> bool:
    """One at a time, with nothing beside them that would slow them."""
    return _pytest(outcome, *SLOW_TESTS, "-n0", "-malone")


def _pytest(outcome: Outcome, *arguments: str) -> bool:
    """Run pytest aloud and add up what it counted."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        tests = [word for word in arguments if word.startswith("-") or Path(word).exists()]
        command = [str(BIN / "pytest"), "-q", f"--junit-xml={results}", *tests]
        code = subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode
        if results.exists():
            _count(outcome, results)
    return code == 0 and not (CI and outcome.tests_skipped)


def _count(outcome: Outcome, results: Path) -> None:
    for case in ET.parse(results).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it
        skip = case.find("skipped")
        if skip is not None:
            outcome.tests_skipped += 1
            test = f"{case.get('classname')}.{case.get('name')}"
            outcome.skipped.append(f"{test}: {skip.get('message')}")
        elif case.find("failure") is not None or case.find("error") is not None:
            outcome.tests_failed += 1
        else:
            outcome.tests_passed += 1


def _wheel(_: Outcome) -> bool:
    """Build the wheel as a user gets it, and start its command where nothing else is installed."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        python = place / "venv" / "bin" / "python"
        zmqex = place / "venv" / "bin" / "zmqex"
        return (
            _quietly(sys.executable, "-m", "build", "--wheel", f"--outdir={place}", ROOT)
            and _quietly(sys.executable, "-m", "venv", place / "venv")
            and _quietly(python, "-m", "pip", "install", "-q", *place.glob("*.whl"))
            and _quietly(zmqex, "--help")
            and _quietly(zmqex, "--version")
        )


def _long_run(name: str, command: tuple[str, ...]) -> Step:
    """Make a step of a long run; its evidence is written whether it passes or not."""

    def run(_: Outcome) -> bool:
        # What earlier long runs have left is no change of what is run.
        changed = _git("status", "--porcelain", "--", ".", ":!docs/evidence")
        commit = _git("rev-parse", "HEAD") + ("-dirty" if changed else "")
        started = time.monotonic()
        environment = os.environ | {
            "HYPOTHESIS_PROFILE": "long",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        with tempfile.TemporaryDirectory() as folder:
            figures = Path(folder, "figures.json")
            environment[FIGURES_VARIABLE] = str(figures)
            done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, env=environment)
            counted = json.loads(figures.read_text()) if figures.exists() else None
        evidence = {
            "name": name,
            "command": " ".join(command),
            "commit": commit,
            "duration_s": round(time.monotonic() - started),
            "passed": done.returncode == 0,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        }
        if counted is not None:
            evidence["figures"] = counted
        EVIDENCE.mkdir(parents=True, exist_ok=True)
        (EVIDENCE / f"{name}.json").write_text(json.dumps(evidence, indent=2) + "\n")
        return done.returncode == 0

    return run


def _git(*arguments: str) -> str:
    command = (shutil.which("git") or "git", *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _report(outcome: Outcome) -> int:
    """Print the summary; its last line is the count of tests over all runs."""
    print("\n=== summary")
    for skip in outcome.skipped:
        print(f"skipped: {skip}")
    for name in outcome.failed_steps:
        print(f"FAILED: {name}")
    if not outcome.failed_steps:
        print("every step passed")
    counts = f"{outcome.tests_passed} passed, {outcome.tests_failed} failed"
    if outcome.tests_skipped:
        counts += f", {outcome.tests_skipped} skipped"
    print(counts)
    return 1 if outcome.failed_steps else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
