-- Begins cool-downs, or extends them. None is ever shortened.
--
-- KEYS[i]      a cool-down's key; all are of one tag
-- ARGV[2i - 1] how long, in milliseconds; one that is over is nothing
-- ARGV[2i]     the status with which the upstream has asked for it
--
-- Returns for each 1 if it now lasts as long, 0 if it did already, or as a text
-- the error of a key that cannot be written. None keeps the others from beginning.
--
-- It begins with cooldown.lua.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local results = {}
for i, key in ipairs(KEYS) do
  local length, status = tonumber(ARGV[2 * i - 1]), ARGV[2 * i]
  results[i] = 0
  if length > 0 and cooldown(key, 0, now) < length then
    local reply = redis.pcall('SET', key, string.format('%.0f %.0f %s', now + length, length, status), 'PX', length)
    results[i] = reply.err or 1
  end
end
return results
