"""The canary's Job: watch stable and candidate step by step, then send everybody to the candidate or nobody.

python -m tokenmill.deployment.rollout PLAN.json       exit code 0: promoted; 3: rolled back; 2: it could not judge

Helm runs it as a hook after an upgrade that adds a candidate. A rollback fails the hook, and with `--rollback-on-failure`
(Helm 4; `--atomic` before) Helm then takes the candidate away. The plan comes from the chart, the API key from API_KEY.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import orjson
import typer
from pydantic import Field, ValidationError

from tokenmill.deployment.canary import Check, Limits, judge
from tokenmill.deployment.observe import Probe, Prober, Prometheus, traffic
from tokenmill.deployment.traffic import KubernetesApi, Switch
from tokenmill.errors import ConfigError, Interrupted, told_in_one_line
from tokenmill.logs import Log
from tokenmill.manifest import Frozen

ROLLED_BACK = 3
log = Log({"program": "canary"})


class Plan(Frozen):
    """What the chart wants compared, and how."""

    stable: str = Field(description="address of the stable track")
    candidate: str = Field(description="address of the candidate track")
    model: str = Field(description="served name that requests use")
    digest: str = Field("", description="of the candidate's model")
    kind: Literal["HTTPRoute", "Service"] = Field(description="what sends users to a track")
    namespace: str
    name: str = Field(description="of that object")
    candidate_service: str = Field(description="the HTTPRoute's back end whose weight is the candidate's")
    steps: list[int] = Field(description="percent of users a step; an HTTPRoute's only")
    ready_seconds: int = Field(ge=1, description="how long both tracks have to become healthy")
    step_seconds: int = Field(ge=1, description="how long each step is watched")
    rounds: int = Field(1, ge=1, description="how often every probe is asked a step")
    probes: list[Probe] = Field(min_length=1)
    limits: Limits = Limits()
    prometheus: Prometheus | None = None


def roll_out(
    plan: Plan, switch: Switch, prober: Prober, *, sleep: Callable[[float], None] = time.sleep
) -> tuple[bool, list[Check]]:
    """Whether the candidate was promoted, and the checks of its last step. Users are back at stable if it was not.

    Whatever goes wrong while it judges (a Prometheus away, an API that refuses) leaves users at stable, too.
    """
    checks: list[Check] = []
    try:
        for url in (plan.stable, plan.candidate):
            prober.wait(url, plan.ready_seconds)
        for percent in plan.steps if plan.kind == "HTTPRoute" else [0]:
            switch.candidate_gets(percent)
            began = time.monotonic()
            probed = prober.compare(plan.stable, plan.candidate, plan.rounds)
            sleep(max(0.0, plan.step_seconds - (time.monotonic() - began)))
            users = traffic(plan.prometheus, plan.step_seconds) if plan.prometheus else None
            checks = judge(probed, users, plan.limits, plan.digest)
            log.info("judged", percent=percent, checks=[asdict(check) for check in checks])
            if not all(check.passed for check in checks):
                switch.candidate_gets(0)
                return False, checks
        switch.candidate_gets(100)
    except BaseException:
        switch.candidate_gets(0)
        raise
    return True, checks


def read_plan(path: Path) -> Plan:
    """The plan, or one line that says which of its fields is wrong."""
    try:
        return Plan.model_validate(orjson.loads(path.read_bytes()))
    except ValidationError as wrong:
        first: Any = wrong.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, orjson.JSONDecodeError) as wrong:
        raise ConfigError(f"{path} is no plan: {wrong}") from None


def _stop(signum: int, frame: FrameType | None) -> None:
    """A Job whose time is over leaves users at stable."""
    raise Interrupted("the analysis was stopped before it could judge; users are at stable")


def main(plan: Annotated[Path, typer.Argument(help="what the chart rendered")]) -> None:
    """Judge the candidate, then promote it or roll it back."""
    signal.signal(signal.SIGTERM, _stop)
    with told_in_one_line():
        what = read_plan(plan)
        switch = Switch(KubernetesApi.of_this_pod(), what.kind, what.namespace, what.name, what.candidate_service)
        prober = Prober(what.model, what.probes, key=os.environ.get("API_KEY", ""))
        promoted, checks = roll_out(what, switch, prober)
    for check in checks:
        typer.echo(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.why}")
    typer.echo("promoted: everybody is at the candidate" if promoted else "rolled back: everybody is at stable")
    sys.exit(0 if promoted else ROLLED_BACK)


if __name__ == "__main__":
    typer.run(main)
