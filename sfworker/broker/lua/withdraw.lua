-- Take an execution that waits for its next attempt, due or not, because the web side wants it cancelled. Where it has
-- ended already, that wish is forgotten.
--   KEYS 1 record of the execution   2 the mark that the web side wants it cancelled   3 due times   4.. job streams
--   ARGV 1 group   2 worker   3 consumer of those that wait
--   Reply a parcel (see the prelude), or nothing.
if redis.call('EXISTS', KEYS[2]) == 0 then return nil end
local known = redis.call('HMGET', KEYS[1], 'state', 'group', 'stream', 'entry')
local group, stream, entry = known[2], known[3], known[4]
if known[1] == 'done' or known[1] == 'dead' then redis.call('DEL', KEYS[2]) end
if group ~= ARGV[1] or owner(stream, group, entry) ~= ARGV[3] then return nil end
redis.call('ZREM', KEYS[3], stream .. ' ' .. entry)
return claim(stream, group, ARGV[2], 0, entry)
