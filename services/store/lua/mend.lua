-- Puts a model's chats on its ready stream again where they are missing: Redis evicted it, or it was deleted.
-- KEYS: ready:M, reservations
-- ARGV: model, key of a chat without its id
-- Answers how many
local mended = 0
for _, held in ipairs(redis.call('HVALS', KEYS[2])) do
  local reservation = cjson.decode(held)
  local chat = ARGV[2] .. reservation.chat
  local state, entry = unpack(redis.call('HMGET', chat, 'state', 'entry'))
  if reservation.model == ARGV[1] and (state == 'ready' or state == 'running') then
    if not entry or #redis.call('XRANGE', KEYS[1], entry, entry) == 0 then
      redis.call('HSET', chat, 'entry', redis.call('XADD', KEYS[1], '*', 'chat', reservation.chat))
      mended = mended + 1
    end
  end
end
return mended
