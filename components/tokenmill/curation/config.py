"""Options of corpus curation. Where the report gives no number (its rules, LSH bands and classifier thresholds are
unpublished) the description says whose the default is."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Discriminator, Field, Tag

from tokenmill.config import Section, StepConfig

DocumentType = Literal["web", "book", "techlit", "code", "math", "qa"]


class SourceSpec(Section):
    """One source: where it is, what it is, and under which licence it may be used."""

    name: str = Field(description="short name, unique in the run; a code source's name is its repository's")
    uri: str | tuple[str, ...] = Field(
        description="a file or folder; `package:<distribution>[==<version>]/<glob>` for files of an installed Python "
        "distribution; `generator:reasoning-gym/<task>,<task>?size=<n>&seed=<n>`; or several of these"
    )
    type: DocumentType = Field(description="type of its documents (report §3.1.1)")
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


class DeduplicateConfig(StepConfig):
    permutations: int = Field(128, ge=16, description="MinHash functions (report §3.1.1)")
    ngram: int = Field(5, ge=1, description="shingle size in words, Chinese characters or code lexemes (report §3.1.1)")
    threshold: float = Field(0.7, gt=0, le=1, description="signature agreement from which two are one (report §3.1.1)")
    bands: int = Field(16, ge=1, description="LSH bands of permutations/bands rows (unpublished; 16×8 bends at 0.707)")
    exact_only: tuple[DocumentType, ...] = Field(
        ("math",), description="types of which only equal copies go: generated problems share their wording by design"
    )
    seed: int = Field(1, description="of the hash functions")


class ScreenConfig(StepConfig):
    built_in_lists: bool = Field(True, description="use lists/domains.txt and lists/words_<lang>.txt")
    blocked_domains: tuple[str, ...] = Field((), description="further domains; subdomains are blocked with them")
    blocked_words: tuple[str, ...] = Field((), description="further words, matched whole")
    min_word_hits: int = Field(
        1, ge=1, description="blocked words from which a document goes (lists over-delete: §3.1.1)"
    )
    max_toxic: float = Field(0.5, ge=0, le=1, description="scores.toxic above which a document goes (unpublished)")
    max_porn: float = Field(0.5, ge=0, le=1, description="scores.porn above which a document goes (unpublished)")


class GradeConfig(StepConfig):
    types: tuple[DocumentType, ...] = Field(
        ("web", "qa"), description="types that are graded; others are cleaner: §3.1.1"
    )
    min_fluency: float = Field(0.2, ge=0, le=1, description="fluency below which a document goes (unpublished: ours)")
    min_not_ad: float = Field(0.2, ge=0, le=1, description="not_ad below which a document goes (unpublished: ours)")


class OrderCodeConfig(StepConfig):
    max_bytes: int = Field(
        200_000, ge=1, description="bytes of text a document, above which a repository goes on in another"
    )


class MergeConfig(StepConfig):
    pass


class FunnelConfig(StepConfig):
    pass


class CurationConfig(Section):
    """The section `curation` of a preset."""

    register_sources: RegisterSourcesConfig = RegisterSourcesConfig()
    register_reference: RegisterReferenceConfig = RegisterReferenceConfig()
    ingest: IngestConfig = IngestConfig()
    filter: FilterConfig = FilterConfig()
    deduplicate: DeduplicateConfig = DeduplicateConfig()
    screen: ScreenConfig = ScreenConfig()
    grade: GradeConfig = GradeConfig()
    order_code: OrderCodeConfig = OrderCodeConfig()
    merge: MergeConfig = MergeConfig()
    funnel: FunnelConfig = FunnelConfig()
