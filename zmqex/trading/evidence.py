"""Evidence of a trade: what its two parties signed, read by somebody who trusts neither of them.

A file of it stands for itself: signatures, digests and the two public keys are all that the check
needs.  What was signed is read as plain MessagePack by position, with no schema of this program,
so the check is also a second reading of docs/protocol.md.  The seal of whoever wrote the file
covers every byte that matters; the messages' own signatures and their chain hold against the one
who wrote it.  What the signed words mean is said in `statements`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgpack
import msgspec

from zmqex.errors import EvidenceError
from zmqex.protocol.identity import ZERO_DIGEST, digest, from_text, order_id, trade_id, verify
from zmqex.protocol.messages import Envelope
from zmqex.trading.settlement import HTLC

FORMAT: Final = "zmqex evidence 1"
SEAL_KIND: Final = "evidence"
SEAL_FIELDS: Final = (
    "trade_id",
    "maker",
    "taker",
    "sealed_at_ms",
    "state",
    "order_digest",
    "batch_digest",
    "preimage",
    "message_digests",
)
_NETWORK: Final = re.compile(r"[a-z0-9]{1,16}")
_HEAD: Final = ("trade_id", "previous", "sent_at_ms")
# What each signed message says, by position after its tag (docs/protocol.md, section 7).
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "take": (
        *_HEAD,
        "take_id",
        "maker",
        "taker",
        "order_id",
        "quantity_lots",
        "price_ticks",
        "settlement",
        "payment_hash",
    ),
    "accept": (
        *_HEAD,
        "take_digest",
        "quantity_lots",
        "base_msat",
        "quote_units",
        "invoice",
        "payment_hash",
        "pay_instructions",
        "hold_ttl_ms",
        "hold_expires_at_ms",
        "fence",
        "lightning_node",
    ),
    "quote_sent": (*_HEAD, "reference"),
    "quote_confirmed": _HEAD,
    "trade_released": (*_HEAD, "payment_preimage"),
    "trade_invoice": (*_HEAD, "invoice", "lightning_node"),
    "trade_rollover": (*_HEAD, "attempt", "invoice", "lightning_node"),
    "invoice_failed": (*_HEAD, "payment_hash", "reason"),
    "trade_cancel": (*_HEAD, "take_id", "taker", "reason"),
    "trade_cancelled": (*_HEAD, "reason"),
    "trade_settled": _HEAD,
}
_ORDER: Final = ("market", "side", "price_ticks")
_ORDER_FIELDS: Final = 11
_INTEGERS: Final = ("_ms", "_lots", "_msat", "_ticks", "_units", "fence", "attempt")
_TEXTS: Final = frozenset(
    {
        "invoice",
        "market",
        "pay_instructions",
        "reason",
        "reference",
        "settlement",
        "side",
        "state",
    }
)
_OPTIONAL: Final = frozenset({"batch_digest", "invoice", "payment_hash", "preimage"})


class EvidenceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file: JSON; everything signed is in hex, verbatim."""

    format: str
    network: str
    maker: str
    taker: str
    order: str
    batch: str | None
    messages: list[str]
    preimage: str | None
    seal: str


class Said(msgspec.Struct, frozen=True):
    """One message whose signature holds; `fields` by the names of docs/protocol.md."""

    kind: str
    by: bytes
    fields: dict[str, Any]


class Evidence(msgspec.Struct, frozen=True):
    """A file that holds together: the order's terms, and what was said in order of the file."""

    network: str
    maker: bytes
    taker: bytes
    sealed_by: bytes
    trade_id: bytes
    sealed_at_ms: int
    state: str
    market: str
    side: str
    published: bool  # the maker's signed batch with this order is in the file
    preimage: bytes | None
    said: tuple[Said, ...]

    def first(self, kind: str) -> Said | None:
        """The first message of a kind."""
        return next((one for one in self.said if one.kind == kind), None)

    @property
    def buyer(self) -> bytes:
        """Who buys the base: sends the quote, issues the invoice."""
        return self.maker if self.side == "buy" else self.taker

    @property
    def seller(self) -> bytes:
        """Who sells the base: pays the invoice, gets the quote."""
        return self.taker if self.side == "buy" else self.maker


def seal_body(fields: Mapping[str, Any]) -> bytes:
    """What the seal signs: the values of SEAL_FIELDS in order, as MessagePack."""
    return msgspec.msgpack.encode([fields[name] for name in SEAL_FIELDS])


def read_evidence(raw: bytes) -> Evidence:
    """Check a file from its seal inwards; EvidenceError names the first thing that is wrong."""
    try:
        file = msgspec.json.decode(raw, type=EvidenceFile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise EvidenceError(f"this is not a file of `zmqex trade evidence`: {error}") from error
    if file.format != FORMAT:
        raise EvidenceError(f"the format is {file.format[:40]!a}; this program reads {FORMAT!r}")
    if _NETWORK.fullmatch(file.network) is None:
        raise EvidenceError(f"{file.network[:40]!a} is no network")
    return _Reading(file).evidence()


class _Reading:
    """One file while it is read."""

    def __init__(self, file: EvidenceFile) -> None:
        self._network = file.network
        self._maker = _identity(file.maker, "the maker")
        self._taker = _identity(file.taker, "the taker")
        self._order = _hex(file.order, "the order")
        self._batch = None if file.batch is None else _hex(file.batch, "the batch")
        self._preimage = None if file.preimage is None else _hex(file.preimage, "the preimage")
        self._raw = [
            _hex(text, f"message {number}") for number, text in enumerate(file.messages, 1)
        ]
        self._seal = _hex(file.seal, "the seal")

    def evidence(self) -> Evidence:
        sealed_by, seal = self._check_seal()
        market, side, price_ticks = self._check_order()
        said = [self._message(number, raw) for number, raw in enumerate(self._raw, 1)]
        self._check_chain(said)
        self._check_parties(said, side)
        self._check_take(said, seal["trade_id"], price_ticks)
        return Evidence(
            network=self._network,
            maker=self._maker,
            taker=self._taker,
            sealed_by=sealed_by,
            trade_id=seal["trade_id"],
            sealed_at_ms=seal["sealed_at_ms"],
            state=seal["state"],
            market=market,
            side=side,
            published=self._batch is not None,
            preimage=self._preimage,
            said=tuple(said),
        )

    # --- the seal: every byte of the file --------------------------------------------------------

    def _check_seal(self) -> tuple[bytes, dict[str, Any]]:
        envelope = _envelope(self._seal, "the seal")
        by = self._signer(SEAL_KIND, envelope)
        if by is None:
            raise EvidenceError("the seal: neither the maker nor the taker has signed it")
        seal = _fields(envelope.body, SEAL_FIELDS, "the seal")
        claims = (
            (seal["maker"] == self._maker, "the maker"),
            (seal["taker"] == self._taker, "the taker"),
            (seal["order_digest"] == digest(self._order), "the order"),
            (seal["batch_digest"] == _digest_or_none(self._batch), "the batch"),
            (seal["preimage"] == self._preimage, "the preimage"),
        )
        for holds, what in claims:
            if not holds:
                raise EvidenceError(f"{what} is not the one that was sealed: it has been changed")
        self._check_list(seal["message_digests"])
        return by, seal

    def _check_list(self, sealed: list[Any]) -> None:
        """The messages are those that were sealed, each once, in that order."""
        found = [digest(raw) for raw in self._raw]
        for number, one in enumerate(found, 1):
            first = found.index(one) + 1
            if first != number:
                raise EvidenceError(f"message {number} stands here twice: it repeats {first}")
            if one not in sealed:
                raise EvidenceError(f"message {number} has been changed, or was added")
        for number, one in enumerate(sealed, 1):
            if one not in found:
                raise EvidenceError(f"message {number} of {len(sealed)} has been removed")
            first = sealed.index(one) + 1
            if first != number:
                raise EvidenceError(f"the seal: it lists message {first} twice")
        for number, one in enumerate(found, 1):
            belongs = sealed.index(one) + 1
            if belongs != number:
                raise EvidenceError(f"message {number} is out of order: it belongs at {belongs}")

    # --- the order -------------------------------------------------------------------------------

    def _check_order(self) -> tuple[str, str, int]:
        values = _unpack(self._order, "the order")
        if not isinstance(values, list) or len(values) != _ORDER_FIELDS:
            raise EvidenceError("the order has not the form of an order")
        terms = _named(values[: len(_ORDER)], _ORDER, "the order")
        if self._batch is not None:
            envelope = _envelope(self._batch, "the batch")
            if not verify(self._maker, self._network, "batch", envelope):
                raise EvidenceError("the batch is not signed by the maker")
            body = _unpack(envelope.body, "the batch")
            operations = body[-1] if isinstance(body, list) and body else None
            if not isinstance(operations, list) or ["place", self._order] not in operations:
                raise EvidenceError("the batch does not place this order")
        return terms["market"], terms["side"], terms["price_ticks"]

    # --- the messages ----------------------------------------------------------------------------

    def _message(self, number: int, raw: bytes) -> Said:
        where = f"message {number}"
        envelope = _envelope(raw, where)
        body = _unpack(envelope.body, where)
        kind = body[0] if isinstance(body, list) and body else None
        if not isinstance(kind, str) or kind not in FIELDS:
            raise EvidenceError(f"{where} is of no kind that is known here")
        where = f"message {number} ({kind})"
        by = self._signer(kind, envelope)
        if by is None:
            raise EvidenceError(f"{where}: neither the maker nor the taker has signed it")
        return Said(kind, by, _named(body[1:], FIELDS[kind], where))

    def _check_chain(self, said: list[Said]) -> None:
        """Each message builds on one before it; the first is a take, which builds on none."""
        before = {ZERO_DIGEST}
        # Whoever never got the accept cannot have what the maker built on it.
        accepted = any(one.kind == "accept" for one in said)
        for number, (raw, one) in enumerate(zip(self._raw, said, strict=True), 1):
            where = f"message {number} ({one.kind})"
            if (number == 1) != (one.kind == "take"):
                raise EvidenceError(f"{where}: a trade begins with its one take")
            known = one.fields["previous"] in before or (
                one.by == self._maker and one.kind == "trade_cancelled" and not accepted
            )
            if not known:
                raise EvidenceError(
                    f"{where} builds on a message that does not stand before it: one has been "
                    "removed or moved"
                )
            before = {*before, digest(raw)} - {ZERO_DIGEST}

    def _check_parties(self, said: list[Said], side: str) -> None:
        buyer, seller = self._maker, self._taker
        if side != "buy":
            buyer, seller = seller, buyer
        by_lock = bool(said) and said[0].fields.get("settlement") == HTLC
        speakers = {
            "take": self._taker,
            "accept": self._maker,
            "quote_sent": buyer,
            "quote_confirmed": seller,
            "trade_released": seller,
            "trade_invoice": self._taker,
            "trade_rollover": buyer,
            "invoice_failed": seller if by_lock else self._maker,
            "trade_cancel": self._taker,
            "trade_cancelled": self._maker,
        }
        for number, one in enumerate(said, 1):
            if one.by != speakers.get(one.kind, one.by):
                raise EvidenceError(f"message {number} ({one.kind}) is not this party's to say")

    def _check_take(self, said: list[Said], sealed_id: bytes, price_ticks: int) -> None:
        if not said:
            raise EvidenceError("there is no message in this file")
        take = said[0].fields
        expected = trade_id(self._network, self._maker, self._taker, take["take_id"])
        for number, one in enumerate(said, 1):
            if one.fields["trade_id"] != expected:
                raise EvidenceError(f"message {number} ({one.kind}) is of another trade")
        claims = (
            (sealed_id == expected, "the seal is of another trade"),
            (
                (take["maker"], take["taker"]) == (self._maker, self._taker),
                "message 1 (take) names other parties",
            ),
            (
                take["order_id"] == order_id(self._network, self._maker, self._order),
                "message 1 (take) is of another order",
            ),
            (take["price_ticks"] == price_ticks, "message 1 (take) has not the order's price"),
        )
        for holds, what in claims:
            if not holds:
                raise EvidenceError(what)
        for number, one in enumerate(said, 1):
            if one.kind == "accept" and (
                one.fields["take_digest"] != digest(self._raw[0])
                or one.fields["quantity_lots"] > take["quantity_lots"]
            ):
                raise EvidenceError(f"message {number} (accept) answers another take")

    def _signer(self, kind: str, envelope: Envelope) -> bytes | None:
        parties = (self._maker, self._taker)
        return next((one for one in parties if verify(one, self._network, kind, envelope)), None)


# --- plain MessagePack ---------------------------------------------------------------------------


def _unpack(raw: bytes, what: str) -> Any:  # noqa: ANN401 - read without a schema
    try:
        return msgpack.unpackb(raw)
    except ValueError as error:
        raise EvidenceError(f"{what} cannot be read as MessagePack") from error


def _envelope(raw: bytes, what: str) -> Envelope:
    parts = _unpack(raw, what)
    if not isinstance(parts, list) or [type(part) for part in parts] != [bytes, bytes]:
        raise EvidenceError(f"{what} is not a body and a signature")
    return Envelope(*parts)


def _fields(body: bytes, names: tuple[str, ...], what: str) -> dict[str, Any]:
    return _named(_unpack(body, what), names, what)


def _named(values: Any, names: tuple[str, ...], what: str) -> dict[str, Any]:  # noqa: ANN401 - as above
    if not isinstance(values, list) or len(values) != len(names):
        raise EvidenceError(f"{what} has not the {len(names)} fields of its kind")
    named = dict(zip(names, values, strict=True))
    for name, value in named.items():
        # To the very type: MessagePack's true is no number of lots.
        if type(value) is not _type_of(name) and not (value is None and name in _OPTIONAL):
            raise EvidenceError(f"{what}: its {name} is not of the right type")
    return named


def _type_of(name: str) -> type:
    if name.endswith(_INTEGERS):
        return int
    if name in _TEXTS:
        return str
    return list if name == "message_digests" else bytes


def _hex(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise EvidenceError(f"{what} is not written in hex") from error


def _identity(text: str, what: str) -> bytes:
    try:
        return from_text(text)
    except ValueError as error:
        raise EvidenceError(f"{what}: {error}") from error


def _digest_or_none(raw: bytes | None) -> bytes | None:
    return None if raw is None else digest(raw)
