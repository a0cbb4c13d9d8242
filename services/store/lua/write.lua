-- Appends pieces of many answers, and shows each to the gateway processes that follow its chat.
-- KEYS: reply, chat, for each piece
-- ARGV: for each piece: place, text field, text, tokens, news (JSON entries with commas between)
-- Answers the numbers of pieces that were refused: their reply is gone, or has that place or a later one
local refused = {}
for i = 1, #KEYS / 2 do
  local at = 5 * i - 4
  local answer = redis.pcall('XADD', KEYS[2 * i - 1], 'NOMKSTREAM', ARGV[at], ARGV[at + 1], ARGV[at + 2], 'n', ARGV[at + 3])
  local failed = type(answer) == 'table' and answer.err
  -- Redis is full, or its disk is: nothing to do with this piece, which must be tried again. Those before it are
  -- refused for their places then.
  if failed and not string.find(answer.err, 'equal or smaller', 1, true) then return answer end
  if not answer or failed then refused[#refused + 1] = i end
end
if #refused > 0 then return refused end -- nothing is shown: followers read the streams instead
local news = {}
for i = 1, #KEYS / 2 do
  for channel in string.gmatch(redis.call('HGET', KEYS[2 * i], 'followers') or '', '%S+') do
    local entries = news[channel] or {}
    entries[#entries + 1] = ARGV[5 * i]
    news[channel] = entries
  end
end
for channel, entries in pairs(news) do redis.call('PUBLISH', channel, '[' .. table.concat(entries, ',') .. ']') end
return refused
