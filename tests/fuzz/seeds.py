#!/usr/bin/python3
"""Inputs for a fuzzer to begin with, from what the tests and the README ask, and a dictionary of the words that the sources know.

    seeds.py SOURCE TARGET FOLDER DICTIONARY     SOURCE: root of the tree; writes files into FOLDER, and DICTIONARY
"""
import hashlib
import json
import pathlib
import re
import sys
import urllib.parse

import yaml

TRUTH = ("single", "distributed", "published", "published_oom", "compiled")
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "HTTP/1.1", "HTTP/1.0", "\\x0d\\x0a", "Transfer-Encoding: chunked", "Content-Length: ",
           "Content-Type: application/json", "Accept: text/csv", "If-None-Match: ", "Expect: 100-continue", "Connection: close",
           "Origin: https://example.org", "X-Request-Id: ", "Host: x", "?format=", "csv", "ndjson", "records", "table")


# A model that is estimated in no time.
TINY = ('{"model_type":"llama","vocab_size":1000,"hidden_size":128,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,'
        '"intermediate_size":256}')
PRESET = re.compile(r'"(llama-3\.[12]-\d+b|smollm2-135m|qwen3-0\.6b|gpt2)"')


def truth(root):
    for name in TRUTH:
        for line in (root / "tests/truth" / (name + ".jsonl")).read_text(encoding="utf-8").splitlines():
            yield json.loads(line)["request"]


def flat(value, prefix=""):
    """Dotted names and values, as a query string has them."""
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from flat(inner, prefix + key + ".")
        elif isinstance(inner, list):
            yield prefix + key, ",".join(map(str, inner))
        elif inner is not None:
            yield prefix + key, str(inner).lower() if isinstance(inner, bool) else inner


def quoted(root, *names):
    """Objects in tests that are written with ' for "; macros around them are lost, which a fuzzer does not mind."""
    for name in names:
        for text in re.findall(r'"((?:[^"\\\n]|\\.)*)"', (root / "tests" / name).read_text(encoding="utf-8")):
            text = text.replace('\\"', '"').replace("'", '"')
            if text.startswith("{"):
                yield text
            elif text.startswith('"'):
                yield "{" + text + "}"


def readme(root):
    """Bodies of the README's examples, by their route."""
    text = (root / "README.md").read_text(encoding="utf-8")
    for route, body in re.findall(r"127\.0\.0\.1:8080(/\w+)\S* [^\n]*-d '([^']*)'", text):
        yield route, body.strip()


def files(root):
    """The value of "from"."""
    text = (root / "tests/test_from.c").read_text(encoding="utf-8")
    for macro, members in re.findall(r'\b(TRAIN8?|ZERO|ACCELERATE|AXOLOTL|FACTORY)\(((?:"(?:[^"\\]|\\.)*"\s*)+)\)', text):
        inner = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', members)).replace("'", '"')
        name = {"TRAIN": "training_arguments", "TRAIN8": "training_arguments", "ZERO": "deepspeed", "ACCELERATE": "accelerate",
                "AXOLOTL": "axolotl", "FACTORY": "llama_factory"}[macro]
        if macro == "ZERO":
            inner = '"bf16":{"enabled":true},"zero_optimization":{%s}' % inner
        yield '{"%s":{%s}}' % (name, inner)
    for found in re.findall(r"'from':(\{.*)\}\"", text):
        yield found.replace("'", '"')


def requests(root):
    for body in truth(root):
        yield json.dumps(body)
    for route, body in readme(root):
        if route == "/estimate":
            yield body
    yield from quoted(root, "test_read.c", "test_resolve.c", "test_custom.c", "test_towers.c")


def queries(root):
    for body in truth(root):
        if isinstance(body.get("model"), str):
            yield urllib.parse.urlencode(list(flat(body)), safe=",")
    for found in re.findall(r'"([\w.]+=[^"\s]*)"', (root / "tests/test_query.c").read_text(encoding="utf-8")):
        yield found


def shortened(config):
    """The same model with two layers, which is estimated in a part of the time."""
    layers = config.get("num_hidden_layers")
    cut = {key: value[:2] for key, value in config.items() if isinstance(value, list) and len(value) == layers}
    return dict(config, num_hidden_layers=2, **cut) if layers else config


def models(root):
    for row in json.loads((root / "config/models.json").read_text(encoding="utf-8")):
        yield json.dumps(shortened(row["config"]))
    for path in sorted((root / "tests/hf_config").glob("*.json")):
        yield json.dumps(shortened(json.loads(path.read_text(encoding="utf-8"))))
    yield from quoted(root, "test_hf_config.c", "test_custom.c", "test_towers.c")


def many(root):
    for text in many_texts(root):
        yield PRESET.sub(TINY, text)
    yield PRESET.sub(TINY, "c" + text)


def many_texts(root):
    yield from (body for route, body in readme(root) if route in ("/estimates", "/plan"))
    yield from quoted(root, "test_batch.c", "test_estimates.c", "test_plan.c")
    small = {"model": "smollm2-135m", "gpus": "t4"}
    yield json.dumps({"requests": [small, {"model": 7}, dict(small, method="lora")]})
    yield json.dumps({"request": small, "sweep": {"micro_batch_size": [1, 2, 0], "lora.rank": [8], "method": ["lora", "full"]}})
    yield json.dumps({"request": {"model": "smollm2-135m"}, "gpus": ["t4", "l4"], "vary": ["optimizer", "micro_batch_size"], "limit": 3,
                      "max_gpus": 4, "objective": "largest_batch", "prices": {"t4": 0.5}})


def reviews(root):
    """What Kubernetes sends: each example of the description to each route, by the letter before it."""
    text = (root / "openapi/openapi.yaml").read_text(encoding="utf-8")
    for path, item in yaml.safe_load(text)["paths"].items():
        if not path.startswith("/k8s/"):
            continue
        for example in item["post"]["requestBody"]["content"]["application/json"]["examples"].values():
            body = json.dumps(example["value"], separators=(",", ":"))
            body = re.sub(r"model=llama-3\.[12]-\d+b", "model=smollm2-135m", body)
            yield from (letter + body for letter in "vcwmf")
    pod = {"spec": {"nodeSelector": {"nvidia.com/gpu.memory": "8192"}, "containers": [{"name": "a"}, {"resources": {"limits": {}}}]}}
    notes = {"vramcast.io/request": "model=gpt2 parallelism.gpus=4", "vramcast.io/gpu": "t4,l4", "vramcast.io/container": "a",
             "vramcast.io/steer": "true"}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}
    placed = {"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}, "containers": [{}]}}
    for group, kind, spec in (("apps/v1", "Deployment", {"template": pod}), ("apps/v1", "StatefulSet", {"template": placed}),
                              ("batch/v1", "CronJob", {"jobTemplate": {"spec": {"completionMode": "Indexed", "parallelism": 2,
                                                                                "template": pod}}}),
                              ("jobset.x-k8s.io/v1", "JobSet", {"replicatedJobs": [{"name": "w", "replicas": 2,
                                                                                    "template": {"spec": {"template": pod}}}]}),
                              ("kubeflow.org/v1", "PyTorchJob", {"pytorchReplicaSpecs": {"Master": {"template": pod},
                                                                                         "Worker": {"replicas": 3, "template": pod}}})):
        made = {"apiVersion": group, "kind": kind, "metadata": {"annotations": notes}, "spec": spec}
        for old in ({}, {"oldObject": {**made, "spec": {}}}):
            asked = {"uid": "1", "operation": "UPDATE" if old else "CREATE", "object": made, **old}
            yield from (letter + json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked})
                        for letter in "vm")


def wire(root):
    body = b'{"model":"smollm2-135m","gpus":"t4"}'
    head = b"Host: x\r\nContent-Type: application/json\r\n"
    sized = head + b"Content-Length: %d\r\n" % len(body)
    yield b"\0GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"\0HEAD /gpus/t4 HTTP/1.1\r\nHost: x\r\n\r\nGET /gpus?q=rtx&limit=2 HTTP/1.0\r\n\r\n"
    yield b"\0GET /estimate?model=smollm2-135m&gpus=t4&format=csv HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"1\"\r\n\r\n"
    yield b"\0OPTIONS * HTTP/1.1\r\nHost: x\r\nOrigin: https://example.org\r\nAccess-Control-Request-Method: POST\r\n\r\n"
    yield b"\0POST /estimate?timeline=full HTTP/1.1\r\n" + sized + b"\r\n" + body
    yield b"\7POST /estimate HTTP/1.1\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    yield b"\0POST /estimates HTTP/1.1\r\n" + head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (
        len(body) + 15) + b'{"requests":[' + body + b"]}"
    yield b"\3POST /estimate HTTP/1.1\r\n" + sized + b"Transfer-Encoding: chunked\r\n\r\n" + body
    yield b"\0POST /estimate HTTP/1.1\r\n" + sized + b"Content-Length: 4\r\n\r\n" + body
    for path in ("/", "/presets?family=llama", "/presets/llama-3.2-1b", "/openapi.json", "/openapi.yaml", "/metrics", "/readyz", "/none",
                 "/gpus/a%2fb"):
        yield b"\0GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nAccept: text/csv;q=0.5, */*\r\n\r\n"


def bytes_of_choices(root):
    """Choices that no text spells: anything will do."""
    for i in range(64):
        yield hashlib.sha512(b"%d" % i).digest()[:16 + i % 48]


SEEDS = {"request": requests, "query": queries, "model": models, "from": files, "batch": many, "http": wire, "kubernetes": reviews,
         "estimate": bytes_of_choices}


def words(root, folders):
    found = set()
    for pattern in folders:
        for path in root.glob(pattern):
            found |= set(re.findall(r'"([A-Za-z0-9_.-]{2,40})"', path.read_text(encoding="utf-8")))
    for field in re.findall(r"^\s+([a-z_]{3,40}):", (root / "openapi/openapi.yaml").read_text(encoding="utf-8"), re.MULTILINE):
        found.add(field)
    return sorted(found)


def dictionary(root, target):
    if target == "estimate":
        return []
    if target == "http":
        return list(METHODS)
    names = words(root, ["config/*.c", "estimator/fields.c", "estimator/words.c"])
    return names if target == "query" else ['\\"%s\\"' % name for name in names]


def main(source, target, folder, dictionary_path):
    root, out = pathlib.Path(source), pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS[target](root):
        data = seed if isinstance(seed, bytes) else seed.encode()
        (out / hashlib.sha1(data).hexdigest()).write_bytes(data)
    pathlib.Path(dictionary_path).write_text("".join('"%s"\n' % word for word in dictionary(root, target)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
