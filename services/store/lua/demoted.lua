-- A chat's KV was lowered: its hash has the new bits, and the scheduler hears of it. Of a chat that is forgotten, nothing.
-- KEYS: chat, events
-- ARGV: bits, event
if redis.call('EXISTS', KEYS[1]) == 0 then return end
redis.call('HSET', KEYS[1], 'kv_bits', ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 20000, '*', 'k', 'demoted', 'd', ARGV[2])
