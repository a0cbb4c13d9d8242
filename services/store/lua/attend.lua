-- A gateway process wants the news of replies on its own channel, or no longer does. A reply that has ended has none.
-- KEYS: chat, for each
-- ARGV: channel, '1' = from now on, '0' = no longer
-- Answers for each 1 | 0 (no such chat)
local known = {}
for i = 1, #KEYS do
  local state, followers = unpack(redis.call('HMGET', KEYS[i], 'state', 'followers'))
  known[i] = state and 1 or 0
  if state and state ~= 'done' then
    local channels = {}
    for channel in string.gmatch(followers or '', '%S+') do
      if channel ~= ARGV[1] then channels[#channels + 1] = channel end
    end
    if ARGV[2] == '1' then channels[#channels + 1] = ARGV[1] end
    redis.call('HSET', KEYS[i], 'followers', table.concat(channels, ' '))
  end
end
return known
