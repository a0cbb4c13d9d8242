-- A running chat's reservation shrinks, unless the chat has ended.
-- KEYS: lease, reservations
-- ARGV: lease holder, chat, reservation
-- Answers 'ok' | 'fenced' | 'gone'
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'fenced' end
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then return 'gone' end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 'ok'
