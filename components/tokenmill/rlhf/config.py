"""Options of RLHF. Defaults are the report's (§4.2) where it speaks; "not published" where it is silent."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tokenmill.config import Execution, Section, StepConfig
from tokenmill.judge import JudgeExecution
from tokenmill.overlap import OverlapConfig
from tokenmill.rlhf.judge_config import JudgeConfig
from tokenmill.training.settings import AnomalyConfig, ChoosingConfig, OptimConfig, TrainingConfig, TrainingExecution


class ReadPreferencesConfig(OverlapConfig):
    """The users' own pairs, from sources of type `preferences`; and what counts as a copy of a question of evaluation."""

    domains: dict[str, str] = Field(default_factory=dict, description="source → domain of its pairs that name none")
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="domain of your own → the system prompt under which the reward model judges it, beside those of "
        "rm_prompts.yaml (helpful, harmless, code, math)",
    )
    max_rejected: float = Field(
        0.01, ge=0, le=1, description="share of unusable records of such sources above which the step stops"
    )


class CollectPreferencesConfig(StepConfig):
    """Pairs of answers to the same request. The report's 2.4M labelled pairs are not open; these are a laptop's."""

    heldout_templates: int = Field(4, ge=1, description="templates that no reward model is trained on")
    heldout_own: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of the first questions of people's own pairs that are held out; not published",
    )
    judge_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the questions not held out whose pairs only a second reward model learns, which judges what the "
        "others' reward is worth; 0: none; ours",
    )
    heldout_queries: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="share of requests that PPO never asks, at least all of held-out templates; not published",
    )
    broken_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="of answers: also a pair of it and a copy with words in disorder, missing or said twice",
    )
    max_length_gap: float = Field(0.1, gt=0, description="between chosen and rejected answers' mean tokens, relative")
    seed: int = Field(1024, description="of what is broken, and how")


class RewardModelConfig(ChoosingConfig):
    """The conditional reward model (report §4.2.1). The best weights are the most accurate."""

    validation_share: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="share of the first questions whose pairs are not learned but measured, where evaluations > 0; not "
        "published",
    )
    batch_tokens: int = Field(16_384, ge=32, description="tokens of pairs an optimizer step, over all ranks (§4.2.1)")
    max_length: int = Field(8192, ge=16, description="tokens of one side of a pair, system prompt included (§4.2.1)")
    gamma: float = Field(2.0, ge=0, description="exponent of the focal decay; 0 = plain ranking loss (§4.2.1)")
    penalty: float = Field(0.02, ge=0, description="weight of the barrier that keeps scores within the bound (§4.2.1)")
    penalty_reduction: Literal["mean", "sum"] = Field("mean", description="over a pair's two scores; not published")
    bound: float = Field(5.0, gt=0, description="scores stay in (-bound, bound) (§4.2.1)")
    max_set_aside: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of pairs that may be unusable: equal sides, too long, no prompt, unreadable",
    )
    max_pairs: int | None = Field(None, ge=2, description="train on so many pairs only (the negative control)")
    shuffle_labels: bool = Field(False, description="swap half of the pairs: a control that must learn nothing")
    anomaly: AnomalyConfig = Field(
        AnomalyConfig(spike_mads=0),
        description="a ranking loss comes close to 0, and any hard batch stands far above that",
    )
    optim: OptimConfig = Field(
        OptimConfig(lr=1e-5, final_lr_ratio=0.5, warmup_ratio=0.03, weight_decay=0.01),
        description="AdamW, decay 0.01, cosine 1e-5 → 5e-6 (§4.2.1); warm-up is XTuner's",
    )

    @model_validator(mode="after")
    def _a_pair_fits(self) -> Self:
        if self.batch_tokens < 2 * self.max_length:
            raise ValueError(f"batch_tokens must hold one pair, 2 × max_length = {2 * self.max_length} tokens")
        return self


class EvaluateRewardModelConfig(StepConfig):
    min_accuracy: float = Field(0.8, ge=0, le=1, description="wanted accuracy in every domain on held-out pairs")
    min_flips: float = Field(0.7, ge=0, le=1, description="share of conflicting pairs that must flip with the prompt")
    bound: float = Field(5.0, gt=0, description="that no score may leave (§4.2.1)")
    max_set_aside: float = Field(0.01, ge=0, le=1, description="share of held-out pairs that may be unusable")
    chance_margin: float = Field(0.15, ge=0, description="how far from 0.5 the control may be on conflicting pairs")
    max_length: int = Field(8192, ge=16, description="tokens of one side of a pair, system prompt included (§4.2.1)")


class SamplingConfig(Section):
    """How answers are drawn."""

    max_new_tokens: int = Field(1024, ge=1, description="tokens an answer at most; not published")
    temperature: float = Field(1.0, gt=0, description="of the distribution; not published")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus that is sampled from (§4.2.3)")


class PPOExecution(TrainingExecution):
    """A training's, and the memory of an engine that draws its answers."""

    engine_kv_cache_mib: int = Field(256, ge=1, description="MiB that vLLM has for keys and values on a CPU")
    engine_gpu_memory: float = Field(
        0.5, gt=0, lt=1, description="share of a GPU that vLLM has while it draws; while PPO learns it sleeps"
    )


class PPOConfig(ChoosingConfig):
    """PPO with four models: actor and critic learn, reference and reward model are frozen (report §4.2.3)."""

    iterations: int = Field(400, ge=1, description="rounds of sampling and learning (§4.2.3: about 400)")
    critic_warmup: int = Field(50, ge=0, description="iterations at the start in which only the critic learns (§4.2.3)")
    evaluations: int = Field(
        8,
        ge=0,
        description="times that the actor is asked what it never learns from, ends included; the policy worth most then "
        "leaves (§4.2.3: the best on validation sets). 0: the last one leaves; not published",
    )
    validation_queries: int = Field(256, ge=1, description="queries of those that are kept for it; not published")
    early_share: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="share of the iterations after which the actor is kept as the early policy, which gives late answers "
        "something to be compared with (§4.2.2); not published",
    )
    answers: int = Field(512, ge=1, description="queries an iteration, one answer each (§4.2.3: 200k queries / 400)")
    block: int = Field(32, ge=1, description="answers of a micro-batch, drawn together; the same on any ranks")
    passes: int = Field(1, ge=1, description="optimizer steps on an iteration's answers; not published")
    sampling: SamplingConfig = SamplingConfig()
    rollouts: Literal["native", "vllm"] = Field(
        "native",
        description="who draws the answers: our own generation, or vLLM as a process of the serving environment. Their chance "
        "differs, so it decides what comes out",
    )
    kl_coefficient: float = Field(0.01, ge=0, description="reward lost a nat of KL against the reference (§4.2.3)")
    kl_target: float | None = Field(
        None,
        gt=0,
        description="nats an answer that the coefficient is steered to from kl_coefficient on; none: it is fixed (§4.2.3)",
    )
    kl_gain: float = Field(0.1, gt=0, lt=1, description="of that steering, an iteration (Ziegler et al. 2019, §2.2)")
    gamma: float = Field(1.0, gt=0, le=1, description="discount; not published")
    gae_lambda: float = Field(0.99, ge=0, le=1, description="of the advantage estimate (§4.2.3)")
    max_ratio_error: float = Field(
        0.05,
        gt=0,
        description="mean distance of importance ratios from 1 before anything is learned from an answer: beyond it what "
        "draws and what learns are not the same model; fp32 has 1e-6, bf16 about 1e-2",
    )
    clip: float = Field(0.2, gt=0, description="importance ratios beyond 1 ± clip gain nothing; not published")
    pretrain_coefficient: float = Field(
        0.5, ge=0, description="of the language-model loss on pretraining data (§4.2.3)"
    )
    pretrain_share: float = Field(0.5, ge=0, description="pretraining tokens a token of PPO data (§4.2.3)")
    pretrain_context: int = Field(4096, ge=2, description="tokens a piece of pretraining data at most; not published")
    critic_lr: float = Field(5e-6, gt=0, description="the critic's rate (§4.2.3); optim.lr is the actor's")
    max_length: int = Field(8192, ge=16, description="tokens the reward model reads at most (§4.2.1)")
    max_set_aside: float = Field(
        0.01, ge=0, le=1, description="share of queries that may be unusable: too long, no prompt"
    )
    execution: PPOExecution = PPOExecution()
    anomaly: AnomalyConfig = Field(AnomalyConfig(spike_mads=0), description="PPO's loss is no measure of how it goes")
    optim: OptimConfig = Field(
        OptimConfig(lr=1e-6, final_lr_ratio=1.0, warmup_ratio=0.0, weight_decay=0.0),
        description="the actor's rate (§4.2.3), constant; schedule and decay are not published",
    )

    @model_validator(mode="after")
    def _answers_fill_blocks(self) -> Self:
        if self.answers % self.block:
            raise ValueError(f"answers ({self.answers}) must be a multiple of block ({self.block})")
        return self


class DPOConfig(TrainingConfig):
    """Direct preference optimisation, which the report has not (Rafailov et al. 2023)."""

    beta: float = Field(
        0.1, gt=0, description="how much a nat against the reference is worth (Rafailov et al. 2023, §6)"
    )
    domain: str | None = Field(
        None, description="of the pairs that are learned; none: all, which may contradict each other"
    )
    batch_tokens: int = Field(
        16_384, ge=32, description="tokens of pairs an optimizer step, as the reward model's (§4.2.1)"
    )
    max_length: int = Field(8192, ge=16, description="tokens of one side of a pair, conditional prompt included")
    max_set_aside: float = Field(0.01, ge=0, le=1, description="share of pairs that may be unusable")
    anomaly: AnomalyConfig = Field(AnomalyConfig(spike_mads=0), description="a preference loss comes close to 0")
    optim: OptimConfig = Field(
        OptimConfig(lr=1e-6, final_lr_ratio=0.0, warmup_ratio=0.1, weight_decay=0.0),
        description="rate and warm-up as in Rafailov et al. 2023, appendix B, whose optimizer is RMSprop",
    )

    @model_validator(mode="after")
    def _a_pair_fits(self) -> Self:
        if self.batch_tokens < 2 * self.max_length:
            raise ValueError(f"batch_tokens must hold one pair, 2 × max_length = {2 * self.max_length} tokens")
        return self


class ProbeExecution(Execution):
    """Where the held-out judge is, if it is none of ours."""

    judge: JudgeExecution = JudgeExecution()


class ProbeConfig(StepConfig):
    """What PPO has learned, on queries it has not seen (report §4.2.2)."""

    queries: int = Field(
        128, ge=2, description="held-out queries on which gain, length and KL are judged; not published"
    )
    patch_queries: int = Field(
        100,
        ge=0,
        description="further held-out queries, whose answers become patches: no reward model learns the judged ones",
    )
    sampling: SamplingConfig = SamplingConfig()
    max_kl: float = Field(10.0, gt=0, description="nats an answer that the policy may stray from SFT; not published")
    max_length_change: float = Field(0.2, gt=0, description="of the mean answer's length, relative; not published")
    gold_questions: int = Field(64, ge=1, description="questions with a known answer, before and after; not published")
    max_gold_loss: float = Field(
        0.05, ge=0, description="share of right answers that a round may cost; more, beyond chance, refuses its policy"
    )
    max_format_loss: float = Field(
        0.065,
        ge=0,
        description="share of answers in the wanted form that it may cost (IFEval fell by 6.5 points at 20B)",
    )
    min_share: float = Field(0.3, gt=0, le=1, description="of late answers, for a pattern to be a hack; not published")
    min_lift: float = Field(3.0, ge=1, description="times more frequent than early; not published")
    min_patches: int = Field(20, ge=0, description="pairs a pattern below which a warning is given (§4.2.2)")
    max_patches: int = Field(100, ge=1, description="pairs a pattern at most (§4.2.2: 20 to 100 stop it)")
    max_length: int = Field(8192, ge=16, description="tokens the reward model reads at most (§4.2.1)")
    judge: JudgeConfig = JudgeConfig()
    seed: int = Field(1024, description="of the answers and the bootstrap")
    execution: ProbeExecution = ProbeExecution()


Check = Literal[
    "reward_grew", "kl_within_limit", "length_kept", "gold_kept", "format_kept", "judge_kept", "not_below_last"
]


class DecideConfig(StepConfig):
    """The stop rule. Its limits are the probe's; here is what follows from a check that failed."""

    required: tuple[Check, ...] = Field(
        ("reward_grew", "kl_within_limit", "gold_kept", "format_kept", "not_below_last"),
        description="checks without which a round's policy is not handed on, and no further round runs; length_kept "
        "and judge_kept are told only: where they fail it is also a hack, which the next round's patches mend",
    )
    needs_gain: bool = Field(
        True,
        description="no further round after one that gained nothing beyond chance over the last, and found no hack",
    )
    retry_refused: bool = Field(
        False, description="after a refused round whose hacks have patches, another one from SFT instead of the end"
    )


class SnapshotAnnotationsConfig(StepConfig):
    """What people have labelled so far, as preferences."""

    min_labels: int = Field(1, ge=1, description="labels of a pair, of different annotators, before it counts")
    retention_days: float | None = Field(
        365, gt=0, description="age of an import at which annotators and times are dropped; the pairs stay; null: never"
    )


class RLHFConfig(Section):
    """The section `rlhf` of a preset."""

    read_preferences: ReadPreferencesConfig = ReadPreferencesConfig()
    collect_preferences: CollectPreferencesConfig = CollectPreferencesConfig()
    train_reward_model: RewardModelConfig = RewardModelConfig()
    evaluate_reward_model: EvaluateRewardModelConfig = EvaluateRewardModelConfig()
    ppo: PPOConfig = PPOConfig()
    dpo: DPOConfig = DPOConfig()
    probe: ProbeConfig = ProbeConfig()
    decide: DecideConfig = DecideConfig()
    snapshot_annotations: SnapshotAnnotationsConfig = SnapshotAnnotationsConfig()

    @model_validator(mode="after")
    def _one_held_out_judge(self) -> Self:
        if self.probe.judge.model and self.collect_preferences.judge_share:
            raise ValueError("two held-out judges: with probe.judge.model, collect_preferences.judge_share must be 0")
        return self
