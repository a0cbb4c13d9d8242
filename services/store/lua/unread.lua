-- Which chats have followers, of which none subscribes to its channel: these processes are gone.
-- KEYS: chat, for each
-- Answers for each 1 | 0
local there = {}
local function subscribed(channel)
  if there[channel] == nil then there[channel] = redis.call('PUBSUB', 'NUMSUB', channel)[2] > 0 end
  return there[channel]
end
local unread = {}
for i = 1, #KEYS do
  local state, followers = unpack(redis.call('HMGET', KEYS[i], 'state', 'followers'))
  unread[i] = 0
  if state and state ~= 'done' and followers and followers ~= '' then
    unread[i] = 1
    for channel in string.gmatch(followers, '%S+') do
      if subscribed(channel) then unread[i] = 0 end
    end
  end
end
return unread
