"""What Redis runs in one step, and the form values have there.

A value is kept as ``generation:end:json``. The generation is a random word in one key
of Redis, and a value of another generation does not count: setting a new word
invalidates all values at once, also those that someone could not delete while Redis was
away. The end, in milliseconds since 1970, is for copies in memory: Redis has its own.
A number given to ``add`` is a counter: a plain number, which outlives generations.

Each script has the generation's key first in KEYS, and a word for a new one in ARGV.
Where ARGV has the generation that the writer believes in, nothing is written under
another: a command that Redis gets to see late does nothing.
"""

import re

GENERATION_KEY = "resilient-site:cache-generation"
COUNTER = re.compile(rb"-?[0-9]{1,19}\Z")
VALUE = re.compile(rb"([0-9a-f]{16}):([0-9]*):(.*)\Z", re.DOTALL)

PRELUDE = """
local function generation()
  local known = redis.pcall('GET', KEYS[1])
  if type(known) == 'string' then return known end
  redis.call('SET', KEYS[1], ARGV[1])
  return ARGV[1]
end
local function keep(key, text, ttl)
  if ttl == '' then
    redis.call('SET', key, text)
  elseif tonumber(ttl) > 0 then
    redis.call('SET', key, text, 'PX', ttl)
  end
end
local function is_number(text) return string.match(text, '^-?%d+$') end
local current = generation()
local stamp = current .. ':'
local function counts(text)
  return type(text) == 'string'
    and (is_number(text) or string.sub(text, 1, #stamp) == stamp)
end
"""

# ARGV: a new word, the writer's generation, the lifetime in ms or '', the values.
STORE = """
if ARGV[2] ~= '' and ARGV[2] ~= current then return {current, 0} end
for i = 2, #KEYS do keep(KEYS[i], stamp .. ARGV[i + 2], ARGV[3]) end
return {current, 1}
"""

# ARGV: as above, and 1 for a counter. Returns 0 if there is a value that counts.
ADD = """
if ARGV[2] ~= '' and ARGV[2] ~= current then return {current, 0} end
if counts(redis.pcall('GET', KEYS[2])) then return {current, 1, 0} end
keep(KEYS[2], ARGV[5] == '1' and ARGV[4] or stamp .. ARGV[4], ARGV[3])
return {current, 1, 1}
"""

# ARGV: a new word, what to add, and the lifetime in ms or '' of a number that has
# vanished, or 'none' if it is not to be begun anew.
INCREMENT = """
local held = redis.pcall('GET', KEYS[2])
if counts(held) then
  local text = held
  if string.sub(held, 1, #stamp) == stamp then
    text = string.match(held, '^%x+:%d*:(.*)$')
  end
  if is_number(text) then
    -- It counts from now on, and ends when it would have.
    if text ~= held then redis.call('SET', KEYS[2], text, 'KEEPTTL') end
    return redis.call('INCRBY', KEYS[2], ARGV[2])
  end
end
if ARGV[3] == 'none' then return false end
keep(KEYS[2], ARGV[2], ARGV[3])
return tonumber(ARGV[2])
"""

# ARGV: a new word, the lifetime in ms or ''.
TOUCH = """
if not counts(redis.pcall('GET', KEYS[2])) then return 0 end
if ARGV[2] == '' then redis.call('PERSIST', KEYS[2])
else redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return 1
"""

# ARGV: a new word, the generation that is to end ('': whichever it is).
MOVE = """
if ARGV[2] == '' or ARGV[2] == current then
  redis.call('SET', KEYS[1], ARGV[1])
  return ARGV[1]
end
return current
"""
