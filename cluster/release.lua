-- Ends locks, or turns them into holds.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[2i - 1]  its token
-- ARGV[2i]      how long equal requests stay refused, in milliseconds; 0 deletes
--
-- Returns for each 1 if the lock was the token's, else 0: gone or another's,
-- whose lock is not touched; or the error of a key that is no lock.

local results = {}
for i, key in ipairs(KEYS) do
  local token, hold = ARGV[2 * i - 1], ARGV[2 * i]
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    results[i] = value
  elseif not value or string.match(value, '^%S+ (%S+)') ~= token then
    results[i] = 0
  else
    if hold == '0' then
      redis.call('DEL', key)
    else
      redis.call('SET', key, value .. ' held', 'PX', hold)
    end
    results[i] = 1
  end
end
return results
