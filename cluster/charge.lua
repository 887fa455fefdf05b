-- Charges budgets for what was spent of them while the store was away.
--
-- KEYS[i]       a budget's key; all are of one tag
-- ARGV[4i - 3]  burst, interval and furthest of its limit, as charge takes them
-- ARGV[4i]      requests to charge, which need not be whole
--
-- Returns for each 1, or as a text the error of a key that is no budget, or
-- cannot be written. None keeps the others from being charged.
--
-- It begins with limiter/budget.lua.

local time = redis.call('TIME')
local results = {}
for i, key in ipairs(KEYS) do
  local _, result = pcall(charge, key, ARGV[4 * i - 3], ARGV[4 * i - 2], ARGV[4 * i - 1], ARGV[4 * i], time)
  results[i] = type(result) == 'table' and result.err or result
end
return results
