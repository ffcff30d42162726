-- Begins an attempt, counts it and publishes that, unless it must not run. Notes how one left unfinished has ended.
--   KEYS 1-3 as in the prelude   4 cancel mark (sf:cancel:<id>)   5 ids to answer (sf:answers:<group>)
--        6 envelope of one that was answered (sf:envelope:<id>)   7 its result (sf:result:<id>)   8 notices (sf:notices)
--        9 operators' orders (sf:orders:<group>)   10 due times (sf:retries:<priority>:<group>)
--        11 what runs (sf:running:<group>)   12 starts of the last minute (sf:starts:<group>)
--   ARGV 1-11 as in the prelude   12, 13 RUNNING event before and after the attempt's number
--        14 crashes at which a job is poison   15 1 where a start is told, else 0
--        16 task type   17 consumer @retry
--        18 limits of the settings, as JSON   19.. subjects whose limits it counts for (see the prelude)
--   Reply {verdict, attempt, crashes, releases, written, replays}, where `written` is the paths that earlier attempts
--   staged, as JSON, and the verdict is one of
--     run        go on
--     held       an operator has paused its stream or task type; it waits as for a retry, and no attempt was begun
--     limited    no more of its type or tenant may run now, or others have waited for that before it; it waits the same way
--     cancelled  the attempt is begun, but only to finish as cancelled
--     poison     the attempt is begun, but only to be buried: its workers died too often
--     duplicate  the same execution was sent twice; the entry is settled, the first one's answer stands, as a notice says
--     lost       another worker owns the entry, or the attempt has ended already
local stream, record, group, entry, run = KEYS[1], KEYS[2], ARGV[1], ARGV[3], ARGV[4]
local longest = 16384 -- bytes of an envelope that is read here, as a long one takes a tenth of a second
local statuses = {running = 'RUNNING', retry = 'RETRY', dead = 'FAILURE'}

-- Returns whether two decoded texts of JSON mean the same.
local function same(a, b)
  if type(a) ~= 'table' or type(b) ~= 'table' then return a == b end
  for name, value in pairs(a) do
    if not same(value, b[name]) then return false end
  end
  for name in pairs(b) do
    if a[name] == nil then return false end
  end
  return true
end

-- Returns what is to be said of how two envelopes differ, which may be missing.
local function difference(first, again)
  if not first or not again or first == again then return '' end
  if #first > longest or #again > longest then return ', and what was sent now is another text than that' end
  local there, earlier = pcall(cjson.decode, first)
  local here, sent = pcall(cjson.decode, again)
  return here and there and not same(sent, earlier) and ', and what was sent now differs from that' or ''
end

-- Returns the subject whose limits hold the attempt up, or nil. Where jobs wait for room already, only one that had it
-- before, or that `take.lua` let go, does not wait behind them.
local starts_a_minute = {} -- by subject, where that is limited
local function limited_by(had_room)
  local of_settings = cjson.decode(ARGV[18])
  for i = 19, #ARGV do
    local subject = ARGV[i]
    local left, a_minute = room(KEYS[11], KEYS[12], KEYS[9], of_settings, subject)
    if left < 1 then return subject end
    if left < math.huge and not had_room[subject] then
      local score = score_of(subject)
      if redis.call('ZCOUNT', KEYS[10], score, score) > 0 then return subject end
    end
    starts_a_minute[subject] = a_minute
  end
end

-- Counts the attempt among what runs, and its start where that is limited.
local function count_in()
  local now = now_ms()
  for i = 19, #ARGV do
    local subject, starts = ARGV[i], KEYS[12]
    redis.call('ZADD', KEYS[11], 0, subject .. '\n' .. stream .. ' ' .. entry)
    if starts_a_minute[subject] then
      redis.call('ZADD', starts, 0, string.format('%s\n%.0f %s', subject, now, run))
      redis.call('ZREMRANGEBYLEX', starts, '[' .. subject .. '\n', string.format('(%s\n%.0f', subject, now - MINUTE))
      redis.call('EXPIRE', starts, MINUTE / 1000)
    end
  end
end

-- Says that the execution was sent before, with the status that it has. Not on the results stream, where each execution
-- ends once. With pcall, as nothing may depend on it.
local function tell_repeated(state, status, of_stream, of_entry)
  local event = cjson.decode(ARGV[12] .. '0' .. ARGV[13])
  local said, first = 'it was answered before', redis.call('GET', KEYS[6])
  if state ~= 'done' then
    said = state == 'dead' and said or 'its first job is not answered yet'
    first = content(of_stream, of_entry)
  end
  local differing = difference(first, content(stream, entry))
  event.differs, said = differing ~= '', said .. differing
  if state == 'done' and redis.call('EXISTS', KEYS[7]) == 0 then said = said .. ', and its result has expired' end
  event.status, event.stage, event.attempt = status or statuses[state], nil, nil
  event.message = 'this execution_id was sent again: ' .. said .. '; only a new execution_id is run'
  redis.pcall('XADD', KEYS[8], 'MAXLEN', '~', 10000, '*', 'execution_id', ARGV[7], 'entry_id', entry,
    'payload', cjson.encode(event))
end

if owner(stream, group, entry) ~= ARGV[2] then return {'lost', 0, 0, 0, '[]', 0} end
look(KEYS[3], KEYS[10], KEYS[5])
for i = 11, 12 do redis.call('ZCARD', KEYS[i]) end -- fails, too, before anything is changed

local known = read(record, 'run', 'state', 'attempt', 'crashes', 'releases', 'group', 'stream', 'entry',
  'disowned', 'written', 'replays', 'status', 'answered', 'counted', 'held')
local state, attempt, crashes = known[2], tonumber(known[3]) or 0, tonumber(known[4]) or 0
local releases, limit, written = tonumber(known[5]) or 0, tonumber(ARGV[14]), known[10] or '[]'
local replays = tonumber(known[11]) or 0
local repeated = known[1] == run -- the reply to the first call was lost
if repeated and state ~= 'running' then return {'lost', 0, 0, 0, '[]', 0} end -- a late copy of it
local is_cancelled = redis.call('EXISTS', KEYS[4]) == 1

if not repeated then
  if stands_elsewhere(state, known[6], known[7], known[8], group, stream, entry) then
    local place = stream .. ' ' .. entry -- another group's turn with it is no repetition
    if known[13] ~= place and not (known[7] == stream and known[8] == entry) then
      tell_repeated(state, known[12], known[7], known[8])
    end
    settle(stream, group, entry)
    return {'duplicate', 0, 0, 0, '[]', 0}
  end
  if known[8] and not (known[6] == group and known[7] == stream and known[8] == entry) then
    -- The first one was deleted from its stream: this one is the job now.
    redis.call('DEL', record)
    state, attempt, crashes, releases, replays = false, 0, 0, 0, 0
  end
  if state == 'running' then
    local came_back = known[9] == known[1]
    if came_back then releases = releases + 1 else crashes = crashes + 1 end
    note(record, came_back and 'lease_lost' or 'crashed')
  end
  local had_room = count_out(KEYS[11], known[14])
  local to_run = ARGV[15] == '1' and crashes < limit and not is_cancelled
  local paused = to_run and pause(KEYS[9], stream, ARGV[16])
  local limited = to_run and not paused and limited_by(had_room)
  if (paused or limited) and hand_over(stream, group, entry, ARGV[17]) then
    redis.call('HSET', record, 'group', group, 'stream', stream, 'entry', entry, 'run', '', 'state', 'retry',
      'attempt', attempt, 'crashes', crashes, 'releases', releases, 'held', paused or 'limit ' .. limited,
      'counted', table.concat(ARGV, '\n', 19))
    remember(KEYS[5])
    local of_type = paused == 'pause type ' .. ARGV[16] -- else its whole stream waits, and it with that
    redis.call('ZADD', KEYS[10], limited and score_of(limited) or of_type and NEVER_DUE or now_ms(), entry)
    return {limited and 'limited' or 'held', attempt, crashes, releases, '[]', replays}
  end
  if known[15] then redis.call('HDEL', record, 'held') end
  if to_run then count_in() end
  if crashes < limit then attempt = attempt + 1 end
  redis.call('HSET', record, 'group', group, 'stream', stream, 'entry', entry, 'run', run, 'worker', ARGV[2],
    'state', 'running', 'attempt', attempt, 'crashes', crashes, 'releases', releases,
    'started', crashes < limit and now_ms() or '', 'counted', table.concat(ARGV, '\n', 19))
  remember(KEYS[5])
end
if is_cancelled then return {'cancelled', attempt, crashes, releases, written, replays} end
if crashes >= limit then return {'poison', attempt, crashes, releases, written, replays} end
if ARGV[15] == '1' and not repeated then tell('RUNNING', ARGV[12] .. attempt .. ARGV[13]) end
return {'run', attempt, crashes, releases, written, replays}
