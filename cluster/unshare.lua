-- Says of flights that their answers are their leaders' alone.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[3i - 2]  its token
-- ARGV[3i - 1]  the channel of the tag's flights
-- ARGV[3i]      the command by which those are told who wait
--
-- Returns for each 1 if the lock is the token's, or else 0; or as a text the error of
-- a key that is no lock, or cannot be written.

local results = {}
for i, key in ipairs(KEYS) do
  local token, channel, publish = unpack(ARGV, 3 * i - 2, 3 * i)
  local value = redis.pcall('GET', key)
  local reply = type(value) == 'table' and value
  local own = type(value) == 'string' and string.match(value, '^%S+ (%S+)') == token
  if own and not string.find(value, ' held', 1, true) and not string.find(value, ' done', 1, true) then
    reply = redis.pcall('SET', key, value .. ' alone', 'KEEPTTL')
    if string.find(value, ' wanted', 1, true) then
      redis.pcall(publish, channel, token .. ' U')
    end
  end
  if type(reply) == 'table' and reply.err then
    results[i] = reply.err
  else
    results[i] = reply and 1 or 0
  end
end
return results
