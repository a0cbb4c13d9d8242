-- Shows an entry of a reply to the gateway processes that follow the chat, for every script that ends one. Prepended to them.
-- followers: their channels; news: the entry as JSON
local function show(followers, news)
  for channel in string.gmatch(followers or '', '%S+') do redis.call('PUBLISH', channel, '[' .. news .. ']') end
end
