"""Serving a release: verified, started, asked; here as a process that is stopped again, on a cluster by the chart."""

import os
import secrets
import time
from pathlib import Path
from typing import Any

import requests

from tokenmill.deployment.config import DeployConfig
from tokenmill.deployment.listing import vouched_for
from tokenmill.deployment.register import REGISTRATION
from tokenmill.deployment.release import RELEASE, SBOM, require_passed
from tokenmill.deployment.signing import trusted_keys
from tokenmill.deployment.verify import verify
from tokenmill.environment import other_environment
from tokenmill.errors import InputError, UserError
from tokenmill.manifest import Draft, Manifest
from tokenmill.serving import EngineError, serving_packages
from tokenmill.steps import StepContext, effect
from tokenmill.steps.files import materialise

DEPLOYMENT = "deployment.json"
PROCESS_FLAGS = (
    "--enable-auto-tool-choice",
    "--tool-call-parser=internlm",
    # a small model that may write white space between the parts of a call writes nothing else
    '--structured-outputs-config={"backend": "xgrammar", "disable_any_whitespace": true}',
)


@effect("deployment.deploy", version=5, kinds={"release": "release", "registration": "registration"})
def deploy(config: DeployConfig, release: Manifest, registration: Manifest, ctx: StepContext) -> Draft:
    """Serve the release with vLLM and test it: as a process on loopback, or behind the chart `inference`.

    What is not the release that was registered is refused, so is one whose own verdict did not pass, and so is a cluster
    that cannot take it. A candidate that is judged worse, an engine that does not start and a test that fails are
    findings, for promotion to act on; on a cluster users then have what they had. Without a serving environment no
    process is started, and the output says so. With a process the output has an SBOM of what served, `sbom.cdx.json`.
    """
    registered = ctx.read_json(registration, REGISTRATION)
    if registered["model"] != release.digest:
        raise InputError(
            f"{registered['name']} version {registered['version']} is {registered['model'][:12]}, not the release "
            f"{release.digest[:12]}: deploy what is registered"
        )
    require_passed(ctx.read_json(release, "verdict.json"), release.digest[:12])
    vouched_for(ctx.store, release, trusted_keys())
    began, name, version = time.monotonic(), str(registered["name"]), str(registered["version"])
    place = _behind_the_chart if config.execution.target == "helm" else _as_a_process
    found = place(config, release, name, version, ctx)
    value = {
        "release": release.digest,
        "name": name,
        "version": version,
        "target": config.execution.target,
        "question": config.question,
        "seconds": round(time.monotonic() - began, 1),
    }
    ctx.log.info("deployed", served=found["served"], ok=found["ok"], reason=found["reason"])
    counts = {"served": int(found["served"]), "ok": int(found["ok"])}
    told = ctx.write_json("deployment", DEPLOYMENT, value | found, counts=counts)
    return _with_bill(told, ctx) if found["served"] and config.execution.target == "process" else told


def _as_a_process(config: DeployConfig, release: Manifest, name: str, version: str, ctx: StepContext) -> dict[str, Any]:
    """vLLM on loopback, behind a key of its own, for as long as its test takes."""
    from tokenmill.serving import serving_available

    folder = ctx.files(release)
    verify(folder, expected=release.shard(RELEASE).content)
    available, reason = serving_available()
    if not available:
        ctx.log.warning("not served", reason=reason)
        return {"served": False, "ok": False, "reason": reason}
    import torch

    from tokenmill.deployment.server import VLLMServer
    from tokenmill.deployment.smoke import smoke_test

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    began = time.monotonic()
    server = VLLMServer(
        folder,
        log=ctx.workdir / "vllm.log",
        name=name,
        key=secrets.token_urlsafe(24),
        flags=PROCESS_FLAGS,
        start_timeout_s=config.start_timeout_s,
        progress=lambda line: ctx.log.info(line),
    )
    try:
        with server:
            healthy = round(time.monotonic() - began, 1)
            smoke = smoke_test(server, folder, config)
    except EngineError as failed:
        return {"served": True, "ok": False, "reason": str(failed)}
    return {"served": True, "healthy_after_s": healthy} | smoke.to_json()


def _with_bill(told: Draft, ctx: StepContext) -> Draft:
    """Beside it a bill of the environment that served, which is a fact of this deployment and not of the release."""
    from tokenmill.deployment.sbom import bill_of_environment

    folder = ctx.workdir / "bill"
    folder.mkdir()
    (folder / SBOM).write_bytes(bill_of_environment(other_environment(str(serving_packages()))))
    bill = ctx.write_files("deployment", folder)
    return Draft(kind="deployment", shards=(*told.shards, *bill.shards), counts=told.counts)


def _behind_the_chart(
    config: DeployConfig, release: Manifest, name: str, version: str, ctx: StepContext
) -> dict[str, Any]:
    """Helm's upgrade, canary and all; then the test of what users now get, and back if it fails."""
    from tokenmill.deployment.on_cluster import Release, Wanted

    behind = Release(config.execution, ctx.log)
    wanted = Wanted(name, version, release.digest)
    done = behind.serve(wanted, description=f"{name}/{version} {release.digest[:12]}, run {ctx.run.key}")
    told: dict[str, Any] = {
        "served": True,
        "helm": {"release": behind.name, "namespace": behind.helm.namespace, "revision": done.revision},
        "before": done.before,
        "still": done.still,
        "back": config.execution.back_to is not None,
        "canary": done.canary,
        "preflight": [finding.what for finding in done.findings],
    }
    if not done.ok:
        return told | {"ok": False, "reason": done.reason}
    assert done.revision is not None
    smoke = _ask_the_service(behind, done.revision, config, release, ctx)
    if not smoke["ok"] and config.execution.back_to is None:
        ctx.log.warning("undone", reason=smoke["reason"])
        told["helm"]["revision"] = behind.undo(done.before)
    return told | smoke


def _ask_the_service(
    behind: Any, revision: int, config: DeployConfig, release: Manifest, ctx: StepContext
) -> dict[str, Any]:
    """The chart's own test from within, and ours where the Service can be reached; what cannot be asked has failed."""
    from tokenmill.deployment.smoke import smoke_test

    asked = config.execution.url or "the Service"
    try:
        client = behind.client(revision)
        if client is None:
            failed = behind.test()
            return {"ok": not failed, "reason": failed, "asked": "helm test"}
        asked = client.url
        gib = sum(shard.size for shard in release.shards if shard.name.endswith(".safetensors")) / 2**30
        small = gib <= config.most_parity_gib
        folder = ctx.files(release) if small else _without_weights(release, ctx)
        smoke = smoke_test(client, folder, config, digest=release.digest, weights=small)
    except (UserError, requests.RequestException) as unasked:  # users have it by now: raised, it would stay with them
        return {"ok": False, "reason": str(unasked), "asked": asked}
    return smoke.to_json() | {"asked": asked}


def _without_weights(release: Manifest, ctx: StepContext) -> Path:
    """Tokenizer, template and card of a release whose weights only the cluster fetches."""
    kept = tuple(shard for shard in release.shards if not shard.name.endswith(".safetensors"))
    return materialise(ctx.store, release.model_copy(update={"shards": kept}), ctx.workdir / "words")
