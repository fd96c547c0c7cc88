#!/usr/bin/python3
"""The running service against its description: every example is POSTed, every path asked, every answer validated.

    served.py SOURCE VRAMCAST                   TAP; starts VRAMCAST on a free port
    served.py --write-readme [VRAMCAST]         fills in the README's session with what the service answers
"""
import base64
import contextlib
import csv
import http.client
import io
import json
import pathlib
import re
import subprocess
import sys
import threading
import urllib.parse

import drift
import schema

MARKS = ("<!-- session -->", "<!-- /session -->")
SESSION = """{"model": "llama-3.2-1b", "precision": "bf16_mixed", "micro_batch_size": 2, "sequence_length": 2048,
  "gradient_checkpointing": true, "gpus": ["rtx-4090", "a100-40gb"]}"""
PLAN_MARKS = ("<!-- plan -->", "<!-- /plan -->")
PLAN = """{"request": {"model": "llama-3.1-70b"}, "gpus": ["h100-sxm5-80gb"], "max_gpus": 64, "limit": 2, "objective": "fewest_gpus",
  "vary": ["parallelism.strategy", "gradient_checkpointing", "optimizer", "micro_batch_size"]}"""
JSON = ("application/json", "application/problem+json")
SHOWN = ("model", "per_gpu", "peak", "fits", "warnings")
SHOWN_OF_MODEL = ("id", "parameters", "trainable_parameters")


@contextlib.contextmanager
def service(source, vramcast, *options):
    """Runs the program on a free port; yields the port; it has to end with 0 on SIGTERM."""
    process = subprocess.Popen([vramcast, "--listen", "127.0.0.1:0", "--catalog", source / "config", *options],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", line)
            if found:
                break
        else:
            raise RuntimeError("it ended without listening: " + "".join(lines))
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield int(found.group(1))
        process.terminate()
        if process.wait(timeout=60):
            raise RuntimeError("SIGTERM: ended with %d" % process.returncode)
    finally:
        process.kill()


class Answer:
    """One exchange: status, media type, headers, body, and the body as JSON where it is that."""

    def __init__(self, port, method, target, body=None, headers=()):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, target, data, {**({"Content-Type": "application/json"} if data is not None else {}),
                                                  **dict(headers)})
        response = connection.getresponse()
        self.status, self.headers, self.body = response.status, response.headers, response.read()
        self.media = response.headers.get("Content-Type", "").partition(";")[0]
        self.value = json.loads(self.body) if self.body and self.media in JSON else None
        connection.close()


def answer_faults(description, operation, answer, status):
    """What of the answer is not as the operation describes it for that status."""
    if answer.status != status:
        return ["status %d instead of %d: %.200s" % (answer.status, status, answer.body.decode("utf-8", "replace"))]
    if str(status) not in operation["responses"]:
        return ["status %d is not described" % status]
    content = schema.resolve(description, operation["responses"][str(status)]).get("content", {})
    if answer.media not in content:
        return ["media type %r is none of %s" % (answer.media, sorted(content))]
    described = content[answer.media].get("schema", {})
    if answer.media in JSON:
        return list(schema.faults(description, described, answer.value, closed=True))
    return [] if answer.body else ["the body is empty"]


def examples(operation):
    return {name: row["value"]
            for name, row in operation["requestBody"]["content"]["application/json"]["examples"].items()}


def dotted(value, name=""):
    """A request as (name, text) pairs of a query string."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from dotted(member, "%s.%s" % (name, key) if name else key)
    elif isinstance(value, list):
        for item in value:
            yield from dotted(item, name)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)


def example_cases(description, port):
    post, get = (description["paths"]["/estimate"][method] for method in ("post", "get"))
    for name, value in examples(post).items():
        body = schema.faults(description, {"$ref": "#/components/schemas/Request"}, value)
        answer = Answer(port, "POST", "/estimate", value)
        yield "the example %s is a request" % name, list(body)
        yield "the example %s is answered as described" % name, answer_faults(description, post, answer, 200)
        if "config" in name:
            continue  # a config.json has lists and numbers of its own: POST only
        same = Answer(port, "GET", "/estimate?" + urllib.parse.urlencode(list(dotted(value))))
        yield "the example %s gets the same answer as a query" % name, answer_faults(description, get, same, 200) + \
            ([] if same.body == answer.body else ["the bodies differ"])


def batch_cases(description, port):
    """Each of many gets the answer that it gets alone."""
    post = description["paths"]["/estimates"]["post"]
    for name, value in examples(post).items():
        answer = Answer(port, "POST", "/estimates", value)
        yield "the batch %s is answered as described" % name, answer_faults(description, post, answer, 200)
        if "requests" not in value:
            continue
        alone = [Answer(port, "POST", "/estimate", {"include": [], **one}).value for one in value["requests"]]
        pointers = lambda told: [fault["pointer"].replace("/requests/%d" % number, "") for fault in told["errors"]]
        for number, (told, one) in enumerate(zip(answer.value["results"], alone, strict=True)):
            same = told == one if "fits" in one else pointers(told) == pointers(one) != []
            yield "request %d of the batch %s is answered as alone" % (number, name), [] if same else ["they differ"]
    for form in ("csv", "ndjson", "records"):
        answer = Answer(port, "POST", "/estimates?format=" + form, examples(post)["sweep"])
        rows = list(csv.DictReader(io.StringIO(answer.body.decode()))) if form == "csv" else \
            answer.value if form == "records" else [json.loads(line) for line in answer.body.splitlines()]
        told = [(str(row["request"]), str(row["sequence_length"]), row["method"], str(row["status"])) for row in rows]
        wanted = [("0", "1024", "full", "200"), ("1", "1024", "lora", "200"), ("2", "2048", "full", "200"),
                  ("3", "2048", "lora", "200")]
        sizes = [int(row["allocated_bytes"]) for row in rows]
        yield "a sweep is a frame as %s" % form, [] if told == wanted and len(set(sizes)) == 4 else [str(told)]


def plan_cases(description, port):
    """Every plan's request gets the verdict fits, and the bytes that the plan tells."""
    post = description["paths"]["/plan"]["post"]
    for name, value in examples(post).items():
        body = schema.faults(description, {"$ref": "#/components/schemas/PlanRequest"}, value)
        answer = Answer(port, "POST", "/plan", value)
        yield "the plan %s is a request" % name, list(body)
        yield "the plan %s is answered as described" % name, answer_faults(description, post, answer, 200)
        plans, lines = answer.value["plans"], []
        lines += [] if ("nearest" in answer.value) == (name == "nearest") == (not plans) else ["plans %d" % len(plans)]
        lines += [] if len(plans) in (0, value.get("limit")) else ["%d plans" % len(plans)]
        for plan in plans + [answer.value[key] for key in ("nearest",) if key in answer.value]:
            fit = Answer(port, "POST", "/estimate", plan["request"]).value["fits"]
            told = [(row["gpu"], row["verdict"] == "fits", row["required_bytes"], row["required_high_bytes"], row["utilization"],
                     max(0, -row["headroom_bytes"])) for row in fit]
            wanted = (plan["gpu"], plan in plans, plan["required_bytes"], plan["required_high_bytes"], plan["utilization"],
                      plan.get("short_bytes", 0))
            lines += [] if told == [wanted] else ["%s, not %s" % (told, wanted)]
        yield "the plans of %s are confirmed" % name, lines
    asked = description["components"]["schemas"]["PlanRequest"]["properties"]
    told = Answer(port, "POST", "/plan", {"request": {"model": "gpt2"}, "objective": "", "vary": [""]}).value["errors"]
    told = [re.split(", | or ", row["detail"].replace("must be one of ", "").replace("must be ", "")) for row in told]
    yield "a plan's words are the description's", \
        [] if told == [asked["objective"]["enum"], asked["vary"]["oneOf"][0]["items"]["enum"]] else [str(told)]
    wanted = Answer(port, "POST", "/plan", examples(post)["cheapest"]).value["plans"]
    yield "a price of the request goes before", [] if any(
        row["gpu"] == "l4" and row["price_per_hour"] == 0.2 for row in wanted) else [str(wanted)]
    for form in ("csv", "ndjson", "records"):
        answer = Answer(port, "POST", "/plan?format=" + form, examples(post)["cheapest"])
        rows = list(csv.DictReader(io.StringIO(answer.body.decode()))) if form == "csv" else \
            answer.value if form == "records" else [json.loads(line) for line in answer.body.splitlines()]
        same = [(row["gpu"], int(row["required_bytes"])) for row in rows] == \
            [(row["gpu"], row["required_bytes"]) for row in wanted]
        last = rows[-1]["request"]
        same = same and (json.loads(last) if form == "csv" else last) == wanted[-1]["request"]
        yield "plans are a frame as %s" % form, [] if same else [str(rows)]


def kubernetes_cases(description, port):
    """Every example of an operation that Kubernetes asks for is what is described, and so is its answer."""
    for path, item in description["paths"].items():
        if not path.startswith("/k8s/"):
            continue
        content = item["post"]["requestBody"]["content"]["application/json"]
        for name, value in examples(item["post"]).items():
            answer = Answer(port, "POST", target_of(description, path, item["post"]), value)
            yield "the example %s of %s is a request" % (name, path), list(schema.faults(description, content["schema"], value))
            yield "the example %s of %s is answered as described" % (name, path), \
                answer_faults(description, item["post"], answer, 200) + admission_faults(name, answer.value)


def admission_faults(name, value):
    """What is not as the example's name says."""
    response = value.get("response", {})
    told = {
        "refused": lambda: response["status"]["code"] == 403 and " would fit: " in response["status"]["message"],
        "unknown": lambda: "no GPU is named" in json.dumps(response) and response["allowed"] == ("warnings" in response),
        "allowed": lambda: response == {"uid": response["uid"], "allowed": True},
        "filled": lambda: json.loads(base64.b64decode(response["patch"]))[0]["value"] == {"limits": {"nvidia.com/gpu": "8"}},
        "nodes": lambda: [node["metadata"]["name"] for node in value["Nodes"]["items"]] == ["large"] and "small" in value["FailedNodes"],
        "names": lambda: value["NodeNames"] == ["large", "small"] and not value["FailedNodes"],
    }
    return [] if told[name]() else [json.dumps(value)]


def target_of(description, path, operation):
    """The path with the example of its {id}."""
    for parameter in operation.get("parameters", []):
        parameter = schema.resolve(description, parameter)
        if parameter["in"] == "path":
            path = path.replace("{%s}" % parameter["name"], parameter["example"])
    return path


def method_cases(port, path, item, target):
    allowed = {method.upper() for method in item} | {"OPTIONS"} | ({"HEAD"} if "get" in item else set())
    for method in ("OPTIONS", "DELETE"):
        answer = Answer(port, method, target)
        told = {word.strip() for word in answer.headers.get("Allow", "").split(",")}
        yield "%s %s tells the methods" % (method, path), [] if told == allowed else ["Allow: %s" % sorted(told)]


def path_cases(description, port):
    for path, item in description["paths"].items():
        if "get" not in item:
            yield from method_cases(port, path, item, path)
            continue
        target = target_of(description, path, item["get"]) + ("?model=llama-3.2-1b" if path == "/estimate" else "")
        got, head = Answer(port, "GET", target), Answer(port, "HEAD", target)
        yield "GET %s is answered as described" % path, answer_faults(description, item["get"], got, 200)
        yield "HEAD %s is GET without the body" % path, \
            [] if head.status == got.status and not head.body and head.media == got.media else ["%d" % head.status]
        yield from method_cases(port, path, item, target)
        yield from format_cases(description, port, path, item["get"], target)


def format_cases(description, port, path, operation, target):
    names = [schema.resolve(description, parameter) for parameter in operation.get("parameters", [])]
    for parameter in names:
        if parameter["name"] != "format":
            continue
        for name in parameter["schema"]["enum"]:
            answer = Answer(port, "GET", target + ("&" if "?" in target else "?") + "format=" + name)
            described = {**operation, "responses": {**operation["responses"], "200": {"content": {
                **schema.resolve(description, operation["responses"]["200"])["content"]}}}}
            if name == "records":
                described["responses"]["200"]["content"] = {"application/json": {"schema": {
                    "type": "array", "minItems": 1, "items": {"type": "object"}}}}
            yield "GET %s as %s" % (path, name), answer_faults(description, described, answer, 200)


# name, method, target, body, headers, status, pointers of the faults
FAULTS = [
    ("no such path", "GET", "/nothing", None, {}, 404, []),
    ("no such preset", "GET", "/presets/nothing", None, {}, 404, []),
    ("no such card", "GET", "/gpus/nothing", None, {}, 404, []),
    ("no such format", "GET", "/gpus?format=xml", None, {}, 406, []),
    ("no format that is accepted", "GET", "/gpus", None, {"Accept": "image/png"}, 406, []),
    ("another method", "DELETE", "/gpus", None, {}, 405, []),
    ("not JSON", "POST", "/estimate", b"{", {}, 400, []),
    ("a key twice", "POST", "/estimate", b'{"model":"llama-3.2-1b","model":"llama-3.2-1b"}', {}, 400, []),
    ("not application/json", "POST", "/estimate", b"{}", {"Content-Type": "text/plain"}, 415, []),
    ("too large", "POST", "/estimate", b" " * (2 << 20), {}, 413, []),
    ("no model", "POST", "/estimate", {}, {}, 422, ["/model"]),
    ("several faults at once", "POST", "/estimate", {"model": "nothing", "loss": 1, "lora": {"rank": "8"}, "a/b": 1},
     {}, 422, ["/a~1b", "/lora/rank", "/loss", "/model"]),
    ("faults of a batch's envelope", "POST", "/estimates", {"requests": [], "sweep": {}, "x": 1}, {}, 422, ["/sweep", "/x"]),
    ("a sweep that is too long", "POST", "/estimates", {"request": {}, "sweep": {"a": [1] * 101, "b": [1] * 100}}, {}, 422,
     ["/sweep"]),
    ("a batch as a table", "POST", "/estimates?format=table", {"requests": []}, {}, 406, []),
    ("faults of a plan's envelope", "POST", "/plan", {"request": {"model": "nothing"}, "limit": 0, "x": 1}, {}, 422,
     ["/limit", "/request/model", "/x"]),
    ("faults of what may vary", "POST", "/plan", {"request": {"model": "llama-3.2-1b"}, "vary": {"lora.rank": [0, 8], "y": [1]}},
     {}, 422, ["/vary/lora.rank/0", "/vary/y"]),
    ("a plan as a table", "POST", "/plan?format=table", {"request": {}}, {}, 406, []),
    ("no review", "POST", "/k8s/validate", {"kind": "x", "request": {"uid": 7}}, {}, 400,
     ["/apiVersion", "/kind", "/request/operation", "/request/uid"]),
    ("no policy", "POST", "/k8s/validate/strict", {}, {}, 404, []),
    ("no arguments of an extender", "POST", "/k8s/filter", {"Pod": 1}, {}, 400, ["/Nodes", "/Pod"]),
    ("a query that no API server sends", "POST", "/k8s/mutate?dry=1", {}, {}, 422, ["/dry"]),
    ("a query with a typo", "GET", "/estimate?model=llama-3.2-1b&lose=standard", None, {}, 422, ["/lose"]),
]


def fault_cases(description, port):
    rows = {row["type"]: row for row in description["components"]["schemas"]["Problem"]["x-problems"]}
    for name, method, target, body, headers, status, pointers in FAULTS:
        answer = Answer(port, method, target, body, headers)
        problem = {"responses": {str(status): {"$ref": "#/components/responses/Problem"}}}
        lines = answer_faults(description, problem, answer, status)
        if not lines:
            row, value = rows[answer.value["type"]], answer.value
            told = sorted(error["pointer"] for error in value["errors"])
            if (row["status"], row["title"]) != (value["status"], value["title"]):
                lines.append("not as in x-problems")
            lines += [] if told == pointers else ["pointers %s" % told]
        yield "a fault is answered as described: " + name, lines


def range_cases(description, port):
    """A number beyond the range that is described is a fault there; custom shapes have no table to compare with."""
    schemas = description["components"]["schemas"]
    for name, wrap in (("Request", lambda key, value: {"model": "llama-3.2-1b", key: value}),
                       ("CustomModel", lambda key, value: {"model": {"parameters": "8B", key: value}})):
        for path, field in numbers(description, schemas[name]):
            lines = []
            for bound, step in (("minimum", -1), ("maximum", 1)):
                if bound in field:
                    value = field[bound] + step
                    for key in reversed(path[1:]):
                        value = {key: value}
                    answer = Answer(port, "POST", "/estimate", wrap(path[0], value))
                    pointer = ("/model/" if name == "CustomModel" else "/") + "/".join(path)
                    told = [(row["pointer"], row["code"]) for row in (answer.value or {}).get("errors", [])]
                    lines += [] if told == [(pointer, "out_of_range")] else ["%s: %s" % (bound, told)]
            yield "beyond the range of %s %s" % (name, ".".join(path)), lines


def numbers(description, node, path=()):
    """(path, schema) of every number with a range."""
    for key, child in node.get("properties", {}).items():
        child = schema.resolve(description, child)
        forms = [child] + child.get("oneOf", [])
        yield from ((path + (key,), form) for form in forms if form.get("type") in ("integer", "number"))
        for form in forms:
            yield from numbers(description, form, path + (key,))


def ways_down(value, path=()):
    """The way to every member of every object in value."""
    if isinstance(value, dict):
        yield from (path + (key,) for key in value)
    if isinstance(value, (dict, list)):
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from ways_down(member, path + (key,))


def noticed_cases(description, port):
    """That a member that goes from an answer, and one that goes from the description, is noticed."""
    post = description["paths"]["/estimate"]["post"]
    answer = Answer(port, "POST", "/estimate", examples(post)["full"])
    estimate = {"$ref": "#/components/schemas/Estimate"}
    optional = {"peak", "timeline", "host", "rule_of_thumb", "model_type", "value", "reason", "hints", "skypilot", "nvidia.com/gpu",
                "nvidia.com/gpu.product", "GPU", "accelerators", "H100", "typed_gres", "constraint", "affinity", "accelerator_type"}
    ways = [path for path in ways_down(answer.value) if path[-1] not in optional]
    yield "noticed: a member goes from the answer", ([] if len(ways) > 50 else ["only %d members" % len(ways)]) + \
        ["/".join(map(str, path)) for path in ways
         if not list(schema.faults(description, estimate, drift.without(answer.value, path), closed=True))]
    ways = [("components", "schemas", "Estimate") + path
            for path in drift.field_paths(description["components"]["schemas"]["Estimate"])]
    met = {key for path in ways_down(answer.value) for key in path}
    yield "noticed: a member goes from the description", \
        ["/".join(path) for path in ways if path[-1] in met
         and not list(schema.faults(drift.without(description, path), estimate, answer.value, closed=True))]


def description_cases(source, vramcast, description, port):
    text = (source / "openapi/openapi.yaml").read_bytes()
    version = subprocess.run([vramcast, "--version"], check=True, capture_output=True, text=True).stdout
    yield "--version is the description's", [] if description["info"]["version"] in version.split() else [version]
    told, same = (Answer(port, "GET", "/openapi." + form) for form in ("yaml", "json"))
    yield "/openapi.yaml is the description", [] if told.body == text else ["it differs"]
    yield "/openapi.json says the same", [] if same.value == description else ["it differs"]


def lacks(shown, answer, at=""):
    """Where what is shown is not in the answer: an object may show less, all else has to be equal."""
    if isinstance(shown, dict) and isinstance(answer, dict):
        return [line for key in shown for line in (lacks(shown[key], answer[key], at + "/" + key) if key in answer
                                                   else ["%s/%s: not in the answer" % (at, key)])]
    if isinstance(shown, list) and isinstance(answer, list) and len(shown) == len(answer):
        return [line for i, item in enumerate(shown) for line in lacks(item, answer[i], "%s/%d" % (at, i))]
    return [] if shown == answer else ["%s: shown %s, answered %s" % (at, shown, answer)]


def session_cases(source, port, marks=MARKS, path="/estimate"):
    """The README's session: the request that it shows gets the answer that it shows."""
    text = (source / "README.md").read_text(encoding="utf-8").partition(marks[0])[2].partition(marks[1])[0]
    asked, shown = re.search(r"-d '\s*(\{.*?\})'", text, re.DOTALL), re.search(r"```json\n(.*?)```", text, re.DOTALL)
    if not asked or not shown:
        yield "the README shows a session", ["there is no request or no answer between %s and %s" % marks]
        return
    answer = Answer(port, "POST", path, asked.group(1).encode())
    yield "the README's session of " + path + " is what the service answers", lacks(json.loads(shown.group(1)), answer.value)


SHOWN_BLOCK = re.compile(r"<!-- answer -->\n```(\w*)\n(.*?)\n```\n\n```(\w*)\n(.*?)\n```\n<!-- /answer -->", re.DOTALL)


def ask_as_shown(language, asked, port):
    """The answer to a README's block: a curl line, or a notebook's cell with the body of a batch."""
    if language == "python":
        return Answer(port, "POST", "/estimates?format=csv", json.loads(re.search(r"^body = (\{.*?\})$", asked, re.M | re.S).group(1)))
    target = re.search(r"127\.0\.0\.1:8080(/[^' ]*)", asked).group(1)
    body = re.search(r"-d '\s*(\{.*\})'", asked, re.DOTALL)
    return Answer(port, "POST" if body else "GET", target, body and body.group(1).encode())


def pivot(table, index, columns, values):
    """The words of DataFrame.pivot() of a CSV, as pandas prints it."""
    rows = list(csv.DictReader(io.StringIO(table)))
    heads = sorted({int(row[columns]) for row in rows})
    lines = {}
    for row in rows:
        lines.setdefault(int(row[index]), {})[int(row[columns])] = row[values]
    return [columns, *map(str, heads), index] + \
        [word for key in sorted(lines) for word in [str(key)] + [lines[key][head] for head in heads]]


def block_faults(asked, shown, answer):
    """What a block shows and the service does not answer. JSON may show less, text is shown whole, a notebook pivots."""
    (asks, question), (tells, text) = asked, shown
    if answer.status != 200:
        return ["status %d: %.300s" % (answer.status, answer.body.decode())]
    if tells == "json":
        return lacks(json.loads(text), answer.value)
    if asks == "python":
        words = pivot(answer.body.decode(), *re.findall(r'(?:index|columns|values)="(.*?)"', question))
        return [] if text.split() == words else ["shown %s, answered %s" % (text.split(), words)]
    return [] if text == answer.body.decode().rstrip("\n") else ["answered:\n" + answer.body.decode()]


def audience_cases(source, port):
    """What the README shows for each of those who use the service is what it answers."""
    blocks = SHOWN_BLOCK.findall((source / "README.md").read_text(encoding="utf-8"))
    yield "the README has a session for each audience", [] if len(blocks) >= 4 else ["there are %d blocks" % len(blocks)]
    for asks, question, tells, text in blocks:
        answer = ask_as_shown(asks, question, port)
        yield "the README's answer to %s" % question.split("\n")[0][:60].replace("#", "no."), \
            block_faults((asks, question), (tells, text), answer)


def like(shown, answer):
    """Of the answer what is shown of it now."""
    if isinstance(shown, dict):
        return {key: like(shown[key], answer[key]) for key in shown if key in answer}
    if isinstance(shown, list) and len(shown) == len(answer):
        return [like(item, answer[i]) for i, item in enumerate(shown)]
    return answer


def written(value, width=118, indent=0):
    """JSON whose parts are on one line where there is room."""
    line = json.dumps(value)
    if len(line) + indent <= width or not isinstance(value, (dict, list)) or not value:
        return line
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        parts = ["%s: %s" % (json.dumps(key), written(item, width, indent + 2)) for key, item in value.items()]
    else:
        parts = [written(item, width, indent + 2) for item in value]
    ends = "{}" if isinstance(value, dict) else "[]"
    return ends[0] + "\n" + ",\n".join(inner + part for part in parts) + "\n" + " " * indent + ends[1]


def write_blocks(source, port):
    """Fills in what the blocks show, but for the notebook's, which pandas prints."""
    path = source / "README.md"

    def fill(found):
        asks, question, tells, text = found.groups()
        answer = ask_as_shown(asks, question, port)
        if tells == "json":
            text = written(like(json.loads(text), answer.value))
        elif asks != "python":
            text = answer.body.decode().rstrip("\n")
        return "<!-- answer -->\n```%s\n%s\n```\n\n```%s\n%s\n```\n<!-- /answer -->" % (asks, question, tells, text)

    path.write_text(SHOWN_BLOCK.sub(fill, path.read_text(encoding="utf-8")), encoding="utf-8")


def write_session(source, port):
    answer = Answer(port, "POST", "/estimate", SESSION.encode()).value
    answer["model"] = {key: answer["model"][key] for key in SHOWN_OF_MODEL}
    shown = json.dumps({key: answer[key] for key in SHOWN}, indent=2)
    shown = re.sub(r"\{\s+(\"(low_bytes|id)\"[^}]*?)\s+\}",
                   lambda found: "{%s}" % re.sub(r"\s+", " ", found.group(1)), shown)  # a range or a name on one line
    write_between(source, MARKS, "/estimate", SESSION, shown)


def write_plan(source, port):
    answer = Answer(port, "POST", "/plan", PLAN.encode()).value
    shown = {key: answer[key] for key in ("plans", "examined", "complete")}
    flat = json.dumps(shown, indent=2)
    flat = re.sub(r"(\"(?:change|request)\": )(\{.*?\n      \})", lambda found: found.group(1) + re.sub(r"\s+", " ", found.group(2)),
                  flat, flags=re.DOTALL)
    write_between(source, PLAN_MARKS, "/plan", PLAN, flat)


def write_between(source, marks, target, request, shown):
    path = source / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(marks[0])
    asked = "curl 127.0.0.1:8080%s -H 'Content-Type: application/json' -d '\n%s'" % (target, request)
    session = "```sh\n%s\n```\n\n```json\n%s\n```" % (asked, shown)
    path.write_text("\n".join([before + marks[0], session, marks[1] + rest.partition(marks[1])[2]]), encoding="utf-8")


def main(arguments):
    write = arguments[:1] == ["--write-readme"]
    source = pathlib.Path(__file__).resolve().parent.parent if write else pathlib.Path(arguments[0])
    vramcast = (arguments[1:] or [source / "build/test-gcc/server/vramcast"])[0]
    description = schema.load_yaml(source / "openapi/openapi.yaml")
    with service(source, vramcast) as port:
        if write:
            write_session(source, port)
            write_plan(source, port)
            write_blocks(source, port)
            return 0
        kinds = [description_cases(source, vramcast, description, port), session_cases(source, port), audience_cases(source, port),
                 session_cases(source, port, PLAN_MARKS, "/plan")]
        for kind in (example_cases, batch_cases, plan_cases, kubernetes_cases, path_cases, fault_cases, range_cases, noticed_cases):
            kinds.append(kind(description, port))
        passed = drift.report([case for cases in kinds for case in cases])
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
