"""Pairs of answers for people to compare, and what follows from their labels (report §4.2.2, "slow path").

People see two answers, `a` and `b`, never whose they are: a hash decides the sides, so an export can be repeated and an import
can be checked against what was really said.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tokenmill.manifest import sha256
from tokenmill.records import Record

CHOICES = ("a", "b", "tie", "skip")
NEWEST = "policy"
"""The model whose answers are asked about first."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one query."""

    id: str
    batch: str
    """Digest of the responses that it was made of."""
    domain: str
    prompt: tuple[Mapping[str, Any], ...]
    a: str
    b: str
    models: tuple[str, str]
    """Who said `a`, and who `b`: nothing that an annotator is shown."""
    condition: str = ""
    """The conditional prompt, of a domain that people brought."""


@dataclass(frozen=True)
class Label:
    """What one person said of one pair."""

    pair: str
    batch: str
    annotator: str
    """A pseudonym."""
    time: str
    """ISO 8601."""
    choice: str
    """One of `CHOICES`."""


def pairs_of(batch: str, responses: Iterable[Record]) -> list[Pair]:
    """Every two different answers to a query; those of the newest model come first.

    Args:
        batch: digest of the responses.
        responses: records `{id, domain, prompt, answers: {model: text}}` of the probe.
    """
    found = []
    for record in responses:
        for models in combinations(sorted(record["answers"], key=lambda name: (name != NEWEST, name)), 2):
            texts = [record["answers"][model] for model in models]
            if texts[0].strip() == texts[1].strip():
                continue
            identity = sha256(f"{batch} {record['id']} {' '.join(models)}".encode())
            turned = -1 if int(identity[-1], 16) % 2 else 1
            (a, b), sides = texts[::turned], models[::turned]
            prompt = tuple(record["prompt"])
            models_ab, condition = (sides[0], sides[1]), record.get("condition", "")
            found.append(Pair(identity[:16], batch, record["domain"], prompt, a, b, models_ab, condition))
    return sorted(found, key=lambda pair: (NEWEST not in pair.models, pair.id))


def latest(labels: Iterable[Label]) -> list[Label]:
    """One label of a pair and annotator, the last: a person may think again."""
    kept: dict[tuple[str, str], Label] = {}
    for label in sorted(labels, key=lambda label: label.time):
        kept[label.pair, label.annotator] = label
    return list(kept.values())


def votes(labels: Iterable[Label]) -> dict[str, Counter[str]]:
    """Pair → choice → how many people made it; who skipped has not voted."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for label in latest(labels):
        if label.choice != "skip":
            counts[label.pair][label.choice] += 1
    return dict(counts)


def preferences(
    pairs: Mapping[str, Pair], counts: Mapping[str, Mapping[str, int]], min_labels: int
) -> tuple[list[Record], Counter[str]]:
    """What the majority prefers, as records for the reward model; and why other pairs give none."""
    records, dropped = [], Counter[str]()
    for identity, cast in sorted(counts.items()):
        (choice, most), *others = Counter(cast).most_common()
        if sum(cast.values()) < min_labels:
            dropped["too few labels"] += 1
        elif any(number == most for _, number in others):
            dropped["no majority"] += 1
        elif choice == "tie":
            dropped["tie"] += 1
        else:
            pair = pairs[identity]
            chosen, rejected = (pair.a, pair.b) if choice == "a" else (pair.b, pair.a)
            records.append(
                {
                    "id": f"annotated/{identity}",
                    "domain": pair.domain,
                    "prompt": list(pair.prompt),
                    "chosen": chosen,
                    "rejected": rejected,
                    "template": "annotated",
                    "conflict": False,
                }
                | ({"condition": pair.condition} if pair.condition else {})
            )
    return records, dropped


def agreement(counts: Iterable[Mapping[str, int]]) -> float | None:
    """Krippendorff's alpha for nominal data (Krippendorff 2011): 1 = all agree, 0 = as by chance.

    None where no pair has two labels, or all labels are alike: then there is nothing that chance could be told from.
    """
    units = [unit for unit in counts if sum(unit.values()) > 1]
    totals = Counter[str]()
    for unit in units:
        totals.update(unit)
    n = sum(totals.values())
    expected = n * n - sum(number * number for number in totals.values())
    if not expected:
        return None
    observed = 0.0
    for unit in units:
        size = sum(unit.values())
        observed += (size * size - sum(number * number for number in unit.values())) / (size - 1)
    return 1 - (n - 1) * observed / expected


def wins(pairs: Mapping[str, Pair], counts: Mapping[str, Mapping[str, int]]) -> dict[str, Counter[str]]:
    """`policy against sft` → who won how often, by labels."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for identity, cast in counts.items():
        models = pairs[identity].models
        first, second = sorted(models, key=lambda name: (name != NEWEST, name))
        for choice, number in cast.items():
            winner = {"a": models[0], "b": models[1]}.get(choice, "tie")
            found[f"{first} against {second}"][winner] += number
    return {name: found[name] for name in sorted(found)}


def told(prompt: Sequence[Mapping[str, Any]]) -> str:
    """A dialogue as an annotator reads it."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
