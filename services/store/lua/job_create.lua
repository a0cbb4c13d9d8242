-- Makes a job, unless another one that has not ended has what it needs to itself.
-- KEYS: job, jobs, lock ('' = none), new jobs
-- ARGV: job id, created_s, keep_s, jobs kept, job key prefix, then pairs: field, value
-- Answers {'ok'}, also where the same job was made before (an answer was lost) | {'locked', id of the job in the way}
if KEYS[3] ~= '' then
  local holder = redis.call('GET', KEYS[3])
  if holder == ARGV[1] then return {'ok'} end
  if holder then
    local state = redis.call('HGET', ARGV[5] .. holder, 'state')
    if state == 'queued' or state == 'running' then return {'locked', holder} end
  end
  redis.call('SET', KEYS[3], ARGV[1])
end
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -(ARGV[4] + 1))
redis.call('RPUSH', KEYS[4], ARGV[1])
return {'ok'}
