"""Settings that every training step has. No torch here: resolving a config must stay fast."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tokenmill.config import Execution, Section, StepConfig
from tokenmill.model.config import Kernel, Recompute
from tokenmill.training.flops import ACCELERATORS


class BudgetConfig(Section):
    """What a training may spend. One that is used up ends it after a checkpoint; a rerun with a higher one goes on."""

    price_per_hour: float | None = Field(None, ge=0, description="of one device, in your currency; for cost")
    cost: float | None = Field(None, gt=0, description="stop when the training has cost so much; needs a price")
    watts: float | None = Field(None, gt=0, description="of one device, for energy; by default its data sheet's")
    mfu_below: float = Field(0.0, ge=0, le=1, description="stop when the MFU stays below it; 0 = never")
    mfu_minutes: float = Field(10.0, ge=0, description="minutes that it may stay below")

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> Self:
        if self.cost is not None and self.price_per_hour is None:
            raise ValueError("cost needs price_per_hour")
        return self


class ClusterConfig(Section):
    """A node's pod where ranks are started by Volcano."""

    namespace: str = Field("default", description="of the job")
    queue: str = Field("default", description="Volcano's")
    service_account: str = Field("", description="of the pods; by default the namespace's")
    keys_from: str = Field("tokenmill-store", description="Secret with the store's access-key and secret-key")
    gpus: bool = Field(True, description="a GPU for every rank")
    cpus: float = Field(32, gt=0, description="processors a node")
    memory_gib: float = Field(400, gt=0, description="memory a node, GiB")
    instance_type: str = Field(
        "", description="label node.kubernetes.io/instance-type that nodes must have; by default any"
    )


class TrainingExecution(Execution):
    """How training is laid out; never part of what comes out of it."""

    ranks: int = Field(2, ge=1, description="processes; one GPU each where there are GPUs")
    nodes: int = Field(1, ge=1, description="hosts that the ranks are spread over, equally many on each")
    checkpoint_every: int = Field(50, ge=1, description="optimizer steps between checkpoints; not published")
    micro_batch_tokens: int = Field(
        4096,
        ge=1,
        description="tokens a rank computes on at once, at least one pack or pair of answers; what it has of a step beyond "
        "that is computed in turn, for the same gradient with less memory. PPO's is rlhf.ppo.block",
    )
    keep_last: int = Field(2, ge=1, description="complete checkpoints that are kept; not published")
    keep_every: int = Field(0, ge=0, description="> 0: also the first checkpoint of every so many steps, until the end")
    zero_stage: int = Field(1, ge=0, le=3, description="DeepSpeed ZeRO stage (report §2.1 shards optimizer states)")
    scheduler: str = Field("local_cwd", description="torchx scheduler: local_cwd, or kubernetes for a Volcano job")
    rendezvous_port: int = Field(
        29_500, ge=1, le=65535, description="where several nodes meet, on the first of them; one alone takes any"
    )
    cluster: ClusterConfig = ClusterConfig()
    log_every: int = Field(1, ge=1, description="optimizer steps between metric events")
    stuck_after_s: float = Field(
        45,
        gt=0,
        description="seconds without a sign of life or progress that end the ranks; with 45 a stopped one is named within 60",
    )
    health_port: int | None = Field(
        None, ge=0, le=65535, description="of /healthz on every node; 0 = any; none by default"
    )
    max_rollbacks: int = Field(3, ge=0, description="times that steps are left out before it fails; not published")
    recompute: Recompute = Field(
        "none",
        description="what the backward pass computes again instead of keeping: selective, all but matrix products and "
        "attention; full, every layer from its input",
    )
    attention: Kernel = Field(
        "auto", description="kernel: flash-attn's, PyTorch's variable-length one, or its scaled dot product a sequence"
    )
    offload_optimizer: bool = Field(
        False, description="keep optimizer states and their update on the CPU (ZeRO 1 to 3)"
    )
    shard_group: int = Field(
        0,
        ge=0,
        description="ranks that share what ZeRO shards, as within a node (report §2.1); 0 = all. Others are not there yet",
    )
    sequence_parallel: int = Field(
        1, ge=1, description="ranks that share one sequence (DeepSpeed Ulysses). More than 1 is not there yet"
    )
    accelerator: str = Field("", description="whose peak MFU is a share of: a100, h100, …; by default what CUDA names")
    budget: BudgetConfig = BudgetConfig()

    @model_validator(mode="after")
    def _is_there(self) -> Self:
        if self.ranks % self.nodes:
            raise ValueError(f"{self.ranks} ranks cannot be spread over {self.nodes} nodes: give each equally many")
        if self.shard_group or self.sequence_parallel > 1:
            raise ValueError("shard_group and sequence_parallel are not there yet: leave them at 0 and 1")
        if self.accelerator and self.accelerator not in ACCELERATORS:
            raise ValueError(f"accelerator {self.accelerator!r} is not known; known are {', '.join(ACCELERATORS)}")
        if self.offload_optimizer and not self.zero_stage:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        return self


class OptimConfig(Section):
    """AdamW and its schedule (report §3.3: cosine to 10% of the peak; betas, decay and clip from InternEvo's configs)."""

    lr: float = Field(3e-4, gt=0, description="peak learning rate (report Table 3)")
    final_lr_ratio: float = Field(0.1, ge=0, le=1, description="last rate over peak (report §3.3)")
    warmup_ratio: float = Field(0.01, ge=0, lt=1, description="share of steps with linear warm-up; not published")
    steps_before: int = Field(
        0,
        ge=0,
        description="optimizer steps of this schedule in earlier stages, which have the same lr, warm-up and end",
    )
    steps_after: int = Field(0, ge=0, description="optimizer steps of this schedule in later stages")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW betas (report §3.3)")
    eps: float = Field(1e-8, description="AdamW epsilon")
    weight_decay: float = Field(0.1, ge=0, description="on matrices only")
    clip: float = Field(1.0, gt=0, description="global gradient norm")


class AnomalyConfig(Section):
    """Which steps a training goes back before and leaves out; one that is not finite always is."""

    window: int = Field(128, ge=4, description="losses that a step is measured by; not published")
    spike_mads: float = Field(
        6.0,
        ge=0,
        description="median absolute deviations above the window's median that are a spike; 0 = never; not published",
    )
    spike_steps: int = Field(3, ge=1, description="steps in a row that are a spike together; not published")


class TrainingConfig(StepConfig):
    """Fields that every training step has."""

    seed: int = Field(1024, description="InternEvo's default seed")
    precision: Literal["fp32", "bf16"] = Field(
        "bf16", description="of weights and activations, on any device; the optimizer's are fp32 (InternEvo's configs)"
    )
    optim: OptimConfig = OptimConfig()
    anomaly: AnomalyConfig = AnomalyConfig()
    execution: TrainingExecution = TrainingExecution()


class ChoosingConfig(TrainingConfig):
    """A training whose best weights may leave, where its last would."""

    evaluations: int = Field(
        0,
        ge=0,
        description="times that held-out data are measured, evenly from start to end; the best weights then leave. 0: the "
        "last leave; not published",
    )

    @model_validator(mode="after")
    def _there_is_a_choice(self) -> Self:
        if self.evaluations == 1:
            raise ValueError("one evaluation is of the start alone, and chooses nothing: give 2 or more, or 0")
        if self.evaluations and self.execution.zero_stage > 2:
            raise ValueError(
                "weights of the way are written whole: with evaluations > 0 set execution.zero_stage to 2 or less"
            )
        return self


class LoRAConfig(Section):
    """Adapters in the place of the whole model (Hu et al. 2021; XTuner trains at rank 64, α 16, dropout 0.1)."""

    rank: int = Field(0, ge=0, description="columns of an adapter's matrices; 0: the whole model is trained")
    alpha: float = Field(16.0, gt=0, description="an adapter counts α / rank times")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of an adapter's inputs that are left out")
    targets: tuple[Literal["wqkv", "wo", "w1", "w2", "w3"], ...] = Field(
        ("wqkv", "wo", "w1", "w2", "w3"), min_length=1, description="linear maps of every layer that get one"
    )


class StageConfig(TrainingConfig):
    """One stage of language-model training: a context, a budget, a mixture."""

    model: str = Field("internlm2-7b", description="model preset")
    context: int = Field(4096, description="tokens a sequence (report §3.3)")
    short_context: int = Field(0, description="> 0: half of the tokens come from documents up to this length (phase 2)")
    rope_theta: float = Field(50_000.0, description="RoPE base (report §3.3: 50k, then 1M)")
    tokens: int = Field(2_000_000_000_000, description="training tokens of the stage (report: 2.0–2.6T in all)")
    batch_tokens: int = Field(4_194_304, description="tokens an optimizer step (report Table 3: 4M, 5M for 20B)")
    ramp_tokens: int = Field(
        0, ge=0, description="tokens of the first step, where batches grow to batch_tokens; not published"
    )
    ramp_steps: int = Field(0, ge=0, description="optimizer steps over which they grow; 0: all are of one size")
    evaluations: int = Field(4, ge=1, description="times the held-out loss is measured, ends included")
    heldout_tokens: int = Field(8_192, description="held-out tokens a measurement; not published")
    kept: int = Field(
        0,
        ge=0,
        description="weights of the way that are kept, equally far apart, the last among them, to be scored later; 0: none. "
        "Not published",
    )
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="after")
    def _batches_grow(self) -> Self:
        if self.ramp_steps and not 0 < self.ramp_tokens <= self.batch_tokens:
            raise ValueError(f"ramp_tokens must lie between 1 and batch_tokens, {self.batch_tokens}")
        return self

    @model_validator(mode="after")
    def _whole_weights_are_kept(self) -> Self:
        if self.kept and self.execution.zero_stage > 2:
            raise ValueError(
                "weights of the way are written whole: with kept > 0 set execution.zero_stage to 2 or less"
            )
        return self
