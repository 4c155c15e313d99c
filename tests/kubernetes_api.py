"""A stand-in for a Kubernetes API server, for the real `helm` and the `kubernetes` package: no API server can be had here.

It keeps objects by path, in memory, and answers discovery, create, read, server-side apply, delete, list, watch and
SelfSubjectAccessReview over HTTP. A Deployment is ready at once, or when the test's `kubelet` has started its pod; a Job ends as the test says.
It validates nothing, merges nothing by key, schedules nothing: what it shows is what Helm and we ask, and in which order.
"""

import base64
import json
import queue
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import yaml

KINDS = {
    "v1": ["Namespace", "Node", "Pod", "Secret", "ConfigMap", "Service", "ServiceAccount", "ResourceQuota",
           "PersistentVolumeClaim", "Event"],
    "apps/v1": ["Deployment", "ReplicaSet"],
    "batch/v1": ["Job"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding"],
    "storage.k8s.io/v1": ["StorageClass"],
    "authorization.k8s.io/v1": ["SelfSubjectAccessReview"],
}  # fmt: skip
OF_CLUSTER = ("Namespace", "Node", "StorageClass", "SelfSubjectAccessReview")


def plural(kind):
    word = kind.lower()
    return word[:-1] + "ies" if word.endswith("y") else word + ("es" if word.endswith("s") else "s")


class Api:
    """What the server holds and how it behaves; tests set and read it."""

    def __init__(self):
        self.objects, self.log = {}, {}
        self.denied: set[tuple[str, str]] = set()
        """(verb, resource) that an access review denies."""
        self.unlistable: set[str] = set()
        """Resources whose reading is forbidden (403)."""
        self.unready: set[str] = set()
        """Images with which a Deployment never gets ready."""
        self.kubelet = None
        """Called with a Deployment, in a thread; whether its pods run."""
        self.jobs_fail = False
        self.job_says = ""
        self.pods_fail = False
        """Whether pods that the chart makes itself, its test's, fail."""
        self.asked: list[tuple[str, str]] = []
        self.version, self.lock, self.watches = 1, threading.RLock(), []

    def put(self, path, thing):
        with self.lock:
            self.version += 1
            before = self.objects.get(path)
            meta = thing.setdefault("metadata", {})
            meta |= {
                "resourceVersion": str(self.version),
                "uid": (before or thing)["metadata"].get("uid", f"u{self.version}"),
            }
            meta["generation"] = ((before or {}).get("metadata", {}).get("generation", 0)) + 1
            meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
            self._control(path, thing)
            self.objects[path] = thing
            self._tell("MODIFIED" if before else "ADDED", path, thing)
            return thing

    def delete(self, path):
        with self.lock:
            gone = self.objects.pop(path, None)
            if gone:
                self._tell("DELETED", path, gone)
            return gone

    def of(self, kind):
        return {o["metadata"]["name"]: o for o in self.objects.values() if o["kind"] == kind}

    def _tell(self, event, path, thing):
        for prefix, events in self.watches:
            if path.startswith(prefix + "/"):
                events.put({"type": event, "object": thing})

    def _run(self, path, thing):
        if self.kubelet(thing):
            with self.lock:
                if self.objects.get(path) is thing:
                    self._control(path, thing, running=True)
                    self._tell("MODIFIED", path, thing)

    def _control(self, path, thing, running=False):
        if thing["kind"] == "Deployment":
            wanted = thing["spec"].get("replicas", 1)
            image = thing["spec"]["template"]["spec"]["containers"][0]["image"]
            ready = wanted if image not in self.unready and (running or self.kubelet is None) else 0
            if self.kubelet and not running:
                threading.Thread(target=self._run, args=(path, thing), daemon=True).start()
            counts = dict.fromkeys(("replicas", "updatedReplicas"), wanted)
            counts |= dict.fromkeys(("readyReplicas", "availableReplicas"), ready)
            there = [{"type": "Available", "status": "True" if ready == wanted else "False"}]
            there += [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]
            thing["status"] = {"observedGeneration": thing["metadata"]["generation"], **counts, "conditions": there}
        if thing["kind"] == "Job" and "status" not in thing:
            end = "Failed" if self.jobs_fail else "Complete"
            count = {"failed": 1} if self.jobs_fail else {"succeeded": 1}
            ended = {"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:01Z"}
            thing["status"] = {"conditions": [{"type": end, "status": "True"}], **count, **ended}
            name, namespace = thing["metadata"]["name"], path.split("/namespaces/")[1].split("/")[0]
            labels = thing["spec"]["template"]["metadata"]["labels"]
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-x", "labels": labels}}
            pod |= {"spec": {}, "status": {"phase": "Failed" if self.jobs_fail else "Succeeded"}}
            self.put(f"/api/v1/namespaces/{namespace}/pods/{name}-x", pod)
            self.log[f"{name}-x"] = self.job_says
        if thing["kind"] == "Pod" and "status" not in thing:
            thing["status"] = {"phase": "Failed" if self.pods_fail else "Succeeded"}


PROTOBUF = b"k8s\x00"


def _fields(data):
    """(number, value) of a protobuf message whose fields are varints or byte strings."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte, at = data[at], at + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        size = varint()
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            yield tag >> 3, size


def _secret(data):
    """What Helm's typed client sends: a Secret in Kubernetes' protobuf envelope."""
    envelope = dict(_fields(data.removeprefix(PROTOBUF)))
    assert dict(_fields(envelope[1]))[2] == b"Secret"
    meta, held, kind = {}, {}, "Opaque"
    for number, value in _fields(envelope[2]):
        if number == 1:
            for what, told in _fields(value):
                if what in (1, 3):
                    meta[{1: "name", 3: "namespace"}[what]] = told.decode()
                elif what == 11:
                    pair = dict(_fields(told))
                    meta.setdefault("labels", {})[pair[1].decode()] = pair.get(2, b"").decode()
        elif number == 2:
            pair = dict(_fields(value))
            held[pair[1].decode()] = base64.b64encode(pair.get(2, b"")).decode()
        elif number == 3:
            kind = value.decode()
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": held, "type": kind}


def _matches(thing, selector):
    labels = thing["metadata"].get("labels", {})
    return all(
        labels.get(k) == v for k, v in (pair.split("=") for pair in selector.replace("==", "=").split(",") if pair)
    )


def _discovery(path):
    if path in ("/api", "/api/"):
        return {"kind": "APIVersions", "versions": ["v1"]}
    groups = sorted({version for version in KINDS if "/" in version})
    if path in ("/apis", "/apis/"):
        listed = [{"groupVersion": v, "version": v.split("/")[1]} for v in groups]
        named = [{"name": v["groupVersion"].split("/")[0], "versions": [v], "preferredVersion": v} for v in listed]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}
    version = path.removeprefix("/apis/").removeprefix("/api/").strip("/")
    if version in KINDS:
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        listed = [
            {"name": plural(k), "singularName": k.lower(), "namespaced": k not in OF_CLUSTER, "kind": k, "verbs": verbs}
            for k in KINDS[version]
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": listed}
    if path == "/version":
        return {"major": "1", "minor": "36", "gitVersion": "v1.36.0", "platform": "linux/amd64"}
    return None


def _is_collection(path):
    last = path.rsplit("/", 1)[1]
    return any(last == plural(kind) for kinds in KINDS.values() for kind in kinds)


@contextmanager
def kubernetes_api(folder):
    """Serve an empty API with a namespace `llm`; yields (Api, path of a kubeconfig)."""
    api = Api()
    api.put("/api/v1/namespaces/llm", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llm"}})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = (
            True  # or each answer's body waits 40 ms until the client has acknowledged its headers
        )

        def log_message(self, *_):
            pass

        def _send(self, status, body, kind="application/json"):
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _refuse(self, status, reason):
            said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status}
            self._send(status, said | {"message": reason})

        def _body(self):
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if data.startswith(PROTOBUF):
                return _secret(data)
            return yaml.safe_load(data.decode()) if data else {}

        def _path(self):
            split = urlsplit(self.path)
            self.query = {key: values[-1] for key, values in parse_qs(split.query).items()}
            api.asked.append((self.command, split.path))
            return split.path.rstrip("/") or "/"

        def do_GET(self):
            path = self._path()
            if path.startswith("/openapi"):  # no schemas: Helm then validates nothing on its side
                return self._send(200, {"paths": {}} if path.startswith("/openapi/v3") else "")
            if (found := _discovery(path)) is not None:
                return self._send(200, found)
            if any(f"/{resource}" in path for resource in api.unlistable):
                return self._refuse(403, "Forbidden")
            if path.endswith("/log"):
                return self._send(200, api.log.get(path.split("/")[-2], ""), "text/plain")
            if not _is_collection(path) or path in api.objects:
                thing = api.objects.get(path)
                return self._send(200, thing) if thing else self._refuse(404, "NotFound")
            if self.query.get("watch") in ("true", "1"):
                return self._watch(path)
            return self._send(200, self._listed(path))

        def _listed(self, path):
            with api.lock:
                held = [o for p, o in sorted(api.objects.items()) if p.rsplit("/", 1)[0] == path]
            held = [o for o in held if _matches(o, self.query.get("labelSelector", ""))]
            if named := self.query.get("fieldSelector", "").removeprefix("metadata.name=="):
                held = [o for o in held if o["metadata"]["name"] == named.removeprefix("metadata.name=")]
            kind = next((k for ks in KINDS.values() for k in ks if plural(k) == path.rsplit("/", 1)[1]), "")
            version = path.removeprefix("/apis/").removeprefix("/api/").split("/namespaces/")[0]
            version = version if version in KINDS else version.rsplit("/", 1)[0]
            return {
                "kind": f"{kind}List",
                "apiVersion": version,
                "metadata": {"resourceVersion": str(api.version)},
                "items": held,
            }

        def _watch(self, path):
            events = queue.Queue()
            with api.lock:
                listed = self._listed(path)
                if self.query.get("sendInitialEvents") == "true":
                    for one in listed["items"]:
                        events.put({"type": "ADDED", "object": one})
                    ended = {"resourceVersion": str(api.version), "annotations": {"k8s.io/initial-events-end": "true"}}
                    mark = {"apiVersion": listed["apiVersion"], "kind": listed["kind"].removesuffix("List")}
                    events.put({"type": "BOOKMARK", "object": mark | {"metadata": ended}})
                api.watches.append((path, events))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Connection", "close")
            self.end_headers()
            until = time.monotonic() + 30
            try:
                while time.monotonic() < until:
                    try:
                        event = events.get(timeout=0.2)
                    except queue.Empty:
                        continue
                    self.wfile.write(json.dumps(event).encode() + b"\n")
                    self.wfile.flush()
            except OSError:
                pass
            self.close_connection = True

        def do_POST(self):
            path, body = self._path(), self._body()
            if path.endswith("selfsubjectaccessreviews"):
                wanted = body["spec"]["resourceAttributes"]
                allowed = (wanted["verb"], wanted["resource"]) not in api.denied
                return self._send(201, body | {"status": {"allowed": allowed}})
            where = f"{path}/{body['metadata']['name']}"
            if where in api.objects:
                return self._refuse(409, "AlreadyExists")
            return self._send(201, api.put(where, body))

        def do_PUT(self):
            return self._send(200, api.put(self._path(), self._body()))

        def do_PATCH(self):
            path, body = self._path(), self._body()
            if "apply-patch" in self.headers["Content-Type"]:
                kept = {k: v for k, v in api.objects.get(path, {}).items() if k == "status" and body["kind"] != "Job"}
                return self._send(200, api.put(path, kept | body))
            if path not in api.objects:
                return self._refuse(404, "NotFound")
            return self._send(200, api.put(path, _merged(api.objects[path], body)))

        def do_DELETE(self):
            path = self._path()
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            gone = api.delete(path)
            return self._send(200, gone) if gone else self._refuse(404, "NotFound")

    class Server(ThreadingHTTPServer):
        daemon_threads, request_queue_size = True, 128

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    here = {"name": "here"}
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [here | {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [here | {"context": {"cluster": "here", "user": "here"}}],
        "users": [here | {"user": {"token": "token"}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    try:
        yield api, folder / "kubeconfig"
    finally:
        server.shutdown()
        server.server_close()


def _merged(old, new):
    """JSON merge patch: all that is needed of a patch here."""
    merged = dict(old)
    for key, value in new.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged
