-- Runs one function of the prelude at an instant of the test's own.
--
-- KEYS[...]  budgets' keys
-- ARGV[1]    'spend', 'reserve' (which is spend, and a place where that is refused),
--            'look' (which writes nothing), 'charge' or 'refund'
-- ARGV[2]    seconds, and
-- ARGV[3]    microseconds of the instant
-- ARGV[...]  for spend, reserve and look, three a limit; for reserve, the longest wait; for charge, those of one limit and
--            how many requests; for refund, the TAT
--
-- Returns what was returned, 1 or 0 for whether all admitted, and for each key
-- its TTL in milliseconds, which is then taken away: the test's time is another.

local time, result, admitted = {ARGV[2], ARGV[3]}, {}, 1
if ARGV[1] == 'charge' then
  result = charge(KEYS[1], ARGV[4], ARGV[5], ARGV[6], ARGV[7], time)
elseif ARGV[1] == 'refund' then
  result = refund(KEYS[1], ARGV[4], time)
else
  local budgets = {}
  for i, key in ipairs(KEYS) do
    budgets[i] = open(key, ARGV[1 + 3 * i], ARGV[2 + 3 * i], ARGV[3 + 3 * i], time)
    result[i] = spend(budgets[i])
    admitted = math.min(admitted, result[i][1])
  end
  if ARGV[1] == 'reserve' and admitted == 0 then
    result[#result + 1] = reserve(budgets, tonumber(ARGV[#ARGV]))
  elseif ARGV[1] ~= 'look' then
    for _, budget in ipairs(budgets) do
      settle(budget, admitted == 1)
    end
  end
  for _, budget in ipairs(budgets) do
    write(budget, time)
  end
end
local ttls = {}
for i, key in ipairs(KEYS) do
  ttls[i] = redis.call('PTTL', key)
  redis.call('PERSIST', key)
end
return {result, admitted, ttls}
