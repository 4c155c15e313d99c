"""Whose report it is, what it looked for, and how hard."""

import pytest
from pico import Lab

from tokenmill.enhancement import enhance
from tokenmill.enhancement.config import EnhanceConfig
from tokenmill.errors import ConfigError, InputError
from tokenmill.manifest import Manifest
from tokenmill.pretraining.config import TokenizeConfig
from tokenmill.steps import run_step


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def tokens(lab, corpus):
    inputs = {"corpus": corpus, "tokenizer": lab.tokenizer}
    return lab.step("pretraining.tokenize", TokenizeConfig(heldout_share=0.1), **inputs)["output"]


def refused(lab, of, report, **config):
    enhance.check(EnhanceConfig(**config), of, lab.corpus, report, None, lab.store)


def test_the_report_on_the_tokens_own_corpus_is_taken(lab):
    made = lab.decontaminated(lab.corpus)
    refused(lab, tokens(lab, made["corpus"]), made["decontamination"])


def test_equal_bytes_of_another_lineage_are_the_same_corpus(lab):
    """The report is about what the documents are, not about who handed them on."""
    made = lab.decontaminated(lab.corpus)
    again = Manifest.issue(made["corpus"], parents={}, step="test.again", version=1, config={})
    lab.store.put_manifest(again)
    assert again.digest != made["corpus"].digest
    refused(lab, tokens(lab, again), made["decontamination"])


def test_a_report_on_another_corpus_is_refused_before_a_rank_is_started(lab):
    report = lab.decontaminated(lab.corpus)["decontamination"]
    other = tokens(lab, lab.corpus)  # what went into the search, not what came out of it
    with pytest.raises(
        InputError, match=r"is not about the corpus that the tokens were made of \(" + lab.corpus.digest[:12]
    ):
        inputs = {"tokens": other, "base": lab.weights(), "decontamination": report}
        run_step("enhancement.enhance", EnhanceConfig(), inputs, store=lab.store, run=lab.run)


def test_tokens_whose_corpus_nobody_knows_are_refused(lab):
    made = lab.decontaminated(lab.corpus)
    with pytest.raises(InputError, match="none that is known"):
        refused(lab, lab.issue("tokens", {}), made["decontamination"])


def test_a_report_that_looked_for_nothing_is_refused(lab):
    made = lab.decontaminated(lab.corpus, question="")
    with pytest.raises(InputError, match="looked for no question"):
        refused(lab, tokens(lab, made["corpus"]), made["decontamination"])
    short = lab.decontaminated(lab.corpus, question="too short")  # below min_words: not looked for
    with pytest.raises(InputError, match="looked for no question"):
        refused(lab, tokens(lab, short["corpus"]), short["decontamination"])


@pytest.mark.parametrize(
    ("field", "weaker", "stricter"), [("ngram_words", 14, 12), ("min_words", 6, 4), ("max_sharing", 1, 3)]
)
def test_a_weaker_rule_is_refused_and_a_stricter_one_taken(lab, field, weaker, stricter):
    made = lab.decontaminated(lab.corpus, **{field: weaker})
    of = tokens(lab, made["corpus"])
    with pytest.raises(ConfigError, match=f"{field} was {weaker}, wanted is"):
        refused(lab, of, made["decontamination"])
    refused(lab, of, made["decontamination"], decontamination={field: weaker})  # that much is asked for, and no more
    made = lab.decontaminated(lab.corpus, **{field: stricter})
    refused(lab, tokens(lab, made["corpus"]), made["decontamination"])


def test_a_share_to_rehearse_needs_something_to_rehearse(lab):
    made = lab.decontaminated(lab.corpus)
    with pytest.raises(InputError, match="give `rehearsal`"):
        refused(lab, tokens(lab, made["corpus"]), made["decontamination"], rehearsal_share=0.1)
