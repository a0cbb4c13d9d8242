-- Reserves in the ledger and moves the ticket to the model's ready stream, at once.
-- KEYS: lease, wait:T, waiting, chat, reservations, ready:M, session
-- ARGV: lease holder, tenant, chat, reservation, kv_bits, queue_s
-- Answers 'ok' | 'fenced' (another scheduler took over) | 'gone' (cancelled meanwhile)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'fenced' end
if not leave(KEYS[2], KEYS[3], ARGV[2], ARGV[3]) then return 'gone' end
redis.call('HSET', KEYS[5], ARGV[3], ARGV[4])
local entry = redis.call('XADD', KEYS[6], '*', 'chat', ARGV[3])
redis.call('HSET', KEYS[4], 'state', 'ready', 'kv_bits', ARGV[5], 'entry', entry, 'queue_s', ARGV[6])
if redis.call('EXISTS', KEYS[7]) == 1 then redis.call('HSET', KEYS[7], 'kv_bits', ARGV[5]) end
return 'ok'
