-- Budgets in Redis, for scripts that begin with this text, or with the parts of it
-- that they use: what stands between --[[if NAME ...]] and --[[end]] is there for
-- those that ask for one of the names (see Excerpt). It asks nothing by itself.
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
-- open(key, burst, interval, furthest, time) returns a budget, of which any number of
--   requests are asked for at this instant, one after the other: one GET.
-- spend(budget) asks for one request, and writes nothing. It returns what is replied
--   for Limit.ReadReply: 1 if allowed, else 0; how far the TAT lay ahead, in
--   nanoseconds; '', in place of which write puts the TAT that a refund needs; and
--   where the value is another limit's, its interval in nanoseconds and its FURTHEST.
-- settle(budget, admitted) carries out what budgets have decided together of the last
--   request that was asked for, for one of them: its charge if all of them allowed it,
--   and else only what it has to say where it refuses.
-- reserve(budgets, longest) takes the place of a request that waits, at most longest
--   microseconds, where budgets refuse it: in the one that admits it last, at the
--   instant at which it does, and in no other. It returns the index of that, which has
--   allowed the request from then on; or nothing where that is too long.
-- write(budget, time) writes what was settled and reserved: one SET at most. The reply
--   to the last request that was charged gets its TAT: no other can be given back.
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
--
-- A run of a script makes each function of it anew, and each table, and that is
-- most of what it costs: hence the parts, and few of both.

local SECOND = 1000000000
local CENTURY = 2^62 -- more nanoseconds than any limit lets a TAT lie ahead
local floor, ceil, format, match = math.floor, math.ceil, string.format, string.match

-- read returns how far the TAT of a value lies ahead of time, and by which
-- interval and FURTHEST. It returns 0 alone where the budget is full.
local function read(value, time)
  if not value then
    return 0
  end
  local seconds, rest, interval, furthest =
    match(value, '^(%d+)%.(%d%d%d%d%d%d%d%d%d) (%d+%.?%d*) (%d+)$')
  if not seconds then
    return 0
  end
  local ahead = (seconds - time[1]) * SECOND + (rest - time[2] * 1000)
  if ahead <= 0 then
    return 0
  end
  interval, furthest = floor(interval * SECOND + 0.5), tonumber(furthest)
  local most = interval * furthest + SECOND
  if ahead <= most and interval > 0 and most < CENTURY then
    return ahead, interval, furthest
  end
  return 0
end

-- instant returns the TAT that lies ahead of time.
local function instant(ahead, time)
  local rest = time[2] * 1000 + ahead
  local seconds = floor(rest / SECOND)
  return format('%.0f.%09d', time[1] + seconds, rest - seconds * SECOND)
end

--[[if spend charge]]
-- rescale returns for a time under one interval the one under another that
-- takes as many requests. Up, so that nothing spent is forgotten.
local function rescale(ahead, from, to)
  return ahead > 0 and from ~= to and ceil(ahead / from * to) or ahead
end
--[[end]]

--[[if spend]]
-- redis_rate's own script, unmodified. Its globals are these parameters, and so is
-- tostring: nobody reads the numbers that it would write out.
local function gcra(KEYS, ARGV, redis, tostring)
--[[redis_rate]]
end

-- What redis_rate's script sees of Redis: it is always the beginning of its
-- epoch, a second is a nanosecond, and its write waits until every limit has
-- allowed the request.
local owed, charged
local asked, beginning = {0, 1, 0, 1}, {1483228800, 0}
local function call(command, _, value)
  if command == 'TIME' then
    return beginning
  elseif command == 'GET' then
    return owed
  elseif command == 'SET' then
    charged = value
  end
end
local view = {call = call, replicate_commands = call}

-- allows asks redis_rate for one request of a limit. The key matters to nobody.
local function allows(burst, own)
  asked[1], asked[3] = burst, own
  return gcra(asked, asked, view, type)[1]
end

local function open(key, burst, interval, furthest, time)
  local own = floor(interval * SECOND + 0.5)
  local ahead, stored, reach = read(redis.call('GET', key), time)
  local budget = {
    key = key, burst = burst, interval = interval, furthest = furthest,
    own = own, ahead = ahead, owed = rescale(ahead, stored, own),
  }
  if stored and (stored ~= own or reach ~= tonumber(furthest)) then
    budget.stored, budget.reach = stored, reach -- of another limit
  end
  return budget
end

local function spend(budget)
  owed = budget.owed
  local reply = {allows(budget.burst, budget.own), budget.ahead, '', budget.stored, budget.reach}
  budget.reply, budget.after = reply, charged
  return reply
end

local function settle(budget, admitted)
  if (budget.reply[1] == 1) ~= admitted then
    return
  elseif admitted then
    budget.ahead, budget.owed, budget.stored, budget.reach = budget.after, budget.after, nil, nil
    budget.changed, budget.charged = true, budget.reply
  elseif budget.stored and budget.own < budget.stored then
    budget.ahead, budget.stored, budget.reach = budget.owed, budget.own, math.max(budget.reach, budget.furthest)
    budget.changed = true
  end
end

local function write(budget, time)
  if budget.changed then
    local tat = instant(budget.ahead, time)
    if budget.charged then
      budget.charged[3] = tat
    end
    local reach = budget.reach and format('%.0f', budget.reach) or budget.furthest
    redis.call('SET', budget.key, tat .. ' ' .. budget.interval .. ' ' .. reach, 'EX', ceil(budget.ahead / SECOND))
  end
end
--[[end]]

--[[if reserve]]
local function reserve(budgets, longest)
  local last, after
  for i, budget in ipairs(budgets) do
    local wait = budget.owed - budget.own * (budget.burst - 1)
    if budget.reply[1] == 0 and (not last or wait > after) then
      last, after = i, wait
    end
  end
  if ceil(after / 1000) > longest then
    return
  end
  local budget = budgets[last]
  owed = budget.owed - after -- what it will be then
  if allows(budget.burst, budget.own) == 1 then
    budget.reply[1], budget.after = 1, charged + after
    settle(budget, true)
    return last
  end
end
--[[end]]

--[[if charge]]
local function charge(key, burst, interval, furthest, requests, time)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    return value
  end
  local own = floor(interval * SECOND + 0.5)
  local ahead, stored = read(value, time)
  local before = rescale(ahead, stored, own)
  local after = math.min(before + ceil(own * requests), own * furthest)
  if after > before then
    redis.call('SET', key, instant(after, time) .. ' ' .. interval .. ' ' .. furthest, 'EX', ceil(after / SECOND))
  end
  return 1
end
--[[end]]

--[[if refund]]
local function refund(key, tat, time)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    return value
  elseif not value or match(value, '^%S+') ~= tat then
    return 0
  end
  local ahead, interval = read(value, time)
  if interval and ahead > interval then
    local limit = match(value, ' .*$')
    redis.call('SET', key, instant(ahead - interval, time) .. limit, 'EX', ceil((ahead - interval) / SECOND))
  else
    redis.call('DEL', key)
  end
  return 1
end
--[[end]]
