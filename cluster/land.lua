-- Ends the locks of flights, or turns them into holds, and lets those have their
-- answers who wait for them.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[9i - 8]  its token
-- ARGV[9i - 7]  how long equal requests stay refused, in milliseconds; 0 deletes
-- ARGV[9i - 6]  '1 TOKEN REPLICA REQUEST-ID STARTED'
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
-- Answers are kept first: once a script has written, a Redis that is full takes all.

local flights = {}
for i, key in ipairs(KEYS) do
  local token, hold, _, ending, answer, ttl = unpack(ARGV, 9 * i - 8, 9 * i - 3)
  hold = tonumber(hold)
  local value = redis.pcall('GET', key)
  local own = type(value) == 'string' and string.match(value, '^%S+ (%S+)') == token
  local wanted = own and string.find(value, ' wanted', 1, true)
  local told = wanted or hold > 0 and string.sub(ending, 1, 1) == 'A'
  if (own or not value) and told and ending ~= '' then
    local kept = redis.pcall('SET', answer, ending, 'PX', hold + (wanted and ttl or 1000))
    if kept.err then
      ending = 'U'
    end
  end
  flights[i] = {value = value, own = own, wanted = wanted, kind = string.sub(ending, 1, 1)}
end

local results = {}
for i, key in ipairs(KEYS) do
  local token, hold, lock, _, _, _, mark, channel, publish = unpack(ARGV, 9 * i - 8, 9 * i)
  local flight, reply = flights[i], false
  hold = tonumber(hold)
  if type(flight.value) == 'table' then
    reply = flight.value -- no lock
  elseif flight.wanted and flight.kind == '' then
    reply = 2
  elseif flight.own and hold > 0 then
    reply = redis.pcall('SET', key, flight.value .. ' held', 'PX', hold)
  elseif flight.own and flight.wanted and string.find('AU', flight.kind, 1, true) and tonumber(mark) > 0 then
    local alone = flight.kind == 'U' and ' alone' or '' -- which may not have been said yet
    reply = redis.pcall('SET', key, flight.value .. alone .. ' done', 'PX', mark)
    if reply.err then -- memory is short
      reply = redis.pcall('DEL', key)
    end
  elseif flight.own then
    reply = redis.pcall('DEL', key)
  elseif not flight.value and hold > 0 then
    reply = redis.pcall('SET', key, lock .. ' held', 'PX', hold)
  end
  if type(reply) == 'table' and reply.err then
    results[i] = reply.err
  else
    results[i] = reply and (reply == 2 and 2 or 1) or 0
    if flight.wanted and reply ~= 2 then
      redis.pcall(publish, channel, token .. ' ' .. flight.kind)
    end
  end
end
return results
