-- Marks a dispatched chat as cancelled and tells its worker, or counts a reader that leaves and does so after the last.
-- KEYS: chat
-- ARGV: control channel, message, reader that leaves ('' = whoever reads), '1' = cancel after the last
-- Answers 'ok' | 'waiting' (it still waits: refuse it instead) | 'done' | 'followed' (another client reads it, or may come back)
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'done' then return 'done' end
if ARGV[3] ~= '' then
  -- By name, since a gateway asks again where Redis was silent.
  if redis.call('HSETNX', KEYS[1], 'left:' .. ARGV[3], 1) == 1 then redis.call('HINCRBY', KEYS[1], 'left', 1) end
  local readers, left = unpack(redis.call('HMGET', KEYS[1], 'readers', 'left'))
  if ARGV[4] ~= '1' or tonumber(left) <= tonumber(readers or '0') then return 'followed' end
end
if state == 'waiting' then return 'waiting' end
redis.call('HSET', KEYS[1], 'cancelled', 1)
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 'ok'
