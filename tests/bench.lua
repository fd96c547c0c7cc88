-- For wrk: POSTs the JSON text in the environment variable BODY. With DISTINCT set no two bodies are equal, nor what they
-- ask for: the number after "sequence_length" grows by 8 from 512, and begins again beyond 65536. With KNOWN set no two of
-- a million bodies are equal, but all ask for the same run: what changes is the share of the card that is left free.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = assert(os.getenv("BODY"), "set BODY to the request")

if os.getenv("DISTINCT") then
	local head, tail = wrk.body:match('^(.-"sequence_length"%s*:%s*)%d+(.*)$')
	local tokens = 512
	assert(head, "the body needs a sequence_length")
	function request()
		tokens = tokens < 65536 and tokens + 8 or 512
		return wrk.format(nil, nil, nil, head .. tokens .. tail)
	end
end

if os.getenv("KNOWN") then
	local head, share = wrk.body:match("^(.*)}%s*$"), 0
	assert(head, "the body must be an object")
	function request()
		share = (share + 1) % 1000000
		return wrk.format(nil, nil, nil, string.format('%s,"headroom_fraction":0.%07d}', head, share))
	end
end

function done(summary, latency)
	local e = summary.errors
	io.write(string.format("WRK %d %d %d %.0f %.0f\n", summary.requests, summary.duration,
		e.status + e.connect + e.read + e.write + e.timeout, latency:percentile(50), latency:percentile(99)))
end
