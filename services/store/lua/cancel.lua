-- Marks a dispatched chat as cancelled and tells its worker.
-- KEYS: chat
-- ARGV: control channel, message, readers expected ('' = whoever reads)
-- Answers 'ok' | 'waiting' (it still waits: refuse it instead) | 'done' | 'followed' (another client reads it now)
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'done' then return 'done' end
if ARGV[3] ~= '' and (redis.call('HGET', KEYS[1], 'readers') or '0') ~= ARGV[3] then return 'followed' end
if state == 'waiting' then return 'waiting' end
redis.call('HSET', KEYS[1], 'cancelled', 1)
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 'ok'
