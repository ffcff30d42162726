-- Restores due times that a crash or a restart has lost, for the next ones of a stream's entries that wait.
--   KEYS 1 job stream   2 its due times (sf:retries:<priority>:<group>)
--   ARGV 1 group   2 consumer @retry   3 first id, `-` or `(id`
--   Reply {number of due times that were missing, where to go on, as ARGV 3}, the latter `-` where none is missing.
local waiting = 0
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = named(info)
  if consumer.name == ARGV[2] then waiting = consumer.pending end
end
if redis.call('ZCARD', KEYS[2]) >= waiting then return {0, '-'} end
local missing = 0
local page = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], '+', 200, ARGV[2])
for _, pending in ipairs(page) do
  -- Due at once, because the due time in the record could be found only by an id that the payload holds.
  missing = missing + redis.call('ZADD', KEYS[2], 'NX', now_ms(), pending[1])
end
return {missing, #page == 200 and '(' .. page[200][1] or '-'}
