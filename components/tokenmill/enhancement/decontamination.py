"""What the decontamination report says, and whether it says it of the very tokens that are to be trained on (spec §5)."""

from typing import Any

import orjson

from tokenmill.errors import ConfigError, CorruptError, InputError
from tokenmill.manifest import Manifest
from tokenmill.overlap import OverlapRule
from tokenmill.store import ArtifactStore

REPORT = "decontamination.json"


def require(least: OverlapRule, tokens: Manifest, decontamination: Manifest, store: ArtifactStore) -> None:
    """Refuse a report that is of another corpus, of no question, or by a weaker rule than `least`.

    Raises:
        InputError: it is not a report on the corpus that the tokens were made of, or nothing was looked for.
        ConfigError: its rule finds fewer copies.
    """
    told, which = _read(decontamination, store), f"the decontamination report {decontamination.digest[:12]}"
    corpora = [store.get_manifest(digest) for digest in tokens.parents.get("corpus", ())]
    if [corpus.content for corpus in corpora] != [told["corpus"]]:
        made_of = ", ".join(corpus.digest[:12] for corpus in corpora) or "none that is known"
        raise InputError(
            f"{which} is not about the corpus that the tokens were made of ({made_of}): give the report that "
            "enhancement.prepare made beside that corpus, or tokenize the corpus beside this one"
        )
    if not told["looked_for"]:
        raise InputError(f"{which} looked for no question: give enhancement.prepare the questions that evaluation asks")
    if weaker := least.weaknesses(rule := OverlapRule.at("enhancement.prepare", told["rule"])):
        name = weaker[0]
        raise ConfigError(
            f"{which} calls less a copy than enhancement.enhance.decontamination: {name} was {getattr(rule, name)}, wanted "
            f"is {getattr(least, name)}; run enhancement.prepare with {name}={getattr(least, name)}"
        )


def _read(decontamination: Manifest, store: ArtifactStore) -> dict[str, Any]:
    told = orjson.loads(store.get_blob(decontamination.shard(REPORT).blob))
    if lacking := {"corpus", "looked_for", "rule"} - set(told):
        raise CorruptError(
            f"{decontamination.digest[:12]} does not say its {sorted(lacking)[0]}: run enhancement.prepare again"
        )
    return dict(told)
