"""The documents against the code: messages, kinds, limits, reasons, diagrams, vectors, settings.

The document is read as a stranger would: tables by their headings, vectors by a MessagePack reader
that knows none of our types.  What it says and the code does not do fails here.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from inspect import get_annotations
from pathlib import Path
from typing import Any, get_args

import draw_states
import make_vectors
import msgpack
import msgspec
import nacl.signing
import pytest
from msgspec import inspect

from zmqex import limits
from zmqex.bolt11 import decode as decode_invoice
from zmqex.cli.main import _COMMANDS
from zmqex.config import _SETTINGS, _flag
from zmqex.kernel.core import Settings
from zmqex.kernel.kernel import Kernel
from zmqex.kernel.records import Snapshot
from zmqex.kernel.sessions import _PUBLISHED
from zmqex.market.instruments import Currencies
from zmqex.protocol import fields, messages, play_messages
from zmqex.protocol.codec import decode, decode_envelope, decode_frame, decode_trade_message, encode
from zmqex.protocol.identity import IdentityKey
from zmqex.protocol.log import Fold, Plan
from zmqex.protocol.messages import (
    AnyTradeMessage,
    Batch,
    Heartbeat,
    Message,
    Operation,
    Order,
    PeerRecord,
    TradeMessage,
    TradeSaid,
)
from zmqex.protocol.record import check_record
from zmqex.reasons import RejectReason

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "protocol.md").read_text()
VECTORS: dict[str, Any] = json.loads((ROOT / "tests/data/protocol_vectors.json").read_text())
KINDS = [
    one
    for one in {**vars(messages), **vars(play_messages)}.values()
    if isinstance(one, type) and issubclass(one, Message) and one not in {Message, TradeMessage}
]
SEALED = [
    VECTORS["record"],
    *VECTORS["batches"],
    VECTORS["heartbeat"],
    VECTORS["take"],
    VECTORS["accept"],
    VECTORS["trade_invoice"],
]


def section(title: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) (?:\d+\. )?{re.escape(title)}$", DOCUMENT, re.MULTILINE)
    assert found, f"no section {title!r}"
    rest = DOCUMENT[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(title: str) -> list[list[str]]:
    """The rows of the first table of a section, without its head; each a list of cells."""
    table = re.search(r"(?:^\|.*\n)+", section(title), re.MULTILINE)
    assert table, f"no table in {title!r}"
    lines = table[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


# --- messages -------------------------------------------------------------------------------------


def form(kind: type[Message]) -> list[str]:
    """The first three cells of a message's row: its name, its tag and its fields in order."""
    tag = kind.__struct_config__.tag
    named = inspect.type_info(kind)
    assert isinstance(named, inspect.StructType)
    written = source_types(kind)
    said = [f"`{one.name}` {word(written[one.name], one.type)}" for one in named.fields]
    return [f"`{kind.__name__}`", f"`{tag}`" if tag else "", ", ".join(said)]


def source_types(kind: type[Message]) -> dict[str, str]:
    """Each field's type as it stands in the source, inherited ones too."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        found.update(get_annotations(one))
    return found


def word(written: str, kind: inspect.Type) -> str:
    """A type in the words of the document: a name where it has one, else its form and bounds."""
    if isinstance(kind, inspect.UnionType) and "None" in written:
        (inner,) = (one for one in kind.types if not isinstance(one, inspect.NoneType))
        return word(written.removesuffix(" | None"), inner) + " or nil"
    if re.fullmatch(r"[A-Z]\w*", written) and not isinstance(kind, inspect.EnumType):
        return written
    match kind:
        case (
            inspect.ListType(min_length=least, max_length=most)
            | inspect.VarTupleType(min_length=least, max_length=most)
        ):
            (item,) = re.findall(r"(?:list|tuple)\[(\w+)", written)
            return f"{least or 0}..{most} {item}"
        case inspect.LiteralType(values=choice) | inspect.EnumType(cls=choice):
            return " or ".join(f"`{one!s}`" for one in choice)
        case inspect.StrType(max_length=most):
            return f"text 0..{most}"
        case inspect.BytesType(max_length=most):
            return f"bin 0..{most}"
        case inspect.IntType(ge=least, le=most):
            return f"int {least}..{most}"
        case _:
            return "any value"


def test_every_message_stands_in_the_document_as_in_the_code() -> None:
    """Names, tags, fields, their order, their types and bounds: all of them, and no others."""
    said = [
        cells[:3]
        for title in (
            "Frames and envelopes",
            "Peers",
            "Order logs",
            "Trades",
            "Play money",
        )
        for cells in rows(title)
    ]
    assert said == [form(kind) for kind in KINDS]


def test_the_unions_are_the_ones_of_the_code() -> None:
    """What an operation is, and what a trade message is."""
    for title, union in (("Order logs", Operation), ("Trades", AnyTradeMessage)):
        tagged = [cells[0].strip("`") for cells in rows(title) if cells[1]]
        assert tagged == [kind.__name__ for kind in get_args(union)]


def test_every_field_type_stands_in_the_document_with_its_bounds() -> None:
    """The MessagePack type and the bounds of each name."""
    said = {cells[0].strip("`"): cells[1] for cells in rows("Field types")}
    spelled = {}
    for name, kind in vars(fields).items():
        if re.fullmatch(r"[A-Z][a-z]\w*", name) and name not in {"Annotated", "Final", "Meta"}:
            spelled[name] = bounds(inspect.type_info(kind))
    assert said == spelled


def bounds(kind: inspect.Type) -> str:
    """A field type as the document spells it."""
    match kind:
        case inspect.BytesType(min_length=None, max_length=most):
            return f"bin of 0..{most} bytes"
        case inspect.BytesType(max_length=most):
            return f"bin of {most} bytes"
        case inspect.IntType(ge=least, le=most):
            return f"int {least}..{most}"
        case inspect.StrType(pattern=None, min_length=least, max_length=most):
            return f"text of {least or 0}..{most} characters"
        case inspect.StrType(pattern=pattern, max_length=most):
            end = "" if most is None else f", at most {most} characters"
            return f"text `{str(pattern).removesuffix(chr(92) + 'Z')}$`{end}"
        case _:
            return "?"


def test_the_request_kinds_are_the_ones_that_a_node_serves() -> None:
    """Each kind, and whether it is answered before the asker has greeted."""
    kernel = Kernel(Settings(), IdentityKey(bytes(32)), Currencies(), Snapshot())
    handlers = kernel.sessions._requests._handlers
    said = {cells[0].strip("`"): cells[3] == "anybody" for cells in rows("Request kinds")}
    assert said == {kind: strangers for kind, (_, strangers) in handlers.items()}


def test_the_bodies_of_the_requests_are_messages() -> None:
    """What goes and what comes back are names of the tables above."""
    names = {kind.__name__ for kind in KINDS}
    for cells in rows("Request kinds"):
        assert {cells[1].strip("`"), cells[2].strip("`")} <= names


# --- limits, reasons, states ----------------------------------------------------------------------


def test_the_limits_are_the_ones_of_the_code() -> None:
    """Every number of the limits' table is the constant of that name."""
    table = rows("Limits")
    assert len(table) > 30
    for name, value, *_ in table:
        number = int(value.replace(" ", ""))
        assert getattr(limits, name.strip("`")) == number, name


def test_the_published_limits_are_the_ones_that_limits_answers() -> None:
    """The words of the `limits` answer, in its order."""
    after = section("Limits").split("`limits` answers with these words and their values:")[1]
    assert re.findall(r"`(\w+)`", after) == [name for name, _ in _PUBLISHED]


def test_every_reject_reason_is_explained() -> None:
    """In the order of the code, which is the order of precedence."""
    assert [cells[0].strip("`") for cells in rows("Reject reasons")] == list(RejectReason)
    assert all(cells[1] for cells in rows("Reject reasons"))


def test_the_diagrams_are_drawn_from_the_tables() -> None:
    """The document holds what scripts/draw_states.py prints."""
    assert draw_states.diagrams() in DOCUMENT


# --- vectors: read without our own types ----------------------------------------------------------


def raw(text: str) -> bytes:
    """Bytes from their hex."""
    return bytes.fromhex(text)


def blake(body: bytes, person: bytes = b"") -> str:
    """BLAKE2b of 32 bytes, as hex."""
    return hashlib.blake2b(body, digest_size=32, person=person).hexdigest()


def unpacked(body: bytes) -> Any:  # noqa: ANN401 - a reader without types
    """The values in the bytes, bytes as hex."""
    return _hexed(msgpack.unpackb(body))


def _hexed(value: Any) -> Any:  # noqa: ANN401 - a reader without types
    if isinstance(value, bytes):
        return value.hex()
    return [_hexed(one) for one in value] if isinstance(value, list) else value


def flat(value: Any) -> Any:  # noqa: ANN401 - JSON
    """A vector's fields as the array that they are on the wire."""
    if isinstance(value, dict):
        return [flat(one) for one in value.values()]
    return [flat(one) for one in value] if isinstance(value, list) else value


def test_the_vectors_are_what_the_script_makes() -> None:
    """Running scripts/make_vectors.py changes nothing."""
    assert make_vectors.vectors() == VECTORS


@pytest.mark.parametrize("name", ["maker", "taker"])
def test_identities_follow_from_their_seeds(name: str) -> None:
    """Ed25519 (RFC 8032), and base32 (RFC 4648) without padding in lower case."""
    one = VECTORS["identities"][name]
    key = bytes(nacl.signing.SigningKey(raw(one["seed"])).verify_key)
    assert key.hex() == one["public_key"]
    assert base64.b32encode(key).decode().rstrip("=").lower() == one["text"]


def test_an_order_is_named_by_its_bytes() -> None:
    """Order id: BLAKE2b over network, zero, maker and order, personalised."""
    vector, maker = VECTORS["order"], VECTORS["identities"]["maker"]["public_key"]
    assert unpacked(raw(vector["encoded"])) == flat(vector["fields"])
    hashed = b"play\0" + raw(maker) + raw(vector["encoded"])
    assert blake(hashed, b"zmqex order") == vector["order_id"]
    assert encode(decode(raw(vector["encoded"]), Order)) == raw(vector["encoded"])


def test_a_trade_is_named_by_its_parties_and_take() -> None:
    """Trade id: BLAKE2b over network, zero, maker, taker and take id, personalised."""
    maker, taker = (VECTORS["identities"][one]["public_key"] for one in ("maker", "taker"))
    hashed = b"play\0" + raw(maker) + raw(taker) + raw(VECTORS["trade_id"]["take_id"])
    assert blake(hashed, b"zmqex trade") == VECTORS["trade_id"]["trade_id"]
    assert VECTORS["take"]["fields"]["trade_id"] == VECTORS["trade_id"]["trade_id"]


@pytest.mark.parametrize("vector", SEALED, ids=[one["kind"] for one in SEALED])
def test_an_envelope_holds_a_signed_body(vector: dict[str, Any]) -> None:
    """Body, context, signature and digests, by msgpack, libsodium and hashlib alone."""
    body, signature = msgpack.unpackb(raw(vector["envelope"]))
    assert (body.hex(), signature.hex()) == (vector["body"], vector["signature"])
    assert unpacked(body) == flat(vector["fields"])
    assert raw(vector["context"]) == f"zmqex/1/play/{vector['kind']}\0".encode()
    verify_key = nacl.signing.VerifyKey(raw(vector["signer"]))
    assert verify_key.verify(raw(vector["context"]) + body, signature)
    assert blake(body) == vector["digest_of_body"]
    assert blake(raw(vector["envelope"])) == vector["digest_of_envelope"]


@pytest.mark.parametrize("vector", SEALED, ids=[one["kind"] for one in SEALED])
def test_our_own_decoder_reads_the_same(vector: dict[str, Any]) -> None:
    """Field by field, and its bytes come out again."""
    body = decode_envelope(raw(vector["envelope"])).body
    known: dict[str, type[Message]] = {
        "record": PeerRecord,
        "batch": Batch,
        "heartbeat": Heartbeat,
    }
    message: Message = (
        decode(body, known[vector["kind"]])
        if vector["kind"] in known
        else decode_trade_message(body)
    )
    assert make_vectors._plain(message) == vector["fields"]
    assert encode(message) == body


def test_a_record_is_believed_in_its_time() -> None:
    """By the rules of the section about records."""
    record = check_record(raw(VECTORS["record"]["envelope"]), "play", make_vectors.AT_MS)
    assert isinstance(record, PeerRecord)


def test_the_batches_make_one_log() -> None:
    """They chain, fold to the roots beside them, and the heartbeat says where they end."""
    maker = raw(VECTORS["identities"]["maker"]["public_key"])
    fold = Fold("play", maker, VECTORS["market"])
    fold.begin(VECTORS["batches"][0]["fields"]["epoch"])
    previous = "00" * 32
    for vector in VECTORS["batches"]:
        assert vector["fields"]["previous_hash"] == previous
        previous = vector["digest_of_body"]
        plan = fold.check(decode(raw(vector["body"]), Batch), raw(previous))
        assert isinstance(plan, Plan)
        fold.apply(plan)
        assert fold.root().hex() == vector["book_root"]
    (head,) = VECTORS["heartbeat"]["fields"]["heads"]
    assert (head["head_hash"], head["book_root"]) == (previous, fold.root().hex())
    assert (head["sequence"], head["open_orders"]) == (2, 1)


def test_the_last_root_is_one_row_in_its_bucket() -> None:
    """256 bucket digests, one of them over id, remaining and held: by hashlib alone."""
    one = raw(VECTORS["order"]["order_id"])
    assert VECTORS["batches"][1]["fields"]["operations"][0]["order_id"] == one.hex()
    row = one + (60_000_000).to_bytes(8, "big") + (0).to_bytes(8, "big")
    buckets = [blake(row if one[0] == bucket else b"", b"zmqex bucket") for bucket in range(256)]
    assert blake(raw("".join(buckets)), b"zmqex root") == VECTORS["batches"][1]["book_root"]


def test_a_snapshot_is_a_heartbeat_its_buckets_and_their_rows() -> None:
    """Of all 256 digests one is not that of an empty bucket; its only row makes it: by hashlib."""
    frames = {name: unpacked(raw(text)) for name, text in VECTORS["snapshot"].items()}
    maker, market = VECTORS["identities"]["maker"]["public_key"], VECTORS["market"]
    head = VECTORS["heartbeat"]["fields"]["heads"][0]
    order, order_id = VECTORS["order"]["encoded"], VECTORS["order"]["order_id"]
    question = [maker, market, head["epoch"], head["sequence"]]
    assert frames["snapshot_asked"] == [1, "snapshot", 3, question]
    version, kind, request_id, (heartbeat, digests) = frames["snapshot"]
    assert (version, kind, request_id) == (1, "snapshot", 3)
    assert heartbeat == VECTORS["heartbeat"]["envelope"]
    assert blake(raw(digests), b"zmqex root") == head["book_root"]
    empty = blake(b"", b"zmqex bucket")
    differ = [n for n in range(256) if digests[64 * n : 64 * n + 64] != empty]
    assert differ == [raw(order_id)[0]]
    wanted = bytes(differ).hex()
    assert frames["rows_asked"] == [1, "rows", 4, [maker, market, head["head_hash"], wanted, ""]]
    assert frames["rows"] == [1, "rows", 4, [1, [[order, 60_000_000, 0]]]]
    row = raw(order_id) + (60_000_000).to_bytes(8, "big") + (0).to_bytes(8, "big")
    assert digests[64 * differ[0] :][:64] == blake(row, b"zmqex bucket")


def test_the_topic_is_the_hash_of_the_market() -> None:
    """`o` and BLAKE2b of 8 bytes."""
    hashed = hashlib.blake2b(VECTORS["market"].encode(), digest_size=8).digest()
    assert raw(VECTORS["topic"]) == b"o" + hashed


def test_the_accept_answers_the_take() -> None:
    """It carries the digest of the take's envelope, and amounts that follow from its quantity."""
    accept, take = VECTORS["accept"]["fields"], VECTORS["take"]
    assert accept["take_digest"] == accept["previous"] == take["digest_of_envelope"]
    assert accept["base_msat"] == accept["quantity_lots"] * 1_000
    assert accept["quote_units"] == accept["quantity_lots"] * take["fields"]["price_ticks"] // 10**8


def test_the_trade_invoice_is_for_the_take() -> None:
    """A real invoice: its hash, amount and payee are the signed ones."""
    said = VECTORS["trade_invoice"]["fields"]
    invoice = decode_invoice(said["invoice"])
    assert invoice.payment_hash.hex() == VECTORS["take"]["fields"]["payment_hash"]
    assert invoice.amount_msat == VECTORS["accept"]["fields"]["base_msat"]
    assert invoice.payee.hex() == said["lightning_node"]


def test_the_frames_hold_their_bodies() -> None:
    """Version, kind, request id, body."""
    frames = VECTORS["frames"]
    assert unpacked(raw(frames["ping"])) == [1, "ping", 1, []]
    assert unpacked(raw(frames["pong"])) == [1, "ping", 1, [make_vectors.AT_MS]]
    assert unpacked(raw(frames["take"])) == [1, "take", 2, [VECTORS["take"]["envelope"]]]
    assert unpacked(raw(frames["reject"])) == [1, "reject", 2, ["held", 1_000, ""]]
    frame = decode_frame(raw(frames["take"]))
    assert decode(frame.body, TradeSaid).envelope.hex() == VECTORS["take"]["envelope"]


def test_the_document_quotes_the_vectors_truly() -> None:
    """Every long hex number in its text stands in the vectors."""
    quoted = set(re.findall(r"\b[0-9a-f]{32,}\b", DOCUMENT))
    assert quoted
    held = json.dumps(VECTORS)
    assert all(one in held for one in quoted)


def test_the_vectors_file_is_plain_json() -> None:
    """Readable by any language: no numbers beyond 2^53, no bytes but hex."""
    text = (ROOT / "tests/data/protocol_vectors.json").read_text()
    numbers = [int(one) for one in re.findall(r"(?<![\w\"])\d+(?![\w\"])", text)]
    assert max(numbers) <= 2**53
    assert msgspec.json.decode(text) == VECTORS


# --- the other documents --------------------------------------------------------------------------


def test_every_test_that_the_threat_model_names_exists() -> None:
    """A defence is claimed only where a test tries the attack."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/threat-model.md").read_text()))
    written = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert named
    assert named <= written, named - written


def test_the_settings_are_the_ones_of_the_code() -> None:
    """The table of docs/operating.md: each name, in its three spellings, in the code's order."""
    lines = (ROOT / "docs/operating.md").read_text().split("| in TOML |")[1].splitlines()[2:]
    table = [line.split("|")[1:4] for line in itertools.takewhile(bool, lines)]
    said = [tuple(cell.strip().strip("`") for cell in cells) for cells in table]
    assert said == [(name, "ZMQEX_" + name.upper(), _flag(name)) for name in _SETTINGS]


def test_the_readme_names_every_command() -> None:
    """No command is missing from its table, and none stands there that does not exist."""
    table = (ROOT / "README.md").read_text().split("## Commands")[1].split("Exit codes")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    said = {one.split()[0] for cell in first for one in re.findall(r"`([a-z]+)[^`]*`", cell)}
    words = {"show", "cancel", "pay", "send", "sent", "received", "release"}
    assert said - words == set(_COMMANDS) - {"version"}
