-- Replaces the registry if it is still the version that the change was made from.
-- KEYS: registry, audit
-- ARGV: old version, new version, document, hint channel, audit entry ('' = none), entries kept
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return 'stale' end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'document', ARGV[3])
if ARGV[5] ~= '' then redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], '*', 'd', ARGV[5]) end
redis.call('PUBLISH', ARGV[4], ARGV[2])
return 'ok'
