-- Tells that a replica lives, and who else does.
--
-- KEYS[1]   the key of all replicas: their ids by when they were last heard of
-- ARGV[1]   this replica's id
-- ARGV[2]   after how many milliseconds of silence a replica counts as gone
--
-- Returns the ids of all replicas that live.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + ARGV[2], '+inf') -- from before this server's clock was set back
return redis.call('ZRANGE', KEYS[1], 0, -1)
