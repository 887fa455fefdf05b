-- Begins cool-downs, or extends them. None is ever shortened.
--
-- KEYS[i]  a cool-down's key; all are of one tag
-- ARGV[i]  how long, in milliseconds; one that is over is nothing
--
-- Returns for each 1 if it now lasts as long, 0 if it did already, or as a text
-- the error of a key that cannot be written. None keeps the others from beginning.

local time = redis.call('TIME')
local results = {}
for i, key in ipairs(KEYS) do
  local length = tonumber(ARGV[i])
  results[i] = 0
  if length > 0 and redis.call('PTTL', key) < length then
    local reply = redis.pcall('SET', key, string.format('%.0f', time[1] * 1000 + time[2] / 1000 + length), 'PX', length)
    results[i] = reply.err or 1
  end
end
return results
