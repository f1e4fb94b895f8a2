"""`python -m zmqex`: the command line."""

from __future__ import annotations

from zmqex.cli.main import run

if __name__ == "__main__":
    run()
