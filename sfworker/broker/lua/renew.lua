-- Renews the leases of running attempts and reports which of them are to be cancelled. Notes that the worker is there.
--   KEYS 1 workers (sf:workers:<group>)   2.. for each attempt its job stream and its cancel mark (sf:cancel:<id>)
--   ARGV 1 group   2 worker   3 lease in ms   4.. entry id of each attempt
--   Reply for each attempt 0 where the lease is lost, 1 held, 2 held and to be cancelled.
is_in_touch(KEYS[1], ARGV[2], tonumber(ARGV[3]))
local reply = {}
for i = 4, #ARGV do
  local stream, cancel = KEYS[2 * (i - 3)], KEYS[2 * (i - 3) + 1]
  if owner(stream, ARGV[1], ARGV[i]) ~= ARGV[2] then
    reply[#reply + 1] = 0
  else
    hand_over(stream, ARGV[1], ARGV[i], ARGV[2]) -- a claim by the owner itself resets the idle time
    reply[#reply + 1] = 1 + redis.call('EXISTS', cancel)
  end
end
return reply
