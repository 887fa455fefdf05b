-- Charges a budget for what was spent of it while the store was away.
--
-- KEYS[1]   the budget's key
-- ARGV[1]   burst
-- ARGV[2]   rate
-- ARGV[3]   period in seconds
-- ARGV[4]   requests to charge, which need not be whole
--
-- Returns 1. The budget is empty at worst: what is owed beyond that is let go,
-- so that a second charge, after an answer that was lost, does no harm.

local time = redis.call('TIME')
local now = time[1] - 1483228800 + time[2] / 1000000 -- redis_rate's epoch
local interval = ARGV[3] / ARGV[2]
local offset = interval * ARGV[1]

local tat = tonumber(redis.call('GET', KEYS[1]))
local ahead = tat and tat - now
if not ahead or ahead ~= ahead or ahead < 0 or ahead >= 10 * offset + 1 then
  ahead = 0 -- as guard.lua reads it
end
local charged = math.max(ahead, math.min(ahead + interval * ARGV[4], offset))
if charged > 0 then
  redis.call('SET', KEYS[1], string.format('%.17g', now + charged), 'EX', math.ceil(charged))
end
return 1
