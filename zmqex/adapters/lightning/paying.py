"""What every backend checks of an invoice before it pays, whatever its own node would say.

The trade's terms are checked before, by `zmqex.trading.settlement`; this is for what a backend may
never do: pay on another chain, pay an amount that nobody named, or lock money for too long.
"""

from __future__ import annotations

from zmqex.bolt11 import Invoice, decode, expires_at_ms
from zmqex.errors import InvalidInvoiceError, RejectedError
from zmqex.reasons import RejectReason


def payable(
    text: str,
    *,
    prefix: str,
    node: bytes,
    fee_limit_msat: int,
    cltv_limit: int,
    now_ms: int,
) -> tuple[Invoice, int]:
    """Return a payable invoice and its amount in millisatoshi.

    `prefix` is that of our own chain, `node` our own node key.  Raises RejectedError otherwise.
    """
    try:
        invoice = decode(text)
    except InvalidInvoiceError as error:
        raise RejectedError(RejectReason.INVALID_INVOICE, str(error)) from error
    if invoice.network.value != prefix:
        message = f"the invoice is for ln{invoice.network.value}, this node is on ln{prefix}"
        raise RejectedError(RejectReason.WRONG_INVOICE_NETWORK, message)
    if invoice.amount_msat is None or fee_limit_msat < 0:
        raise RejectedError(RejectReason.WRONG_INVOICE_AMOUNT, "the invoice has no amount")
    if invoice.min_final_cltv > cltv_limit:
        raise RejectedError(RejectReason.CLTV_TOO_LONG, "the invoice locks for too long")
    if expires_at_ms(invoice) <= now_ms:
        raise RejectedError(RejectReason.INVOICE_EXPIRED, "the invoice has expired")
    if invoice.payee == node:
        raise RejectedError(RejectReason.WRONG_PAYEE, "that is our own invoice")
    return invoice, invoice.amount_msat
