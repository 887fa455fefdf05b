-- Frees slots whose exchanges are over.
--
-- KEYS[i]  the key of a kind of slots; all are of one tag
-- ARGV[i]  the token of a slot's owner
--
-- Returns for each 1 if it was taken, 0 if it was not, or as a text the error of a
-- key that has no slots. None keeps the others from being freed.

local results = {}
for i, key in ipairs(KEYS) do
  local reply = redis.pcall('ZREM', key, ARGV[i])
  results[i] = type(reply) == 'table' and reply.err or reply
end
return results
