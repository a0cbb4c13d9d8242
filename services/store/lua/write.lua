-- Appends pieces of many answers, and shows them to whoever follows.
-- KEYS: reply, once a piece
-- ARGV: hint channel, news (JSON), then for each piece: place, text field, text, tokens
-- Answers the numbers of pieces that were refused: their reply is gone, or has that place or a later one
local refused = {}
for i = 1, #KEYS do
  local at = 4 * i - 1
  local answer = redis.pcall('XADD', KEYS[i], 'NOMKSTREAM', ARGV[at], ARGV[at + 1], ARGV[at + 2], 'n', ARGV[at + 3])
  local failed = type(answer) == 'table' and answer.err
  -- Redis is full, or its disk is: nothing to do with this piece, which must be tried again. Those before it are
  -- refused for their places then.
  if failed and not string.find(answer.err, 'equal or smaller', 1, true) then return answer end
  if not answer or failed then refused[#refused + 1] = i end
end
-- Where a piece was refused nothing is shown: followers read the streams instead.
if #refused == 0 then redis.call('PUBLISH', ARGV[1], ARGV[2]) end
return refused
