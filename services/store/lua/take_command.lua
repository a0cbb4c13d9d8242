-- A worker begins its model's command.
-- KEYS: command
-- ARGV: id
-- Answers 1, also where it had begun (an answer was lost: no other worker is there) | 0 (it was withdrawn)
local now = redis.call('HMGET', KEYS[1], 'id', 'state')
if now[1] ~= ARGV[1] or (now[2] ~= 'sent' and now[2] ~= 'running') then return 0 end
redis.call('HSET', KEYS[1], 'state', 'running', 'progress', 0.1, 'words', 'begun')
return 1
