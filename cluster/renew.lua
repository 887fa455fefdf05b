-- Renews locks whose exchanges are still under way.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[3i - 2]  its token
-- ARGV[3i - 1]  its TTL in milliseconds
-- ARGV[3i]      '1 TOKEN REPLICA REQUEST-ID'
--
-- Returns for each 1 if renewed, or taken again because the key was gone (a
-- flush, a failover, a pause longer than the TTL); 0 if it is another's, whose
-- lock is not touched; or the error of a key that is no lock.

local results = {}
for i, key in ipairs(KEYS) do
  local token, ttl, lock = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    results[i] = value
  elseif not value then
    local time = redis.call('TIME')
    redis.call('SET', key, lock .. ' ' .. time[1] .. string.format('%06d', time[2]), 'NX', 'PX', ttl)
    results[i] = 1
  elseif string.match(value, '^%S+ (%S+)') ~= token then
    results[i] = 0
  else
    redis.call('PEXPIRE', key, ttl)
    results[i] = 1
  end
end
return results
