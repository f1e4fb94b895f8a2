"""The effects that make and pay the invoice of a trade, with their limits and words.

`plain`, and a rollover: an ordinary invoice on our own preimage.  `htlc`: a hold invoice on the
seller's hash.
"""

from __future__ import annotations

from zmqex.bolt11 import InvalidInvoiceError, decode
from zmqex.kernel.core import Core
from zmqex.kernel.effects import CreateHoldInvoice, CreateInvoice, PayInvoice
from zmqex.kernel.events import InvoiceState, LightningFailed
from zmqex.kernel.records import Trade
from zmqex.limits import CLTV_LIMIT_BLOCKS
from zmqex.trading.blocks import lock_blocks
from zmqex.trading.settlement import HTLC, PLAIN, fee_limit_msat


def is_made_first(trade: Trade) -> bool:
    """Whether the invoice of a trade as maker is made before the trade is written down.

    Only where the hash is ours: nobody can pay what nobody was told of.  A hash that the taker has
    named is known outside, and an invoice of it may be another program's.
    """
    return trade.settlement == PLAIN and trade.side == "buy"


def is_lost(trade: Trade, state: InvoiceState) -> bool:
    """Whether Lightning has forgotten an invoice that it made before the trade was written down.

    The call that made it was answered then, and there is no other but on purpose; see
    `is_made_again`.
    """
    return state == "unknown" and bool(trade.invoice) and is_made_first(trade)


def is_made_again(core: Core, trade: Trade, state: InvoiceState) -> bool:
    """Whether an invoice that is lost is made once more, so that what its taker has can be paid.

    By play money only: no call to its ledger outlives this process.  LND would draw another secret,
    and Core Lightning the same one, so that a call under way could still make what was told.
    """
    return core.settings.network == "play" and is_lost(trade, state)


def first_invoice(core: Core, trade: Trade, expiry_s: int) -> CreateInvoice:
    """Ask our Lightning node for an invoice on a preimage that was drawn just now."""
    memo = memo_of(core, trade)
    return CreateInvoice(
        trade.trade_id,
        trade.payment_hash,
        trade.preimage,
        trade.base_msat,
        memo,
        expiry_s,
        first=True,
    )


def create_invoice(core: Core, trade: Trade, expiry_s: int) -> CreateInvoice | CreateHoldInvoice:
    """Ask our Lightning node for the invoice of a trade in which we buy the base, maybe again."""
    key, payment_hash, amount_msat = trade.trade_id, trade.payment_hash, trade.base_msat
    memo = memo_of(core, trade)
    if trade.settlement == HTLC and trade.attempt == 1:
        blocks = lock_blocks(core.settings.auto_cancel_blocks)
        return CreateHoldInvoice(key, payment_hash, amount_msat, memo, expiry_s, blocks)
    return CreateInvoice(key, payment_hash, trade.preimage, amount_msat, memo, expiry_s)


def memo_of(core: Core, trade: Trade) -> str:
    """What an invoice of a trade says that it is for."""
    memo = f"zmqex trade {trade.trade_id.hex()[:16]}"
    return f"PLAY MONEY: {memo}" if core.settings.network == "play" else memo


def pay_invoice(trade: Trade) -> PayInvoice:
    """Pay the invoice of a trade in which we sell the base."""
    return PayInvoice(
        trade.trade_id,
        trade.payment_hash,
        trade.invoice,
        fee_limit_msat(trade.base_msat),
        CLTV_LIMIT_BLOCKS,
    )


def invoice_hash(text: str) -> bytes:
    """The payment hash that an invoice names, or b"" where it is no invoice."""
    try:
        return decode(text).payment_hash
    except InvalidInvoiceError:
        return b""


def lock_floor(core: Core, trade: Trade) -> int:
    """Where the lock of an `htlc` payment that is sent from now on ends at the earliest, or 0.

    A payer locks for the blocks that the invoice asks for at least, from its height on, which is
    no lower than the last one that we heard of.
    """
    known = trade.settlement == HTLC and core.height > 0
    return core.height + decode(trade.invoice).min_final_cltv if known else 0


def log_failure(core: Core, event: LightningFailed) -> None:
    """One line about a call to Lightning that has failed."""
    core.log(
        "warning",
        "lightning_failed",
        trade_id=event.trade_id.hex(),
        call=event.call,
        indeterminate=event.indeterminate,
        reason=event.reason.value,
    )
