-- Restores due times that a crash or a restart has lost, and settles buried entries past their retention.
--   KEYS 1 due times (sf:retries:<group>)   2.. job streams
--   ARGV 1 group   2 consumer @retry   3 consumer @dead   4 retention in ms
--   Reply the number of due times that were missing.
local missing = 0
for i = 2, #KEYS do
  local stream, from = KEYS[i], '-'
  repeat
    local page = redis.call('XPENDING', stream, ARGV[1], from, '+', 1000, ARGV[2])
    for _, pending in ipairs(page) do
      -- Due at once, because the due time in the record could be found only by an id that the payload holds.
      missing = missing + redis.call('ZADD', KEYS[1], 'NX', now_ms(), stream .. ' ' .. pending[1])
      from = '(' .. pending[1]
    end
  until #page < 1000
  for _, pending in ipairs(redis.call('XPENDING', stream, ARGV[1], 'IDLE', ARGV[4], '-', '+', 1000, ARGV[3])) do
    settle(stream, ARGV[1], pending[1])
  end
end
return missing
