-- Ends a lock, or turns it into a hold.
--
-- KEYS[1]   the lock's key
-- ARGV[1]   its token
-- ARGV[2]   how long equal requests stay refused, in milliseconds; 0 deletes
--
-- Returns 1 if the lock was the token's, else 0: gone or another's, whose
-- lock is not touched.

local value = redis.call('GET', KEYS[1])
if not value or string.match(value, '^%S+ (%S+)') ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], value .. ' held', 'PX', ARGV[2])
end
return 1
