"""The Lua scripts of shared presence. They have the transitions of `room_state`, on the clock of the server.

All keys are in one cluster slot and begin with the root, `{<prefix>-rooms}`:

| key | type | content |
|---|---|---|
| `<root>:r:<room>` | hash | `open`, `epoch`, `unrecorded`, `retry`, `seen`, `grace`; `c:<node>` and `e:<node>`: lease |
| `<root>:u:<room>` | hash | user → number of nodes with connections of the user |
| `<root>:s:<room>:<node>` | set | the users of one node |
| `<root>:n:<node>` | set | the rooms of one node |
| `<root>:rooms` | sorted set | the open rooms, by name |
| `<root>:due` | sorted set | rooms by the time of their next check |
| `<root>:departing` | sorted set | room and user, by the time of the departure |
| `<root>:connections` | hash | node → its connections |
| `<root>:names` | hash | name of a node → its process |
| `<root>:swept`, `<root>:held` | string | the last sweep; until when no end is decided |
| `<root>:generation` | string | changes when the server lost its data |

Instants are milliseconds since 1970. The script argument is one JSON document: user ids may contain any character.
"""

# All scripts begin with this. KEYS[1]: the root.
_PRELUDE = """
local root = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local args = cjson.decode(ARGV[1])
local KEEP_MS, CONFIRM_MS = 604800000, 10000

local function key(kind, name) return root .. ':' .. kind .. ':' .. name end

local function load(room)
  local fields = redis.call('HGETALL', key('r', room))
  local state = {connections = {}, leases = {}, is_known = #fields > 0}
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    local prefix, node = string.sub(name, 1, 2), string.sub(name, 3)
    if prefix == 'c:' then state.connections[node] = tonumber(value)
    elseif prefix == 'e:' then state.leases[node] = tonumber(value)
    else state[name] = tonumber(value) end
  end
  return state
end

local function is_live(state, besides)
  for node, expiry in pairs(state.leases) do
    if expiry > now and node ~= besides then return true end
  end
  return false
end

local function schedule(room, state)
  local at = state.unrecorded and state.retry
  if state.open then
    local check
    for _, expiry in pairs(state.leases) do check = math.min(check or expiry, expiry) end
    check = check or state.seen + state.grace
    at = at and math.min(at, check) or check
  end
  if at then redis.call('ZADD', root .. ':due', at, room) else redis.call('ZREM', root .. ':due', room) end
end

local function forget(room)
  redis.call('DEL', key('r', room), key('u', room))
  redis.call('ZREM', root .. ':due', room)
  redis.call('ZREM', root .. ':rooms', room)
end

local function count(node, delta)
  if delta ~= 0 and redis.call('HINCRBY', root .. ':connections', node, delta) <= 0 then
    redis.call('HDEL', root .. ':connections', node)
  end
end

local function remove_user(room, node, user, delay)
  if redis.call('SREM', key('s', room) .. ':' .. node, user) == 1
     and redis.call('HINCRBY', key('u', room), user, -1) <= 0 then
    redis.call('HDEL', key('u', room), user)
    redis.call('ZADD', root .. ':departing', now + delay, room .. '\\0' .. user)
  end
end

local function remove_lease(room, state, node, delay)
  for _, user in ipairs(redis.call('SMEMBERS', key('s', room) .. ':' .. node)) do
    remove_user(room, node, user, delay)
  end
  count(node, -(state.connections[node] or 0))
  state.connections[node], state.leases[node] = nil, nil
  redis.call('HDEL', key('r', room), 'c:' .. node, 'e:' .. node)
  redis.call('SREM', key('n', node), room)
end

local function view(room, state, node, arrived)
  local connections = 0
  for name, expiry in pairs(state.leases) do
    if expiry > now then connections = connections + (state.connections[name] or 0) end
  end
  return {room, state.epoch or false, state.unrecorded or false, (state.open and is_live(state)) and 1 or 0,
          redis.call('HLEN', key('u', room)), connections, is_live(state, node) and 1 or 0, arrived or {}}
end
"""

# {node, generation, reports} → generation, views
REPORT = (
    _PRELUDE
    + """
local function change_users(room, node, report)
  local arrived, set = {}, key('s', room) .. ':' .. node
  if report.complete then
    local present = {}
    for _, user in ipairs(report.joined) do present[user] = true end
    for _, user in ipairs(redis.call('SMEMBERS', set)) do
      if not present[user] then remove_user(room, node, user, report.delay) end
    end
  else
    for _, user in ipairs(report.left) do remove_user(room, node, user, report.delay) end
  end
  for _, user in ipairs(report.joined) do
    if redis.call('SADD', set, user) == 1 and redis.call('HINCRBY', key('u', room), user, 1) == 1
       and redis.call('ZREM', root .. ':departing', room .. '\\0' .. user) == 0 then
      arrived[#arrived + 1] = user
    end
  end
  redis.call('PEXPIRE', set, KEEP_MS)
  redis.call('PEXPIRE', key('u', room), KEEP_MS)
  return arrived
end

redis.call('SET', root .. ':generation', args.generation, 'NX')
local views, node = {}, args.node
for i, report in ipairs(args.reports) do
  local room = report.room
  local state = load(room)
  local is_begin = report.lease > 0 and not state.open
  if is_begin then
    state.epoch = nil
    redis.call('HDEL', key('r', room), 'epoch')
  end
  if report.lease > 0 or not state.unrecorded then state.open = 1 end
  state.seen = math.max(state.seen or 0, now - report.silent)
  state.grace = report.grace
  redis.call('HSET', key('r', room), 'seen', state.seen, 'grace', state.grace)
  if state.open then
    redis.call('HSET', key('r', room), 'open', 1)
    redis.call('ZADD', root .. ':rooms', 0, room)
  end
  local arrived = change_users(room, node, report)
  if report.lease > 0 then
    count(node, report.connections - (state.connections[node] or 0))
    state.connections[node], state.leases[node] = report.connections, now + report.lease
    redis.call('HSET', key('r', room), 'c:' .. node, report.connections, 'e:' .. node, now + report.lease)
    redis.call('SADD', key('n', node), room)
  else
    remove_lease(room, state, node, report.delay)
  end
  redis.call('PEXPIRE', key('r', room), KEEP_MS)
  schedule(room, state)
  views[i] = view(room, state, node, arrived)
end
return {redis.call('GET', root .. ':generation'), views}
"""
)

# {limit, node_lease, max_gap} → ends, unnumbered rooms, departures
SWEEP = (
    _PRELUDE
    + """
local swept, held = tonumber(redis.call('GET', root .. ':swept')), tonumber(redis.call('GET', root .. ':held') or 0)
if not swept or now - swept > args.max_gap then
  held = now + args.node_lease
  redis.call('SET', root .. ':held', held, 'PX', KEEP_MS)
end
redis.call('SET', root .. ':swept', now, 'PX', KEEP_MS)
local ends, unnumbered, departed = {}, {}, {}
for _, room in ipairs(redis.call('ZRANGEBYSCORE', root .. ':due', '-inf', now, 'LIMIT', 0, args.limit)) do
  if now < held then
    redis.call('ZADD', root .. ':due', held, room)
  else
    local state = load(room)
    local expired = {}
    for node, expiry in pairs(state.leases) do
      if expiry <= now then expired[#expired + 1] = node end
    end
    for _, node in ipairs(expired) do remove_lease(room, state, node, args.node_lease) end
    if not state.is_known then
      forget(room)
    elseif state.unrecorded then
      if now >= state.retry then
        state.retry = now + CONFIRM_MS
        redis.call('HSET', key('r', room), 'retry', state.retry)
        ends[#ends + 1] = {room, state.unrecorded, now - state.seen}
      end
      schedule(room, state)
    elseif is_live(state) or now < state.seen + state.grace then
      schedule(room, state)
    elseif not state.epoch then
      unnumbered[#unnumbered + 1] = room
      redis.call('ZADD', root .. ':due', now + 1000, room)
    else
      ends[#ends + 1] = {room, state.epoch, now - state.seen}
      state.unrecorded, state.epoch, state.open, state.retry = state.epoch, nil, nil, now + CONFIRM_MS
      redis.call('HDEL', key('r', room), 'epoch', 'open')
      redis.call('HSET', key('r', room), 'unrecorded', state.unrecorded, 'retry', state.retry)
      redis.call('ZREM', root .. ':rooms', room)
      schedule(room, state)
    end
  end
end
local due = redis.call('ZRANGEBYSCORE', root .. ':departing', '-inf', now, 'LIMIT', 0, args.limit)
for _, member in ipairs(due) do
  redis.call('ZREM', root .. ':departing', member)
  local at = string.find(member, '\\0', 1, true)
  local room, user = string.sub(member, 1, at - 1), string.sub(member, at + 1)
  if redis.call('HEXISTS', key('u', room), user) == 0 then departed[#departed + 1] = {room, user} end
end
return {ends, unnumbered, departed}
"""
)

# {room, epoch}
SET_EPOCH = (
    _PRELUDE
    + """
local state = load(args.room)
if state.open and not state.epoch and state.unrecorded ~= args.epoch then
  redis.call('HSET', key('r', args.room), 'epoch', args.epoch)
end
"""
)

# {room, epoch or null}
CONFIRM_END = (
    _PRELUDE
    + """
local room, epoch = args.room, tonumber(args.epoch)
local state = load(room)
if epoch and state.unrecorded == epoch then
  state.unrecorded = nil
  redis.call('HDEL', key('r', room), 'unrecorded')
elseif (epoch and state.epoch == epoch) or (not epoch and not state.epoch) then
  state.epoch, state.open = nil, is_live(state) and 1 or nil
  redis.call('HDEL', key('r', room), 'epoch')
end
if state.open or state.unrecorded then schedule(room, state) else forget(room) end
"""
)

# {room} → view
GET_ROOM = (
    _PRELUDE
    + """
local state = load(args.room)
return state.is_known and view(args.room, state, '') or false
"""
)

# {after, limit} → views of live rooms, last name that was read
LIST_ROOMS = (
    _PRELUDE
    + """
local views, last = {}, false
local start = args.after == '' and '-' or ('(' .. args.after)
for _, room in ipairs(redis.call('ZRANGEBYLEX', root .. ':rooms', start, '+', 'LIMIT', 0, args.limit)) do
  local state = load(room)
  last = room
  if state.open and is_live(state) then views[#views + 1] = view(room, state, '') end
end
return {views, last}
"""
)

# {node}: removes its leases. {name, node}: those of the process registered before under the name
REMOVE_NODE = (
    _PRELUDE
    + """
local node = args.node
if args.name then
  node = redis.call('HGET', root .. ':names', args.name)
  redis.call('HSET', root .. ':names', args.name, args.node)
  if not node or node == args.node then return end
end
for _, room in ipairs(redis.call('SMEMBERS', key('n', node))) do
  local state = load(room)
  remove_lease(room, state, node, 0)
  if state.is_known then schedule(room, state) end
end
redis.call('DEL', key('n', node))
redis.call('HDEL', root .. ':connections', node)
"""
)
