#!/usr/bin/python3
"""What takes too long for every change: thousands of connections, slow clients, loads side by side. TAP.

    torture.py VRAMCAST CATALOG
"""
import contextlib
import json
import re
import resource
import socket
import sys
import threading
import time

import harness
from harness import GET, MODEL, Service, Skip, get, own, post, read_one, resident_kib, wait_for

MANY = 10000


def raise_files(wanted):
    """Room for wanted descriptors in this process and those it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        try:
            hard = wanted
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, PermissionError):
            raise Skip("the system allows %d open files, %d are needed" % (hard, wanted))
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def gauge(service, name):
    metrics = service.one(get(b"/metrics")).body.decode()
    return int(re.search(r"^%s (\d+)$" % name, metrics, re.M).group(1))


@own
def ten_thousand_connections_are_held_and_each_is_answered():
    raise_files(MANY + 200)
    with Service("--max-connections", str(MANY + 100), env={"VRAMCAST_IDLE_MS": "120000"}) as service:
        before, connections = resident_kib(service.process), []
        try:
            for _ in range(MANY):
                connections.append(service.connect(60))
            for round_ in range(2):
                for connection in connections:
                    connection.sendall(GET)
                for connection in connections:
                    assert read_one(connection)[0].status == 200, round_
            assert gauge(service, "vramcast_connections") > MANY
            held = (resident_kib(service.process) - before) / MANY
            assert held < 30, "%.1f KiB for each connection" % held
        finally:
            for connection in connections:
                connection.close()
        wait_for(lambda: gauge(service, "vramcast_connections") == 1, "connections stay open", 60)


@own
def as_many_as_one_loop_can_hear_of_at_once_do_not_stall():
    """libmicrohttpd waits again when it heard of exactly 128 connections, before it serves any."""
    raise_files(1400)
    for threads, count in ((1, 128), (1, 129), (1, 256), (1, 512), (1, 1024), (2, 1024)):
        with Service("--threads", str(threads)) as service, contextlib.ExitStack() as stack:
            connections = [stack.enter_context(service.connect(20)) for _ in range(count)]
            for _ in range(20):
                for connection in connections:
                    connection.sendall(GET)
                begun = time.monotonic()
                for connection in connections:
                    assert read_one(connection)[0].status == 200
                assert time.monotonic() - begun < 10, "%d connections stall" % count


@own
def slow_clients_are_cut_and_the_others_do_not_notice():
    """Heads, bodies and readers that take a byte now and then; the deadline is for the whole request."""
    with Service("--threads", "1", env={"VRAMCAST_DEADLINE_MS": "4000"}) as service, contextlib.ExitStack() as stack:
        head, body = post(MODEL)[:60], post(MODEL)[:-20]
        slow = [stack.enter_context(service.connect(1)) for _ in range(400)]
        for number, connection in enumerate(slow):
            connection.sendall(body if number % 2 else head)
        worst, begun, cut = 0.0, time.monotonic(), set()
        while time.monotonic() - begun < 9 and len(cut) < len(slow):
            for number, connection in enumerate(slow):
                if number not in cut:
                    try:
                        connection.sendall(b"x" if number % 2 else b"X")
                    except OSError:
                        cut.add(number)
            asked = time.monotonic()
            assert service.one(post(MODEL)).status == 200
            worst = max(worst, time.monotonic() - asked)
            time.sleep(0.5)
        assert len(cut) == len(slow), "%d of %d were cut" % (len(cut), len(slow))
        assert worst < 2, "another client waited %.1f s" % worst


@own
def readers_that_do_not_read_hold_little():
    with Service("--threads", "1", env={"VRAMCAST_DEADLINE_MS": "4000"}) as service, contextlib.ExitStack() as stack:
        service.one(get(b"/presets"))
        before, lazy = resident_kib(service.process), []
        for _ in range(200):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", service.port))
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.sendall(get(b"/presets") * 50)
            lazy.append(connection)
        assert service.one(GET).status == 200
        held = resident_kib(service.process) - before
        assert held < 200 * 512, "200 connections hold %d KiB" % held
        wait_for(lambda: gauge(service, "vramcast_connections") == 1, "they are not cut", 30)


@own
def every_cut_of_a_request_is_survived():
    """A request that ends after each of its bytes, and one that is closed with a reset."""
    data = post(MODEL, b"X-Request-Id: 1\r\n")
    with Service("--threads", "1", env={"VRAMCAST_DEADLINE_MS": "1000", "VRAMCAST_IDLE_MS": "1000"}) as service:
        for length in range(len(data)):
            with service.connect() as connection:
                connection.sendall(data[:length])
                if length % 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert service.one(post(MODEL)).status == 200
        wait_for(lambda: gauge(service, "vramcast_connections") == 1, "connections stay open", 30)


PLAN = {"request": {"model": "llama-3.1-70b"}, "gpus": ["h100-sxm5-80gb", "a100-sxm4-80gb"], "max_gpus": 64, "limit": 20}
TIMES_AT_MOST = 5


def durations(service, bodies):
    """How long each of these requests takes, one after the other, in seconds."""
    taken = []
    with service.connect(60) as connection:
        for body in bodies:
            begun = time.perf_counter()
            connection.sendall(post(body))
            assert read_one(connection)[0].status == 200
            taken.append(time.perf_counter() - begun)
    return taken


def percentile(values, share):
    return sorted(values)[int(len(values) * share)]


def different(number, count):
    return [b'{"model":"llama-3.1-8b","gpus":"t4","sequence_length":%d}' % (64 + number * count + i) for i in range(count)]


@own
def plans_do_not_starve_estimates():
    """p99 of /estimate while as many plans as the service takes are under way, against that of a quiet one: both in turn."""
    stop = threading.Event()

    def plan(service):
        while not stop.is_set():
            with contextlib.suppress(AssertionError, OSError):
                harness.read_one(connected(service))

    def connected(service):
        connection = service.connect(600)
        connection.sendall(post(json.dumps(PLAN).encode(), path=b"/plan"))
        return connection

    count, rounds = 200, 6
    kinds = {"the same estimate": lambda number: [b'{"model":"llama-3.1-8b","gpus":"t4"}'] * (5 * count),
             "different estimates": lambda number: different(number, count)}
    times = {kind: {"quiet": [], "loaded": []} for kind in kinds}
    with Service("--threads", "2") as quiet, Service("--threads", "2", env={"VRAMCAST_DRAIN_MS": "500"}) as loaded:
        planners = [threading.Thread(target=plan, args=(loaded,), daemon=True) for _ in range(16)]
        for number in range(rounds):
            for kind, bodies in kinds.items():  # nobody plans yet: two services at rest are alike
                times[kind]["quiet"] += durations(quiet, bodies(number))
        for planner in planners:
            planner.start()
        time.sleep(1)
        for number in range(rounds):
            for kind, bodies in kinds.items():
                times[kind]["loaded"] += durations(loaded, bodies(number))
        stop.set()
    for kind, both in times.items():
        quiet_ms, loaded_ms = (1e3 * percentile(both[state], 0.99) for state in ("quiet", "loaded"))
        print("# %s: p99 %.2f ms, beside plans %.2f ms: %.1f times" % (kind, quiet_ms, loaded_ms, loaded_ms / quiet_ms))
    for kind, both in times.items():
        ratio = percentile(both["loaded"], 0.99) / percentile(both["quiet"], 0.99)
        assert ratio <= TIMES_AT_MOST, "%s: %.1f times" % (kind, ratio)


if __name__ == "__main__":
    sys.exit(harness.run_tests(*sys.argv[1:3]))
