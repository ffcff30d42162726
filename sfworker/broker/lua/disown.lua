-- Notes that an attempt ended because its worker lost the lease. Without this note, the worker counts as crashed.
--   KEYS 1 job stream   2 record of the execution (sf:exec:<id>)
--   ARGV 1 group   2 worker   3 entry id   4 run
--   Reply nothing.
local last = tonumber(read(KEYS[2], 'ended')[1]) or 0
for number = last, math.max(last - 99, 1), -1 do
  local past = cjson.decode(redis.call('HGET', KEYS[2], 'past:' .. number))
  if past.run == ARGV[4] then
    if past.outcome == 'crashed' then
      past.outcome = 'lease_lost'
      redis.call('HSET', KEYS[2], 'past:' .. number, cjson.encode(past))
      if past.replays == (tonumber(redis.call('HGET', KEYS[2], 'replays')) or 0) then -- else the counters began anew
        redis.call('HINCRBY', KEYS[2], 'crashes', -1)
        redis.call('HINCRBY', KEYS[2], 'releases', 1)
      end
    end
    return
  end
end
-- No other worker has begun the next attempt yet; start.lua reads this when one does.
if redis.call('HGET', KEYS[2], 'run') == ARGV[4] and owner(KEYS[1], ARGV[1], ARGV[3]) ~= ARGV[2] then
  redis.call('HSET', KEYS[2], 'disowned', ARGV[4])
end
