#!/usr/bin/python3
"""Long requests: taken by the workers, some at a time, in turns, and refused beyond that; the others do not wait. TAP.

    overload.py VRAMCAST CATALOG
"""
import contextlib
import json
import pathlib
import signal
import socket
import sys
import time

import harness
from harness import GET, MODEL, Service, get, own, post, problem, read_one, wait_for

MOST = 64
CONFIG = {"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
          "intermediate_size": 1024, "vocab_size": 1000}


def sweep(count, model="llama-3.2-1b", path=b"/estimates?format=ndjson"):
    return post(json.dumps({"request": {"model": model, "gpus": "t4"},
                            "sweep": {"sequence_length": list(range(8, 8 + 8 * count, 8))}}).encode(),
                path=path)


def begin(stack, service, data, count=1):
    """Connections on which data was asked and the answer has begun."""
    connections = [stack.enter_context(socket.socket()) for _ in range(count)]
    for connection in connections:
        connection.settimeout(60)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before connect(): a small window
        connection.connect(("127.0.0.1", service.port))
        connection.sendall(data)
    for connection in connections:
        assert connection.recv(12) == b"HTTP/1.1 200", "not begun"
    return connections


def are_full(service):
    return service.one(get(b"/readyz")).status == 503


@own
def more_long_requests_than_are_taken_are_refused_and_readiness_says_so():
    with Service("--threads", "2") as service:
        with contextlib.ExitStack() as stack:
            begin(stack, service, sweep(9000), MOST)
            for data in (sweep(2), post(b'{"request":{"model":"llama-3.2-1b"}}', path=b"/plan"),
                         post(b'{"model":"llama-3.2-1b","gpus":"t4","include":["advice"]}')):
                answer = service.one(data)
                told = problem(answer, 503)
                assert told["type"].endswith(":overloaded") and int(answer.headers["retry-after"]) > 0, told
            problem(service.one(get(b"/readyz")), 503)
            assert b"\nvramcast_long_requests %d\n" % MOST in service.one(get(b"/metrics")).body
            assert service.one(GET).status == 200
            assert service.one(post(MODEL)).status == 200
        wait_for(lambda: not are_full(service), "they are not forgotten", 60)
        assert service.one(sweep(2)).body.count(b'"status":200') == 2


@own
def long_requests_take_turns():
    """A short batch is answered while a long one, which came first, is under way."""
    with Service("--threads", "1") as service, contextlib.ExitStack() as stack:
        first, = begin(stack, service, sweep(5000))
        assert service.one(sweep(3)).body.count(b'"status":200') == 3
        first.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            assert b"\r\n0\r\n\r\n" not in first.recv(1 << 20), "it had ended"


def processor_time(process, nice):
    """Nanoseconds that each thread of that niceness ran."""
    times = []
    for task in pathlib.Path("/proc/%d/task" % process.pid).iterdir():
        if int((task / "stat").read_text().rpartition(") ")[2].split()[16]) == nice:
            times.append(int((task / "schedstat").read_text().split()[0]))
    return times


@own
def one_batch_has_every_worker_and_comes_in_its_order():
    """With faults in between, in every format: what several threads make is what one makes."""
    requests = [{"model": CONFIG, "gpus": "t4", "sequence_length": 8 + i * 8, "micro_batch_size": i % 50} for i in range(1500)]
    body = json.dumps({"requests": requests + [7, {"model": "nobody"}] + requests[:7]}).encode()
    with Service("--threads", "1") as alone, Service("--threads", "4") as many:
        for form, count in ((b"json", b'"required_bytes"'), (b"csv", b",200,,"), (b"ndjson", b'"status":200'), (b"records", b'"status":200')):
            one, other = (service.one(post(body, path=b"/estimates?format=" + form)) for service in (alone, many))
            assert one.status == 200 and one.body.count(count) == 1476, one.body.count(count)
            assert one.body == other.body, form
        workers = sorted(processor_time(many.process, 5))[-4:]  # who runs all of this at 5 has other threads there too
        assert len(workers) == 4 and min(workers) > sum(workers) / 40, workers


@own
def a_batch_that_is_left_leaves_its_workers_to_others():
    with Service("--threads", "3") as service:
        for number in range(20):
            with contextlib.ExitStack() as stack:
                connection, = begin(stack, service, sweep(9000, CONFIG, b"/estimates"))
                connection.recv(number * 10000)
        wait_for(lambda: b"\nvramcast_long_requests 0\n" in service.one(get(b"/metrics")).body, "they stay", 60)
        assert service.one(sweep(40)).body.count(b'"status":200') == 40
        before = sum(processor_time(service.process, 5))
        time.sleep(0.3)
        assert sum(processor_time(service.process, 5)) - before < 50e6, "somebody works for nobody"


@own
def a_slow_reader_holds_no_more_than_its_share():
    """Workers run ahead of who does not read by some parts, not by the whole answer (100 MB)."""
    with Service("--threads", "4", env={"VRAMCAST_DEADLINE_MS": "60000"}) as service, contextlib.ExitStack() as stack:
        before = harness.resident_kib(service.process)
        every = {**json.loads(MODEL), "gpus": ["%s" % card["id"] for card in json.loads(service.one(get(b"/gpus")).body)["gpus"]]}
        asked = post(json.dumps({"request": every, "sweep": {"micro_batch_size": list(range(1, 2001))}}).encode(), path=b"/estimates")
        begin(stack, service, asked, 4)
        still = 0
        while still < 3:
            spent = sum(processor_time(service.process, 5))
            time.sleep(0.2)
            still = still + 1 if sum(processor_time(service.process, 5)) - spent < 10e6 else 0
        held = harness.resident_kib(service.process) - before
        assert held < 64 << 10 or harness.is_sanitized(service.process), "%d KiB" % held


@own
def a_worker_answers_what_the_loop_would_have():
    asked = {"model": CONFIG, "gpus": ["t4", "l4"], "include": ["limits", "advice"]}
    with Service() as service:
        answers = [service.one(post(json.dumps(asked).encode())) for _ in range(3)]
        query = b"/estimate?model=llama-3.2-1b&gpus=t4&include=limits"
        assert "max_micro_batch_size" in json.loads(service.one(get(query)).body)["fits"][0]
        large = post(json.dumps({"model": {"parameters": "1B"}, "gpus": "t4"}).encode() + b" " * 100000)
        assert service.one(large).status == 200
        problem(service.one(post(b"[" + b" " * 100000)), 400)
        problem(service.one(post(b'{"requests":7}', path=b"/estimates")), 422)
        problem(service.one(post(b'{"request":{"model":"nobody"}}', path=b"/plan")), 422)
    assert answers[0].status == 200 and json.loads(answers[0].body)["advice"] is not None
    assert len({answer.body for answer in answers}) == 1


@own
def pipelined_long_requests_are_answered_in_their_order():
    with Service("--threads", "2") as service, service.connect(60) as connection:
        connection.sendall((sweep(3) + GET + post(b'{"requests":[]}', path=b"/estimates") + sweep(1)) * 5)
        rest, counts = b"", []
        for _ in range(20):
            answer, rest = read_one(connection, rest)
            assert answer.status == 200
            counts.append(answer.body.count(b'"status":200'))
        assert counts == [3, 0, 0, 1] * 5 and not rest, counts


@own
def the_deadline_is_for_the_client_and_not_for_us():
    with Service("--threads", "1", env={"VRAMCAST_DEADLINE_MS": "500"}) as service:
        begun, count = time.monotonic(), 1000
        answer = service.one(sweep(count, CONFIG))
        assert answer.body.count(b'"status":200') == count, "%.1f s" % (time.monotonic() - begun)
        with contextlib.ExitStack() as stack:
            # never read: the kernel's buffers fill up, of whole documents sooner than of rows
            begin(stack, service, sweep(9000, CONFIG, b"/estimates"), 2)
            wait_for(lambda: b"vramcast_deadline_cuts_total 0" not in service.one(get(b"/metrics")).body, "not cut", 120)


@own
def a_stop_does_not_wait_for_long_requests():
    for number in (signal.SIGTERM, signal.SIGINT):
        with Service("--threads", "2", env={"VRAMCAST_DRAIN_MS": "500"}) as service, contextlib.ExitStack() as stack:
            begin(stack, service, sweep(9000), 8)
            begun = time.monotonic()
            assert service.stop(number, 60) == 0
            assert time.monotonic() - begun < 20


@own
def clients_that_leave_long_requests_are_forgotten():
    with Service("--threads", "1") as service:
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                for _ in range(MOST):
                    connection = stack.enter_context(service.connect(60))
                    connection.sendall(sweep(9000))
            wait_for(lambda: b"vramcast_connections 1\n" in service.one(get(b"/metrics")).body, "they stay", 60)
            assert not are_full(service)
        assert service.one(sweep(1)).status == 200


if __name__ == "__main__":
    sys.exit(harness.run_tests(*sys.argv[1:3]))
