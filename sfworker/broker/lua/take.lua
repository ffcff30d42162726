-- Takes jobs for free slots without waiting. Where a stream has new jobs and ones whose next attempt is due, these take
-- turns, so that none waits for all of the other kind. Nothing is taken from a stream that an operator has paused.
-- Before, as many of the jobs that limits hold up become due as there is room for.
--   KEYS for each job stream, most urgent first, the stream and its due times (sf:retries:<priority>:<group>); last what
--        runs, starts of the last minute (see the prelude) and the operators' orders (sf:orders:<group>)
--   ARGV 1 group   2 worker   3 consumer @retry   4 consumer @dead   5 limits of the settings, as JSON
--        6-8 for each stream 1 where it is a new job's turn, else 0
--        9.. for each free slot the stream (1..) to ask first
--   Reply {parcels (see the prelude), turns as in ARGV 6-8, for each stream 1 where it is paused, else 0}.
local group, worker, taken, turns, now = ARGV[1], ARGV[2], {}, {}, now_ms()
local running, starts, orders = KEYS[#KEYS - 2], KEYS[#KEYS - 1], KEYS[#KEYS]
local paused, place, none_due, none_new, names = {}, {}, {}, {}, {'pause'}
for n = 1, (#KEYS - 3) / 2 do names[n + 1] = 'pause stream ' .. KEYS[2 * n - 1] end
local ordered = redis.pcall('HMGET', orders, unpack(names)) -- with pcall, as `pause` in the prelude
for n = 1, #names - 1 do
  turns[n] = tonumber(ARGV[5 + n])
  paused[n] = (ordered[1] or ordered[n + 1]) and 1 or 0
  place[KEYS[2 * n - 1]] = n
  none_due[n] = redis.call('ZCARD', KEYS[2 * n]) == 0
end
local first_slot = 6 + #turns
local slots = #ARGV - first_slot + 1

-- Returns whether the entry is a worker's, or due in a stream that is not paused.
local function is_live(stream, entry)
  local consumer, n = owner(stream, group, entry), place[stream]
  if consumer ~= ARGV[3] then return consumer and consumer ~= ARGV[4] end
  local due = n and paused[n] == 0 and redis.call('ZSCORE', KEYS[2 * n], entry)
  return due and tonumber(due) <= now
end

-- Strikes out what is counted among the subject's running jobs and runs no more, as an entry that somebody has deleted. Of
-- many members a part is looked at, another one each time; all subjects of a call together may look at `looks`.
local looks = 10
local function strike_out(subject)
  local first, last = range_of(subject)
  local count = redis.call('ZLEXCOUNT', running, first, last)
  local from = count > looks and now % count or 0
  for _, member in ipairs(redis.call('ZRANGEBYLEX', running, first, last, 'LIMIT', from, looks)) do
    looks = looks - 1
    local stream, entry = string.match(member, '\n(.*) (.-)$')
    if not is_live(stream, entry) then redis.call('ZREM', running, member) end
  end
end

local of_settings, subjects, rooms = cjson.decode(ARGV[5]), nil, {}

-- Returns the subject with limits whose jobs wait with this score, or nil where nobody limits it any more.
local function subject_of(score)
  if not subjects then
    subjects = {}
    local function add(name)
      local subject = string.match(name, '^%a+ (.+)$')
      if subject then subjects[score_of(subject)] = subject end
    end
    for name in pairs(of_settings) do add(name) end
    local ordered = redis.pcall('HGETALL', orders)
    for i = 1, #ordered, 2 do
      local name = string.match(ordered[i], '^limit (.+)$')
      if name then add(name) end
    end
  end
  return subjects[score]
end

-- Lets the oldest of the jobs that limits hold up in the stream become due, for each subject as many as may begin and the
-- slots here hold. They count as running from now on, so that none that comes later is before them.
local function let_go(n)
  local stream, times, score = KEYS[2 * n - 1], KEYS[2 * n], string.format('%.0f', NEVER_DUE)
  while true do
    score = redis.call('ZRANGEBYSCORE', times, '(' .. score, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if not score then return end
    score = string.format('%.0f', tonumber(score)) -- which the server may have written with an exponent
    local subject = subject_of(score)
    if subject and not rooms[subject] then
      rooms[subject] = room(running, starts, orders, of_settings, subject)
      if rooms[subject] < 1 then
        strike_out(subject)
        rooms[subject] = room(running, starts, orders, of_settings, subject)
      end
    end
    local most = math.min(subject and rooms[subject] or slots, slots)
    if most > 0 then
      for _, entry in ipairs(redis.call('ZRANGEBYSCORE', times, score, score, 'LIMIT', 0, most)) do
        redis.call('ZADD', times, now, entry)
        if subject then
          redis.call('ZADD', running, 0, subject .. '\n' .. stream .. ' ' .. entry)
          rooms[subject] = rooms[subject] - 1
        end
      end
    end
  end
end

-- A stream that has had nothing due, or nothing new, is not asked for that again.
local function due(n)
  local stream, times = KEYS[2 * n - 1], KEYS[2 * n]
  for _ = 1, none_due[n] and 0 or 100 do -- ones that do not wait any more are passed over
    local entry = redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', 0, 1)[1]
    if not entry then
      none_due[n] = true
      return nil
    end
    redis.call('ZREM', times, entry)
    local claimed = owner(stream, group, entry) == ARGV[3] and claim(stream, group, worker, 0, entry)
    if claimed then return claimed end
  end
end

local function new(n)
  if none_new[n] then return nil end
  local stream = KEYS[2 * n - 1]
  local reply = redis.call('XREADGROUP', 'GROUP', group, worker, 'COUNT', 1, 'STREAMS', stream, '>')
  none_new[n] = not reply
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

local looked_at = {}
local function let_go_once(n)
  if looked_at[n] or none_due[n] or paused[n] == 1 then return end
  looked_at[n] = true
  let_go(n)
end
for slot = first_slot, #ARGV do let_go_once(tonumber(ARGV[slot])) end
for n = 1, #turns do let_go_once(n) end

for slot = first_slot, #ARGV do
  local first = tonumber(ARGV[slot])
  local found = take_from(first)
  for n = 1, #turns do
    if not found and n ~= first then found = take_from(n) end
  end
  if not found then break end
  taken[#taken + 1] = found
end
return {taken, turns, paused}
