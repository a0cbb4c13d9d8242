-- Reserves in the ledger and moves the ticket to the model's ready stream, at once.
-- KEYS: lease, wait:T, waiting, chat, ready:M, session, reservations
-- ARGV: lease holder, tenant, chat, kv_bits, queue_s, reservation
-- Answers 'ok' | 'fenced' (another scheduler took over) | 'gone' (cancelled meanwhile)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'fenced' end
if not leave(KEYS[2], KEYS[3], ARGV[2], ARGV[3]) then return 'gone' end
redis.call('HSET', KEYS[7], ARGV[3], ARGV[6])
ready()
return 'ok'
