#!/usr/bin/python3
"""The manifests of integrations/kubernetes in a real kube-apiserver, whose webhooks ask a real vramcast behind a real
HAProxy, and a real kube-scheduler with the extender. There are no kubelets: pods are objects, nodes are labels.

    kubernetes.py SOURCE VRAMCAST [FOLDER]      TAP; FOLDER: where Kubernetes is built once (~/.cache/vramcast/kubernetes)
"""
# needs: kubernetes-client etcd-server golang-go golang-github-modern-go-reflect2-dev rsync jq make dpkg-dev openssl haproxy
import base64
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import yaml

SOURCE, VRAMCAST = pathlib.Path(sys.argv[1]).resolve(), os.path.realpath(sys.argv[2])
sys.path[:0] = [str(SOURCE / "tests")]
import served
from cluster import Cluster, custom_kind, deployment, node, own_address, pod, pytorch_job
from ports import free_ports

MANIFESTS = SOURCE / "integrations/kubernetes"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
# Debian's Kubernetes is 1.20: it has these under names of before, of the same shape.
OLDER = {"policy/v1": "policy/v1beta1", "autoscaling/v2": "autoscaling/v2beta2",
         "kubescheduler.config.k8s.io/v1": "kubescheduler.config.k8s.io/v1beta1"}
# Whose definitions others bring: group, version, kind, plural.
OTHERS = [("kubeflow.org", "v1", "PyTorchJob", "pytorchjobs"), ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
          ("cert-manager.io", "v1", "Certificate", "certificates"), ("cert-manager.io", "v1", "Issuer", "issuers")]
LARGE, SMALL = "NVIDIA-A100-SXM4-80GB", "NVIDIA-L4"
FITS_LARGE = "model=llama-3.1-8b method=lora"


def manifests_of(cluster, folder):
    return list(yaml.safe_load_all(cluster.must("kustomize", str(MANIFESTS / folder))))


def the(objects, kind):
    return next(made for made in objects if made["kind"] == kind)


# ---- the service, as the Deployment has it

def proxy_configuration(cluster, objects, port, address, tls_port):
    """The ConfigMap's haproxy.cfg with this machine's ports, and the certificate of the Secret where it looks for it."""
    text = the(objects, "ConfigMap")["data"]["haproxy.cfg"]
    secret = json.loads(cluster.must("get", "secret", "vramcast-tls", "-n", "vramcast", "-o", "json"))["data"]
    volumes = the(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    for item in next(volume for volume in volumes if "secret" in volume)["secret"]["items"]:
        (cluster.folder / item["path"]).write_bytes(base64.b64decode(secret[item["key"]]))
    changes = {":8443": "%s:%d" % (address, tls_port), "/etc/haproxy/tls": str(cluster.folder), "127.0.0.1:8080": "127.0.0.1:%d" % port}
    for old, new in changes.items():
        if old not in text:
            raise RuntimeError("haproxy.cfg has no %s" % old)
        text = text.replace(old, new)
    file = cluster.folder / "haproxy.cfg"
    file.write_text(text)
    return file


def endpoints(address, port):
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "vramcast", "namespace": "vramcast"},
            "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port}]}]}


def documented():
    """The commands of docs/kubernetes.md, and those that are shown with what they tell."""
    text = (SOURCE / "docs/kubernetes.md").read_text()
    blocks = re.findall(r"^```(sh|console)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [line for kind, block in blocks if kind == "sh" for line in block.splitlines()]
    shown = [told.partition("\n") for kind, block in blocks if kind == "console" for told in block.split("$ ")[1:]]
    return commands, [(command, told.strip()) for command, _, told in shown]


def run_documented(cluster, command):
    """Runs it at the root of the sources; what it applies, under the names of 1.20."""
    words = command.split()
    if words[1:3] == ["apply", "-k"]:
        objects = manifests_of(cluster, words[3].removeprefix("integrations/kubernetes/"))
        return cluster.apply(yaml.safe_dump_all([older(made) for made in objects]))
    done = subprocess.run(words, env=cluster.env, cwd=SOURCE, capture_output=True, text=True, timeout=60)
    return done.returncode == 0, done.stdout + done.stderr


def install(cluster, service_port):
    """All that the documents tell to do. What starts the proxy in front of the service."""
    objects, address, (tls_port,) = manifests_of(cluster, "base"), own_address(), free_ports(1)
    for group, version, kind, plural in OTHERS:
        cluster.must("apply", "-f", "-", manifest=custom_kind(group, version, kind, plural))
        cluster.until(kind, lambda plural=plural, group=group: cluster.kubectl("get", "%s.%s" % (plural, group))[0])
    for command in documented()[0]:
        good, told = run_documented(cluster, command)
        if not good:
            raise RuntimeError("%s: %s" % (command, told))
    file = proxy_configuration(cluster, objects, service_port, address, tls_port)
    cluster.must("apply", "-f", "-", manifest=endpoints(address, tls_port))

    def start(**env):
        process = cluster.start("haproxy", "haproxy", "-db", "-f", str(file), env=env)
        cluster.until("HAProxy", lambda: not socket.socket().connect_ex((address, tls_port)))
        return process
    return start


def older(made):
    return {**made, "apiVersion": OLDER.get(made["apiVersion"], made["apiVersion"])}


# ---- cases: name, whether that is right, what was told

def manifest_cases(cluster):
    """The base was applied; what needs others' definitions is held against it."""
    base = manifests_of(cluster, "base")
    there = [cluster.kubectl("get", made["kind"], made["metadata"]["name"], "-n", "vramcast", "-o", "name") for made in base]
    yield "the API server has every object of the base", all(good for good, _ in there), "".join(told for _, told in there)
    service, deployed = the(base, "Service"), the(base, "Deployment")
    monitor = the(manifests_of(cluster, "monitoring"), "ServiceMonitor")
    certificate = the(manifests_of(cluster, "cert-manager"), "Certificate")
    ports = {port["name"] for port in service["spec"]["ports"]}
    wanted = monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    yield "the ServiceMonitor selects the service and its port", wanted and monitor["spec"]["endpoints"][0]["port"] in ports, \
        json.dumps(monitor["spec"])
    told = subprocess.run([VRAMCAST, "--version"], capture_output=True, text=True, check=True).stdout
    image = deployed["spec"]["template"]["spec"]["containers"][0]["image"]
    yield "the image has the tag of this version", image.partition(":")[2] in told.split(), "%s %s" % (image, told)
    secrets = [volume["secret"]["secretName"] for volume in deployed["spec"]["template"]["spec"]["volumes"] if "secret" in volume]
    right = secrets == [certificate["spec"]["secretName"]] and "vramcast.vramcast.svc" in certificate["spec"]["dnsNames"]
    yield "cert-manager's certificate is the secret of the deployment", right, json.dumps(certificate["spec"])


def pod_cases(cluster):
    one = {"limits": {"nvidia.com/gpu": 1}}
    good, told = cluster.apply(pod("too-large", FITS_LARGE, SMALL, resources=one))
    yield "a pod that its GPU does not hold is refused, with the reason and a change that would fit", (
        not good and 'webhook "fit.vramcast.io" denied the request: needs' in told and "l4 has" in told and " would fit: " in told), told
    good, told = cluster.apply(pod("asked", FITS_LARGE, SMALL, resources=one), "--dry-run=server")
    yield "a server-side dry run is asked about too", not good and "l4 has" in told, told
    good, told = cluster.apply(pod("held", FITS_LARGE, LARGE, resources=one))
    yield "a larger GPU takes it, without a word", good and "Warning" not in told, told
    good, told = cluster.apply(pod("silent", product=SMALL, resources=one))
    yield "a pod that says nothing of a run is left alone", good and "Warning" not in told, told
    good, told = cluster.apply(pod("unknown", FITS_LARGE, "Some-GPU", resources=one))
    yield "a GPU that is not known is let in, with a warning", good and "Warning: vramcast: " in told and "Some-GPU" in told, told
    good, told = cluster.apply(pod("either", FITS_LARGE, gpu="l4,a100-80gb", resources=one))
    yield "of several GPUs the one that is too small is told", good and "a100-sxm4-80gb holds it" in told, told
    good, told = cluster.apply(pod("wrong", "modell=llama-3.1-8b", LARGE, resources=one))
    yield "a request that is wrong is let in, with its pointer", good and "/modell is not a known field" in told, told


def filled(port, made):
    """What the service itself fills in, of an object that this API server is too old for."""
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
              "request": {"uid": "1", "operation": "CREATE", "object": made}}
    answer = served.Answer(port, "POST", "/k8s/mutate", review).value
    return json.loads(base64.b64decode(answer["response"]["patch"]))[0]["value"]


def mutation_cases(cluster, port):
    limit = '.spec.containers[0].resources.limits.nvidia\\.com/gpu'
    good, told = cluster.apply(pod("filled", FITS_LARGE + " parallelism.gpus=4", LARGE))
    given = cluster.get("pod", "filled", limit)
    yield "GPUs are filled in, and so said", good and given == "4" and "nvidia.com/gpu: 4 was filled in" in told, told + given
    good, told = cluster.apply(pod("kept", FITS_LARGE, LARGE, resources={"limits": {"nvidia.com/gpu": 2, "cpu": "1"}}))
    given = cluster.get("pod", "kept", limit)
    yield "GPUs that are there are kept", good and given == "2" and "filled" not in told, told + given
    good, told = cluster.apply(pod("led", FITS_LARGE, resources={"limits": {"nvidia.com/gpu": 1}}, gpu="l4,a100-80gb", steer="true"))
    given = cluster.get("pod", "led", ".spec.affinity.nodeAffinity..matchExpressions")
    yield "a pod that asks for it is led to nodes that hold it", (
        good and LARGE in given and SMALL not in given and "needs" not in told), told + given
    job = yaml.safe_load((MANIFESTS / "examples/job.yaml").read_text())
    share = filled(port, job)
    del job["spec"]["completionMode"]  # Jobs are Indexed from 1.21 on
    good, told = cluster.apply(job)
    given = cluster.get("job", "tune-8b", ".spec.template.spec.containers[1]" + limit.removeprefix(".spec.containers[0]"))
    yield "the example of a job is taken: all eight GPUs for a pod of its own, two where four pods are one run", \
        good and given == "8" and share == {"limits": {"nvidia.com/gpu": "2"}}, "%s%s\n%s" % (told, given, share)


def document_cases(cluster):
    """What docs/kubernetes.md shows of commands is what they tell."""
    commands, shown = documented()
    yield "the commands of the documents have run", len(commands) == 7 and len(shown) == 2, "\n".join(commands)
    for command, wanted in shown:
        _, told = run_documented(cluster, command)
        yield "the documents' " + command, sorted(told.splitlines()) == sorted(wanted.splitlines()), told


def workload_cases(cluster):
    one = {"limits": {"nvidia.com/gpu": 1}}
    good, told = cluster.apply(deployment("large", pod("x", FITS_LARGE, SMALL, resources=one)))
    yield "a Deployment is refused as its pods would be", not good and "l4 has" in told, told
    good, told = cluster.apply(pytorch_job("few", "model=llama-3.1-8b", LARGE, 0))
    yield "a PyTorchJob is refused that has too few workers", not good and "Master: needs" in told, told
    good, told = cluster.apply(pytorch_job("enough", "model=llama-3.1-8b", LARGE, 7))
    yield "the same with eight is taken: its pods are one run", good and "Warning" not in told, told


def policy_cases(cluster):
    one = {"limits": {"nvidia.com/gpu": 1}}
    for policy in ("fail-closed", "warn"):
        cluster.must("create", "namespace", policy)
        cluster.must("label", "namespace", policy, "vramcast.io/policy=" + policy)
    time.sleep(1)  # the API server's own view of the labels
    good, told = cluster.apply(pod("unknown", FITS_LARGE, "Some-GPU", "fail-closed", one))
    yield "fail-closed: a GPU that is not known is refused", not good and 'webhook "closed.vramcast.io" denied' in told, told
    good, told = cluster.apply(pod("wrong", "modell=x", LARGE, "fail-closed", one))
    yield "fail-closed: a request that is wrong is refused, with its pointer", not good and "/modell is not a known" in told, told
    good, told = cluster.apply(pod("held", FITS_LARGE, LARGE, "fail-closed", one))
    yield "fail-closed: what fits is taken", good and "Warning" not in told, told
    good, told = cluster.apply(deployment("large", pod("x", FITS_LARGE, SMALL, "warn", one)))
    yield "warn: what does not fit is taken, and told", good and "l4 has" in told and "would fit" in told, told
    cluster.must("label", "namespace", "warn", "vramcast.io/policy-")
    time.sleep(1)
    good, told = cluster.kubectl("scale", "deployment", "large", "-n", "warn", "--replicas=2")
    scaled = cluster.kubectl("label", "deployment", "large", "-n", "warn", "team=a")
    yield "what was taken before can be scaled and labelled", good and scaled[0], told + scaled[1]
    good, told = cluster.kubectl("set", "image", "deployment/large", "-n", "warn", "trainer=registry.example/other")
    yield "and get another image", good, told
    longer = {"vramcast.io/request": FITS_LARGE + " sequence_length=4096"}
    change = {"spec": {"template": {"metadata": {"annotations": longer}}}}
    good, told = cluster.kubectl("patch", "deployment", "large", "-n", "warn", "--type=merge", "-p", json.dumps(change))
    yield "another request is judged anew", not good and "l4 has" in told, told


def silence_cases(cluster, vramcast, proxy, start_proxy):
    """What becomes of objects while nobody answers."""
    one = {"limits": {"nvidia.com/gpu": 1}}
    os.kill(vramcast, signal.SIGSTOP)
    began = time.monotonic()
    good, told = cluster.apply(pod("hung", FITS_LARGE, SMALL, resources=one))
    took = time.monotonic() - began
    os.kill(vramcast, signal.SIGCONT)
    yield "a service that hangs: taken after the timeouts of both webhooks", good, "%s%.1f s" % (told, took)
    proxy.terminate()
    proxy.wait(timeout=20)
    good, told = cluster.apply(pod("down", FITS_LARGE, SMALL, resources=one))
    yield "no service, failurePolicy Ignore: taken", good, told
    good, told = cluster.apply(pod("down", FITS_LARGE, LARGE, "fail-closed", one))
    yield "no service, failurePolicy Fail: refused", not good and 'failed calling webhook "closed.vramcast.io"' in told, told
    start_proxy(VRAMCAST_GPUS="l4")
    cluster.until("the webhook", lambda: not cluster.apply(pod("again", FITS_LARGE, SMALL, resources=one))[0])
    good, told = cluster.apply(pod("unnamed", FITS_LARGE, resources=one))
    yield "the service is back; the cluster's GPUs are those that the proxy names", not good and "l4 has" in told, told


def latency_cases(cluster):
    """By the API server's own histogram; a figure to read, not to hold."""
    sums = {}
    for line in cluster.must("get", "--raw", "/metrics").splitlines():
        found = re.match(r'apiserver_admission_webhook_admission_duration_seconds_(sum|count)\{name="([^"]+)".* (\S+)$', line)
        if found:
            kind, name, value = found.groups()
            total = sums.setdefault(name, {"sum": 0.0, "count": 0.0})
            total[kind] += float(value)
    told = ["%s: %d calls, %.1f ms each" % (name, row["count"], 1000 * row["sum"] / row["count"])
            for name, row in sorted(sums.items())]
    yield "the API server has measured every webhook", len(sums) == 4, "\n".join(told)


def scheduler_cases(cluster, port):
    for made in (node("large", LARGE, 81920, 8), node("small", SMALL, 23034, 8)):
        cluster.must("apply", "-f", "-", manifest=made)
    for name in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
        cluster.must("delete", name, "vramcast")  # what they refuse is for the scheduler now
    cluster.must("delete", "pods", "--all", "--all-namespaces", "--force", "--grace-period=0")
    for cached in (False, True):
        process = start_scheduler(cluster, port, cached)
        yield from (placed_by_names if cached else placed_by_nodes)(cluster)
        process.terminate()
        process.wait(timeout=20)


def start_scheduler(cluster, port, cached):
    """The example, with this machine's addresses; cached: with nodeCacheCapable."""
    text = (MANIFESTS / "scheduler/scheduler.yaml").read_text()
    settings = older(yaml.safe_load(text))
    settings["clientConnection"]["kubeconfig"] = str(cluster.folder / "kubeconfig")
    settings["leaderElection"]["leaderElect"] = False
    settings.update({key: "127.0.0.1:%d" % cluster.scheduler_port for key in ("healthzBindAddress", "metricsBindAddress")})
    settings["extenders"][0].update(urlPrefix="http://127.0.0.1:%d/k8s" % port, nodeCacheCapable=cached)
    file = cluster.folder / "scheduler.yaml"
    file.write_text(yaml.safe_dump(settings))
    return cluster.start("scheduler", cluster.programs / "kube-scheduler", "--config", str(file), "--secure-port", "0")


def place(cluster, made):
    """The node that the pod went to, or why to none."""
    name = made["metadata"]["name"]
    cluster.must("apply", "-f", "-", manifest=made)
    told = lambda: cluster.get("pod", name, ".spec.nodeName") or cluster.get("pod", name, ".status.conditions[*].message")
    cluster.until("a place for " + name, told)
    return told()


def placed_by_nodes(cluster):
    one = {"limits": {"nvidia.com/gpu": 1}}
    place(cluster, pod("fill-large", resources={"limits": {"nvidia.com/gpu": 6}}, product=LARGE))
    told = [place(cluster, pod("run-%d" % i, FITS_LARGE, resources=one)) for i in range(2)]
    yield "the scheduler: runs go to the node that holds them, though the other one is empty", told == ["large"] * 2, "\n".join(told)
    told = place(cluster, pod("run-full", FITS_LARGE, resources=one))
    yield "the scheduler: where that is full, the reason is told of the other", (
        "0/2 nodes are available" in told and "vramcast: needs" in told and "l4 has" in told), told
    told = place(cluster, pod("other", resources=one))
    yield "the scheduler: a pod that says nothing goes to the node that is left", told == "small", told


def placed_by_names(cluster):
    one = {"limits": {"nvidia.com/gpu": 1}}
    told = place(cluster, pod("named", FITS_LARGE, gpu="l4", resources=one))
    yield "nodeCacheCapable: of names none is left to a run that the GPU of the pod does not hold", "l4 has" in told, told
    told = place(cluster, pod("unnamed", FITS_LARGE, resources=one))
    yield "nodeCacheCapable: without one all are left", told == "small", told


def cases(cluster, port, vramcast):
    start_proxy = install(cluster, port)
    proxy = start_proxy()
    yield from manifest_cases(cluster)
    cluster.until("the webhooks", lambda: not cluster.apply(pod("first", FITS_LARGE, SMALL), "--dry-run=server")[0])
    yield from document_cases(cluster)
    yield from pod_cases(cluster)
    yield from mutation_cases(cluster, port)
    yield from workload_cases(cluster)
    yield from policy_cases(cluster)
    yield from latency_cases(cluster)
    yield from silence_cases(cluster, vramcast, proxy, start_proxy)
    yield from scheduler_cases(cluster, port)


def check(number, name, right, told):
    print("%sok %d - %s" % ("" if right else "not ", number, name))
    for line in told.strip().splitlines():
        print("#   " + line)
    sys.stdout.flush()
    return right


def main():
    folder = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else CACHE / "vramcast/kubernetes"
    subprocess.run([SOURCE / "tests/integration/build_kubernetes.sh", folder], check=True)
    good, number = True, 0
    with tempfile.TemporaryDirectory(prefix="vramcast-kubernetes-", ignore_cleanup_errors=True) as place_of_all:
        cluster = Cluster(place_of_all, folder / "bin")
        try:
            cluster.begin()
            with served.service(SOURCE, VRAMCAST, "--max-body", "8388608") as port:
                for number, (name, right, told) in enumerate(cases(cluster, port, served_by(port)), 1):
                    good = check(number, name, right, told) and good
        finally:
            cluster.stop()
    print("1..%d" % number)
    sys.exit(not good)


def served_by(port):
    """The process that listens there, a child of this one."""
    children = pathlib.Path("/proc/self/task/%d/children" % os.getpid()).read_text().split()
    return next(int(child) for child in children if os.readlink("/proc/%s/exe" % child) == VRAMCAST)


if __name__ == "__main__":
    main()
