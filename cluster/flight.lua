-- Tells whether a flight is over, and if not says that its answer is wanted.
--
-- KEYS[1]  its lock's key
-- ARGV[1]  its token
--
-- Returns 'F' while it is under way; of one that is over, what is to be said of it if
-- there is no answer: 'U' if there is none to be shared, as where memory is too short
-- to say that it is wanted, 'L' if nothing is left of it.

local value = redis.call('GET', KEYS[1])
if not value or string.match(value, '^%S+ (%S+)') ~= ARGV[1] then
  return 'L'
end
if string.find(value, ' alone', 1, true) or string.find(value, ' held', 1, true) or string.find(value, ' done', 1, true) then
  return 'U'
end
if not string.find(value, ' wanted', 1, true) then
  local marked = redis.pcall('SET', KEYS[1], value .. ' wanted', 'KEEPTTL')
  if marked.err then
    return string.find(marked.err, 'OOM', 1, true) and 'U' or marked
  end
end
return 'F'
