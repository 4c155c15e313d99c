"""Rendered pods run by Docker as a kubelet would run them: user, groups, read-only root, capabilities, limits, volumes, probes.

What Docker does not have is left out: Services (a pod has its Service's names, and is asked at its own port), network policies,
tokens of service accounts.
"""

import base64
import copy
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import requests
from docker.types import Mount

UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass
class Namespace:
    """The objects of some charts, and the pods of them that run."""

    client: object
    objects: tuple
    room: Path
    network: object
    running: list = field(default_factory=list)

    def one(self, kind, name):
        (found,) = [o for o in self.objects if o["kind"] == kind and o["metadata"]["name"] == name]
        return found

    def secret(self, name):
        """A Secret's values, as bytes."""
        return {key: base64.b64decode(value) for key, value in self.one("Secret", name)["data"].items()}

    def start(self, owner):
        """The pod of a Deployment, StatefulSet, Job or Pod: init containers one after the other, then its container."""
        pod = Pod(self, owner)
        self.running.append(pod)
        pod.start()
        return pod

    def completed(self, owner, *, timeout_s=120):
        """What the container of a Job or test pod printed, once it has ended with 0."""
        pod = self.start(owner)
        code = pod.container.wait(timeout=timeout_s)["StatusCode"]
        assert code == 0, pod.said()
        return pod.said()

    def close(self):
        for pod in reversed(self.running):
            pod.remove()


class Pod:
    def __init__(self, namespace, owner):
        self.namespace, self.name = namespace, owner["metadata"]["name"]
        template = owner if owner["kind"] == "Pod" else owner["spec"]["template"]
        self.spec, self.labels = template["spec"], template["metadata"].get("labels", {})
        self.containers = []

    @property
    def container(self):
        return self.containers[-1]

    @property
    def main(self):
        """The rendered container."""
        (found,) = self.spec["containers"]
        return found

    def start(self):
        self.volumes = {volume["name"]: self._volume(volume) for volume in self.spec.get("volumes", [])}
        for first in self.spec.get("initContainers", []):
            code = self._run(first).wait(timeout=120)["StatusCode"]
            assert code == 0, self.said()
        self._run(self.main, names=self._services())

    def said(self):
        return self.container.logs().decode()

    def url(self, port):
        """Where this machine reaches a container's port, by number or name."""
        number = self._number(port)
        self.container.reload()
        (bound,) = self.container.attrs["NetworkSettings"]["Ports"][f"{number}/tcp"]
        return f"http://127.0.0.1:{bound['HostPort']}"

    def _number(self, port):
        return next(p["containerPort"] for p in self.main.get("ports", []) if port in (p["name"], p["containerPort"]))

    def wait_ready(self, timeout_s=200):
        """Ask the startup probe, then the readiness probe, until both are content."""
        deadline = time.monotonic() + timeout_s
        for probe in (self.main["startupProbe"], self.main["readinessProbe"]):
            while not self._probe(probe):
                self.container.reload()
                assert self.container.status == "running", self.said()[-4000:]
                assert time.monotonic() < deadline, self.said()[-4000:]
                time.sleep(0.3)
        return self

    def stop(self):
        """The preStop hook, then SIGTERM within the grace; returns the hook's and the container's exit codes."""
        hook = self.main.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        drained = self.container.exec_run(hook).exit_code if hook else 0
        self.container.stop(timeout=self.spec.get("terminationGracePeriodSeconds", 30))
        self.container.reload()
        return drained, self.container.attrs["State"]["ExitCode"]

    def remove(self):
        for container in self.containers:
            container.remove(force=True, v=True)

    def _probe(self, probe):
        get = probe.get("httpGet", {})
        url = self.url((get or probe["tcpSocket"])["port"])
        try:
            headers = {one["name"]: one["value"] for one in get.get("httpHeaders", [])}
            answer = requests.get(url + get.get("path", "/"), headers=headers, timeout=probe.get("timeoutSeconds", 1))
        except requests.RequestException:
            return False
        return not get or answer.ok

    def _run(self, rendered, names=()):
        """Start a container with what a kubelet would make of it; it has the names by which others know its pod."""
        pod, own = self.spec["securityContext"], rendered["securityContext"]
        assert pod["runAsNonRoot"] and own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"]
        assert own["capabilities"] == {"drop": ["ALL"]} and pod["seccompProfile"] == {"type": "RuntimeDefault"}
        command = [*rendered.get("command", []), *rendered.get("args", [])]
        limits = rendered.get("resources", {}).get("limits", {})
        client = self.namespace.client
        container = client.containers.create(
            rendered["image"],
            entrypoint=command[:1],
            command=command[1:],
            environment=dict(self._variable(one) for one in rendered.get("env", [])),
            user=f"{pod['runAsUser']}:{pod['runAsGroup']}",
            group_add=[pod["fsGroup"]],
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],  # Docker's own seccomp profile is there without being named
            mem_limit=size(limits["memory"]) if "memory" in limits else None,
            nano_cpus=int(processors(limits["cpu"]) * 1e9) if "cpu" in limits else None,
            mounts=[self._mount(one) for one in rendered.get("volumeMounts", [])],
            ports={f"{port['containerPort']}/tcp": ("127.0.0.1", None) for port in rendered.get("ports", [])},
            network=self.namespace.network.name,
        )
        self.containers.append(container)
        self.namespace.network.disconnect(container)
        self.namespace.network.connect(container, aliases=list(names))
        container.start()
        return container

    def _services(self):
        """DNS names of the Services that select this pod."""
        for o in self.namespace.objects:
            if o["kind"] == "Service" and o["spec"].get("selector", {}).items() <= self.labels.items():
                name, space = o["metadata"]["name"], o["metadata"]["namespace"]
                yield from (name, f"{name}.{space}", f"{name}.{space}.svc", f"{name}.{space}.svc.cluster.local")

    def _variable(self, entry):
        if "value" in entry:
            return entry["name"], entry["value"]
        ((kind, reference),) = entry["valueFrom"].items()
        if kind == "secretKeyRef":
            return entry["name"], self.namespace.secret(reference["name"])[reference["key"]].decode()
        assert kind == "configMapKeyRef", entry
        return entry["name"], self.namespace.one("ConfigMap", reference["name"])["data"][reference["key"]]

    def _volume(self, volume):
        """A folder of this machine with what a kubelet puts into it, owned by the pod's fsGroup."""
        folder = self.namespace.room / f"{self.name}-{volume['name']}"
        folder.mkdir()
        group = self.spec["securityContext"]["fsGroup"]
        if "emptyDir" in volume:
            own(folder, 0o2777, group)
            return folder
        if "secret" in volume:
            files = self.namespace.secret(volume["secret"]["secretName"])
        else:
            data = self.namespace.one("ConfigMap", volume["configMap"]["name"])["data"]
            files = {name: text.encode() for name, text in data.items()}
        mode = volume.get("secret", volume.get("configMap")).get("defaultMode", 0o644)
        for name, content in files.items():
            (folder / name).write_bytes(content)
            own(folder / name, mode | 0o440, group)
        own(folder, 0o2755, group)
        return folder

    def _mount(self, mount):
        assert set(mount) <= {"name", "mountPath", "readOnly"}, mount
        target = mount["mountPath"]
        (volume,) = [v for v in self.spec["volumes"] if v["name"] == mount["name"]]
        in_memory = volume.get("emptyDir", {})
        if in_memory.get("medium") == "Memory":
            return Mount(target, None, type="tmpfs", tmpfs_size=size(in_memory["sizeLimit"]), tmpfs_mode=0o1777)
        return Mount(target, str(self.volumes[mount["name"]]), type="bind", read_only=mount.get("readOnly", False))


def at_its_own_port(owner, service, pod):
    """The pod with an argument that names a Service's port replaced: nothing here maps one port to another."""
    changed = copy.deepcopy(owner)
    (container,) = changed["spec"]["containers"]
    container["args"] = [pod if argument == service else argument for argument in container["args"]]
    assert changed != owner
    return changed


def open_to_all(folder):
    """A folder of pytest's that other users, such as containers', may enter and write to."""
    for above in folder.parents:
        if above.stat().st_uid == os.getuid() and "pytest" in str(above):
            above.chmod(0o711)
    folder.chmod(0o777)
    return folder


def own(path, mode, group):
    os.chown(path, 0, group)
    path.chmod(mode)


def size(quantity):
    """Bytes of a Kubernetes quantity."""
    for unit, factor in UNITS.items():
        if str(quantity).endswith(unit):
            return int(float(str(quantity).removesuffix(unit)) * factor)
    return int(quantity)


def processors(quantity):
    text = str(quantity)
    return float(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)
