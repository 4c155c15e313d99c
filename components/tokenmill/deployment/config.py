"""Options of release and serving. What comes from the environment (store, registry, keys) is never here."""

import warnings
from typing import Any, Literal

from pydantic import Field

from tokenmill.config import Execution, Section, StepConfig


class ExtendConfig(StepConfig):
    """A variant for longer texts, as a model of its own."""

    context: int = Field(
        200_000, ge=1, description="tokens that the variant reads (InternLM2's own long variant: 200K, report §5.2.6)"
    )
    factor: float = Field(
        2.0,
        ge=1,
        description="of dynamic NTK, whose base at `context` is fixed (LMDeploy's rope_scaling_factor for 200K)",
    )
    rope_theta: float | None = Field(None, gt=0, description="RoPE base to fix instead; null: what `factor` gives")


class BundleConfig(StepConfig):
    """The release: LLaMA layout, so that servers need none of our code."""

    name: str = Field("internlm2-chat", description="what the card calls the model")


class AttestConfig(StepConfig):
    """An SBOM of what made a release, and a signature. The key comes from the environment and is never here."""


class RegisterConfig(StepConfig):
    """A version in the model registry."""

    role: Literal["base", "chat", "reward"] = Field(
        "chat", description="what the model is for; it is registered as internlm2-<role>-<preset>"
    )
    name: str | None = Field(None, description="another name in the registry")
    alias: str | None = Field("candidate", description="alias that moves to this version; null: none")


class FindConfig(StepConfig):
    """A model that was registered earlier."""

    model: str = Field("", description="models:/name@alias or models:/name/version")


class DeployExecution(Execution):
    """Where a release is served. On a cluster the ConfigMap of the chart `tokenmill` says it for every pipeline."""

    target: Literal["process", "helm"] = Field(
        "process", description="a process on this machine, stopped after its test; or the chart `inference`"
    )
    release: str = Field("chat", pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", description="Helm release")
    namespace: str = Field("default", description="namespace of the release")
    context: str | None = Field(
        None, description="context of the kubeconfig; null: the current one, or the pod's cluster"
    )
    chart: str | None = Field(
        None, description="folder, archive or oci:// of the chart; null: the one that comes along"
    )
    helm: str = Field("helm", description="Helm's program, 3.17 or later")
    values: dict[str, Any] = Field(default_factory=dict, description="values of the chart; the model is filled in")
    canary: bool = Field(True, description="judge another model beside the served one before it takes its place")
    back_to: int | None = Field(None, ge=1, description="revision to go back to instead of an upgrade; null: upgrade")
    url: str | None = Field(
        None, description="where the Service is reached from here; null: its name, from a pod; else `helm test` alone"
    )
    timeout_s: float = Field(3600, gt=0, description="seconds that one `helm upgrade` may take, analysis included")


class DeployConfig(StepConfig):
    """A smoke test against the real engine."""

    execution: DeployExecution = DeployExecution()

    question: str = Field("What is 7 + 5?", description="asked of the served model, and streamed")
    answer_tokens: int = Field(48, ge=1, description="tokens the answer may have")
    parity_tokens: int = Field(24, ge=1, description="greedy tokens a prompt that are compared with our own generation")
    min_agreement: float = Field(
        1.0, ge=0, le=1, description="share of those that must be equal; 1 holds in fp32, where both round almost alike"
    )
    most_parity_gib: float = Field(
        4.0, ge=0, description="GiB of weights above which greedy tokens are not compared: ours are made on the CPU"
    )
    start_timeout_s: float = Field(
        300, gt=0, description="seconds until the engine must be healthy; about 15 are usual"
    )


class PromoteConfig(StepConfig):
    """Which alias a served model gets."""

    alias: str = Field("production", description="alias that moves to a version whose smoke test passed")
    needs_smoke_test: bool = Field(True, description="leave the alias where it is if no engine was there to test with")


with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # `register` is also a method of every class that has ABCMeta

    class DeploymentConfig(Section):
        """The section `deployment` of a preset."""

        extend: ExtendConfig = ExtendConfig()
        bundle: BundleConfig = BundleConfig()
        attest: AttestConfig = AttestConfig()
        register: RegisterConfig = RegisterConfig()
        find: FindConfig = FindConfig()
        deploy: DeployConfig = DeployConfig()
        promote: PromoteConfig = PromoteConfig()
