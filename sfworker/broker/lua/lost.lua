-- Answers, once, a job whose payload was deleted under its pending entry. Where it was sent again, that entry stands.
--   KEYS 1-3 as in the prelude   4 result (sf:result:<id>)   5 ids to answer (sf:answers:<group>)
--        6 index (sf:ended:failure)   7 what runs (sf:running:<group>)   8 envelope (sf:envelope:<id>)
--   ARGV 1-11 as in the prelude (the worker is not looked at)   12 event   13 result   14 seconds the result is kept
--        15 seconds the record is kept   16 executions that the index keeps
--        17 1 where those beyond are forgotten altogether, else 0
--   Reply the paths that its attempts staged, as JSON, or nothing where the payload is there, the entry was settled, or
--   another entry stands for it.
look(KEYS[3], nil, KEYS[5])
local known = read(KEYS[2], 'group', 'stream', 'entry', 'written', 'attempt', 'started', 'counted')
if present(KEYS[1], ARGV[3]) or redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]) == 0 then return nil end
local written = '[]'
forget(KEYS[5])
if ARGV[6] == 'execution_id' then
  if not (known[1] == ARGV[1] and known[2] == KEYS[1] and known[3] == ARGV[3]) then return nil end
  written = known[4] or written
  count_out(KEYS[7], known[7])
end
answer('FAILURE', ARGV[12], ARGV[13], ARGV[14])
local begun = {attempt = known[5], started = known[6]}
enlist(KEYS[6], 'FAILURE', cjson.decode(ARGV[12]), '', begun, ARGV[15], ARGV[16], ARGV[17], KEYS[8])
-- With another run in the record, an attempt that still computes is told that it came too late.
if ARGV[6] == 'execution_id' then close(KEYS[2], ARGV[1], ARGV[4], ARGV[15], 'FAILURE') end
return written
