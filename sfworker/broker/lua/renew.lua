-- Renew the leases of running attempts, and hear which of them are to be cancelled.
--   KEYS for each attempt: job stream, mark that the web side wants it cancelled
--   ARGV 1 group   2 worker   3.. for each attempt: entry id
--   Reply for each attempt: 0 lost, 1 held, 2 held and to be cancelled.
local reply = {}
for i = 3, #ARGV do
  local stream, cancel = KEYS[2 * (i - 2) - 1], KEYS[2 * (i - 2)]
  if owner(stream, ARGV[1], ARGV[i]) ~= ARGV[2] then
    reply[#reply + 1] = 0
  else
    hand_over(stream, ARGV[1], ARGV[i], ARGV[2])
    reply[#reply + 1] = 1 + redis.call('EXISTS', cancel)
  end
end
return reply
