-- Decides one ask: cool-downs, the lock and every limit, all or nothing.
--
-- KEYS[...]    the keys of cool-downs
-- KEYS[...]    the lock's key, only where ARGV[1] is not empty
-- KEYS[...]    one budget's key a limit
-- ARGV[1]      '1 TOKEN REPLICA REQUEST-ID' of the lock, or '' where none is wanted
-- ARGV[2]      the lock's TTL in milliseconds
-- ARGV[3]      how many cool-downs
-- ARGV[4...]   three a limit: burst, interval, furthest, as spend takes them
--
-- Returns {ADMITTED, reply...} or {LIMITED, reply...} with what spend replied
-- for each limit, {DUPLICATE, the lock's value, now in microseconds}, or
-- {COOLING_DOWN, milliseconds...} with what is left of each cool-down.
-- Only an admission takes anything.
--
-- It begins with limiter/budget.lua.

local ADMITTED, DUPLICATE, LIMITED, COOLING_DOWN = 1, 2, 3, 4

local first = 1 + ARGV[3]
local cooling = {COOLING_DOWN}
for i = 1, ARGV[3] do
  cooling[1 + i] = redis.call('PTTL', KEYS[i])
  cooling.down = cooling.down or cooling[1 + i] > 0
end
if cooling.down then
  return cooling
end

local time = redis.call('TIME')
local now = time[1] .. string.format('%06d', time[2])

local lock = ARGV[1] ~= ''
if lock then
  local value = redis.call('GET', KEYS[first])
  if value then
    return {DUPLICATE, value, now}
  end
end

local answer, spent = {ADMITTED}, {}
local limits = lock and first + 1 or first
for i = limits, #KEYS do
  local at = 4 + (i - limits) * 3
  local reply = spend(KEYS[i], ARGV[at], ARGV[at + 1], ARGV[at + 2], time)
  if reply[1] == 0 then
    answer[1] = LIMITED
  end
  answer[#answer + 1], spent[#spent + 1] = reply, reply
end

if answer[1] == ADMITTED and lock then
  redis.call('SET', KEYS[first], ARGV[1] .. ' ' .. now, 'NX', 'PX', ARGV[2])
end
write(spent, answer[1] == ADMITTED)
return answer
