#!/usr/bin/python3
"""The image, built without a daemon and without a registry, and run as docker/compose.yaml runs it: by podman and runc, alone and as
three replicas behind HAProxy that docker-compose starts.

    container.py SOURCE VRAMCAST [ARCHIVE]      TAP; needs root. ARCHIVE is an image that docker/build.sh has built before

The image of HAProxy is made here of Debian's own.
"""
# needs: buildah debootstrap podman runc netavark aardvark-dns iptables docker-compose haproxy
import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time

import yaml

import proxy
from ports import free_ports

SOURCE, VRAMCAST = pathlib.Path(sys.argv[1]), sys.argv[2]
IMAGE, UID, SIZE_MAX = "localhost/vramcast:latest", 10001, 20 << 20
REQUEST = {"model": "llama-3.2-1b", "method": "lora", "gpus": ["h100", "t4"]}
SETTINGS = """[engine]
cgroup_manager = "cgroupfs"
compat_api_enforce_docker_hub = false
events_logger = "file"
runtime = "runc"
[network]
network_backend = "netavark"
network_config_dir = "%(folder)s/networks"
[containers]
default_ulimits = ["nofile=%(nofile)d:%(nofile)d", "nproc=%(nproc)d:%(nproc)d"]
"""


def say(text):
    print("# " + text, flush=True)


def limits():
    """What may be asked for here: never more than this process may have."""
    most = {"nofile": 16384, "nproc": 4096}
    hard = {"nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1], "nproc": resource.getrlimit(resource.RLIMIT_NPROC)[1]}
    return {name: min(value, hard[name]) if hard[name] > 0 else value for name, value in most.items()}


class Podman:
    """podman with storage, networks and settings of its own; no daemon, no systemd."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        settings = self.folder / "containers.conf"
        settings.write_text(SETTINGS % {"folder": folder, **limits()})
        # Without systemd there are no timers: the tests ask for each health check.
        self.environment = {**os.environ, "CONTAINERS_CONF": str(settings), "DISABLE_HC_SYSTEMD": "true"}

    def command(self, *words):
        return ["podman", "--root", self.folder / "storage", "--runroot", self.folder / "run", "--storage-driver", "vfs", *words]

    def run(self, *words, check=True):
        done = subprocess.run(self.command(*words), env=self.environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError("podman %s: %s" % (words[0], done.stderr.strip()))
        return done

    def told(self, *words):
        return self.run(*words).stdout.strip()

    def inspect(self, name, kind="container"):
        return json.loads(self.told("inspect", "--type", kind, name))[0]


@contextlib.contextmanager
def network_of(pid):
    """Within, this thread's new sockets are in the network of that process."""
    libc = ctypes.CDLL(None, use_errno=True)
    own, other = (os.open("/proc/%s/ns/net" % name, os.O_RDONLY) for name in ("self", pid))
    try:
        if libc.setns(other, 0):
            raise OSError(ctypes.get_errno(), "setns")
        yield
    finally:
        libc.setns(own, 0)
        os.close(own)
        os.close(other)


def ask(port, method, target, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, target, json.dumps(body) if body else None, {"Content-Type": "application/json"} if body else {})
    answer = connection.getresponse()
    told = answer.status, json.loads(answer.read())
    connection.close()
    return told


# ---- the image

def build():
    if len(sys.argv) > 3:
        return pathlib.Path(sys.argv[3]).resolve()
    say("docker/build.sh: a base by debootstrap, then docker/Dockerfile, whose first stage runs every test")
    start = time.monotonic()
    done = subprocess.run([SOURCE / "docker/build.sh"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError("docker/build.sh: " + done.stderr[-4000:])
    tally = re.findall(r"^\d+ passed, \d+ failed.*$", done.stderr, re.MULTILINE)
    say("built in %d s; in the build: %s" % (time.monotonic() - start, tally[-1] if tally else "no tests"))
    return pathlib.Path(done.stdout.strip())


def image_cases(podman, archive):
    say("podman load: %s" % podman.told("load", "-q", "-i", archive).splitlines()[0])
    image = podman.inspect(IMAGE, "image")
    config, labels = image["Config"], image["Config"]["Labels"]
    say("image %s, %.1f MB" % (image["Id"][:12], image["Size"] / 1e6))
    yield "it is no larger than %d MiB" % (SIZE_MAX >> 20), image["Size"] < SIZE_MAX
    yield "it runs as %d, on port 8080, and is stopped by SIGTERM" % UID, (
        config["User"], list(config["ExposedPorts"]), config["StopSignal"]) == ("10001:10001", ["8080/tcp"], "SIGTERM")
    yield "it starts the program, on every address", (config["Entrypoint"], config["Cmd"]) == (
        ["/usr/bin/vramcast"], ["--listen", "0.0.0.0:8080"])
    health = image.get("Healthcheck") or config["Healthcheck"]
    yield "it has a health check that needs no shell", health["Test"][:2] == ["CMD", "/usr/bin/vramcast"]
    version = subprocess.run([VRAMCAST, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    named = {name: labels.get("org.opencontainers.image." + name) for name in ("title", "version", "licenses")}
    yield "its labels are those of OCI, and true", named == {"title": "vramcast", "version": version, "licenses": "MIT"} \
        and labels.get("org.opencontainers.image.description")
    yield from tree_cases(pathlib.Path(podman.told("image", "mount", IMAGE)))


def tree_cases(root):
    """What lies in the image: one program, its libraries and catalogues, and nothing that anybody may change."""
    paths = sorted(path for path in root.rglob("*"))
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    elf = {path.name for path in files if path.read_bytes()[:4] == b"\x7fELF"}
    libraries = {name for name in elf if ".so" in name}
    say("%d files; programs: %s; libraries: %s" % (len(files), " ".join(sorted(elf - libraries)), " ".join(sorted(libraries))))
    yield "it has one program, no shell and no script", elf - libraries == {"vramcast"} and not [
        path for path in files if path.read_bytes()[:2] == b"#!"]
    linked = subprocess.run(["ldd", VRAMCAST], capture_output=True, text=True, check=True).stdout
    wanted = {pathlib.Path(path).name for path in re.findall(r"(/\S+) \(", linked)}
    yield "its libraries are those that the program is linked with", libraries == wanted
    modes = [path.lstat() for path in paths if not path.is_symlink()]
    yield "nothing in it is set-uid or set-gid", not [row for row in modes if row.st_mode & (stat.S_ISUID | stat.S_ISGID)]
    yield "all of it is root's, and only root may write", not [
        row for row in modes if row.st_uid or row.st_gid or row.st_mode & (stat.S_IWGRP | stat.S_IWOTH)]
    packages = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    say("packages recorded for scanners: " + " ".join(sorted(packages)))
    copyrights = {path.parent.name for path in root.glob("usr/share/doc/*/copyright")}
    yield "each library's package is recorded, with its copyright", \
        len(packages) >= len(libraries) - 3 and copyrights == packages | {"vramcast"}
    yield "nothing of the machine that built it is left", not [
        path for path in files if path.parent == root / "etc" and path.name in ("hosts", "hostname", "resolv.conf") and path.stat().st_size]


# ---- a container, locked down as the compose file says

def locked_down():
    """podman's options for what docker/compose.yaml says of a replica."""
    replica = yaml.safe_load((SOURCE / "docker/compose.yaml").read_text())["services"]["one"]
    options = ["--read-only"] if replica["read_only"] else []
    options += ["--cap-drop=" + name for name in replica["cap_drop"]]
    options += ["--security-opt=" + name.replace(":true", "") for name in replica["security_opt"]]
    return options + ["--memory=%s" % replica["mem_limit"], "--pids-limit=%d" % replica["pids_limit"], "--cpus=%d" % replica["cpus"]]


@contextlib.contextmanager
def container(podman, *options):
    words = [*locked_down(), "--network=none", *options, IMAGE]
    say("podman run %s" % " ".join(words))
    name = podman.told("run", "--detach", *words)
    try:
        pid = podman.inspect(name)["State"]["Pid"]
        with network_of(pid):
            proxy.wait_for(8080)
            yield name, pid
    finally:
        podman.run("rm", "--force", "--time=0", name, check=False)


def status_of(pid):
    return dict(re.findall(r"^(\w+):\s+(.*)$", pathlib.Path("/proc/%d/status" % pid).read_text(), re.MULTILINE))


def write_fault(pid, path):
    """Why a file in that place of the container cannot be made, or None."""
    try:
        pathlib.Path("/proc/%d/root/%s/written" % (pid, path)).write_text("x")
    except OSError as error:
        return os.strerror(error.errno)
    return None


def run_cases(podman):
    with container(podman, "--env=VRAMCAST_DRAIN_DELAY_MS=3000") as (name, pid):
        status = status_of(pid)
        say("process: " + ", ".join("%s %s" % (key, status[key]) for key in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "VmRSS")))
        yield "it runs without root, capabilities or new privileges, under a filter of system calls", (
            status["Uid"].split(), status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]) == (
                [str(UID)] * 4, "0" * 16, "0" * 16, "1", "2")
        faults = {path: write_fault(pid, path) for path in ("", "etc", "usr/bin", "usr/share/vramcast", "var")}
        say("writing: %s" % faults)
        yield "nothing can be written", set(faults.values()) == {"Read-only file system"}
        yield "/healthz and /readyz are well", [ask(8080, "GET", path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
        local = subprocess.run([VRAMCAST, "estimate", "--catalog", SOURCE / "config"], input=json.dumps(REQUEST), capture_output=True,
                               text=True, check=False).stdout
        code, told = ask(8080, "POST", "/estimate", REQUEST)
        say("/estimate: %d, %s" % (code, [(row["gpu"], row["verdict"]) for row in told["fits"]]))
        yield "/estimate answers as the program outside does", code == 200 and told == json.loads(local)
        yield "the health check passes", healthy(podman, name)
        yield from stop_cases(podman, name)


def healthy(podman, name):
    return podman.run("healthcheck", "run", name, check=False).returncode == 0


def stop_cases(podman, name):
    """SIGTERM: red, still answering, then the end with 0."""
    stopping = threading.Thread(target=podman.run, args=("stop", "--time=20", name))
    stopping.start()
    while ask(8080, "GET", "/readyz")[0] != 503:
        time.sleep(0.02)
    yield "stopping, the health check fails and requests are still answered", \
        not healthy(podman, name) and ask(8080, "POST", "/estimate", REQUEST)[0] == 200
    stopping.join()
    ended = podman.inspect(name)["State"]
    say("podman stop: exit code %d" % ended["ExitCode"])
    yield "it ends with 0 on SIGTERM", ended["ExitCode"] == 0 and ended["Status"] == "exited"


# ---- docker/compose.yaml

def make_haproxy(podman):
    """An image with Debian's HAProxy that behaves as the official one does."""
    tree = podman.folder / "haproxy"
    for folder in ("usr/bin", "usr/lib", "usr/lib64"):
        (tree / folder).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (tree / name).symlink_to("usr/" + name)
    shutil.copy("/usr/sbin/haproxy", tree / "usr/bin")
    for library in re.findall(r"(/\S+) \(", subprocess.run(["ldd", "/usr/sbin/haproxy"], capture_output=True, text=True,
                                                           check=True).stdout):
        (tree / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, tree / library[1:])
    subprocess.run(["tar", "-C", tree, "-cf", podman.folder / "haproxy.tar", "."], check=True)
    command = json.dumps(["/usr/bin/haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"])
    podman.run("import", "-q", "--change=USER 99:99", "--change=STOPSIGNAL SIGUSR1", "--change=CMD " + command,
               podman.folder / "haproxy.tar", "localhost/haproxy:2.6")


class Compose:
    """docker-compose on podman's API, with the example but for the published port and the limits of this machine."""

    def __init__(self, podman, port):
        self.podman, self.name = podman, "vramcast-test-%d" % os.getpid()
        example = yaml.safe_load((SOURCE / "docker/compose.yaml").read_text())
        self.replicas = [name for name, row in example["services"].items() if row["image"] == "vramcast"]
        for row in example["services"].values():
            row["ulimits"] = {name: min(value, row["ulimits"].get(name, value)) for name, value in limits().items()}
        example["services"]["proxy"]["ports"] = [text.replace("8080:", "%d:" % port, 1) for text in example["services"]["proxy"]["ports"]]
        (podman.folder / "compose.yaml").write_text(yaml.safe_dump(example))
        self.socket = podman.folder / "podman.sock"

    def __call__(self, *words):
        done = subprocess.run(["docker-compose", "-f", self.podman.folder / "compose.yaml", "--project-directory", SOURCE / "docker",
                               "-p", self.name, *words], env={**os.environ, "DOCKER_HOST": "unix://%s" % self.socket},
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError("docker-compose %s: %s" % (words[0], done.stderr[-2000:]))
        return done.stdout

    @contextlib.contextmanager
    def up(self):
        service = subprocess.Popen(self.podman.command("system", "service", "--time=0", "unix://%s" % self.socket),
                                   env=self.podman.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        checking = threading.Event()
        checks = threading.Thread(target=self.check, args=(checking,))
        try:
            while not self.socket.exists():
                time.sleep(0.05)
            checks.start()
            self("up", "--detach", "--no-build")
            yield
        finally:
            checking.set()
            self("down", "--timeout=5")
            service.terminate()
            service.wait(timeout=30)

    def check(self, ended):
        """Health checks, once a second, as Docker's daemon has them run."""
        while not ended.wait(1):
            for name in self.replicas:
                self.podman.run("healthcheck", "run", "%s_%s_1" % (self.name, name), check=False)


def compose_cases(podman):
    told = subprocess.run(["docker-compose", "-f", SOURCE / "docker/compose.yaml", "config", "--quiet"], capture_output=True,
                          text=True, check=False)
    yield "docker-compose takes the example", told.returncode == 0 and not told.stderr
    port = free_ports(1)[0]
    make_haproxy(podman)
    compose = Compose(podman, port)
    say("docker-compose up: %s behind HAProxy, published on 127.0.0.1:%d" % (", ".join(compose.replicas), port))
    with compose.up():
        proxy.wait_for(port)
        yield "the replicas became healthy, and the proxy answers", len(compose.replicas) == 3 and \
            ask(port, "POST", "/estimate", REQUEST)[0] == 200
        clients = [proxy.Client(port, number) for number in range(4)]
        for client in clients:
            client.start()
        for name in compose.replicas:
            time.sleep(proxy.SETTLE)
            compose("restart", name)
            compose("up", "--detach", "--no-build", "--force-recreate", "--no-deps", name)
            say("%s: restarted, then replaced" % name)
        asked = estimates_of_each(compose)
        for client in clients:
            client.stopping = True
        for client in clients:
            client.join()
        failures = [failure for client in clients for failure in client.failures]
        for failure in failures[:5]:
            say(failure)
        answered = sum(client.answered for client in clients)
        yield "each was restarted and replaced under load: %d requests, none fails" % answered, answered > 100 and not failures
        say("requests since: %s" % asked)
        yield "the proxy has found all three again, at other addresses", all(asked.values())


def estimates_of_each(compose, seconds=30):
    """How many requests each replica has answered since it was replaced; waits for the proxy to have looked up every name."""
    end = time.monotonic() + seconds
    while True:
        found = {name: estimates_of(compose, name) for name in compose.replicas}
        if all(found.values()) or time.monotonic() > end:
            return found
        time.sleep(0.5)


def estimates_of(compose, name):
    networks = compose.podman.inspect("%s_%s_1" % (compose.name, name))["NetworkSettings"]["Networks"]
    connection = http.client.HTTPConnection(next(iter(networks.values()))["IPAddress"], 8080, timeout=5)
    connection.request("GET", "/metrics")
    counted = re.findall(r'^vramcast_http_requests_total\{route="/estimate".*\} (\d+)$', connection.getresponse().read().decode(), re.M)
    connection.close()
    return sum(map(int, counted))


def main():
    number, good = 0, True
    archive = build()
    folder = tempfile.mkdtemp(prefix="vramcast-container-")
    podman = Podman(folder)
    try:
        for cases in (image_cases(podman, archive), run_cases(podman), compose_cases(podman)):
            for number, (name, right) in enumerate(cases, number + 1):
                good = good and bool(right)
                print("%sok %d - %s" % ("" if right else "not ", number, name), flush=True)
    finally:
        podman.run("rm", "--all", "--force", "--time=0", check=False)
        podman.run("image", "unmount", "--all", "--force", check=False)
        shutil.rmtree(folder, ignore_errors=True)
    print("1..%d" % number)
    sys.exit(not good)


if __name__ == "__main__":
    main()
