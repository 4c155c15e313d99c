"""The gate: what it lets through, what it refuses, and that missing evidence is a refusal."""

import math
import re
from typing import Any

import orjson
import pytest
from pico import Lab

from tokenmill.errors import InputError
from tokenmill.evaluation.config import CostCeiling, GateConfig, LicencePolicy, Limits, ReferenceLimits
from tokenmill.manifest import Manifest
from tokenmill.records import JSONL
from tokenmill.steps.files import materialise

REFERENCE = ReferenceLimits(no_regression=("choice/*",), max_perplexity_ratio={"perplexity/*": 1.2})
CONFIG = GateConfig(
    limits={"format/chat": Limits(min=0.9)},
    references={"sft": REFERENCE},
    max_delta1=0.1,
    max_contaminated={"choice/*": 0.0},
    licences=None,
    current=None,
    template=False,
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
        tokens: int = 100,
        cut: int = 0,
        right: int = 50,
        well_formed: float | None = 0.95,
        delta1: tuple[float, float] | None = (0.02, 0.03),
        references: int = 64,
        splits_of: str | None = "maths",
        questions: str = "q",
        suites: tuple[str, ...] = ("choice/larger", "format/chat", "perplexity/en"),
        form: str = "chat",
    ) -> Manifest:
        """`perplexity` a token of ten texts, each of 400 bytes and so many `tokens`, the first `cut` of them read in part."""
        values = {"choice/larger": right / 100, "format/chat": well_formed, "perplexity/en": perplexity}
        values["generate/sums"] = right / 100
        splits: dict[str, Any] = {"test": {"n": 64}, "reference": {"n": references}}
        facts = {
            "label": label,
            "form": form,
            "model": f"model-of-{label}",
            "questions": questions,
            "suites": {
                name: {
                    "metric": name.partition("/")[0],
                    "value": values[name],
                    "ci_low": 0.0,
                    "ci_high": 99.0,
                    "n": 100,
                }
                for name in suites
            },
            "contamination": {}
            if splits_of is None
            else {splits_of: splits | ({"delta1": {"value": delta1[0], "se": delta1[1]}} if delta1 else {})},
        }
        answered = ("choice/larger", "generate/sums")
        rows = [{"suite": s, "id": f"{i:03d}", "score": float(i < right)} for s in answered for i in range(100)]
        loss = tokens * math.log(perplexity) if perplexity else None
        texts = [{"suite": "perplexity/en", "id": f"{i}", "loss": loss, "tokens": tokens} for i in range(10)]
        rows += [text | {"bytes": 200 if i < cut else 400} for i, text in enumerate(texts)]
        return self._issue("evaluation", {"evaluation.json": facts}, {f"predictions{JSONL}": rows})

    def overlap(
        self,
        hits: int = 0,
        model: str = "model-of-chat",
        perplexity_hits: int = 3,
        sets: int = 3,
        near: int = 0,
        too_short: int = 0,
        template_only: int = 0,
        near_looked_for: int = 100,
    ) -> Manifest:
        """Of 100 questions `hits` stand in the last training set, and the `near` ones after them are reworded there."""
        suites, items = {}, []
        for name, n in (("choice/larger", hits), ("perplexity/en", perplexity_hits)):
            suites[name] = {"questions": 100, "input": n, "input+label": 0, "near": near, "share": n / 100}
            suites[name] |= {"near_share": near / 100, "hits": n, "too_short": too_short}
            suites[name] |= {"template_only": template_only, "near_looked_for": near_looked_for}
            labels = ["input"] * n + ["near"] * near + ["clean"] * (100 - n - near)
            items += [{"suite": name, "id": f"{i:03d}", "label": label} for i, label in enumerate(labels)]
        named = [{"digest": f"{i}" * 64, "kind": "corpus", "step": "made.up", "suites": {}} for i in range(sets)]
        if sets:
            named[-1]["suites"] = {"choice/larger": {"input": hits, "near": near}}
        value = {"model": model, "questions": "q", "sets": named, "suites": suites}
        return self._issue("decontamination", {"decontamination.json": value}, {f"items{JSONL}": items})

    def lineage(self, *licences: str, flops: float = 1e18, model: str = "model-of-chat") -> Manifest:
        sources = [
            {"name": f"source {i}", "licence": licence, "origin": "", "digest": f"{i}" * 64}
            for i, licence in enumerate(licences)
        ]
        trainings = [{"digest": "t", "step": "s", "tokens": 1, "flops": flops / 2} for _ in range(2)]
        value = {"model": model, "sources": sources, "trainings": trainings, "sets": []}
        return self._issue("training_sets", {"training_sets.json": value}, {})

    def _issue(self, kind: str, values: dict[str, Any], records: dict[str, Any]) -> Manifest:
        self._made += 1
        files: dict[str, Any] = dict(records)
        for name, value in values.items():
            path = self.lab.folder / f"{self._made}-{name}"
            path.write_bytes(orjson.dumps(value))
            files[name] = path
        return self.lab.issue(kind, files)

    def verdict(
        self, config: GateConfig, candidate: Manifest, *references: Manifest, overlap: Manifest | None, **more: Any
    ) -> Any:
        inputs = {"candidate": candidate, "references": list(references), "decontamination": overlap} | more
        outputs = self.lab.step("evaluation.gate", config, **inputs)
        made = outputs["output"]
        self.page = self.lab.store.get_blob(made.shard("verdict.md").blob).decode()
        self.html = self.lab.store.get_blob(outputs["page"].shard("verdict.html").blob).decode()
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
    rows = [line for line in bench.page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}, "|Δ| is no cell of its own"


@pytest.mark.parametrize(
    ("candidate", "fault"),
    [
        ({"perplexity": 12.5}, "perplexity/en against sft"),
        ({"perplexity": None}, "perplexity/en against sft"),  # a diverged model's NaN
        ({"right": 30}, "choice/larger against sft"),
        ({"well_formed": 0.89}, "format/chat"),
        ({"well_formed": None}, "format/chat"),  # nothing of it has a finite value
        ({"delta1": (-0.3, 0.02)}, "Δ1 maths"),
        ({"delta1": None}, "Δ1 maths"),
        ({"splits_of": None}, "Δ1"),  # a corpus without a problem held out, or another harness
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


def test_a_change_between_two_forms_of_asking_is_told_as_one(bench: Bench) -> None:
    """Base asked plainly and Chat in ChatML: only what a model writes depends on it, options are read as they stand."""
    suites = ("choice/larger", "generate/sums")
    both = ReferenceLimits(no_regression=suites, max_perplexity_ratio={})
    config = CONFIG.model_copy(update={"limits": {}, "references": {"base": both}, "max_delta1": None})
    for form, told in (("plain", "; asked in another form each: chat chat, base plain"), ("chat", "")):
        reference = bench.evaluation("base", suites=suites, form=form)
        checks = bench.verdict(config, bench.evaluation("chat", suites=suites), reference, overlap=None)["checks"]
        why = {check["name"]: check["why"] for check in checks}
        assert why["choice/larger against base"] == "change +0 [+0, +0] on 100"
        assert why["generate/sums against base"] == "change +0 [+0, +0] on 100" + told


def test_regression_is_judged_on_the_same_questions_not_on_two_averages(bench: Bench) -> None:
    """50 against 44 of 100: the two intervals overlap widely, but the six lost questions are no chance."""
    candidate, reference = bench.evaluation("chat", right=44), bench.evaluation("sft", right=50)
    assert failed(bench.verdict(CONFIG, candidate, reference, overlap=bench.overlap())) == ["choice/larger against sft"]
    forgiving = CONFIG.model_copy(update={"references": {"sft": REFERENCE.model_copy(update={"tolerance": 0.1})}})
    assert failed(bench.verdict(forgiving, candidate, reference, overlap=bench.overlap())) == []


@pytest.mark.parametrize(
    ("candidate", "ratio"),
    [
        ({"perplexity": 4.0, "tokens": 200}, 1.6),  # half as long tokens, each easier: the text is worse predicted
        ({"perplexity": 100.0, "tokens": 50}, 1.0),  # twice as long ones: the text is predicted as well
        ({"perplexity": 11.0, "cut": 5}, 1.1),  # of five texts it read less
    ],
)
def test_the_same_text_is_compared_whatever_its_tokens(bench: Bench, candidate: dict[str, Any], ratio: float) -> None:
    config = only(references={"sft": REFERENCE.model_copy(update={"no_regression": ()})})
    verdict = bench.verdict(config, bench.evaluation("chat", **candidate), bench.evaluation("sft"), overlap=None)
    (check,) = verdict["checks"]
    assert check["value"] == pytest.approx(ratio) and check["passed"] == (ratio <= 1.2)
    theirs, texts = math.log2(10) * 100 / 400, 10 - candidate.get("cut", 0)
    mine = theirs + math.log2(ratio) * 100 / 400
    assert check["why"] == f"{mine:.4g} against {theirs:.4g} bits a byte of {texts} texts"


def test_texts_of_which_two_models_read_different_parts_are_not_compared(bench: Bench) -> None:
    """An evaluation that does not say what it read is the extreme of it."""
    config = only(references={"sft": REFERENCE.model_copy(update={"no_regression": ()})})
    verdict = bench.verdict(config, bench.evaluation("chat", cut=6), bench.evaluation("sft"), overlap=None)
    assert failed(verdict) == ["perplexity/en against sft"]
    assert "both read 4 of 10 texts to the same end" in bench.page


def test_a_suite_without_losses_has_no_perplexity_to_compare(bench: Bench) -> None:
    wrong = ReferenceLimits(no_regression=(), max_perplexity_ratio={"choice/larger": 2.0})
    verdict = bench.verdict(
        only(references={"sft": wrong}), bench.evaluation("chat"), bench.evaluation("sft"), overlap=None
    )
    assert failed(verdict) == ["choice/larger against sft"]


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


@pytest.mark.parametrize("label", ["sft", "current"])
def test_patterns_that_nothing_fits_compare_nothing_and_fail(bench: Bench, label: str) -> None:
    misspelt = ReferenceLimits(no_regression=("choices/*",), max_perplexity_ratio={"perplexities/*": 1.5})
    named = ReferenceLimits(no_regression=("choice/*", "choice/smaller"), max_perplexity_ratio={})
    other = bench.evaluation("sft")
    for limits, wrong in ((misspelt, f"against {label}"), (named, f"choice/smaller against {label}")):
        config = only(references={"sft": limits}) if label == "sft" else only(current=limits)
        more = {} if label == "sft" else {"current": other}
        verdict = bench.verdict(
            config, bench.evaluation("chat"), *([other] if label == "sft" else []), overlap=None, **more
        )
        assert failed(verdict) == [wrong]


def test_a_suite_whose_share_is_named_must_have_been_searched(bench: Bench) -> None:
    config = only(max_contaminated={"choice/*": 0.0, "generate/math": 0.0})
    verdict = bench.verdict(config, bench.evaluation("chat"), overlap=bench.overlap())
    assert failed(verdict) == ["generate/math in training data"]


@pytest.mark.parametrize(
    ("overlap", "told", "wrong"),
    [
        ({"too_short": 10}, "10 are too short to be looked for", []),
        ({"too_short": 11}, "11 could not be looked for", ["choice/larger in training data"]),
        ({"template_only": 11}, "11 have no wording of their own", ["choice/larger in training data"]),
        ({"too_short": 6, "template_only": 6}, "12 could not be looked for", ["choice/larger in training data"]),
        ({"near_looked_for": 90}, "", []),
        ({"near_looked_for": 89}, "11 could not be looked for", ["choice/larger reworded in training data"]),
    ],
)
def test_questions_that_cannot_be_looked_for_are_told_and_too_many_are_no_evidence(
    bench: Bench, overlap: dict[str, int], told: str, wrong: list[str]
) -> None:
    config, candidate = only(max_contaminated={"choice/*": 0.0}, max_near={"choice/*": 0.0}), bench.evaluation("chat")
    assert failed(bench.verdict(config, candidate, overlap=bench.overlap(**overlap))) == wrong
    assert told in bench.page
    patient = config.model_copy(update={"max_unsearchable": 0.2})
    assert failed(bench.verdict(patient, candidate, overlap=bench.overlap(**overlap))) == []


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
    nothing = {"limits": {}, "max_delta1": None, "max_contaminated": None, "references": {}}
    open_gate = CONFIG.model_copy(update=nothing)
    with pytest.raises(InputError, match="nothing to check"):
        bench.verdict(open_gate, bench.evaluation("chat"), overlap=None)


def test_of_two_patterns_the_stricter_counts(bench: Bench) -> None:
    strict = ReferenceLimits(no_regression=(), max_perplexity_ratio={"perplexity/en": 1.05, "perplexity/*": 2.0})
    asked = {"limits": {}, "references": {"sft": strict}, "max_delta1": None, "max_contaminated": None}
    config = CONFIG.model_copy(update=asked)
    verdict = bench.verdict(config, bench.evaluation("chat", perplexity=11), bench.evaluation("sft"), overlap=None)
    assert failed(verdict) == ["perplexity/en against sft"]


def only(**asked: Any) -> GateConfig:
    """A gate that asks for nothing else."""
    return CONFIG.model_copy(
        update={"limits": {}, "references": {}, "max_delta1": None, "max_contaminated": None} | asked
    )


# ---- what the lineage says -------------------------------------------------------------------------------------------


def test_a_refusal_names_the_training_set_that_holds_the_questions(bench: Bench) -> None:
    verdict = bench.verdict(
        only(max_contaminated={"choice/*": 0.0}), bench.evaluation("chat"), overlap=bench.overlap(7)
    )
    (check,) = verdict["checks"]
    assert check["evidence"] == ["2" * 64]
    assert "7 of 100 questions stand in 3 training sets: 7 in corpus 222222222222 of made.up" in check["why"]
    assert "222222222222" in bench.page and "222222222222" in bench.html


def test_reworded_questions_have_a_limit_of_their_own(bench: Bench) -> None:
    candidate, overlap = bench.evaluation("chat"), bench.overlap(hits=0, near=4)
    verbatim = only(max_contaminated={"choice/*": 0.0})
    assert failed(bench.verdict(verbatim, candidate, overlap=overlap)) == []
    config = verbatim.model_copy(update={"max_near": {"choice/*": 0.03}})
    assert failed(bench.verdict(config, candidate, overlap=overlap)) == ["choice/larger reworded in training data"]


def test_scores_without_what_was_seen_stand_beside_all(bench: Bench) -> None:
    """Right are the first 50; the first 20 were seen and 10 more reworded: of the 70 clean ones 20 are right."""
    candidate = bench.evaluation("chat", right=50)
    verdict = bench.verdict(only(max_contaminated={"*": 1.0}), candidate, overlap=bench.overlap(20, near=10))
    clean = verdict["clean"]["choice/larger"]
    assert clean["value"] == pytest.approx(20 / 70) and clean["n"] == 70
    assert clean["all"]["value"] == 0.5
    assert clean["ci_low"] < 20 / 70 < clean["ci_high"]
    assert "0.2857" in bench.page and "0.2857" in bench.html


def test_where_all_was_seen_there_is_no_clean_score(bench: Bench) -> None:
    verdict = bench.verdict(only(max_contaminated={"*": 1.0}), bench.evaluation("chat"), overlap=bench.overlap(100))
    assert verdict["clean"]["choice/larger"]["value"] is None


@pytest.mark.parametrize(
    ("licences", "policy", "refused"),
    [
        (("MIT", "CC-BY-4.0", "public domain"), {}, ""),
        (("MIT", "CC-BY-NC-4.0"), {}, "source 1 (CC-BY-NC-4.0)"),
        (("cc-by-nc-nd-3.0",), {}, "source 0"),
        (("MIT", ""), {}, "source 1 (not stated)"),
        (("MIT", "Apache-2.0"), {"allow": ("MIT",)}, "source 1 (Apache-2.0)"),
        (("GPL-3.0-only",), {"allow": ("*",), "deny": ("GPL-*",)}, "source 0"),
        ((), {}, "names no source"),
    ],
)
def test_every_source_must_have_a_licence_that_is_allowed(
    bench: Bench, licences: tuple[str, ...], policy: dict[str, Any], refused: str
) -> None:
    config = only(licences=LicencePolicy(**policy))
    sets = bench.lineage(*licences)
    (check,) = bench.verdict(config, bench.evaluation("chat"), overlap=None, training_sets=sets)["checks"]
    assert check["passed"] == (not refused) and refused in check["why"]


def test_what_training_cost_has_a_ceiling(bench: Bench) -> None:
    """1.4e19 operations on an H100 (989e12 a second) at 40%: 9.83 hours, at 2 an hour 19.66."""
    sets = bench.lineage("MIT", flops=1.4e19)
    for most, passed in ((20, True), (19, False)):
        config = only(cost=CostCeiling(most=most, price_per_hour=2))
        (check,) = bench.verdict(config, bench.evaluation("chat"), overlap=None, training_sets=sets)["checks"]
        assert check["passed"] == passed
        assert check["value"] == pytest.approx(2 * 1.4e19 / (0.4 * 989e12) / 3600, rel=1e-6)


@pytest.mark.parametrize("asked", [{"licences": LicencePolicy()}, {"cost": CostCeiling(most=1, price_per_hour=1)}])
def test_a_lineage_that_nobody_walked_is_a_refusal(bench: Bench, asked: dict[str, Any]) -> None:
    assert failed(bench.verdict(only(**asked), bench.evaluation("chat"), overlap=None))
    with pytest.raises(InputError, match="not about the candidate's model"):
        bench.verdict(
            only(**asked), bench.evaluation("chat"), overlap=None, training_sets=bench.lineage("MIT", model="other")
        )


# ---- what stands in use, and the template ----------------------------------------------------------------------------


def test_nothing_may_be_lost_against_the_model_in_use(bench: Bench) -> None:
    config, candidate = only(current=REFERENCE), bench.evaluation("chat", right=30)
    assert failed(bench.verdict(config, candidate, overlap=None)) == ["against current"]  # nobody looked
    worse = bench.verdict(config, candidate, overlap=None, current=bench.evaluation("old", right=50))
    assert failed(worse) == ["choice/larger against current"]
    assert failed(bench.verdict(config, candidate, overlap=None, current=bench.evaluation("old", right=25))) == []
    assert failed(bench.verdict(config, candidate, overlap=None, current=candidate)) == []  # none is in use yet


def test_a_template_that_gives_other_ids_than_training_is_refused(bench: Bench) -> None:
    config, lab = only(template=True), bench.lab
    assert failed(bench.verdict(config, bench.evaluation("chat"), overlap=None, tokenizer=lab.tokenizer)) == []
    assert failed(bench.verdict(config, bench.evaluation("chat"), overlap=None)) == ["chat template"]
    folder = materialise(lab.store, lab.tokenizer, lab.folder / "other words")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>\\n", "<|im_end|>"))
    other = lab.issue_folder("tokenizer", folder)
    (check,) = bench.verdict(config, bench.evaluation("chat"), overlap=None, tokenizer=other)["checks"]
    assert not check["passed"] and "other ids" in check["why"]
