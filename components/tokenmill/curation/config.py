"""Options of corpus curation. Where the report gives no number (its rules, LSH bands and classifier thresholds are
unpublished) the description says whose the default is."""

from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Discriminator, Field, Tag, model_validator

from tokenmill.config import Execution, Section, StepConfig

DocumentType = Literal["web", "book", "techlit", "code", "math", "qa"]
SourceType = DocumentType | Literal["chat", "preferences"]
"""A source's: conversations and preferences are no documents. Curation passes them over; fine-tuning and RLHF read them."""


class SourceSpec(Section):
    """One source: where it is, what it is, and under which licence it may be used."""

    name: str = Field(description="short name, unique in the run; a code source's name is its repository's")
    uri: str | tuple[str, ...] = Field(
        description="a file or folder; `package:<distribution>[==<version>]/<glob>` for files of an installed Python "
        "distribution; `generator:reasoning-gym/<task>,<task>?size=<n>&seed=<n>`; or several of these"
    )
    type: SourceType = Field(
        description="type of its documents (report §3.1.1); or `chat`: conversations, which fine-tuning reads; or "
        "`preferences`: pairs of answers, which RLHF reads"
    )
    licence: str = Field(
        "", validation_alias=AliasChoices("licence", "license"), description="best as an SPDX identifier; required"
    )
    origin: str = Field("", description="who made it, or where it was found; required")
    dump: str | None = Field(None, description="crawl dump, e.g. 2023-40: of duplicates the newest dump's copy is kept")
    fields: dict[str, str] | None = Field(
        None,
        description="what its JSONL, JSON or Parquet calls our fields, as {text: body, url: meta.link, scores.toxic: tox}; "
        "a name that is not ours is kept in the record's `extra`",
    )


NameOrSpecs = Annotated[
    Annotated[str, Tag("name")] | Annotated[tuple[SourceSpec, ...], Tag("list")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "list"),  # one clear error, not one a branch
]


class RegisterSourcesConfig(StepConfig):
    sources: NameOrSpecs = Field(
        "nano", description="the sources; or the name of a list in sources/, or a path to such a YAML file"
    )


class RegisterReferenceConfig(RegisterSourcesConfig):
    """Problems like the corpus's own, from another seed."""

    sources: str | tuple[SourceSpec, ...] = Field("nano-reference", description="as for register_sources")


class IngestConfig(StepConfig):
    max_rejected: float = Field(0.01, ge=0, le=1, description="share of unreadable records above which the step stops")
    shard_records: int = Field(5_000, ge=1, description="records a shard at most; a shard is the unit of parallel work")
    max_document_bytes: int = Field(
        64_000_000, ge=1, description="bytes of a document (a line, a file) above which it is set aside unread"
    )
    max_archive_bytes: int = Field(
        16_000_000_000, ge=1, description="bytes that an archive unpacks to, above which none of it is read"
    )
    max_archive_files: int = Field(200_000, ge=1, description="files in an archive, above which none of it is read")


class FilterConfig(StepConfig):
    rules: dict[str, dict[str, dict[str, Any] | bool]] = Field(
        default_factory=dict,
        description="changes to rule sets, by set and rule, as {en_web: {length: {low: 20}, stop_words: false}}; "
        "thresholds are Gopher's, C4's and ours (the report's are unpublished)",
    )


class BoilerplateConfig(StepConfig):
    max_documents: int = Field(
        0, ge=0, description="documents of one site above which a line is its boilerplate; 0 = lines stay (the default)"
    )
    min_characters: int = Field(
        10, ge=1, description="shorter lines stay: brackets, rules and numbers are formatting (ours)"
    )
    types: tuple[DocumentType, ...] = Field(
        ("web",), description="types of which lines may go; code and books keep theirs"
    )


class FingerprintConfig(StepConfig):
    permutations: int = Field(128, ge=16, description="MinHash functions (report §3.1.1)")
    ngram: int = Field(5, ge=1, description="shingle size in words, Chinese characters or code lexemes (report §3.1.1)")
    exact_only: tuple[DocumentType, ...] = Field(
        ("math",), description="types of which only equal copies go: generated problems share their wording by design"
    )
    seed: int = Field(1, ge=0, description="of the hash functions")


class ClusterConfig(StepConfig):
    threshold: float = Field(0.7, gt=0, le=1, description="Jaccard similarity from which two are one (report §3.1.1)")
    margin: float = Field(
        0.15,
        ge=0,
        le=1,
        description="estimates this near the threshold are decided by the texts' exact similarity (ours)",
    )


class BandsConfig(StepConfig):
    bands: int = Field(16, ge=1, description="LSH bands of permutations/bands rows (unpublished; 16×8 bends at 0.707)")
    rounds: int = Field(
        3,
        ge=1,
        description="times the signature is shuffled and cut into bands anew (ours: one round misses 5% at 0.8)",
    )
    part_records: int = Field(
        2_000_000, ge=1, description="documents for which the bands are cut into one part more, up to a band a part"
    )


class ExchangeConfig(ClusterConfig, BandsConfig):
    part: int | None = Field(None, ge=0, description="which part of the bands, from 0; none = all of them")


class DeduplicateConfig(FingerprintConfig, ClusterConfig, BandsConfig):
    """The section of every step of deduplication: each reads of it what it needs."""

    group_records: int = Field(
        200_000, ge=1, description="records of which a worker holds the duplicates at a time, where a shard has no more"
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


ScoreName = Literal["toxic", "porn", "fluency", "not_ad", "code_quality"]


class ImportLabelsConfig(StepConfig):
    pass


class LearnedScoreConfig(StepConfig):
    """What is learned from which labels, whatever learns it."""

    score: ScoreName = Field("toxic", description="the score that is learned")
    built_in_labels: bool = Field(True, description="use labels/<score>.yaml beside the labels that are given")
    heldout_share: float = Field(0.2, gt=0, lt=1, description="share of the labels that measures and never trains")


class TrainScorerConfig(LearnedScoreConfig):
    features: int = Field(
        18, ge=10, le=24, description="binary logarithm of the number of hashed features (ours; 18 = 1 MiB of weights)"
    )
    weight_decay: float = Field(1e-4, gt=0, description="L2 penalty on the weights (ours)")
    max_iterations: int = Field(500, ge=1, description="accelerated gradient steps at most (ours)")


class ImportScorerConfig(StepConfig):
    score: ScoreName = Field("toxic", description="the score that the checkpoint's model gives")
    label: int = Field(1, ge=0, description="index of the output class whose probability is the score")
    max_tokens: int = Field(512, ge=8, description="tokens a window at most; BERT reads 512")


class FineTuneExecution(Execution):
    device: str = Field("cpu", description="torch device, as cuda:0")


class FineTuneScorerConfig(LearnedScoreConfig):
    """Defaults are BERT's own for fine-tuning (Devlin et al. 2019, A.3); the report's are not published."""

    max_tokens: int = Field(512, ge=8, description="tokens of a text at most; BERT reads 512")
    epochs: int = Field(3, ge=1, description="times that every label is learned from (BERT: 2 to 4)")
    batch: int = Field(16, ge=1, description="labels an optimizer step (BERT: 16 or 32)")
    micro_batch: int = Field(
        16, ge=1, description="labels in memory at once, at most a batch (ours); dropout is drawn for these together"
    )
    learning_rate: float = Field(2e-5, gt=0, description="of AdamW at its highest (BERT: 2e-5 to 5e-5)")
    warmup_share: float = Field(
        0.1, ge=0, lt=1, description="share of the steps in which the rate rises; then it falls to 0"
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, of matrices only (BERT)")
    max_gradient: float = Field(1.0, gt=0, description="length that a gradient is cut to (BERT)")
    seed: int = Field(1, ge=0, description="of the new output layer, dropout and the order of labels")
    execution: FineTuneExecution = FineTuneExecution()


class ScoreExecution(Execution):
    device: str = Field("cpu", description="torch device of BERT scorers, as cuda:0; linear ones need none")
    batch: int = Field(32, ge=1, description="windows that a BERT scorer reads at once")


class ScoreConfig(StepConfig):
    scores: tuple[ScoreName, ...] = Field(
        ("toxic", "porn"),
        description="scores for which a pipeline that is given no scorer trains one, on the labels that come with "
        "TokenMill; none: documents are judged by lists and rules alone",
    )
    types: tuple[DocumentType, ...] = Field(("web", "qa"), description="types that are scored")
    execution: ScoreExecution = ScoreExecution()


class CollectScorersConfig(StepConfig):
    pass


class ExportSamplesConfig(StepConfig):
    score: ScoreName = Field("fluency", description="the score whose documents are to be labelled")
    select: Literal["extremes", "borderline"] = Field(
        "extremes",
        description="extremes: the confident high and low ones, to check a scorer (§3.1.2); borderline: those around a "
        "threshold, to choose it",
    )
    low: float = Field(0.1, ge=0, le=1, description="a score up to here is confidently low (ours)")
    high: float = Field(0.9, ge=0, le=1, description="a score from here on is confidently high (ours)")
    around: float = Field(0.5, ge=0, le=1, description="the threshold that borderline samples lie around")
    samples: int = Field(200, ge=1, description="samples a language and type, half of them on each side")
    max_characters: int = Field(2000, ge=100, description="of a document's text in a sample")


class HandOutConfig(StepConfig):
    to: str = Field("annotation", description="folder that the files are written into; one with other content is left")


class ValidateScorerConfig(StepConfig):
    max_conflicts: float = Field(
        1.0, ge=0, le=1, description="share of earlier labels that may come out wrong before the step stops"
    )
    min_agreement: float = Field(
        0.8, ge=0, le=1, description="AUC from which a language counts as validated (ours; the report gives none)"
    )
    min_labels: int = Field(20, ge=2, description="labels of a language below which it is never validated (ours)")


class ChooseThresholdsConfig(StepConfig):
    precision: float = Field(
        0.9,
        gt=0,
        le=1,
        description="share of rightly decided ones among the kept (fluency, not_ad) or the dropped (toxic, porn)",
    )
    min_labels: int = Field(20, ge=1, description="labels of a language and type below which no threshold is chosen")


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
