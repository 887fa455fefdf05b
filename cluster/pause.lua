-- Begins a cool-down, or extends it. It is never shortened.
--
-- KEYS[1]   the cool-down's key
-- ARGV[1]   how long, in milliseconds
--
-- Returns 1 if it now lasts as long, 0 if it did already.

if redis.call('PTTL', KEYS[1]) >= tonumber(ARGV[1]) then
  return 0
end
local time = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%.0f', time[1] * 1000 + time[2] / 1000 + ARGV[1]), 'PX', ARGV[1])
return 1
