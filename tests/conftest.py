"""What every test stands on: Hypothesis profiles and a home that is not the user's.

Not for fixtures of one room; those live beside their tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# No deadline anywhere: two shared cores say nothing about one example's speed, and pytest's
# own limit per test catches what hangs.
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    print_blob=True,
    derandomize=False,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("long", settings.get_profile("ci"), max_examples=5_000)
# For `scripts/mutation.py`: the same examples for each fault, and the first that fails is enough.
settings.register_profile(
    "mutation",
    settings.get_profile("ci"),
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"),
)

_XDG = ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the whole run a home of its own, inherited by every program that a test starts.

    The user's settings for zmqex are out of sight too.
    """
    root = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("ZMQEX_")]:
            patch.delenv(name)
        _point(patch, root)
        yield root


@pytest.fixture
def data_home(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Give one test an empty home, and answer its data directory.

    The path is short: a Unix socket's must stay under 108 characters, which `tmp_path` with the
    test's name in it does not leave room for.
    """
    root = tmp_path_factory.mktemp("home")
    _point(monkeypatch, root)
    return root / "data"


def _point(patch: pytest.MonkeyPatch, root: Path) -> None:
    """Set HOME and the XDG directories to fresh directories under `root`."""
    patch.setenv("HOME", str(root))
    for name in _XDG:
        path = root / name.split("_")[1].lower()
        path.mkdir(mode=0o700)
        patch.setenv(name, str(path))
