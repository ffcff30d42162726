-- Claims the pending entries of silent workers, and removes idle consumers that own nothing. A worker that has been cut
-- off claims nothing for a lease, in which the others have time to come back, too.
--   KEYS 1 workers (sf:workers:<group>)   2.. job streams
--   ARGV 1 group   2 worker   3 lease in ms   4 free slots   5 ms after which an idle consumer is removed
--        6 heartbeat's key without the worker's name (sf:worker:)   7, 8 reserved consumers
--        9.. the entries that run here, as `stream entry`
--   Reply a list of parcels (see the prelude).
-- XAUTOCLAIM would also claim the reserved consumers' entries; asked consumer by consumer, those are never scanned.
local reserved, runs, taken, slots = {[ARGV[7]] = true, [ARGV[8]] = true}, {}, {}, tonumber(ARGV[4])
for i = 9, #ARGV do runs[ARGV[i]] = true end
if not is_in_touch(KEYS[1], ARGV[2], tonumber(ARGV[3])) then slots = 0 end
for i = 2, #KEYS do
  local stream = KEYS[i]
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', stream, ARGV[1])) do
    local consumer = named(info)
    if reserved[consumer.name] then
      -- never swept
    elseif consumer.pending == 0 then
      if consumer.idle > tonumber(ARGV[5]) and consumer.name ~= ARGV[2] then
        redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], consumer.name)
      end
    elseif #taken < slots then
      -- The lease of an entry without payload cannot be renewed (see hand_over), so there the heartbeat says whether
      -- its worker lives; this worker knows its own entries. The thousand more are read so that entries which are
      -- passed over do not hide those behind them.
      local lives = consumer.name ~= ARGV[2] and redis.call('EXISTS', ARGV[6] .. consumer.name) == 1
      local idle = redis.call('XPENDING', stream, ARGV[1], 'IDLE', ARGV[3], '-', '+', slots + 1000, consumer.name)
      for _, pending in ipairs(idle) do
        local entry = pending[1]
        if #taken < slots and not runs[stream .. ' ' .. entry] and (not lives or present(stream, entry)) then
          local claimed = claim(stream, ARGV[1], ARGV[2], ARGV[3], entry)
          if claimed then taken[#taken + 1] = claimed end
        end
      end
    end
  end
end
return taken
