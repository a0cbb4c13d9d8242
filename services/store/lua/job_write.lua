-- Writes a job's progress or end, if it is still this attempt's to write.
-- KEYS: job, lock ('' = none)
-- ARGV: attempt, job id, then pairs: field, value
-- Answers 'ok' | 'cancel' (written, and somebody wants it to stop) | 'fenced' (another attempt has it, or it has ended)
local now = redis.call('HMGET', KEYS[1], 'attempt', 'state', 'cancel')
if now[1] ~= ARGV[1] or now[2] ~= 'running' then return 'fenced' end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
if KEYS[2] ~= '' and redis.call('HGET', KEYS[1], 'state') ~= 'running' and redis.call('GET', KEYS[2]) == ARGV[2] then
  redis.call('DEL', KEYS[2])
end
return now[3] and 'cancel' or 'ok'
