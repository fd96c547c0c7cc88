#!/usr/bin/python3
"""The real program over real sockets: keep-alive, pipelining, framing attacks, limits, deadlines, stops. TAP.

    wire.py VRAMCAST CATALOG        starts VRAMCAST on free ports of the loopback
"""
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import harness
from harness import (GET, HOST, JSON, MODEL, TESTS, Service, own, post, problem, read_answers, read_one, test)


# ---- one connection after another

@test
def an_estimate_is_answered(service):
    answer = service.one(post(MODEL))
    assert answer.status == 200, answer.body
    assert json.loads(answer.body)["fits"][0]["gpu"] == "t4"
    assert answer.headers["x-content-type-options"] == "nosniff"


@test
def a_connection_is_kept_for_the_next_request(service):
    with service.connect() as connection:
        for data, status in [(GET, 200), (post(MODEL), 200), (post(b"{"), 400), (post(b"{}"), 422),
                             (GET.replace(b"healthz", b"nothing"), 404), (post(b"{}", path=b"/gpus"), 405),
                             (post(b"x").replace(b"application/json", b"text/plain"), 415), (GET, 200)] * 3:
            connection.sendall(data)
            answer, rest = read_one(connection)
            assert answer.status == status and not rest, (data, answer.status)


@test
def pipelined_requests_are_answered_in_their_order(service):
    answers, closed = service.exchange((GET + post(MODEL) + post(b"[]") + GET.replace(b"healthz", b"nothing")) * 10, 40)
    assert [answer.status for answer in answers] == [200, 200, 422, 404] * 10 and not closed


@test
def a_request_may_arrive_byte_by_byte(service):
    with service.connect() as connection:
        for byte in post(MODEL):
            connection.sendall(bytes([byte]))
        assert read_one(connection)[0].status == 200


@test
def head_has_the_headers_of_get_and_no_body(service):
    for path in (b"/", b"/presets", b"/gpus?format=csv", b"/openapi.json", b"/healthz",
                 b"/estimate?model=llama-3.2-1b&gpus=t4"):
        with service.connect() as connection:
            connection.sendall(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
            got, _ = read_one(connection)
            connection.sendall(b"HEAD " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
            head, rest = read_one(connection, head=True)
            following, rest = read_one(connection, rest)
            assert following.body == b'{"status":"ok"}' and not rest, path
            for own in ("date", "x-request-id"):
                got.headers.pop(own), head.headers.pop(own)
            assert head.headers == got.headers, (path, head.headers, got.headers)
            assert int(head.headers["content-length"]) == len(got.body)


@test
def what_the_client_has_is_a_304_without_a_body(service):
    with service.connect() as connection:
        connection.sendall(b"GET /gpus HTTP/1.1\r\n" + HOST + b"\r\n")
        tag = read_one(connection)[0].headers["etag"].encode()
        connection.sendall(b"GET /gpus HTTP/1.1\r\n" + HOST + b"If-None-Match: " + tag + b"\r\n\r\n" + GET)
        answer, rest = read_one(connection)
        assert answer.status == 304 and answer.headers["etag"].encode() == tag
        assert read_one(connection, rest)[0].status == 200


@test
def options_is_answered_without_a_body(service):
    with service.connect() as connection:
        connection.sendall(b"OPTIONS /estimate HTTP/1.1\r\n" + HOST + b"\r\n")
        connection.sendall(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
        answer, rest = read_one(connection)
        assert answer.status == 204 and "POST" in answer.headers["allow"], answer.headers
        answer, rest = read_one(connection, rest)
        assert answer.status == 204
        assert read_one(connection, rest)[0].status == 200


@test
def http_1_0_is_answered_and_closed(service):
    answers, closed = service.exchange(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert answers[0].status == 200 and closed


@test
def connection_close_is_heeded(service):
    answers, closed = service.exchange(GET.replace(HOST, HOST + b"Connection: close\r\n"))
    assert answers[0].status == 200 and closed


@test
def expect_100_continue_is_continued(service):
    with service.connect() as connection:
        connection.sendall(post(b"", b"Expect: 100-continue\r\n", length=len(MODEL)))
        answer, rest = read_one(connection)
        assert answer.status == 100 and not rest
        connection.sendall(MODEL)
        assert read_one(connection)[0].status == 200


@test
def another_expectation_is_a_417(service):
    problem(service.one(post(MODEL, b"Expect: coffee\r\n")), 417)


@test
def a_chunked_body_is_read(service):
    half = len(MODEL) // 2
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (MODEL[:half], MODEL[half:])) + b"0\r\n\r\n"
    answer = service.one(b"POST /estimate HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert answer.status == 200, answer.body


@test
def a_request_id_is_echoed(service):
    answer = service.one(GET.replace(HOST, HOST + b"X-Request-Id: abc-1\r\n"))
    assert answer.headers["x-request-id"] == "abc-1"
    answer = service.one(GET.replace(HOST, HOST + b"X-Request-Id: a b\r\n"))
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


# ---- framing: one answer, then closed; what lies behind is never taken for a request

HIDDEN = b"GET /gpus/t4 HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKS = b"0\r\n\r\n" + HIDDEN
SMUGGLED = [
    ("length and coding", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
    ("coding and length", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", CHUNKS),
    ("two lengths", b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(HIDDEN), HIDDEN),
    ("the same length twice", b"Content-Length: 0\r\nContent-Length: 0\r\n", HIDDEN),
    ("two codings", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", CHUNKS),
    ("a coding that is none", b"Transfer-Encoding: xchunked\r\n", CHUNKS),
    ("a list of codings", b"Transfer-Encoding: chunked, identity\r\n", CHUNKS),
    ("a space before the colon", b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n", CHUNKS),
    ("a space before the colon of a length", b"Content-Length : 5\r\n", CHUNKS),
    ("a folded length", b"Content-Length: %d\r\n x\r\n" % len(HIDDEN), HIDDEN),
    ("a folded coding", b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 0\r\n", HIDDEN),
    ("a control byte in a name", b"Content\x0b-Length: 5\r\nContent-Length: 0\r\n", HIDDEN),
    ("two Hosts", b"Host: y\r\nContent-Length: 0\r\n", HIDDEN),
]


def smuggling_test(name, lines, behind):
    def check(service):
        answers, closed = service.exchange(b"POST /estimate HTTP/1.1\r\n" + HOST + JSON + lines + b"\r\n" + behind)
        assert [answer.status for answer in answers] == [400], [answer.status for answer in answers]
        assert closed, "the connection stays open"
        problem(answers[0], 400)
    check.__name__ = "%s is one 400 and closed" % name
    TESTS.append(check)


for case in SMUGGLED:
    smuggling_test(*case)


@test
def a_coding_in_http_1_0_is_one_400_and_closed(service):
    head = b"POST /estimate HTTP/1.0\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    answers, closed = service.exchange(head + CHUNKS)
    assert [answer.status for answer in answers] == [400] and closed


@test
def no_host_is_a_400(service):
    problem(service.one(b"GET /healthz HTTP/1.1\r\n\r\n"), 400)


@test
def a_nul_in_the_target_is_a_400(service):
    problem(service.one(b"GET /healthz\0.json HTTP/1.1\r\n" + HOST + b"\r\n"), 400)


@test
def an_escaped_nul_in_the_target_is_a_404(service):
    problem(service.one(b"GET /healthz%00.json HTTP/1.1\r\n" + HOST + b"\r\n"), 404)


# ---- limits

@test
def a_post_without_a_length_is_a_411_and_closed(service):
    answers, closed = service.exchange(b"POST /estimate HTTP/1.1\r\n" + HOST + JSON + b"\r\n" + GET)
    assert len(answers) == 1 and closed
    problem(answers[0], 411)


@test
def a_body_over_the_limit_is_drained_and_the_connection_kept(service):
    answers, closed = service.exchange(post(b" " * 5000) + GET, 2)
    assert [answer.status for answer in answers] == [413, 200] and not closed
    problem(answers[0], 413)


@test
def a_chunked_body_over_the_limit_is_a_413(service):
    body = b"1000\r\n%s\r\n" % (b" " * 4096) * 2 + b"0\r\n\r\n"
    head = b"POST /estimate HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    answers, _ = service.exchange(head + body + GET, 2)
    assert [answer.status for answer in answers] == [413, 200]


@test
def a_body_far_over_the_limit_is_refused_before_it_is_sent(service):
    answers, closed = service.exchange(post(b"", length=1 << 40))
    assert len(answers) == 1 and closed
    problem(answers[0], 413)


@test
def a_body_over_the_limit_that_asks_first_is_refused(service):
    answers, closed = service.exchange(post(b"", b"Expect: 100-continue\r\n", length=5000))
    assert [answer.status for answer in answers] == [413] and closed


@test
def a_chunked_body_without_end_is_cut_off(service):
    with service.connect() as connection:
        connection.sendall(b"POST /estimate HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(1000):
                connection.sendall(b"1000\r\n%s\r\n" % (b" " * 4096))
        except OSError:
            return
        assert read_answers(connection, 0)[1], "it was read to the end"


@test
def a_query_just_short_enough_is_read(service):
    answer = service.one(b"GET /gpus?format=csv&q=" + b"a" * 8000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    problem(answer, 422)


@test
def a_query_too_long_is_a_414(service):
    problem(service.one(b"GET /estimate?model=" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"), 414)


@test
def a_path_too_long_is_a_414(service):
    problem(service.one(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"), 414)


@test
def a_target_longer_than_the_pool_is_answered_at_once(service):
    with service.connect() as connection:
        connection.sendall(b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        begun = time.monotonic()
        try:
            told = connection.recv(65536)
        except ConnectionResetError:
            told = b""
        assert not told or told.startswith(b"HTTP/1.1 414 "), told[:100]
        assert time.monotonic() - begun < 5


@test
def a_hundred_thousand_headers_are_refused(service):
    with service.connect() as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 100000 + b"\r\n")
            told = connection.recv(65536)
        except OSError:
            told = b""
        assert not told or re.match(rb"HTTP/1.1 (431|413) ", told), told[:100]


@test
def nesting_and_values_are_bounded(service):
    problem(service.one(post(b"[" * 1000 + b"]" * 1000)), 400)


@test
def a_hundred_and_fifty_connections_at_once_do_not_stall(service):
    connections = [service.connect() for _ in range(150)]
    for _ in range(3):
        for connection in connections:
            connection.sendall(GET)
        for connection in connections:
            assert read_one(connection)[0].status == 200
    for connection in connections:
        connection.close()


# ---- services with settings of their own

def stream_beside_others(path, asked):
    """The whole answer to a long request, to the bytes of its chunks, while the only thread answers others too."""
    with Service("--threads", "1") as service, service.connect(60) as connection:
        connection.sendall(post(json.dumps(asked).encode(), path=path))
        data = connection.recv(4096)
        assert b"Transfer-Encoding: chunked" in data, data
        for _ in range(5):
            assert service.one(GET).status == 200
        assert data.count(b"\n0\r\n\r\n") == 0, "all of it was there at once"
        while not data.endswith(b"\r\n0\r\n\r\n"):
            piece = connection.recv(65536)
            assert piece, data[-100:]
            data += piece
    return data


@own
def a_long_batch_is_streamed_while_others_are_answered():
    sweep = {"request": {"model": "llama-3.2-1b", "gpus": "t4"}, "sweep": {"sequence_length": list(range(8, 1608, 8))}}
    data = stream_beside_others(b"/estimates?format=ndjson", sweep)
    assert data.count(b'"status":200') == 200, data.count(b'"status":200')


@own
def a_long_plan_is_streamed_while_others_are_answered():
    asked = {"request": {"model": "llama-3.1-70b"}, "gpus": ["h100-sxm5-80gb"], "max_gpus": 64, "limit": 20}
    data = stream_beside_others(b"/plan", asked)
    assert data.count(b'"relative_step_time":') == 20, data.count(b'"relative_step_time":')


@own
def a_client_that_leaves_a_batch_is_forgotten():
    with Service("--threads", "1") as service:
        sweep = {"request": {"model": "llama-3.2-1b"}, "sweep": {"sequence_length": list(range(8, 80008, 8))}}
        with service.connect() as batch:
            batch.sendall(post(json.dumps(sweep).encode(), path=b"/estimates"))
            assert batch.recv(4096)
        begun = time.monotonic()
        assert service.one(post(MODEL)).status == 200
        assert time.monotonic() - begun < 5


@own
def a_slow_request_is_cut_at_the_deadline():
    with Service("--threads", "1", env={"VRAMCAST_DEADLINE_MS": "700", "VRAMCAST_IDLE_MS": "3000"}) as service:
        for begin in (b"POST /estimate HTTP/1.1\r\n", post(b"{", length=1000), b"GET", b""):
            with service.connect() as connection:
                begun = time.monotonic()
                connection.sendall(begin)
                connection.settimeout(0.05)
                while time.monotonic() - begun < 6:
                    try:
                        connection.sendall(b"x" if begin else b"")
                        if not connection.recv(1000):
                            break
                    except socket.timeout:
                        continue
                    except OSError:
                        break
                spent = time.monotonic() - begun
                assert 0.5 < spent < 3, "%r was cut after %.1f s" % (begin, spent)
        assert service.one(GET).status == 200


@own
def an_idle_connection_is_kept_longer_than_a_request_and_then_closed():
    with Service("--threads", "1", env={"VRAMCAST_DEADLINE_MS": "500", "VRAMCAST_IDLE_MS": "2000"}) as service:
        with service.connect() as connection:
            connection.sendall(GET)
            read_one(connection)
            time.sleep(1.2)
            connection.sendall(GET)
            read_one(connection)
            begun = time.monotonic()
            assert connection.recv(1) == b""
            assert 1 < time.monotonic() - begun < 5


@own
def a_client_that_does_not_read_is_cut():
    with Service("--threads", "1", env={"VRAMCAST_DEADLINE_MS": "700"}) as service:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", service.port))
            connection.settimeout(5)
            with contextlib.suppress(OSError):
                connection.sendall((b"GET /presets HTTP/1.1\r\n" + HOST + b"\r\n") * 400)
            time.sleep(2)
            metrics = service.one(GET.replace(b"healthz", b"metrics")).body.decode()
            assert "vramcast_connections 1\n" in metrics, metrics[-2000:]
            assert re.search(r"vramcast_deadline_cuts_total [1-9]", metrics)


@own
def slow_clients_do_not_slow_the_others():
    with Service("--threads", "1", env={"VRAMCAST_DEADLINE_MS": "5000"}) as service:
        slow = [service.connect() for _ in range(200)]
        for connection in slow:
            connection.sendall(b"POST /estimate HTTP/1.1\r\n")
        begun = time.monotonic()
        for _ in range(20):
            assert service.one(GET.replace(HOST, HOST + b"Connection: close\r\n")).status == 200
        assert time.monotonic() - begun < 3
        for connection in slow:
            connection.close()


@own
def garbage_is_answered_or_closed_and_the_service_lives():
    with Service(env={"VRAMCAST_DEADLINE_MS": "600", "VRAMCAST_IDLE_MS": "1000"}) as service:
        for data in (b"\0" * 1000, b"\x16\x03\x01\x02\0\x01", b"\r\n" * 100, b"GET\r\n\r\n", b"GET /\r\n\r\n",
                     b" / HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            with service.connect() as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(5)
                with contextlib.suppress(ConnectionResetError):
                    while connection.recv(65536):
                        pass
        assert service.one(GET).status == 200


def stop_in_flight(number):
    with Service("--threads", "2") as service:
        with service.connect() as connection, service.connect() as idle:
            idle.sendall(GET)
            read_one(idle)
            data = post(MODEL)
            connection.sendall(data[:-5])
            time.sleep(0.3)
            service.process.send_signal(number)
            time.sleep(0.3)
            connection.sendall(data[-5:])
            answer, _ = read_one(connection)
            assert answer.status == 200 and answer.headers["connection"].lower() == "close"
            assert service.process.wait(10) == 0
            with contextlib.suppress(ConnectionResetError):
                assert idle.recv(1) == b""


@own
def sigterm_answers_what_is_in_flight_and_exits_with_0():
    stop_in_flight(signal.SIGTERM)


@own
def sigint_answers_what_is_in_flight_and_exits_with_0():
    stop_in_flight(signal.SIGINT)


@own
def a_stuck_client_does_not_hold_the_stop_longer_than_the_drain():
    with Service(env={"VRAMCAST_DRAIN_MS": "800"}) as service, service.connect() as connection:
        connection.sendall(post(MODEL)[:-5])
        time.sleep(0.2)
        begun = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - begun < 4


@own
def a_stop_without_work_is_quick():
    with Service() as service:
        begun = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - begun < 2


@own
def readiness_is_red_and_work_goes_on_during_the_delay_of_a_drain():
    with Service(env={"VRAMCAST_DRAIN_DELAY_MS": "1500"}) as service:
        assert service.one(GET.replace(b"healthz", b"readyz")).status == 200
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        answer = service.one(GET.replace(b"healthz", b"readyz"))
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
        assert service.one(post(MODEL)).status == 200
        assert service.process.wait(10) == 0


@own
def stops_under_load_lose_no_answer():
    for _ in range(10):
        with Service("--threads", "2") as service:
            faults, stop = [], threading.Event()

            def work():
                while not stop.is_set():
                    try:
                        connection = service.connect()
                    except OSError:
                        return
                    with connection:
                        try:
                            connection.sendall(post(MODEL, b"Connection: close\r\n"))
                        except OSError:
                            return
                        begun = b""
                        try:
                            begun = connection.recv(100)
                            if begun and not begun.startswith(b"HTTP/1.1 200"):
                                faults.append(begun)
                        except OSError as error:
                            if not isinstance(error, ConnectionResetError):
                                faults.append(error)
            workers = [threading.Thread(target=work) for _ in range(4)]
            for worker in workers:
                worker.start()
            time.sleep(0.15)
            code = service.stop()
            stop.set()
            for worker in workers:
                worker.join()
            assert code == 0 and not faults, (code, faults)


@own
def a_second_copy_on_the_port_fails():
    with Service() as service:
        second = subprocess.run([harness.PROGRAM, "--listen", "127.0.0.1:%d" % service.port, "--catalog", harness.CATALOG],
                                capture_output=True, timeout=20)
        assert second.returncode == 1 and b"in use" in second.stderr and not second.stdout, second
        assert service.one(GET).status == 200


@own
def several_addresses_are_listened_on():
    with Service("--listen", "127.0.0.1:0") as service:
        line = service.process.stdout.readline().decode()
        other = int(re.search(r":(\d+)$", line.strip()).group(1))
        assert other != service.port
        for port in (service.port, other):
            service.port = port
            assert service.one(GET).status == 200


@own
def connections_beyond_the_limit_wait_until_one_is_free():
    with Service("--threads", "1", "--max-connections", "2") as service:
        first, second, third = service.connect(), service.connect(), service.connect()
        for connection in (first, second):
            connection.sendall(GET)
            assert read_one(connection)[0].status == 200
        third.sendall(GET)
        third.settimeout(0.5)
        try:
            assert not third.recv(1), "answered beyond the limit"
        except socket.timeout:
            pass
        first.close()
        third.settimeout(5)
        assert read_one(third)[0].status == 200
        second.close(), third.close()


@own
def few_descriptors_lower_the_limit_of_connections():
    import resource
    with Service("--threads", "1", limits=(resource.RLIMIT_NOFILE, (100, 100))) as service:
        connections = [service.connect() for _ in range(60)]
        for connection in connections[:30]:
            connection.sendall(GET)
            assert read_one(connection)[0].status == 200
        for connection in connections:
            connection.close()
        assert service.one(GET).status == 200
        service.stop()
        assert b"room for 36 connections" in service.log, service.log
        assert len(service.log) < 20000


@own
def cors_is_for_the_origins_that_are_named():
    with Service("--cors-origin", "https://a.example") as service:
        answer = service.one(b"OPTIONS /estimate HTTP/1.1\r\n" + HOST
                             + b"Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n\r\n")
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        answer = service.one(GET.replace(HOST, HOST + b"Origin: https://b.example\r\n"))
        assert "access-control-allow-origin" not in answer.headers


@own
def the_log_has_a_line_for_each_request_and_none_is_forged():
    for style in ("text", "json"):
        with Service("--log-format", style, "--threads", "1", "--max-connections", "64") as service:
            service.one(b"GET /a\x1b[31m\"x HTTP/1.1\r\n" + HOST + b"X-Request-Id: id-1\r\n\r\n")
            service.one(GET)
            service.one(post(MODEL))
            assert service.stop() == 0
            lines = service.log.decode("ascii").splitlines()
            assert len(lines) == 2, lines
            if style == "json":
                told = [json.loads(line) for line in lines]
                assert told[0]["path"] == "/a\x1b[31m\"x" and told[0]["status"] == 404
                assert told[0]["request_id"] == "id-1"
                assert told[1]["method"] == "POST" and told[1]["status"] == 200 and told[1]["bytes"] > 100
                assert told[1]["remote"] == "127.0.0.1"
            else:
                assert "\\x1b[31m\\x22x 404" in lines[0] and "\x1b" not in service.log.decode(), lines


@own
def a_log_that_nobody_reads_does_not_stop_the_service():
    reader, writer = os.pipe()
    with Service("--threads", "1", log=writer) as service:
        os.close(writer)
        with service.connect() as connection:
            for _ in range(8000):
                connection.sendall(GET.replace(b"healthz", b"nothing") * 4)
                rest = b""
                for _ in range(4):
                    answer, rest = read_one(connection, rest)
                    assert answer.status == 404
            connection.sendall(GET.replace(b"healthz", b"metrics"))
            metrics = read_one(connection)[0].body.decode()
        assert re.search(r"vramcast_log_lines_dropped_total [1-9]", metrics), metrics[-800:]
        assert service.stop() == 0
    os.close(reader)


@own
def a_closed_log_does_not_stop_the_service():
    reader, writer = os.pipe()
    os.close(reader)
    with Service(log=writer) as service:
        os.close(writer)
        for _ in range(5):
            assert service.one(GET.replace(b"healthz", b"nothing")).status == 404


@own
def metrics_add_up_over_threads():
    with Service("--threads", "3") as service:
        for _ in range(30):
            service.one(GET.replace(HOST, HOST + b"Connection: close\r\n"))
        begun, metrics = time.monotonic(), ""
        # a request is in flight until its loop has cleaned up, which its client does not wait for
        while "vramcast_http_requests_in_flight 1\n" not in metrics and time.monotonic() - begun < 5:
            metrics = service.one(GET.replace(b"healthz", b"metrics")).body.decode()
        assert 'vramcast_http_requests_total{route="/healthz",method="GET",code="200"} 30\n' in metrics, metrics
        assert "vramcast_http_requests_in_flight 1\n" in metrics, metrics


@own
def a_request_that_the_library_drops_is_not_in_flight():
    # Behind a NUL the query is the library's own to parse. It has no room for so many names, and closes without a word.
    with Service("--threads", "1") as service:
        for _ in range(5):
            with service.connect() as connection:
                connection.sendall(b"GET /a\0?" + b"&" * 400 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
                assert connection.recv(1000) == b""
        metrics = service.one(GET.replace(b"healthz", b"metrics")).body.decode()
        assert "vramcast_http_requests_in_flight 1\n" in metrics, metrics


# ---- the command line

def run(*arguments):
    return subprocess.run([harness.PROGRAM, *arguments], capture_output=True, timeout=30)


def estimate(body, *arguments):
    told = subprocess.run([harness.PROGRAM, "estimate", "--catalog", harness.CATALOG, *arguments], input=body, capture_output=True, timeout=30)
    return told.returncode, told.stdout, told.stderr


@own
def the_command_estimate_answers_as_the_service_and_decides():
    with Service() as service:
        served = service.one(post(MODEL)).body
    code, told, errors = estimate(MODEL)
    assert (code, told, errors) == (1, served + b"\n", b""), (code, errors)  # a T4 has no bf16
    large = b'{"model":"llama-3.1-8b","method":"lora","gpus":"l4"}'
    assert estimate(large)[0] == 1
    assert estimate(large, "--gpu", "h200")[0] == estimate(large, "-", "--gpu", "h200")[0] == 0
    assert estimate(large, "--gpu", "h200", "--gpu", "l4")[0] == 1, "it does not fit on all"
    assert estimate(b'{"model":"llama-3.1-8b","method":"lora"}')[0] == 0, "it fits on some"
    code, told, errors = estimate(b'{"from":{"axolotl":{"base_model":"llama-3.2-1b","adapter":"lora","seed":1}}}', "--gpu", "h200")
    assert code == 0 and json.loads(told)["ignored"] == ["/from/axolotl/seed"], (code, told, errors)
    code, told, errors = estimate(large, "--gpu=h200", "--format=csv")
    assert code == 0 and told.startswith(b"gpu,name,memory_bytes") and told.count(b"\n") == 2, told


@own
def the_command_estimate_tells_what_is_wrong():
    for body, arguments, wanted, text in [
            (b"{", [], 2, b"not-json"), (b"[]", ["--gpu", "t4"], 2, b"must be an object"), (MODEL, ["--gpu", "x9"], 2, b"/gpus"),
            (MODEL, ["--format", "xml"], 2, b"format must be"), (b"", ["/nonexistent"], 3, b"No such file"),
            (MODEL + b" " * 100, ["--max-body", "60"], 3, b"--max-body")]:
        code, told, errors = estimate(body, *arguments)
        assert code == wanted and not told and text in errors, (body, arguments, code, errors)


@own
def version_help_and_check_exit_with_0():
    assert re.fullmatch(rb"vramcast \d+\.\d+\.\d+\n", run("--version").stdout)
    told = run("--help")
    assert told.returncode == 0 and b"--listen" in told.stdout
    told = run("--check", "--catalog", harness.CATALOG)
    assert told.returncode == 0 and re.search(rb"\d+ presets", told.stdout), told


@own
def a_catalogue_that_is_none_fails_with_a_message():
    for arguments in (("--check", "--catalog", "/nonexistent"),
                      ("--listen", "127.0.0.1:0", "--catalog", "/nonexistent")):
        told = run(*arguments)
        assert told.returncode == 1 and b"/nonexistent" in told.stderr and not told.stdout, told


@own
def bad_arguments_exit_with_2_and_a_line():
    for arguments in (("--nonsense",), ("--listen",), ("--listen", "nowhere"), ("--threads", "many"), ("extra",),
                      ("--log-format", "xml"), ("--max-body", "-1")):
        told = run(*arguments)
        assert told.returncode == 2 and told.stderr.count(b"\n") == 1 and not told.stdout, (arguments, told)


@own
def an_address_that_is_not_ours_fails():
    told = run("--listen", "192.0.2.1:0", "--catalog", harness.CATALOG)
    assert told.returncode == 1 and b"cannot listen on 192.0.2.1:0" in told.stderr, told


@own
def a_healthcheck_tells_well_from_unwell():
    with Service() as service:
        base = "http://127.0.0.1:%d" % service.port
        assert run("--healthcheck", base).returncode == 0
        assert run("--healthcheck", base + "/healthz").returncode == 0
        told = run("--healthcheck", base + "/nothing")
        assert told.returncode == 1 and b"404" in told.stderr
    told = run("--healthcheck", base)
    assert told.returncode == 1 and told.stderr


@own
def a_healthcheck_of_something_silent_ends():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        told = run("--healthcheck", "http://127.0.0.1:%d/readyz" % silent.getsockname()[1])
        assert told.returncode == 1 and 1 < time.monotonic() - begun < 10


if __name__ == "__main__":
    sys.exit(harness.run_tests(*sys.argv[1:3], "--threads", "2", "--max-body", "4096"))
