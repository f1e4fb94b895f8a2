"""Invoices beside the signature alone and PyPI's codec; held payments and trades over LDK nodes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import node_packages

from tests.end_to_end.nodes import Home, Node
from tests.ldk import LdkNodes
from zmqex.bolt11 import Draft, InvoiceNetwork, decode, encode, keys
from zmqex.client import Client
from zmqex.config import control_path
from zmqex.kernel.commands import CancelTrade, PlaceOrder, TakeOrder
from zmqex.limits import CLTV_LIMIT_BLOCKS

Row = Mapping[str, object]

SECRET: Final = bytes.fromhex("e126f68f7eafcc8b74f54d269fe206be715000f94dac067d1c04a8ca3b2db734")
# Short turns, so that a subject and its floor share the same moment of the machine.
ROUNDS: Final = 300
CALLS: Final = 20
SLOW_CALLS: Final = 1
PAYMENTS: Final = 40
TRADES: Final = 20
LOTS: Final = 100_000
PRICE: Final = 5_000_000
DRAFT: Final = Draft(
    network=InvoiceNetwork.REGTEST,
    timestamp_s=1_800_000_000,
    payment_hash=bytes(range(32)),
    payment_secret=bytes(32),
    amount_msat=1_234_567_000,
    description="PLAY MONEY: zmqex trade 0123456789abcdef",
    expiry_s=900,
    min_final_cltv=40,
)


def rows() -> Sequence[Row]:
    """All figures of the section."""
    return [*codec_rows(), *held_rows(), *trade_rows()]


def codec_rows() -> list[Row]:
    """Encode and sign, decode and verify: each beside its signature operation."""
    text, digest = encode(DRAFT, SECRET), bytes(range(32))
    signature = keys.sign(SECRET, digest)
    subjects: dict[str, Callable[[], object]] = {
        "sign": lambda: keys.sign(SECRET, digest),
        "encode": lambda: encode(DRAFT, SECRET),
        "recover": lambda: keys.recover(digest, signature),
        "decode": lambda: decode(text),
    }
    peer = pypi_codec(text)
    taken = measured(subjects | peer)
    goal = "0.67 (within 1.5x)"
    made = [
        row("encode and sign", taken, "encode", "the signature alone", "sign", goal),
        row("decode and verify", taken, "decode", "the recovery alone", "recover", goal),
    ]
    if peer:
        made += [
            row("encode and sign", taken, "encode", "PyPI bolt11", "pypi encode", "10"),
            row("decode and verify", taken, "decode", "PyPI bolt11", "pypi decode", "10"),
        ]
    else:
        made.append({"name": "PyPI bolt11", "value": "not measured", "unit": PYPI_HINT})
    return made


PYPI_HINT: Final = "(pip install bolt11 'bitstring<5', on Python 3.12 or older)"


def pypi_codec(text: str) -> dict[str, Callable[[], object]]:
    """The calls of PyPI's `bolt11` on the same invoice, if it can be imported."""
    with contextlib.suppress(ImportError):
        bolt11: Any = importlib.import_module("bolt11")
        invoice = bolt11.decode(text)
        return {
            "pypi encode": lambda: bolt11.encode(invoice, SECRET.hex()),
            "pypi decode": lambda: bolt11.decode(text),
        }
    return {}


def measured(subjects: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Microseconds of a call in each round, the subjects in turn."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(ROUNDS):
        for name, call in subjects.items():
            calls = SLOW_CALLS if name.startswith("pypi") else CALLS
            begin = time.perf_counter()
            for _ in range(calls):
                call()
            taken[name].append((time.perf_counter() - begin) / calls * 1e6)
    return taken


def row(
    name: str, taken: Mapping[str, list[float]], ours: str, floor: str, theirs: str, goal: str
) -> Row:
    """One subject beside its floor; the ratio is theirs by ours, the middle one of all turns."""
    own, other = statistics.median(taken[ours]), statistics.median(taken[theirs])
    ratios = [one / mine for mine, one in zip(taken[ours], taken[theirs], strict=True)]
    return {
        "name": name,
        "value": round(own, 1),
        "unit": "us",
        "best": round(min(taken[ours]), 1),
        "floor": floor,
        "floor_value": round(other, 1),
        "floor_best": round(min(taken[theirs]), 1),
        "ratio": round(statistics.median(ratios), 2),
        "goal": goal,
    }


def held_rows() -> list[Row]:
    """From asking for a held invoice to knowing that its payment is locked, through our client."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            node_packages.ensure()
        except node_packages.NoNodeError as error:
            return [{"name": "held payment", "value": "not measured", "unit": f"({error})"}]
        nodes = LdkNodes(Path(folder))
        try:
            taken = asyncio.run(held_payments(nodes))
        finally:
            nodes.stop()
    ordered = sorted(taken)
    return [
        {
            "name": "held invoice made, paid over two LDK nodes and seen locked, p50",
            "value": round(statistics.median(ordered), 1),
            "unit": "ms",
            "best": round(ordered[0], 1),
            "goal": "under 250 ms",
        },
        {
            "name": "the same, p95",
            "value": round(ordered[int(len(ordered) * 0.95)], 1),
            "unit": "ms",
        },
    ]


async def held_payments(nodes: LdkNodes) -> list[float]:
    """Milliseconds of each."""
    payer, payee = nodes.client(0, report_wait_s=0.001), nodes.client(1)
    taken = []
    for _ in range(PAYMENTS):
        preimage = secrets.token_bytes(32)
        payment_hash = hashlib.sha256(preimage).digest()
        begin = time.perf_counter()
        text = await payee.create_hold_invoice(
            payment_hash, amount_msat=1_000_000, memo="x", expiry_s=900, min_final_cltv=60
        )
        async with contextlib.aclosing(payee.watch(payment_hash)) as changes:
            async for info in changes:
                if info.state == "open":
                    await payer.pay(text, fee_limit_msat=10_000, cltv_limit=CLTV_LIMIT_BLOCKS)
                if info.state == "accepted":
                    break
        taken.append((time.perf_counter() - begin) * 1e3)
        await payee.settle(preimage)
    await payer.close()
    await payee.close()
    return taken


def trade_rows() -> list[Row]:
    """From a take by lock to the maker's word that its HTLC is held: two nodes, two LDK nodes."""
    with tempfile.TemporaryDirectory(prefix="zq-") as folder:
        try:
            node_packages.ensure()
        except node_packages.NoNodeError as error:
            return [{"name": "trade over LDK", "value": "not measured", "unit": f"({error})"}]
        ldk, home = LdkNodes(Path(folder)), Home(Path(folder))
        try:
            maker, taker = (_node(home, ldk, name, at) for name, at in (("maker", 1), ("taker", 0)))
            taker.wait_live(maker)
            maker.wait_live(taker)
            taken = sorted(_held_trades(maker, taker))
        finally:
            home.close()
            ldk.stop()
    return [
        {
            "name": "take to held HTLC, a whole trade by lock over two LDK nodes, p50",
            "value": round(statistics.median(taken), 1),
            "unit": "ms",
            "best": round(taken[0], 1),
            "goal": "under 250 ms",
        },
        {"name": "the same, p95", "value": round(taken[int(len(taken) * 0.95)], 1), "unit": "ms"},
    ]


def _node(home: Home, ldk: LdkNodes, name: str, number: int) -> Node:
    lightning = ("--network", "regtest", "--lightning", "lnd", "--lnd-url", ldk.urls[number])
    files = ("--lnd-macaroon", str(ldk.macaroons[number]), "--lnd-cert", str(ldk.certificate))
    return home.node(name).start(*lightning, *files, "--stranger-share", "100")


def _held_trades(maker: Node, taker: Node) -> list[float]:
    """Milliseconds of each trade; what is held is given back before the next one."""
    taken = []
    with (
        Client(control_path(maker.directory)) as ours,
        Client(control_path(taker.directory)) as theirs,
    ):
        lots = 2 * TRADES * LOTS
        placed = ours.call(PlaceOrder("BTC/USD", "buy", lots, PRICE, settlements=("htlc",)))
        order_id = placed["order"]["order_id"]
        taker.wait_book(order_id, lots)
        changes = ours.events(("trade",))
        for _ in range(TRADES):
            begin = time.perf_counter()
            answer = theirs.call(TakeOrder(order_id, LOTS, settlement="htlc"))
            trade_id = answer["trades"][0]["trade_id"]
            _await(changes, trade_id, "htlc_accepted")
            taken.append((time.perf_counter() - begin) * 1e3)
            ours.call(CancelTrade(trade_id))
            _await(changes, trade_id, "cancelled")
    return taken


def _await(changes: Iterator[dict[str, Any]], trade_id: str, state: str) -> None:
    """Read what a node announces until a trade is in a state."""
    while True:
        change = next(changes)
        if (change.get("trade_id"), change.get("state")) == (trade_id, state):
            return
