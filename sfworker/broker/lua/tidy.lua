-- Settles buried entries past their retention among the next ones of a stream.
--   KEYS 1 job stream
--   ARGV 1 group   2 consumer @dead   3 retention in ms   4 first id, `-` or `(id`
--   Reply {settled, where to go on, as ARGV 4}, the latter `-` behind the last one.
local settled = 0
local page = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[4], '+', 200, ARGV[2])
for _, pending in ipairs(page) do
  if pending[3] > tonumber(ARGV[3]) then
    settle(KEYS[1], ARGV[1], pending[1])
    settled = settled + 1
    if settled == 100 then return {settled, '(' .. pending[1]} end
  end
end
return {settled, #page == 200 and '(' .. page[200][1] or '-'}
