#!/usr/bin/python3
"""What a service costs that serves nobody yet, what a batch saves, and what a second worker. Used by script/bench.

    bench_service.py VRAMCAST CATALOG
"""
import contextlib
import json
import os
import re
import statistics
import sys
import threading
import time

import harness
from harness import Service, get, post, read_one, resident_kib

ROUNDS, SINGLES, SWEEP, SWEEP_ROUNDS = 7, 500, 10000, 3
SPAN = SWEEP * SWEEP_ROUNDS  # of the lengths that are swept
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
    """One request for each estimate against lists of 100 requests and sweeps that make as many, in turn."""
    rows = []
    for number in range(ROUNDS):
        bodies = different(request, start + 3 * SINGLES * number, 3 * SINGLES)
        one = [post(json.dumps(body).encode(), path=b"/estimate" + form) for body in bodies[:SINGLES]]
        lists, sweeps = [], []
        for at in range(0, SINGLES, 100):
            some = bodies[SINGLES + at:SINGLES + at + 100]
            others = [body["sequence_length"] for body in bodies[2 * SINGLES + at:2 * SINGLES + at + 100]]
            lists.append(post(json.dumps({"requests": some}).encode(), path=path))
            sweeps.append(post(json.dumps({"request": request, "sweep": {"sequence_length": others}}).encode(), path=path))
        rows.append((cost(service, one, 1), cost(service, lists, 100), cost(service, sweeps, 100)))
    one, many, swept = (statistics.median(row[column][0] for row in rows) for column in range(3))
    print("batch, %s: %.1f us of processor time an estimate by a list, %.1f by a sweep, instead of %.1f: %.1f and %.1f times cheaper "
          "(%.0f, %.0f and %.0f bytes)"
          % (name, many, swept, one, one / many, one / swept, *(rows[0][column][1] for column in (1, 2, 0))))


def sweep(service, lengths):
    body = {"request": REPLAY, "sweep": {"sequence_length": list(lengths)}}
    with service.connect(600) as connection:
        connection.sendall(post(json.dumps(body).encode(), path=b"/estimates?format=ndjson"))
        answer = read_one(connection)[0]
    assert answer.status == 200 and answer.body.count(b"\n") == len(lengths), answer.body[:200]


def seconds_of(*work):
    """Of all of it at once: (service, lengths) each."""
    begun = time.perf_counter()
    asking = [threading.Thread(target=sweep, args=row) for row in work]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    return time.perf_counter() - begun


def second_worker():
    """A sweep by one worker; by two; and half of it each by two services of one worker, for what the machine has to give. No
    length twice."""
    with contextlib.ExitStack() as stack:
        one, other, both = (stack.enter_context(Service("--threads", count, log=os.open(os.devnull, os.O_WRONLY)))
                            for count in ("1", "1", "2"))
        rows = []
        for number in range(SWEEP_ROUNDS):
            first, half, last = (64 + SWEEP * number + part for part in (0, SWEEP // 2, SWEEP))
            alone, together, apart = (seconds_of(*work) for work in (
                [(one, range(first, last))], [(both, range(first, last))],
                [(one, range(first + SPAN, half + SPAN)), (other, range(half + SPAN, last + SPAN))]))
            rows.append((alone / together, alone / apart))
            print("    %.2f s by one worker, %.2f by two, %.2f by two services of one" % (alone, together, apart))
    print("sweep of %d: %.2f times as fast with two workers as with one, where two services of one worker gain %.2f (medians of %d)"
          % (SWEEP, *(statistics.median(ratios) for ratios in zip(*rows)), SWEEP_ROUNDS))


def main():
    rows = [start_to_ready() for _ in range(ROUNDS)]
    print("start to ready: %.1f ms, %.1f ms of processor time; resident then: %.1f MiB (medians of %d)"
          % (1e3 * statistics.median(row[0] for row in rows), 1e3 * statistics.median(row[1] for row in rows),
             statistics.median(row[2] for row in rows) / 1024, ROUNDS))
    with Service("--threads", "1", log=os.open(os.devnull, os.O_WRONLY)) as service:
        compare(service, "rule of thumb, whole answers", RULE, b"", b"/estimates", 0)
        compare(service, "rule of thumb, a row each", RULE, b"?format=csv", b"/estimates?format=csv", 20000)
        compare(service, "replayed, a row each", REPLAY, b"?format=csv", b"/estimates?format=csv", 40000)
    second_worker()


if __name__ == "__main__":
    harness.PROGRAM, harness.CATALOG = sys.argv[1:3]
    main()
