-- Appends pieces of many answers, and shows each to the gateway processes that follow its chat.
-- KEYS: reply, chat, for each piece
-- ARGV: for each piece: place, text field (with the number of further values that its entry has, if any: t2), text, tokens,
--       news (JSON entries with commas between), and the further values: names and values
-- Answers the numbers of pieces that were refused: their reply is gone, or has that place or a later one
local function after_piece(at)
  local field = ARGV[at + 1]
  return at + 5 + (#field > 1 and tonumber(string.sub(field, 2)) or 0)
end
local refused, at = {}, 1
for i = 1, #KEYS / 2 do
  local after = after_piece(at)
  local field = string.sub(ARGV[at + 1], 1, 1)
  local answer = redis.pcall('XADD', KEYS[2 * i - 1], 'NOMKSTREAM', ARGV[at], field, ARGV[at + 2], 'n', ARGV[at + 3],
    unpack(ARGV, at + 5, after - 1))
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
  at = after_piece(at)
end
for channel, entries in pairs(news) do redis.call('PUBLISH', channel, '[' .. table.concat(entries, ',') .. ']') end
return refused
