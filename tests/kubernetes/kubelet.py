#!/usr/bin/env python3
"""Stands in for the kubelets of a cluster: containers are processes of this machine, each in folders of its own (pod.sh).

    kubelet.py FOLDER NODES [--share FOLDER…] [--env KEY=VALUE…]

FOLDER has `server` (its address), `token` (of somebody who may do everything), `kubelet.crt` and `kubelet.key`. Each container
may write to what is shared and to its volumes, and to nothing else. An empty file FOLDER/silent.NODE makes a node silent: its
processes go on, and nobody hears of them. FOLDER/powerless.NODE ends its processes, too. It knows what our pods have: one
container, no probes, no hooks.
"""
import argparse
import base64
import http.client
import json
import pathlib
import shutil
import signal
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from container import Container, serve_logs, stamp

LOOK_EVERY, BEAT_EVERY = 0.25, 2  # seconds
CAPACITY = {"cpu": "8", "memory": "16Gi", "pods": "40", "nvidia.com/gpu": "2", "ephemeral-storage": "200Gi"}
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
PATCH = "application/strategic-merge-patch+json"


class Server:
    def __init__(self, folder):
        self.address, self.token = (folder / "server").read_text().strip(), (folder / "token").read_text().strip()
        # on loopback, with a certificate that it made itself
        self.context = ssl._create_unverified_context()

    def ask(self, method, path, body=None, kind="application/json"):
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        request = urllib.request.Request(self.address + path, method=method, headers=headers)
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, data, context=self.context, timeout=20) as answer:
            return json.load(answer)

    def find(self, path):
        """An object; None: there is none."""
        try:
            return self.ask("GET", path)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None


class Kubelet:
    def __init__(self, folder, nodes, share, env):
        self.folder, self.share, self.env = folder, share, env
        self.nodes = [f"node{number + 1}" for number in range(nodes)]
        self.server, self.containers, self.beaten, self.port = Server(folder), {}, {}, None

    def is_silent(self, node):
        return any((self.folder / f"{what}.{node}").exists() for what in ("silent", "powerless"))

    def beat(self, node):
        """Registers a node, once, and keeps its lease young."""
        if time.time() - self.beaten.get(node, 0) < BEAT_EVERY:
            return
        if node not in self.beaten and self.server.find(f"/api/v1/nodes/{node}") is None:
            self.server.ask("POST", "/api/v1/nodes", {"metadata": {"name": node, "labels": {"kubernetes.io/hostname": node}}})
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": stamp()}
        self.server.ask("PATCH", f"/api/v1/nodes/{node}/status", {"status": {
            "capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}}}}, PATCH)
        lease = {"metadata": {"name": node}, "spec": {
            "holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": stamp(micro=".%f")}}
        if self.server.find(f"{LEASES}/{node}") is None:
            self.server.ask("POST", LEASES, lease)
        self.server.ask("PATCH", f"{LEASES}/{node}", lease, PATCH)
        self.beaten[node] = time.time()

    def field(self, pod, path):
        if "['" in path:
            of, key = path.rstrip("']").split("['")
            return pod["metadata"].get(of.removeprefix("metadata."), {}).get(key, "")
        for part in path.split("."):
            pod = pod.get(part, "")
        return pod

    def data(self, pod, kind, name):
        """What a ConfigMap or a Secret holds, as bytes by name."""
        found = self.server.find(f"/api/v1/namespaces/{pod['metadata']['namespace']}/{kind}/{name}")
        if found is None:
            raise FileNotFoundError(f"{kind.removesuffix('s')} {name!r} not found")
        decode = base64.b64decode if kind == "secrets" else str.encode
        return {key: decode(text) for key, text in found.get("data", {}).items()}

    def files(self, pod, source):
        """The files of a volume, as bytes by name."""
        if "configMap" in source:
            return self.data(pod, "configmaps", source["configMap"]["name"])
        if "secret" in source:
            return self.data(pod, "secrets", source["secret"]["secretName"])
        if "downwardAPI" in source:
            items = source["downwardAPI"]["items"]
            return {item["path"]: self.field(pod, item["fieldRef"]["fieldPath"]).encode() for item in items}
        if "serviceAccountToken" in source:
            of, wanted = pod["metadata"], source["serviceAccountToken"]
            path = f"/api/v1/namespaces/{of['namespace']}/serviceaccounts/{pod['spec']['serviceAccountName']}/token"
            bound = {"apiVersion": "v1", "kind": "Pod", "name": of["name"], "uid": of["uid"]}
            spec = {"expirationSeconds": wanted.get("expirationSeconds", 3600), "boundObjectRef": bound}
            return {wanted["path"]: self.server.ask("POST", path, {"spec": spec})["status"]["token"].encode()}
        return {name: data for part in source["projected"]["sources"] for name, data in self.files(pod, part).items()}

    def volume(self, pod, volume, folder):
        place = folder / volume["name"]
        if place.exists():
            return place
        if "emptyDir" in volume:
            place.mkdir()
            place.chmod(0o777)
            return place
        # as a kubelet lays them: files are links into a hidden folder, so that all can be exchanged at once
        files = self.files(pod, volume)
        (place / "..now").mkdir(parents=True)
        (place / "..data").symlink_to("..now")
        for name, data in files.items():
            (place / "..now" / name).write_bytes(data)
            (place / name).symlink_to(f"..data/{name}")
        return place

    def begin(self, pod, mine):
        """Starts the container, or says what it lacks."""
        container, address = pod["spec"]["containers"][0], urllib.parse.urlparse(self.server.address)
        variables = {**self.env, "KUBERNETES_SERVICE_HOST": address.hostname, "KUBERNETES_SERVICE_PORT": str(address.port)}
        try:
            for source in container.get("envFrom", []):
                secret = self.data(pod, "secrets", source["secretRef"]["name"])
                variables |= {key: value.decode() for key, value in secret.items()}
            volumes = {volume["name"]: self.volume(pod, volume, mine.folder) for volume in pod["spec"].get("volumes", [])}
        except FileNotFoundError as why:
            mine.waiting = ("CreateContainerConfigError", str(why))
            return
        for variable in container.get("env", []):
            path = variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            variables[variable["name"]] = self.field(pod, path) if path else variable.get("value", "")
        mounts = [(mount["mountPath"], volumes[mount["name"]], "ro" if mount.get("readOnly") else "rw")
                  for mount in container.get("volumeMounts", [])] + [(folder, folder, "rw") for folder in self.share]
        # what lies in another comes after it
        mounts = [f"{source}:{place}:{mode}" for place, source, mode in sorted(mounts)]
        user = str(pod["spec"]["securityContext"]["runAsUser"])
        become = [str(pathlib.Path(__file__).with_name("pod.sh")), str(mine.folder), user, *mounts, "--"]
        mine.start(become + container["command"] + container.get("args", []), variables)
        (self.folder / "processes" / pod["metadata"]["name"]).write_text(str(mine.process.pid))

    def attend(self, pod):
        """Brings one pod nearer to what is wanted of it."""
        of, mine = pod["metadata"], self.containers.get(pod["metadata"]["uid"])
        path, leaves = f"/api/v1/namespaces/{of['namespace']}/pods/{of['name']}", of.get("deletionTimestamp")
        is_over = pod["status"].get("phase") in ("Succeeded", "Failed")
        if mine is None and not leaves and not is_over:
            folder = self.folder / "pods" / of["uid"]
            folder.mkdir(parents=True, exist_ok=True)
            mine = self.containers[of["uid"]] = Container(pod, folder)
        if mine and not is_over:
            mine.look(pod["spec"]["restartPolicy"])
            if leaves:
                if not mine.is_told:
                    mine.signal(signal.SIGTERM)
                if stamp() >= leaves:
                    mine.signal(signal.SIGKILL)
                mine.is_told = True
                if mine.process is None and mine.terminated is None:
                    mine.terminated = {"exitCode": 137, "reason": "ContainerStatusUnknown"}
            elif mine.process is None and mine.terminated is None and time.time() >= mine.again:
                self.begin(pod, mine)
            status = mine.status(pod["spec"]["containers"][0])
            if status != mine.reported:
                self.server.ask("PATCH", path + "/status", {"metadata": {"uid": of["uid"]}, "status": status}, PATCH)
                mine.reported = status
        if leaves and (mine is None or mine.process is None):
            self.server.ask("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": of["uid"]}})

    def log_of(self, name):
        """The file that a pod prints to, and whether it still does; None: no pod of this name has begun."""
        mine = next((c for c in list(self.containers.values()) if c.pod["metadata"]["name"] == name), None)
        return (mine.folder / "log", mine.process is not None) if mine and mine.first else None

    def forget(self, uid, mine):
        """Ends what the server no longer knows; its log stays."""
        mine.signal(signal.SIGKILL)
        mine.look("Never")
        if mine.process is None:
            if mine.first:
                (mine.folder / "log").rename(self.folder / "logs" / mine.pod["metadata"]["name"])
            shutil.rmtree(mine.folder, ignore_errors=True)
            del self.containers[uid]

    def look(self):
        for node in self.nodes:
            if not self.is_silent(node):
                self.safely(self.beat, node)
        placed = self.server.ask("GET", "/api/v1/pods?fieldSelector=spec.nodeName!=")["items"]
        pods = {pod["metadata"]["uid"]: pod for pod in placed}
        for uid, mine in list(self.containers.items()):
            if (self.folder / f"powerless.{mine.pod['spec']['nodeName']}").exists():
                mine.signal(signal.SIGKILL)
            elif uid not in pods and not self.is_silent(mine.pod["spec"]["nodeName"]):
                self.forget(uid, mine)
        for pod in pods.values():
            if not self.is_silent(pod["spec"]["nodeName"]):
                self.safely(self.attend, pod)

    def safely(self, do, *what):
        """A server that is away, and an object that has changed or gone meanwhile, are looked at again."""
        try:
            do(*what)
        except (OSError, http.client.HTTPException, ValueError) as error:
            print(stamp(), do.__name__, repr(error), flush=True)

    def run(self):
        stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        self.port = serve_logs(self.folder, self.log_of)
        while not stopped.wait(LOOK_EVERY):
            self.safely(self.look)
        for mine in self.containers.values():
            mine.signal(signal.SIGKILL)


if __name__ == "__main__":
    words = argparse.ArgumentParser()
    words.add_argument("folder", type=pathlib.Path)
    words.add_argument("nodes", type=int)
    words.add_argument("--share", action="append", default=[])
    words.add_argument("--env", action="append", default=[])
    given = words.parse_args()
    for name in ("logs", "processes"):
        (given.folder / name).mkdir(exist_ok=True)
    Kubelet(given.folder.resolve(), given.nodes, given.share, dict(pair.split("=", 1) for pair in given.env)).run()
