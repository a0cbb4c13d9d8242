-- Starts an attempt at a job, if nobody else has started one since.
-- KEYS: job
-- ARGV: attempts so far, now_s, words
-- Answers the attempt's number | false
local job = redis.call('HMGET', KEYS[1], 'attempt', 'state')
if job[1] ~= ARGV[1] or (job[2] ~= 'queued' and job[2] ~= 'running') then return false end
redis.call('HSETNX', KEYS[1], 'started_s', ARGV[2])
redis.call('HSET', KEYS[1], 'state', 'running', 'beat_s', ARGV[2], 'words', ARGV[3])
return redis.call('HINCRBY', KEYS[1], 'attempt', 1)
