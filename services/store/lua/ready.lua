-- Puts a chat that has left its waiting room on a ready stream, for both scripts that do. Prepended to them.
-- KEYS: lease, wait:T, waiting, chat, ready stream, session
-- ARGV: lease holder, tenant, chat, kv_bits, queue_s
-- Takes what else the entry is to say: it outlives a chat that is forgotten while no worker comes.
local function ready(...)
  local entry = redis.call('XADD', KEYS[5], '*', 'chat', ARGV[3], ...)
  redis.call('HSET', KEYS[4], 'state', 'ready', 'kv_bits', ARGV[4], 'entry', entry, 'queue_s', ARGV[5])
  if redis.call('EXISTS', KEYS[6]) == 1 then redis.call('HSET', KEYS[6], 'kv_bits', ARGV[4]) end
end
