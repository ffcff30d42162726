-- Takes jobs for free slots without waiting, first those whose next attempt is due, then new ones.
--   KEYS 1 due times (sf:retries:<group>)   2.. job streams, most urgent first
--   ARGV 1 group   2 worker   3 consumer @retry   4.. for each free slot the stream (1..) to ask first
--   Reply a list of parcels (see the prelude).
local group, worker, taken = ARGV[1], ARGV[2], {}
local slots = #ARGV - 3
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms(), 'LIMIT', 0, slots)) do
  local stream, entry = string.match(member, '^(.*) (%S+)$')
  redis.call('ZREM', KEYS[1], member)
  if owner(stream, group, entry) == ARGV[3] then
    local claimed = claim(stream, group, worker, 0, entry)
    if claimed then taken[#taken + 1] = claimed end
  end
end

local function read(stream)
  local reply = redis.call('XREADGROUP', 'GROUP', group, worker, 'COUNT', 1, 'STREAMS', stream, '>')
  return reply and parcel(stream, reply[1][2][1])
end

for slot = #taken + 1, slots do
  local first = tonumber(ARGV[3 + slot]) + 1
  local found = read(KEYS[first])
  for rank = 2, #KEYS do
    if not found and rank ~= first then found = read(KEYS[rank]) end
  end
  if not found then break end
  taken[#taken + 1] = found
end
return taken
