-- Writes down what running chats have held of KV memory so far, for whoever takes one up after its worker died.
-- KEYS: chat, for each
-- ARGV: attempt and KV byte-seconds, for each
for i = 1, #KEYS do
  if redis.call('HGET', KEYS[i], 'attempt') == ARGV[2 * i - 1] then -- else another worker has it, or it is forgotten
    redis.call('HSET', KEYS[i], 'kv_byte_seconds', ARGV[2 * i])
  end
end
