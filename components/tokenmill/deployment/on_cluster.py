"""A release behind the chart `inference`: preflight, judged beside what is served, upgraded, asked, undone if it is worse.

Helm holds the history, the chart's canary Job judges, and this file has the order of things. What users have is never
half way: each of the two upgrades is undone by Helm where it fails, and the last one is undone here where the smoke test
fails.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenmill.cluster import Cluster, in_pod
from tokenmill.config import merge
from tokenmill.deployment.client import EngineClient
from tokenmill.deployment.config import DeployExecution
from tokenmill.deployment.helm import Helm, HelmFailed, inference_chart
from tokenmill.deployment.preflight import Finding, Object, preflight, require
from tokenmill.errors import InputError
from tokenmill.logs import Log

TRACK = "tokenmill.io/track"
OF_MODEL = ("uri", "digest", "version", "sizeGiB", "unpinned")
"""What of `model` a candidate may differ in."""
PROMOTED = ["promoted"]
"""What is told of a canary that was content."""


@dataclass(frozen=True)
class Wanted:
    """What is to be served."""

    name: str
    version: str
    digest: str

    @property
    def values(self) -> dict[str, Any]:
        """The chart's `model`, pinned: an alias that moves later moves nothing here."""
        uri = f"models:/{self.name}/{self.version}"
        return {"uri": uri, "digest": self.digest, "version": f"{self.name}/{self.version}"}


@dataclass
class Rollout:
    """What became of it."""

    ok: bool = True
    reason: str = ""
    revision: int | None = None
    before: int | None = None
    still: bool = False
    """That one served the very same model, with other values."""
    canary: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class Release:
    """One Helm release of the chart."""

    def __init__(self, settings: DeployExecution, log: Log) -> None:
        self.settings, self.log, self.name = settings, log, settings.release
        self.helm = Helm(settings.namespace, program=settings.helm, context=settings.context)
        self.cluster = Cluster(settings.context)
        self.chart = settings.chart or str(inference_chart())

    # ---- forth ---------------------------------------------------------------------------------------------------

    def values(self, wanted: Wanted) -> dict[str, Any]:
        """The user's values with the model pinned; its registry name is the served one where they give none."""
        served = {"model": {"servedNames": [wanted.name]}, "canary": {"enabled": False}}
        return merge(merge(served, self.settings.values), {"model": wanted.values, "canary": {"enabled": False}})

    def examine(self, wanted: Wanted) -> list[Finding]:
        """The preflight of every upgrade that `serve` would make."""
        now = self.helm.deployed(self.name)
        running = self.helm.manifest(self.name, now) if now else []
        return [f for values in self._stages(wanted, now) for f in self._examine(values, running)]

    def serve(self, wanted: Wanted, *, description: str = "") -> Rollout:
        """Make it what users get, or leave everything as it was.

        Raises:
            Unfit: the cluster cannot take it.
            ClusterError: the API server cannot be asked.
        """
        now = self.helm.deployed(self.name)
        still = now is not None and self.model(now).get("digest") == wanted.digest
        done = Rollout(before=now, revision=now, still=still)
        if self.settings.back_to is not None:
            return self._go_back(wanted, self.settings.back_to, done)
        running = self.helm.manifest(self.name, now) if now else []
        stages = self._stages(wanted, now)
        for values in stages:
            done.findings += self._examine(values, running)
        require(done.findings)
        for values in stages:
            judged = values["canary"]["enabled"]
            self.log.info("helm upgrade", release=self.name, model=wanted.values["uri"], canary=judged)
            try:
                self.helm.upgrade(
                    self.name, self.chart, values, timeout_s=self.settings.timeout_s, description=description
                )
            except HelmFailed as failed:
                done.ok, done.reason, done.revision = False, str(failed), self.helm.deployed(self.name)
                if judged and (said := self._verdict()):
                    done.canary, done.reason = said, "; ".join(line for line in said if not line.startswith("passed"))
                if done.canary == PROMOTED:  # Helm undid the second upgrade: the candidate still runs beside
                    done.revision = self.undo(now)
                return done
            if judged:
                done.canary = PROMOTED
        done.revision = self.helm.deployed(self.name)
        return done

    def _stages(self, wanted: Wanted, now: int | None) -> list[dict[str, Any]]:
        """Values of each upgrade: first the candidate beside what is served, then alone."""
        values = self.values(wanted)
        current = self.helm.values(self.name, now) if now else {}
        same = current.get("model", {}).get("digest") == wanted.digest
        if not now or not self.settings.canary or same:
            return [values]
        differs: dict[str, Any] = {key: values[key] for key in ("engine", "image") if key in values}
        differs["model"] = {key: value for key, value in values["model"].items() if key in OF_MODEL}
        candidate = merge(values.get("canary", {}), differs | {"enabled": True})
        return [merge(current, {"canary": candidate}), values]

    def _examine(self, values: Mapping[str, Any], running: Sequence[Object]) -> list[Finding]:
        wanted = self.helm.render(self.name, self.chart, values)
        return preflight(self.cluster, self.settings.namespace, wanted, running)

    def _verdict(self) -> list[str]:
        """What the canary's Job said of each check; Helm leaves a failed one for ten minutes."""
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=canary"
        printed = self.cluster.log(self.settings.namespace, selector).splitlines()
        return [line for line in printed if line.startswith(("passed ", "FAILED ", "tokenmill: "))]

    # ---- asked ---------------------------------------------------------------------------------------------------

    def client(self, revision: int) -> EngineClient | None:
        """A client of what is served; None from where no Service can be reached and no address is configured."""
        objects = self.helm.manifest(self.name, revision)
        engine = next(o for o in objects if o["kind"] == "Deployment" and _track(o) == "stable")
        service = next(
            o for o in objects if o["kind"] == "Service" and o["metadata"]["name"] == engine["metadata"]["name"]
        )
        container = engine["spec"]["template"]["spec"]["containers"][0]
        url = self.settings.url
        if not url:
            if not in_pod():
                return None
            port = service["spec"]["ports"][0]["port"]
            url = f"http://{service['metadata']['name']}.{self.settings.namespace}.svc:{port}"
        named = container["args"].index("--served-model-name") + 1
        return EngineClient(url, container["args"][named], key=self._key(container))

    def _key(self, container: Object) -> str:
        for variable in container.get("env", []):
            if variable["name"] == "VLLM_API_KEY":
                named = variable["valueFrom"]["secretKeyRef"]
                path = f"/api/v1/namespaces/{self.settings.namespace}/secrets/{named['name']}"
                secret = self.cluster.get(path)
                if secret is None:
                    raise InputError(f"{path} is gone: the engine's API key lies there")
                return base64.b64decode(secret["data"][named["key"]]).decode()
        return ""

    def test(self) -> str:
        """The chart's own test, from within; why it failed, empty if it did not."""
        try:
            self.helm.test(self.name, timeout_s=self.settings.timeout_s)
        except HelmFailed as failed:
            return str(failed)
        return ""

    # ---- back ----------------------------------------------------------------------------------------------------

    def undo(self, to: int | None) -> int | None:
        """Give users what they had before: an earlier revision, or nothing. Returns the revision that they have now."""
        if to is None:
            self.helm.uninstall(self.name, timeout_s=self.settings.timeout_s)
            return None
        self.helm.rollback(self.name, to, timeout_s=self.settings.timeout_s)
        return self.helm.deployed(self.name)

    def _go_back(self, wanted: Wanted, to: int, done: Rollout) -> Rollout:
        if (there := self.model(to).get("digest")) != wanted.digest:
            raise InputError(f"revision {to} of {self.name} serves {there}, not {wanted.digest}")
        try:
            done.revision = self.undo(to)
        except HelmFailed as failed:
            done.ok, done.reason, done.revision = False, str(failed), self.helm.deployed(self.name)
        return done

    def earlier(self, revision: int | None = None) -> int:
        """The newest revision whose model is another than the present one's; or `revision`, if there is one.

        Raises:
            InputError: there is nothing to go back to.
        """
        revisions = [int(one["revision"]) for one in self.helm.history(self.name) if one["status"] in _SERVED]
        now = self.helm.deployed(self.name)
        if now is None:
            raise InputError(f"no release {self.name!r} is deployed in namespace {self.settings.namespace}")
        if revision is not None:
            if revision not in revisions:
                raise InputError(f"{self.name} has no revision {revision} to go back to; it has {revisions}")
            return revision
        digest = self.model(now).get("digest")
        for one in reversed(revisions):
            if one < now and self.model(one).get("digest") != digest and not self._beside(one):
                return one
        raise InputError(f"{self.name}: every revision that is kept serves the same model: nothing to go back to")

    def model(self, revision: int) -> dict[str, Any]:
        """The values `model` of a revision: uri, digest, and version as NAME/VERSION of the registry."""
        return dict(self.helm.values(self.name, revision).get("model", {}))

    def _beside(self, revision: int) -> bool:
        return bool(self.helm.values(self.name, revision).get("canary", {}).get("enabled"))


_SERVED = ("deployed", "superseded")


def _track(o: Object) -> str:
    return str(o["metadata"].get("labels", {}).get(TRACK, ""))
