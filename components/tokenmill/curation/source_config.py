"""Options of the sources and of reading them; the types of documents that there are."""

from typing import Annotated, Literal

from pydantic import AliasChoices, Discriminator, Field, Tag

from tokenmill.config import Section, StepConfig

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
