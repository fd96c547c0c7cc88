#!/usr/bin/python3
"""Memory that runs short at every place: each allocation of each request fails once, and all from it on. TAP.

    oom.py VRAMCAST CATALOG LIBRARY     LIBRARY: oom.c, preloaded; EVERY=1 in the environment: no allocation is left out

The request that is hit is answered as ever (the allocation was not vital), by a 503, or its connection ends; the next
one is answered rightly; and no block of memory is left behind.
"""
import contextlib
import json
import mmap
import os
import struct
import subprocess
import sys
import tempfile
import time

import harness
from harness import HOST, JSON, MODEL, Service, get, own, post, read_one

CONFIG = {"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
          "intermediate_size": 1024, "vocab_size": 1000}
FULL = {"model": CONFIG, "method": "lora", "gpus": ["t4", "l4"], "explain": True, "timeline": "full",
        "include": ["limits", "advice", "timeline", "hints", "rule_of_thumb"]}
ARGUMENTS = {"bf16": True, "seed": 1, "per_device_train_batch_size": 2}
DEEPSPEED = {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}
FILES = {"model": CONFIG, "gpus": "t4", "from": {"training_arguments": ARGUMENTS, "deepspeed": DEEPSPEED}}
SWEEP = {"request": {"model": CONFIG, "gpus": "t4"},
         "sweep": {"sequence_length": [64, 128], "lora.rank": [8], "method": ["lora"]}}
MANY = {"requests": [{"model": CONFIG, "gpus": "t4"}, {"model": "nobody"},
                     {"model": {"parameters": "1B"}, "gpus": "l4"}]}
PLAN = {"request": {"model": CONFIG}, "gpus": ["t4"], "max_gpus": 2, "limit": 2,
        "vary": ["micro_batch_size", "optimizer"]}
SPEC = {"containers": [{"name": "trainer"}]}
POD = {"apiVersion": "v1", "kind": "Pod", "spec": SPEC,
       "metadata": {"annotations": {"vramcast.io/request": json.dumps({"model": CONFIG, "gpus": "t4"})}}}
WORDS = {**POD, "metadata": {"annotations": {"vramcast.io/request": "model=llama-3.1-8b method=lora", "vramcast.io/gpu": "l4"}}}
NODES = [{"metadata": {"name": card, "labels": {"nvidia.com/gpu.product": card}}} for card in ("NVIDIA-L4", "Tesla-T4")]
FAULTS = {"modle": 1, "gpus": ["none"], "lora": {"rank": -1}, "a": 1, "b": 2, "model": 7}


def unheard_of(value, number=[0]):
    """The value as JSON, and if it is an estimate's one that never came before with the same answer: the service remembers."""
    number[0] += 1
    return json.dumps({**value, "headroom_fraction": number[0] * 1e-12} if "model" in value else value).encode()


def body(value):
    return lambda path: post(unheard_of(value), path=path)


def reviewed(value):
    return body({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                 "request": {"uid": "1", "operation": "CREATE", "object": value}})


# name, path, request as bytes by path
REQUESTS = [
    ("an estimate", b"/estimate", body({"model": "llama-3.2-1b", "gpus": "t4"})),
    ("an estimate by query", b"/estimate?model=llama-3.2-1b&gpus=t4&lora.target_modules=q_proj,v_proj&method=lora",
     get),
    ("an estimate with all parts", b"/estimate", body(FULL)),
    ("an estimate of files", b"/estimate", body(FILES)),
    ("an estimate on all cards", b"/estimate?format=table", body({"model": CONFIG})),
    ("faults", b"/estimate", body(FAULTS)),
    ("no JSON", b"/estimate", lambda path: post(b'{"model": ["' + b"x" * 5000, path=path)),
    ("a sweep", b"/estimates?format=csv", body(SWEEP)),
    ("a batch", b"/estimates", body(MANY)),
    ("a plan", b"/plan", body(PLAN)),
    ("a review", b"/k8s/validate", reviewed(POD)),
    ("a refusal", b"/k8s/validate", reviewed(WORDS)),
    ("a patch", b"/k8s/mutate", reviewed(POD)),
    ("nodes", b"/k8s/filter", body({"Pod": WORDS, "Nodes": {"items": NODES}})),
    ("presets", b"/presets?q=llama&format=ndjson", get),
    ("a preset", b"/presets/llama-3.2-1b", get),
    ("no preset", b"/presets/lama-3.2-1b", get),
    ("cards", b"/gpus?vendor=nvidia", get),
    ("a card", b"/gpus/t4", get),
    ("the description", b"/openapi.json", get),
    ("the page", b"/", get),
    ("health", b"/healthz", get),
    ("readiness", b"/readyz", get),
    ("metrics", b"/metrics", get),
    ("nothing", b"/nothing", get),
    ("options", b"/estimate", lambda path: b"OPTIONS " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("a wrong method", b"/estimate", lambda path: b"DELETE " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("a body in chunks", b"/estimate", lambda path: b"POST " + path + b" HTTP/1.1\r\n" + HOST + JSON
     + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(MODEL), MODEL)),
    ("a body too large", b"/estimate", lambda path: post(b" " * 70000, path=path)),
]
VARIES = {"metrics"}
EVERY = bool(os.environ.get("EVERY"))
DENSE, STRIDE = (1 << 62, 1) if EVERY else (12, 37)


class Memory:
    """What oom.c shares."""
    FIELDS = ("countdown", "lasting", "asked", "failed", "alive")

    def __init__(self, path):
        with open(path, "r+b") as file:
            file.truncate(8 * len(self.FIELDS))
            self.map = mmap.mmap(file.fileno(), 8 * len(self.FIELDS))

    def __getattr__(self, name):
        return struct.unpack_from("q", self.map, 8 * self.FIELDS.index(name))[0]

    def arm(self, countdown, lasting=False):
        struct.pack_into("qq", self.map, 0, 0, lasting)
        struct.pack_into("q", self.map, 0, countdown)


@contextlib.contextmanager
def watched():
    """A service of one thread and its memory."""
    with tempfile.NamedTemporaryFile() as file:
        memory = Memory(file.name)
        with Service("--threads", "1", "--max-body", "65536",
                     env={"LD_PRELOAD": LIBRARY, "VRAMCAST_OOM": file.name}) as service:
            yield service, memory


def ask(service, data, connection=None):
    """The answer to data, or None when the connection ended before or within it."""
    try:
        with connection or service.connect(30) as connection:
            connection.sendall(data)
            return read_one(connection)[0]
    except (AssertionError, OSError):
        return None


def settle(memory, alive):
    """Whether the number of blocks becomes alive: a connection's end is noticed a little later."""
    for _ in range(200):
        if memory.alive == alive:
            return True
        time.sleep(0.005)
    return False


def blocks(memory):
    """The blocks that are alive once that number has settled."""
    before, now = -1, memory.alive
    while before != now:
        time.sleep(0.05)
        before, now = now, memory.alive
    return now


def is_same(name, answer, right):
    return answer is not None and answer.status == right.status and (name in VARIES or answer.body == right.body)


def hit(service, memory, row, right, countdown, kept, lasting):
    """Lets the allocation of that number fail within a request. False when there were fewer."""
    name, path, request = row
    connection = service.connect(30) if kept else None
    if kept:
        connection.sendall(get(b"/healthz"))
        read_one(connection)
    failed = memory.failed
    memory.arm(countdown, lasting)
    answer = ask(service, request(path), connection)
    memory.arm(0)
    reached = memory.failed > failed
    where = "%s, allocation %d%s" % (name, countdown, " and all after it" if lasting else "")
    if answer is not None and answer.status == 503:
        told = json.loads(answer.body)
        assert told["status"] == 503 and answer.headers["retry-after"] == "1", "%s: %s" % (where, told)
        assert answer.headers["content-type"] == "application/problem+json", where
    elif answer is not None:
        right_one = is_same(name, answer, right) or in_parts(name, answer)
        assert right_one, "%s: %d %r" % (where, answer.status, answer.body[:300])
    assert reached or answer is not None, "%s: closed without a reason" % where
    again = ask(service, request(path))
    assert is_same(name, again, right), "%s: the next one: %r" % (where, again and (again.status, again.body[:300]))
    return reached


def in_parts(name, answer):
    """An element of a batch that was hit says so in its place."""
    return name in ("a batch", "a sweep") and answer.status == 200 and b"ran short" in answer.body


def warm_up(service, row):
    """What the service keeps for good: answers it remembers, a line of its log, room for some requests at once."""
    name, path, request = row
    if path.startswith(b"/estimate"):
        with service.connect(30) as connection:
            for _ in range(1500):  # some 128 of them are kept
                for model in ("llama-3.2-1b", {**CONFIG, "num_hidden_layers": 200}):
                    # a loop answers the first, a worker the second
                    connection.sendall(post(unheard_of({"model": model, "gpus": "t4", "accounting": "rule_of_thumb"})))
                    read_one(connection)
    with contextlib.ExitStack() as stack:
        some = [stack.enter_context(service.connect(30)) for _ in range(6)]
        for connection in some:
            connection.sendall(post(MODEL, path=b"/estimate?" + b"explain=false&" * 10 + b"explain=false")[:-1])
        for connection in some:
            assert ask(service, get(b"/nothing")).status == 404
            connection.sendall(MODEL[-1:])
            read_one(connection)
    for _ in range(3):
        right = ask(service, request(path))
    return right


def oom_test(row, lasting):
    name = row[0]

    def check():
        with watched() as (service, memory):
            right = warm_up(service, row)
            for kept in (False, True):
                countdown, reached, alive = 1, True, blocks(memory)
                while reached:
                    reached = hit(service, memory, row, right, countdown, kept, lasting)
                    left = "%s, allocation %d: %d blocks are left" % (name, countdown, memory.alive - alive)
                    assert settle(memory, alive), left
                    countdown += 1 if countdown < DENSE else STRIDE
                assert countdown > 2, "nothing was allocated"
    check.__name__ = "%s: %s" % (name, "memory ends" if lasting else "an allocation fails")
    own(check)


for row in REQUESTS:
    oom_test(row, False)
    oom_test(row, True)

@own
def a_start_that_finds_no_memory_says_so():
    with tempfile.NamedTemporaryFile() as file:
        memory = Memory(file.name)

        def start(countdown, lasting):
            memory.arm(countdown, lasting)
            return subprocess.run([harness.PROGRAM, "--check", "--catalog", harness.CATALOG], capture_output=True,
                                  timeout=60, env={**os.environ, "LD_PRELOAD": LIBRARY, "VRAMCAST_OOM": file.name})

        assert start(0, False).returncode == 0
        count = memory.asked
        assert count > 1000, count
        for countdown in range(1, count, count // (2000 if EVERY else 30)):
            for lasting in (False, True):
                told = start(countdown, lasting)
                assert told.returncode in (0, 1), "allocation %d: %s" % (countdown, told)
                assert told.returncode == 0 or told.stderr.startswith(b"vramcast: "), told


if __name__ == "__main__":
    LIBRARY = sys.argv[3]
    sys.exit(harness.run_tests(*sys.argv[1:3]))
