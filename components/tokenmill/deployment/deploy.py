"""Serving a release on this machine: verified, started, asked, stopped again. A cluster serves it with the chart."""

import os
import time
from pathlib import Path
from typing import Any

from tokenmill.deployment.config import DeployConfig
from tokenmill.deployment.listing import vouched_for
from tokenmill.deployment.register import REGISTRATION
from tokenmill.deployment.release import RELEASE
from tokenmill.deployment.signing import trusted_keys
from tokenmill.deployment.verify import verify
from tokenmill.errors import InputError
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import StepContext, effect

DEPLOYMENT = "deployment.json"


@effect("deployment.deploy", version=1, kinds={"release": "release", "registration": "registration"})
def deploy(config: DeployConfig, release: Manifest, registration: Manifest, ctx: StepContext) -> Draft:
    """Verify the release, serve it with vLLM on loopback, and test it.

    What is not the release that was registered is refused. A test that fails is a finding, for promotion to act on; so
    is an engine that does not start. Without a serving environment nothing is served, and the output says so.
    """
    from tokenmill.serving import serving_available

    registered = ctx.read_json(registration, REGISTRATION)
    if registered["model"] != release.digest:
        raise InputError(
            f"{registered['name']} version {registered['version']} is {registered['model'][:12]}, not the release "
            f"{release.digest[:12]}: deploy what is registered"
        )
    folder = ctx.files(release)
    verify(folder, expected=release.shard(RELEASE).content)
    vouched_for(ctx.store, release, trusted_keys())
    began = time.monotonic()
    available, reason = serving_available()
    found: dict[str, Any] = {"served": False, "ok": False, "reason": reason}
    if available:
        found = _serve(config, folder, str(registered["name"]), ctx)
    else:
        ctx.log.warning("not served", reason=reason)
    value = {
        "release": release.digest,
        "name": registered["name"],
        "version": registered["version"],
        "question": config.question,
        "seconds": round(time.monotonic() - began, 1),
    }
    counts = {"served": int(found["served"]), "ok": int(found["ok"])}
    return ctx.write_json("deployment", DEPLOYMENT, value | found, counts=counts)


def _serve(config: DeployConfig, folder: Path, name: str, ctx: StepContext) -> dict[str, Any]:
    import torch

    from tokenmill.deployment.server import VLLMServer
    from tokenmill.deployment.smoke import smoke_test
    from tokenmill.serving import EngineError

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    began = time.monotonic()
    server = VLLMServer(
        folder,
        log=ctx.workdir / "vllm.log",
        name=name,
        start_timeout_s=config.start_timeout_s,
        progress=lambda line: ctx.log.info(line),
    )
    try:
        with server:
            healthy = round(time.monotonic() - began, 1)
            smoke = smoke_test(server, folder, config)
    except EngineError as failed:
        return {"served": True, "ok": False, "reason": str(failed)}
    ctx.log.info("smoke test", ok=smoke.ok, answer=smoke.answer, reason=smoke.to_json()["reason"])
    return {"served": True, "healthy_after_s": healthy} | smoke.to_json()
