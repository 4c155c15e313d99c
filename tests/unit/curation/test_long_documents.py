"""Statistics and thresholds of long documents, and what needs no trained model. Oracles: counted by hand or otherwise."""

import re
import sys

import pytest

from tokenmill.curation.config import SelectLongConfig
from tokenmill.curation.long_context import WindowPerplexity, mean_difference, perplexity_difference
from tokenmill.curation.long_thresholds import beyond, perplexity_threshold, ranges
from tokenmill.curation.select_long import LongDocuments, _refuse_unknown
from tokenmill.curation.statistics_long import MIN_BYTES, STATISTICS, _listed, long_statistics
from tokenmill.errors import ConfigError, InputError


def test_short_documents_are_refused():
    with pytest.raises(InputError, match="too short"):
        long_statistics("a" * MIN_BYTES, "en")
    assert long_statistics("a" * (MIN_BYTES + 1), "en").keys() == set(STATISTICS)
    # bytes count, not characters
    assert long_statistics("字" * (MIN_BYTES // 3 + 1), "zh")["space_rate"] == 0


def test_english_connectives_are_counted_once_in_the_longest_one():
    text = "As a result of it, he left. But even though SHE came, however late, we said so that day."
    # as a result · but · even though · however · so that; he, she, it, we
    found = long_statistics(text, "en", min_bytes=0)
    matched = ("as a result", "but", "even though", "however", "so that")
    assert found["connective_rate"] == pytest.approx(sum(map(len, matched)) / len(text), abs=1e-6)
    assert found["connective_variety"] == len(matched)
    assert found["pronoun_rate"] == pytest.approx(4 / 19, abs=1e-6)
    inside = long_statistics("Andes butter soles forest sofa orchid", "en", min_bytes=0)
    assert inside["connective_rate"] == 0  # no word inside another


def test_neighbouring_connectives_both_count():
    found = long_statistics("in fact in fact and so", "en", min_bytes=0)
    assert found["connective_rate"] == pytest.approx((7 + 7 + 3 + 2) / 22, abs=1e-6)


def test_chinese_connectives_are_the_longest_at_each_place():
    text = "不但他来了，而且我们也来了。然而天下雨，所以回家。"
    found = long_statistics(text, "zh", min_bytes=0)
    matched = ("不但", "而且", "也", "然而", "所以")
    assert found["connective_rate"] == pytest.approx(sum(map(len, matched)) / len(text), abs=1e-6)
    assert found["pronoun_rate"] == pytest.approx(2 / len(text), abs=1e-6)  # 他, 我们


def test_lines_and_words_are_counted_as_by_hand():
    found = long_statistics("one two\n\nthree, four | five\none\n", "en", min_bytes=0)
    assert {k: found[k] for k in ("line_mean", "line_median", "line_max", "line_min")} == {
        "line_mean": pytest.approx((7 + 18 + 3) / 3, abs=1e-5), "line_median": 7, "line_max": 18, "line_min": 3,
    }  # fmt: skip
    assert found["newline_rate"] == pytest.approx(4 / 32, abs=1e-5) and found["bar_rate"] == pytest.approx(
        1 / 32, abs=1e-5
    )
    assert found["type_token_ratio"] == pytest.approx(6 / 7, abs=1e-5)  # the bar is a word of its own


def test_the_segments_ratio_does_not_fall_with_length_as_the_whole_texts_does():
    words = " ".join(f"w{i % 700}" for i in range(1000))
    one, many = long_statistics(words, "en", 0), long_statistics(" ".join([words] * 8), "en", 0)
    assert one["segment_ttr"] == many["segment_ttr"] == 0.7
    assert many["type_token_ratio"] == pytest.approx(0.7 / 8, abs=1e-5)


@pytest.mark.parametrize("name", ["connectives_en", "connectives_zh", "pronouns_en", "pronouns_zh"])
def test_word_lists_hold_each_word_once_in_the_form_in_which_it_is_looked_for(name):
    words = _listed(name)
    assert len(words) == len(set(words)) > 20
    form = r"[a-z.]+(?: [a-z]+)*" if name.endswith("en") else r"[一-鿿]+"
    assert [word for word in words if not re.fullmatch(form, word)] == []


def test_the_special_domain_goes_before_the_general_one_and_code_has_no_conjunctions():
    assert "connective_rate" in ranges("book", "en", {}) and "connective_rate" in ranges("web", "zh", {})
    assert "connective_rate" not in ranges("code", "python", {})
    changes = {"book/en": {"connective_rate": (0.5, None)}, "*/*": {"bar_rate": None}}
    assert ranges("book", "en", changes)["connective_rate"] == (0.5, None)
    assert ranges("web", "en", changes)["connective_rate"] == ranges("web", "en", {})["connective_rate"]
    assert "bar_rate" not in ranges("book", "en", changes)
    thresholds = {"*/*": 1.0, "*/zh": 2.0, "book/*": 3.0, "book/zh": 4.0}
    asked = (("web", "en"), ("web", "zh"), ("book", "en"), ("book", "zh"))
    assert [perplexity_threshold(*domain, thresholds) for domain in asked] == [1.0, 2.0, 3.0, 4.0]
    assert perplexity_threshold("web", "en", {}) == 0.0
    assert (beyond(0.1, (0.2, None)), beyond(0.3, (0.2, 0.25)), beyond(0.2, (0.2, 0.2))) == (0.2, 0.25, None)


def test_a_document_of_the_limits_length_is_dropped_before_any_model_is_loaded(tmp_path):
    choose = LongDocuments(SelectLongConfig(), tmp_path / "no model", tmp_path / "no tokenizer")
    record = {"id": "a", "text": "x" * MIN_BYTES, "type": "web", "lang": "en", "source": "s", "path": "p", "scores": {}}
    dropped = choose(record)
    assert (dropped.reason, dropped.value, dropped.threshold) == ("short", MIN_BYTES, MIN_BYTES)
    assert "text" not in dropped.record and dropped.record["id"] == "a"
    listed = choose(record | {"text": "apple\n" * 6_000})
    assert listed.reason == "connective_rate" and listed.record["long"]["connective_rate"] == 0


def test_what_cannot_be_judged_is_one_clear_line():
    from tokenmill.model.config import InternLM2Config

    class Model:
        config = InternLM2Config.preset("pico")  # 128 tokens of context

    with pytest.raises(InputError, match="less than one window of 64"):
        perplexity_difference(Model(), [1] * 63, 64, 16)
    with pytest.raises(InputError, match="reads 128 tokens"):
        perplexity_difference(Model(), [1] * 500, 256, 16)
    with pytest.raises(InputError, match="no far context"):
        perplexity_difference(Model(), [1] * 500, 64, 32)
    with pytest.raises(ConfigError, match="twice tail"):
        SelectLongConfig.at("curation.select_long", {"window": 64, "tail": 32})
    with pytest.raises(ConfigError, match="no statistic named 'conectives'"):
        _refuse_unknown(SelectLongConfig(statistics={"*/en": {"conectives": (0, None)}}))


def test_the_sign_is_the_reports():
    helped, hindered = WindowPerplexity(far=8.0, near=10.0), WindowPerplexity(far=13.0, near=10.0)
    assert mean_difference([helped]) == -2.0
    assert mean_difference([helped, hindered]) == 0.5


def test_importing_the_perplexity_filter_imports_no_torch(run_python):
    run_python("import tokenmill.curation.long_context, sys; assert 'torch' not in sys.modules")
    assert sys.version_info >= (3, 11)
