-- Gives Celery an open job's message again, if Celery has lost it.
-- KEYS: job, Celery's queue, Celery's unacknowledged messages
-- ARGV: job id, message
-- Answers 1 where it was lost, else 0
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'running' then return 0 end
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then return 0 end
for _, message in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
  if string.find(message, ARGV[1], 1, true) then return 0 end
end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
