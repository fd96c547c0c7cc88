-- Asks vramcast about a job: what the Slurm plug-ins job_submit.lua and cli_filter.lua share. Lua 5.1, with Debian's lua-socket and
-- lua-cjson. docs/slurm.md tells how it is set up.
local M = {}

local socket_ok, socket = pcall(require, "socket")
local http_ok, http = pcall(require, "socket.http")
local url_ok, url = pcall(require, "socket.url")
local ltn12_ok, ltn12 = pcall(require, "ltn12")
local json_ok, json = pcall(require, "cjson.safe")

-- What a site says in vramcast_settings.lua, beside slurm.conf, replaces these.
local DEFAULTS = {
  url = "http://127.0.0.1:8080", -- an address, not a name: nothing bounds how long a name takes to be resolved
  timeout = 0.3,                 -- seconds for the whole exchange: slurmctld serves nobody else meanwhile
  when_silent = "accept",        -- or "reject": a job that describes a run while the service does not answer
  verdict = "reject",            -- or "warn": a job whose run does not fit
  types = {},                    -- GPU types of gres.conf -> ids (or aliases) of GET /gpus; others are asked for by their own name
}

function M.settings(folder)
  local settings, chunk = setmetatable({}, { __index = DEFAULTS }), loadfile(folder .. "vramcast_settings.lua")
  for key, value in pairs(chunk and chunk() or {}) do settings[key] = value end
  return settings
end

-- ---- what the job says

-- A line "#VRAMCAST ..." of the script, VRAMCAST of the environment, or "vramcast: ..." in --comment or --extra. nil: it says nothing.
function M.description(job)
  local script = job.script and ("\n" .. job.script):match("\n#VRAMCAST%s+([^\n]+)")
  local variable = job.environment and job.environment["VRAMCAST"]
  for _, text in pairs({ job.comment or "", job.extra or "" }) do
    variable = variable or text:match("^vramcast:%s*(.+)")
  end
  return script or variable
end

-- The type of "gpu:TYPE:N", "gres:gpu:TYPE", "gres/gpu:TYPE=N". nil: no GPUs, or of any type.
function M.wanted_type(tres)
  local type = (tres or ""):match("gpu:([%w_.-]+)")
  return type and not type:match("^%d+$") and type or nil
end

-- ---- the exchange

-- A socket of which all operations together take no longer than until the deadline.
local function connection(deadline)
  local tcp = assert(socket.tcp())
  local bounded = { settimeout = function() return 1 end }
  local function delegate(name, timed)
    bounded[name] = function(_, ...)
      local left = deadline - socket.gettime()
      if timed and left <= 0 then return nil, "timeout" end
      if timed then tcp:settimeout(left, "t") end
      return tcp[name](tcp, ...)
    end
  end
  for _, name in ipairs({ "connect", "send", "receive" }) do delegate(name, true) end
  for _, name in ipairs({ "close", "getfd", "dirty" }) do delegate(name, false) end
  return bounded
end

local function decode(word)
  if word == "true" or word == "false" then return word == "true" end
  return tonumber(word) or word
end

-- "model=llama-3.1-8b lora.rank=16" or a JSON object -> the body of POST /estimate. nil: it is neither.
function M.request(description)
  if description:match("^%s*{") then
    local request = json.decode(description)
    return type(request) == "table" and request or nil
  end
  local request, found = {}, false
  for name, word in description:gmatch("([%w_.]+)=(%S+)") do
    local object = request
    for part in name:gmatch("([%w_]+)%.") do
      if type(object[part]) ~= "table" then object[part] = {} end
      object = object[part]
    end
    object[name:match("[%w_]+$")], found = decode(word), true
  end
  return found and request or nil
end

-- The decoded answer and its status; nil and a reason when there is none in time.
local function exchange(settings, request)
  local body, parts = json.encode(request), {}
  local deadline = socket.gettime() + settings.timeout
  local done, status = http.request({
    url = settings.url .. "/estimate", method = "POST", source = ltn12.source.string(body), sink = ltn12.sink.table(parts),
    headers = { ["content-type"] = "application/json", ["content-length"] = tostring(#body) },
    create = function() return connection(deadline) end,
  })
  if not done then return nil, tostring(status) end
  return json.decode(table.concat(parts)), status
end

-- ---- what the answer says

local function gib(bytes) return string.format("%.1f GiB", bytes / 2 ^ 30) end

local function is_held(row) return row.verdict == "fits" or row.verdict == "tight" end

-- { lora = { rank = 8 } } -> "lora.rank=8"
local function words(change, prefix)
  local list = {}
  for name, value in pairs(change) do
    list[#list + 1] = type(value) == "table" and words(value, prefix .. name .. ".") or prefix .. name .. "=" .. tostring(value)
  end
  table.sort(list)
  return table.concat(list, " ")
end

local function contains(list, value)
  for _, each in ipairs(list) do if each == value then return true end end
  return false
end

-- The first change, as the service ranks them, that makes the card hold the run.
local function remedy(answer, card)
  for _, advice in ipairs(answer.advice or {}) do
    if contains(advice.makes_fit, card) then
      return string.format("%s would fit: %s, %s", words(advice.change, ""), gib(advice.required_bytes), advice.cost)
    end
  end
end

local function problem(answer)
  local list = {}
  for _, fault in ipairs(answer.errors or {}) do list[#list + 1] = fault.pointer .. " " .. fault.detail end
  return #list > 0 and table.concat(list, "; ") or tostring(answer.detail or answer.title)
end

local function refusal(answer, row, wanted, holding)
  local reason = row.reason or string.format("needs %s a GPU; %s has %s", gib(row.required_bytes), wanted, gib(row.usable_bytes))
  local text = row.reason and wanted .. ": " .. reason or reason
  local change = remedy(answer, row.gpu)
  if #holding > 0 then text = text .. "; held by " .. table.concat(holding, ", ") end
  return change and text .. "; " .. change or text
end

-- Judges a run on the wanted type, or on all types of the site where none is wanted. Returns "silent", "wrong", "held" or
-- "not held", a text for the user, and the types that hold it, in the order of their names.
function M.judge(settings, description, wanted)
  if not (socket_ok and http_ok and url_ok and ltn12_ok and json_ok) then return "silent", "lua-socket and lua-cjson are missing" end
  local request, types = M.request(description), {}
  if not request then return "wrong", "neither name=value words nor a JSON object: " .. description end
  for type in pairs(settings.types) do types[#types + 1] = type end
  if wanted and not settings.types[wanted] then types[#types + 1] = wanted end
  table.sort(types)
  request.gpus, request.include = {}, { "advice" }
  for i, type in ipairs(types) do request.gpus[i] = settings.types[type] or type end
  if #types == 0 then request.gpus = nil end
  local answer, status = exchange(settings, request)
  if not answer or status >= 500 then return "silent", tostring(answer and answer.title or status) end
  if status ~= 200 then return "wrong", problem(answer) end
  local holding, asked = {}, nil
  for i, type in ipairs(types) do
    if is_held(answer.fits[i]) then holding[#holding + 1] = type end
    if type == wanted then asked = answer.fits[i] end
  end
  if asked and not is_held(asked) then return "not held", refusal(answer, asked, wanted, holding), holding end
  if asked then return "held", string.format("needs %s of %s a GPU", gib(asked.required_bytes), gib(asked.usable_bytes)), holding end
  if #types > 0 and #holding == 0 then
    return "not held", refusal(answer, answer.fits[1], types[1], holding), holding
  end
  return "held", string.format("needs %s a GPU", gib(answer.fits[1].required_bytes)), holding
end

return M
