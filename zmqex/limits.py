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
# Two such numbers, two currencies and the spaces that people put between them.
ORDER_TEXT_CHARS_MAX: Final = 120
# Amounts of the base currency in its smallest unit, so that their thousandths (Lightning's msat)
# still fit INTEGER_MAX.  In BTC that is 92 million BTC: more than there will ever be.
BASE_UNITS_MAX: Final = INTEGER_MAX // 1_000

# --- orders ----------------------------------------------------------------------------------
# A week: long enough for a desk, short enough that a lost maker's orders end by themselves.
ORDER_LIFE_MAX_MS: Final = 7 * DAY_MS
ORDER_LIFE_DEFAULT_MS: Final = 7 * DAY_MS
# One maker may rest this many orders in one market; more is kept head-only by readers.
ORDERS_PER_MAKER_MAX: Final = 10_000
# A stranger, until it has been known for a while or has settled a trade.
ORDERS_PER_STRANGER_MAX: Final = 100
# An order that lies further than this many percent from the best price on the other side is more
# often a slip than a wish; the most that can be set; how many orders of silent makers are passed
# over in search of that price.
PRICE_BAND_PERCENT: Final = 10
PRICE_BAND_PERCENT_MAX: Final = 1_000
PRICE_BAND_LOOKS_MAX: Final = 1_000
# Everything that one node holds: about 1 KB each.
ORDERS_TOTAL_MAX: Final = 1_000_000

# --- trades and holds ------------------------------------------------------------------------
# The promise of the exchange: a taken quantity is held for 15 minutes.
HOLD_TTL_MS: Final = 15 * MINUTE_MS
# The taker starts to pay no later than this after the first send of its take, so that a
# payment has two minutes to land before the hold ends.
PAY_START_MAX_MS: Final = 13 * MINUTE_MS

# A take waits no longer than this for the hold server, and does not ask twice.
HOLD_SERVER_TIMEOUT_S: Final = 1
# A copy of a node that ends without giving its lease back keeps the next one waiting so long.
LEASE_TTL_MS: Final = 10 * SECOND_MS
# How often a hold server is asked for the lease and whether it still has our holds.
HOLD_SERVER_ASK_S: Final = 1
# Nobody else uses our own server, so whether it has kept its memory is asked less often.
HOLD_SERVER_ASK_OWN_S: Final = 5
# The embedded hold server starts in tens of milliseconds; a busy disk may take seconds.
HOLD_SERVER_START_S: Final = 5
HOLD_SERVER_STOP_S: Final = 5
# The shortest limit of the platforms (macOS: 104 with the final zero).
SOCKET_PATH_BYTES_MAX: Final = 103

# --- trades: times and caps ------------------------------------------------------------------
# A payer wants this much of an invoice's life left, for clock skew and path finding.
INVOICE_MARGIN_MS: Final = 5 * SECOND_MS
# A payee that asks for more blocks could lock the payer's money for more than a day.
MIN_FINAL_CLTV_BLOCKS_MAX: Final = 144
# The whole route's lock: three days, as BOLT 11 wallets allow at most.
CLTV_LIMIT_BLOCKS: Final = 432
# Settlement `htlc`: the time to send the quote under a lock, then to confirm it, and to spare.
HTLC_SEND_MS: Final = 2 * HOUR_MS
HTLC_CONFIRM_MS: Final = 6 * HOUR_MS
HTLC_SPARE_MS: Final = 2 * MINUTE_MS
# A final lock is at least so long, and this much of it is left when the last word is said.
LOCK_BLOCKS_MIN: Final = 24
LOCK_MARGIN_BLOCKS: Final = 6
# Settlement `swap`: leg 2 is paid so soon after leg 1 was seen locked, or not at all; payers lock
# for a few blocks more than asked (LND: 3); a smaller lock would have no output on the chain.
SWAP_PAY_WITHIN_MS: Final = 30 * SECOND_MS
CLTV_PADDING_BLOCKS: Final = 3
SWAP_LEG_MSAT_MIN: Final = 1_000_000
# Takers may have this much of what a node can spend locked together.
LOCKED_PERCENT: Final = 20
# A take older than this is a replay or a very slow wire.
TAKE_AGE_MAX_MS: Final = 60 * SECOND_MS
# The receiver's and the sender's clock may differ by this much.
CLOCK_SKEW_MAX_MS: Final = 30 * SECOND_MS
# One taker's holds that are not paid yet, over all our orders and on one order.
HOLDS_PER_TAKER_MAX: Final = 16
HOLDS_PER_ORDER_AND_TAKER_MAX: Final = 1
# Of all strangers behind one address, this machine's own excepted: identities cost nothing.
HOLDS_PER_ADDRESS_MAX: Final = 4
# Of each order, what all strangers together may hold unpaid: the other half stays for friends.
STRANGER_PERCENT: Final = 50
# A hold that ran out unpaid after this long has cost its maker something.
UNPAID_AFTER_MS: Final = MINUTE_MS
# Its taker waits before its next take, twice as long each time, until it pays one.
UNPAID_WAIT_FIRST_MS: Final = MINUTE_MS
UNPAID_WAIT_LAST_MS: Final = DAY_MS
# How long a taker waits for an answer to a take before it tries the next maker: three makers fit
# into the five seconds that a user waits without doubt.
TAKE_DEADLINE_MS: Final = 1_500
# A maker that failed us is not asked again for this long.
SKIP_MAKER_MS: Final = 30 * SECOND_MS
# Orders that cross and both rest are looked for so long after others' orders have changed.
CROSSED_WAIT_MS: Final = 100
# Of two such orders, what we first see this long after ours was published is not of the same
# moment: its maker has seen ours.  A few of the slowest round trips and of the fetches after a gap.
CROSSED_SEEN_MS: Final = 5 * SECOND_MS
# Takes of one incoming order that are on their way at the same time, and in all.
TAKES_AT_ONCE_MAX: Final = 32
TAKES_PER_ORDER_MAX: Final = 256
# A maker with too much of us at once is asked again so soon and so often: our payments to it land
# meanwhile, and a user waits a second at most.
TAKE_RETRY_MS: Final = 250
TAKE_RETRIES_MAX: Final = 4
# A buying taker's invoice: the maker pays at once, so an hour covers a restart or two.
INVOICE_EXPIRY_S: Final = 3_600
# The quote leg has a day to be confirmed by hand; then the trade is disputed.
CONFIRM_MAX_MS: Final = DAY_MS
# A rollover: its invoice lives for as long as people may take to look for the quote; and how often
# the base of one trade may be asked for, the lock counted, since each is kept for good.
ROLLOVER_MS: Final = DAY_MS
ATTEMPTS_MAX: Final = 16
# Repeats of messages and look-ups: 1, 2, 4 ... 30 seconds apart.
RETRY_FIRST_MS: Final = SECOND_MS
RETRY_LAST_MS: Final = 30 * SECOND_MS
# The operator's own program decides about a take within this, so that the taker hears in time.
ACCEPT_COMMAND_WAIT_S: Final = 1
ACCEPT_COMMANDS_MAX: Final = 8
# An invoice that Lightning does not know this long after the hold was never made: what was asked
# of it within the hold has been answered or given up by then.
NEVER_MADE_MS: Final = MINUTE_MS
# A taker that wants out waits this much longer than the hold for the maker's word.
ABANDON_GRACE_MS: Final = MINUTE_MS
# After a restart, working orders wait this long for their makers to be found again.
RESUME_WAIT_MS: Final = 3 * SECOND_MS
# A command's answer waits this long for a payment that is just leaving.
ANSWER_WAIT_MS: Final = 3 * SECOND_MS
# `trade pay` waits this long for Lightning's word before it shows the trade as it stands.
PAY_WAIT_MS: Final = 10 * SECOND_MS
# What crosses an order: at most this many rows, asked from this many peers, a second each.
MATCHES_MAX: Final = 100
MATCH_PEERS_MAX: Final = 16
MATCH_DEADLINE_MS: Final = SECOND_MS
# What has ended stays in memory so long after the last word of it, for most that is still said is
# said by then; what was settled for as long as it counts in the operator's limit of a day; and what
# the journal had to bring back until the next few questions about it.
ENDED_KEPT_MS: Final = 10 * MINUTE_MS
SETTLED_KEPT_MS: Final = 25 * HOUR_MS
RECALLED_KEPT_MS: Final = MINUTE_MS
# Of what has left memory: the newest so many are listed, and so many trades of one order shown.
ARCHIVED_SHOWN_MAX: Final = 1_000
# Ids may be given by their first characters: 8 hex digits are one in four billion.
ID_PREFIX_CHARS_MIN: Final = 8

# --- frames ----------------------------------------------------------------------------------
# One batch of 128 orders is about 25 KB; one page of a log fits as well.
FRAME_BYTES_MAX: Final = 64 * 1024

# --- BOLT11 ----------------------------------------------------------------------------------
# Real invoices are 200-700 characters; LND itself stops at 7,089 (what a QR code holds).
INVOICE_CHARS_MAX: Final = 7_089
# All bitcoin that can ever exist: an invoice for more is nonsense.
INVOICE_AMOUNT_MSAT_MAX: Final = 21_000_000 * 100_000_000 * 1_000
# 136 years: "never expires" fits, and the deadline in milliseconds stays in 64 bits.
INVOICE_EXPIRY_S_MAX: Final = 2**32 - 1
# Bitcoin reads a lock time from here on as a date, no longer as a number of blocks.
INVOICE_CLTV_BLOCKS_MAX: Final = 500_000_000 - 1

# --- order logs ------------------------------------------------------------------------------
# 128 operations amortise one signature to half a microsecond an order and fit one frame.
BATCH_OPERATIONS_MAX: Final = 128
# A batch must fit one answer with the frame around it, or whoever serves it would break the rules.
BATCH_BYTES_MAX: Final = 63 * 1024
# Markets in one heartbeat.
HEADS_MAX: Final = 64
# Batches in one page of a log; the page is cut earlier by LOG_PAGE_BYTES_MAX.
LOG_PAGE_BATCHES_MAX: Final = 128
LOG_PAGE_BYTES_MAX: Final = 48 * 1024
# Records or heartbeats in one answer: 32 of at most 900 bytes fit a frame with room.
PEERS_PAGE_MAX: Final = 32
# What is kept of one log to serve it: as much as its open orders, for whom a snapshot is cheaper
# than more, but at least this; so memory and disk follow what is open, not what was said.
LOG_BYTES_KEPT_MIN: Final = 128 * 1024
# Open orders in one page of a snapshot; the page is cut earlier by LOG_PAGE_BYTES_MAX.
ROWS_PAGE_MAX: Final = 1_024
# What one of them weighs in a snapshot besides its terms, and in the mean with them; and what a
# snapshot weighs besides its rows: the digests of 256 buckets and a heartbeat.
ROW_BYTES: Final = 16
ROW_BYTES_MEAN: Final = 85
SNAPSHOT_BYTES: Final = 9 * 1024
# One operation in a log, in the mean.
OPERATION_BYTES_MEAN: Final = 80
# Who was told a head may fetch its rows for so long after its last question; and heads of one log
# at the same time.
FROZEN_MS: Final = MINUTE_MS
FROZEN_HEADS_MAX: Final = 4
# How often busy peers are asked again for one log before there is other news of it.
SYNC_RETRIES_MAX: Final = 16
# Makers whose logs are followed; more than the network has today by far.
MAKERS_MAX: Final = 1_024
# With so many, one that is silent and idle gives its place to a new one; they are searched at most
# this often.
MAKERS_EVICT_EVERY_MS: Final = SECOND_MS
# Batches of one log that wait for one before them, and their bytes: anybody can make up a maker,
# so this times MAKERS_MAX is what a stranger can fill.
GAP_BATCHES_MAX: Final = 64
GAP_BYTES_MAX: Final = 128 * 1024
# How far beyond all that its maker has signed so far a batch is believed: about what a maker says
# in an hour at most.  A real one beyond that is fetched once a heartbeat has told of it.
SEQUENCE_JUMP_MAX: Final = 1_000_000
# A gap that another path closes within this time is not worth a question.
GAP_WAIT_MS: Final = 20
# Envelopes whose signatures are being checked; what comes beyond is dropped and asked for again.
VERIFYING_MAX: Final = 20_000
# Envelopes that have verified and are known again when they come from the next relay.
VERIFIED_KEPT_MAX: Final = 16_384
# Three heartbeats may be lost before a maker counts as silent.
HEARTBEAT_EVERY_MS: Final = 5 * SECOND_MS
# And one this soon after a batch, for peers that ask for heads meanwhile.
HEARTBEAT_SOON_MS: Final = 200
SILENT_MS: Final = 15 * SECOND_MS
# Orders that are placed within this time of each other leave in one batch; a lone one at once.
PUBLISH_EVERY_MS: Final = 2
# Held and remaining change with every take; readers need no more than this of one order.
UPDATE_EVERY_MS: Final = 250
# The maker of a void epoch hears the proof again this often while it goes on as if nothing was.
PROOF_EVERY_MS: Final = 10 * SECOND_MS
# A proof of a fork costs two signature checks: one a second, a few at once.
FORK_PROOFS_PER_SECOND: Final = 1
FORK_PROOFS_BURST: Final = 8
# Forked logs that are remembered over a restart, the newest.
FORKS_KEPT_MAX: Final = 256
# A stranger that has been connected for this long is a stranger no more.
STRANGER_MS: Final = HOUR_MS

# --- sessions with peers ---------------------------------------------------------------------
# Ten strings, four keys and three endpoints with room for long host names.
RECORD_BYTES_MAX: Final = 900
RECORD_LIFE_MS: Final = DAY_MS
# A hello takes one round trip; a connection that says nothing for so long is dialled again.
DIAL_FORGET_MS: Final = 5 * SECOND_MS
DIALS_AT_ONCE_MAX: Final = 64
# Back-off of an address: doubled per failure, with a quarter of jitter either way.
BACK_OFF_FIRST_MS: Final = SECOND_MS
BACK_OFF_LAST_MS: Final = MINUTE_MS
# An address that once proved a peer is tried sooner: that peer may just restart.
BACK_OFF_PROVEN_FIRST_MS: Final = 250
BACK_OFF_PROVEN_LAST_MS: Final = 15 * SECOND_MS
# An address that has not answered for this long is forgotten; one that once proved a peer is
# dialled so seldom from then on, and forgotten with its peer.
ADDRESS_FORGET_MS: Final = HOUR_MS
BACK_OFF_DEAD_MS: Final = 10 * MINUTE_MS
ADDRESSES_MAX: Final = 1_024
# The address book keeps peers that were not seen for a month.
PEER_FORGET_MS: Final = 30 * DAY_MS
# Its lines: peers that are remembered, and makers that others relay.
ADDRESS_BOOK_MAX: Final = 2_048
# How often the address book notes that a connected peer is still there.
PEER_NOTE_MS: Final = HOUR_MS
# Another peer is asked whom it knows, so that two halves of a network find each other.
EXCHANGE_EVERY_MS: Final = 5 * MINUTE_MS
# Pages of records that one peer may tell in a row: as many peers as are followed.
EXCHANGE_PAGES_MAX: Final = 8
# Peers that are asked at the same time whom they know, and how many in a row have told of nobody
# new before those who wait are not asked.
EXCHANGES_AT_ONCE_MAX: Final = 8
EXCHANGES_BARREN_MAX: Final = 8
# Peers with open sockets, and peers that are remembered.
PEERS_MAX: Final = 256
PEERS_KNOWN_MAX: Final = 1_024
# With more live peers than this a node listens to some of them, and relays what it accepts.
FOLLOW_ALL_MAX: Final = 48
FOLLOWED: Final = 12
# A request that has no answer by then has none.
REQUEST_DEADLINE_MS: Final = 3 * SECOND_MS
REQUESTS_PENDING_MAX: Final = 4_096
# A peer's requests: a burst of a book's worth of pages, then a steady rate.
REQUESTS_PER_SECOND: Final = 100
REQUESTS_BURST: Final = 500
# What it may be told in answer to questions that read (books, logs, heads, peers): at once a book
# of 400,000 orders, then a steady rate that leaves a small line free for trades.
ANSWER_BYTES_PER_SECOND: Final = 2 * 1024 * 1024
ANSWER_BYTES_BURST: Final = 32 * 1024 * 1024
REQUEST_SOURCES_MAX: Final = 1_024
# What one peer may stream: messages cost a signature check each (2,000 are a fifth of a core), a
# batch's operations and its bytes what comes after.  At once: a large maker's whole book, or what a
# relay has saved up while the network was slow.
STREAM_MESSAGES_PER_SECOND: Final = 2_000
STREAM_MESSAGES_BURST: Final = 20_000
STREAM_OPERATIONS_PER_SECOND: Final = 50_000
STREAM_OPERATIONS_BURST: Final = 200_000
STREAM_BYTES_PER_SECOND: Final = 8 * 1024 * 1024
STREAM_BYTES_BURST: Final = 32 * 1024 * 1024
# Unanswered requests in a row after which the peer's hello socket is asked.
TIMEOUTS_BEFORE_HELLO: Final = 2
# Points of blame that ban a peer, how long, and how soon half of them are forgotten.
PENALTY_BAN: Final = 100
BAN_MS: Final = 10 * MINUTE_MS
PENALTY_HALF_LIFE_MS: Final = MINUTE_MS

# A peer is dialled back so seldom, so many at once, and within a second; an asker waits longer.
DIAL_BACK_EVERY_MS: Final = 10 * SECOND_MS
DIAL_BACKS_MAX: Final = 8
DIAL_BACK_WAIT_MS: Final = 3 * SECOND_MS
# How many peers are asked to dial back: one may be wrong, or lie.
DIAL_BACKS_ASKED_MAX: Final = 3
# Through a proxy like Tor a connection takes seconds, where it takes a round trip without.
PROXY_WAIT_MS: Final = 20 * SECOND_MS
# What one connection through a proxy carries before the others get their turn.
RELAY_BYTES_A_TURN: Final = 64 * 1024

# --- storage ---------------------------------------------------------------------------------
# Beyond this a group's first caller waits longer for the last one than for the disk.
COMMIT_GROUP_MAX: Final = 1_000
# The log is moved into the file at this length, of 4 kB each: a few milliseconds in 100 commits.
WAL_PAGES_MAX: Final = 1_000
# And cut to this one, where a single group has made it longer.
WAL_BYTES_KEPT_MAX: Final = 8 * 1024 * 1024
# Keys and settings are far smaller; anything bigger is not ours.
PRIVATE_FILE_BYTES_MAX: Final = 1024 * 1024

# --- Lightning -------------------------------------------------------------------------------
# A watched invoice is looked up so often where the backend does not tell by itself.
WATCH_EVERY_S: Final = 5
# And looked at first so long after it was made, or found open.
WATCH_AFTER_S: Final = 0.005
# The block height changes every ten minutes; what depends on it has hours.
HEIGHT_EVERY_S: Final = 5
# A Lightning node of the operator's answers in milliseconds, over Tor in seconds.
LIGHTNING_CONNECT_WAIT_S: Final = 10
LIGHTNING_ANSWER_WAIT_S: Final = 20
# A stream that says nothing for so long may have lost its other end: it is attached again.
LIGHTNING_STREAM_SILENT_S: Final = 60
REATTACH_WAIT_S: Final = 1
# One line of a stream: an invoice or payment with some hundred parts.
LIGHTNING_LINE_BYTES_MAX: Final = 1024 * 1024
# Streams at once, a descriptor each; beyond it, invoices are looked up now and then.
LIGHTNING_STREAMS_MAX: Final = 256
# A payment looks for routes this long, in at most so many parts; what is in flight then goes on.
PAYMENT_SEARCH_S: Final = 60
LIGHTNING_PARTS_MAX: Final = 16
# A call to pay reports "in flight" after this: held payments take minutes.
PAYMENT_REPORT_WAIT_S: Final = 3
# An answer of lightningd: its lists grow with the node's history, but we ask by hash.
LIGHTNING_ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
# lightningd's plugin tells nothing by itself: its invoices are looked up so often.
WATCH_POLL_S: Final = 0.5
# Boltz' plugin gives a held payment back so long before its lock ends.
CLN_AUTO_CANCEL_BLOCKS: Final = 3
# LND gives a held payment back 16 blocks and 2 before its lock ends (HoldExpiryDelta).
LND_AUTO_CANCEL_BLOCKS: Final = 18
# A seller by `htlc` does not know the buyer's backend, so it counts with the longest.
AUTO_CANCEL_BLOCKS_MAX: Final = 18

# Real bitcoin at stake where nothing else is set: 0.01 BTC in a trade, 0.05 with a peer, 0.1 a day.
MAINNET_STAKES_MSAT: Final = {
    "max_trade_msat": 1_000_000_000,
    "max_held_msat": 5_000_000_000,
    "max_day_msat": 10_000_000_000,
}

# --- play Lightning --------------------------------------------------------------------------
# What a play node starts with: 10 BTC.
PLAY_BALANCE_MSAT: Final = 10 * 100_000_000 * 1_000
# BOLT 11's usual final lock for an invoice: LND's default of today.
MIN_FINAL_CLTV_BLOCKS: Final = 40
# A simulated block: as long as Bitcoin's on average.
BLOCK_MS: Final = 10 * MINUTE_MS
# A held payment goes back so long before its lock ends: LND's 16 blocks and 2.
PLAY_AUTO_CANCEL_BLOCKS: Final = 18
# Play payments that our own ledger is asked for at the same time.
PLAY_PAYMENTS_AT_ONCE_MAX: Final = 256

# --- the process -----------------------------------------------------------------------------
# A loop that comes this late was suspended, with everything that its peers said meanwhile lost.
SLEPT_MS: Final = 5 * SECOND_MS
# How often the embedded hold server is looked after: it is back in well under half a second.
HOLD_SERVER_WATCH_S: Final = 0.1
# When a node looks for others of its user here: two that start together meet at the second look.
LOCAL_LOOKS_S: Final = (1, 2, 4, 30)
# What `doctor` finds too little: the journal grows by a few MiB between two compactions.
DISK_FREE_BYTES_MIN: Final = 100 * 1024 * 1024
# What is told of a damaged file.
CHECK_PROBLEMS_MAX: Final = 5
# A clock that is further off than an NTP client would leave it.
CLOCK_SKEW_NOTED_MS: Final = 2 * SECOND_MS
# One look-up of the operator in the DHT.
LOOKUP_WAIT_MS: Final = 2 * SECOND_MS
# Peers that cannot be reached are sought by their keys: so often, so many each time.
SEEK_EVERY_S: Final = 15
SEEK_AT_ONCE_MAX: Final = 8
# The DHT nodes that answer, for the next start; a crash loses no more than this.
CONTACTS_SAVED_EVERY_S: Final = 5 * 60
# How long the record that says "leaving" gets to reach the DHT: two round trips.
ITEM_WAIT_MS: Final = 500
# What is on its way to disk and peers at the end gets this long.
STOP_WAIT_S: Final = 2
# A node's log on the disk: 25 MB are weeks of a quiet node and hours of a noisy one.
LOG_FILE_BYTES_MAX: Final = 5 * 1024 * 1024
LOG_FILES_MAX: Final = 5

# --- sockets ---------------------------------------------------------------------------------
# Where a node listens when nobody says otherwise; the next free ones where these are taken.
DEFAULT_PORTS: Final = {"hello": 7_100, "rpc": 7_101, "orders": 7_102}
PORTS_TRIED_MAX: Final = 200
# A record, and what a stranger may say without CURVE: ZeroMQ's own greeting takes about 60.
HELLO_FRAME_BYTES_MAX: Final = 1_024
HELLO_QUESTION_BYTES_MAX: Final = 256
# Hello answers a second, for all strangers together: 3 % of a core.
HELLO_PER_SECOND: Final = 200
# One network of strangers; on loopback, one connection.  Honest nodes ask once in seconds.
HELLO_SOURCE_PER_SECOND: Final = 10
HELLO_SOURCE_BURST: Final = 40
HELLO_SOURCES_MAX: Final = 4_096
# Candidates that are asked at the same time, each for at most this long; the others wait.
HELLO_DIALS_MAX: Final = 64
HELLO_DIALS_WAITING_MAX: Final = 1_024
HELLO_WAIT_MS: Final = SECOND_MS
# Frames read from one socket before the others get their turn; a stream's message has two.
REQUEST_FRAMES_A_TURN: Final = 64
STREAM_FRAMES_A_TURN: Final = 512
# Stream messages in one event, which ends as well with the one that brings it to so many bytes:
# whatever else wants to be done waits for the whole of it.
STREAM_MESSAGES_MAX: Final = 256
STREAM_BYTES_MAX: Final = 256 * 1024
# Connections that were made to us: each peer has one for requests and one for orders, and now and
# then a third for a hello.  Of one network, loopback excepted: four peers behind one address.
CONNECTIONS_MAX: Final = 3 * PEERS_MAX
CONNECTIONS_PER_NETWORK_MAX: Final = 8
# Sockets of one node: two for each peer, the dials, the listeners; libzmq's own limit is 1,023.
SOCKETS_MAX: Final = 4_096
# A Unix socket's path: 108 bytes on Linux, 104 on macOS, with room for the ".events" socket.
CONTROL_PATH_BYTES_MAX: Final = 96
# Descriptors of the process: 768 connections, and four for each of 256 peers, with room.
DESCRIPTORS: Final = 4_096
