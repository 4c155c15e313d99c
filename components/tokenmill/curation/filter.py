"""Format → Clean: rule-based filtering (report §3.1.1; rules after Gopher, C4, RefinedWeb and The Stack)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenmill.curation.config import FilterConfig
from tokenmill.curation.document import prepare
from tokenmill.curation.rules import Overrides, RuleSet, built_in
from tokenmill.errors import ConfigError
from tokenmill.manifest import Draft, Manifest
from tokenmill.steps import Drop, Keep, StepContext, step


@step("curation.filter", version=2, kinds={"corpus": "corpus"})
def filter_corpus(config: FilterConfig, corpus: Manifest, ctx: StepContext) -> Draft:
    """Normalise every document, keep those that pass every rule; record rule, value and threshold for the others."""
    rules = Clean(config.rules)
    prepare()
    return ctx.map_shards(corpus, rules)


@dataclass
class Clean:
    """Applies to each record the rule set of its language and type, or of its type in any language."""

    overrides: Mapping[str, Overrides]
    _sets: dict[str, RuleSet] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sets = {name: RuleSet.load(name, self.overrides.get(name)) for name in built_in()}
        for name in self.overrides.keys() - self._sets.keys():
            raise ConfigError(f"curation.filter.rules: unknown rule set {name!r}; there are {', '.join(self._sets)}")

    def __call__(self, record: dict[str, Any]) -> Keep | Drop:
        rules = self._set(record["lang"], record["type"])
        text = rules.normalise(record["text"])
        failure = rules.failure(text)
        if failure is None:
            return Keep(record if text == record["text"] else record | {"text": text})
        name, verdict = failure
        return Drop(name, record, value=verdict.value, threshold=verdict.threshold)

    def _set(self, lang: str, kind: str) -> RuleSet:
        for name in (f"{lang}_{kind}", f"any_{kind}"):
            if name in self._sets:
                return self._sets[name]
        raise ConfigError(f"no rule set for {kind} in {lang!r}; there are {', '.join(self._sets)}")
