-- What a gateway is granted of the limits of one key: the same as `granted` in gateway/leases.py, which says why.
-- Each of KEYS is a limit, a hash: `used` of it and when (`at`); of each gateway what it holds (h:), has spent (s:), when it was
-- heard (t:). ARGV: who asks, after how many seconds without a word a gateway is gone, then for each limit nine numbers.
-- The answer has three for each: what is added, what is free then, what was used.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local who, gone = ARGV[1], tonumber(ARGV[2])
local answer = {}

for number, key in ipairs(KEYS) do
  local given = {}
  for index = 1, 9 do
    given[index] = tonumber(ARGV[2 + (number - 1) * 9 + index])
  end
  local capacity, per_second, places, spent, holds = given[1], given[2], given[3] == 1, given[4], given[5]
  local need, more, before, kept = given[6], given[7], given[8], given[9]
  local sums_up = per_second == 0 and not places
  local flat, pool = redis.call('HGETALL', key), {}
  for index = 1, #flat, 2 do
    pool[flat[index]] = flat[index + 1]
  end

  local used, at, known = before, now, spent
  if pool.used then
    used, at = tonumber(pool.used), tonumber(pool.at)
    if sums_up then known = 0 end
  end
  used = math.max(0, used - math.max(0, now - at) * per_second)
  if pool['s:' .. who] then known = tonumber(pool['s:' .. who]) end
  used = math.max(0, used + spent - known)

  local held = holds
  for field, value in pairs(pool) do
    local other = string.sub(field, 3)
    if string.sub(field, 1, 2) == 'h:' and other ~= who then
      if now - tonumber(pool['t:' .. other]) > gone then
        if not places then used = used + tonumber(value) end
        redis.call('HDEL', key, field, 't:' .. other)
        if not sums_up then redis.call('HDEL', key, 's:' .. other) end
      else
        held = held + tonumber(value)
      end
    end
  end

  local free = capacity - used - held
  local added = free
  if free >= need then added = need + math.min(more, (free - need) / 2) end
  added = math.max(0, math.floor(added))
  redis.call('HSET', key, 'used', used, 'at', now, 'h:' .. who, holds + added, 't:' .. who, now, 's:' .. who, spent)
  redis.call('EXPIRE', key, kept)
  for _, value in ipairs({ added, free - added, used }) do
    answer[#answer + 1] = string.format('%.17g', value)
  end
end
return answer
