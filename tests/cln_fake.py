"""A fake lightningd with the plugin `hold`: the commands of two nodes with one channel.

Its replies have the names and codes of a real node's, which `tests/integration/test_cln.py`
compares with recordings.  The states are a model.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from zmqex.adapters.clock import wall_ms
from zmqex.bolt11 import Draft, InvoiceNetwork, decode, encode, expires_at_ms, public_key
from zmqex.limits import CLN_AUTO_CANCEL_BLOCKS

CHANNEL_MSAT = 500_000_000
HOLD_EXPIRY_S = 3_600  # the plugin's own terms
HOLD_CLTV = 80


class RpcError(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str) -> None:
        """As lightningd says it."""
        super().__init__(message)
        self.code, self.message = code, message


class FakeWorld:
    """What both nodes share."""

    def __init__(self) -> None:
        """A clock that can be moved on."""
        self.height = 100
        self.passed_ms = 0
        self.nodes: list[FakeCln] = []

    def now_ms(self) -> int:
        """The time of all."""
        return wall_ms() + self.passed_ms


class FakeCln:
    """One node."""

    def __init__(self, world: FakeWorld, name: str, *, plugin: bool = True) -> None:
        """Half of the channel is ours."""
        self.world = world
        self.secret = hashlib.sha256(name.encode()).digest()
        self.balance_msat = CHANNEL_MSAT
        self.plugin = plugin
        self.invoices: dict[str, dict[str, Any]] = {}
        self.preimages: dict[str, str] = {}
        self.held: dict[str, dict[str, Any]] = {}
        self.pays: dict[str, dict[str, Any]] = {}
        self.marks: dict[str, str] = {}
        self.faults: dict[str, Any] = {}
        self.warnings: dict[str, str] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.commands: dict[str, Callable[..., Any]] = {
            name.removeprefix("do_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("do_") and (plugin or "hold" not in name)
        }
        world.nodes.append(self)

    async def command(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Carry out a command."""
        self.calls.append((method, params))
        self.expire()
        if method not in self.commands:
            raise RpcError(-32601, f"Unknown command '{method}'")
        result = self.commands[method](**params)
        if asyncio.iscoroutine(result):
            result = await result
        answer: dict[str, Any] = result
        return answer

    def expire(self) -> None:
        """Invoices end by time, held payments by height."""
        for invoice in self.invoices.values():
            if invoice["status"] == "unpaid" and self.is_over(invoice["bolt11"]):
                invoice["status"] = "expired"
        for held in self.held.values():
            locks = [part["cltv_expiry"] for part in held["htlcs"]]
            late = self.world.height + CLN_AUTO_CANCEL_BLOCKS >= min(locks, default=10**9)
            if held["state"] == "accepted" and late:
                self.end_held(held)

    def is_over(self, text: str) -> bool:
        """Whether an invoice has expired."""
        return expires_at_ms(decode(text)) <= self.world.now_ms()

    def make(self, payment_hash: bytes, amount_msat: int, **terms: Any) -> str:  # noqa: ANN401
        """A signed invoice."""
        draft = Draft(
            network=InvoiceNetwork.REGTEST,
            timestamp_s=self.world.now_ms() // 1_000,
            payment_hash=payment_hash,
            payment_secret=secrets.token_bytes(32),
            amount_msat=amount_msat,
            **terms,
        )
        return encode(draft, self.secret)

    # --- commands of lightningd ------------------------------------------------------------------

    def do_getinfo(self) -> dict[str, Any]:
        """Who we are."""
        return {
            "id": public_key(self.secret).hex(),
            "blockheight": self.world.height,
            "network": "regtest",
            **self.warnings,
        }

    def do_listpeerchannels(self) -> dict[str, Any]:
        """The one channel."""
        flying = [one for one in self.pays.values() if one["status"] == "pending"]
        htlcs = [
            {
                "direction": "out",
                "amount_msat": one["amount_msat"],
                "payment_hash": one["payment_hash"],
                "expiry": one["expiry"],
                "state": "SENT_ADD_ACK_REVOCATION",
                "id": 0,
            }
            for one in flying
        ]
        channel = {"state": "CHANNELD_NORMAL", "spendable_msat": self.balance_msat, "htlcs": htlcs}
        return {"channels": [channel]}

    def do_invoice(
        self, *, amount_msat: int, label: str, description: str, preimage: str, **rest: int
    ) -> dict[str, Any]:
        """Make an invoice; labels and preimages are unique."""
        if label in self.invoices:
            raise RpcError(900, f"Duplicate label '{label}'")
        if preimage in self.preimages.values():
            raise RpcError(901, "preimage already used")
        payment_hash = hashlib.sha256(bytes.fromhex(preimage)).digest()
        text = self.make(
            payment_hash,
            amount_msat,
            description=description,
            expiry_s=rest["expiry"],
            min_final_cltv=rest["cltv"],
        )
        self.preimages[payment_hash.hex()] = preimage
        self.invoices[label] = {
            "label": label,
            "bolt11": text,
            "payment_hash": payment_hash.hex(),
            "amount_msat": amount_msat,
            "status": "unpaid",
            "description": description,
        }
        return {"payment_hash": payment_hash.hex(), "bolt11": text, "expires_at": 0}

    def do_listinvoices(self, *, payment_hash: str) -> dict[str, Any]:
        """By hash."""
        found = [one for one in self.invoices.values() if one["payment_hash"] == payment_hash]
        return {"invoices": found}

    def do_delinvoice(self, *, label: str, status: str) -> dict[str, Any]:
        """Forget an invoice, and its preimage with it."""
        if label not in self.invoices:
            raise RpcError(905, "Unknown invoice")
        invoice = self.invoices[label]
        if invoice["status"] != status:
            raise RpcError(906, f"Invoice status is {invoice['status']} not {status}")
        del self.preimages[invoice["payment_hash"]]
        return self.invoices.pop(label)

    def do_datastore(self, *, key: list[str], string: str, mode: str) -> dict[str, Any]:
        """Keep something."""
        assert mode in {"must-create", "create-or-replace"}
        if mode == "must-create" and "/".join(key) in self.marks:
            raise RpcError(1202, "already exists")
        self.marks["/".join(key)] = string
        return {"key": key, "string": string}

    def do_listdatastore(self, *, key: list[str]) -> dict[str, Any]:
        """Give it back."""
        string = self.marks.get("/".join(key))
        return {"datastore": [] if string is None else [{"key": key, "string": string}]}

    async def do_xpay(self, *, invstring: str, **limits: int) -> dict[str, Any]:
        """Pay; answers when it has ended."""
        assert limits.keys() == {"maxfee", "maxdelay", "retry_for"}
        wanted = decode(invstring)
        key = wanted.payment_hash.hex()
        known = self.pays.get(key)
        if known is not None and known["status"] == "complete":
            raise RpcError(219, "Already paid this invoice successfully")
        if known is not None and known["status"] == "pending":
            raise RpcError(-3, "Unexpected injectpaymentonion error 200: still in progress")
        if self.is_over(invstring):
            raise RpcError(207, "Invoice expired 1 seconds ago")
        payee = [one for one in self.world.nodes if public_key(one.secret) == wanted.payee]
        amount_msat = wanted.amount_msat or 0
        if not payee or amount_msat > self.balance_msat:
            raise RpcError(215, "Failed: We could not find a usable set of paths.")
        self.balance_msat -= amount_msat
        pay = self.pays[key] = {
            "payment_hash": key,
            "status": "pending",
            "created_at": self.world.now_ms() // 1_000,
            "amount_msat": amount_msat,
            "amount_sent_msat": amount_msat,
            "expiry": self.world.height + wanted.min_final_cltv,
        }
        payee[0].accept(self, key)
        for _ in iter(lambda: str(pay["status"]) == "pending", False):  # noqa: FBT003
            await asyncio.sleep(0.005)
        if pay["status"] == "failed":
            raise RpcError(203, "Destination said it doesn't know invoice")
        return {"payment_preimage": pay["preimage"], "amount_msat": amount_msat}

    def do_listpays(self, *, payment_hash: str) -> dict[str, Any]:
        """By hash."""
        found = self.pays.get(payment_hash)
        return {"pays": [] if found is None else [found]}

    # --- commands of the plugin ------------------------------------------------------------------

    def do_holdinvoice(self, *, payment_hash: str, amount: int) -> dict[str, Any]:
        """Make a held invoice, on the plugin's own terms."""
        if payment_hash in self.held:
            raise RpcError(-32700, "UNIQUE constraint failed: invoices.payment_hash")
        text = self.make(
            bytes.fromhex(payment_hash),
            amount,
            description="",
            expiry_s=HOLD_EXPIRY_S,
            min_final_cltv=HOLD_CLTV,
        )
        self.held[payment_hash] = {
            "payment_hash": payment_hash,
            "invoice": text,
            "state": "unpaid",
            "htlcs": [],
        }
        return {"bolt11": text}

    def do_listholdinvoices(self, *, payment_hash: str) -> dict[str, Any]:
        """By hash."""
        found = self.held.get(payment_hash)
        return {"holdinvoices": [] if found is None else [found]}

    def do_settleholdinvoice(self, *, preimage: str) -> dict[str, Any]:
        """Take what is held."""
        held = self.held[hashlib.sha256(bytes.fromhex(preimage)).hexdigest()]
        held["state"] = held["htlcs"][0]["state"] = "paid"
        self.take(held["payment_hash"], preimage, held["htlcs"][0]["msat"])
        return {}

    def do_cancelholdinvoice(self, *, payment_hash: str) -> dict[str, Any]:
        """Give back what is held."""
        held = self.held[payment_hash]
        if held["state"] == "paid":
            raise RpcError(-32700, "state paid is final")
        self.end_held(held)
        return {}

    # --- the model -------------------------------------------------------------------------------

    def accept(self, payer: FakeCln, key: str) -> None:
        """Take an HTLC: settle it, hold it, or give it back."""
        self.expire()
        pay = payer.pays[key]
        found = [one for one in self.invoices.values() if one["payment_hash"] == key]
        held = self.held.get(key)
        if found and found[0]["status"] == "unpaid":
            found[0]["status"] = "paid"
            found[0]["amount_received_msat"] = pay["amount_msat"]
            self.take(key, self.preimages[key], pay["amount_msat"])
        elif held is not None and held["state"] == "unpaid":
            held["state"] = "accepted"
            part = {"state": "accepted", "msat": pay["amount_msat"], "cltv_expiry": pay["expiry"]}
            held["htlcs"] = [part]
        else:
            payer.fail(pay)

    def take(self, key: str, preimage: str, amount_msat: int) -> None:
        """Money for a preimage."""
        self.balance_msat += amount_msat
        for other in self.world.nodes:
            if other is not self and key in other.pays:
                other.pays[key] |= {"status": "complete", "preimage": preimage}

    def end_held(self, held: dict[str, Any]) -> None:
        """Cancel, and fail what was held."""
        if held["state"] == "accepted":
            for other in self.world.nodes:
                if other is not self and held["payment_hash"] in other.pays:
                    other.fail(other.pays[held["payment_hash"]])
        held["state"] = "cancelled"
        for part in held["htlcs"]:
            part["state"] = "cancelled"

    def fail(self, pay: dict[str, Any]) -> None:
        """A payment of ours comes back."""
        pay["status"] = "failed"
        self.balance_msat += pay["amount_msat"]


@asynccontextmanager
async def serving(node: FakeCln, path: Path) -> AsyncGenerator[None, None]:
    """Serve a node on a Unix socket; a fault for a command loses the question or its answer."""
    running: set[asyncio.Task[Any]] = set()

    handlers: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        try:
            await answer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = json.loads(await reader.readuntil(b"\n\n"))
        fault = node.faults.get(question["method"])
        shown: dict[str, Any] = {"jsonrpc": "2.0", "id": question["id"]}
        try:
            if fault != "before":
                # As in lightningd, a command goes on when its caller has gone.
                work = asyncio.get_running_loop().create_task(
                    node.command(question["method"], question["params"])
                )
                running.add(work)
                shown["result"] = await work if fault is None or fault == "after" else {}
        except RpcError as error:
            shown["error"] = {"code": error.code, "message": error.message}
        if isinstance(fault, bytes):
            writer.write(fault)
        elif fault is None:
            writer.write(json.dumps(shown).encode() + b"\n\n")

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()
        for work in running:
            work.cancel()
        ended = (*running, *(one for one in handlers if one is not None))
        await asyncio.gather(*ended, return_exceptions=True)
