"""A Kubernetes without nodes: etcd and a kube-apiserver in a folder, and objects to ask it for."""
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import time

from ports import free_ports


def own_address():
    """An address of this machine that is none of loopback: the API server accepts no other of a service's endpoint."""
    for address in subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split():
        if re.fullmatch(r"[\d.]+", address):
            return address
    raise RuntimeError("this machine has no IPv4 address but of loopback")


class Cluster:
    """etcd and kube-apiserver in a folder, and what was started beside them."""

    def __init__(self, folder, programs):
        self.folder, self.programs, self.started = pathlib.Path(folder), programs, []
        self.etcd_port, self.peer_port, self.port, self.scheduler_port = free_ports(4)
        self.env = {**os.environ, "KUBECONFIG": str(self.folder / "kubeconfig"), "HOME": str(self.folder)}

    def start(self, name, *command, env=None):
        with open(self.folder / (name + ".log"), "ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env={**self.env, **(env or {})})
        self.started.append(process)
        return process

    def stop(self):
        for process in reversed(self.started):
            process.send_signal(signal.SIGCONT)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            process.kill()

    def begin(self):
        key, public = self.folder / "sa.key", self.folder / "sa.pub"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text('token-of-a-test,admin,1,"system:masters"\n')
        (self.folder / "kubeconfig").write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": "https://127.0.0.1:%d" % self.port,
                                                      "insecure-skip-tls-verify": True}}],
            "users": [{"name": "admin", "user": {"token": "token-of-a-test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}]}))
        etcd = "http://127.0.0.1:%d" % self.etcd_port, "http://127.0.0.1:%d" % self.peer_port
        self.start("etcd", "etcd", "--data-dir", "etcd", "--listen-client-urls", etcd[0], "--advertise-client-urls", etcd[0],
                   "--listen-peer-urls", etcd[1], "--initial-advertise-peer-urls", etcd[1], "--initial-cluster",
                   "default=" + etcd[1])
        # With aggregator routing a webhook's service is its endpoints, as there is no kube-proxy here.
        self.start("apiserver", self.programs / "kube-apiserver", "--etcd-servers", etcd[0], "--bind-address=127.0.0.1",
                   "--secure-port=%d" % self.port, "--cert-dir=certificates", "--token-auth-file=tokens.csv",
                   "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--anonymous-auth=false",
                   "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition", "--enable-aggregator-routing=true",
                   "--service-account-key-file=sa.pub", "--service-account-signing-key-file=sa.key",
                   "--service-account-issuer=https://kubernetes.default.svc")
        self.until("the API server", lambda: self.kubectl("get", "--raw", "/readyz")[0])
        self.until("the default namespace", lambda: self.kubectl("get", "namespace", "default")[0])

    def until(self, what, reached, seconds=60):
        for _ in range(5 * seconds):
            if reached():
                return
            time.sleep(0.2)
        raise RuntimeError("%s: not there after %d s" % (what, seconds))

    def kubectl(self, *arguments, manifest=None):
        """Whether it succeeded, and what it told. manifest: objects on its standard input."""
        text = None if manifest is None else manifest if isinstance(manifest, str) else json.dumps(manifest)
        done = subprocess.run(["kubectl", *arguments], input=text, env=self.env, cwd=self.folder, capture_output=True, text=True,
                              timeout=60)
        return done.returncode == 0, done.stdout + done.stderr

    def apply(self, manifest, *options):
        return self.kubectl("apply", *options, "-f", "-", manifest=manifest)

    def get(self, kind, name, path, namespace="default"):
        return self.kubectl("get", kind, name, "-n", namespace, "-o", "jsonpath={%s}" % path)[1]

    def must(self, *arguments, manifest=None):
        good, told = self.kubectl(*arguments, manifest=manifest)
        if not good:
            raise RuntimeError("kubectl %s: %s" % (" ".join(arguments), told))
        return told


# ---- objects

def pod(name, request=None, product=None, namespace="default", resources=None, **annotations):
    notes = {"vramcast.io/" + key: value for key, value in {"request": request, **annotations}.items() if value}
    spec = {"containers": [{"name": "trainer", "image": "registry.example/trainer", "resources": resources or {}}]}
    if product:
        spec["nodeSelector"] = {"nvidia.com/gpu.product": product}
    return {"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": name, "namespace": namespace, "annotations": notes}}


def template_of(made):
    return {"metadata": {"labels": {"app": "x"}, "annotations": made["metadata"]["annotations"]},
            "spec": {**made["spec"], "restartPolicy": "Always"}}


def deployment(name, made):
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": made["metadata"]["namespace"]},
            "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template_of(made)}}


def pytorch_job(name, request, product, workers):
    part = {"template": {"spec": pod(name, product=product, resources={"limits": {"nvidia.com/gpu": 1}})["spec"]}}
    return {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob",
            "metadata": {"name": name, "namespace": "default", "annotations": {"vramcast.io/request": request}},
            "spec": {"pytorchReplicaSpecs": {"Master": {"replicas": 1, **part}, "Worker": {"replicas": workers, **part}}}}


def custom_kind(group, version, kind, plural):
    """A definition that takes whatever comes: enough for the API server to have objects of the kind reviewed."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "%s.%s" % (plural, group)},
            "spec": {"group": group, "scope": "Namespaced",
                     "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": kind + "List"},
                     "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]}}


def node(name, product, mib, gpus):
    amounts = {"cpu": "8", "memory": "64Gi", "pods": "100", "nvidia.com/gpu": str(gpus)}
    return {"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": str(mib),
                                                  "nvidia.com/gpu.count": str(gpus)}},
            "status": {"capacity": amounts, "allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]}}
