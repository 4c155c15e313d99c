"""What each kind of event says: the `data` of `EventLog`'s files, and the types that its methods are held to."""

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic reads the standard library's from Python 3.12 on

Status = Literal["succeeded", "failed", "cancelled"]
Cache = Literal["hit", "miss", "effect"]
Number = float | Literal["nan", "inf", "-inf"]
"""JSON has no NaN: a diverged loss is kept as the word and read back with `float`."""


class RunOpened(TypedDict):
    config: dict[str, Any]
    """The resolved tree that the steps take their sections from."""


class StepStarted(TypedDict):
    step: str
    version: int
    config: dict[str, Any]
    """Identity config, the hashed part."""
    config_sha256: str
    options: dict[str, Any]
    """Every option, execution and defaults too: what MLflow shows as params."""
    inputs: dict[str, list[str]]
    """Role → digests."""
    observed: dict[str, Any]
    """Commit, image, host…"""
    tags: dict[str, str]
    budget_s: float | None


class Output(TypedDict):
    """What an event keeps of a manifest; the rest is one read away by its digest."""

    digest: str
    content: str
    kind: str
    step: str
    counts: dict[str, int]
    dropped: dict[str, int]
    bytes: int
    """As stored, what was set aside not counted."""


class StepFinished(TypedDict):
    step: str
    outputs: dict[str, Output]
    cache: Cache
    """An effect is never cached."""
    seconds: float


class StepFailed(TypedDict):
    step: str
    message: str
    exit_code: int


class Metrics(TypedDict):
    values: dict[str, Number]
    step: int
    """For training, the tokens seen."""


class Params(TypedDict):
    values: dict[str, Any]


class Artifact(TypedDict):
    name: str
    blob: str
    """Sha256 of the stored file."""
    on: Literal["step", "run"]


class Model(TypedDict):
    name: str
    digest: str
    uri: str
    config: dict[str, Any]
    step: int
    """Tokens seen."""
    metrics: dict[str, Number]


class RunClosed(TypedDict):
    status: Status
    message: str


Kind = Literal[
    "run_opened",
    "step_started",
    "step_finished",
    "step_failed",
    "metrics",
    "params",
    "artifact",
    "model",
    "run_closed",
]
KINDS: dict[Kind, type] = {
    "run_opened": RunOpened,
    "step_started": StepStarted,
    "step_finished": StepFinished,
    "step_failed": StepFailed,
    "metrics": Metrics,
    "params": Params,
    "artifact": Artifact,
    "model": Model,
    "run_closed": RunClosed,
}
