-- A client takes up a chat's reply: it is cancelled only when this one has left, too.
-- KEYS: chat
-- ARGV: tenant, '1' = count this reader
-- Answers {ticket, state, attempt, kv_bits, queue_s, finish} | false (no such chat of this tenant)
if redis.call('HGET', KEYS[1], 'tenant') ~= ARGV[1] then return false end
if ARGV[2] == '1' then redis.call('HINCRBY', KEYS[1], 'readers', 1) end
return redis.call('HMGET', KEYS[1], 'ticket', 'state', 'attempt', 'kv_bits', 'queue_s', 'finish')
