-- Removes a worker that stops: its heartbeat, and its consumer on each stream where that owns nothing. Look and removal
-- are one step, because a read that is still under way could make it an owner in between, and DELCONSUMER would destroy
-- that pending entry.
--   KEYS 1 heartbeat (sf:worker:<worker>)   2 workers (sf:workers:<group>)   3 orders (sf:orders:<group>)   4.. job streams
--   ARGV 1 group   2 worker
--   Reply nothing.
redis.call('DEL', KEYS[1])
redis.call('HDEL', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[3], 'drain ' .. ARGV[2])
for i = 4, #KEYS do
  if #redis.call('XPENDING', KEYS[i], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[i], ARGV[1], ARGV[2])
  end
end
