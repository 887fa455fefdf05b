-- Tells who has locks.
--
-- KEYS[i]  a lock's; all are of one tag
--
-- Returns the value of each, or false where nobody has it.

local values = {}
for i, key in ipairs(KEYS) do
  local value = redis.pcall('GET', key)
  values[i] = type(value) == 'string' and value -- another type is nobody's
end
return values
