-- Answer a job whose payload was deleted under its pending entry, once.
--   KEYS 1-3 as in the prelude   4 the result
--   ARGV 1-11 as in the prelude (run and record are not looked at)   12 event   13 result   14 seconds the result is kept
--   Reply 1, or 0 where the payload is there or the entry was settled: then nothing was changed.
if present(KEYS[1], ARGV[3]) or redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]) == 0 then return 0 end
answer('FAILURE', ARGV[12], ARGV[13], ARGV[14])
return 1
