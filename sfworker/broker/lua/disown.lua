-- Say of an attempt whose worker lost its lease that this is how it ended; without that, its worker counts as crashed.
--   KEYS 1 job stream   2 record of the execution
--   ARGV 1 group   2 worker   3 entry id   4 run
local last = tonumber(redis.call('HGET', KEYS[2], 'ended')) or 0
for number = last, math.max(last - 99, 1), -1 do
  local past = cjson.decode(redis.call('HGET', KEYS[2], 'past:' .. number))
  if past.run == ARGV[4] then
    if past.outcome == 'crashed' then
      past.outcome = 'lease_lost'
      redis.call('HSET', KEYS[2], 'past:' .. number, cjson.encode(past))
    end
    return
  end
end
-- No other worker has begun the next attempt yet.
if redis.call('HGET', KEYS[2], 'run') == ARGV[4] and owner(KEYS[1], ARGV[1], ARGV[3]) ~= ARGV[2] then
  redis.call('HSET', KEYS[2], 'disowned', ARGV[4])
end
