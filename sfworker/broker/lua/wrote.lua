-- Notes a path that the attempt stages beside its targets, so that whoever answers can remove it if the worker dies.
--   KEYS 1-3 as in the prelude
--   ARGV 1-11 as in the prelude   12 the path
--   Reply 1, or 0 where the attempt is no longer this worker's and nothing was changed.
if not held() then return 0 end
local written = cjson.decode(redis.call('HGET', KEYS[2], 'written') or '[]')
for _, path in ipairs(written) do
  if path == ARGV[12] then return 1 end
end
written[#written + 1] = ARGV[12]
redis.call('HSET', KEYS[2], 'written', cjson.encode(written))
return 1
