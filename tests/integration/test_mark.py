"""The mark in a Lightning node's database: a node that has lost it is another one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.contract.lightning_pairs import Pair, cln_pair, lnd_fake_pair
from tests.lnd_fake import FakeLnd, GrpcError
from zmqex.adapters.lightning.mark import MEMO, marked
from zmqex.bolt11 import decode
from zmqex.errors import LightningUnavailableError

Story = Callable[[Pair, list[FakeLnd]], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Story], None]:
    """Run a story with two LND nodes."""

    def run(story: Story) -> None:
        async def within() -> None:
            async with asyncio.timeout(20), lnd_fake_pair(tmp_path) as (pair, nodes):
                await story(pair, nodes)

        asyncio.run(within())

    return run


def test_the_same_database_keeps_its_name(play: Callable[[Story], None], tmp_path: Path) -> None:
    """One invoice is made, once; it may expire, for what has expired is still known."""

    async def story(pair: Pair, nodes: list[FakeLnd]) -> None:
        node = await pair.payer.node_key()
        name = await marked(pair.payer, node, tmp_path)
        assert (name[:33], len(name)) == (node, 37)
        await pair.pass_s(400 * 86_400)
        await pair.reopen()
        assert await marked(pair.payer, node, tmp_path) == name
        (invoice,) = nodes[0].invoices.values()
        read = decode(invoice.payment_request)
        assert (read.description, read.amount_msat) == (MEMO, 1_000)

    play(story)
    (path,) = tmp_path.glob("*.mark")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_database_without_the_mark_is_another_one(
    play: Callable[[Story], None], tmp_path: Path
) -> None:
    """Restored from its seed: the same key, and no memory; from then on it has its new name."""

    async def story(pair: Pair, nodes: list[FakeLnd]) -> None:
        node = await pair.payer.node_key()
        name = await marked(pair.payer, node, tmp_path)
        nodes[0].invoices.clear()
        after = await marked(pair.payer, node, tmp_path)
        assert after[:33] == node
        assert after != name
        assert await marked(pair.payer, node, tmp_path) == after

    play(story)


def test_a_database_that_comes_back_has_its_old_name(
    play: Callable[[Story], None], tmp_path: Path
) -> None:
    """A start with the wrong one takes nothing from the right one, whose trades still run."""

    async def story(pair: Pair, nodes: list[FakeLnd]) -> None:
        node = await pair.payer.node_key()
        name = await marked(pair.payer, node, tmp_path)
        invoices = dict(nodes[0].invoices)
        names = {name}
        for _ in range(2):
            nodes[0].invoices.clear()
            names.add(await marked(pair.payer, node, tmp_path))
        assert len(names) == 3
        nodes[0].invoices.clear()
        nodes[0].invoices.update(invoices)
        assert await marked(pair.payer, node, tmp_path) == name
        assert nodes[0].invoices == invoices

    play(story)


def test_each_node_has_a_mark_of_its_own(play: Callable[[Story], None], tmp_path: Path) -> None:
    """Who comes back to an older node finds its old name."""

    async def story(pair: Pair, _nodes: list[FakeLnd]) -> None:
        names = [
            await marked(one, await one.node_key(), tmp_path)
            for one in (pair.payer, pair.payee, pair.payer)
        ]
        assert names[0] == names[2] != names[1]

    play(story)


def test_without_an_answer_nothing_is_taken_for_another_node(
    play: Callable[[Story], None], tmp_path: Path
) -> None:
    """A node that is starting refuses the look-up: its mark stays what it is."""

    async def story(pair: Pair, nodes: list[FakeLnd]) -> None:
        node = await pair.payer.node_key()
        name = await marked(pair.payer, node, tmp_path)
        nodes[0].faults["/v2/invoices/lookup"] = GrpcError(14, "starting")
        with pytest.raises(LightningUnavailableError):
            await marked(pair.payer, node, tmp_path)
        nodes[0].faults.clear()
        assert await marked(pair.payer, node, tmp_path) == name

    play(story)


def test_lightningd_keeps_the_mark_too(tmp_path: Path) -> None:
    """By its own commands."""

    async def story() -> None:
        async with asyncio.timeout(20), cln_pair() as pair:
            node = await pair.payer.node_key()
            name = await marked(pair.payer, node, tmp_path)
            assert await marked(pair.payer, node, tmp_path) == name

    asyncio.run(story())
