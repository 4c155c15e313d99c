"""The gate: what it lets through, what it refuses, and that missing evidence is a refusal."""

from typing import Any

import orjson
import pytest
from pico import Lab

from tokenmill.errors import InputError
from tokenmill.evaluation.config import GateConfig, Limits, ReferenceLimits
from tokenmill.manifest import Manifest
from tokenmill.records import JSONL

REFERENCE = ReferenceLimits(no_regression=("choice/*",), max_perplexity_ratio={"perplexity/*": 1.2})
CONFIG = GateConfig(
    limits={"format/chat": Limits(min=0.9)},
    references={"sft": REFERENCE},
    max_delta1=0.1,
    max_contaminated={"choice/*": 0.0},
)


class Bench:
    """Makes evaluations out of numbers."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._made = 0

    def evaluation(
        self,
        label: str,
        perplexity: float | None = 10.0,
        right: int = 50,
        well_formed: float = 0.95,
        delta1: tuple[float, float] | None = (0.02, 0.03),
        references: int = 64,
        questions: str = "q",
        suites: tuple[str, ...] = ("choice/larger", "format/chat", "perplexity/en"),
    ) -> Manifest:
        values = {"choice/larger": right / 100, "format/chat": well_formed, "perplexity/en": perplexity}
        splits: dict[str, Any] = {"test": {"n": 64}, "reference": {"n": references}}
        facts = {
            "label": label,
            "model": f"model-of-{label}",
            "questions": questions,
            "suites": {
                name: {"metric": "m", "value": values[name], "ci_low": 0.0, "ci_high": 99.0, "n": 100}
                for name in suites
            },
            "contamination": {"maths": splits | ({"delta1": {"value": delta1[0], "se": delta1[1]}} if delta1 else {})},
        }
        rows = [{"suite": "choice/larger", "id": f"{i:03d}", "score": float(i < right)} for i in range(100)]
        return self._issue("evaluation", {"evaluation.json": facts}, {f"predictions{JSONL}": rows})

    def overlap(self, hits: int = 0, model: str = "model-of-chat", perplexity_hits: int = 3, sets: int = 3) -> Manifest:
        suites = {"choice/larger": hits, "perplexity/en": perplexity_hits}
        rows = {name: {"questions": 100, "hits": n, "share": n / 100} for name, n in suites.items()}
        value = {"model": model, "questions": "q", "training_sets": sets, "suites": rows}
        return self._issue("decontamination", {"decontamination.json": value}, {})

    def _issue(self, kind: str, values: dict[str, Any], records: dict[str, Any]) -> Manifest:
        self._made += 1
        files: dict[str, Any] = dict(records)
        for name, value in values.items():
            path = self.lab.folder / f"{self._made}-{name}"
            path.write_bytes(orjson.dumps(value))
            files[name] = path
        return self.lab.issue(kind, files)

    def verdict(self, config: GateConfig, candidate: Manifest, *references: Manifest, overlap: Manifest | None) -> Any:
        inputs = {"candidate": candidate, "references": list(references), "decontamination": overlap}
        made = self.lab.step("evaluation.gate", config, **inputs)["output"]
        self.page = self.lab.store.get_blob(made.shard("verdict.md").blob).decode()
        verdict = orjson.loads(self.lab.store.get_blob(made.shard("verdict.json").blob))
        assert made.counts["passed"] == verdict["passed"] == all(c["passed"] for c in verdict["checks"])
        return verdict


@pytest.fixture
def bench(lab: Lab) -> Bench:
    return Bench(lab)


def failed(verdict: Any) -> list[str]:
    return [check["name"] for check in verdict["checks"] if not check["passed"]]


def test_as_good_as_its_reference_passes(bench: Bench) -> None:
    verdict = bench.verdict(CONFIG, bench.evaluation("chat"), bench.evaluation("sft"), overlap=bench.overlap())
    assert failed(verdict) == []
    assert [check["name"] for check in verdict["checks"]] == [
        *(
            "format/chat",
            "choice/larger against sft",
            "perplexity/en against sft",
            "Δ1 maths",
            "choice/larger in training data",
        ),
    ]
    assert bench.page.startswith("# chat passed")


@pytest.mark.parametrize(
    ("candidate", "fault"),
    [
        ({"perplexity": 12.5}, "perplexity/en against sft"),
        ({"perplexity": None}, "perplexity/en against sft"),  # a diverged model's NaN
        ({"right": 30}, "choice/larger against sft"),
        ({"well_formed": 0.89}, "format/chat"),
        ({"delta1": (-0.3, 0.02)}, "Δ1 maths"),
        ({"delta1": None}, "Δ1 maths"),
        ({"references": 5}, "Δ1 maths"),  # five samples show nothing, not that there is nothing
        ({"suites": ("choice/larger", "perplexity/en")}, "format/chat"),
    ],
)
def test_each_fault_is_refused_and_named(bench: Bench, candidate: dict[str, Any], fault: str) -> None:
    verdict = bench.verdict(
        CONFIG, bench.evaluation("chat", **candidate), bench.evaluation("sft"), overlap=bench.overlap()
    )
    assert not verdict["passed"]
    assert failed(verdict) == [fault]
    assert bench.page.startswith("# chat did not pass") and f"**{fault}**" in bench.page


@pytest.mark.parametrize(
    "candidate",
    [
        {"perplexity": 11.9},
        {"delta1": (-0.3, 0.2)},  # large, but not beyond three standard errors
        {"delta1": (-0.09, 0.001)},  # beyond chance, but small
        {"right": 60},
    ],
)
def test_what_is_within_limits_or_chance_passes(bench: Bench, candidate: dict[str, Any]) -> None:
    verdict = bench.verdict(
        CONFIG, bench.evaluation("chat", **candidate), bench.evaluation("sft"), overlap=bench.overlap()
    )
    assert failed(verdict) == []


def test_regression_is_judged_on_the_same_questions_not_on_two_averages(bench: Bench) -> None:
    """50 against 44 of 100: the two intervals overlap widely, but the six lost questions are no chance."""
    candidate, reference = bench.evaluation("chat", right=44), bench.evaluation("sft", right=50)
    assert failed(bench.verdict(CONFIG, candidate, reference, overlap=bench.overlap())) == ["choice/larger against sft"]
    forgiving = CONFIG.model_copy(update={"references": {"sft": REFERENCE.model_copy(update={"tolerance": 0.1})}})
    assert failed(bench.verdict(forgiving, candidate, reference, overlap=bench.overlap())) == []


def test_missing_evidence_is_a_refusal(bench: Bench) -> None:
    verdict = bench.verdict(CONFIG, bench.evaluation("chat"), overlap=None)
    assert failed(verdict) == ["against sft", "training data"]


def test_a_model_of_unknown_training_data_is_refused(bench: Bench) -> None:
    """Somebody else's weights: no hit in no data is no evidence."""
    verdict = bench.verdict(CONFIG, bench.evaluation("chat"), bench.evaluation("sft"), overlap=bench.overlap(sets=0))
    assert failed(verdict) == ["training data"]


def test_a_suite_that_only_the_reference_has_fails(bench: Bench) -> None:
    candidate = bench.evaluation("chat", suites=("format/chat", "choice/larger"))
    assert failed(bench.verdict(CONFIG, candidate, bench.evaluation("sft"), overlap=bench.overlap())) == [
        "perplexity/en against sft"
    ]


def test_a_suite_that_was_measured_on_neither_fails_if_it_is_named(bench: Bench) -> None:
    """Two perplexities are named; a corpus in which no English was held out must not open the gate."""
    named = ReferenceLimits(no_regression=(), max_perplexity_ratio={"perplexity/en": 1.5, "perplexity/code": 1.5})
    config = CONFIG.model_copy(update={"references": {"sft": named}})
    verdict = bench.verdict(config, bench.evaluation("chat"), bench.evaluation("sft"), overlap=bench.overlap())
    assert failed(verdict) == ["perplexity/code against sft"]


def test_copied_questions_are_refused_but_common_text_is_not(bench: Bench) -> None:
    candidate, reference = bench.evaluation("chat"), bench.evaluation("sft")
    assert failed(bench.verdict(CONFIG, candidate, reference, overlap=bench.overlap(hits=1))) == [
        "choice/larger in training data"
    ]


def test_each_suite_has_its_own_share_of_copied_questions(bench: Bench) -> None:
    """Natural text repeats itself; what is generated must not."""
    patient = CONFIG.model_copy(update={"max_contaminated": {"*": 0.5, "choice/*": 0.1}})
    candidate, reference = bench.evaluation("chat"), bench.evaluation("sft")
    assert failed(bench.verdict(patient, candidate, reference, overlap=bench.overlap(hits=10))) == []
    assert failed(bench.verdict(patient, candidate, reference, overlap=bench.overlap(hits=11))) == [
        "choice/larger in training data"
    ]
    elsewhere = CONFIG.model_copy(update={"max_contaminated": {"generate/*": 0.0}})
    assert failed(bench.verdict(elsewhere, candidate, reference, overlap=bench.overlap())) == ["training data"]


def test_evidence_about_another_model_or_other_questions_is_refused(bench: Bench) -> None:
    candidate, reference = bench.evaluation("chat"), bench.evaluation("sft", questions="others")
    with pytest.raises(InputError, match="answered different questions"):
        bench.verdict(CONFIG, candidate, reference, overlap=bench.overlap())
    with pytest.raises(InputError, match="not about the candidate's model"):
        bench.verdict(CONFIG, candidate, bench.evaluation("sft"), overlap=bench.overlap(model="another"))


def test_a_gate_that_checks_nothing_is_refused(bench: Bench) -> None:
    open_gate = GateConfig(limits={}, max_delta1=None, max_contaminated=None)
    with pytest.raises(InputError, match="nothing to check"):
        bench.verdict(open_gate, bench.evaluation("chat"), overlap=None)


def test_of_two_patterns_the_stricter_counts(bench: Bench) -> None:
    strict = ReferenceLimits(no_regression=(), max_perplexity_ratio={"perplexity/en": 1.05, "perplexity/*": 2.0})
    config = GateConfig(limits={}, references={"sft": strict}, max_delta1=None, max_contaminated=None)
    verdict = bench.verdict(config, bench.evaluation("chat", perplexity=11), bench.evaluation("sft"), overlap=None)
    assert failed(verdict) == ["perplexity/en against sft"]
