-- Takes back a command that no worker has begun.
-- KEYS: command
-- ARGV: id, why
-- Answers 1 | 0 (a worker has begun it, or it ended, or it is another one)
local now = redis.call('HMGET', KEYS[1], 'id', 'state')
if now[1] ~= ARGV[1] or now[2] ~= 'sent' then return 0 end
redis.call('HSET', KEYS[1], 'state', 'failed', 'error', ARGV[2])
return 1
