-- Tells what has become of a flight, and says that its answer is wanted.
--
-- KEYS[1]  its lock's key
-- KEYS[2]  its answer's, of the same tag
-- ARGV[1]  its token
--
-- Returns how it has ended, as its leader has told it; or 'F' while it is under way,
-- 'U' if it has ended or goes on without an answer to be shared, as where memory is
-- too short to say that it is wanted, 'L' if nothing is there of it.

local answer = redis.call('GET', KEYS[2])
if answer then
  return answer
end
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
