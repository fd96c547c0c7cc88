-- For wrk: POSTs the JSON text in the environment variable BODY. With DISTINCT set no two bodies are equal, nor what they
-- ask for: the number after "sequence_length" grows by 8 from 512, and begins again beyond 65536. With KNOWN or RELATED set
-- no two of a million bodies are equal either, but all ask for the same run: KNOWN are the same request with other blanks in
-- it, RELATED leave another share of the card free.
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

-- 20 blanks that no other number of a million has.
local function blanks(number)
	local bits = {}
	for i = 1, 20 do
		bits[i] = number % 2 == 0 and " " or "\t"
		number = math.floor(number / 2)
	end
	return table.concat(bits)
end

local function headroom(number)
	return string.format(',"headroom_fraction":0.%07d', number)
end

local ending = os.getenv("KNOWN") and blanks or os.getenv("RELATED") and headroom
if ending then
	local head, number = wrk.body:match("^(.*)}%s*$"), 0
	assert(head, "the body must be an object")
	function request()
		number = (number + 1) % 1000000
		return wrk.format(nil, nil, nil, head .. ending(number) .. "}")
	end
end

function done(summary, latency)
	local e = summary.errors
	io.write(string.format("WRK %d %d %d %.0f %.0f\n", summary.requests, summary.duration,
		e.status + e.connect + e.read + e.write + e.timeout, latency:percentile(50), latency:percentile(99)))
end
