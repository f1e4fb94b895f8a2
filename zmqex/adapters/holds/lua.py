"""The Lua that runs inside Redis, where it is atomic and reads Redis' own clock.

Quantities and fences reach 2**63-1, but Lua's numbers are exact to 2**53 only; so they travel as
decimal text, are compared as text and are summed in two halves of nine digits.

Keys of one node (the braces keep them in one slot of a cluster), P = `zmqex:{identity}`:

    P:hold:<trade>   hash order, quantity, fence; lapses with the hold
    P:order:<order>  set of the trades that hold a part of the order
    P:live           sorted set of all trades by the time at which they lapse
    P:epoch          which rebuild this memory belongs to
    P:leader         who runs this identity
"""

from __future__ import annotations

import hashlib
from typing import Final


class Script:
    """A script, and the name under which a server that has run it knows it."""

    __slots__ = ("sha", "text")

    def __init__(self, *parts: str) -> None:
        """`parts` are put together."""
        self.text = "".join(parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# A set of trades outlives every trade in it, and no longer.
_OUTLIVE: Final = """
local function outlive(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end
"""

# KEYS hold, order, live; ARGV prefix of holds, trade, order, quantity, capacity, fence, ttl.
RESERVE: Final = Script(
    _NOW,
    _OUTLIVE,
    """
local hold, order, live = KEYS[1], KEYS[2], KEYS[3]
local prefix, trade, order_id = ARGV[1], ARGV[2], ARGV[3]
local quantity, capacity, fence, ttl = ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local function less(a, b) return #a < #b or (#a == #b and a < b) end
local high, low = 0, 0
local function add(number)
  high = high + (tonumber(string.sub(number, 1, -10)) or 0)
  low = low + tonumber(string.sub(number, -9))
  if low >= 1000000000 then high, low = high + 1, low - 1000000000 end
end
local function total()
  if high == 0 then return string.format('%d', low) end
  return string.format('%d%09d', high, low)
end

redis.call('ZREMRANGEBYSCORE', live, '-inf', now)
for _, other in ipairs(redis.call('SMEMBERS', order)) do
  if other ~= trade then
    local held = redis.call('HGET', prefix .. other, 'quantity')
    if held then add(held) else redis.call('SREM', order, other) end
  end
end

local mine = redis.call('HMGET', hold, 'order', 'quantity', 'fence')
if mine[3] then
  local others_high, others_low = high, low
  add(mine[2])
  if mine[1] ~= order_id then return {'conflict', total()} end
  if less(fence, mine[3]) then return {'stale_fence', total()} end
  if fence == mine[3] then
    if mine[2] ~= quantity then return {'conflict', total()} end
    return {'already_yours', total()}
  end
  local before = total()
  high, low = others_high, others_low
  add(quantity)
  if less(capacity, total()) then return {'full', before} end
else
  local before = total()
  add(quantity)
  if less(capacity, total()) then return {'full', before} end
end

redis.call('HSET', hold, 'order', order_id, 'quantity', quantity, 'fence', fence)
redis.call('PEXPIRE', hold, ttl)
redis.call('SADD', order, trade)
redis.call('ZADD', live, now + tonumber(ttl), trade)
outlive(order, ttl)
outlive(live, ttl)
return {'reserved', total()}
""",
)

# KEYS hold, order, live; ARGV trade, order, fence.
RELEASE: Final = Script("""
local mine = redis.call('HMGET', KEYS[1], 'order', 'fence')
if mine[1] ~= ARGV[2] or mine[2] ~= ARGV[3] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
""")

# KEYS hold, order, live; ARGV trade, order, fence, ttl.
EXTEND: Final = Script(
    _NOW,
    _OUTLIVE,
    """
local mine = redis.call('HMGET', KEYS[1], 'order', 'fence')
if mine[1] ~= ARGV[2] or mine[2] ~= ARGV[3] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[4]), ARGV[1])
outlive(KEYS[2], ARGV[4])
outlive(KEYS[3], ARGV[4])
return 1
""",
)

# KEYS epoch, live; ARGV epoch, prefix of holds, prefix of orders, then five for each row:
# trade, order, quantity, fence, ttl.
REBUILD: Final = Script(
    _NOW,
    _OUTLIVE,
    """
if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end
for _, trade in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local order_id = redis.call('HGET', ARGV[2] .. trade, 'order')
  if order_id then redis.call('DEL', ARGV[2] .. trade, ARGV[3] .. order_id) end
end
redis.call('DEL', KEYS[2])
for first = 4, #ARGV, 5 do
  local trade, order_id, ttl = ARGV[first], ARGV[first + 1], ARGV[first + 4]
  local hold, order = ARGV[2] .. trade, ARGV[3] .. order_id
  redis.call('HSET', hold, 'order', order_id, 'quantity', ARGV[first + 2], 'fence', ARGV[first + 3])
  redis.call('PEXPIRE', hold, ttl)
  redis.call('SADD', order, trade)
  redis.call('ZADD', KEYS[2], now + tonumber(ttl), trade)
  outlive(order, ttl)
  outlive(KEYS[2], ttl)
end
redis.call('SET', KEYS[1], ARGV[1])
return 1
""",
)

# KEYS live; ARGV prefix of holds.  Answers five for each hold.
LIST: Final = Script("""
local rows = {}
for _, trade in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local key = ARGV[1] .. trade
  local hold = redis.call('HMGET', key, 'order', 'quantity', 'fence')
  if hold[1] then
    for _, field in ipairs({hold[1], trade, hold[2], hold[3], redis.call('PTTL', key)}) do
      rows[#rows + 1] = field
    end
  end
end
return rows
""")

# KEYS leader; ARGV owner, ttl.
LEASE: Final = Script("""
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")

# KEYS leader; ARGV owner.
END_LEASE: Final = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")
