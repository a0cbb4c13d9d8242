-- Appends pieces of many answers, and shows each to the gateway processes that follow its chat.
-- KEYS: reply, chat, for each piece
-- ARGV: for each piece: place, text field, text, tokens, news (JSON entries with commas between), how many further values
--       its entry has, and these: names and values
-- Answers the numbers of pieces that were refused: their reply is gone, or has that place or a later one
local refused, at = {}, 1
for i = 1, #KEYS / 2 do
  local after = at + 6 + ARGV[at + 5]
  local answer = redis.pcall('XADD', KEYS[2 * i - 1], 'NOMKSTREAM', ARGV[at], ARGV[at + 1], ARGV[at + 2], 'n', ARGV[at + 3],
    unpack(ARGV, at + 6, after - 1))
  local failed = type(answer) == 'table' and answer.err
  -- Redis is full, or its disk is: nothing to do with this piece, which must be tried again. Those before it are
  -- refused for their places then.
  if failed and not string.find(answer.err, 'equal or smaller', 1, true) then return answer end
  if not answer or failed then refused[#refused + 1] = i end
  at = after
end
if #refused > 0 then return refused end -- nothing is shown: followers read the streams instead
local news = {}
at = 1
for i = 1, #KEYS / 2 do
  for channel in string.gmatch(redis.call('HGET', KEYS[2 * i], 'followers') or '', '%S+') do
    local entries = news[channel] or {}
    entries[#entries + 1] = ARGV[at + 4]
    news[channel] = entries
  end
  at = at + 6 + ARGV[at + 5]
end
for channel, entries in pairs(news) do redis.call('PUBLISH', channel, '[' .. table.concat(entries, ',') .. ']') end
return refused
