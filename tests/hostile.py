#!/usr/bin/python3
"""Hostile input through the wire: what others collected (tests/corpora) and attacks of our own. TAP.

    hostile.py VRAMCAST CATALOG         ROUNDS in the environment: how often all is played again (1), to see if it grows

Whatever is sent, what comes back is HTTP, a problem document of RFC 9457 where it is a fault, never a 5xx but 501 and
503, without a path or an address in it; and the service lives on, no larger than before. Answers that libmicrohttpd
gives by itself (HTML, before any of our code sees the request) are known by their form and allowed where the request is
not HTTP at all.
"""
import concurrent.futures
import itertools
import json
import os
import pathlib
import re
import socket
import sys

import harness
from harness import GET, HOST, JSON, MODEL, get, is_sanitized, post, read_one, resident_kib, test, wait_for

CORPORA = pathlib.Path(__file__).parent / "corpora"
LIBRARY_STATUSES = {400, 413, 414, 431, 505}  # of pages that libmicrohttpd writes itself
# What the corpora call JSON and the wire does not take: an object with a key twice, a NUL in a string.
REFUSED_THOUGH_JSON = {"y_object_duplicated_key", "y_object_duplicated_key_and_value", "y_string_null_escape",
                       "y_object_escaped_null_in_key"}


# ---- what is true of every answer

def leaks(body, sent):
    """What a body tells that is none of the client's business: addresses, files of the server's machine."""
    if any(name in body for name in (str(CORPORA.parent.parent).encode(), harness.CATALOG.encode())):
        return "a path of ours"
    found = re.search(rb"0x[0-9a-f]{8,}|/usr/|/etc/|/proc/|/home/|\.[ch]:\d|line \d+ of ", body)
    return found.group(0) if found and found.group(0) not in sent else None


def check(answer, sent, library=False):
    """Fails unless answer is one that may be given, to sent."""
    if library and answer.body.startswith(b"<html>"):
        assert answer.status in LIBRARY_STATUSES and answer.headers.get("connection") == "close", answer.headers
        return
    assert answer.status < 500 or answer.status in (501, 503), "%d to %r" % (answer.status, sent[:200])
    told = leaks(answer.body, sent)
    assert not told, "%r is told to %r" % (told, sent[:200])
    kind = answer.headers.get("content-type", "")
    if answer.status >= 400 and answer.body:
        assert kind == "application/problem+json", "%s to %r" % (kind, sent[:200])
        problem = json.loads(answer.body)
        assert problem["status"] == answer.status and problem["type"].startswith("urn:vramcast:problem:"), problem
        assert problem["title"] and problem["detail"] and isinstance(problem["errors"], list), problem
    elif kind == "application/json":
        json.loads(answer.body)
    assert "x-request-id" in answer.headers or answer.status in (100, 503), answer.headers


class Session:
    """A connection that is kept for request after request."""

    def __init__(self, service):
        self.connection = service.connect(30)

    def ask(self, data):
        self.connection.sendall(data)
        answer, rest = read_one(self.connection)
        assert not rest, "more than one answer to %r" % data[:200]
        check(answer, data)
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()


def raw(service, data, wanted=None):
    """The answers to bytes that may be anything, from a client that says that it has no more to say: wanted of them, or
    all until the service closes or, once it has answered, says nothing for a second (libmicrohttpd may miss that the
    client has closed its half; the connection then ends at its deadline)."""
    with service.connect(30) as connection:
        told, answers = b"", []
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while len(answers) != wanted and (piece := connection.recv(65536)):
                told = take_answers(told + piece, data, answers)
                connection.settimeout(1 if answers and not told else 30)
        except socket.timeout:
            assert answers, "no answer and not closed: %r" % data[:200]
        except OSError:  # closed before all was sent
            pass
    return answers


def take_answers(told, sent, answers):
    """Moves the answers in told, each checked, to answers; what is left. libmicrohttpd writes some heads twice."""
    while told:
        top, _, rest = told.partition(b"\r\n\r\n")
        if rest.startswith(top + b"\r\n\r\n<html>"):
            told = rest
        taken = harness.take_answer(told, head=sent.startswith(b"HEAD"))
        if taken is None:
            break
        check(taken[0], sent, library=True)
        answers.append(taken[0])
        told = taken[1]
    return told


def at_once(service, requests, judge=lambda request, answers: None, wanted=lambda request: None):
    """Each of the requests on a connection of its own, many at a time."""
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        for request, answers in zip(requests, pool.map(lambda data: raw(service, data, wanted(data)), requests)):
            judge(request, answers)


# ---- JSON

def json_texts():
    """(name, bytes, whether it is JSON: None where parsers differ) of every text of the corpora."""
    suite = CORPORA / "JSONTestSuite"
    for path in sorted((suite / "test_parsing").iterdir()):
        yield path.stem, path.read_bytes(), {"y": True, "n": False, "i": None}[path.name[0]]
    for path in sorted((suite / "test_transform").iterdir()):
        yield path.stem, path.read_bytes(), None
    for folder, valid in (("valid", True), ("invalid", False), ("invalid-unicode", False)):
        for path in sorted((CORPORA / "jansson" / folder).iterdir()):
            yield path.stem, path.read_bytes(), valid or path.stem == "null"  # jansson's own rule: no value alone
    yield "100,000 opening brackets", b"[" * 100000, False
    yield "opening arrays and objects", b'[{"":' * 50000, False
    yield "4,000 brackets, closed", b"[" * 4000 + b"]" * 4000, False


STATUSES = {True: {422}, False: {400}, None: {400, 422}}


@test
def every_text_of_the_corpora_is_judged_as_json_or_not(service):
    with Session(service) as session:
        for name, text, valid in json_texts():
            status = session.ask(post(text)).status
            expected = {400} if name in REFUSED_THOUGH_JSON else STATUSES[valid]
            assert status in expected, "%s: %d" % (name, status)


@test
def every_text_is_refused_as_a_value_of_a_field_too(service):
    with Session(service) as session:
        for path, form in ((b"/estimate", b'{"model":"llama-3.2-1b","gpus":"t4","lora":%s}'),
                           (b"/estimates", b'{"requests":[%s]}'), (b"/plan", b'{"request":%s}'),
                           (b"/estimate", b'{"model":%s}')):
            for name, text, valid in json_texts():
                status = session.ask(post(form.replace(b"%s", text), path=path)).status
                expected = {400} if valid is False and text.strip() else {200, 400, 422}
                assert status in expected, "%s: %d" % (name, status)


STRING_FIELDS = ("model", "method", "gpus", "optimizer", "framework", "versions.torch", "lora.target_modules",
                 "parallelism.strategy")


def placed(field, value):
    request = {"model": "llama-3.2-1b", "gpus": "t4"}
    *groups, last = field.split(".")
    inner = request
    for group in groups:
        inner = inner.setdefault(group, {})
    inner[last] = value
    return json.dumps(request).encode()


@test
def naughty_strings_are_values_like_any_other(service):
    strings = json.loads((CORPORA / "blns" / "blns.json").read_bytes())
    assert len(strings) > 400
    with Session(service) as session:
        for text, field in itertools.product(strings, STRING_FIELDS):
            assert session.ask(post(placed(field, text))).status in (200, 422), (field, text)


@test
def naughty_strings_are_keys_that_nobody_knows(service):
    with Session(service) as session:
        for text in json.loads((CORPORA / "blns" / "blns.json").read_bytes()):
            body = json.dumps({"model": "llama-3.2-1b", text: 1}, ensure_ascii=False).encode("utf-8", "surrogatepass")
            answer = session.ask(post(body))
            assert answer.status == 422, (text, answer.status)
            pointer = "/" + text.replace("~", "~0").replace("/", "~1")
            pointers = [error["pointer"] for error in json.loads(answer.body)["errors"]]
            assert any(pointer.startswith(told) or told == pointer for told in pointers if told), (text, pointers)


NUMBERS = ["1e308", "-1e308", "1e999", "-1e999", "1e-999", "9223372036854775807", "9223372036854775808",
           "-9223372036854775809", "18446744073709551616", "0.1", "-0", "4.0", "4e0", "1" * 400, "1." + "1" * 5000,
           "true", "null", '"7"', "[7]", "{}", '"NaN"', "NaN", "Infinity", "0x10", "1_000", "+1", "01", "1.", ".5"]
NUMBER_FIELDS = ["micro_batch_size", "sequence_length", "gradient_accumulation_steps", "lora.rank", "max_grad_norm",
                 "parallelism.gpus", "headroom_fraction", "gpu_memory_bytes", "beta"]


@test
def numbers_without_measure_give_no_answer_without_measure(service):
    def finite(value):
        if isinstance(value, dict):
            return all(finite(member) for member in value.values())
        if isinstance(value, list):
            return all(finite(member) for member in value)
        return not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) < 2 ** 63

    with Session(service) as session:
        for field, number in itertools.product(NUMBER_FIELDS, NUMBERS):
            answer = session.ask(post(placed(field, 12345).replace(b"12345", number.encode())))
            assert answer.status in (200, 400, 422), (field, number, answer.status)
            assert answer.status != 200 or finite(json.loads(answer.body)), (field, number)
        for parameters in ("1e308", "-1", "1e18", "0", '"1e99B"', '"8Q"', "9007199254740993"):
            answer = session.ask(post(b'{"model":{"parameters":%s},"gpus":"t4"}' % parameters.encode()))
            assert answer.status in (200, 422), (parameters, answer.status)


# ---- requests that are none

def http_blocks():
    """The raw requests in llhttp's texts. Its rules: a line ends with CR LF, a backslash at its end joins it with the
    next, and \\r \\n \\t \\f \\xHH stand for bytes."""
    for path in sorted((CORPORA / "llhttp").glob("*.md")):
        for block in re.findall(r"^```http\n(.*?)^```$", path.read_text("utf-8"), re.M | re.S):
            text = re.sub(r"\\\n", "", re.sub(r"\n$", "", block)).replace("\n", "\r\n")
            for mark, byte in (("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t"), ("\\f", "\f")):
                text = text.replace(mark, byte)
            yield re.sub(r"\\x([0-9a-fA-F]{2})", lambda found: chr(int(found.group(1), 16)), text).encode("utf-8")


@test
def every_raw_request_of_the_corpora_is_answered_or_closed(service):
    blocks = list(http_blocks())
    assert len(blocks) > 150, len(blocks)
    at_once(service, blocks)


POST_HEAD = b"POST /estimate HTTP/1.1\r\n" + HOST + JSON
CHUNKED = POST_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BROKEN = [
    # (bytes, statuses that one answer may have, the number of answers at most)
    (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", {400}, 1),
    (CHUNKED + b"-1\r\n{}\r\n0\r\n\r\n", {400}, 1),
    (CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n", {400}, 1),
    (CHUNKED + b"fffffffffffffffffff\r\n{}\r\n0\r\n\r\n", {400, 413}, 1),
    (CHUNKED + b"2\r\n{}0\r\n\r\n" + GET, {400}, 1),
    (CHUNKED + b"2 \r\n{}\r\n0\r\n\r\n", {400, 422}, 1),
    (CHUNKED + b"2;a=b\r\n{}\r\n0\r\n\r\n", {400, 422}, 1),
    (CHUNKED + b"2\n{}\n0\n\n", {400, 422}, 1),
    (CHUNKED + b"1;" + b"x" * 40000 + b"\r\n", {400, 413, 500}, 1),
    (CHUNKED + b"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n" + GET, {422, 200, 400}, 2),
    (POST_HEAD + b"Content-Length: -1\r\n\r\n{}", {400}, 1),
    (POST_HEAD + b"Content-Length: 2,2\r\n\r\n{}", {400}, 1),
    (POST_HEAD + b"Content-Length: 0x2\r\n\r\n{}", {400}, 1),
    (POST_HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n{}", {400, 413}, 1),
    (POST_HEAD + b"Content-Length:\r\n\r\n{}", {400, 411}, 1),
    (POST_HEAD + b"Content-Length: 2 2\r\n\r\n{}", {400}, 1),
    (POST_HEAD + b"Content-Length: +2\r\n\r\n{}", {400}, 1),
    (b"GET /healthz HTTP/1.1\nHost: x\n\n", {200, 400}, 1),
    (b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", {200, 400}, 1),
    (b"GET /healthz HTTP/1.1\r\n Host: x\r\n\r\n", {400}, 1),
    (b"GET /healthz HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", {200, 400}, 1),
    (b"GET /healthz HTTP/1.1\r\n" + HOST + b"A\0B: c\r\n\r\n", {200, 400}, 1),
    (b"GET /healthz HTTP/1.1\r\n" + HOST + b"A: b\0c\r\n\r\n", {200, 400}, 1),
    (b"GET /healthz HTTP/1.1\r\n" + HOST + b"A b: c\r\n\r\n", {400}, 1),
    (b"GET /healthz HTTP/1.1\r\n" + HOST + b": c\r\n\r\n", {200, 400}, 1),
    (b"GET /healthz HTTP/1.1\r\n" + HOST + b"novalue\r\n\r\n", {200, 400}, 1),
    (b"GET  /healthz  HTTP/1.1\r\n" + HOST + b"\r\n", {200, 400, 404}, 1),
    (b"GET /healthz HTTP/1.2\r\n" + HOST + b"\r\n", {200, 400, 505}, 1),
    (b"GET /healthz HTTP/2.0\r\n" + HOST + b"\r\n", {400, 505}, 1),
    (b"GET /healthz\r\n\r\n", {400, 505}, 1),
    (b"G" * 20000 + b" / HTTP/1.1\r\n" + HOST + b"\r\n", {400, 404, 405, 414, 431}, 1),
    (b"GET /" + b"a" * 1000000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", {400, 414, 431}, 1),
    (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 1000000 + b"\r\n\r\n", {400, 413, 431}, 1),
    (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 50000 + b"\r\n", {400, 413, 431}, 1),
    (b"GET / HTTP/1.1\r\n" + HOST + b"Cookie: " + b"a=b;" * 10000 + b"\r\n\r\n", {200, 400, 413, 431}, 1),
    (b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n", {400, 404, 405, 501}, 1),
    (b"TRACE / HTTP/1.1\r\n" + HOST + b"Secret: s3cr3t\r\n\r\n", {405, 501}, 1),
    (b"BREW /estimate HTTP/1.1\r\n" + HOST + b"\r\n", {405, 501}, 1),
    (b"PUT /estimate HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n{}", {405}, 1),
    (b"DELETE / HTTP/1.1\r\n" + HOST + b"\r\n", {405}, 1),
    (b"GET http://x/healthz HTTP/1.1\r\n" + HOST + b"\r\n", {200, 400, 404}, 1),
    (b"GET /../../../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n", {404}, 1),
    (b"GET /gpus/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1\r\n" + HOST + b"\r\n", {404}, 1),
    (b"GET /gpus/%zz HTTP/1.1\r\n" + HOST + b"\r\n", {404}, 1),
    (b"GET /gpus/\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n", {400, 404}, 1),
    (b"GET /gpus?q=%00 HTTP/1.1\r\n" + HOST + b"\r\n", {200, 422}, 1),
    (b"GET /gpus?q=%ff%fe HTTP/1.1\r\n" + HOST + b"\r\n", {200, 422}, 1),
    (b"GET /estimate?" + b"&" * 8000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", {422}, 1),
    (b"GET /estimate?" + b"a=b&" * 2000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", {422}, 1),
    (b"GET /estimate?" + b"a." * 4000 + b"=1 HTTP/1.1\r\n" + HOST + b"\r\n", {422}, 1),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2, {400}, 1),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}, 1),
    (b"\r\n\r\n\r\n" + GET, {200}, 1),
    (b"\0" * 5000, {400}, 1),
    (GET * 100, {200}, 100),
    (post(MODEL)[:-3], {400}, 1),
    (GET[:-2], set(), 0),
    (b"G", set(), 0),
]


@test
def what_is_not_http_gets_one_answer_at_most(service):
    def judge(request, answers):
        statuses, most = rules[request]
        told = [answer.status for answer in answers if answer.status != 100]
        assert set(told) <= statuses and len(told) <= most, (request[:120], told)
        assert not any(b"s3cr3t" in answer.body for answer in answers), "TRACE echoes"

    rules = {request: (statuses, most) for request, statuses, most in BROKEN}
    at_once(service, list(rules), judge)


@test
def a_request_is_answered_to_a_client_that_has_closed_its_half(service):
    def judge(request, answers):
        assert [answer.status for answer in answers] == [200] * request.count(b"HTTP/1.1"), (request[:80], answers)

    requests = [GET, post(MODEL), GET + post(MODEL), get(b"/presets"), get(b"/estimate?model=llama-3.2-1b&gpus=t4")]
    at_once(service, requests * 4, judge, lambda request: request.count(b"HTTP/1.1"))


@test
def what_lies_behind_a_pipelined_fault_is_answered_in_order(service):
    answers = raw(service, (post(b"{") + post(MODEL) + get(b"/nothing") + post(b"[1,") + GET) * 20, 100)
    assert [answer.status for answer in answers] == [400, 200, 404, 400, 200] * 20


@test
def a_thousand_connections_that_come_and_go_leave_nothing(service):
    def visit(number):
        with service.connect(30) as connection:
            connection.sendall((GET, b"GET", post(MODEL)[:50], b"")[number % 4])
            if number % 4 == 0:
                assert read_one(connection)[0].status == 200

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(visit, range(1000)))


# ---- the service afterwards

@test
def what_is_held_does_not_grow(service):
    """All of the above again and again: what the first time leaves (answers remembered, buffers) is there for good."""
    others = [function for function in harness.TESTS if function is not what_is_held_does_not_grow]
    sizes = [resident_kib(service.process)]
    for _ in range(ROUNDS):
        for function in others:
            function(service)
        sizes.append(resident_kib(service.process))
    assert service.one(post(MODEL)).status == 200
    wait_for(lambda: len(os.listdir("/proc/%d/fd" % service.process.pid)) < 40, "descriptors stay open")
    growth, most = sizes[-1] - sizes[ROUNDS // 2], 4096 if ROUNDS < SETTLED_ROUNDS else 1024
    assert is_sanitized(service.process) or growth <= most, "KiB: %s" % sizes


ROUNDS, SETTLED_ROUNDS = int(os.environ.get("ROUNDS", "1")), 8
OPTIONS = ("--threads", "1")  # two would share what is remembered between them by chance
LIMITS = {"VRAMCAST_DEADLINE_MS": "2000", "VRAMCAST_IDLE_MS": "3000"}

if __name__ == "__main__":
    os.environ.update(LIMITS)
    sys.exit(harness.run_tests(*sys.argv[1:3], *OPTIONS))
