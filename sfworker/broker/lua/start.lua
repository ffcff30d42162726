-- Begins an attempt, counts it and publishes that, unless it must not run. Notes how one left unfinished has ended.
--   KEYS 1-3 as in the prelude   4 cancel mark (sf:cancel:<id>)   5 ids to answer (sf:answers:<group>)
--   ARGV 1-11 as in the prelude   12, 13 RUNNING event before and after the attempt's number (empty to say nothing)
--        14 crashes at which a job is poison
--   Reply {verdict, attempt, crashes, releases, written, replays}, where `written` is the paths that earlier attempts
--   staged, as JSON, and the verdict is one of
--     run        go on
--     cancelled  the attempt is begun, but only to finish as cancelled
--     poison     the attempt is begun, but only to be buried: its workers died too often
--     duplicate  the same execution was sent twice; the entry is settled, the first one's answer stands
--     lost       another worker owns the entry, or the attempt has ended already
local stream, record, group, entry, run = KEYS[1], KEYS[2], ARGV[1], ARGV[3], ARGV[4]
if owner(stream, group, entry) ~= ARGV[2] then return {'lost', 0, 0, 0, '[]', 0} end
look(KEYS[3], nil, KEYS[5])
replaced(record)

local known = redis.call('HMGET', record, 'run', 'state', 'attempt', 'crashes', 'releases', 'group', 'stream', 'entry',
  'disowned', 'written', 'replays')
local state, attempt, crashes = known[2], tonumber(known[3]) or 0, tonumber(known[4]) or 0
local releases, limit, written = tonumber(known[5]) or 0, tonumber(ARGV[14]), known[10] or '[]'
local replays = tonumber(known[11]) or 0
local repeated = known[1] == run -- the reply to the first call was lost
if repeated and state ~= 'running' then return {'lost', 0, 0, 0, '[]', 0} end -- a late copy of it

if not repeated then
  if stands_elsewhere(state, known[6], known[7], known[8], group, stream, entry) then
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
  if crashes < limit then attempt = attempt + 1 end
  redis.call('HSET', record, 'group', group, 'stream', stream, 'entry', entry, 'run', run, 'worker', ARGV[2],
    'state', 'running', 'attempt', attempt, 'crashes', crashes, 'releases', releases,
    'started', crashes < limit and now_ms() or '')
  remember(KEYS[5])
end
if redis.call('EXISTS', KEYS[4]) == 1 then return {'cancelled', attempt, crashes, releases, written, replays} end
if crashes >= limit then return {'poison', attempt, crashes, releases, written, replays} end
if ARGV[12] ~= '' and not repeated then tell('RUNNING', ARGV[12] .. attempt .. ARGV[13]) end
return {'run', attempt, crashes, releases, written, replays}
