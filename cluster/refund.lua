-- Gives back requests that were charged and never sent, each while it is the
-- last that was charged to its budget.
--
-- KEYS[i]  a budget's key; all are of one tag
-- ARGV[i]  the TAT that the charge wrote
--
-- Returns for each 1 if it was given back, 0 if not, or as a text the error of a
-- key that is no budget, or cannot be written. Not to be run twice for one charge:
-- see refund.
--
-- It begins with limiter/budget.lua.

local time = redis.call('TIME')
local results = {}
for i, key in ipairs(KEYS) do
  local _, result = pcall(refund, key, ARGV[i], time)
  results[i] = type(result) == 'table' and result.err or result
end
return results
