-- Hands a waiting chat to another provider's worker, if what it may cost is left of its tenant's money.
-- KEYS: lease, wait:T, waiting, chat, spent, ready:P, session
-- ARGV: lease holder, tenant, chat, kv_bits, queue_s, micro-dollars at most, what may be spent in all ('' = no cap)
-- Answers 'ok' | 'fenced' (another scheduler took over) | 'gone' (cancelled meanwhile) | 'unpaid' (it waits on)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'fenced' end
if not redis.call('ZSCORE', KEYS[2], ARGV[3]) then return 'gone' end
local spent = tonumber(redis.call('GET', KEYS[5]) or '0')
if ARGV[7] ~= '' and spent + tonumber(ARGV[6]) > tonumber(ARGV[7]) then return 'unpaid' end
leave(KEYS[2], KEYS[3], ARGV[2], ARGV[3])
redis.call('INCRBY', KEYS[5], ARGV[6])
local entry = redis.call('XADD', KEYS[6], '*', 'chat', ARGV[3])
redis.call('HSET', KEYS[4], 'state', 'ready', 'kv_bits', ARGV[4], 'entry', entry, 'queue_s', ARGV[5],
  'reserved_microusd', ARGV[6])
if redis.call('EXISTS', KEYS[7]) == 1 then redis.call('HSET', KEYS[7], 'kv_bits', ARGV[4]) end
return 'ok'
