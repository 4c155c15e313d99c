"""What a launcher and its ranks tell each other, through the store: spec.json out; result.json or failure.json back."""

from typing import Any

from pydantic import Field

from tokenmill.manifest import Draft, Frozen
from tokenmill.tracking import RunRef


class Spec(Frozen):
    """spec.json: all that the ranks of one attempt at a training step are told. No secrets."""

    store: str = Field(description="URI of the store")
    step: str
    version: int
    config: dict[str, Any] = Field(description="the step's config with its execution, defaults left out")
    inputs: dict[str, tuple[str, ...]] = Field(description="role → digests of manifests")
    key: str = Field(description="action key")
    attempt: str = Field(description="holder of the lease on the key")
    run: RunRef
    task: str = Field(description="whose events the ranks' metrics join")

    @property
    def folder(self) -> str:
        return f"work/{self.key}/{self.attempt}"

    @property
    def uri(self) -> str:
        return f"{self.store}/{self.folder}/spec.json"


class Result(Frozen):
    """result.json: written last, by rank 0; everything that it names is stored by then."""

    outputs: dict[str, Draft] = Field(description="role → artifact")


class Failure(Frozen):
    """failure.json: written by the first rank that fails."""

    rank: int
    message: str = Field(description="what a person is told")
    expected: bool = Field(description="whether the message says it all; else the traceback goes to the log")
    retry: bool = Field(description="a checkpoint is written: run again to go on from there")
    rollback: bool = Field(description="steps are to be left out: start the ranks again, they go on before these")
    traceback: str
