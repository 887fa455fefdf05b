-- Decides one ask, all or nothing: the lock, cool-downs and every limit, in this
-- order. A duplicate is a duplicate first, whatever is spent or cooling down.
--
-- KEYS, all of one tag, in the order in which they are decided:
--   ARGV[2] of kept keys (an Idempotency-Key's): none yet
--   the lock's, where ARGV[3] is not empty
--   ARGV[5] of cool-downs
--   ARGV[6] of slots: none yet
--   of budgets, one for each limit
-- ARGV[1]      until when somebody waits for the answer, in microseconds by this
--              server's clock; 0 where its clock is not known
-- ARGV[2]      how many kept keys
-- ARGV[3]      '1 TOKEN REPLICA REQUEST-ID' of the lock, or '' where none is wanted
-- ARGV[4]      the lock's TTL in milliseconds
-- ARGV[5]      how many cool-downs
-- ARGV[6]      how many slots
-- ARGV[7...]   four for each limit: burst, interval and furthest, as spend takes
--              them, and the longest wait in microseconds, which is 0 yet
--
-- Returns {ADMITTED, now, reply...} or {LIMITED, now, reply...} with what spend
-- replied for each limit, {DUPLICATE, now, the lock's value}, {COOLING_DOWN, now,
-- milliseconds...} with what is left of each cool-down, or {LATE, now} if nobody
-- waits any more. now is in microseconds. Only an admission takes anything.
--
-- It begins with limiter/budget.lua.

local ADMITTED, DUPLICATE, LIMITED, COOLING_DOWN, LATE = 1, 2, 3, 4, 5

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
if lock then
  local value = redis.call('GET', lock)
  if value then
    return {DUPLICATE, now, current(lock, value, now, ARGV[4])}
  end
  at = at + 1
end

local cooling = {COOLING_DOWN, now}
for i = 1, ARGV[5] do
  local left = redis.call('PTTL', KEYS[at])
  cooling[2 + i] = left
  cooling.down = cooling.down or left > 0
  at = at + 1
end
if cooling.down then
  return cooling
end

at = at + ARGV[6]
local answer, spent = {ADMITTED, now}, {}
for i = at, #KEYS do
  local arg = 7 + (i - at) * 4
  local reply = spend(KEYS[i], ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], time)
  if reply[1] == 0 then
    answer[1] = LIMITED
  end
  answer[#answer + 1], spent[#spent + 1] = reply, reply
end

if answer[1] == ADMITTED and lock then
  redis.call('SET', lock, ARGV[3] .. string.format(' %.0f', now), 'NX', 'PX', ARGV[4])
end
write(spent, answer[1] == ADMITTED)
return answer
