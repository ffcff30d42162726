-- Takes an execution that waits for its next attempt, due or not, because it is to be cancelled. Where it has ended
-- already, its cancel mark is removed.
--   KEYS 1 record of the execution (sf:exec:<id>)   2 cancel mark (sf:cancel:<id>)
--        3.. for each job stream, the stream and its due times (sf:retries:<priority>:<group>)
--   ARGV 1 group   2 worker   3 consumer @retry
--   Reply a parcel (see the prelude), or nothing.
if redis.call('EXISTS', KEYS[2]) == 0 then return nil end
local known = read(KEYS[1], 'state', 'group', 'stream', 'entry')
local group, stream, entry = known[2], known[3], known[4]
if known[1] == 'done' or known[1] == 'dead' then redis.call('DEL', KEYS[2]) end
if not entry or group ~= ARGV[1] or owner(stream, group, entry) ~= ARGV[3] then return nil end
for i = 3, #KEYS, 2 do
  if KEYS[i] == stream then redis.call('ZREM', KEYS[i + 1], entry) end
end
return claim(stream, group, ARGV[2], 0, entry)
