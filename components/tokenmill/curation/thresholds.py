"""Thresholds a language and type, and how one is chosen: on labelled samples, by the precision that is wanted.

The report publishes no threshold. Its rule for perplexity (look at borderline samples only; the decision is raise or lower)
serves here too: label samples around a candidate, and take the loosest threshold that is precise enough.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import yaml

from tokenmill.curation.config import Thresholds
from tokenmill.errors import InputError
from tokenmill.manifest import Manifest
from tokenmill.store import ArtifactStore

FILE = "thresholds.yaml"
HIGHER_IS_WORSE = frozenset({"toxic", "porn"})
"""Scores of which a document has too much; of every other it has too little."""


@dataclass(frozen=True)
class Limits:
    """The thresholds of a step: one a score, and others for single languages and types."""

    default: Mapping[str, float]
    sets: Thresholds = field(default_factory=dict)

    @classmethod
    def load(
        cls, default: Mapping[str, float], sets: Thresholds, chosen: Manifest | None, store: ArtifactStore
    ) -> "Limits":
        """From the config, upon those of a `thresholds` artifact; scores that the step does not decide on are left out."""
        stored = yaml.safe_load(store.get_blob(chosen.shard(FILE).blob)) if chosen else {}
        merged = {name: {**stored.get(name, {}), **sets.get(name, {})} for name in stored.keys() | sets.keys()}
        for name, scores in sets.items():
            if unknown := scores.keys() - default.keys():
                raise InputError(f"thresholds of {name}: no score {min(unknown)!r} here; there are {sorted(default)}")
        return cls(default, {name: {s: t for s, t in v.items() if s in default} for name, v in merged.items()})

    def of(self, lang: str, kind: str) -> dict[str, float]:
        """Score → threshold for documents of a language and type: `en_web` before `any_web` before the default."""
        return {**self.default, **self.sets.get(f"any_{kind}", {}), **self.sets.get(f"{lang}_{kind}", {})}


def choose_threshold(scores: np.ndarray, labels: np.ndarray, precision: float) -> float:
    """The loosest threshold above which labelled samples are what their score says, in the wanted share.

    Of a score whose higher is better that bounds the kept: the smallest τ with P(good | score > τ) ≥ precision. Of one whose
    higher is worse it bounds the dropped: P(bad | score > τ) ≥ precision. τ lies halfway between two samples' scores, so
    that no sample is decided by its last digit; it is 0 where all samples together are precise enough.

    Args:
        scores: (n,) in [0, 1].
        labels: (n,) booleans, true where the sample really is what a high score says of it.
        precision: in (0, 1].

    Raises:
        InputError: no threshold is that precise.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, right = scores[order], np.cumsum(labels[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # equal scores are decided alike
    precise = last & (right >= precision * np.arange(1, len(ranked) + 1) - 1e-9)
    if not precise.any():
        best = float(np.max(right / np.arange(1, len(ranked) + 1))) if len(ranked) else 0.0
        raise InputError(
            f"no threshold is right in {precision:.0%} of {len(ranked)} labelled samples, at best in {best:.0%}: "
            "label more, train the scorer further, or ask for less"
        )
    at = int(np.flatnonzero(precise)[-1])
    if at + 1 == len(ranked):
        return 0.0
    return float((ranked[at] + ranked[at + 1]) / 2)
