-- Gives an entry back, for any worker to take at once. No attempt is used up.
--   KEYS 1 job stream   2 record of the execution (sf:exec:<id>)   3 due times (sf:retries:<priority>:<group>)
--        4 what runs (sf:running:<group>)
--   ARGV 1 group   2 worker   3 entry id   4 run (empty where it was not started)   5 consumer @retry
--        6 counter of the record to increment, releases or crashes
--   Reply 1, or 0 where the entry is no longer this worker's.
redis.call('ZCARD', KEYS[3]) -- fails where that is of another type, before anything is changed
if ARGV[4] == '' then
  if owner(KEYS[1], ARGV[1], ARGV[3]) ~= ARGV[2] then return 0 end
else
  local begun = held()
  if not begun then return 0 end
  redis.call('HINCRBY', KEYS[2], ARGV[6], 1)
  note(KEYS[2], ARGV[6] == 'crashes' and 'crashed' or 'released')
  count_out(KEYS[4], begun.counted)
  redis.call('HSET', KEYS[2], 'state', 'retry')
end
hand_over(KEYS[1], ARGV[1], ARGV[3], ARGV[5])
redis.call('ZADD', KEYS[3], now_ms(), ARGV[3])
return 1
