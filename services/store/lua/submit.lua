-- The tickets of one request enter their tenant's waiting room and are charged to its windows: all of it or nothing.
-- KEYS: registry-version, waiting, wait:T, arrivals, chat, reply, events, idempotency ('' when none), session, sessions,
--       then chat and reply of each further ticket, then a counter for each window
-- ARGV: version, chat, tenant, ticket, payload, waiting_max, waiting_per_tenant_max, keep_s, session, bot, model, now_s,
--       session_keep_s, digest of the question ('' without a key), what to give back at the end ('' = nothing),
--       channel of the gateway process that serves it ('' = none), number of further tickets,
--       then for each of them: chat, ticket, payload ('' = that of the one before), what to give back,
--       then for each window: amount, most, seconds to keep
-- Answers {'ok', place, used...}: with each window's use now | {'limited', n, used...}: the n-th window has no room |
-- {'stale'} | {'full', n} | {'tenant_full', n} | {'same', chat, further chats} | {'reused', chat}: the key stands for another
-- question
local MORE = tonumber(ARGV[17])
local WINDOW, ARG = 11 + 2 * MORE, 18 + 4 * MORE -- where the windows begin, in KEYS and in ARGV
local function with_use(answer)
  for i = WINDOW, #KEYS do answer[#answer + 1] = tonumber(redis.call('GET', KEYS[i]) or '0') end
  return answer
end
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return {'stale'} end
local mine = tonumber(redis.call('HGET', KEYS[2], ARGV[3]) or '0')
if redis.call('EXISTS', KEYS[5]) == 1 then return with_use({'ok', mine}) end -- sent again because a connection broke
if KEYS[8] ~= '' then
  local earlier = redis.call('GET', KEYS[8])
  if earlier then
    -- A key whose chat failed or was cancelled is free again: a retry wants an answer, not the same failure.
    local earlier_chat = string.sub(KEYS[5], 1, -#ARGV[2] - 1) .. earlier
    local f = redis.call('HMGET', earlier_chat, 'cancelled', 'finish', 'asked', 'choices')
    if not (f[1] or f[2] == 'error' or f[2] == 'cancelled') then
      local other = f[3] and f[3] ~= ARGV[14] -- a chat from before an upgrade has no digest
      return {other and 'reused' or 'same', earlier, f[4] or ''}
    end
  end
end
for i = WINDOW, #KEYS do
  local at = ARG + 3 * (i - WINDOW)
  local used = tonumber(redis.call('GET', KEYS[i]) or '0')
  if used + tonumber(ARGV[at]) > tonumber(ARGV[at + 1]) then return with_use({'limited', i - WINDOW + 1}) end
end
if mine + MORE >= tonumber(ARGV[7]) then return {'tenant_full', mine} end
local total = 0
for _, n in ipairs(redis.call('HVALS', KEYS[2])) do total = total + tonumber(n) end
if total + MORE >= tonumber(ARGV[6]) then return {'full', total} end
local wanted = tonumber(redis.call('HGET', KEYS[9], 'wanted') or '')
local function enter(chat_key, reply_key, chat, ticket, payload, charge)
  if wanted then -- an operator set this session's KV bits
    local changed = cjson.decode(ticket)
    changed.kv_bits = wanted
    changed.kv_bits_floor = math.min(changed.kv_bits_floor, wanted)
    ticket = cjson.encode(changed)
  end
  redis.call('HSET', chat_key, 'ticket', ticket, 'payload', payload, 'tenant', ARGV[3], 'state', 'waiting', 'attempt', 0)
  redis.call('EXPIRE', chat_key, ARGV[8])
  redis.call('XADD', reply_key, '0-1', 'k', 'queued')
  redis.call('EXPIRE', reply_key, ARGV[8])
  redis.call('ZADD', KEYS[3], redis.call('INCR', KEYS[4]), chat)
  redis.call('HINCRBY', KEYS[2], ARGV[3], 1)
  redis.call('XADD', KEYS[7], 'MAXLEN', '~', 20000, '*', 'k', 'arrive', 'd', ticket)
  if charge ~= '' then redis.call('HSET', chat_key, 'charge', charge) end
  if ARGV[16] ~= '' then redis.call('HSET', chat_key, 'followers', ARGV[16]) end
end
redis.call('HSET', KEYS[9], 'bot', ARGV[10], 'model', ARGV[11], 'last_s', ARGV[12])
redis.call('EXPIRE', KEYS[9], ARGV[13])
redis.call('ZADD', KEYS[10], ARGV[12], ARGV[3] .. ' ' .. ARGV[9])
redis.call('ZREMRANGEBYSCORE', KEYS[10], '-inf', tonumber(ARGV[12]) - tonumber(ARGV[13])) -- their hashes are gone, too
enter(KEYS[5], KEYS[6], ARGV[2], ARGV[4], ARGV[5], ARGV[15])
local further, payload = {}, ARGV[5]
for i = 1, MORE do
  local at = 14 + 4 * i
  further[i] = ARGV[at]
  if ARGV[at + 2] ~= '' then payload = ARGV[at + 2] end
  enter(KEYS[9 + 2 * i], KEYS[10 + 2 * i], further[i], ARGV[at + 1], payload, ARGV[at + 3])
end
if KEYS[8] ~= '' then
  redis.call('SET', KEYS[8], ARGV[2], 'EX', ARGV[8])
  redis.call('HSET', KEYS[5], 'asked', ARGV[14])
  if MORE > 0 then redis.call('HSET', KEYS[5], 'choices', table.concat(further, ' ')) end
end
for i = WINDOW, #KEYS do
  local at = ARG + 3 * (i - WINDOW)
  redis.call('INCRBY', KEYS[i], ARGV[at])
  redis.call('EXPIRE', KEYS[i], ARGV[at + 2])
end
return with_use({'ok', mine + 1 + MORE})
