"""Options of corpus curation. Where the report gives no number (its rules, LSH bands and classifier thresholds are
unpublished) the description says whose the default is."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tokenmill.config import Execution, Section, StepConfig
from tokenmill.curation.repeats_config import BoilerplateConfig, DeduplicateConfig
from tokenmill.curation.scorer_config import (
    ChooseThresholdsConfig,
    CollectScorersConfig,
    ExportSamplesConfig,
    FineTuneScorerConfig,
    HandOutConfig,
    ImportLabelsConfig,
    ImportScorerConfig,
    ScoreConfig,
    TrainScorerConfig,
    ValidateScorerConfig,
)
from tokenmill.curation.source_config import DocumentType, IngestConfig, RegisterReferenceConfig, RegisterSourcesConfig


class FilterConfig(StepConfig):
    rules: dict[str, dict[str, dict[str, Any] | bool]] = Field(
        default_factory=dict,
        description="changes to rule sets, by set and rule, as {en_web: {length: {low: 20}, stop_words: false}}; "
        "thresholds are Gopher's, C4's and ours (the report's are unpublished)",
    )


Redactable = Literal["email", "phone", "id_card", "card", "ip"]
Thresholds = dict[str, dict[str, Annotated[float, Field(ge=0, le=1)]]]
"""Set, as en_web or any_web → score → threshold."""


class BuildBlockListConfig(StepConfig):
    words: str = Field("words*", description="file names that hold words, one a line; other files hold domains")
    max_rejected: float = Field(0.01, ge=0, le=1, description="share of unusable lines above which the step stops")


class ScreenConfig(StepConfig):
    built_in_lists: bool = Field(True, description="use lists/domains.txt and lists/words_<lang>.txt")
    blocked_domains: tuple[str, ...] = Field((), description="further domains; subdomains are blocked with them")
    blocked_words: tuple[str, ...] = Field((), description="further words, matched whole")
    min_word_hits: int = Field(
        1, ge=1, description="blocked words from which a document goes (lists over-delete: §3.1.1)"
    )
    max_toxic: float = Field(
        0.4,
        ge=0,
        le=1,
        description="scores.toxic above which a document goes (unpublished: ours, for the small scorer)",
    )
    max_porn: float = Field(
        0.4, ge=0, le=1, description="scores.porn above which a document goes (unpublished: ours, for the small scorer)"
    )
    thresholds: Thresholds = Field(
        default_factory=dict,
        description="of toxic and porn for single languages and types, as {zh_web: {toxic: 0.7}}; any_<type> serves "
        "every language",
    )
    redact: tuple[Redactable, ...] = Field(
        ("email", "phone", "id_card", "card", "ip"), description="personal data that a placeholder takes the place of"
    )
    redact_types: tuple[DocumentType, ...] = Field(
        ("web",), description="types that are redacted; the other types are published works, code and problems"
    )


class GradeConfig(StepConfig):
    types: tuple[DocumentType, ...] = Field(
        ("web", "qa"), description="types that are graded; others are cleaner: §3.1.1"
    )
    min_fluency: float = Field(0.2, ge=0, le=1, description="fluency below which a document goes (unpublished: ours)")
    min_not_ad: float = Field(0.2, ge=0, le=1, description="not_ad below which a document goes (unpublished: ours)")
    thresholds: Thresholds = Field(
        default_factory=dict,
        description="of fluency and not_ad for single languages and types, as {en_web: {fluency: 0.3}}; any_<type> "
        "serves every language",
    )


class TierCodeConfig(StepConfig):
    high: float = Field(0.8, ge=0, le=1, description="score from which a file is of the high tier (unpublished: ours)")
    low: float = Field(0.25, ge=0, le=1, description="score below which a file is dropped (unpublished: ours)")
    high_epochs: int = Field(3, ge=2, description="epochs of the high tier: `multiple`, the number is not published")
    rule_languages: tuple[str, ...] = Field(
        ("python", "c", "cpp", "java", "javascript", "typescript", "go", "rust"),
        description="languages that the rule scorer knows; every other is kept apart as `unscored`, for one epoch",
    )
    validated_languages: tuple[str, ...] = Field(
        (),
        description="languages in which scores.code_quality agrees with people on a validated set (report §3.1.2: "
        "curation.validate_scorer tells them); elsewhere a model's score is ignored",
    )


class OrderCodeConfig(StepConfig):
    max_bytes: int = Field(
        200_000, ge=1, description="bytes of text a document, above which a repository goes on in another"
    )


class PlanConfig(StepConfig):
    group_bytes: int = Field(
        1 << 30, ge=1, description="stored bytes a group of shards at most; a group is one task of a parallel loop"
    )


Range = tuple[float | None, float | None]
"""Lowest and highest value; null: no limit."""


class SelectLongExecution(Execution):
    """How the model's passes are laid out. Each worker loads the model: one where there is a GPU."""

    batch_tokens: int = Field(16_384, ge=1, description="tokens a scoring pass, one window at least")


class SelectLongConfig(StepConfig):
    """Which documents are long, sound and coherent. Types and languages are written `book/zh`, `*/en`, `code/*`."""

    execution: SelectLongExecution = SelectLongExecution()
    min_bytes: int = Field(32 * 1024, ge=1, description="UTF-8 bytes above which a document is long (report §3.1.3)")
    statistics: dict[str, dict[str, Range | None]] = Field(
        default_factory=dict,
        description="changes to the ranges that statistics must lie in, by type/language, as {book/en: {connective_rate: "
        "[0.02, null]}, '*/zh': {bar_rate: null}}; null switches one off (thresholds are unpublished: ours)",
    )
    window: int = Field(4096, ge=3, description="tokens of a window (LongWanjuan); at most the model's context")
    tail: int = Field(1024, ge=1, description="tokens at a window's end that are scored (LongWanjuan)")
    most_windows: int = Field(
        0, ge=0, description="windows of a document that are read, evenly spread over it; 0 reads all (LongWanjuan)"
    )
    thresholds: dict[str, float] = Field(
        default_factory=dict,
        description="perplexity difference below which a document is kept, by type/language; 0 where none is set "
        "(the report: below 0, or below the domain's threshold)",
    )
    review_samples: int = Field(
        10, ge=0, description="documents a domain nearest to the threshold, on each side, in review.html"
    )

    @model_validator(mode="after")
    def _far_context(self) -> Self:
        if 2 * self.tail >= self.window:
            raise ValueError(
                f"window {self.window} must be longer than twice tail ({self.tail}): no far context is left"
            )
        return self


class RetrieveConfig(StepConfig):
    """Enhancement data out of a corpus (the report names retrieval, not its method: BM25 is Query of CC's)."""

    category: str = Field("stem", min_length=1, description="what the documents are for; the mixture's shares name it")
    per_question: int = Field(20, ge=1, description="documents a seed question, the best first (ours)")
    min_score: float = Field(0.0, ge=0, description="BM25 score below which a document answers no question")
    k1: float = Field(1.5, ge=0, description="how soon a term's repetitions stop counting (bm25s's default)")
    b: float = Field(0.75, ge=0, le=1, description="how much a long document pays for its length")


class MergeConfig(StepConfig):
    pass


class GatherConfig(StepConfig):
    pass


class FunnelConfig(StepConfig):
    sample: int = Field(300, ge=0, description="documents of each language, about, whose statistics are drawn")
    examples: int = Field(3, ge=0, description="examples that are shown of what each reason dropped")
    excerpt: int = Field(280, ge=0, description="characters of an example's text; 0 shows none")


class CurationConfig(Section):
    """The section `curation` of a preset."""

    register_sources: RegisterSourcesConfig = RegisterSourcesConfig()
    register_reference: RegisterReferenceConfig = RegisterReferenceConfig()
    plan: PlanConfig = PlanConfig()
    ingest: IngestConfig = IngestConfig()
    filter: FilterConfig = FilterConfig()
    strip_boilerplate: BoilerplateConfig = BoilerplateConfig()
    deduplicate: DeduplicateConfig = DeduplicateConfig()
    gather: GatherConfig = GatherConfig()
    build_block_list: BuildBlockListConfig = BuildBlockListConfig()
    import_labels: ImportLabelsConfig = ImportLabelsConfig()
    train_scorer: TrainScorerConfig = TrainScorerConfig()
    fine_tune_scorer: FineTuneScorerConfig = FineTuneScorerConfig()
    import_scorer: ImportScorerConfig = ImportScorerConfig()
    collect_scorers: CollectScorersConfig = CollectScorersConfig()
    score: ScoreConfig = ScoreConfig()
    export_samples: ExportSamplesConfig = ExportSamplesConfig()
    hand_out: HandOutConfig = HandOutConfig()
    validate_scorer: ValidateScorerConfig = ValidateScorerConfig()
    choose_thresholds: ChooseThresholdsConfig = ChooseThresholdsConfig()
    screen: ScreenConfig = ScreenConfig()
    grade: GradeConfig = GradeConfig()
    tier_code: TierCodeConfig = TierCodeConfig()
    order_code: OrderCodeConfig = OrderCodeConfig()
    select_long: SelectLongConfig = SelectLongConfig()
    retrieve: RetrieveConfig = RetrieveConfig()
    merge: MergeConfig = MergeConfig()
    funnel: FunnelConfig = FunnelConfig()
