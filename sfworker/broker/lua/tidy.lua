-- Put right what a crash or a restart may have left: due times that are missing, and dead jobs past their retention.
--   KEYS 1 due times   2.. job streams
--   ARGV 1 group   2 consumer of those that wait   3 consumer of the dead   4 retention in ms
--   Reply how many due times were missing.
local missing = 0
for i = 2, #KEYS do
  local stream, from = KEYS[i], '-'
  repeat
    local page = redis.call('XPENDING', stream, ARGV[1], from, '+', 1000, ARGV[2])
    for _, pending in ipairs(page) do
      -- Due at once: what the record says would have to be found by an id that only the payload holds.
      missing = missing + redis.call('ZADD', KEYS[1], 'NX', now_ms(), stream .. ' ' .. pending[1])
      from = '(' .. pending[1]
    end
  until #page < 1000
  for _, pending in ipairs(redis.call('XPENDING', stream, ARGV[1], 'IDLE', ARGV[4], '-', '+', 1000, ARGV[3])) do
    settle(stream, ARGV[1], pending[1])
  end
end
return missing
