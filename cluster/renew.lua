-- Renews locks whose exchanges are still under way.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[3i - 2]  its token
-- ARGV[3i - 1]  its TTL in milliseconds
-- ARGV[3i]      '1 TOKEN REPLICA REQUEST-ID'
--
-- Returns for each 1 if renewed, or taken again because the key was gone (a
-- flush, a failover, a pause longer than the TTL); 0 if it is another's, whose
-- lock is not touched; or as a text the error of a key that is no lock, or cannot
-- be written. None keeps the others from being renewed.

local results = {}
for i, key in ipairs(KEYS) do
  local token, ttl, lock = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  local value = redis.pcall('GET', key)
  local reply = value
  if not value then
    local time = redis.call('TIME')
    reply = redis.pcall('SET', key, lock .. ' ' .. time[1] .. string.format('%06d', time[2]), 'NX', 'PX', ttl)
  elseif type(value) == 'string' then
    reply = string.match(value, '^%S+ (%S+)') == token and redis.pcall('PEXPIRE', key, ttl)
  end
  if type(reply) == 'table' and reply.err then
    results[i] = reply.err
  else
    results[i] = reply and 1 or 0
  end
end
return results
