-- Ends the locks of flights, or turns them into holds, and lets those have their
-- answers who wait for them.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[9i - 8]  its token
-- ARGV[9i - 7]  how long equal requests stay refused, in milliseconds; 0 deletes
-- ARGV[9i - 6]  '1 TOKEN REPLICA REQUEST-ID'
-- ARGV[9i - 5]  how the flight has ended: its kind, and of an answer its sealed text;
--               or '' to be asked for that if anybody waits for it
-- ARGV[9i - 4]  the answer's key
-- ARGV[9i - 3]  for how long it is there for those who wait, in milliseconds, besides
--               the hold
-- ARGV[9i - 2]  for how long the flight is remembered for those who came before it
--               began, in milliseconds; 0 for not
-- ARGV[9i - 1]  the channel of the tag's flights
-- ARGV[9i]      the command by which they are told: PUBLISH, or in a Cluster SPUBLISH
--
-- Returns for each what release.lua does, or 2 if somebody waits, and it was not said
-- how the flight has ended: nothing is done then. An answer that cannot be kept, as
-- where memory is short, ends its lock all the same: there is none to be shared.

local time = redis.call('TIME')
local results = {}
for i, key in ipairs(KEYS) do
  local token, hold, lock, ending, answer, ttl, mark, channel, publish = unpack(ARGV, 9 * i - 8, 9 * i)
  hold, mark = tonumber(hold), tonumber(mark)
  local reply = redis.pcall('GET', key)
  local wanted = false
  if type(reply) == 'string' then
    if string.match(reply, '^%S+ (%S+)') ~= token then
      reply = false
    else
      wanted = string.find(reply, ' wanted', 1, true)
      if wanted and ending == '' then
        reply = 2
      elseif hold > 0 then
        reply = redis.pcall('SET', key, reply .. ' held', 'PX', hold)
      elseif wanted and mark > 0 and string.sub(ending, 1, 1) == 'A' then
        reply = redis.pcall('SET', key, reply .. ' done', 'PX', mark)
      else
        reply = redis.pcall('DEL', key)
      end
    end
  elseif not reply and hold > 0 then
    local started = string.find(lock, '^%S+ %S+ %S+ %S+ %d') and '' or string.format(' %.0f', time[1] * 1000000 + time[2])
    reply = redis.pcall('SET', key, lock .. started .. ' held', 'PX', hold)
  end
  local ends = reply and reply ~= 2 and not (type(reply) == 'table' and reply.err)
  if ends and ending ~= '' and (wanted or hold > 0 and string.sub(ending, 1, 1) == 'A') then
    local kept = redis.pcall('SET', answer, ending, 'PX', hold + (wanted and ttl or 1000))
    if type(kept) == 'table' and kept.err then
      ending = 'U'
    end
  end
  if ends and wanted then
    redis.pcall(publish, channel, token .. ' ' .. string.sub(ending, 1, 1))
  end
  if reply == 2 then
    results[i] = 2
  elseif type(reply) == 'table' and reply.err then
    results[i] = reply.err
  else
    results[i] = reply and 1 or 0
  end
end
return results
