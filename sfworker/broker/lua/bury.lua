-- End an execution that failed for good: as finish.lua, but the entry stays, owned by the dead, until it is replayed.
--   KEYS 1-3 as in the prelude   4 the result   5 the mark that the web side wants it cancelled
--        6 whom to answer
--   ARGV 1-11 as in the prelude   12 event   13 result   14 seconds the result is kept   15 consumer of the dead
--        16 seconds the record is kept
--   Reply 1, or 0 where the attempt is no longer this worker's: then nothing was changed.
if not held() then return is('dead') and 1 or 0 end -- where only the reply was lost: 1
local event = cjson.decode(ARGV[12])
answer('FAILURE', ARGV[12], ARGV[13], ARGV[14])
if not hand_over(KEYS[1], ARGV[1], ARGV[3], ARGV[15]) then settle(KEYS[1], ARGV[1], ARGV[3]) end
note(KEYS[2], 'failed', ARGV[12])
redis.call('HSET', KEYS[2], 'state', 'dead', 'buried', now_ms(), 'error_type', event.error_type or '',
  'error', event.error or '')
redis.call('EXPIRE', KEYS[2], ARGV[16])
redis.call('DEL', KEYS[5])
forget(KEYS[6])
return 1
