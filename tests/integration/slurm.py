#!/usr/bin/python3
"""The plug-ins of integrations/slurm in a real Slurm: slurmctld and two slurmd on this machine, whose GPUs are copies of /dev/null.

    slurm.py SOURCE VRAMCAST      TAP; as root; starts VRAMCAST on a free port
"""
# needs: slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge lua-socket lua-cjson
import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

SOURCE, VRAMCAST = pathlib.Path(sys.argv[1]), sys.argv[2]
sys.path[:0] = [str(SOURCE / "tests")]
import served

PLUGINS = SOURCE / "integrations/slurm"
NODES = {"gpu-a": ("a100-80gb", 16821), "gpu-b": ("rtx3090", 16822)}
SMALL, LARGE = "model=llama-3.2-1b method=lora", "model=llama-3.1-8b method=lora sequence_length=4096 micro_batch_size=1"
CONF = """ClusterName=vramcast
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPort=16817
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
GresTypes=gpu
JobSubmitPlugins=lua
CliFilterPlugins=lua
{nodes}
PartitionName=gpu Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""
SETTINGS = 'return {{ url = "http://127.0.0.1:{port}", timeout = {timeout}, when_silent = "{silent}", verdict = "{verdict}",\n' \
           '  types = {{ ["a100-80gb"] = "a100-sxm4-80gb", rtx3090 = "rtx-3090" }} }}\n'


class Cluster:
    """Slurm in a folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.env = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self.newest = 0

    def run(self, *command, **said):
        done = subprocess.run(command, env={**self.env, **said}, cwd=self.folder, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def write(self):
        host = socket.gethostname().partition(".")[0]
        nodes, devices = [], []
        for name, (kind, port) in NODES.items():
            (self.folder / ("spool." + name)).mkdir()
            for i in range(4):
                os.mknod(self.folder / ("%s.%d" % (name, i)), 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            nodes.append("NodeName=%s NodeHostname=%s NodeAddr=127.0.0.1 Port=%d CPUs=1 RealMemory=500 Gres=gpu:%s:4 Feature=%s"
                         % (name, host, port, kind, kind))
            devices.append("NodeName=%s Name=gpu Type=%s File=%s/%s.[0-3]" % (name, kind, self.folder, name))
        (self.folder / "slurm.conf").write_text(CONF.format(host=host, folder=self.folder, nodes="\n".join(nodes),
                                                            names=",".join(NODES)))
        (self.folder / "gres.conf").write_text("\n".join(devices) + "\n")
        for name in ("vramcast.lua", "job_submit.lua", "cli_filter.lua"):
            shutil.copy(PLUGINS / name, self.folder)

    def settle(self, timeout=5, **settings):
        """Slurm loads the plug-ins anew when their file is newer, by whole seconds."""
        (self.folder / "vramcast_settings.lua").write_text(SETTINGS.format(timeout=timeout, **settings))
        self.newest = max(self.newest + 2, time.time() + 1)
        for name in ("job_submit.lua", "cli_filter.lua"):
            os.utime(self.folder / name, (self.newest, self.newest))
        self.run("scontrol", "reconfigure")

    def start(self):
        munge = self.folder / "munge"
        munge.mkdir(mode=0o755)
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o400)
        subprocess.run(["munged", "--force", "--key-file=%s/key" % munge, "--socket=%s/socket" % munge,
                        "--pid-file=%s/pid" % munge, "--log-file=%s/log" % munge, "--seed-file=%s/seed" % munge],
                       check=True, stderr=subprocess.DEVNULL)
        self.run("slurmctld", "-c")
        for name in NODES:
            self.run("slurmd", "-N", name)
        for _ in range(100):
            if set(self.run("sinfo", "-h", "-N", "-o", "%T")[1].split()) == {"idle"}:
                return
            time.sleep(0.2)
        raise RuntimeError("the nodes did not come up:\n" + self.run("sinfo", "-N")[1])

    def stop(self):
        for file in [*self.folder.glob("*.pid"), self.folder / "munge/pid"]:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(file.read_text()), signal.SIGTERM)

    def submit(self, *options, **said):
        """Whether the job was taken, what was told, and the constraint that it got."""
        status, told = self.run("sbatch", *options, "--wrap", "true", **said)
        job = re.search(r"Submitted batch job (\d+)", told)
        shown = self.run("scontrol", "show", "job", job.group(1))[1] if job else ""
        features = re.search(r"Features=([^(\s]+)", shown)
        return status == 0, told, features.group(1) if features else ""


@contextlib.contextmanager
def cluster():
    with tempfile.TemporaryDirectory(prefix="vramcast-slurm-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        made = Cluster(folder)
        try:
            made.write()
            made.settle(port=1, silent="accept", verdict="reject")
            made.start()
            yield made
        finally:
            made.stop()
            time.sleep(1)


def silent_port():
    """A socket that takes connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, listener.getsockname()[1]


def check(number, name, right, told):
    print("%sok %d - %s" % ("" if right else "not ", number, name))
    for line in told.strip().splitlines():
        print("#   " + line)
    return right


def judged(slurm):
    """What becomes of jobs while the service answers: name, whether that is right, what was told."""
    taken, told, _ = slurm.submit("--gres=gpu:rtx3090:1", "--comment", "vramcast: " + LARGE)
    yield "a run that the GPU does not hold is refused, with the reason, a change that helps and who holds it", (
        not taken and "GiB a GPU; rtx3090 has" in told and "would fit" in told and "held by a100-80gb" in told), told
    taken, told, _ = slurm.submit("--gres=gpu:a100-80gb:1", "--comment", "vramcast: " + LARGE)
    yield "a larger GPU takes it", taken and "vramcast: needs" in told, told
    taken, told, features = slurm.submit("--gres=gpu:1", VRAMCAST=LARGE)
    yield "a job without a type is steered to what holds it", taken and features == "a100-80gb", told + features
    taken, told, features = slurm.submit("--gpus=1", "--comment", 'vramcast: {"model": "llama-3.2-1b", "method": "lora"}')
    yield "a request may be JSON", taken and features == "a100-80gb|rtx3090", told + features
    taken, told, features = slurm.submit("--gres=gpu:1", "--constraint=rtx3090", VRAMCAST=SMALL)
    yield "a constraint of the job's own stays", taken and features == "rtx3090", told + features
    taken, told, _ = slurm.submit("--gres=gpu:rtx3090:1", VRAMCAST="model=lama-3.2-1b method=lora")
    yield "a request that is wrong is refused with its pointer", not taken and "/model" in told, told
    taken, told, features = slurm.submit("--gres=gpu:rtx3090:1")
    yield "a job that says nothing is left alone", taken and "vramcast" not in told and not features, told
    script = slurm.folder / "job.sh"
    script.write_text("#!/bin/sh\n#SBATCH --gres=gpu:rtx3090:1\n#VRAMCAST %s\ntrue\n" % LARGE)
    status, told = slurm.run("sbatch", str(script))
    yield "a line of the script is read", status != 0 and "rtx3090 has" in told, told


def documented(slurm):
    """The session that docs/slurm.md shows: what is submitted, and what is told, line breaks aside."""
    session = re.search(r"```console\n\$ (.*?)\n(.*?)```", (SOURCE / "docs/slurm.md").read_text(encoding="utf-8"), re.DOTALL)
    (slurm.folder / "train.sh").write_text("#!/bin/sh\ntrue\n")
    told = slurm.run(*shlex.split(session.group(1)))[1]
    yield "docs/slurm.md shows what is told", told.split() == session.group(2).split(), told


def lenient(slurm):
    taken, told, _ = slurm.submit("--gres=gpu:rtx3090:1", VRAMCAST=LARGE)
    yield "with verdict = warn it is told, and taken", taken and "rtx3090 has" in told, told


def unanswered(slurm, taken_then):
    began = time.monotonic()
    taken, told, _ = slurm.submit("--gres=gpu:rtx3090:1", VRAMCAST=LARGE)
    took = time.monotonic() - began
    yield ("with a silent service the job is %s, within the time" % ("taken" if taken_then else "refused"),
           taken == taken_then and "no answer" in told and took < 3, "%s%.2f s for both plug-ins and sbatch" % (told, took))


def cases(slurm, port):
    slurm.settle(port=port, silent="accept", verdict="reject")
    yield from judged(slurm)
    yield from documented(slurm)
    slurm.settle(port=port, silent="accept", verdict="warn")
    yield from lenient(slurm)
    listener, hung = silent_port()
    with listener:
        for silent in ("accept", "reject"):
            slurm.settle(timeout=0.3, port=hung, silent=silent, verdict="reject")
            yield from unanswered(slurm, silent == "accept")


def main():
    if os.geteuid():
        sys.exit("slurm.py: Slurm's daemons and device files want root")
    good, number = True, 0
    with served.service(SOURCE, VRAMCAST) as port, cluster() as slurm:
        for number, (name, right, told) in enumerate(cases(slurm, port), 1):
            good = check(number, name, right, told) and good
    print("1..%d" % number)
    sys.exit(not good)


if __name__ == "__main__":
    main()
