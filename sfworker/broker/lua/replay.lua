-- Lets an execution that failed for good run again at once, as if it had never run. Its history is kept.
--   KEYS 1-3 as in the prelude   4 due times (sf:retries:<priority>:<group>)   5 cancel mark (sf:cancel:<id>)
--        6 result (sf:result:<id>)   7 ids to answer (sf:answers:<group>)   8 index (sf:ended:failure)
--   ARGV 1-11 as in the prelude (worker and run are not looked at)   12 event   13 consumer @dead   14 consumer @retry
--   Reply one of these, of which only the first has changed anything:
--     replayed    it waits for its next attempt
--     not dead    it runs, waits, has ended, or was replayed before
--     gone        its payload was deleted from the stream
--     superseded  the execution was sent again when nothing was known of this entry any more; that one stands
local stream, record, group, entry = KEYS[1], KEYS[2], ARGV[1], ARGV[3]
look(KEYS[3], KEYS[4], KEYS[7])
local known = read(record, 'state', 'group', 'stream', 'entry')
if owner(stream, group, entry) ~= ARGV[13] then return 'not dead' end
if stands_elsewhere(known[1], known[2], known[3], known[4], group, stream, entry) then return 'superseded' end
if not hand_over(stream, group, entry, ARGV[14]) then return 'gone' end
redis.call('ZADD', KEYS[4], now_ms(), entry)
redis.call('HSET', record, 'group', group, 'stream', stream, 'entry', entry, 'run', '', 'state', 'retry',
  'attempt', 0, 'crashes', 0, 'releases', 0)
redis.call('HINCRBY', record, 'replays', 1)
local listed = redis.call('HGET', record, 'listed')
if listed then redis.pcall('ZREM', KEYS[8], listed) end
redis.call('HDEL', record, 'buried', 'error', 'error_type', 'listed')
redis.call('PERSIST', record)
redis.call('DEL', KEYS[5], KEYS[6])
remember(KEYS[7])
tell('RETRY', ARGV[12])
return 'replayed'
