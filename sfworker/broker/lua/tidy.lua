-- Restores due times that a crash or a restart has lost, and settles buried entries past their retention.
--   KEYS for each job stream, the stream and its due times (sf:retries:<priority>:<group>)
--   ARGV 1 group   2 consumer @retry   3 consumer @dead   4 retention in ms
--   Reply the number of due times that were missing.
local missing = 0
for i = 1, #KEYS, 2 do
  local stream, from = KEYS[i], '-'
  repeat
    local page = redis.call('XPENDING', stream, ARGV[1], from, '+', 1000, ARGV[2])
    for _, pending in ipairs(page) do
      -- Due at once, because the due time in the record could be found only by an id that the payload holds.
      missing = missing + redis.call('ZADD', KEYS[i + 1], 'NX', now_ms(), pending[1])
      from = '(' .. pending[1]
    end
  until #page < 1000
  for _, pending in ipairs(redis.call('XPENDING', stream, ARGV[1], 'IDLE', ARGV[4], '-', '+', 1000, ARGV[3])) do
    settle(stream, ARGV[1], pending[1])
  end
end
return missing
