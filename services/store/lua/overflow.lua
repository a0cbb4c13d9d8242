-- Hands a waiting chat to another provider's worker, if what it may cost is left of its tenant's money.
-- KEYS: lease, wait:T, waiting, chat, ready:P, session, spent
-- ARGV: lease holder, tenant, chat, kv_bits, queue_s, micro-dollars at most, what may be spent in all ('' = no cap)
-- Answers 'ok' | 'fenced' (another scheduler took over) | 'gone' (cancelled meanwhile) | 'unpaid' (it waits on)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'fenced' end
if not redis.call('ZSCORE', KEYS[2], ARGV[3]) then return 'gone' end
local spent = tonumber(redis.call('GET', KEYS[7]) or '0')
if ARGV[7] ~= '' and spent + tonumber(ARGV[6]) > tonumber(ARGV[7]) then return 'unpaid' end
leave(KEYS[2], KEYS[3], ARGV[2], ARGV[3])
redis.call('INCRBY', KEYS[7], ARGV[6])
redis.call('HSET', KEYS[4], 'reserved_microusd', ARGV[6])
ready('spent', KEYS[7], 'microusd', ARGV[6])
return 'ok'
