"""Every bound that a peer, a user or time could push against, each with its reason.

Numbers carry their unit last in the name.  A limit without a test that reaches it is a bug.
"""

from __future__ import annotations

from typing import Final

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

# --- numbers ---------------------------------------------------------------------------------
# Signed 64-bit, so that SQLite, MessagePack and Lightning's msat all hold every amount.
INTEGER_MAX: Final = 2**63 - 1
# A user's number is refused beyond this many characters before it is looked at.
NUMBER_TEXT_CHARS_MAX: Final = 40

# --- orders ----------------------------------------------------------------------------------
# A week: long enough for a desk, short enough that a lost maker's orders end by themselves.
ORDER_LIFE_MAX_MS: Final = 7 * DAY_MS
ORDER_LIFE_DEFAULT_MS: Final = 7 * DAY_MS
# One maker may rest this many orders in one market; more is kept head-only by readers.
ORDERS_PER_MAKER_MAX: Final = 10_000
# A stranger, until it has been known for a while or has settled a trade.
ORDERS_PER_STRANGER_MAX: Final = 100
# Everything that one node holds: about 1 KB each.
ORDERS_TOTAL_MAX: Final = 1_000_000

# --- trades and holds ------------------------------------------------------------------------
# The promise of the exchange: a taken quantity is held for 15 minutes.
HOLD_TTL_MS: Final = 15 * MINUTE_MS
# The taker starts to pay no later than this after the first send of its take, so that a
# payment has two minutes to land before the hold ends.
PAY_START_MAX_MS: Final = 13 * MINUTE_MS

# --- frames ----------------------------------------------------------------------------------
# One batch of 128 orders is about 25 KB; one page of a log fits as well.
FRAME_BYTES_MAX: Final = 64 * 1024

# --- BOLT11 ----------------------------------------------------------------------------------
# Real invoices are 200-700 characters; LND itself stops at 7,089 (what a QR code holds).
INVOICE_CHARS_MAX: Final = 7_089

# --- order logs ------------------------------------------------------------------------------
# 128 operations amortise one signature to half a microsecond an order and fit one frame.
BATCH_OPERATIONS_MAX: Final = 128
# Markets in one heartbeat.
HEADS_MAX: Final = 64
# Batches in one page of a log; the page is cut earlier by LOG_PAGE_BYTES_MAX.
LOG_PAGE_BATCHES_MAX: Final = 128
LOG_PAGE_BYTES_MAX: Final = 48 * 1024
# Records or heartbeats in one answer: 32 of at most 900 bytes fit a frame with room.
PEERS_PAGE_MAX: Final = 32
