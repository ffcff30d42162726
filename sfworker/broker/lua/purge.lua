-- Settles a buried entry. Its record goes on saying that the execution was answered.
--   KEYS 1 job stream
--   ARGV 1 group   2 entry id   3 consumer @dead
--   Reply 1, or 0 where the entry is not buried and nothing was changed.
if owner(KEYS[1], ARGV[1], ARGV[2]) ~= ARGV[3] then return 0 end
settle(KEYS[1], ARGV[1], ARGV[2])
return 1
