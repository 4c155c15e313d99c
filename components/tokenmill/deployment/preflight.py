"""Can this cluster take what a chart would make? Asked of the API server before Helm changes anything.

Every question follows from the rendered objects themselves: kinds it must know, rights over them, quota, devices of nodes,
storage classes, and the Secrets and ConfigMaps that pods refer to. What the account may not look at is said, not guessed.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tokenmill.cluster import Cluster, Forbidden
from tokenmill.errors import UserError

Object = dict[str, Any]
CHANGES = ("get", "create", "patch", "delete")
HELM_NEEDS = (
    ("", "secrets", ("get", "list", "create", "update", "delete")),  # where Helm keeps its releases
    ("", "pods", ("get", "list", "watch")),  # what it waits for
)
_SUFFIXES = {"m": Decimal("0.001"), "k": Decimal(1000), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12)}
_SUFFIXES |= {suffix: Decimal(1 << shift) for suffix, shift in (("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40))}


@dataclass(frozen=True)
class Finding:
    """One question's answer."""

    name: str
    ok: bool
    what: str


class Unfit(UserError):
    """The cluster cannot take it; nothing was changed."""


def preflight(
    cluster: Cluster, namespace: str, wanted: Sequence[Object], running: Sequence[Object] = ()
) -> list[Finding]:
    """Every finding about `wanted`, the objects to be made, where `running` are there already."""
    kinds = list(_kinds(cluster, wanted))
    resources = {resource for _, _, resource in kinds if resource}
    checks = [_namespace(cluster, namespace)]
    checks += [
        Finding("kind", False, f"the cluster knows no {kind} ({group}): install what defines it, or switch it off")
        for group, kind, resource in kinds
        if not resource
    ]
    groups = sorted({(group.partition("/")[0] if "/" in group else "", r) for group, _, r in kinds if r in resources})
    checks.append(_rights(cluster, namespace, [*((g, r, CHANGES) for g, r in groups if r), *HELM_NEEDS]))
    checks += _quota(cluster, namespace, requested(wanted, surge=bool(running)), requested(running))
    checks += _devices(cluster, wanted)
    checks += _storage(cluster, wanted)
    checks += _references(cluster, namespace, wanted)
    return checks


def require(findings: Sequence[Finding]) -> None:
    """Raise `Unfit` with a line for everything that is wrong."""
    if wrong := [f"{f.name}: {f.what}" for f in findings if not f.ok]:
        raise Unfit("the cluster cannot take it, nothing was changed: " + "; ".join(wrong))


def _namespace(cluster: Cluster, namespace: str) -> Finding:
    try:
        there = cluster.get(f"/api/v1/namespaces/{namespace}") is not None
    except Forbidden:
        return Finding("namespace", True, f"{namespace}: not looked at, the account may not")
    return Finding("namespace", there, namespace if there else f"{namespace} is not there: kubectl create namespace")


def _kinds(cluster: Cluster, wanted: Sequence[Object]) -> Iterator[tuple[str, str, str]]:
    """apiVersion, kind, and the resource's name; empty if the cluster does not know it."""
    known: dict[str, dict[str, str]] = {}
    for version, kind in sorted({(o["apiVersion"], o["kind"]) for o in wanted}):
        if version not in known:
            path = f"/apis/{version}" if "/" in version else f"/api/{version}"
            listed = (cluster.get(path) or {}).get("resources", [])
            known[version] = {r["kind"]: r["name"] for r in listed if "/" not in r["name"]}
        yield version, kind, known[version].get(kind, "")


def _rights(cluster: Cluster, namespace: str, needed: Sequence[tuple[str, str, Sequence[str]]]) -> Finding:
    denied, asked = [], 0
    for group, resource, verbs in needed:
        missing = []
        for verb in verbs:
            asked += 1
            if not cluster.may(verb, resource, group=group, namespace=namespace):
                missing.append(verb)
        if missing:
            denied.append(f"{', '.join(missing)} {resource}{f'.{group}' if group else ''}")
    if denied:
        advice = "the chart tokenmill's serviceAccounts.deployment has these rights"
        return Finding("rights", False, f"the account may not {'; '.join(denied)} in {namespace}: {advice}")
    return Finding("rights", True, f"{asked} of {asked} granted in {namespace}")


def _quota(cluster: Cluster, namespace: str, wanted: Counter[str], running: Counter[str]) -> Iterator[Finding]:
    """What comes on top of what runs must fit in every quota of the namespace."""
    try:
        quotas = (cluster.get(f"/api/v1/namespaces/{namespace}/resourcequotas") or {}).get("items", [])
    except Forbidden:
        yield Finding("quota", True, "not looked at, the account may not")
        return
    for one in quotas:
        status = one.get("status", {})
        for name, hard in status.get("hard", {}).items():
            key = name if name.startswith(("requests.", "limits.")) or name == "pods" else f"requests.{name}"
            more = Decimal(wanted[key]) - Decimal(running[key])
            left = quantity(hard) - quantity(status.get("used", {}).get(name, "0"))
            if more > max(left, Decimal(0)):
                what = f"{one['metadata']['name']} leaves {_plain(left)} of {name}, {_plain(more)} more are needed"
                yield Finding("quota", False, what)
    yield Finding("quota", True, f"{len(quotas)} looked at")


def _devices(cluster: Cluster, wanted: Sequence[Object]) -> Iterator[Finding]:
    """A pod's devices must be on one node that it may be on."""
    needs = {
        (name, int(amount), tuple(sorted((spec.get("nodeSelector") or {}).items())))
        for _, _, spec in pods(wanted)
        for container in spec["containers"]
        for name, amount in (container.get("resources", {}).get("limits") or {}).items()
        if "/" in name
    }
    if not needs:
        return
    try:
        nodes = (cluster.get("/api/v1/nodes") or {}).get("items", [])
    except Forbidden:
        yield Finding("devices", True, f"{', '.join(sorted({n for n, *_ in needs}))}: nodes may not be listed")
        return
    for name, amount, selector in sorted(needs):
        fitting = [n for n in nodes if set(selector) <= set((n["metadata"].get("labels") or {}).items())]
        most = max((int(n["status"].get("allocatable", {}).get(name, 0)) for n in fitting), default=0)
        where = f" of those labelled {', '.join(f'{k}={v}' for k, v in selector)}" if selector else ""
        what = f"{amount} {name} a pod; a node{where} has at most {most}"
        yield Finding("devices", amount <= most, what)


def _storage(cluster: Cluster, wanted: Sequence[Object]) -> Iterator[Finding]:
    claims = [o for o in wanted if o["kind"] == "PersistentVolumeClaim"]
    if not claims:
        return
    try:
        classes = (cluster.get("/apis/storage.k8s.io/v1/storageclasses") or {}).get("items", [])
    except Forbidden:
        yield Finding("storage", True, "storage classes may not be listed")
        return
    mark = "storageclass.kubernetes.io/is-default-class"
    names = {c["metadata"]["name"] for c in classes}
    default = any((c["metadata"].get("annotations") or {}).get(mark) == "true" for c in classes)
    for claim in claims:
        name = claim["spec"].get("storageClassName")
        fine = name in names if name else default
        what = f"class {name}" if name else "the default class"
        yield Finding(
            "storage", fine, what if fine else f"{what} is not there; there are {', '.join(sorted(names)) or 'none'}"
        )


def _references(cluster: Cluster, namespace: str, wanted: Sequence[Object]) -> Iterator[Finding]:
    """Secrets, ConfigMaps and claims that pods name, and that somebody else has to have made."""
    made = {(o["kind"], o["metadata"]["name"]) for o in wanted}
    paths = {"Secret": "secrets", "ConfigMap": "configmaps", "PersistentVolumeClaim": "persistentvolumeclaims"}
    for kind, name in sorted({one for _, _, spec in pods(wanted) for one in references(spec)} - made):
        try:
            there = cluster.get(f"/api/v1/namespaces/{namespace}/{paths[kind]}/{name}") is not None
        except Forbidden:
            yield Finding("reference", True, f"{kind} {name}: not looked at, the account may not")
            continue
        what = f"{kind} {name}"
        yield Finding("reference", there, what if there else f"{what} is not in {namespace}, and pods need it")


def pods(objects: Sequence[Object]) -> Iterator[tuple[int, int, Object]]:
    """How many of a pod there are, how many a rollout adds, and its spec. Hooks come and go and are left out."""
    for o in objects:
        if o["kind"] in ("Deployment", "StatefulSet"):
            surge = (o["spec"].get("strategy", {}).get("rollingUpdate") or {}).get("maxSurge", 0)
            more = surge if isinstance(surge, int) else 1
            yield o["spec"].get("replicas", 1), more, o["spec"]["template"]["spec"]


def references(spec: Object) -> Iterator[tuple[str, str]]:
    """(kind, name) of everything in the namespace that a pod cannot start without."""
    for container in (*spec["containers"], *spec.get("initContainers", [])):
        for variable in container.get("env", []):
            source = variable.get("valueFrom") or {}
            for kind, key in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
                if (named := source.get(key)) and not named.get("optional"):
                    yield kind, named["name"]
    for volume in spec.get("volumes", []):
        if (secret := volume.get("secret")) and not secret.get("optional"):
            yield "Secret", secret["secretName"]
        if (config := volume.get("configMap")) and not config.get("optional"):
            yield "ConfigMap", config["name"]
        if claim := volume.get("persistentVolumeClaim"):
            yield "PersistentVolumeClaim", claim["claimName"]


def requested(objects: Sequence[Object], *, surge: bool = False) -> Counter[str]:
    """What a quota would count of the objects' pods: `requests.<resource>`, `limits.<resource>`, `pods`."""
    total: Counter[str] = Counter()
    for count, more, spec in pods(objects):
        replicas = count + (more if surge else 0)
        total["pods"] += replicas
        for what in ("requests", "limits"):
            needs: Counter[str] = Counter()
            for container in spec["containers"]:
                for name, amount in (container.get("resources", {}).get(what) or {}).items():
                    needs[name] += quantity(amount)  # type: ignore[assignment]  # Decimal counts as well
            for name, amount in needs.items():
                total[f"{what}.{name}"] += amount * replicas
    return total


def quantity(text: Any) -> Decimal:
    """Kubernetes' way to write a number: 250m, 16Gi, 2."""
    text = str(text)
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if text.endswith(suffix):
            return Decimal(text.removesuffix(suffix)) * _SUFFIXES[suffix]
    return Decimal(text)


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"
