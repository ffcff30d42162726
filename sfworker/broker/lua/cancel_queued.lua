-- Ends an execution that nobody has begun, whose entry is new or was given back. Where another group keeps the entry in
-- the stream, it is a duplicate when its turn comes there.
--   KEYS 1-3 as in the prelude   4 result (sf:result:<id>)   5 cancel mark (sf:cancel:<id>)
--        6 ids to answer (sf:answers:<group>; not used, nothing is kept there yet)
--        7 index (sf:ended:cancelled)   8 envelope (sf:envelope:<id>)   9 what runs (sf:running:<group>; not used)
--        10 due times (sf:retries:<priority>:<group>)
--   ARGV 1-11 as in the prelude (the worker is not looked at)   12 event   13 result   14 seconds the result is kept
--        15 seconds the record is kept   16 task type   17 executions that the index keeps   18 consumer @retry
--        19 1 where executions beyond that are forgotten altogether, else 0
--   Reply 1, or 0 where it was taken meanwhile or its mark is gone; then nothing else was changed.
local stream, group, entry = KEYS[1], ARGV[1], ARGV[3]
look(KEYS[3], KEYS[10])
read(KEYS[2], 'run')
local taken = not_after(entry, delivered(stream)[group] or '0-0') and owner(stream, group, entry) ~= ARGV[18]
if taken or not present(stream, entry) or redis.call('EXISTS', KEYS[2]) == 1 or redis.call('DEL', KEYS[5]) == 0 then return 0 end
answer('CANCELLED', ARGV[12], ARGV[13], ARGV[14])
enlist(KEYS[7], 'CANCELLED', {}, ARGV[16], {}, ARGV[15], ARGV[17], ARGV[19], KEYS[8])
keep_envelope(KEYS[8], ARGV[14])
close(KEYS[2], group, ARGV[4], ARGV[15], 'CANCELLED')
redis.call('ZREM', KEYS[10], entry)
settle(stream, group, entry)
return 1
