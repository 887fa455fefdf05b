-- Ends the locks of flights, or turns them into holds, and lets those have their
-- answers who wait for them.
--
-- KEYS[i]       a lock's key; all are of one tag
-- ARGV[5i - 4]  its token
-- ARGV[5i - 3]  how long equal requests stay refused, in milliseconds; 0 deletes
-- ARGV[5i - 2]  '1 TOKEN REPLICA REQUEST-ID STARTED', where there is a hold
-- ARGV[5i - 1]  how the flight has ended: its kind, and of an answer its sealed text;
--               or '' to be asked for that if anybody waits for it
-- ARGV[5i]      what is only for those who wait, with spaces between: for how long the
--               answer is there for them besides the hold; for how long the flight is
--               remembered for those who came before it began, 0 for not, both in
--               milliseconds; and the command by which they are told, PUBLISH, or in
--               a Cluster SPUBLISH
--
-- The answer's key and the channel of the tag's flights are the lock's key with
-- 'answer:TOKEN' and 'flights' in place of 'lock:' and what follows.
--
-- Returns for each what release.lua does, or 2 if somebody waits, and it was not said
-- how the flight has ended: nothing is done then. An answer that cannot be kept, as
-- where memory is short, ends its lock all the same: there is none to be shared.
-- Answers are kept first: once a script has written, a Redis that is full takes all.

local function beside(key) return string.match(key, '^(.*:)lock:') end
local function waiting(i) return string.match(ARGV[5 * i], '^(%d+) (%d+) (%u+)$') end

local values, owns, awaited, kinds = {}, {}, {}, {}
for i, key in ipairs(KEYS) do
  local token, ending = ARGV[5 * i - 4], ARGV[5 * i - 1]
  local value, kind = redis.pcall('GET', key), string.sub(ending, 1, 1)
  local text = type(value) == 'string'
  -- Nobody else has the token, so it can stand in no other's value.
  local own = text and string.find(value, token, 1, true)
  local wanted = own and string.find(value, ' wanted', 1, true)
  local hold = tonumber(ARGV[5 * i - 3])
  if kind ~= '' and (wanted or hold > 0 and kind == 'A' and (own or not value)) then
    local kept = redis.pcall('SET', beside(key) .. 'answer:' .. token, ending, 'PX', hold + (wanted and waiting(i) or 1000))
    if kept.err then
      kind = 'U'
    end
  end
  values[i], owns[i], awaited[i], kinds[i] = value, own, wanted, kind
end

local results = {}
for i, key in ipairs(KEYS) do
  local value, own, wanted, kind, reply = values[i], owns[i], awaited[i], kinds[i], false
  local hold = tonumber(ARGV[5 * i - 3])
  local _, mark, publish
  if wanted then
    _, mark, publish = waiting(i)
  end
  if type(value) == 'table' then
    reply = value -- no lock
  elseif wanted and kind == '' then
    reply = 2
  elseif own and hold > 0 then
    reply = redis.pcall('SET', key, value .. ' held', 'PX', hold)
  elseif wanted and (kind == 'A' or kind == 'U') and mark ~= '0' then
    local alone = kind == 'U' and ' alone' or '' -- which may not have been said yet
    reply = redis.pcall('SET', key, value .. alone .. ' done', 'PX', mark)
    if reply.err then -- memory is short
      reply = redis.pcall('DEL', key)
    end
  elseif own then
    reply = redis.pcall('DEL', key)
  elseif not value and hold > 0 then
    reply = redis.pcall('SET', key, ARGV[5 * i - 2] .. ' held', 'PX', hold)
  end
  if type(reply) == 'table' and reply.err then
    results[i] = reply.err
  else
    results[i] = reply and (reply == 2 and 2 or 1) or 0
    if wanted and reply ~= 2 then
      redis.pcall(publish, beside(key) .. 'flights', ARGV[5 * i - 4] .. ' ' .. kind)
    end
  end
end
return results
