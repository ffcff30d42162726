-- Forget a worker that stops, on each stream where it owns nothing. In one step: a read of its own that is still under way
-- would otherwise make it an owner in between, and the entry would go with it.
--   KEYS 1 heartbeat   2.. job streams
--   ARGV 1 group   2 worker
redis.call('DEL', KEYS[1])
for i = 2, #KEYS do
  if #redis.call('XPENDING', KEYS[i], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[i], ARGV[1], ARGV[2])
  end
end
