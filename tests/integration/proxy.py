#!/usr/bin/python3
"""Three replicas behind HAProxy and behind nginx, each restarted in turn under load: no request may fail.

    proxy.py SOURCE VRAMCAST      TAP; every port is a free one
"""
# needs: haproxy nginx-light
import contextlib
import http.client
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

from ports import free_ports

SOURCE, VRAMCAST = pathlib.Path(sys.argv[1]), sys.argv[2]
CONFIGS = SOURCE / "integrations/proxy"
CLIENTS, SETTLE = 8, 1.5
BODIES = [json.dumps({"model": "llama-3.2-1b", "method": "lora", "sequence_length": 512 + i, "gpus": "h100"})
          for i in range(64)]


def is_ready(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False


def wait_for(port):
    for _ in range(200):
        if is_ready(port):
            return
        time.sleep(0.05)
    raise RuntimeError("nothing is ready at port %d" % port)


class Replica:
    def __init__(self, port):
        self.port = port
        self.start()

    def start(self):
        command = [VRAMCAST, "--listen", "127.0.0.1:%d" % self.port, "--catalog", SOURCE / "config"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.port)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


class Client(threading.Thread):
    """Asks again and again on one connection; a failure is an answer that is none, or another than 200."""

    def __init__(self, port, number):
        super().__init__()
        self.port, self.number, self.stopping, self.answered, self.failures = port, number, False, 0, []

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.stopping:
            try:
                connection.request("POST", "/estimate", BODIES[(self.answered + self.number) % len(BODIES)],
                                   {"Content-Type": "application/json"})
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200 or not json.loads(body)["fits"]:
                    self.failures.append("%d %.200s" % (answer.status, body.decode("utf-8", "replace")))
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failures.append(repr(error))
                connection.close()
            self.answered += 1
        connection.close()


def configured(name, folder, ports):
    """The example with these ports in the place of 8080 (its own) and 8081 to 8083 (the replicas')."""
    text = re.sub(r"\b808([0-3])\b", lambda found: str(ports[int(found.group(1))]), (CONFIGS / name).read_text())
    file = pathlib.Path(folder) / name
    file.write_text(text)
    return file


@contextlib.contextmanager
def proxy(kind, folder, ports):
    if kind == "haproxy":
        command = ["haproxy", "-f", configured("haproxy.cfg", folder, ports)]
    else:
        command = ["nginx", "-p", folder + "/", "-c", configured("nginx.conf", folder, ports), "-g", "daemon off;"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(ports[0])
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def restart_all(replicas):
    """What each ended with on SIGTERM."""
    ended = []
    for replica in replicas:
        time.sleep(SETTLE)
        ended.append(replica.stop())
        replica.start()
    time.sleep(SETTLE)
    return ended


def rolling(kind):
    ports = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="vramcast-proxy-") as folder:
        replicas = [Replica(port) for port in ports[1:]]
        try:
            with proxy(kind, folder, ports):
                clients = [Client(ports[0], i) for i in range(CLIENTS)]
                for client in clients:
                    client.start()
                ended = restart_all(replicas)
                for client in clients:
                    client.stopping = True
                for client in clients:
                    client.join()
        finally:
            for replica in replicas:
                replica.process.kill()
    failures = [failure for client in clients for failure in client.failures]
    return sum(client.answered for client in clients), failures, ended


def main():
    number, good = 0, True
    for kind in ("haproxy", "nginx"):
        answered, failures, ended = rolling(kind)
        for name, right in (("%s: three restarts under load, %d requests, none fails" % (kind, answered),
                             answered > 100 and not failures),
                            ("%s: every replica ends with 0 on SIGTERM" % kind, ended == [0, 0, 0])):
            number += 1
            good = good and right
            print("%sok %d - %s" % ("" if right else "not ", number, name))
        for failure in failures[:5]:
            print("#   " + failure)
    print("1..%d" % number)
    sys.exit(not good)


if __name__ == "__main__":
    main()
