-- A worker takes an admitted chat: a new attempt, which fences every older one out of the reply stream.
-- KEYS: chat, reply
-- ARGV: who serves it
-- Answers {'ok', attempt, ticket, payload, kv_bits, queue_s, kv_byte_seconds so far} | {'done'} | {'gone'} | {'cancelled', attempt, ...}
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return {'gone'} end
if state == 'done' then return {'done'} end
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'state', 'running')
local f = redis.call('HMGET', KEYS[1], 'ticket', 'payload', 'kv_bits', 'queue_s', 'cancelled', 'kv_byte_seconds')
redis.call('XADD', KEYS[2], 'NOMKSTREAM', attempt .. '-0', 'k', 'start', 'b', f[3], 'q', f[4], 's', ARGV[1])
return {f[5] and 'cancelled' or 'ok', attempt, f[1], f[2], f[3], f[4], f[6] or '0'}
