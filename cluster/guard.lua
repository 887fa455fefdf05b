-- Decides one ask: cool-downs, the lock and every limit, all or nothing.
--
-- KEYS[...]    the keys of cool-downs
-- KEYS[...]    the lock's key, only where ARGV[1] is not empty
-- KEYS[...]    one budget's key a limit
-- ARGV[1]      '1 TOKEN REPLICA REQUEST-ID' of the lock, or '' where none is wanted
-- ARGV[2]      the lock's TTL in milliseconds
-- ARGV[3]      how many cool-downs
-- ARGV[4...]   redis_rate's arguments, four a limit: burst, rate, period in seconds, cost
--
-- Returns {ADMITTED, reply...} or {LIMITED, reply...} with redis_rate's reply
-- for each limit, {DUPLICATE, the lock's value, now in microseconds}, or
-- {COOLING_DOWN, milliseconds...} with what is left of each cool-down.
-- Only an admission writes anything.

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

-- redis_rate's own script, unmodified. Its globals are these parameters.
local function gcra(KEYS, ARGV, redis)
--[[redis_rate]]
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

-- What redis_rate's script sees of Redis: one time for all limits, and writes
-- that wait until every limit has admitted.
local offset, kept = 0, {}
local view = {replicate_commands = function() end}
function view.call(command, key, value, _, seconds)
  if command == 'TIME' then
    return time
  elseif command == 'GET' then
    -- A TAT that is no finite number, or lies further ahead than any limit of
    -- like size can have put it (the clock stepped back, or somebody wrote
    -- it), is no TAT: it would refuse until then. Ten burst offsets leave room
    -- for replicas that run with another burst during a rolling restart.
    local tat = tonumber(redis.call('GET', key))
    local ahead = tat and tat - (time[1] - 1483228800)
    if ahead and ahead == ahead and ahead < 10 * offset + 1 then
      return tat
    end
    return false
  elseif command == 'SET' then
    kept[#kept + 1] = {key, value, seconds}
  end
end

local answer = {ADMITTED}
local limits = lock and first + 1 or first
for i = limits, #KEYS do
  local at = 4 + (i - limits) * 4
  local burst, rate, period = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  offset = period / rate * burst
  local reply = gcra({KEYS[i]}, {burst, rate, period, ARGV[at + 3]}, view)
  if reply[1] == 0 then
    answer[1] = LIMITED
  end
  answer[#answer + 1] = reply
end

if answer[1] == ADMITTED then
  if lock then
    redis.call('SET', KEYS[first], ARGV[1] .. ' ' .. now, 'NX', 'PX', ARGV[2])
  end
  for _, set in ipairs(kept) do
    redis.call('SET', set[1], set[2], 'EX', set[3])
  end
end
return answer
