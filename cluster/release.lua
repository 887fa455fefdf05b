-- Ends locks, or turns them into holds.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[3i - 2]  its token
-- ARGV[3i - 1]  how long equal requests stay refused, in milliseconds; 0 deletes
-- ARGV[3i]      '1 TOKEN REPLICA REQUEST-ID', where there is a hold
--
-- Returns for each 1 if the lock was the token's, or was gone (it was never taken,
-- or a flush or a failover took it) and has a hold now; 0 if there is none to end,
-- or it is another's, which is not touched; or as a text the error of a key that is
-- no lock, or cannot be written. None keeps the others from being ended.

local results = {}
for i, key in ipairs(KEYS) do
  local hold, reply = ARGV[3 * i - 1], redis.pcall('GET', key)
  if type(reply) == 'string' then
    -- Nobody else has the token, so it can stand in no other's value.
    if not string.find(reply, ARGV[3 * i - 2], 1, true) then
      reply = false
    elseif hold == '0' then
      reply = redis.pcall('DEL', key)
    else
      reply = redis.pcall('SET', key, reply .. ' held', 'PX', hold)
    end
  elseif not reply and hold ~= '0' then
    local time = redis.call('TIME')
    local started = string.format(' %.0f', time[1] * 1000000 + time[2])
    reply = redis.pcall('SET', key, ARGV[3 * i] .. started .. ' held', 'PX', hold)
  end
  results[i] = reply == 1 and 1 or not reply and 0 or reply.err or 1
end
return results
