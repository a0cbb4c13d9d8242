-- Charges a tenant's windows: all of them or none.
-- KEYS: one counter a window
-- ARGV: for each window: amount, most, seconds to keep
-- Answers {0, used...}: charged, with each window's use now | {n, used...}: the n-th has no room, nothing was charged
local used = {0}
for i = 1, #KEYS do
  local now = tonumber(redis.call('GET', KEYS[i]) or '0')
  used[i + 1] = now
  if used[1] == 0 and now + tonumber(ARGV[3 * i - 2]) > tonumber(ARGV[3 * i - 1]) then used[1] = i end
end
if used[1] ~= 0 then return used end
for i = 1, #KEYS do
  used[i + 1] = redis.call('INCRBY', KEYS[i], ARGV[3 * i - 2])
  redis.call('EXPIRE', KEYS[i], ARGV[3 * i])
end
return used
