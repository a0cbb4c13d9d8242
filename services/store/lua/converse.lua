-- Writes a conversation down if nobody else wrote it meanwhile, with its places in the indexes and what its readers see.
-- KEYS: conversation, index of its bot, index of the open ones, its events
-- ARGV: sha1 of what the writer read ('' = nothing is there, '*' = whatever is there), new text, keep_s, now_s, session,
--       member of the open index ('' = not open), same member to remove, events_max, then name and data of each event
-- Answers 1 | 0: somebody else wrote it
if ARGV[1] ~= '*' then
  local now = redis.call('GET', KEYS[1])
  local digest = now and redis.sha1hex(now) or ''
  if digest ~= ARGV[1] then return 0 end
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', tonumber(ARGV[4]) - tonumber(ARGV[3]))
redis.call('EXPIRE', KEYS[2], ARGV[3])
if ARGV[6] ~= '' then
  redis.call('ZADD', KEYS[3], 'NX', ARGV[4], ARGV[6])
else
  redis.call('ZREM', KEYS[3], ARGV[7])
end
for i = 9, #ARGV, 2 do
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[8], '*', 'n', ARGV[i], 'd', ARGV[i + 1])
  redis.call('EXPIRE', KEYS[4], ARGV[3])
end
return 1
