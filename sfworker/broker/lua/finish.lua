-- Ends an execution with result, event, acknowledgement and deletion in one step.
--   KEYS 1-3 as in the prelude   4 result (sf:result:<id>)   5 cancel mark (sf:cancel:<id>)
--        6 ids to answer (sf:answers:<group>)   7 index (sf:ended, sf:ended:<outcome>)   8 envelope (sf:envelope:<id>)
--        9 what runs (sf:running:<group>)
--   ARGV 1-11 as in the prelude   12 status   13 event   14 result   15 seconds the result is kept
--        16 seconds the record is kept   17 task type   18 executions that the index keeps
--        19 1 where those beyond are forgotten altogether, else 0
--   Reply 1, or 0 where the attempt is no longer this worker's and nothing was changed.
look(KEYS[3], nil, KEYS[6])
local begun = held()
if not begun then return is('done') and 1 or 0 end -- where only the reply was lost: 1
answer(ARGV[12], ARGV[13], ARGV[14], ARGV[15])
enlist(KEYS[7], ARGV[12], {}, ARGV[17], begun, ARGV[16], ARGV[18], ARGV[19], KEYS[8])
keep_envelope(KEYS[8], ARGV[15])
settle(KEYS[1], ARGV[1], ARGV[3])
count_out(KEYS[9], begun.counted)
close(KEYS[2], ARGV[1], ARGV[4], ARGV[16], ARGV[12])
redis.call('DEL', KEYS[5])
forget(KEYS[6])
return 1
