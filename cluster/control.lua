-- Keeps what operators have changed, unless there is something newer.
--
-- KEYS[1]  its key
-- ARGV[1]  'VERSION JSON', or '' to keep nothing and only ask
-- ARGV[2]  its version; 0 to ask
--
-- Returns now in microseconds, and what is stored, or ''. It has no expiry: it is
-- what operators want until they want something else.

local time = redis.call('TIME')
local value = redis.pcall('GET', KEYS[1])
if type(value) ~= 'string' then -- there is none, or nothing of ours
  value = ''
end
local version = string.match(value, '^(%d+) ')
if not version or #version > 15 then -- nor is this
  version = 0
end
if tonumber(ARGV[2]) > tonumber(version) then
  value = ARGV[1]
  redis.call('SET', KEYS[1], value)
end
return {time[1] * 1000000 + time[2], value}
