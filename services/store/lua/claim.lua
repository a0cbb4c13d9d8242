-- A worker takes an admitted chat: a new attempt, which fences every older one out of the reply stream. One that has ended,
-- or was forgotten before a worker came, is acknowledged, and nothing stays reserved for it.
-- KEYS: chat, reply, ready:M, reservations, events
-- ARGV: who serves it, chat, entry, group, keep_s
-- Answers {'ok', attempt, ticket, payload, kv_bits, queue_s, kv_byte_seconds so far} | {'cancelled', attempt, ...} | {'done'} |
-- {'gone'}
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'done' then
  local entry = redis.call('XRANGE', KEYS[3], ARGV[3], ARGV[3])[1]
  local _, _, _, spent, _, microusd = unpack(entry and entry[2] or {})
  if not state and spent then redis.call('DECRBY', spent, microusd) end -- settle.lua did it for one that ended
  redis.call('XACK', KEYS[3], ARGV[4], ARGV[3])
  redis.call('XDEL', KEYS[3], ARGV[3])
  redis.call('HDEL', KEYS[4], ARGV[2])
  redis.call('XADD', KEYS[5], '*', 'k', 'settle', 'd', cjson.encode({chat = ARGV[2], usage = cjson.null}))
  return {state or 'gone'}
end
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'state', 'running')
local f = redis.call('HMGET', KEYS[1], 'ticket', 'payload', 'kv_bits', 'queue_s', 'cancelled', 'kv_byte_seconds')
for i = 1, 2 do redis.call('EXPIRE', KEYS[i], ARGV[5]) end -- else one that waited long is forgotten while it runs
redis.call('XADD', KEYS[2], 'NOMKSTREAM', attempt .. '-0', 'k', 'start', 'b', f[3], 'q', f[4], 's', ARGV[1])
return {f[5] and 'cancelled' or 'ok', attempt, f[1], f[2], f[3], f[4], f[6] or '0'}
