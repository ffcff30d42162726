-- Notes paths that the attempt stages beside its targets, so that whoever answers can remove them if the worker dies.
--   KEYS 1-3 as in the prelude
--   ARGV 1-11 as in the prelude   12 and more the paths
--   Reply 1, or 0 where the attempt is no longer this worker's and nothing was changed.
if not held() then return 0 end
local written, known = cjson.decode(redis.call('HGET', KEYS[2], 'written') or '[]'), {}
for _, path in ipairs(written) do known[path] = true end
for number = 12, #ARGV do
  local path = ARGV[number]
  if not known[path] then
    known[path], written[#written + 1] = true, path
  end
end
redis.call('HSET', KEYS[2], 'written', cjson.encode(written))
return 1
