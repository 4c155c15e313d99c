"""The mixture of the domain set: how many bytes of each category, so that the shares hold (report Table 4)."""

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping

from tokenmill.enhancement.config import PrepareConfig
from tokenmill.errors import InputError
from tokenmill.records import Record

DOMAIN, HIGH_QUALITY = "domain", "high_quality"


def category(record: Record, types: Container[str]) -> str:
    """What a document is in the mixture for: what it was retrieved for, its type's domain, or its quality."""
    if found := record.get("retrieved"):
        return str(found["category"])
    return DOMAIN if not types or record["type"] in types else HIGH_QUALITY


def mixed(
    config: PrepareConfig, shares: Mapping[str, float], records: Iterable[Record], quality: Callable[[Record], float]
) -> list[Record]:
    """Of each category its share of the bytes, the best first; the scarcest category sets the size of the whole.

    A document that is there twice, in the corpus and retrieved from it, counts once, as retrieved.

    Raises:
        InputError: a category of the mixture has no document.
    """
    by_category: defaultdict[str, list[Record]] = defaultdict(list)
    for record in once(records):
        if (name := category(record, config.types)) in shares:
            by_category[name].append(record)
    for name in shares:
        if not by_category[name]:
            raise InputError(
                f"no document of category {name!r} in the corpus: merge what curation.retrieve found for it "
                f"(curation.retrieve.category={name}) with the corpus, or set enhancement.prepare.shares=null for a domain "
                "by document types"
            )
    sizes = {name: sum(map(_size, found)) for name, found in by_category.items()}
    whole = min(sizes[name] / share for name, share in shares.items())
    return [
        record
        for name in sorted(shares)
        for record in fitting(sorted(by_category[name], key=_rank(quality)), whole * shares[name])
    ]


def shares_of(config: PrepareConfig, records: Iterable[Record]) -> Mapping[str, float]:
    """Share of bytes of each category."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for record in records:
        sizes[category(record, config.types)] += _size(record)
    whole = sum(sizes.values()) or 1
    return {name: round(size / whole, 4) for name, size in sorted(sizes.items())}


def fitting(records: Iterable[Record], size: float) -> Iterator[Record]:
    """Those that fit into `size` bytes together, in their order; what is too large for the rest is passed over."""
    for record in records:
        if (length := _size(record)) <= size:
            size -= length
            yield record


def _rank(quality: Callable[[Record], float]) -> Callable[[Record], tuple[float, float, str]]:
    """The best retrieved first, then the best graded, then by id."""

    def key(record: Record) -> tuple[float, float, str]:
        return (-record.get("retrieved", {}).get("score", 0.0), -quality(record), record["id"])

    return key


def once(records: Iterable[Record]) -> Iterator[Record]:
    """Each document once; one that was also retrieved, as retrieved."""
    by_id: dict[str, Record] = {}
    for record in records:
        if record["id"] not in by_id or "retrieved" in record:
            by_id[record["id"]] = record
    yield from by_id.values()


def _size(record: Record) -> int:
    return len(record["text"].encode())
