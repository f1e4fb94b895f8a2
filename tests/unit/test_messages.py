"""The messages themselves: frozen, positional, tagged where a union needs it, and bounded."""

from __future__ import annotations

from typing import Any, get_args

import msgpack
import pytest

from zmqex.errors import RemoteProtocolError
from zmqex.limits import (
    BATCH_OPERATIONS_MAX,
    FRAME_BYTES_MAX,
    HEADS_MAX,
    LOG_PAGE_BATCHES_MAX,
    PEERS_PAGE_MAX,
)
from zmqex.protocol import messages
from zmqex.protocol.codec import decode, encode
from zmqex.protocol.messages import (
    Accept,
    AnyTradeMessage,
    Batch,
    BookLevels,
    Close,
    Fill,
    Greet,
    Head,
    Heads,
    Heartbeat,
    Level,
    Limit,
    Limits,
    LogPage,
    Match,
    Matches,
    Message,
    Operation,
    Order,
    Page,
    PeerRecord,
    Peers,
    Place,
    Pong,
    QuoteSent,
    Take,
    ToldPeer,
    TradeInvoice,
    Update,
)
from zmqex.protocol.play_messages import PlayPaid

ID = b"i" * 32
ORDER: dict[str, Any] = {
    "market": "BTC/USD",
    "side": "buy",
    "price_ticks": 1,
    "quantity_lots": 1,
    "minimum_lots": 1,
    "time_in_force": "gtc",
    "flags": 0,
    "expires_at_ms": 1,
    "settlements": ("plain",),
    "payment_methods": (),
    "nonce": bytes(16),
}
HEAD = Head("BTC/USD", 1, 1, ID, 0, ID)
TAKE: dict[str, Any] = {
    "trade_id": ID,
    "previous": ID,
    "sent_at_ms": 0,
    "take_id": ID,
    "maker": ID,
    "taker": ID,
    "order_id": ID,
    "quantity_lots": 1,
    "price_ticks": 1,
    "settlement": "plain",
    "payment_hash": None,
}
ACCEPT: dict[str, Any] = {
    "trade_id": ID,
    "previous": ID,
    "sent_at_ms": 0,
    "take_digest": ID,
    "quantity_lots": 1,
    "base_msat": 1,
    "quote_units": 1,
    "invoice": None,
    "payment_hash": None,
    "pay_instructions": "",
    "hold_ttl_ms": 0,
    "hold_expires_at_ms": 0,
    "fence": 1,
    "lightning_node": bytes(33),
}
RECORD: dict[str, Any] = {
    "network": "play",
    "identity": ID,
    "hello": None,
    "rpc": None,
    "orders": None,
    "curve_key": ID,
    "lightning_node": bytes(33),
    "capabilities": [],
    "not_before_ms": 0,
    "not_after_ms": 0,
    "sequence": 0,
}


def is_decoded(message: Message) -> bool:
    """Whether a peer's decoder takes what our encoder wrote without looking at bounds."""
    try:
        return decode(encode(message), type(message)) == message
    except RemoteProtocolError:
        return False


def batch(operations: int) -> Batch:
    """A batch of so many operations."""
    return Batch(ID, "BTC/USD", 1, 1, ID, 0, [Close(ID, "filled")] * operations)


PAID: dict[str, Any] = {"state": "settled", "preimage": ID, "reason": "settled"}
TOLD = ToldPeer(b"", "")

AT_THE_BOUND: list[tuple[Message, Message]] = [
    (batch(1), batch(0)),
    (batch(BATCH_OPERATIONS_MAX), batch(BATCH_OPERATIONS_MAX + 1)),
    (Peers([TOLD] * PEERS_PAGE_MAX), Peers([TOLD] * (PEERS_PAGE_MAX + 1))),
    (Heads([b""] * PEERS_PAGE_MAX), Heads([b""] * (PEERS_PAGE_MAX + 1))),
    (LogPage([b""] * LOG_PAGE_BATCHES_MAX, 0), LogPage([b""] * (LOG_PAGE_BATCHES_MAX + 1), 0)),
    (Heartbeat(ID, 0, [HEAD] * HEADS_MAX), Heartbeat(ID, 0, [HEAD] * (HEADS_MAX + 1))),
    (Limits([Limit("a", 1)] * 64), Limits([Limit("a", 1)] * 65)),
    (Matches([Match(ID, ID, 1, 1)] * 100), Matches([Match(ID, ID, 1, 1)] * 101)),
    (BookLevels([Level(1, 1, 1)] * 1_000, []), BookLevels([Level(1, 1, 1)] * 1_001, [])),
    (BookLevels([], [Level(1, 1, 1)] * 1_000), BookLevels([], [Level(1, 1, 1)] * 1_001)),
    (Page(bytes(32)), Page(bytes(33))),
    (Place(bytes(2_048)), Place(bytes(2_049))),
    (Greet(bytes(100), 0), Greet(bytes(100), -1)),
    (Order(**ORDER), Order(**{**ORDER, "side": "Buy"})),
    (Order(**{**ORDER, "side": "sell"}), Order(**{**ORDER, "side": "sell\n"})),
    (Order(**{**ORDER, "time_in_force": "gtd"}), Order(**{**ORDER, "time_in_force": "ioc"})),
    (Order(**ORDER), Order(**{**ORDER, "price_ticks": 0})),
    (Order(**ORDER), Order(**{**ORDER, "quantity_lots": 0})),
    (Order(**ORDER), Order(**{**ORDER, "minimum_lots": 0})),
    (Order(**ORDER), Order(**{**ORDER, "settlements": ()})),
    (
        Order(**{**ORDER, "settlements": ("plain",) * 4}),
        Order(**{**ORDER, "settlements": ("plain",) * 5}),
    ),
    (
        Order(**{**ORDER, "payment_methods": ("x",) * 8}),
        Order(**{**ORDER, "payment_methods": ("x",) * 9}),
    ),
    (Take(**TAKE), Take(**{**TAKE, "quantity_lots": 0})),
    (Take(**{**TAKE, "payment_hash": ID}), Take(**{**TAKE, "payment_hash": b""})),
    (Accept(**ACCEPT), Accept(**{**ACCEPT, "base_msat": 0})),
    (Accept(**ACCEPT), Accept(**{**ACCEPT, "quote_units": 0})),
    (Accept(**ACCEPT), Accept(**{**ACCEPT, "fence": 0})),
    (
        Accept(**{**ACCEPT, "invoice": "l" * 2_000}),
        Accept(**{**ACCEPT, "invoice": "l" * 2_001}),
    ),
    (
        TradeInvoice(ID, ID, 0, "l" * 2_000, bytes(33)),
        TradeInvoice(ID, ID, 0, "l" * 2_001, bytes(33)),
    ),
    (QuoteSent(ID, ID, 0, "r" * 200), QuoteSent(ID, ID, 0, "r" * 201)),
    (PeerRecord(**RECORD), PeerRecord(**{**RECORD, "identity": ID[1:]})),
    (
        PeerRecord(**{**RECORD, "capabilities": ["plain"] * 16}),
        PeerRecord(**{**RECORD, "capabilities": ["plain"] * 17}),
    ),
    (PlayPaid(**PAID), PlayPaid(**{**PAID, "state": "paid"})),
    (PlayPaid(**{**PAID, "state": "refused"}), PlayPaid(**{**PAID, "state": "refused\n"})),
]


@pytest.mark.parametrize(
    ("inside", "outside"), AT_THE_BOUND, ids=lambda message: type(message).__name__
)
def test_what_lies_beyond_a_bound_is_refused(inside: Message, outside: Message) -> None:
    """The decoder takes what lies on the bound and refuses what is one step beyond it."""
    assert is_decoded(inside)
    assert not is_decoded(outside)


def test_a_full_batch_and_a_full_heartbeat_fit_their_frame() -> None:
    """Their bounds are such that an honest node never builds what nobody would take."""
    raw = [len(encode(Heartbeat(ID, 2**53, [HEAD] * HEADS_MAX)))]
    longest = Fill(ID, 2**63 - 1, 2**63 - 1, 2**53)
    raw.append(len(encode(Batch(ID, "BTC/USD", 1, 1, ID, 0, [longest] * BATCH_OPERATIONS_MAX))))
    # The envelope adds a signature and a few bytes of form.
    assert max(raw) + 100 <= FRAME_BYTES_MAX


def test_a_message_cannot_be_changed() -> None:
    """What was checked stays what it was."""
    pong = Pong(1)
    with pytest.raises(AttributeError):
        pong.wall_ms = 2  # type: ignore[misc]
    assert pong == Pong(1)


def test_every_message_is_positional_and_closed() -> None:
    """No message has named fields on the wire, defaults, or room for unknown ones."""
    kinds = [
        one for one in vars(messages).values() if isinstance(one, type) and issubclass(one, Message)
    ]
    assert len(kinds) > 40
    for kind in kinds:
        config = kind.__struct_config__
        assert config.frozen, kind
        assert config.array_like, kind
        assert config.forbid_unknown_fields, kind
        assert not kind.__struct_defaults__, kind


@pytest.mark.parametrize("union", [Operation, AnyTradeMessage], ids=["operation", "trade"])
def test_the_tags_of_a_union_differ(union: object) -> None:
    """And each is the first element on the wire."""
    kinds = get_args(union)
    tags = [kind.__struct_config__.tag for kind in kinds]
    assert len(set(tags)) == len(tags)
    assert all(isinstance(tag, str) and tag for tag in tags)


def test_the_tag_comes_first() -> None:
    """An update says that it is one before it says of what."""
    assert msgpack.unpackb(encode(Update(ID, 5, 2))) == ["update", ID, 5, 2]
