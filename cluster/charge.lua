-- Charges budgets for what was spent of them while the store was away.
--
-- KEYS[i]       a budget's key; all are of one tag
-- ARGV[4i - 3]  burst
-- ARGV[4i - 2]  rate
-- ARGV[4i - 1]  period in seconds
-- ARGV[4i]      requests to charge, which need not be whole
--
-- Returns for each 1, or the error of a key that is no budget. A budget is empty
-- at worst: what is owed beyond that is let go, so that a second charge, after
-- an answer that was lost, does no harm.

local time = redis.call('TIME')
local now = time[1] - 1483228800 + time[2] / 1000000 -- redis_rate's epoch

local results = {}
for i, key in ipairs(KEYS) do
  local burst, rate, period, requests = ARGV[4 * i - 3], ARGV[4 * i - 2], ARGV[4 * i - 1], ARGV[4 * i]
  local interval = period / rate
  local offset = interval * burst
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    results[i] = value
  else
    local tat = tonumber(value)
    local ahead = tat and tat - now
    if not ahead or ahead ~= ahead or ahead < 0 or ahead >= 10 * offset + 1 then
      ahead = 0 -- as guard.lua reads it
    end
    local charged = math.max(ahead, math.min(ahead + interval * requests, offset))
    if charged > 0 then
      redis.call('SET', key, string.format('%.17g', now + charged), 'EX', math.ceil(charged))
    end
    results[i] = 1
  end
end
return results
