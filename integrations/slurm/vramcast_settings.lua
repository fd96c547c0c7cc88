-- An example of a site's settings; what it does not name is as vramcast.lua has it.
return {
  url = "http://127.0.0.1:8080",
  timeout = 0.3,
  when_silent = "accept",
  verdict = "reject",
  types = { ["a100-80gb"] = "a100-sxm4-80gb", rtx3090 = "rtx-3090" },
}
