-- Slurm's job_submit plug-in: refuses a job whose run its GPUs do not hold, and steers one that names no type to those that do.
-- Slurm finds it beside slurm.conf. docs/slurm.md
local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "/etc/slurm/"
package.path = folder .. "?.lua;/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua;" .. package.path
package.cpath = "/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;/usr/lib/aarch64-linux-gnu/lua/5.1/?.so;" .. package.cpath
local vramcast = require("vramcast")
local settings = vramcast.settings(folder)

local function tell(text) slurm.log_user("vramcast: %s", text) end

local function accept_or(reject, text)
  tell(text)
  return reject and slurm.ERROR or slurm.SUCCESS
end

local function steer(job, holding)
  if #holding == 0 or (job.features or "") ~= "" then return end
  job.features = table.concat(holding, "|")
  tell("constraint set to " .. job.features)
end

function slurm_job_submit(job, partitions, uid)
  local description = vramcast.description(job)
  if not description then return slurm.SUCCESS end
  local wanted = vramcast.wanted_type(job.tres_per_node or job.tres_per_job or job.tres_per_task)
  local verdict, text, holding = vramcast.judge(settings, description, wanted)
  if verdict == "silent" then
    slurm.log_error("vramcast: no answer: %s", text)
    return accept_or(settings.when_silent == "reject", "no answer from the service, the run is not judged: " .. text)
  end
  if verdict ~= "held" then return accept_or(settings.verdict == "reject", text) end
  if not wanted then steer(job, holding) end
  return slurm.SUCCESS
end

function slurm_job_modify() return slurm.SUCCESS end

return slurm.SUCCESS
