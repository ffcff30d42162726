-- Publishes how a running attempt goes.
--   KEYS 1-3 and ARGV 1-11 as in the prelude   12 and more the events, in their order
--   Reply 1, or 0 where the attempt is no longer this worker's.
if not held() then return 0 end
for number = 12, #ARGV do tell('RUNNING', ARGV[number]) end
return 1
