#!/usr/bin/python3
"""The service's life under a service manager: passed sockets, notifications, the watchdog, reloads, stops. TAP.

    life.py VRAMCAST CATALOG
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import harness
from harness import GET, MODEL, Service, get, own, post, wait_for

CARD = "a100-sxm4-80gb"


class Manager:
    """Plays systemd: owns the listening and the notification socket."""

    def __init__(self, folder, abstract=False):
        self.told = []
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = "\0vramcast-%d" % os.getpid() if abstract else os.path.join(folder, "notify")
        self.notify.bind(name)
        self.name = name.replace("\0", "@")
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]

    def start(self, fds=1, passed=None, env=None):
        """LISTEN_PID must be the service's own: the shell sets it, then becomes the service."""
        passed = passed if passed is not None else self.listener.fileno()

        def prepare():
            os.dup2(passed, 3, inheritable=True)

        return subprocess.Popen(
            ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", harness.PROGRAM, "--catalog", harness.CATALOG],
            close_fds=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=prepare,
            env={**os.environ, "LISTEN_FDS": str(fds), "NOTIFY_SOCKET": self.name, **(env or {})})

    def hear(self, wanted, seconds=20):
        self.notify.settimeout(seconds)
        while wanted not in self.told:
            self.told += self.notify.recv(4096).decode().splitlines()
        self.told.remove(wanted)

    def ask(self, data):
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(data)
            return harness.read_one(connection)[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.notify.close()
        self.listener.close()


@contextlib.contextmanager
def manager(abstract=False):
    with tempfile.TemporaryDirectory() as folder, Manager(folder, abstract) as made:
        yield made


@own
def a_passed_socket_is_served_and_survives_restarts_without_a_failed_request():
    with manager() as systemd:
        service, failed, answered, stop = systemd.start(), [], [0], threading.Event()
        systemd.hear("READY=1")

        def load():
            while not stop.is_set():
                try:
                    assert systemd.ask(post(MODEL, b"Connection: close\r\n")).status == 200
                    answered[0] += 1
                except Exception as error:
                    failed.append(repr(error))

        clients = [threading.Thread(target=load) for _ in range(4)]
        for one in clients:
            one.start()
        try:
            for _ in range(3):
                before = answered[0]
                wait_for(lambda: answered[0] > before + 20, "nothing is answered")
                service.send_signal(signal.SIGTERM)
                systemd.hear("STOPPING=1")
                assert service.wait(20) == 0
                service = systemd.start()
                systemd.hear("READY=1")
        finally:
            stop.set()
            for one in clients:
                one.join()
            service.terminate()
        assert service.wait(20) == 0 and not failed, failed[:3]


@own
def what_is_passed_and_no_listening_socket_is_refused():
    with manager() as systemd, open(os.devnull, "rb") as file, socket.socket() as silent:
        for passed, fds in ((file.fileno(), 1), (silent.fileno(), 1), (systemd.listener.fileno(), 99)):
            service = systemd.start(fds, passed)
            told, errors = service.communicate(timeout=20)
            assert service.returncode == 1 and b"passed" in errors and not told, (told, errors)


@own
def sockets_of_another_process_are_none_of_ours():
    with Service(env={"LISTEN_PID": "1", "LISTEN_FDS": "1"}) as service:
        assert service.one(GET).status == 200


@own
def the_watchdog_is_told_while_the_loops_go_round():
    with manager(abstract=True) as systemd:
        service = systemd.start(env={"WATCHDOG_USEC": "3000000"})
        try:
            for wanted in ("READY=1", "WATCHDOG=1", "WATCHDOG=1"):
                systemd.hear(wanted)
            assert systemd.ask(GET).status == 200
        finally:
            service.terminate()
            assert service.wait(20) == 0
        systemd.hear("STOPPING=1")
        systemd.told.clear()
        service = systemd.start(env={"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"})
        systemd.hear("READY=1")
        time.sleep(0.5)
        service.terminate()
        systemd.hear("STOPPING=1")
        assert service.wait(20) == 0 and "WATCHDOG=1" not in systemd.told, systemd.told


# ---- reloads

class Catalog:
    """A copy of the catalogues that may be changed."""

    def __init__(self, folder):
        self.gpus = pathlib.Path(folder) / "gpus.json"
        for name in ("gpus.json", "models.json"):
            shutil.copy(pathlib.Path(harness.CATALOG) / name, folder)
            os.chmod(pathlib.Path(folder) / name, 0o644)
        self.first = self.gpus.read_text()

    def write(self, text):
        part = self.gpus.with_suffix(".part")
        part.write_text(text)
        part.rename(self.gpus)

    def renamed(self):
        """One card has another id."""
        changed = self.first.replace('"id": "t4"', '"id": "t4-renamed"').replace('"id":"t4"', '"id":"t4-renamed"')
        assert changed != self.first
        return changed


@contextlib.contextmanager
def reloadable(*options):
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(folder)
        with Service("--catalog", folder, "--log-format", "json", *options) as service:
            yield catalog, service


def events(service):
    return [json.loads(line) for line in service.log.splitlines() if b'"message"' in line]


def reload(service):
    """Its outcome, as the log tells it."""
    count = len(events(service))
    service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(events(service)) > count, "nothing was reloaded")
    return events(service)[-1]


@own
def a_reload_takes_up_new_catalogues():
    with reloadable() as (catalog, service):
        assert service.one(get(b"/gpus/t4")).status == 200
        tag = service.one(get(b"/gpus")).headers["etag"]
        catalog.write(catalog.renamed())
        told = reload(service)
        assert told["level"] == "info" and "gpus" in told["message"], told
        for _ in range(8):  # every loop
            assert service.one(get(b"/gpus/t4-renamed")).status == 200
            assert service.one(get(b"/gpus")).headers["etag"] != tag
            answer = json.loads(service.one(post(b'{"model":"llama-3.2-1b","gpus":"t4-renamed"}')).body)
            assert answer["fits"][0]["gpu"] == "t4-renamed"
        catalog.write(catalog.first)
        assert reload(service)["level"] == "info"
        assert service.one(get(b"/gpus")).headers["etag"] == tag


@own
def a_broken_file_keeps_what_was_loaded_and_says_so():
    with reloadable() as (catalog, service):
        for broken in ("", "[", "[]", "{}", catalog.first[:-20], catalog.first.replace('"t4"', '"T 4"', 1)):
            catalog.write(broken)
            told = reload(service)
            assert told["level"] == "error", told
            assert "not reloaded" in told["message"] and "gpus.json" in told["message"], told
            assert service.one(get(b"/gpus/t4")).status == 200
        catalog.gpus.unlink()
        assert reload(service)["level"] == "error"
        assert service.one(post(MODEL)).status == 200 and service.one(get(b"/readyz")).status == 200


@own
def reloads_under_load_fail_no_request_and_leave_nothing():
    with reloadable("--threads", "2") as (catalog, service):
        faults, stop = [], threading.Event()
        sweep = {"request": {"model": "llama-3.2-1b", "gpus": "l4"},
                 "sweep": {"sequence_length": list(range(8, 168, 8))}}
        batch = post(json.dumps(sweep).encode(), path=b"/estimates?format=ndjson")

        def work(data):
            while not stop.is_set():
                answer = service.one(data)
                if answer.status != 200 or b'"status":422' in answer.body:
                    faults.append(answer.body[:200])
                time.sleep(0.01)

        asked = (post(MODEL.replace(b"t4", b"l4")), get(b"/gpus"), get(b"/presets?q=llama"), batch)
        workers = [threading.Thread(target=work, args=(data,)) for data in asked]
        for worker in workers:
            worker.start()
        sizes = []
        for number in range(24):
            catalog.write(catalog.renamed() if number % 2 else catalog.first)
            assert reload(service)["level"] == "info"
            sizes.append(harness.resident_kib(service.process))
        stop.set()
        for worker in workers:
            worker.join()
        assert not faults, faults[:3]
        assert harness.is_sanitized(service.process) or sizes[-1] - sizes[11] < 16384, "KiB: %s" % sizes


# ---- tokens

def bearing(token, data=None):
    return (data or get(b"/gpus/t4")).replace(b"Host: x\r\n", b"Host: x\r\nAuthorization: " + token + b"\r\n")


@own
def only_who_sends_a_token_is_answered_where_there_are_some():
    first, second = b"first-token-0123456789", b"second+token/0123456789=="
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"# of two teams\n\n" + first + b"\n" + second + b"\n")
        file.flush()
        options = ("--token-file", file.name, "--log-format", "json", "--cors-origin", "https://a.example")
        with Service(*options) as service:
            for token in (b"Bearer " + first, b"bearer " + second, b"Bearer  " + first):
                assert service.one(bearing(token)).status == 200, token
                assert service.one(bearing(token, post(MODEL))).status == 200
            for token in (b"", b"Bearer", b"Bearer ", b"Bearer " + first[:-1], b"Bearer " + first + b"0",
                          b"Basic " + first, b"Bearer " + first.upper(), b"Bearer " + b"x" * 500, first):
                answer = service.one(bearing(token))
                assert harness.problem(answer, 401)["type"].endswith(":unauthorized"), token
                assert answer.headers["www-authenticate"].startswith("Bearer"), answer.headers
            for path in (b"/", b"/gpus", b"/metrics", b"/nothing", b"/openapi.json"):
                assert service.one(get(path)).status == 401, path
            for data in (post(MODEL), post(b"{}", path=b"/plan"), post(b"{}", path=b"/estimates")):
                assert service.one(data).status == 401
            for path in (b"/healthz", b"/readyz"):
                assert service.one(get(path)).status == 200
            preflight = b"Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n"
            answer = service.one(get(b"/estimate", preflight).replace(b"GET", b"OPTIONS", 1))
            assert answer.status == 204 and "Authorization" in answer.headers["access-control-allow-headers"]
            file.truncate(0)
            file.seek(0)
            file.write(second + b"\n")
            file.flush()
            assert reload(service)["level"] == "info"
            assert service.one(bearing(b"Bearer " + first)).status == 401
            assert service.one(bearing(b"Bearer " + second)).status == 200
            file.truncate(0)
            assert "holds no token" in reload(service)["message"]
            assert service.one(bearing(b"Bearer " + second)).status == 200
            assert second not in service.log and first not in service.log


@own
def a_token_file_that_is_none_is_refused():
    with tempfile.NamedTemporaryFile() as file:
        for text in (b"", b"# nothing\n", b"short\n", b"with blanks in it and long enough\n", b"x" * 129 + b"\n",
                     b"t\xc3\xa9" * 9, b"0123456789abcdef\n" * 17):
            file.truncate(0)
            file.seek(0)
            file.write(text)
            file.flush()
            options = ["--listen", "127.0.0.1:0", "--token-file", file.name]
            told = subprocess.run([harness.PROGRAM, "--catalog", harness.CATALOG, *options], capture_output=True, timeout=60)
            assert told.returncode == 1 and file.name.encode() in told.stderr and not told.stdout, (text, told)
            assert b"blanks" not in told.stderr


if __name__ == "__main__":
    sys.exit(harness.run_tests(*sys.argv[1:3]))
