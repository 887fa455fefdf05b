-- Begins cool-downs, or extends them. None is ever shortened.
--
-- KEYS[i]  a cool-down's key; all are of one tag
-- ARGV[i]  how long, in milliseconds
--
-- Returns for each 1 if it now lasts as long, 0 if it did already.

local results = {}
for i, key in ipairs(KEYS) do
  results[i] = 0
  if redis.call('PTTL', key) < tonumber(ARGV[i]) then
    local time = redis.call('TIME')
    redis.call('SET', key, string.format('%.0f', time[1] * 1000 + time[2] / 1000 + ARGV[i]), 'PX', ARGV[i])
    results[i] = 1
  end
end
return results
