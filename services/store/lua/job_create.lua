-- Makes a job and Celery's message about it, unless another job that has not ended has what it needs to itself.
-- KEYS: job, jobs, lock ('' = none), Celery's queue
-- ARGV: job id, created_s, keep_s, jobs kept, job key prefix, message, then pairs: field, value
-- Answers {'ok'}, also where the same job was made before (an answer was lost) | {'locked', id of the job in the way}
if redis.call('EXISTS', KEYS[1]) == 1 then return {'ok'} end
if KEYS[3] ~= '' then
  local holder = redis.call('GET', KEYS[3])
  if holder then
    local state = redis.call('HGET', ARGV[5] .. holder, 'state')
    if state == 'queued' or state == 'running' then return {'locked', holder} end
  end
  redis.call('SET', KEYS[3], ARGV[1])
end
for i = 7, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -(ARGV[4] + 1))
redis.call('LPUSH', KEYS[4], ARGV[6])
return {'ok'}
