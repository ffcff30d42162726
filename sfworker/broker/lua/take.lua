-- Takes jobs for free slots without waiting. Where a stream has new jobs and ones whose next attempt is due, these take
-- turns, so that none waits for all of the other kind. Nothing is taken from a stream that an operator has paused.
--   KEYS for each job stream, most urgent first, the stream and its due times (sf:retries:<priority>:<group>); last the
--        operators' orders (sf:orders:<group>)
--   ARGV 1 group   2 worker   3 consumer @retry   4-6 for each stream 1 where it is a new job's turn, else 0
--        7.. for each free slot the stream (1..) to ask first
--   Reply {parcels (see the prelude), turns as in ARGV 4-6, for each stream 1 where it is paused, else 0}.
local group, worker, taken, turns, now = ARGV[1], ARGV[2], {}, {}, now_ms()
local paused = {}
for n = 1, (#KEYS - 1) / 2 do
  turns[n] = tonumber(ARGV[3 + n])
  paused[n] = pause(KEYS[#KEYS], KEYS[2 * n - 1]) and 1 or 0
end

local function due(n)
  local stream, times = KEYS[2 * n - 1], KEYS[2 * n]
  for _ = 1, 100 do -- ones that do not wait any more are passed over
    local entry = redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', 0, 1)[1]
    if not entry then return nil end
    redis.call('ZREM', times, entry)
    local claimed = owner(stream, group, entry) == ARGV[3] and claim(stream, group, worker, 0, entry)
    if claimed then return claimed end
  end
end

local function new(n)
  local stream = KEYS[2 * n - 1]
  local reply = redis.call('XREADGROUP', 'GROUP', group, worker, 'COUNT', 1, 'STREAMS', stream, '>')
  return reply and parcel(stream, reply[1][2][1])
end

local function take_from(n)
  if paused[n] == 1 then return nil end
  local first, second = due, new
  if turns[n] == 1 then first, second = new, due end
  local found = first(n)
  if not found then return second(n) end
  turns[n] = 1 - turns[n]
  return found
end

for slot = 4 + #turns, #ARGV do
  local first = tonumber(ARGV[slot])
  local found = take_from(first)
  for n = 1, #turns do
    if not found and n ~= first then found = take_from(n) end
  end
  if not found then break end
  taken[#taken + 1] = found
end
return {taken, turns, paused}
