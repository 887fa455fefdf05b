-- Ends locks, or turns them into holds.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[2i - 1]  its token
-- ARGV[2i]      how long equal requests stay refused, in milliseconds; 0 deletes
--
-- Returns for each 1 if the lock was the token's, else 0: gone or another's,
-- whose lock is not touched; or as a text the error of a key that is no lock, or
-- cannot be written. None keeps the others from being ended.

local results = {}
for i, key in ipairs(KEYS) do
  local token, hold = ARGV[2 * i - 1], tonumber(ARGV[2 * i])
  local reply = redis.pcall('GET', key)
  if type(reply) == 'string' then
    if string.match(reply, '^%S+ (%S+)') ~= token then
      reply = false
    elseif hold > 0 then
      reply = redis.pcall('SET', key, reply .. ' held', 'PX', hold)
    else
      reply = redis.pcall('DEL', key)
    end
  end
  if type(reply) == 'table' and reply.err then
    results[i] = reply.err
  else
    results[i] = reply and 1 or 0
  end
end
return results
