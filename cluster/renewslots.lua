-- Renews slots whose exchanges are still under way.
--
-- KEYS[i]       the key of a kind of slots; all are of one tag
-- ARGV[4i - 3]  the token of a slot's owner
-- ARGV[4i - 2]  its TTL in milliseconds
-- ARGV[4i - 1]  how many slots there are
-- ARGV[4i]      until when somebody waits for the answer, in microseconds by this
--               server's clock; 0 where its clock is not known
--
-- Returns for each 1 if it was renewed, or taken again because it was gone and one
-- is free; 0 if none is; or as a text the error of a key that has no slots, cannot
-- be written, or is told of too late: the exchange may be over, and its end told.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local results = {}
for i, key in ipairs(KEYS) do
  local token, ttl, most, deadline = ARGV[4 * i - 3], tonumber(ARGV[4 * i - 2]), tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
  local reply
  if deadline ~= 0 and now > deadline then
    reply = {err = 'LATE nobody waits for this renewal any more'}
  else
    reply = redis.pcall('ZREMRANGEBYSCORE', key, '-inf', now)
  end
  if type(reply) == 'number' then
    if not redis.call('ZSCORE', key, token) and redis.call('ZCARD', key) >= most then
      reply = 0
    else
      reply = redis.pcall('ZADD', key, now + ttl * 1000, token)
      if type(reply) == 'number' then
        reply = 1
        if redis.call('PTTL', key) < ttl then
          redis.call('PEXPIRE', key, ttl)
        end
      end
    end
  end
  results[i] = type(reply) == 'table' and reply.err or reply
end
return results
