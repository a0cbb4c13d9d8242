-- Gives back what a chat did not take of its charge, for every script that ends one. Prepended to them.
-- charge: tokens, then the windows they are in; ending: the reply's end
local function give_back(charge, ending)
  if not charge then return end
  local words = string.gmatch(charge, '%S+')
  local left = tonumber(words())
  if type(ending.usage) == 'table' then left = left - ending.usage.prompt_tokens - ending.usage.completion_tokens end
  if left <= 0 then return end
  for window in words do
    -- One that is over is nobody's any more, and must not come back without an end.
    if redis.call('EXISTS', window) == 1 then redis.call('DECRBY', window, left) end
  end
end
