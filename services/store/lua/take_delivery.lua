-- Takes the next due handover; it is due again later, should whoever took it die.
-- KEYS: outbox
-- ARGV: now, due again
-- Answers its id | false
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 1)
if #due == 0 then return false end
redis.call('ZADD', KEYS[1], ARGV[2], due[1])
return due[1]
