-- Tells what would decide an ask, and takes nothing: it changes nothing but what is
-- over, and what a clock that was set back has left.
--
-- KEYS, all of one tag, in the guard's order: the lock's, where ARGV[1] is 1; ARGV[2]
--   of cool-downs; ARGV[3] of slots; and one for each budget
-- ARGV[1]     how many locks: 0 or 1
-- ARGV[2]     how many cool-downs
-- ARGV[3]     how many kinds of slots
-- ARGV[4]     the longest cool-down in milliseconds; 0 for no bound
-- ARGV[5...]  three for each budget: burst, interval and furthest, as open takes them
--
-- Returns now in microseconds, the lock's value or '', what is left of each cool-down
-- in milliseconds, how many slots of each kind are taken, and what spend replied for
-- each budget.
--
-- It begins with limiter/budget.lua and cooldown.lua.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer, at, arg = {now, ''}, 1, 5
if ARGV[1] == '1' then
  answer[2] = redis.call('GET', KEYS[1]) or ''
  at = 2
end
for _ = 1, ARGV[2] do
  answer[#answer + 1] = cooldown(KEYS[at], tonumber(ARGV[4]), now / 1000)
  at = at + 1
end
for _ = 1, ARGV[3] do
  redis.call('ZREMRANGEBYSCORE', KEYS[at], '-inf', now)
  answer[#answer + 1] = redis.call('ZCARD', KEYS[at])
  at = at + 1
end
for i = at, #KEYS do
  answer[#answer + 1] = spend(open(KEYS[i], ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], time))
  arg = arg + 3
end
return answer
