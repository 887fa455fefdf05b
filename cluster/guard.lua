-- Decides one ask, all or nothing: the lock, cool-downs, slots and every limit, in
-- this order. A duplicate is a duplicate first, whatever is spent or cooling down.
--
-- KEYS, all of one tag, in the order in which they are decided:
--   with the part key: one, and then the lock's, or none
--   the lock's, where ARGV[2] is not empty
--   ARGV[4] of cool-downs
--   of kinds of slots
--   of budgets, one for each limit; the last are candidates'
-- ARGV[1]      until when somebody waits for the answer, in microseconds by this
--              server's clock; 0 where its clock is not known
-- ARGV[2]      '1 TOKEN REPLICA REQUEST-ID' of the lock, or '' where none is wanted
-- ARGV[3]      the TTL of the lock and of slots, in milliseconds
-- ARGV[4]      how many cool-downs
-- ARGV[5]      the longest cool-down in milliseconds; 0 for no bound
-- ARGV[6...]   with the part
--   wait:       longest that the request waits for its budgets, in microseconds, or
--               0; not 0 if it would wait for slots
--   candidates: how many
--   share:      what an ask wants of an equal one in flight: '' nothing; 'join' its
--               answer; or a fresh one, or any when it asks again: when the request
--               came, in microseconds by this server's clock, or 0 in its first ask
--   key:        how many kept keys, an idempotency key's: 0 or 1
--   slots:      how many kinds; their owner's token, which begins with the TTL that
--               its slots have; and of each kind how many there are, or 0 for one
--               that waits after others
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
-- It begins with limiter/budget.lua and cooldown.lua. What stands between
-- --[[if NAME]] and --[[end]] is left out of the plain guard, for asks that have no
-- use for any of it.

local ADMITTED, DUPLICATE, LIMITED, COOLING_DOWN, LATE, BUSY, WAITING, KEPT = 1, 2, 3, 4, 5, 6, 7, 8

local time = redis.call('TIME')
local began = time[1] .. string.sub('00000' .. time[2], -6) -- in microseconds
local now = tonumber(began)
if ARGV[1] ~= '0' and now > tonumber(ARGV[1]) then
  return {LATE, now}
end

local at, arg = 1, 6 -- the next key, and the next argument
--[[if wait]]
local longest = tonumber(ARGV[arg])
arg = arg + 1
--[[end]]
local budgets = #KEYS
--[[if candidates]]
budgets = budgets - ARGV[arg]
arg = arg + 1
--[[end]]

local arrived, wanted = 0, ''
--[[if share]]
local share = ARGV[arg]
arrived, arg = tonumber(share) or 0, arg + 1
if arrived > 0 then
  wanted = ' wanted' -- its answer, by others who came before it begins too
end
--[[end]]
local kept
--[[if key]]
kept = ARGV[arg] ~= '0' and KEYS[1]
arg = arg + 1
if kept then
  at = 2
end
--[[end]]

local lock = ARGV[2] ~= '' and KEYS[at]
--[[if key]]
if kept then
  local value = redis.call('GET', kept)
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
--[[end]]
if lock then
  local value = redis.call('GET', lock)
  if value and string.sub(value, -5) == ' done' and (arrived == 0 or arrived >= tonumber(string.match(value, '^%S+ %S+ %S+ %S+ (%d+)') or 0)) then
    redis.call('DEL', lock) -- it refuses nobody, and has no answer for this one
    value = nil
  end
  if value then
    -- A lock that begins in the future began by a clock that was set back since
    -- then: so did its expiry, which is corrected. Of a holder that lives the next
    -- renewal does the same.
    local before, started, held = string.match(value, '^(%S+ %S+ %S+ %S+ )(%d+)(.*)$')
    local ahead = started and started - now or 0
    if ahead >= 1000000 then
      local ttl = held == '' and ARGV[3] or math.max(1, redis.call('PTTL', lock) - math.floor(ahead / 1000))
      value = before .. began .. held
      redis.call('SET', lock, value, 'PX', ttl)
    end
    --[[if share]]
    if share ~= '' and string.find(value, '^%S+ j%S+ %S+ %S+ %d+$') then
      redis.pcall('SET', lock, value .. ' wanted', 'KEEPTTL') -- it is a duplicate also where memory is short
    end
    --[[end]]
    return {DUPLICATE, now, value}
  end
  at = at + 1
end

-- Takes the lock, and with it the key.
local function take()
  if lock then
    redis.call('SET', lock, ARGV[2] .. ' ' .. began .. wanted, 'NX', 'PX', ARGV[3])
  end
  --[[if key]]
  if kept then
    local value = '1 ' .. ARGV[#ARGV - 1] .. ' flight ' .. string.match(ARGV[2], '^%S+ (%S+)')
    redis.call('SET', kept, value, 'PX', ARGV[#ARGV])
  end
  --[[end]]
end

local cooling
for i = 1, ARGV[4] do
  local left, status = cooldown(KEYS[at], ARGV[5], now / 1000)
  if left > 0 then
    cooling = cooling or {COOLING_DOWN, now}
    cooling[1 + 2 * i], cooling[2 + 2 * i] = left, status
  end
  at = at + 1
end
if cooling then
  for i = 3, 2 + 2 * ARGV[4] do
    cooling[i] = cooling[i] or 0
  end
  return cooling
end

local answer = {ADMITTED, now}
--[[if slots]]
local slots, token = tonumber(ARGV[arg]), ARGV[arg + 1]
arg = arg + 2
for i = 1, slots do
  local key = KEYS[at + i - 1]
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  -- One that ends later than its own TTL lets it is from before the clock was set back.
  local late = redis.call('ZRANGE', key, now + ARGV[3] * 2000, '+inf', 'BYSCORE', 'WITHSCORES')
  for j = 1, #late, 2 do
    if late[j + 1] - now > (tonumber(string.match(late[j], '^%d+')) or 0) * 2000 then
      redis.call('ZREM', key, late[j])
    end
  end
  answer[2 + i] = redis.call('ZCARD', key)
  if answer[2 + i] >= tonumber(ARGV[arg]) then
    answer[1] = BUSY
  end
  arg = arg + 1
end
if answer[1] == BUSY then
  --[[if wait]]
  if longest > 0 then
    take()
  end
  --[[end]]
  return answer
end
at = at + slots
--[[end]]

local first = #answer + 1
for i = at, budgets do
  local s = spend(KEYS[i], ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], time)
  answer[#answer + 1] = s
  if s[1] == 0 then
    answer[1] = LIMITED
  end
  arg = arg + 3
end

if answer[1] == LIMITED then
  local spent = {unpack(answer, first)}
  local which
  --[[if wait]]
  which = longest > 0 and reserve(spent, longest, time)
  --[[end]]
  if not which then
    for _, s in ipairs(spent) do
      settle(s, false)
    end
    return {LIMITED, now, unpack(spent)}
  end
  answer = {WAITING, now, which, unpack(spent)}
else
  for i = first, #answer do
    settle(answer[i], true)
  end
  --[[if slots]]
  for i = 1, slots do
    local key = KEYS[at - slots + i - 1]
    redis.call('ZADD', key, now + ARGV[3] * 1000, token)
    if redis.call('PTTL', key) < tonumber(ARGV[3]) then
      redis.call('PEXPIRE', key, ARGV[3])
    end
    answer[2 + i] = answer[2 + i] + 1
  end
  --[[end]]
end
take()
--[[if candidates]]
for i = budgets + 1, #KEYS do
  -- A key that is no budget refuses nobody.
  local known, s = pcall(spend, KEYS[i], ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], time)
  if known then
    settle(s, s[1] == 1)
  end
  answer[#answer + 1] = known and s
  arg = arg + 3
end
--[[end]]
return answer
