"""The bounds of discovery: of our DHT node, and of grapes that are asked over HTTP.

As `zmqex.limits`, of which this is a part: each with its reason, and a test that reaches it.
"""

from __future__ import annotations

from typing import Final

from zmqex.limits import MINUTE_MS, SECOND_MS

# A grape answers with all peers that it knows; more than this is a flood, not an answer.
DHT_DATAGRAM_BYTES_MAX: Final = 8 * 1024
# Fits every path's MTU without fragments (IPv6 guarantees 1,280 with its headers).
DHT_REPLY_BYTES_MAX: Final = 1_200
DHT_REPLY_PEERS_MAX: Final = 50
# A KRPC message is 3 deep; a BEP 44 value may nest a little more.
DHT_BENCODE_DEPTH_MAX: Final = 8
# 1,000 peers in one answer; reading more costs the loop more than a millisecond.
DHT_BENCODE_ITEMS_MAX: Final = 1_024
# What is echoed to a stranger: real implementations use 2 to 8 bytes.
DHT_TRANSACTION_BYTES_MAX: Final = 32
# Names are raw bytes of any length; a name is part of every query, so it stays small.
DHT_NAME_BYTES_MAX: Final = 255
# Kademlia's k: contacts in a bucket and in an answer, nodes that keep an announce.  So many
# sybils next to a name remove it; 20 IPv6 contacts would not fit an answer.
DHT_K: Final = 16
# Queries of one lookup that wait at the same time.
DHT_ALPHA: Final = 6
DHT_QUERY_TIMEOUT_MS: Final = 1 * SECOND_MS
# Invented contacts make a lookup no longer than this.
DHT_LOOKUP_QUERIES_MAX: Final = 64
DHT_LOOKUP_LIFE_MAX_MS: Final = 8 * SECOND_MS
DHT_LOOKUP_CONTACTS_MAX: Final = 128
DHT_LOOKUP_PEERS_MAX: Final = 500
# What one answer may tell: a grape names 20 contacts and 100 peers.
DHT_CONTACTS_PER_ANSWER_MAX: Final = 20
DHT_PEERS_PER_ANSWER_MAX: Final = 100
# Lookups that our own callers may have under way.
DHT_LOOKUPS_MAX: Final = 256
# Names that one node announces or follows: one per market.
DHT_NAMES_MAX: Final = 64
DHT_BOOTSTRAP_MAX: Final = 64
# An announce lives as long as in a grape; three chances to repeat it in time.
DHT_PEER_LIFE_MS: Final = 120 * SECOND_MS
DHT_ANNOUNCE_EVERY_MS: Final = 40 * SECOND_MS
DHT_FOLLOW_EVERY_MS: Final = 30 * SECOND_MS
# A token is good for one to two of these (BEP 5: up to ten minutes).
DHT_TOKEN_LIFE_MS: Final = 5 * MINUTE_MS
DHT_TOKEN_BYTES_MAX: Final = 64
DHT_PEERS_PER_NAME_MAX: Final = 500
# One public host under one name: several nodes behind one NAT, not a crowd.
DHT_PEERS_PER_HOST_MAX: Final = 8
# One UDP socket on this machine or network: a grape announces for all services behind it.
DHT_PEERS_PER_LOCAL_SOCKET_MAX: Final = 64
# One source under all names, and everything: about 300 bytes each.
DHT_PEERS_PER_SOURCE_MAX: Final = 1_000
DHT_PEERS_TOTAL_MAX: Final = 20_000
# BEP 44's bounds of a mutable item, and how long one is kept that nobody puts again.
DHT_ITEM_BYTES_MAX: Final = 1_000
DHT_SALT_BYTES_MAX: Final = 64
DHT_ITEM_LIFE_MS: Final = 2 * 60 * MINUTE_MS
# Our own is put again so often: the nodes next to its place come and go.
DHT_ITEM_EVERY_MS: Final = 10 * MINUTE_MS
# About 2 kB each; one source has as many as nodes may stand behind one address.
DHT_ITEMS_MAX: Final = 4_096
DHT_ITEMS_PER_SOURCE_MAX: Final = 64
# One public host in the routing table: half a bucket.
DHT_CONTACTS_PER_HOST_MAX: Final = 8
# Pings that find out whether a stranger who asked us something can be reached.
DHT_CHECKS_MAX: Final = 32
# Who was silent twice is not asked again on hearsay for so long, and how many are remembered.
DHT_DEAD_LIFE_MS: Final = 2 * MINUTE_MS
DHT_DEAD_MAX: Final = 512
# BEP 5 says 15 minutes; our networks are small and change faster.
DHT_BUCKET_REFRESH_MS: Final = 5 * MINUTE_MS
DHT_CONTACT_FORGET_MS: Final = 15 * MINUTE_MS
# Datagrams of one host (not on loopback): an answer is 12 times a question, so this is also
# how much a forged source address can be made to receive.
DHT_RATE_PER_SECOND: Final = 20
DHT_RATE_BURST: Final = 100
DHT_RATE_HOSTS_MAX: Final = 4_096

# A grape keeps an announce for 80 to 160 s (0.9.11); three chances to repeat it in time.
GRAPE_ANNOUNCE_EVERY_MS: Final = 30 * SECOND_MS
# A dead DHT contact of its own costs a grape up to 2.5 s for an answer.
GRAPE_TIMEOUT_MS: Final = 3 * SECOND_MS
# 100 addresses are 2 kB.
GRAPE_ANSWER_BYTES_MAX: Final = 64 * 1024

# A DHT node hears of others at least at each refresh.
DHT_SILENT_MS: Final = 10 * MINUTE_MS
