-- Ends an execution that failed for good, as finish.lua does, but the entry stays with @dead until it is replayed. One that
-- is too large to be accepted is not kept, because it could only fail again.
--   KEYS 1-3 as in the prelude   4 result (sf:result:<id>)   5 cancel mark (sf:cancel:<id>)
--        6 ids to answer (sf:answers:<group>)   7 index (sf:ended:failure)   8 envelope (sf:envelope:<id>)
--        9 what runs (sf:running:<group>)
--   ARGV 1-11 as in the prelude   12 event   13 result   14 seconds the result is kept   15 consumer @dead
--        16 seconds the record is kept   17 bytes of the largest entry that is kept   18 task type
--        19 executions that the index keeps   20 1 where those beyond are forgotten altogether, else 0
--   Reply 1, or 0 where the attempt is no longer this worker's and nothing was changed.
look(KEYS[3], nil, KEYS[6])
local begun = held()
if not begun then return is('dead') and 1 or 0 end -- where only the reply was lost: 1
local event = cjson.decode(ARGV[12])
answer('FAILURE', ARGV[12], ARGV[13], ARGV[14])
local listed = enlist(KEYS[7], 'FAILURE', event, ARGV[18], begun, ARGV[16], ARGV[19], ARGV[20], KEYS[8])
local small = size(KEYS[1], ARGV[3]) <= tonumber(ARGV[17])
if not small or not hand_over(KEYS[1], ARGV[1], ARGV[3], ARGV[15]) then settle(KEYS[1], ARGV[1], ARGV[3]) end
note(KEYS[2], 'failed', ARGV[12])
count_out(KEYS[9], begun.counted)
redis.call('HSET', KEYS[2], 'state', 'dead', 'buried', now_ms(), 'error_type', event.error_type or '',
  'error', event.error or '', 'listed', listed)
redis.call('HDEL', KEYS[2], 'written')
redis.call('EXPIRE', KEYS[2], ARGV[16])
redis.call('DEL', KEYS[5])
forget(KEYS[6])
return 1
