#!/usr/bin/env python3
"""Fifty takers race for three units while everything is killed: are exactly three sold?

    scripts/chaos.py                      one round; --quick: a small one, in seconds
    scripts/chaos.py --rounds 30 --json   one JSON object at the end
    scripts/chaos.py --scheme naive       a maker that frees a hold when its time is over: oversells

Each round is a world of its own: a maker (`serve`, strict or journal), its Redis over TCP, and the
takers in four processes (`chaos_takers`).  Faults come at random moments: kill -9 of the maker, of
Redis (with and without its file) and of takers, SIGSTOP of each, FLUSHALL.  After the last fault
there are 60 s until all is sold and nothing is held; then everything is stopped and counted from
outside (`chaos_count`).  Exits 0 if every round sold exactly three units, nothing is lost and
nothing is stuck; with the naive scheme, if some round oversold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from chaos_count import count
from chaos_world import UNITS, WorldOfProcesses


class Size(NamedTuple):
    """How much happens in a round."""

    takers: int
    groups: int
    ttl_s: int
    window_s: float  # in which the faults come
    prompt: int  # of ten takes, how many are paid at once; the others late or never


FULL = Size(50, 4, 4, 10.0, 2)
QUICK = Size(8, 2, 2, 3.0, 7)
FAULTS = (5, 8)
SETTLE_S = 60.0
PLAY_MSAT = 10 * 100_000_000 * 1_000


def main(arguments: list[str]) -> int:
    """Play the rounds and say what came of them."""
    parser = argparse.ArgumentParser(description="Race takers for three units under faults.")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="8 takers, holds of 2 s")
    parser.add_argument("--scheme", choices=("safe", "naive"), default="safe")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)  # noqa: S311 - repeats the faults, not the machine
    size = QUICK if options.quick else FULL
    rounds = []
    for number in range(1, options.rounds + 1):
        rounds.append(play(number, rng, options.scheme, size))
        if not options.json:
            print(rounds[-1], flush=True)
        else:
            print(f"round {number}: sold {rounds[-1]['sold']}", file=sys.stderr, flush=True)
    result = {"scheme": options.scheme, "seed": options.seed, **size._asdict(), **summary(rounds)}
    result["passed"] = result["exact"] if options.scheme == "safe" else result["oversold"] > 0
    if os.environ.get("ZMQEX_FIGURES"):
        Path(os.environ["ZMQEX_FIGURES"]).write_text(json.dumps(result))
    print(json.dumps(result, indent=2 if not options.json else None))
    return 0 if result["passed"] else 1


def play(number: int, rng: random.Random, scheme: str, size: Size) -> dict[str, Any]:
    """One round in a world of its own."""
    folder = Path(tempfile.mkdtemp(prefix="zc-"))
    # Where the control socket of the maker is looked for; its path must be short.
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    world = WorldOfProcesses(folder, scheme, "strict" if number % 2 else "journal", size.ttl_s)
    begun = time.monotonic()
    try:
        world.start(size.takers, size.groups, size.prompt)
        faults = throw_faults(world, rng, size.window_s)
        settled_s = world.wait_settled(SETTLE_S)
        late = world.wait_quiet(SETTLE_S - settled_s)
        trades = world.trades()
        world.stop()
        counted = count(world.maker_directory, world.taker_directories(), set(trades))
    finally:
        world.kill()
        shutil.rmtree(folder, ignore_errors=True)
    total_msat = PLAY_MSAT * (1 + size.takers)
    stuck = sorted(state for state in trades.values() if state in HOLDING)
    return {
        "round": number,
        "holds": world.holds,
        "faults": faults,
        **counted._asdict(),
        "oversold": max(counted.sold - UNITS, 0),
        "unsold": max(UNITS - counted.sold, 0),
        "stuck": len(stuck) + counted.in_flight,
        "conserved": counted.msat == total_msat,
        "settled_s": round(settled_s, 1),
        "quiet_s": round(late, 1),
        "seconds": round(time.monotonic() - begun),
    }


# States that hold a quantity and are nobody's task but the node's.
HOLDING = ("reserved", "invoiced", "cancelling", "pay_intent", "paying")


def throw_faults(world: WorldOfProcesses, rng: random.Random, window_s: float) -> dict[str, int]:
    """Faults at random moments from the order's first second on; how many of each kind."""
    number = rng.randint(*FAULTS)
    moments = sorted(rng.uniform(0, window_s) for _ in range(number))
    kinds = world.faults()
    done: Counter[str] = Counter()
    world.place_order()
    begun = time.monotonic()
    for moment in moments:
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        kind = rng.choice(sorted(kinds))
        kinds[kind](rng)
        done[kind] += 1
    world.mend()
    return dict(sorted(done.items()))


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """All rounds together."""
    totals = {
        word: sum(one[word] for one in rounds)
        for word in ("sold", "oversold", "unsold", "lost", "stuck", "accepts", "paid")
    }
    exact = all(
        one["sold"] == UNITS and one["conserved"] and not one["lost"] and not one["stuck"]
        for one in rounds
    )
    return {
        "rounds": len(rounds),
        "units": UNITS,
        "faults": sum(sum(one["faults"].values()) for one in rounds),
        **totals,
        "settled_s_max": max(one["settled_s"] for one in rounds),
        "exact": exact,
        "detail": rounds,
    }


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        sys.exit(main(sys.argv[1:]))
