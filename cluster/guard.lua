-- Decides asks, each all or nothing: the lock, cool-downs, slots and every limit, in
-- this order. A duplicate is a duplicate first, whatever is spent or cooling down.
--
-- They come in groups that have all in common but their locks, and one after the
-- other. KEYS, all of one tag, are of each group:
--   cool-downs, as many as its ARGV[4] says
--   kinds of slots
--   budgets, one for each limit, and then for each candidate
--   the kept key, where there is one
--   locks, one for each ask, or none
-- and of each group ARGV, counted from its beginning:
--   [1]  until when somebody waits for the answer, in microseconds by this server's
--        clock; 0 where its clock is not known
--   [2]  1 where they want locks, or 0
--   [3]  the TTL of the locks and of slots, in milliseconds
--   [4]  how many cool-downs
--   [5]  the longest cool-down in milliseconds; 0 for no bound
--   [6]  how many limits
--   [7]  how many asks; one of those that the plain guard cannot decide
--   in all but the plain guard
--     the longest that the request waits for its budgets, in microseconds, or 0; not 0
--       if it would wait for slots
--     how many candidates
--     what it wants of an equal one in flight: '' nothing; 'join' its answer; or a
--       fresh one, or any when it asks again: when the request came, in microseconds by
--       this server's clock, or 0 in its first ask
--     how many kept keys, an idempotency key's: 0 or 1; the hash of what the request
--       says; and for how long the key is known, in milliseconds
--     how many kinds of slots; their owner's token, which begins with the TTL that its
--       slots have; and of each kind how many there are, or 0 for one that waits after
--       others
--   then three for each limit and candidate: burst, interval and furthest, as open
--   takes them; and for each lock '1 TOKEN REPLICA REQUEST-ID'
--
-- Returns for each ask one of
--   {ADMITTED, now, used..., reply..., candidate's...}  with how many slots of each
--       kind are taken, this one's with them, and what spend replied for each limit;
--       of a candidate whose key is no budget nil
--   {WAITING, now, which, reply..., candidate's...}  it may be sent when the limit
--       with that index, counted from 1, allows it, and has its place there and the
--       lock, but nothing of the other limits and no slot
--   {BUSY, now, used...}  one that would wait has the lock
--   {LIMITED, now, reply...}
--   {DUPLICATE, now, the lock's value}
--   {COOLING_DOWN, now, milliseconds, status...}  with what is left of each
--       cool-down, and its status
--   {KEPT, now, value}  with the kept key's value, or '' if it is of a request that
--       says something else; but one in flight, whose lock is there, is a duplicate
--   {LATE, now}  if nobody waits for the answer any more
--   a text, the error of one of its keys, where it is not the only ask: it keeps no
--       ask of other keys from being decided
-- now is in microseconds. Nothing else is taken, and candidates refuse nobody.
--
-- It begins with limiter/budget.lua and cooldown.lua. What stands between
-- --[[if whole]] and --[[end]] is left out of the plain guard, for asks that have no
-- use for any of it.

local ADMITTED, DUPLICATE, LIMITED, COOLING_DOWN, LATE, BUSY, WAITING, KEPT = 1, 2, 3, 4, 5, 6, 7, 8

local time = redis.call('TIME')
local began = time[1] .. string.sub('00000' .. time[2], -6) -- in microseconds
local now = tonumber(began)

-- The group that is being decided: what is in front of its first key and limit, what
-- it says, and what its asks have in common, once that was read.
local keyAt, argAt = 0, 0
local ttl, pauses, longestPause, limits, budgets, cooling
local arrived, wanted = 0, ''
--[[if whole]]
local longest, extra, share, kept, hash, keep, token, slots, most
--[[end]]

-- holder returns a lock's value where that refuses an ask.
local function holder(lock)
  local value = redis.call('GET', lock)
  if not value then
    return
  end
  if string.sub(value, -5) == ' done' and (arrived == 0 or arrived >= tonumber(string.match(value, '^%S+ %S+ %S+ %S+ (%d+)') or 0)) then
    redis.call('DEL', lock) -- it refuses nobody, and has no answer for this one
    return
  end
  -- A lock that begins in the future began by a clock that was set back since
  -- then: so did its expiry, which is corrected. Of a holder that lives the next
  -- renewal does the same.
  local before, started, held = string.match(value, '^(%S+ %S+ %S+ %S+ )(%d+)(.*)$')
  local ahead = started and started - now or 0
  if ahead >= 1000000 then
    local left = held == '' and ttl or math.max(1, redis.call('PTTL', lock) - math.floor(ahead / 1000))
    value = before .. began .. held
    redis.call('SET', lock, value, 'PX', left)
  end
  --[[if whole]]
  if share ~= '' and string.find(value, '^%S+ j%S+ %S+ %S+ %d+$') then
    redis.pcall('SET', lock, value .. ' wanted', 'KEEPTTL') -- it is a duplicate also where memory is short
  end
  --[[end]]
  return value
end

-- take takes a lock, and with it the key, or returns who has it: also where nothing
-- can be written.
local function take(lock, value)
  value = value .. ' ' .. began .. wanted
  local taken = redis.pcall('SET', lock, value, 'NX', 'PX', ttl)
  while not taken or taken.err do
    local held = holder(lock)
    if held then
      return held
    end
    taken = redis.call('SET', lock, value, 'NX', 'PX', ttl)
  end
  --[[if whole]]
  if kept then
    redis.call('SET', kept, '1 ' .. hash .. ' flight ' .. string.match(value, '^%S+ (%S+)'), 'PX', keep)
  end
  --[[end]]
end

-- begin reads what the asks of a group have in common.
local function begin()
  for i = 1, pauses do
    local left, status = cooldown(KEYS[keyAt + i], longestPause, now / 1000)
    if left > 0 then
      cooling = cooling or {}
      cooling[2 * i - 1], cooling[2 * i] = left, status
    end
  end
  if cooling then
    for i = 1, 2 * pauses do
      cooling[i] = cooling[i] or 0
    end
  end
  local opened, first = {}, keyAt + pauses
  --[[if whole]]
  first = first + #slots
  --[[end]]
  for i = 1, cooling and 0 or limits do
    local limit = argAt + 3 * i
    opened[i] = open(KEYS[first + i], ARGV[limit - 2], ARGV[limit - 1], ARGV[limit], time)
  end
  budgets = opened
end

-- decide decides an ask, whose lock may be nil.
local function decide(lock, value)
  --[[if whole]]
  if kept then
    local value = redis.call('GET', kept)
    local said, state, token = string.match(value or '', '^%S+ (%S+) (%S+) (%S+)')
    if value and said ~= hash then
      return {KEPT, now, ''}
    elseif state == 'flight' then
      local flies = redis.call('GET', lock)
      if flies and string.match(flies, '^%S+ (%S+)') == token then
        return {DUPLICATE, now, flies}
      end
    end
    if value then
      return {KEPT, now, value}
    end
  end
  --[[end]]
  local held
  if not budgets and not pcall(begin) then
    held = lock and holder(lock) -- whatever the other keys are
    if held then
      return {DUPLICATE, now, held}
    end
    begin()
  end
  --[[if whole]]
  held = lock and holder(lock)
  if held then
    return {DUPLICATE, now, held}
  end
  --[[end]]

  local answer = {ADMITTED, now}
  if cooling then
    answer = {COOLING_DOWN, now, unpack(cooling)}
  end
  --[[if whole]]
  for i, key in ipairs(cooling and {} or slots) do
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    -- One that ends later than its own TTL lets it is from before the clock was set back.
    local late = redis.call('ZRANGE', key, now + ttl * 2000, '+inf', 'BYSCORE', 'WITHSCORES')
    for j = 1, #late, 2 do
      if late[j + 1] - now > (tonumber(string.match(late[j], '^%d+')) or 0) * 2000 then
        redis.call('ZREM', key, late[j])
      end
    end
    answer[2 + i] = redis.call('ZCARD', key)
    if answer[2 + i] >= tonumber(ARGV[most + i]) then
      answer[1] = BUSY
    end
  end
  --[[end]]
  local first = #answer
  if answer[1] == ADMITTED then
    for i, budget in ipairs(budgets) do
      local reply = spend(budget)
      answer[first + i] = reply
      if reply[1] == 0 then
        answer[1] = LIMITED
      end
    end
  end

  local takes = answer[1] == ADMITTED
  --[[if whole]]
  if answer[1] == LIMITED then
    local which = longest > 0 and reserve(budgets, longest)
    answer = {LIMITED, now, unpack(answer, first + 1)}
    if which then
      answer[1] = WAITING
      table.insert(answer, 3, which)
    end
  end
  takes = takes or answer[1] == WAITING or answer[1] == BUSY and longest > 0
  --[[end]]
  if lock then
    held = takes and take(lock, value) or not takes and holder(lock)
  end
  if held then
    return {DUPLICATE, now, held}
  end

  --[[if whole]]
  for i, key in ipairs(answer[1] == ADMITTED and slots or {}) do
    redis.call('ZADD', key, now + ttl * 1000, token)
    if redis.call('PTTL', key) < tonumber(ttl) then
      redis.call('PEXPIRE', key, ttl)
    end
    answer[2 + i] = answer[2 + i] + 1
  end
  --[[end]]
  if answer[1] == ADMITTED or answer[1] == LIMITED then
    for _, budget in ipairs(budgets) do
      settle(budget, takes)
    end
  end
  --[[if whole]]
  for i = limits + 1, (answer[1] == ADMITTED or answer[1] == WAITING) and limits + extra or 0 do
    -- A key that is no budget refuses nobody.
    local limit = argAt + 3 * i
    local known, budget = pcall(open, KEYS[keyAt + pauses + #slots + i], ARGV[limit - 2], ARGV[limit - 1], ARGV[limit], time)
    local reply = known and spend(budget)
    if known then
      settle(budget, reply[1] == 1)
      budgets[#budgets + 1] = budget -- to be written
    end
    answer[#answer + 1] = reply
  end
  --[[end]]
  return answer
end

-- textOf is what an error of one of several asks is told as.
local function textOf(failure)
  return type(failure) == 'table' and failure.err or failure
end

local answers = {}
while argAt < #ARGV do
  local deadline, locked, asks
  deadline, locked, ttl, pauses, longestPause, limits, asks = unpack(ARGV, argAt + 1, argAt + 7)
  argAt, budgets, cooling = argAt + 7, nil, nil
  --[[if whole]]
  local keys, kinds
  longest, extra, share, keys, hash, keep, kinds, token = unpack(ARGV, argAt + 1, argAt + 8)
  longest, most, slots = tonumber(longest), argAt + 8, {}
  for i = 1, kinds do
    slots[i] = KEYS[keyAt + pauses + i]
  end
  kept = keys == '1' and KEYS[keyAt + pauses + kinds + limits + extra + 1]
  arrived = tonumber(share) or 0
  wanted = arrived > 0 and ' wanted' or '' -- its answer, by others who came before it begins too
  argAt = argAt + 8 + kinds
  --[[end]]

  local late = deadline ~= '0' and now > tonumber(deadline)
  local lockAt, valueAt = keyAt + pauses + limits, argAt + 3 * limits -- the last before the asks'
  --[[if whole]]
  lockAt, valueAt = lockAt + kinds + extra + keys, valueAt + 3 * extra
  --[[end]]
  local alone = asks == '1' and #answers == 0 and valueAt + locked == #ARGV
  for i = 1, asks do
    local key, text
    if locked == '1' then
      lockAt, valueAt = lockAt + 1, valueAt + 1
      key, text = KEYS[lockAt], ARGV[valueAt]
    end
    local decided, answer = true
    if late then
      answer = {LATE, now}
    elseif alone then
      answer = decide(key, text)
    else
      decided, answer = pcall(decide, key, text)
    end
    answers[#answers + 1] = decided and answer or textOf(answer)
  end
  -- Where this fails, as where memory is short, whom it would have charged is told so.
  for i = 1, budgets and #budgets or 0 do
    local written, failure = true
    if alone then
      write(budgets[i], time)
    else
      written, failure = pcall(write, budgets[i], time)
    end
    local unfounded = false -- also who was refused for what the others would have been charged
    for j = #answers - asks + 1, written and 0 or #answers do
      local outcome = answers[j][1]
      if outcome == ADMITTED or outcome == WAITING or unfounded and outcome == LIMITED then
        unfounded, answers[j] = true, textOf(failure)
      end
    end
  end
  keyAt, argAt = lockAt, valueAt
end
return answers
