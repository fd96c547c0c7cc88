-- Slurm's cli_filter plug-in: tells who submits what the run needs, before it is submitted. Advice, never enforcement: it runs on their
-- machine. Slurm finds it beside slurm.conf. docs/slurm.md
local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "/etc/slurm/"
package.path = folder .. "?.lua;/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua;" .. package.path
package.cpath = "/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;/usr/lib/aarch64-linux-gnu/lua/5.1/?.so;" .. package.cpath
local vramcast = require("vramcast")
local settings = vramcast.settings(folder)

function slurm_cli_setup_defaults() return slurm.SUCCESS end

function slurm_cli_pre_submit(options)
  local said = { comment = options["comment"], environment = { VRAMCAST = os.getenv("VRAMCAST") } }
  local description = vramcast.description(said)
  if description then
    local wanted = vramcast.wanted_type(options["gres"] or options["gpus"] and "gpu:" .. options["gpus"])
    local verdict, text = vramcast.judge(settings, description, wanted)
    slurm.log_info("vramcast: %s", verdict == "silent" and "no answer: " .. text or text)
  end
  return slurm.SUCCESS
end

function slurm_cli_post_submit() return slurm.SUCCESS end

return slurm.SUCCESS
