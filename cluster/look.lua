-- Tells of cool-downs, and changes nothing but what a clock that was set back has
-- left.
--
-- KEYS[i]  a cool-down's key; all are of one tag
-- ARGV[i]  its longest in milliseconds; 0 for no bound
--
-- Returns two numbers for each: how many milliseconds are left, 0 if it is over,
-- and its status.
--
-- It begins with cooldown.lua.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local results = {}
for i, key in ipairs(KEYS) do
  local left, status = cooldown(key, tonumber(ARGV[i]), now)
  results[2 * i - 1], results[2 * i] = left, status or 0
end
return results
