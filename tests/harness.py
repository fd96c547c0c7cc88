"""The real program and a client of it, for tests: starts it on a free port, sends bytes, takes answers apart. TAP."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

MODEL = b'{"model":"llama-3.2-1b","gpus":"t4"}'
HOST = b"Host: x\r\n"
JSON = b"Content-Type: application/json\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
TESTS = []
os.environ.pop("MALLOC_PERTURB_", None)  # the runner's; it would bring a thread's whole work space into memory


def test(function):
    """A test that gets the service all of them share."""
    TESTS.append(function)
    return function


def own(function):
    """A test that starts what it needs itself."""
    function.own = True
    return test(function)


def get(path, extra=b""):
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + extra + b"\r\n"


def post(body, extra=b"", path=b"/estimate", length=None):
    size = len(body) if length is None else length
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + JSON + extra + b"Content-Length: %d\r\n\r\n" % size + body


class Service:
    """The program, started on a free port; its log is read in the background."""

    def __init__(self, *options, env=None, limits=None, check=True, log=None):
        before = limits and (lambda: __import__("resource").setrlimit(*limits))
        self.process = subprocess.Popen(
            [PROGRAM, "--listen", "127.0.0.1:0", "--catalog", CATALOG, *options], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if log is None else log, env={**os.environ, **(env or {})}, preexec_fn=before)
        line = self.process.stdout.readline().decode()
        found = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", line)
        assert found or not check, "it said %r" % line
        self.port = int(found.group(1)) if found else 0
        self.log = bytearray()
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        if log is None:
            self.reader.start()

    def read_log(self):
        for line in self.process.stderr:
            self.log += line

    def connect(self, timeout=10):
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def exchange(self, data, count=1):
        """Sends data, waits for count answers and a little for more; all of them, and whether the server closed."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_answers(connection, count)

    def one(self, data):
        """The answer to data. (That no second one comes is a matter of the tests of framing.)"""
        with self.connect() as connection:
            connection.sendall(data)
            answer, rest = read_one(connection)
            assert not rest, rest[:100]
            return answer

    def stop(self, number=signal.SIGTERM, timeout=20):
        self.process.send_signal(number)
        code = self.process.wait(timeout)
        self.reader.join(5) if self.reader.is_alive() else None
        return code

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            if kind is None:
                code = self.stop()
                assert code == 0, "ended with %d" % code
            else:
                self.process.kill()
                self.process.wait()


class Answer:
    def __init__(self, head, body):
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            assert name.lower() not in self.headers, "%s twice" % name
            self.headers[name.lower()] = value.strip()
        self.body = body


def take_answer(data, head=False):
    """The first whole answer in data and what is behind it; None when there is none yet."""
    top, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    answer = Answer(top, b"")
    if answer.status == 100:
        return answer, rest
    if answer.headers.get("transfer-encoding") == "chunked" and not head:
        return take_chunks(answer, rest)
    length = 0 if head or answer.status in (204, 304) else int(answer.headers.get("content-length", "0"))
    if len(rest) < length:
        return None
    answer.body = rest[:length]
    return answer, rest[length:]


def take_chunks(answer, data):
    if b"\r\n0\r\n\r\n" not in b"\r\n" + data:
        return None
    parts = []
    while True:
        size, found, data = data.partition(b"\r\n")
        if not found or len(data) < int(size, 16) + 2:
            return None
        parts.append(data[:int(size, 16)])
        assert data[int(size, 16):][:2] == b"\r\n", "a chunk does not end where it says"
        data = data[int(size, 16) + 2:]
        if int(size, 16) == 0:
            answer.body = b"".join(parts)
            return answer, data


def read_answers(connection, count=1):
    """count answers, then all that come until the server closes (True) or says nothing for a while (False)."""
    data, answers, closed = b"", [], False
    while not closed:
        connection.settimeout(10 if len(answers) < count else 0.2)
        try:
            piece = connection.recv(65536)
        except socket.timeout:
            break
        except ConnectionResetError:
            piece = b""
        closed = not piece
        data += piece
        while (taken := take_answer(data)) is not None:
            answers.append(taken[0])
            data = taken[1]
    assert not data, "left over: %r" % data[:200]
    return answers, closed


def read_one(connection, data=b"", head=False):
    while (taken := take_answer(data, head)) is None:
        piece = connection.recv(65536)
        assert piece, "closed after %r" % data[:200]
        data += piece
    return taken


def problem(answer, status):
    assert answer.status == status, "%d instead of %d: %r" % (answer.status, status, answer.body[:200])
    assert answer.headers["content-type"] == "application/problem+json", answer.headers
    told = json.loads(answer.body)
    assert told["status"] == status and told["type"] and told["title"] and told["detail"], told
    assert answer.headers["cache-control"] == "no-store"
    return told


# ---- the process

def resident_kib(process):
    status = pathlib.Path("/proc/%d/status" % process.pid).read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1))


def is_sanitized(process):
    """Sanitizers keep freed memory: how much is held then says nothing."""
    return re.search(r"lib[at]san", pathlib.Path("/proc/%d/maps" % process.pid).read_text()) is not None


def wait_for(condition, complaint, seconds=20):
    """Until condition() holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, complaint
        time.sleep(0.2)


# ---- running

class Skip(Exception):
    """Why a test cannot be run here."""


def told(error):
    """Where and what, of a failed test."""
    where = error.__traceback__
    while where.tb_next and where.tb_next.tb_frame.f_code.co_filename == sys.modules["__main__"].__file__:
        where = where.tb_next
    return "line %d: %s: %s" % (where.tb_lineno, type(error).__name__, error)


def run_tests(program, catalog, *options):
    """Every test, against a service with these options or its own. The exit status."""
    global PROGRAM, CATALOG
    PROGRAM, CATALOG = program, catalog
    failed = 0
    print("1..%d" % len(TESTS), flush=True)
    with Service(*options) as shared:
        for number, function in enumerate(TESTS, 1):
            name = function.__name__.replace("_", " ")
            try:
                function() if hasattr(function, "own") else function(shared)
            except Skip as reason:
                print("ok %d - %s # SKIP %s" % (number, name, reason), flush=True)
            except Exception as error:  # one failure must not hide the others
                failed += 1
                print("not ok %d - %s\n# %s" % (number, name, told(error).replace("\n", "\n# ")), flush=True)
            else:
                print("ok %d - %s" % (number, name), flush=True)
    return 1 if failed else 0
