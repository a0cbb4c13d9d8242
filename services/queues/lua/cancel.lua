-- Marks a dispatched chat as cancelled and tells its worker.
-- KEYS: chat
-- ARGV: control channel, message
-- Answers 'ok' | 'waiting' (it still waits: refuse it instead) | 'done'
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'done' then return 'done' end
if state == 'waiting' then return 'waiting' end
redis.call('HSET', KEYS[1], 'cancelled', 1)
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 'ok'
