-- Tells that a replica lives, and how far it has followed what operators change;
-- and asks who else lives, and for what has been changed.
--
-- KEYS[1]   the key of all replicas: their ids by when they were last heard of
-- KEYS[2]   that of what operators have changed: 'VERSION JSON', or absent
-- KEYS[3]   that of what this replica has followed
-- ARGV[1]   this replica's id
-- ARGV[2]   after how many milliseconds of silence a replica counts as gone
-- ARGV[3]   the version that this replica knows
-- ARGV[4]   what it has followed: 'VERSION FREED'
--
-- Returns now in microseconds, the version that is stored, or 0; what is stored if
-- that is newer than what the replica knows, or ''; and the ids of all replicas that
-- live.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + ARGV[2], '+inf') -- from before this server's clock was set back
redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[2])

local control = redis.pcall('GET', KEYS[2])
local version = 0
if type(control) == 'string' then
  local digits = string.match(control, '^(%d+) ')
  if digits and #digits <= 15 then
    version = tonumber(digits)
  end
end
if version <= tonumber(ARGV[3]) then
  control = ''
end
return {time[1] * 1000000 + time[2], version, control, unpack(redis.call('ZRANGE', KEYS[1], 0, -1))}
