-- Renews locks whose exchanges are still under way.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[7i - 6]  its token
-- ARGV[7i - 5]  its TTL in milliseconds
-- ARGV[7i - 4]  '1 TOKEN REPLICA REQUEST-ID', of a flight with when it began
-- ARGV[7i - 3]  until when somebody waits for the answer, in microseconds by this
--               server's clock; 0 where its clock is not known
-- ARGV[7i - 2]  the kept key's, of a request with an idempotency key, or ''
-- ARGV[7i - 1]  '1 HASH flight TOKEN', likewise
-- ARGV[7i]      for how long the key is known, in milliseconds
--
-- Returns for each 1 if renewed, or taken again because the key was gone (a
-- flush, a failover, a pause longer than the TTL), or a hold by now; 0 if it is
-- another's, whose lock is not touched; or as a text the error of a key that is no
-- lock, cannot be written, or is told of too late: its exchange may be over, and
-- its end told. None keeps the others from being renewed. A lock's idempotency key is
-- put back if it is gone: another content under it must not be sent meanwhile. Where
-- the clock is not known it is not: found late, it would be of an exchange that is
-- over, and stay for the key's whole time.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local results = {}
for i, key in ipairs(KEYS) do
  local token, ttl, lock, deadline, kept, flight, keep = unpack(ARGV, 7 * i - 6, 7 * i)
  deadline = tonumber(deadline)
  local value = redis.pcall('GET', key)
  local reply = value
  if deadline ~= 0 and now > deadline then
    reply = {err = 'LATE nobody waits for this renewal any more'}
  elseif not value then
    local started = string.find(lock, '^%S+ %S+ %S+ %S+ %d') and '' or string.format(' %.0f', now)
    reply = redis.pcall('SET', key, lock .. started, 'NX', 'PX', ttl)
  elseif type(value) == 'string' then
    reply = string.match(value, '^%S+ (%S+)') == token
    if reply and string.sub(value, -5) ~= ' held' then
      reply = redis.pcall('PEXPIRE', key, ttl)
    end
  end
  if kept ~= '' and deadline ~= 0 and reply and not (type(reply) == 'table' and reply.err) then
    local there = redis.pcall('GET', kept) or redis.pcall('SET', kept, flight, 'PX', keep)
    reply = type(there) == 'table' and there.err and there or reply
  end
  if type(reply) == 'table' and reply.err then
    results[i] = reply.err
  else
    results[i] = reply and 1 or 0
  end
end
return results
