#!/usr/bin/python3
"""What a service costs that serves nobody yet, and what a batch saves. Used by script/bench.

    bench_service.py VRAMCAST CATALOG
"""
import json
import os
import re
import statistics
import sys
import time

import harness
from harness import Service, get, post, read_one, resident_kib

ROUNDS, SINGLES = 7, 500
RULE = {"model": "llama-3.1-8b", "gpus": "h100-sxm5-80gb", "accounting": "rule_of_thumb"}
REPLAY = {"model": "llama-3.1-8b", "gpus": "h100-sxm5-80gb", "gradient_checkpointing": True}


def processor_seconds(process):
    """Of all threads so far."""
    with open("/proc/%d/schedstat" % process.pid) as file:
        file.read()  # the process exists
    total = 0
    for task in os.listdir("/proc/%d/task" % process.pid):
        with open("/proc/%d/task/%s/schedstat" % (process.pid, task)) as file:
            total += int(file.read().split()[0])
    return total / 1e9


def start_to_ready():
    begun = time.perf_counter()
    with Service("--threads", "2") as service:
        assert service.one(get(b"/readyz")).status == 200
        return time.perf_counter() - begun, processor_seconds(service.process), resident_kib(service.process)


def cost(service, requests, per):
    """Processor time of one estimate, in microseconds, and bytes of its answer; requests of per estimates each."""
    begun, size = processor_seconds(service.process), 0
    with service.connect(600) as connection:
        for data in requests:
            connection.sendall(data)
            answer = read_one(connection)[0]
            assert answer.status == 200 and b'"status":422' not in answer.body, answer.body[:200]
            size += len(answer.body)
    count = per * len(requests)
    return (processor_seconds(service.process) - begun) / count * 1e6, size / count


def different(request, start, count):
    return [{**request, "sequence_length": 64 + start + number} for number in range(count)]


def compare(service, name, request, form, path, start):
    """One request for each estimate against batches of 100, in turn."""
    singles, batches = [], []
    for number in range(ROUNDS):
        bodies = different(request, start + 2 * SINGLES * number, 2 * SINGLES)
        one = [post(json.dumps(body).encode(), path=b"/estimate" + form) for body in bodies[:SINGLES]]
        many = [post(json.dumps({"requests": bodies[at:at + 100]}).encode(), path=path)
                for at in range(SINGLES, 2 * SINGLES, 100)]
        singles.append(cost(service, one, 1))
        batches.append(cost(service, many, 100))
    one, many = (statistics.median(row[0] for row in rows) for rows in (singles, batches))
    print("batch, %s: %.1f us of processor time an estimate instead of %.1f: %.1f times cheaper (%.0f and %.0f bytes)"
          % (name, many, one, one / many, statistics.median(row[1] for row in batches),
             statistics.median(row[1] for row in singles)))


def main():
    rows = [start_to_ready() for _ in range(ROUNDS)]
    print("start to ready: %.1f ms, %.1f ms of processor time; resident then: %.1f MiB (medians of %d)"
          % (1e3 * statistics.median(row[0] for row in rows), 1e3 * statistics.median(row[1] for row in rows),
             statistics.median(row[2] for row in rows) / 1024, ROUNDS))
    with Service("--threads", "1", log=os.open(os.devnull, os.O_WRONLY)) as service:
        compare(service, "rule of thumb, whole answers", RULE, b"", b"/estimates", 0)
        compare(service, "rule of thumb, a row each", RULE, b"?format=csv", b"/estimates?format=csv", 20000)
        compare(service, "replayed, a row each", REPLAY, b"?format=csv", b"/estimates?format=csv", 40000)


if __name__ == "__main__":
    harness.PROGRAM, harness.CATALOG = sys.argv[1:3]
    main()
