-- Takes a chat out of its waiting room, for every script that does. Prepended to them.
-- True when it was waiting there.
local function leave(wait, waiting, tenant, chat)
  if redis.call('ZREM', wait, chat) == 0 then return false end
  if redis.call('HINCRBY', waiting, tenant, -1) <= 0 then redis.call('HDEL', waiting, tenant) end
  return true
end
