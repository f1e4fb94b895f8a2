"""`zmqex invoice`: read BOLT 11 invoices without a node."""

from __future__ import annotations

from typing import Any

import msgspec

from zmqex.bolt11 import decode, expires_at_ms
from zmqex.cli import tables
from zmqex.cli.context import Json, new_app, show_json

app = new_app("Read Lightning invoices.")


@app.callback()
def _group() -> None:
    """Read Lightning invoices."""


@app.command("decode")
def decode_invoice(text: str, *, as_json: Json = False) -> None:
    """Decode and verify a BOLT 11 invoice; needs no node."""
    invoice = decode(text.strip().removeprefix("lightning:"))
    facts: dict[str, Any] = {
        "network": invoice.network.value,
        "amount_msat": invoice.amount_msat,
        "payment_hash": invoice.payment_hash.hex(),
        "payee": invoice.payee.hex(),
        "description": invoice.description,
        "description_hash": invoice.description_hash.hex() if invoice.description_hash else None,
        "timestamp_s": invoice.timestamp_s,
        "expiry_s": invoice.expiry_s,
        "expires_at_ms": expires_at_ms(invoice),
        "min_final_cltv": invoice.min_final_cltv,
        "features": invoice.features,
        "payment_secret": invoice.payment_secret.hex(),
        "route_hints": [
            [{**msgspec.to_builtins(hop), "node_id": hop.node_id.hex()} for hop in route]
            for route in invoice.route_hints
        ],
        "fallbacks": [[one.version, one.program.hex()] for one in invoice.fallbacks],
        "signature": invoice.signature.hex(),
    }
    if as_json:
        show_json(facts)
        return
    for name, value in facts.items():
        if value not in (None, []):
            tables.console().print(f"{name + ':':<18} {tables.plain(value)}", soft_wrap=True)
    tables.console().print(f"{'expires:':<18} {tables.when(facts['expires_at_ms'])}")
