-- Marks a conversation as no longer being answered, unless another chat of it is by now.
-- KEYS: mark. ARGV: chat
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
