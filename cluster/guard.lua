-- Decides one ask, all or nothing: the lock, cool-downs, slots and every limit, in
-- this order. A duplicate is a duplicate first, whatever is spent or cooling down.
--
-- KEYS, all of one tag, in the order in which they are decided:
--   ARGV[2] of kept keys, an idempotency key's: one, and then a lock's, or none
--   the lock's, where ARGV[3] is not empty
--   ARGV[5] of cool-downs
--   ARGV[6] of slots
--   of budgets, one for each limit; the last ARGV[8] are candidates'
-- ARGV[1]      until when somebody waits for the answer, in microseconds by this
--              server's clock; 0 where its clock is not known
-- ARGV[2]      how many kept keys
-- ARGV[3]      '1 TOKEN REPLICA REQUEST-ID' of the lock, or '' where none is wanted
-- ARGV[4]      the TTL of the lock and of slots, in milliseconds
-- ARGV[5]      how many cool-downs
-- ARGV[6]      how many kinds of slots
-- ARGV[7]      longest that the request waits for its budgets, in microseconds, or
--              0; not 0 if it would wait for slots
-- ARGV[8]      how many candidates
-- ARGV[9]      the longest cool-down in milliseconds; 0 for no bound
-- ARGV[10]     what an ask wants of an equal one in flight: '' nothing; 'join' its
--              answer; or a fresh one: when the request came, in microseconds by this
--              server's clock, or 0 in its first ask
-- ARGV[11...]  with slots: their owner's token, which begins with the TTL that its
--              slots have, and of each kind how many there are, or 0 for one that
--              waits after others
--              then three for each budget: burst, interval and furthest, as spend
--              takes them
--              with a kept key: the hash of what the request says, and for how long
--              the key is known, in milliseconds
--
-- Returns one of
--   {ADMITTED, now, used..., reply..., candidate's...}  with how many slots of each
--       kind are taken, this one's with them, and what spend replied for each limit;
--       of a candidate whose key is no budget nil
--   {WAITING, now, which, reply..., candidate's...}  it may be sent when the limit
--       with that index, counted from 1, allows it, and has its place there and the
--       lock, but nothing of the other limits and no slot
--   {BUSY, now, used...}  one that would wait has the lock
--   {LIMITED, now, reply...}
--   {DUPLICATE, now, the lock's value}
--   {COOLING_DOWN, now, milliseconds, status...}  with what is left of each
--       cool-down, and its status
--   {KEPT, now, value}  with the kept key's value, or '' if it is of a request that
--       says something else; but one in flight, whose lock is there, is a duplicate
--   {LATE, now}  if nobody waits for the answer any more
-- now is in microseconds. Nothing else is taken, and candidates refuse nobody.
--
-- It begins with limiter/budget.lua and cooldown.lua.

local ADMITTED, DUPLICATE, LIMITED, COOLING_DOWN, LATE, BUSY, WAITING, KEPT = 1, 2, 3, 4, 5, 6, 7, 8

-- Returns the value of a lock, which began by a clock that was set back since then
-- if it begins in the future: so did its expiry, which is corrected. Of a holder
-- that lives the next renewal does the same.
local function current(key, value, now, ttl)
  local before, started, held = string.match(value, '^(%S+ %S+ %S+ %S+ )(%d+)(.*)$')
  local ahead = started and started - now or 0
  if ahead < 1000000 then
    return value
  end
  if held ~= '' then
    ttl = math.max(1, redis.call('PTTL', key) - math.floor(ahead / 1000))
  end
  value = before .. string.format('%.0f', now) .. held
  redis.call('SET', key, value, 'PX', ttl)
  return value
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local deadline = tonumber(ARGV[1])
if deadline ~= 0 and now > deadline then
  return {LATE, now}
end

local at = 1 + ARGV[2] -- the next key
local lock = ARGV[3] ~= '' and KEYS[at]
if ARGV[2] ~= '0' then
  local value = redis.call('GET', KEYS[1])
  local hash, state, token = string.match(value or '', '^%S+ (%S+) (%S+) (%S+)')
  if value and hash ~= ARGV[#ARGV - 1] then
    return {KEPT, now, ''}
  elseif state == 'flight' then
    local flies = redis.call('GET', lock)
    if flies and string.match(flies, '^%S+ (%S+)') == token then
      return {DUPLICATE, now, flies}
    end
  end
  if value then
    return {KEPT, now, value}
  end
end
local arrived = tonumber(ARGV[10]) or 0
if lock then
  local value = redis.call('GET', lock)
  if value and string.sub(value, -5) == ' done' and (arrived == 0 or arrived >= tonumber(string.match(value, '^%S+ %S+ %S+ %S+ (%d+)') or 0)) then
    redis.call('DEL', lock) -- it refuses nobody, and has no answer for this one
    value = nil
  end
  if value then
    value = current(lock, value, now, ARGV[4])
    if ARGV[10] ~= '' and string.find(value, '^%S+ j%S+ %S+ %S+ %d+$') then
      redis.pcall('SET', lock, value .. ' wanted', 'KEEPTTL') -- it is a duplicate also where memory is short
    end
    return {DUPLICATE, now, value}
  end
  at = at + 1
end

local function take_lock()
  if lock then
    local wanted = arrived > 0 and ' wanted' or '' -- by others who came before it, too
    redis.call('SET', lock, ARGV[3] .. string.format(' %.0f', now) .. wanted, 'NX', 'PX', ARGV[4])
  end
  if ARGV[2] ~= '0' then
    local value = '1 ' .. ARGV[#ARGV - 1] .. ' flight ' .. string.match(ARGV[3], '^%S+ (%S+)')
    redis.call('SET', KEYS[1], value, 'PX', ARGV[#ARGV])
  end
end

local cooling = {COOLING_DOWN, now}
for i = 1, ARGV[5] do
  local left, status = cooldown(KEYS[at], tonumber(ARGV[9]), now / 1000)
  cooling[1 + 2 * i], cooling[2 + 2 * i] = left, status or 0
  cooling.down = cooling.down or left > 0
  at = at + 1
end
if cooling.down then
  return cooling
end

local answer, longest, arg = {ADMITTED, now}, tonumber(ARGV[7]), 11
local slots = tonumber(ARGV[6])
for i = 1, slots do
  local key = KEYS[at + i - 1]
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  -- One that ends later than its own TTL lets it is from before the clock was set back.
  local late = redis.call('ZRANGE', key, now + ARGV[4] * 2000, '+inf', 'BYSCORE', 'WITHSCORES')
  for j = 1, #late, 2 do
    if late[j + 1] - now > (tonumber(string.match(late[j], '^%d+')) or 0) * 2000 then
      redis.call('ZREM', key, late[j])
    end
  end
  answer[2 + i] = redis.call('ZCARD', key)
  if answer[2 + i] >= tonumber(ARGV[arg + i]) then
    answer[1] = BUSY
  end
end
if answer[1] == BUSY then
  if longest > 0 then
    take_lock()
  end
  return answer
end
if slots > 0 then
  arg = arg + 1 + slots
end

local function ask(key)
  arg = arg + 3
  return spend(key, ARGV[arg - 3], ARGV[arg - 2], ARGV[arg - 1], time)
end

local spent, candidates = {}, #KEYS - ARGV[8] + 1
for i = at + slots, candidates - 1 do
  local s = ask(KEYS[i])
  spent[#spent + 1], answer[#answer + 1] = s, s
  if s[1] == 0 then
    answer[1] = LIMITED
  end
end

if answer[1] == LIMITED then
  local which = longest > 0 and reserve(spent, longest, time)
  if not which then
    write(spent, false)
    return {LIMITED, now, unpack(spent)}
  end
  answer = {WAITING, now, which, unpack(spent)}
else
  write(spent, true)
  for i = 1, slots do
    local key = KEYS[at + i - 1]
    redis.call('ZADD', key, now + ARGV[4] * 1000, ARGV[11])
    if redis.call('PTTL', key) < tonumber(ARGV[4]) then
      redis.call('PEXPIRE', key, ARGV[4])
    end
    answer[2 + i] = answer[2 + i] + 1
  end
end
take_lock()
for i = candidates, #KEYS do
  local known, s = pcall(ask, KEYS[i]) -- or the key is no budget, which refuses nobody
  if known then
    write({s}, s[1] == 1)
  end
  answer[#answer + 1] = known and s
end
return answer
