-- Lets an execution wait for its next attempt, which is due at once where it is to be cancelled.
--   KEYS 1-3 as in the prelude   4 due times (sf:retries:<priority>:<group>)   5 cancel mark (sf:cancel:<id>)
--        6 what runs (sf:running:<group>)
--   ARGV 1-11 as in the prelude   12 event   13 milliseconds from now   14 consumer @retry
--        15 counter of the record to increment, or empty where the attempt is used up
--   Reply 1, or 0 where the attempt is no longer this worker's and nothing was changed.
look(KEYS[3], KEYS[4])
local begun = held()
if not begun then return is('retry') and 1 or 0 end -- where only the reply was lost: 1
local due = now_ms()
if redis.call('EXISTS', KEYS[5]) == 0 then due = due + tonumber(ARGV[13]) end
hand_over(KEYS[1], ARGV[1], ARGV[3], ARGV[14])
redis.call('ZADD', KEYS[4], due, ARGV[3])
note(KEYS[2], 'retrying', ARGV[12])
count_out(KEYS[6], begun.counted)
if ARGV[15] ~= '' then redis.call('HINCRBY', KEYS[2], ARGV[15], 1) end
redis.call('HSET', KEYS[2], 'state', 'retry', 'due', due)
tell('RETRY', ARGV[12])
return 1
