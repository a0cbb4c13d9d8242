-- Takes or keeps the scheduler's lease.
-- KEYS: lease, fence
-- ARGV: my holder name ('' = none yet), name to take it under, ttl_ms
-- Answers the holder name that is mine now, or false while another holds it
local holder = redis.call('GET', KEYS[1])
if holder and holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return holder
end
if holder then
  -- It ends on the wall clock: one that has longer than anybody gives it is from before that clock went back.
  if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
  return false
end
local name = ARGV[2] .. '#' .. redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], name, 'PX', ARGV[3])
return name
