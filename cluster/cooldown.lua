-- Begins the scripts that read cool-downs. The value of one is
-- 'UNTIL LENGTH STATUS': when it ends, by this server's clock, and how long it
-- lasts since it was begun or extended, both in milliseconds; and the status with
-- which the upstream has asked for it.
--
-- cooldown returns how many milliseconds are left of a cool-down, and its status;
-- 0 alone if there is none. It lasts no longer than longest since it was begun; 0
-- is no bound. One that begins later than now was begun before the clock was set
-- back: how much is left of it nobody knows, and it is over.

local function cooldown(key, longest, now)
  local value = redis.pcall('GET', key)
  if not value then
    return 0
  elseif type(value) == 'table' then
    if string.match(value.err, '^WRONGTYPE') then
      return 0
    end
    redis.call('GET', key) -- fails for the same reason
  end
  local till, length, status = string.match(value, '^(%d+) (%d+) (%d+)$')
  if not till then
    return 0
  end
  local since = now - (till - length)
  if since < -1000 then
    redis.call('DEL', key)
    return 0
  end
  length, longest = tonumber(length), tonumber(longest)
  if longest > 0 then
    length = math.min(length, longest)
  end
  return math.max(0, math.ceil(length - math.max(0, since))), tonumber(status)
end
