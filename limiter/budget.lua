-- Budgets in Redis, for scripts that begin with this text. It defines spend,
-- write, charge and refund, and asks nothing by itself.
--
-- A budget's value is 'TAT INTERVAL FURTHEST': the TAT in Unix seconds with nine
-- decimals, the emission interval of the limit that wrote it in seconds, and how
-- many requests that limit lets the TAT lie ahead: its burst, and what may wait
-- besides. Absent is full, and so is a value of any other form, or with a TAT
-- further ahead than that and a second: the clock stepped back, or somebody
-- wrote it, and it would refuse until then.
--
-- What a budget remembers is requests. Under another limit, what was spent is
-- how far the TAT lies ahead / INTERVAL. An admission writes with the interval
-- of its own limit; a refusal only where that is the shorter, and else leaves
-- the budget to earn at the pace that it has.
--
-- All of it is counted in whole nanoseconds from now on, which a double holds
-- exactly for 104 days ahead; a limit's interval is a whole number of them. So
-- nothing is lost by floating point, and limiter/gcra.go computes the same.
--
-- A limit is three arguments, as Limit.ScriptArgs makes them: burst, interval
-- and furthest. time is what TIME replied, or any other instant of that form.
--
-- spend(key, burst, interval, furthest, time) asks for one request, and writes
--   nothing: one GET. It returns a table. As an array it is what is replied for
--   Limit.ReadReply: 1 if allowed, else 0; how far the TAT lay ahead, in
--   nanoseconds; the TAT that write writes for the request, or ''; and where the
--   value is another limit's, its interval in nanoseconds and its FURTHEST.
-- reserve(spent, longest, time) takes the place of a request that waits, at most
--   longest microseconds, where an array of such tables refuses it: in the one
--   budget that admits it last, at the instant at which it does, and in no other.
--   It writes that: one SET. It returns the index of that table, which allows the
--   request from then on; or nothing where that is too long.
-- write(spent, admitted) carries out what an array of such tables decided
--   together: the charges if all of them allowed it, and else only what the
--   refusing ones have to say: at most one SET for each.
-- charge(key, burst, interval, furthest, requests, time) charges requests, which
--   need not be whole, whatever is left: of a budget for which requests wait as
--   many as can, since those may have a place that is still to come; of any other
--   a budget is empty at worst. What is owed beyond that is let go, so that a
--   second charge does little harm. It returns 1, or the error of a key that is no
--   budget.
-- refund(key, tat, time) gives back the request that was charged with a TAT,
--   while that was the last one. It returns 1 if it did, 0 if it did not, or the
--   error of a key that is no budget. To be called once at most for each charge:
--   another, after a refund, may have the same TAT.

local SECOND = 1000000000
local CENTURY = 2^62 -- more nanoseconds than any limit lets a TAT lie ahead

-- redis_rate's own script, unmodified. Its globals are these parameters.
local function gcra(KEYS, ARGV, redis)
--[[redis_rate]]
end

local function nanoseconds(seconds)
  return math.floor(seconds * SECOND + 0.5)
end

-- read returns how far the TAT of a value lies ahead of time, and by which
-- interval and FURTHEST. It returns 0 alone where the budget is full.
local function read(value, time)
  local seconds, rest, interval, furthest =
    string.match(value or '', '^(%d+)%.(%d%d%d%d%d%d%d%d%d) (%d+%.?%d*) (%d+)$')
  if not seconds then
    return 0
  end
  local ahead = (seconds - time[1]) * SECOND + (rest - time[2] * 1000)
  interval, furthest = nanoseconds(interval), tonumber(furthest)
  local most = interval * furthest + SECOND
  if ahead > 0 and ahead <= most and interval > 0 and most < CENTURY then
    return ahead, interval, furthest
  end
  return 0
end

-- rescale returns for a time under one interval the one under another that
-- takes as many requests. Up, so that nothing spent is forgotten.
local function rescale(ahead, from, to)
  if ahead == 0 or from == to then
    return ahead
  end
  return math.ceil(ahead / from * to)
end

-- instant returns the TAT that lies ahead of time.
local function instant(ahead, time)
  local rest = time[2] * 1000 + ahead
  local seconds = math.floor(rest / SECOND)
  return string.format('%.0f.%09.0f', time[1] + seconds, rest - seconds * SECOND)
end

local function set(key, tat, interval, furthest, ahead)
  redis.call('SET', key, tat .. ' ' .. interval .. ' ' .. furthest, 'EX', math.ceil(ahead / SECOND))
end

-- What redis_rate's script sees of Redis: it is always the beginning of its
-- epoch, a second is a nanosecond, and its write waits until every limit has
-- allowed the request.
local owed, charged
local view = {replicate_commands = function() end}
function view.call(command, _, value)
  if command == 'TIME' then
    return {1483228800, 0}
  elseif command == 'GET' then
    return owed
  elseif command == 'SET' then
    charged = value
  end
end

local function spend(key, burst, interval, furthest, time)
  local own = nanoseconds(interval)
  local ahead, stored, reach = read(redis.call('GET', key), time)
  owed = rescale(ahead, stored, own)
  local allowed = gcra({key}, {burst, 1, own, 1}, view)[1]
  local spent = {allowed, ahead, '', key = key, interval = interval, furthest = furthest, burst = burst, own = own, owed = owed}
  if stored and (stored ~= own or reach ~= tonumber(furthest)) then
    spent[4], spent[5] = stored, reach
  end
  if allowed == 1 then
    spent.ahead, spent.tat = charged, instant(charged, time)
    spent[3] = spent.tat
  elseif stored and own < stored then
    spent.ahead, spent.tat = owed, instant(owed, time)
    spent.furthest = string.format('%.0f', math.max(reach, furthest))
  end
  return spent
end

local function reserve(spent, longest, time)
  local last, after
  for i, s in ipairs(spent) do
    local wait = s.owed - s.own * (s.burst - 1)
    if s[1] == 0 and (not last or wait > after) then
      last, after = i, wait
    end
  end
  if math.ceil(after / 1000) > longest then
    return
  end
  local s = spent[last]
  owed = s.owed - after -- what it will be then
  if gcra({s.key}, {s.burst, 1, s.own, 1}, view)[1] == 1 then
    s[1], s[3] = 1, instant(charged + after, time)
    set(s.key, s[3], s.interval, s.furthest, charged + after)
    return last
  end
end

local function write(spent, admitted)
  for _, s in ipairs(spent) do
    if s.tat and (s[1] == 1) == admitted then
      set(s.key, s.tat, s.interval, s.furthest, s.ahead)
    end
  end
end

local function charge(key, burst, interval, furthest, requests, time)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    return value
  end
  local own = nanoseconds(interval)
  local ahead, stored = read(value, time)
  local before = rescale(ahead, stored, own)
  local after = math.min(before + math.ceil(own * requests), own * furthest)
  if after > before then
    set(key, instant(after, time), interval, furthest, after)
  end
  return 1
end

local function refund(key, tat, time)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    return value
  elseif not value or string.match(value, '^%S+') ~= tat then
    return 0
  end
  local ahead, interval = read(value, time)
  if interval and ahead > interval then
    local text, furthest = string.match(value, ' (%S+) (%S+)$')
    set(key, instant(ahead - interval, time), text, furthest, ahead - interval)
  else
    redis.call('DEL', key)
  end
  return 1
end
