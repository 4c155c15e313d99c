"""Options of taking out what is repeated: documents that are one, and lines that a site repeats."""

from pydantic import Field

from tokenmill.config import StepConfig
from tokenmill.curation.source_config import DocumentType


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
