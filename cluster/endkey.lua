-- Ends exchanges that had an idempotency key: says what has become of the key, and
-- ends the lock, in this order, so that nobody finds a key in flight without its lock.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[6i - 5]  its token
-- ARGV[6i - 4]  the kept key's
-- ARGV[6i - 3]  the hash of what the request says
-- ARGV[6i - 2]  for how long the answer is kept, in milliseconds
-- ARGV[6i - 1]  what has become of it: 'free' for none, 'flight' if that is not known,
--               'not-kept' if the answer may not be kept, or 'answer'
-- ARGV[6i]      the sealed answer, or ''
--
-- Returns for each 1 if the key or the lock was the token's, or is now; 0 if both
-- are another's, which are not touched, or gone; or as a text the error of a key that
-- is none, or cannot be written. None keeps the others from being ended. An answer
-- that cannot be kept, as where memory is short, is remembered as one that is not:
-- what follows the end of a lock is written also there.

local results = {}
for i, lock in ipairs(KEYS) do
  local token, key, hash, keep, state, answer = unpack(ARGV, 6 * i - 5, 6 * i)
  local value = redis.pcall('GET', key)
  local failed = type(value) == 'table' and value.err
  local theirs = failed or value and string.match(value, '^%S+ %S+ %S+ (%S+)') ~= token
  local ours = value and not theirs
  local head = '1 ' .. hash .. ' '
  local kept = false
  if state == 'answer' and not theirs then
    local reply = redis.pcall('SET', key, head .. 'answer ' .. token .. ' ' .. answer, 'PX', keep)
    kept = not reply.err
  end
  local held = redis.pcall('GET', lock)
  if type(held) == 'string' and string.match(held, '^%S+ (%S+)') == token then
    redis.call('DEL', lock)
    ours = true
  end
  if not theirs and not kept and not failed then
    local reply
    if state == 'free' then
      reply = ours and redis.pcall('DEL', key)
    elseif state == 'flight' then
      reply = not value and redis.pcall('SET', key, head .. 'flight ' .. token, 'PX', keep)
    else
      reply = redis.pcall('SET', key, head .. 'not-kept ' .. token, 'PX', keep)
    end
    failed = type(reply) == 'table' and reply.err
    ours = ours or state ~= 'free'
  end
  results[i] = failed or (ours or kept) and 1 or 0
end
return results
