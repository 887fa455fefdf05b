-- Ends locks, or turns them into holds.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[3i - 2]  its token
-- ARGV[3i - 1]  how long equal requests stay refused, in milliseconds; 0 deletes
-- ARGV[3i]      '1 TOKEN REPLICA REQUEST-ID'
--
-- Returns for each 1 if the lock was the token's, or was gone (it was never taken,
-- or a flush or a failover took it) and has a hold now; 0 if there is none to end,
-- or it is another's, which is not touched; or as a text the error of a key that is
-- no lock, or cannot be written. None keeps the others from being ended.

local time = redis.call('TIME')
local results = {}
for i, key in ipairs(KEYS) do
  local token, hold, lock = ARGV[3 * i - 2], tonumber(ARGV[3 * i - 1]), ARGV[3 * i]
  local reply = redis.pcall('GET', key)
  if type(reply) == 'string' then
    if string.match(reply, '^%S+ (%S+)') ~= token then
      reply = false
    elseif hold > 0 then
      reply = redis.pcall('SET', key, reply .. ' held', 'PX', hold)
    else
      reply = redis.pcall('DEL', key)
    end
  elseif not reply and hold > 0 then
    local started = string.format(' %.0f', time[1] * 1000000 + time[2])
    reply = redis.pcall('SET', key, lock .. started .. ' held', 'PX', hold)
  end
  if type(reply) == 'table' and reply.err then
    results[i] = reply.err
  else
    results[i] = reply and 1 or 0
  end
end
return results
