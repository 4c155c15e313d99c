"""What the newcomer's run shows: that every phase of a nano model's life learns, each claim beside what must fail it."""

import math
from typing import Any

import orjson
import pytest
from damage import reinitialise_layer
from life import Life, Lived

from tokenmill.config import resolve
from tokenmill.manifest import Manifest
from tokenmill.steps import find, run_step
from tokenmill.tracking import RunRef

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
DOMAINS = ("book-en", "book-zh", "code-python", "math-en", "web-en")


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    return Life(tmp_path_factory.mktemp("nano"), "nano", {})


@pytest.fixture(scope="module")
def lived(life) -> Lived:
    return life.run(timeout=2000)


def suites(lived: Lived, model: str) -> dict[str, float]:
    measured = lived.document(f"evaluation.evaluate.{model}", "evaluation.json")["suites"]
    return {name: suite["value"] for name, suite in measured.items()}


def test_the_model_passes_its_gate_and_answers(lived):
    assert lived.summary["verdict"] == {"passed": True, "failed": []} | lived.summary["verdict"]
    served = lived.summary["served"]
    assert not served["served"] or (served["ok"] and served["answer"].strip())


def test_pretraining_lowers_the_loss_of_every_domain(lived):
    for domain in DOMAINS:
        untrained, *_, trained = lived.heldout("pretraining.pretrain.short", domain)
        assert untrained == pytest.approx(math.log(4096), abs=0.3)  # a model that knows nothing
        assert trained < untrained - 1, domain
    before, *_, after = lived.heldout("pretraining.pretrain.long")
    assert after < before


def test_enhancement_learns_its_domain_and_no_other(lived):
    before, after = lived.heldout("enhancement.enhance", "math-en")
    assert after < before
    base, enhanced = suites(lived, "base"), suites(lived, "enhanced")
    gain = {domain: base[f"perplexity/{domain}"] / enhanced[f"perplexity/{domain}"] for domain in ("math", "zh")}
    assert gain["math"] > max(1, gain["zh"])


def test_fine_tuning_teaches_the_form_of_a_chat(lived):
    assert suites(lived, "sft")["format/chat"] >= 0.9
    assert suites(lived, "base")["format/chat"] <= 0.1


def test_one_reward_model_heeds_the_prompt_on_templates_it_has_not_seen(lived):
    """The bounds leave room for seeds and processors: one of eight trainings had 0.79 and 0.69. That a single model gets over
    95% right of both sides where pairs are plenty is shown by tests/integration/test_reward_switching.py."""
    report = lived.document("rlhf.evaluate_reward_model", "reward_model.json")
    assert min(report["with_prompts"]["accuracy"].values()) >= 0.8
    assert report["with_prompts"]["flips"] >= 0.7
    assert report["without_prompts"]["flips"] <= 0.05
    assert report["shuffled_labels"]["conflict_accuracy"] == pytest.approx(0.5, abs=0.15)


def test_ppo_raises_the_heldout_reward_within_its_limits(lived):
    for number in (1, 2):
        report = lived.document(f"rlhf.probe.round-{number}", "probe.json", role="evaluation")
        assert report["gain_lower_bound"] > 0, report
        assert abs(report["length_change"]) <= 0.2
        assert report["kl"] <= 10


def test_the_served_model_leads_back_to_every_source(life, lived):
    done = life.tokenmill("lineage", "models:/internlm2-chat-nano@candidate", "--json")
    assert done.returncode == 0, done.stderr
    for source in lived.summary["lineage"]["sources"]:
        assert source["name"] in done.stdout and source["licence"]


def test_the_gate_lets_the_fine_tuned_model_pass_and_none_of_its_layers_be_lost(lived, tmp_path):
    assert judged(lived, lived.manifest("sft.train", "weights"))["passed"]
    for layer in range(4):
        sft = lived.manifest("sft.train", "weights")
        verdict = judged(lived, reinitialise_layer(lived.life.store, sft, tmp_path / str(layer), layer))
        assert not verdict["passed"], f"layer {layer} is random weights, and the gate did not see it"


def judged(lived: Lived, weights: Manifest) -> dict[str, Any]:
    """The verdict on a model under the run's own gate."""
    store, run = lived.life.store, RunRef.new("judged", "nano")

    def step(name: str, inputs: dict, **config: str) -> Manifest:
        overrides = {f"{name}.{field}": value for field, value in config.items()}
        return run_step(name, resolve(find(name).config, name, "nano", overrides), inputs, store=store, run=run)[
            "output"
        ]

    questions, tokenizer = (lived.manifest(t) for t in ("evaluation.prepare", "pretraining.train_tokenizer"))
    asked = {"weights": [weights], "tokenizer": [tokenizer], "questions": [questions]}
    candidate = step("evaluation.evaluate", asked, label="candidate")
    sets = step("evaluation.collect_training_sets", {"weights": [weights]})
    overlap = step("evaluation.contamination", {"training_sets": [sets], "questions": [questions]})
    references = [lived.manifest(f"evaluation.evaluate.{name}") for name in ("base", "sft")]
    evidence = {"decontamination": [overlap], "training_sets": [sets], "tokenizer": [tokenizer]}
    verdict = step(
        "evaluation.gate", {"candidate": [candidate], "references": references, "current": [candidate]} | evidence
    )
    return orjson.loads(store.get_blob(verdict.shard("verdict.json").blob))
