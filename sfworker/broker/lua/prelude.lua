-- Functions that the scripts share; this text is put in front of each script. Keys and arguments of a script that acts
-- for an attempt begin with
--
--   KEYS 1 job stream   2 record of the execution (sf:exec:<id>)   3 results stream
--   ARGV 1 group   2 worker (consumer)   3 entry id   4 run (unique per attempt)
--        5 `kept bound`, the lengths of the results stream, see `trimming`
--        6 `execution_id`, or `message_id` where the envelope holds none   7 that id   8 task id   9 subtask id
--        10 the execution's channel (empty where it has none)   11 the common channel
--
-- An attempt may act only while its worker owns the pending entry and the record names its run in state `running`. The
-- owner alone is not enough, because the same worker may take the entry again for its next attempt after it has lost
-- the reply to the script that ended this one.

-- Returns the consumer that owns the pending entry, or nil where it is not pending.
local function owner(stream, group, entry)
  -- pcall, because XPENDING fails where the group is gone.
  local pending = redis.pcall('XPENDING', stream, group, entry, entry, 1)
  return pending[1] and pending[1][2]
end

-- Returns fields of a record. One that is no hash is deleted before, as somebody has put it there and nothing can be read
-- of it; then the second value is true.
local function read(record, ...)
  local known = redis.pcall('HMGET', record, ...)
  if not known.err then return known, false end
  local is_wrong = string.find(known.err, 'WRONGTYPE', 1, true)
  if is_wrong then redis.call('DEL', record) end
  return redis.call('HMGET', record, ...), is_wrong
end

-- Returns whether the record names this run, in this state.
local function is(state)
  local known = redis.call('HMGET', KEYS[2], 'run', 'state')
  return known[1] == ARGV[4] and known[2] == state
end

-- Returns the time at which the script began.
local clock
local function now_ms()
  if not clock then
    local time = redis.call('TIME')
    clock = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock
end

-- Returns what the record says of the attempt, where that is still this worker's: number, start, and subjects for which it
-- is counted.
local function held()
  if owner(KEYS[1], ARGV[1], ARGV[3]) ~= ARGV[2] then return nil end
  local known, was_replaced = read(KEYS[2], 'run', 'state', 'attempt', 'started', 'counted')
  if was_replaced then -- the outcome must not be lost with it
    redis.call('HSET', KEYS[2], 'group', ARGV[1], 'stream', KEYS[1], 'entry', ARGV[3], 'run', ARGV[4], 'worker', ARGV[2],
      'state', 'running', 'attempt', 1, 'crashes', 0, 'releases', 0, 'started', now_ms())
    return {attempt = 1, started = now_ms()}
  end
  if known[1] ~= ARGV[4] or known[2] ~= 'running' then return nil end
  return {attempt = known[3], started = known[4], counted = known[5]}
end

-- Notes that the worker reaches Redis, and returns whether it has done so for a lease, without a break of half a lease.
-- Only then does it know who is silent: while Redis itself or the way to it was silent, nobody could renew a lease, and
-- all of them seem to have run out. `workers` holds when each was last here and since when without a break; what it
-- holds of `@all` is the same for the whole group, on which one that starts relies.
local function is_in_touch(workers, worker, lease)
  local now = now_ms()
  local function note(name, first)
    local seen, since = string.match(redis.call('HGET', workers, name) or '', '^(%d+) (%d+)$')
    -- A time to come is one before the clock was set back.
    if not seen then since = first elseif now - seen > lease / 2 or tonumber(since) > now then since = now end
    -- pcall, because a Redis without memory refuses it; leases have to be renewed all the same.
    local noted = redis.pcall('HSET', workers, name, now .. ' ' .. since)
    return type(noted) == 'table' and now or tonumber(since)
  end
  return now - note(worker, note('@all', now)) >= lease
end

-- Notes in the record how the attempt that it names has ended, with the error in `event`. The last hundred attempts are
-- kept as JSON in the fields `past:<n>`, and `ended` holds the last n. Times are in ms.
local function note(record, outcome, event)
  local known = redis.call('HMGET', record, 'run', 'attempt', 'worker', 'started', 'replays')
  if not known[4] or known[4] == '' then return end -- begun only to be answered
  local said = event and cjson.decode(event) or {}
  local number = redis.call('HINCRBY', record, 'ended', 1)
  redis.call('HSET', record, 'past:' .. number, cjson.encode({run = known[1], attempt = tonumber(known[2]),
    worker = known[3], started = tonumber(known[4]), replays = tonumber(known[5]) or 0, ended = now_ms(),
    outcome = outcome, error_type = said.error_type, error = said.error}))
  redis.call('HDEL', record, 'past:' .. number - 100, 'started')
end

-- Leaves of the record only what tells that the execution was answered, how, for which entry, and by which run in which
-- group.
local function close(record, group, run, seconds_kept, status)
  redis.call('DEL', record)
  redis.call('HSET', record, 'group', group, 'run', run, 'state', 'done', 'status', status,
    'answered', KEYS[1] .. ' ' .. ARGV[3])
  redis.call('EXPIRE', record, seconds_kept)
end

-- Returns whether the stream still holds the payload of the entry, which trimming may have removed.
local function present(stream, entry)
  return #redis.call('XRANGE', stream, entry, entry) > 0
end

-- Returns the bytes of all fields of an entry, whatever their names.
local function size(stream, entry)
  local found, bytes = redis.call('XRANGE', stream, entry, entry)[1], 0
  for _, text in ipairs(found and found[2] or {}) do bytes = bytes + #text end
  return bytes
end

-- Returns whether the record is about another entry, one that was answered or is still in its stream. Once the execution
-- has ended the record names no entry, as its own is settled.
local function stands_elsewhere(state, of_group, of_stream, of_entry, group, stream, entry)
  if state == 'done' then return true end
  if not of_entry or (of_group == group and of_stream == stream and of_entry == entry) then return false end
  return state == 'dead' or present(of_stream, of_entry)
end

-- Keeps the ids of the execution until this entry has been answered. Only its payload holds them, and that may be
-- trimmed.
local function remember(answers)
  if ARGV[6] == 'execution_id' then
    redis.call('HSET', answers, KEYS[1] .. ' ' .. ARGV[3], cjson.encode({ARGV[7], ARGV[8], ARGV[9]}))
  end
end

local function forget(answers)
  redis.call('HDEL', answers, KEYS[1] .. ' ' .. ARGV[3])
end

-- Gives the pending entry to another consumer and keeps its delivery count. One whose payload was deleted stays where
-- it is, because from 7.0 on XCLAIM would remove it and nobody would ever hear of that job.
local function hand_over(stream, group, entry, consumer)
  if not present(stream, entry) then return false end
  redis.call('XCLAIM', stream, group, consumer, 0, entry, 'JUSTID')
  return true
end

-- Returns whether the stream entry id `a` is not after `b`.
local function not_after(a, b)
  local a_ms, a_seq = string.match(a, '(%d+)-(%d+)')
  local b_ms, b_seq = string.match(b, '(%d+)-(%d+)')
  a_ms, a_seq, b_ms, b_seq = tonumber(a_ms), tonumber(a_seq), tonumber(b_ms), tonumber(b_seq)
  return a_ms < b_ms or (a_ms == b_ms and a_seq <= b_seq)
end

-- Returns a reply of names and values in turn as a table.
local function named(reply)
  local values = {}
  for i = 1, #reply, 2 do values[reply[i]] = reply[i + 1] end
  return values
end

-- Returns the id of the last delivered entry of each group.
local function delivered(stream)
  local last = {}
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local fields = named(info)
    last[fields.name] = fields['last-delivered-id']
  end
  return last
end

-- Returns the id of the first entry of a stream that a consumer group there has yet to read or to acknowledge, or one just
-- before it; nil without groups.
local function first_unread(stream)
  local first
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = named(info)
    local unread = group.pending > 0 and redis.call('XPENDING', stream, group.name)[2] or group['last-delivered-id']
    if not first or not_after(unread, first) then first = unread end
  end
  return first
end

-- Returns how XADD is to trim the results stream, as a list of words. The newest `kept` entries stay, and before them what
-- a consumer group has yet to read, up to `bound` entries. Whole nodes of the stream are removed, so there may be some more,
-- and so many at most that a group which catches up, or goes, holds Redis for no longer than others.
local function trimming(stream)
  local kept, bound = string.match(ARGV[5], '^(%d+) (%d+)$')
  local surplus = redis.call('XLEN', stream) - kept
  local unread = surplus > 0 and first_unread(stream)
  if not unread then return {'MAXLEN', kept, 2000} end
  if surplus + kept >= tonumber(bound) then return {'MAXLEN', bound, 2000} end
  return {'MINID', unread, math.min(surplus, 2000)}
end

-- Fails where the results stream, due times or ids to answer are of another type, as somebody has put that there. Called
-- before anything is changed, because a script that fails is not undone.
local trim
local function look(results, due_times, answers)
  trim = trimming(results)
  if due_times then redis.call('ZCARD', due_times) end
  if answers then redis.call('HGET', answers, '') end
end

-- Appends to the results stream.
local function say(kind, status, payload)
  trim = trim or trimming(KEYS[3])
  redis.call('XADD', KEYS[3], trim[1], '~', trim[2], 'LIMIT', trim[3], '*', 'kind', kind, ARGV[6], ARGV[7],
    'task_id', ARGV[8], 'subtask_id', ARGV[9], 'status', status, 'payload', payload)
end

-- Says a status event on the results stream and on both channels.
local function tell(status, event)
  say('status', status, event)
  if ARGV[10] ~= '' then redis.call('PUBLISH', ARGV[10], event) end
  redis.call('PUBLISH', ARGV[11], event)
end

-- Acknowledges the entry, and deletes it unless another group on the stream has yet to acknowledge it.
local function settle(stream, group, entry)
  redis.call('XACK', stream, group, entry)
  for name, last in pairs(delivered(stream)) do
    if name ~= group and (not not_after(entry, last) or owner(stream, name, entry)) then return end
  end
  redis.call('XDEL', stream, entry)
end

-- Forgets all that is kept of an execution that ended, by its facts: record, result, envelope (whose key is that of this
-- one), and the entry of a dead one. Not where it was replayed or sent again since, of which those are then.
local function forget_ended(member, envelope)
  local facts = cjson.decode(member)
  local id, place = facts[1], facts[8] .. ' ' .. facts[9]
  local function of(key, own, other) return string.sub(key, 1, -1 - #own) .. other end
  local function its_record(other)
    return of(KEYS[2], ARGV[6] == 'execution_id' and ARGV[7] or KEYS[1] .. ' ' .. ARGV[3], other)
  end
  local record = its_record(id)
  if id == facts[9] and redis.call('EXISTS', record) == 0 then record = its_record(place) end -- its envelope held no id
  local known = redis.call('HMGET', record, 'state', 'answered', 'group', 'stream', 'entry')
  if known[1] == 'dead' and known[4] .. ' ' .. known[5] == place then
    settle(known[4], known[3], known[5])
  elseif known[1] and not (known[1] == 'done' and known[2] == place) then
    return
  end
  redis.call('DEL', record, of(KEYS[4], ARGV[7], id), of(envelope, ARGV[7], id))
end

-- Enters the execution in `index`, which lists those that ended so, newest last, as far as `kept` of them. The oldest go a
-- hundred at a time, however many are too many; where they are to be forgotten altogether (`whole` is 1), ten. Called
-- before its record is closed; `begun` holds what that says of attempt and start. With pcall, as its place in a list must
-- not cost an execution its answer.
local function enlist(index, status, event, task_type, begun, seconds_kept, kept, whole, envelope)
  local now = now_ms()
  local facts = cjson.encode({ARGV[7], status, task_type, event.error_type or '', ARGV[2], tonumber(begun.attempt) or 0,
    tonumber(begun.started) or 0, KEYS[1], ARGV[3], ARGV[8], ARGV[9]})
  redis.pcall('ZADD', index, now, facts)
  local length, past = redis.pcall('ZCARD', index), redis.pcall('ZCOUNT', index, '-inf', now - 1000 * seconds_kept)
  local most = whole == '1' and 10 or 100
  local surplus = type(past) == 'number' and math.min(math.max(length - kept, past), most) or 0
  if surplus > 0 and whole == '1' then
    for _, member in ipairs(redis.pcall('ZRANGEBYSCORE', index, '-inf', '+inf', 'LIMIT', 0, surplus)) do
      pcall(forget_ended, member, envelope)
    end
  end
  if surplus > 0 then redis.pcall('ZREMRANGEBYRANK', index, 0, surplus - 1) end
  return facts
end

-- Publishes the final answer: the result at its key (KEYS 4) and on the results stream, and the status event.
local function answer(status, event, result, seconds_kept)
  redis.call('SET', KEYS[4], result, 'EX', seconds_kept)
  say('result', status, result)
  tell(status, event)
end

-- Returns the envelope of an entry, or nil where it has none or is gone.
local function content(stream, entry)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  return found and named(found[2]).envelope
end

-- Keeps the envelope of an entry that is about to be deleted, for those who look at the execution later.
local function keep_envelope(key, seconds_kept)
  local envelope = content(KEYS[1], ARGV[3])
  if envelope then redis.call('SET', key, envelope, 'EX', seconds_kept) end
end

-- Turns an entry from XCLAIM or XREADGROUP into a parcel {stream, id, envelope, traceparent}. Missing fields are empty.
local function parcel(stream, entry)
  local envelope, traceparent = '', ''
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'envelope' then envelope = entry[2][i + 1] end
    if entry[2][i] == 'traceparent' then traceparent = entry[2][i + 1] end
  end
  return {stream, entry[1], envelope, traceparent}
end

-- Score of a waiting entry that is not due before an operator lifts what holds it up, in the year 2286.
local NEVER_DUE = 9999999999999

-- Returns which order of an operator (sf:orders:<group>) holds up an entry of this stream and task type, or nil. With
-- pcall, because what somebody has put in the place of the orders is none.
local function pause(orders, stream, task_type)
  local names = {'pause', 'pause stream ' .. stream, 'pause type ' .. (task_type or '')}
  local since = redis.pcall('HMGET', orders, unpack(names))
  for i, name in ipairs(names) do
    if since[i] then return name end
  end
end

-- Limits of a task type or tenant, the subject `type <name>` or `tenant <name>`, count what these sets hold. Their members
-- have equal scores, so that they are in the order of their text, and a subject's are counted without reading them:
--   running (sf:running:<group>)   `<subject>\n<stream> <entry>` for each job of it that runs, or that was let go to run
--   starts (sf:starts:<group>)     `<subject>\n<ms> <run>` for each start in the last minute, where a limit asks for it
local MINUTE = 60000

-- Returns a subject's range of such a set from `first` on, as commands take it.
local function range_of(subject, first)
  return '[' .. subject .. '\n' .. (first or ''), '(' .. subject .. '\11'
end

-- Returns how many jobs of the subject may run at once and how many may start in a minute, nil for any number: as an
-- operator has ordered, else as the worker's settings say.
local function limits(orders, of_settings, subject)
  local names, found = {'running ' .. subject, 'starts ' .. subject}, {}
  local ordered = redis.pcall('HMGET', orders, 'limit ' .. names[1], 'limit ' .. names[2])
  for i, name in ipairs(names) do
    local number = string.match(ordered[i] or '', '^(%d+) %d+$') or string.match(ordered[i] or '', '^(%-) %d+$')
    if number then found[i] = tonumber(number) else found[i] = of_settings[name] end -- `-` is any number
  end
  return found[1], found[2]
end

-- Returns how many more jobs of the subject may begin now, and how many may start in a minute, nil for any number.
local function room(running, starts, orders, of_settings, subject)
  local at_once, a_minute = limits(orders, of_settings, subject)
  local left = math.huge
  if at_once then left = at_once - redis.call('ZLEXCOUNT', running, range_of(subject)) end
  if a_minute then
    local since = string.format('%.0f', now_ms() - MINUTE)
    left = math.min(left, a_minute - redis.call('ZLEXCOUNT', starts, range_of(subject, since)))
  end
  return left, a_minute
end

-- Returns the score among the due times of the entries that a subject's limits hold up, as text, later than any other.
-- Those of one score are in the order of their ids, so of their age.
local function score_of(subject)
  return string.format('%.0f', NEVER_DUE + 1 + tonumber(string.sub(redis.sha1hex(subject), 1, 10), 16))
end

-- Counts the attempt no more among what runs for the subjects `counted` of its record, and returns those for which it was.
-- With pcall, as an answer must not depend on it.
local function count_out(running, counted)
  local was = {}
  for subject in string.gmatch(counted or '', '[^\n]+') do
    was[subject] = redis.pcall('ZREM', running, subject .. '\n' .. KEYS[1] .. ' ' .. ARGV[3]) == 1
  end
  return was
end

-- Claims a pending entry and returns its parcel. One whose payload was deleted is not claimed (see hand_over) and makes
-- a parcel without envelope, {stream, id}.
local function claim(stream, group, consumer, min_idle, entry)
  if not present(stream, entry) then return {stream, entry} end
  local claimed = redis.call('XCLAIM', stream, group, consumer, min_idle, entry)[1]
  return claimed and parcel(stream, claimed)
end
