-- Deletes what somebody put in the place of the group's own books, of which nothing can be read and which the worker builds
-- again: due times from the pending entries, workers from their renewals.
--   KEYS any
--   ARGV for each key its type, and 1 where it is such a book, else 0
--   Reply for each key the type of what is wrongly there, or empty.
local reply = {}
for i, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key).ok
  local wrong = found ~= 'none' and found ~= ARGV[2 * i - 1]
  if wrong and ARGV[2 * i] == '1' then redis.call('DEL', key) end
  reply[i] = wrong and found or ''
end
return reply
