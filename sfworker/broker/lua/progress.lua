-- Publishes how a running attempt goes.
--   KEYS 1-3 and ARGV 1-11 as in the prelude   12 the event
--   Reply 1, or 0 where the attempt is no longer this worker's.
if not held() then return 0 end
tell('RUNNING', ARGV[12])
return 1
