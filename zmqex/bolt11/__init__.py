"""A strict BOLT 11 invoice codec: pure.

`decode` reads and verifies a text, `encode` writes and signs one.
"""

from __future__ import annotations

from zmqex.bolt11.decoding import decode
from zmqex.bolt11.encoding import encode
from zmqex.bolt11.invoice import (
    Draft,
    Fallback,
    Invoice,
    InvoiceNetwork,
    RouteHop,
    UnknownField,
    expires_at_ms,
)
from zmqex.bolt11.keys import is_secret_key, public_key
from zmqex.errors import InvalidInvoiceError

__all__ = [
    "Draft",
    "Fallback",
    "InvalidInvoiceError",
    "Invoice",
    "InvoiceNetwork",
    "RouteHop",
    "UnknownField",
    "decode",
    "encode",
    "expires_at_ms",
    "is_secret_key",
    "public_key",
]
