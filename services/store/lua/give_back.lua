-- Gives back what a chat did not take of its charge, for every script that ends one. Prepended to them.
-- charge: tokens, the windows that they are in, and the window of its request as requests=WINDOW; ending: the reply's end
local CLIENTS_FAULT = {engine_rejected = true, never_fits = true}
local function give_back(charge, ending)
  if not charge then return end
  local words = string.gmatch(charge, '%S+')
  local tokens, request = tonumber(words()), 0
  if type(ending.usage) == 'table' then
    tokens = tokens - ending.usage.prompt_tokens - ending.usage.completion_tokens
  elseif type(ending.error) == 'table' and ending.finish == 'error' and not CLIENTS_FAULT[ending.error.code] then
    request = 1 -- this host refused the chat
  end
  for word in words do
    local requests = string.match(word, '^requests=(.+)$')
    local window, amount = requests or word, requests and request or tokens
    -- One that is over is nobody's any more, and must not come back without an end.
    if amount > 0 and redis.call('EXISTS', window) == 1 then redis.call('DECRBY', window, amount) end
  end
end
