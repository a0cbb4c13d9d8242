-- Ends a chat that was never dispatched: refused by the scheduler, or cancelled while it waited.
-- KEYS: lease, wait:T, waiting, chat, reply, events, usage, usages
-- ARGV: lease holder ('' = no lease needed), tenant, chat, end entry, usage counter, keep_s, event ('' = none),
--       '1' = only if all its readers have left (cancel.lua counts them)
-- Answers 'ok' | 'fenced' | 'gone' | 'followed' (another client reads it now)
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'fenced' end
if ARGV[8] == '1' then
  local readers, left = unpack(redis.call('HMGET', KEYS[4], 'readers', 'left'))
  if tonumber(left or '0') <= tonumber(readers or '0') then return 'followed' end
end
if not leave(KEYS[2], KEYS[3], ARGV[2], ARGV[3]) then return 'gone' end
local ending = cjson.decode(ARGV[4])
local charge, followers = unpack(redis.call('HMGET', KEYS[4], 'charge', 'followers'))
give_back(charge, ending)
redis.call('HSET', KEYS[4], 'state', 'done', 'finish', ending.finish)
redis.call('HDEL', KEYS[4], 'payload', 'charge', 'followers')
redis.call('EXPIRE', KEYS[4], ARGV[6])
redis.call('XADD', KEYS[5], 'NOMKSTREAM', '0-2', 'k', 'end', 'd', ARGV[4])
redis.call('EXPIRE', KEYS[5], ARGV[6])
redis.call('HINCRBY', KEYS[7], ARGV[5], 1)
redis.call('SADD', KEYS[8], KEYS[7])
if ARGV[7] ~= '' then redis.call('XADD', KEYS[6], 'MAXLEN', '~', 20000, '*', 'k', ARGV[7], 'd', ARGV[3]) end
show(followers, '["' .. ARGV[3] .. '","0-1","0-2",' .. ARGV[4] .. ']')
return 'ok'
