-- Gives a model's worker a command. The same id again changes nothing, so whoever sends may send twice.
-- KEYS: command
-- ARGV: id, kind, arguments, at_s, control channel, hint
-- Answers 'ok' | 'same' | 'busy' (another command runs)
local now = redis.call('HMGET', KEYS[1], 'id', 'state')
if now[1] == ARGV[1] then
  redis.call('PUBLISH', ARGV[5], ARGV[6])
  return 'same'
end
if now[2] == 'running' then return 'busy' end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'id', ARGV[1], 'kind', ARGV[2], 'args', ARGV[3], 'at_s', ARGV[4], 'state', 'sent', 'progress', 0,
  'words', 'waiting for the worker')
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 'ok'
