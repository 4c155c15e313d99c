"""Options of evaluation. The report gives neither sample sizes nor limits for a gate: what is not cited is ours."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from tokenmill.config import Execution, Section, StepConfig
from tokenmill.judge import JudgeExecution
from tokenmill.overlap import OverlapConfig
from tokenmill.overlap.near import NearRule


class PrepareConfig(StepConfig):
    """Small suites with verifiable answers, drawn with a fixed seed."""

    seed: int = Field(2403, description="of every draw and of the generated questions; other than any training seed")
    perplexity_bytes: int = Field(200_000, ge=500, description="text of a domain's perplexity set, bytes of UTF-8")
    document_bytes: int = Field(8_000, ge=200, description="of a longer document only its beginning is read")
    questions: int = Field(200, ge=4, description="questions a suite of choices or generated answers, at most")
    choices: int = Field(4, ge=2, description="continuations to choose from in next_line")
    prompts: int = Field(200, ge=4, description="prompts of the instruction-format suite, at most")
    safety: int = Field(96, ge=0, description="requests of the safety suite, at most, half of them harmless; 0: none")
    contamination: int = Field(500, ge=4, description="samples a split of the contamination analysis, at most")


class EvaluateExecution(Execution):
    """How the forward passes are laid out, and where the judge is."""

    batch_tokens: int = Field(8_192, ge=128, description="tokens a scoring pass")
    batch_rows: int = Field(64, ge=1, description="answers that are generated together")
    judge: JudgeExecution = JudgeExecution()


class JudgeConfig(Section):
    """The model that grades the answers of datasets with `metric: judge`."""

    model: str = Field("", description="its name in requests; what it graded under a name is not graded again")
    max_tokens: int = Field(
        1_024, ge=1, description="tokens that it may explain itself in, with its verdict at their end"
    )
    max_ungraded: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of a suite's answers that may be without its verdict; they are left out, counted",
    )


class NeedlesConfig(StepConfig):
    """One sentence in a long text, at several lengths and depths."""

    lengths: tuple[int, ...] = Field(
        (1_000, 4_000, 8_000, 16_000, 32_000),
        min_length=1,
        description="tokens of the text with its needle, by the model's own tokenizer (report: 1K to 200K, by GPT-4's); "
        "leave room below the context for the question and its answer",
    )
    depths: tuple[float, ...] = Field(
        (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100), min_length=1, description="where it lies, percent of the text"
    )
    needle: str = Field("The magic number of this text is {number}.", description="the sentence; {number} is drawn")
    question: str = Field("What is the magic number of this text?", description="asked after the text")
    seed: int = Field(2403, description="of the numbers")


class EvaluateConfig(StepConfig):
    """One model on all suites."""

    label: str = Field("", description="what the model is called in a verdict, e.g. base, sft, chat")
    form: Literal["chat", "plain"] = Field(
        "chat",
        description="chat: questions as ChatML; plain: `Question: … Answer:`. The format suite is ChatML for all: what a base "
        "model makes of it is what fine-tuning starts from",
    )
    answer_tokens: int = Field(256, ge=1, description="tokens an answer may have")
    resamples: int = Field(1_000, ge=100, description="bootstrap resamples of an interval")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the intervals")
    seed: int = Field(0, description="of the bootstrap; answers are greedy")
    judge: JudgeConfig = JudgeConfig()
    execution: EvaluateExecution = EvaluateExecution()


class EndpointExecution(EvaluateExecution):
    """Where the served model is, and how it is asked. Its key, where it wants one, is in TOKENMILL_ENDPOINT_KEY."""

    url: str = Field("", description="of an OpenAI-compatible server that takes token ids, e.g. vLLM; `/v1` or not")
    concurrency: int = Field(16, ge=1, description="requests under way together")
    timeout_s: float = Field(600.0, gt=0, description="of a request, seconds")
    tries: int = Field(4, ge=1, description="of a request that a busy or absent server did not answer")


class EndpointConfig(EvaluateConfig):
    """A served model on all suites; the same options, and so the same questions, as in this process."""

    model: str = Field("", description="its name in requests")
    execution: EndpointExecution = EndpointExecution()


class FollowConfig(StepConfig):
    """The weights that a training kept of its way, on a light suite."""

    suites: tuple[str, ...] = Field(
        ("perplexity/*", "choice/*", "likelihood/*"),
        description="suites, as shell patterns: those that need no answers",
    )
    questions: int = Field(100, ge=4, description="questions a suite, at most: the first of them")
    sigmas: float = Field(
        3.0,
        gt=0,
        description="standard errors of a paired difference that a score falls by, from the best so far: a drop",
    )
    resamples: int = Field(1_000, ge=100, description="bootstrap resamples")
    seed: int = Field(0, description="of the bootstrap")
    execution: EvaluateExecution = EvaluateExecution()


class LmEvalExecution(EndpointExecution):
    """As of an endpoint; without a URL the model runs in this process."""

    include_path: str = Field("", description="folder with tasks of your own, beside those that lm-eval brings")


class LmEvalConfig(EndpointConfig):
    """Tasks of lm-eval, asked plainly as they stand, whatever `form` says."""

    tasks: tuple[str, ...] = Field((), description="lm-eval's names of tasks")
    num_fewshot: int | None = Field(None, ge=0, description="examples before a question; null: what the task says")
    limit: int | None = Field(None, ge=1, description="of each task only the first so many questions; null: all")
    execution: LmEvalExecution = LmEvalExecution()


class CollectConfig(StepConfig):
    pass


class CurrentConfig(StepConfig):
    """The model in use."""

    alias: str = Field("production", description="alias under which it stands in the model registry")
    name: str | None = Field(None, description="its name there; null: internlm2-chat-<preset>")


class ContaminationConfig(OverlapConfig):
    """Overlap of the questions with everything that the model was trained on."""

    near: NearRule = NearRule()
    label_words: int = Field(
        64,
        ge=0,
        description="units after a copied question within which its answer makes it input+label; not published",
    )


class Limits(Section):
    """The range in which a suite's value must lie."""

    min: float | None = Field(None, description="lowest value that passes")
    max: float | None = Field(None, description="highest value that passes")


class ReferenceLimits(Section):
    """What the candidate owes to one reference model, on the same questions."""

    no_regression: tuple[str, ...] = Field(
        ("choice/*", "likelihood/*", "generate/*", "code/*", "format/*"),
        description="suites, as shell patterns, on which it must not be worse beyond chance (paired bootstrap)",
    )
    tolerance: float = Field(0.0, ge=0, description="loss of accuracy that is accepted beyond chance")
    max_perplexity_ratio: dict[str, float] = Field(
        {"perplexity/*": 1.1},
        description="suite → highest candidate / reference perplexity, of the same text and a token of the reference's",
    )


class LicencePolicy(Section):
    """Which licences may stand behind a model: of every source and every imported model in its lineage.

    Patterns of the shell against each licence in SPDX's spelling, without case, whatever way it was written; `*-NC-*` finds
    the word NC anywhere in it, and `unknown` is what nobody stated.
    """

    allow: tuple[str, ...] | None = Field(None, description="licences that may; null: all that are not denied")
    deny: tuple[str, ...] = Field(
        ("unknown", "proprietary*", "*-NC-*", "*-ND-*"),
        description="licences that may not; by default what nobody stated, and what forbids commercial use or changes",
    )


class CostCeiling(Section):
    """What all trainings behind a model may have cost, counted by their operations as `tokenmill plan` counts them."""

    most: float = Field(gt=0, description="cost that passes, in your currency")
    price_per_hour: float = Field(gt=0, description="of one accelerator, in your currency")
    accelerator: str = Field("h100", description="whose peak counts: a name that `tokenmill plan` knows")
    mfu: float = Field(0.4, gt=0, le=1, description="share of the peak that trainings reach; not published")


class GateConfig(StepConfig):
    """What a model must show before it may be released. Evidence that is missing fails."""

    limits: dict[str, Limits] = Field(
        {"format/chat": Limits(min=0.9)},
        description="suite → range; 90% well-formed answers are the least for a chat model",
    )
    references: dict[str, ReferenceLimits] = Field(
        default_factory=dict, description="label of a reference evaluation → what is owed to it"
    )
    max_delta1: float | None = Field(
        0.1,
        description="highest |Δ1| = |L(test) − L(reference)|, nats a token; a low Δ1 is a leaked test (report §5.4)",
    )
    max_delta2: float | None = Field(
        None,
        description="highest |Δ2| = |L(test) − L(train)|; the released models show 0.34, so by default it is only told",
    )
    delta_sigmas: float = Field(3.0, ge=0, description="standard errors that a Δ must exceed to count")
    max_contaminated: dict[str, float] | None = Field(
        {"choice/*": 0.1, "likelihood/*": 0.1, "generate/*": 0.0, "code/*": 0.0},
        description="suites → highest share of questions found in training data (natural text repeats itself: licences, "
        "refrains, so next_line is never quite clean); null: not asked",
    )
    max_near: dict[str, float] | None = Field(
        None, description="suites → highest share of questions that training data reword; null: only told"
    )
    max_unsearchable: float = Field(
        0.1,
        ge=0,
        le=1,
        description="highest share of such a suite's questions that cannot be looked for: too short, or all their wording "
        "is shared with others of the suite; they are no evidence that training data are clean",
    )
    licences: LicencePolicy | None = Field(
        LicencePolicy(), description="of every source in the model's lineage; null: not asked"
    )
    cost: CostCeiling | None = Field(None, description="of all trainings in the model's lineage; null: not asked")
    current: ReferenceLimits | None = Field(
        ReferenceLimits(),
        description="what is owed to the model in use (evaluation.current); nothing where there is none; null: not asked",
    )
    template: bool = Field(
        True, description="whether the tokenizer's chat template must give the very ids that models are trained on"
    )
    resamples: int = Field(1_000, ge=100, description="bootstrap resamples of a paired comparison")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of a paired comparison")
    seed: int = Field(0, description="of the bootstrap")


GROUPS: dict[str, tuple[str, ...]] = {
    name: tuple(patterns)
    for name, patterns in yaml.safe_load((Path(__file__).parent / "groups.yaml").read_text()).items()
}


class CompareConfig(StepConfig):
    """Two evaluations of the same questions, a capability group."""

    groups: dict[str, tuple[str, ...]] = Field(
        GROUPS,
        description="group → suites, as shell patterns; a suite counts in the first that names it (report Figure 12)",
    )
    resamples: int = Field(1_000, ge=100, description="bootstrap resamples of a difference's standard error")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of a difference's interval")
    seed: int = Field(0, description="of the bootstrap")


class BoardConfig(StepConfig):
    """Models and their scores side by side."""

    suite: str = Field(
        "", description="base or chat: its datasets in its order, and the report's scores; empty: all there is"
    )


class EvaluationConfig(Section):
    """The section `evaluation` of a preset."""

    prepare: PrepareConfig = PrepareConfig()
    needles: NeedlesConfig = NeedlesConfig()
    evaluate: LmEvalConfig = Field(
        LmEvalConfig(),
        description="of `evaluate`, `evaluate_endpoint` and `lm_eval`, each of which reads its own fields",
    )
    current: CurrentConfig = CurrentConfig()
    follow: FollowConfig = FollowConfig()
    collect_training_sets: CollectConfig = CollectConfig()
    contamination: ContaminationConfig = ContaminationConfig()
    compare: CompareConfig = CompareConfig()
    board: BoardConfig = BoardConfig()
    gate: GateConfig = GateConfig()
