"""Where labels lie: an append-only area of the store, one object an import.

annotations/key             a random key, by which names become pseudonyms; delete it, and nobody can test a name any more
annotations/pairs/<batch>   the compared pairs of a batch: they outlive the probe's responses
annotations/raw/<sha>       labels of one import: pair, pseudonym, time, choice
annotations/counted/<sha>   what is left of an import after its retention: pair → choice → how many (`counts`); and by what
                            its labels are known, should they come again (`seals`): of a pair and a pseudonym, made with the
                            key, so that no two of one person can be told to be. One object: a kill leaves both, or none
"""

import hmac
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from tokenmill.errors import InputError, StoreError
from tokenmill.manifest import canonical, sha256
from tokenmill.records import JSONL, read_jsonl
from tokenmill.rlhf.annotations import Label, Pair, latest, pairs_of, votes
from tokenmill.store import ArtifactStore

DAY_S = 86_400.0
AREA = "annotations"
_PSEUDONYM = re.compile(r"annotator-[0-9a-f]{8}")


@dataclass(frozen=True)
class Labelled:
    """All that people have said so far."""

    pairs: dict[str, Pair]
    counts: dict[str, Counter[str]]
    """Pair → choice → how many people made it."""
    annotators: int
    """People whose labels are still kept with their pseudonym."""


def pseudonym(store: ArtifactStore, name: str) -> str:
    """What an annotator is called here: the same for the same name in one store, and no way back without its key."""
    if _PSEUDONYM.fullmatch(name):
        return name
    return f"annotator-{_keyed(_key(store), name)[:8]}"


def batch_pairs(store: ArtifactStore, batch: str) -> dict[str, Pair]:
    """The pairs of a batch by id, those with the newest policy first: as they were labelled before, or of the responses.

    Raises:
        InputError: the store has no such responses.
    """
    key = f"{AREA}/pairs/{batch}"
    if store.backend.exists(key):
        return _pairs(store, key)
    try:
        manifest = store.get_manifest(batch)
    except StoreError:
        raise InputError(
            f"there are no responses {batch[:12]!r} in {store.uri}: import where they were exported"
        ) from None
    records = (r for s in manifest.shards if s.name.endswith(JSONL) for r in read_jsonl(store.blob_path(s.blob)))
    return {pair.id: pair for pair in pairs_of(batch, records)}


def add(store: ArtifactStore, labels: Sequence[Label]) -> bool:
    """Append the labels of one import; False where the very same were imported before, which changes nothing."""
    for batch in {label.batch for label in labels}:
        rows = [asdict(pair) for pair in batch_pairs(store, batch).values()]
        store.backend.create(f"{AREA}/pairs/{batch}", canonical(rows))
    body = canonical(sorted((asdict(label) for label in labels), key=canonical))
    sha = sha256(body)
    return not store.backend.exists(f"{AREA}/counted/{sha}") and store.backend.create(f"{AREA}/raw/{sha}", body)


def labelled(store: ArtifactStore) -> Labelled:
    """What is labelled so far."""
    pairs = {identity: pair for key in _entries(store, "pairs") for identity, pair in _pairs(store, key).items()}
    counted = _counted(store)
    raw = [key for key in _entries(store, "raw") if _name(key) not in counted]
    labels = [label for key in raw for label in _labels(store, key)]
    if sealed := _sealed(counted):
        key = _key(store)
        labels = [label for label in labels if _seal(key, label) not in sealed]
    counts = votes(labels)
    for one in counted.values():
        for pair, choices in one["counts"].items():
            counts.setdefault(pair, Counter()).update(choices)
    return Labelled(pairs, counts, len({label.annotator for label in labels}))


def retire(store: ArtifactStore, days: float, now: float | None = None) -> int:
    """Of imports older than `days` keep the counts, and drop who said what when; says how many there were.

    The counts are written first: whatever is killed between, no label is counted twice, and none is lost. A label that is
    counted stands: of several imports the newest is counted first, and the same person's later label of the pair is none.
    """
    edge = (now or time.time()) - days * DAY_S
    old = [entry for entry in store.backend.list(f"{AREA}/raw/") if entry.modified < edge]
    if not old:
        return 0
    key, sealed = _key(store), _sealed(_counted(store))
    for entry in sorted(old, key=lambda entry: -entry.modified):
        fresh = {_seal(key, label): label for label in latest(_labels(store, entry.key))}
        fresh = {seal: label for seal, label in fresh.items() if seal not in sealed}
        counts: dict[str, Any] = {pair: dict(cast) for pair, cast in votes(fresh.values()).items()}
        body = canonical({"counts": counts, "seals": sorted(fresh)})
        store.backend.create(f"{AREA}/counted/{_name(entry.key)}", body)
        store.backend.delete(entry.key)
        sealed |= set(fresh)
    return len(old)


def _labels(store: ArtifactStore, key: str) -> list[Label]:
    return [Label(**row) for row in orjson.loads(store.backend.get(key))]


def _counted(store: ArtifactStore) -> dict[str, dict[str, Any]]:
    """Import → counts and seals."""
    return {_name(key): orjson.loads(store.backend.get(key)) for key in _entries(store, "counted")}


def _sealed(counted: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {seal for one in counted.values() for seal in one["seals"]}


def _key(store: ArtifactStore) -> bytes:
    """The store's own secret, made with the first name."""
    place = f"{AREA}/key"
    if not store.backend.exists(place):
        store.backend.create(place, secrets.token_hex(32).encode())
    return store.backend.get(place)


def _keyed(key: bytes, text: str) -> str:
    """What nobody can make of a text, or test one by, without the key."""
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def _seal(key: bytes, label: Label) -> str:
    return _keyed(key, f"{label.pair} {label.annotator}")[:16]


def _pairs(store: ArtifactStore, key: str) -> dict[str, Pair]:
    rows = orjson.loads(store.backend.get(key))
    return {r["id"]: Pair(**r | {"prompt": tuple(r["prompt"]), "models": tuple(r["models"])}) for r in rows}


def _entries(store: ArtifactStore, area: str) -> list[str]:
    return sorted(entry.key for entry in store.backend.list(f"{AREA}/{area}/"))


def _name(key: str) -> str:
    return key.rpartition("/")[2]
