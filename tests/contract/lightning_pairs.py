"""A payer and a payee of each Lightning backend, with a way to let blocks and seconds pass."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path

from tests.cln_fake import FakeCln, FakeWorld
from tests.cln_fake import serving as cln_serving
from tests.contract.redis_servers import make_certificate
from tests.ldk import LdkNodes
from tests.ledgers import Ledgers
from tests.lnd_fake import FakeChain, FakeLnd, serving
from zmqex.adapters.clock import wall_ms
from zmqex.adapters.lightning.cln import ClnLightning
from zmqex.adapters.lightning.cln_rpc import UnixRpc
from zmqex.adapters.lightning.lnd import LndLightning
from zmqex.adapters.lightning.same_node import SameNode
from zmqex.adapters.ports import InvoiceInfo, Lightning, PaymentInfo
from zmqex.errors import RejectedError
from zmqex.limits import BLOCK_MS, CLTV_LIMIT_BLOCKS, SECOND_MS

FEE_LIMIT_MSAT = 10_000


@dataclass
class Pair:
    """Two nodes with a way to pay from one to the other."""

    payer: Lightning
    payee: Lightning
    mine: Callable[[int], Awaitable[None]]  # so many blocks, seen by both
    pass_s: Callable[[int], Awaitable[None]]  # at least so many seconds
    reopen: Callable[[], Awaitable[None]]  # our processes on both sides end and start again
    chooses_terms: bool = True  # memo and expiry of a held invoice are ours to say


@asynccontextmanager
async def play_pair(root: Path) -> AsyncGenerator[Pair, None]:
    """Two ledgers on disk, on a clock that stands still between the steps."""
    scene = Ledgers(root)

    async def pass_s(seconds: int) -> None:
        scene.now_ms += seconds * SECOND_MS

    async def mine(blocks: int) -> None:
        scene.now_ms += blocks * BLOCK_MS

    async def reopen() -> None:
        pair.payee, pair.payer = await scene.reopen("alice"), await scene.reopen("bob")

    pair = Pair(scene.ledgers["bob"], scene.ledgers["alice"], mine, pass_s, reopen)
    try:
        yield pair
    finally:
        await scene.close()


@asynccontextmanager
async def lnd_fake_pair(root: Path) -> AsyncGenerator[tuple[Pair, list[FakeLnd]], None]:
    """Our LND client twice, each before a fake LND, which are given too."""
    make_certificate(root)
    certificate = root / "cert.pem"
    chain = FakeChain()
    nodes = [FakeLnd(chain, "payer"), FakeLnd(chain, "payee")]
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(serving(one, certificate)) for one in nodes]

        def client(number: int) -> LndLightning:
            macaroon = root / f"{number}.macaroon"
            macaroon.write_bytes(nodes[number].macaroon)
            macaroon.chmod(0o600)
            return LndLightning(
                urls[number], macaroon, certificate, clock_ms=chain.now_ms, report_wait_s=0.05
            )

        async def pass_s(seconds: int) -> None:
            chain.passed_ms += seconds * SECOND_MS
            await chain.tell()

        async def mine(blocks: int) -> None:
            chain.height += blocks
            await chain.tell()

        async def close() -> None:
            await pair.payer.close()
            await pair.payee.close()

        async def reopen() -> None:
            await close()
            pair.payer, pair.payee = client(0), client(1)

        pair = Pair(client(0), client(1), mine, pass_s, reopen)
        stack.push_async_callback(close)
        yield pair, nodes


@asynccontextmanager
async def lnd_pair(root: Path) -> AsyncGenerator[Pair, None]:
    """The clients alone."""
    async with lnd_fake_pair(root) as (pair, _nodes):
        yield pair


@asynccontextmanager
async def same_node_pair(root: Path) -> AsyncGenerator[Pair, None]:
    """The same clients, each of which has to stay the node that it is."""
    async with lnd_fake_pair(root) as (inner, _nodes):

        async def guard() -> None:
            pair.payer, pair.payee = [
                SameNode(one, await one.node_key(), "--lightning lnd")
                for one in (inner.payer, inner.payee)
            ]

        async def reopen() -> None:
            await inner.reopen()
            await guard()

        pair = Pair(inner.payer, inner.payee, inner.mine, inner.pass_s, reopen)
        await guard()
        yield pair


@asynccontextmanager
async def ldk_pair(nodes: LdkNodes) -> AsyncGenerator[Pair, None]:
    """Our LND client twice, each before a real LDK node, which outlive them."""

    def client(number: int) -> LndLightning:
        return nodes.client(number, report_wait_s=0.15)

    async def pass_s(seconds: int) -> None:
        end_ms = wall_ms() + seconds * SECOND_MS
        for _ in takewhile(lambda _: wall_ms() < end_ms, count()):
            await asyncio.sleep(0.05)

    async def mine(blocks: int) -> None:
        nodes.mine(blocks)

    async def close() -> None:
        await pair.payer.close()
        await pair.payee.close()

    async def reopen() -> None:
        await close()
        pair.payer, pair.payee = client(0), client(1)

    pair = Pair(client(0), client(1), mine, pass_s, reopen)
    try:
        yield pair
    finally:
        await close()


@asynccontextmanager
async def cln_fake_pair() -> AsyncGenerator[tuple[Pair, list[FakeCln]], None]:
    """Our Core Lightning client twice, each before a fake lightningd, which are given too."""
    world = FakeWorld()
    nodes = [FakeCln(world, "payer"), FakeCln(world, "payee")]
    folder = Path(tempfile.mkdtemp(prefix="zq-", dir="/tmp"))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        for number, node in enumerate(nodes):
            await stack.enter_async_context(cln_serving(node, folder / str(number)))

        def client(number: int) -> ClnLightning:
            return ClnLightning(
                UnixRpc(folder / str(number)),
                clock_ms=world.now_ms,
                report_wait_s=0.05,
                watch_every_s=0.01,
                search_ms=200,
            )

        async def pass_s(seconds: int) -> None:
            world.passed_ms += seconds * SECOND_MS

        async def mine(blocks: int) -> None:
            world.height += blocks

        async def reopen() -> None:
            await pair.payer.close()
            pair.payer, pair.payee = client(0), client(1)

        pair = Pair(client(0), client(1), mine, pass_s, reopen, chooses_terms=False)
        yield pair, nodes


@asynccontextmanager
async def cln_pair() -> AsyncGenerator[Pair, None]:
    """The clients alone."""
    async with cln_fake_pair() as (pair, _nodes):
        yield pair


def hash_of(preimage: bytes) -> bytes:
    """The payment hash of a preimage."""
    return hashlib.sha256(preimage).digest()


async def pay(payer: Lightning, invoice: str) -> PaymentInfo:
    """Pay with ordinary limits; a refusal counts as failed, for the same reason."""
    try:
        return await payer.pay(invoice, fee_limit_msat=FEE_LIMIT_MSAT, cltv_limit=CLTV_LIMIT_BLOCKS)
    except RejectedError as error:
        return PaymentInfo("failed", reason=error.reason.value)


async def until_paid(payer: Lightning, payment_hash: bytes, state: str) -> PaymentInfo:
    """Look a payment up until it has this state."""
    async with asyncio.timeout(10):
        while True:
            info = await payer.payment(payment_hash)
            if info.state == state:
                return info
            await asyncio.sleep(0.01)


async def until_seen(payee: Lightning, payment_hash: bytes, state: str) -> InvoiceInfo:
    """Watch an invoice until it has this state."""
    async with asyncio.timeout(10), aclosing(payee.watch(payment_hash)) as changes:
        async for info in changes:
            if info.state == state:
                return info
    raise AssertionError("the watch ended without it")
