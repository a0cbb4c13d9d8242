-- Ends a dispatched chat, exactly once: last entry of the reply, reservation released, usage counted, charge put right,
-- ticket acknowledged.
-- KEYS: chat, reply, reservations, ready:M, events, usage, usages, spent
-- ARGV: chat, attempt, end entry, usage event, keep_s, group, then pairs: counter, amount
-- Answers 'ok' | 'fenced' (a newer attempt has it) | 'done' (settled before)
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'done' then
  redis.call('HDEL', KEYS[3], ARGV[1])
  return 'done'
end
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[2] then return 'fenced' end
local fields = redis.call('HMGET', KEYS[1], 'entry', 'charge', 'reserved_microusd', 'followers')
local entry, charge, reserved, followers = unpack(fields)
local ending = cjson.decode(ARGV[3])
local place = redis.call('XADD', KEYS[2], 'NOMKSTREAM', ARGV[2] .. '-*', 'k', 'end', 'd', ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[5])
redis.call('HSET', KEYS[1], 'state', 'done', 'finish', ending.finish)
redis.call('HDEL', KEYS[1], 'payload', 'charge', 'followers')
give_back(charge, ending)
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('HDEL', KEYS[3], ARGV[1])
if entry then
  redis.call('XACK', KEYS[4], ARGV[6], entry)
  redis.call('XDEL', KEYS[4], entry)
end
redis.call('SADD', KEYS[7], KEYS[6])
local cost = 0
for i = 7, #ARGV, 2 do
  if string.find(ARGV[i + 1], '.', 1, true) then
    redis.call('HINCRBYFLOAT', KEYS[6], ARGV[i], ARGV[i + 1])
  else
    redis.call('HINCRBY', KEYS[6], ARGV[i], ARGV[i + 1])
    if ARGV[i] == 'overflow_microusd' then cost = tonumber(ARGV[i + 1]) end
  end
end
local over = cost - tonumber(reserved or '0') -- than overflow.lua counted
if over ~= 0 then redis.call('INCRBY', KEYS[8], over) end
redis.call('XADD', KEYS[5], 'MAXLEN', '~', 20000, '*', 'k', 'settle', 'd', ARGV[4])
if place then
  local before = ARGV[2] .. '-' .. (tonumber(string.match(place, '%-(%d+)$')) - 1)
  show(followers, '["' .. ARGV[1] .. '","' .. before .. '","' .. place .. '",' .. ARGV[3] .. ']')
end
return 'ok'
