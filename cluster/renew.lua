-- Renews a lock whose exchange is still under way.
--
-- KEYS[1]   the lock's key
-- ARGV[1]   its token
-- ARGV[2]   its TTL in milliseconds
-- ARGV[3]   '1 TOKEN REPLICA REQUEST-ID'
--
-- Returns 1 if renewed, or taken again because the key was gone (a flush, a
-- failover, a pause longer than the TTL); 0 if it is another's, whose lock is
-- not touched.

local value = redis.call('GET', KEYS[1])
if not value then
  local time = redis.call('TIME')
  redis.call('SET', KEYS[1], ARGV[3] .. ' ' .. time[1] .. string.format('%06d', time[2]), 'NX', 'PX', ARGV[2])
  return 1
end
if string.match(value, '^%S+ (%S+)') ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
