"""Rules and rule sets. Oracles: hand-counted texts, the thresholds of the papers, and a second count of repetition."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.curation.config import FilterConfig
from tokenmill.curation.document import Document
from tokenmill.curation.filter import Clean
from tokenmill.curation.normalisers import normalise
from tokenmill.curation.rules import NORMALISERS, RULES, RuleSet, built_in
from tokenmill.errors import ConfigError
from tokenmill.steps import Drop, Keep

PROSE = (
    "The sea rises and falls twice a day because the moon pulls on the water. When sun and moon pull in one line, at "
    "full and at new moon, the tides are highest, and they are called spring tides. A week later they are lowest. The "
    "shape of a bay can make the difference between high and low water many metres, and people who walk there have to "
    "know the hour."
)
CHINESE = (
    "海水每天涨落两次，是因为月亮吸引着海水。满月和新月的时候，太阳和月亮在一条线上，潮水最高；"
    "一个星期以后，潮水最低。海湾的形状可以使高潮和低潮相差许多米。在沙滩上散步的人，应该知道涨潮的时间。"
    "渔民的孩子从小就会看潮水。"
)


def record(text: str, kind: str = "web", lang: str = "en") -> dict:
    return {"id": "0", "text": text, "type": kind, "lang": lang, "source": "s", "path": "p", "scores": {}}


def test_clean_prose_passes_in_both_languages():
    clean = Clean({})
    assert isinstance(clean(record(PROSE)), Keep)
    assert isinstance(clean(record(CHINESE, lang="zh")), Keep)


DEFECTS = {
    "length": "Too short to be a page. It has two sentences. Or three.",
    "mean_word_length": PROSE + " " + "x" * 900,
    "alphabetic_words": PROSE + " 1234" * 40,
    "symbols": PROSE + " # # # # # # # # # # # #",
    "stop_words": re.sub(r"\b(the|be|to|of|and|that|have)\b", "so", PROSE, flags=re.IGNORECASE),
    "sentences": PROSE.replace(". ", ", "),
    "ellipsis_lines": PROSE.replace(". ", "...\n"),
    "bullet_lines": "- " + PROSE.replace(". ", ".\n- "),
    "replacement_characters": PROSE + "\ufffd" * 3,
    "mojibake": PROSE.replace("moon", "mâ€™oon"),
    "placeholder_page": PROSE + " Please enable JavaScript.",
    "duplicate_lines": "\n".join([PROSE, "Read more here, please do.", PROSE]),
    "duplicate_paragraphs": "\n\n".join([PROSE, *["One thing more."] * 4]),
    "short_lines": PROSE + "\n" + "\n".join(f"word{i}" for i in range(9)),
    "top_ngrams": PROSE + " very long indeed" * 20,
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_dropped_for_that_reason_with_value_and_threshold(name):
    outcome = Clean({})(record(DEFECTS[name]))
    assert isinstance(outcome, Drop)
    assert outcome.reason == {"duplicate_paragraphs": "duplicate_lines"}.get(name, name)  # paragraphs are lines too
    assert outcome.value is not None
    assert outcome.threshold


def test_each_threshold_is_inclusive():
    words = [f"word{i}" for i in range(50)]
    assert RULES["length"](Document(" ".join(words))).keep
    assert not RULES["length"](Document(" ".join(words[:49]))).keep
    assert RULES["stop_words"](Document("Read the list of names")).keep
    assert not RULES["stop_words"](Document("Read the list, the names, the dates")).keep


def test_chinese_is_counted_in_characters_and_needs_half_of_them_han():
    assert RULES["length"](Document("好" * 60, "zh"), low=60).keep
    assert not RULES["length"](Document("好" * 59, "zh"), low=60).keep
    outcome = Clean({})(record(CHINESE + " lorem dolor sit amet" * 12, lang="zh"))
    assert isinstance(outcome, Drop) and outcome.reason == "han_share"


def test_duplicate_ngram_share_against_a_character_mask():
    """Oracle: mark every token that lies in a repeated n-gram of the greedy scan, then count characters."""
    rng = random.Random(7)
    for _ in range(50):
        words = [rng.choice(("ab", "ccc", "dd", "eeee", "f")) for _ in range(60)]
        for n in (5, 7):
            seen, mask = set(), [False] * len(words)
            for i in range(len(words) - n + 1):
                gram = tuple(words[i : i + n])
                if gram in seen:
                    mask[i : i + n] = [True] * n
                seen.add(gram)
            expected = sum(len(w) for w, m in zip(words, mask, strict=True) if m) / sum(map(len, words))
            assert Document(" ".join(words)).duplicate_ngram_share(n) == pytest.approx(expected)


def test_normalisers_do_one_thing_each():
    assert NORMALISERS["newlines"]("a \r\nb\rc") == "a\nb\nc"
    assert NORMALISERS["zero_width"]("a\u200bb\ufeffc\td") == "abc\td"
    assert NORMALISERS["blank_lines"]("a\n\n\n\n\n\nb") == "a\n\n\nb"
    assert NORMALISERS["wide_spaces"]("a\u3000b\xa0c") == "a b c"
    assert NORMALISERS["cjk_punctuation"]("好,吗? a, b") == "好，吗？ a, b"


TORN = ["a", "好", ",", " ", "\t", "\n", "\r", "\n\n\n", "\u200b", "\u3000", "\x85", "\xa0", "."]


@settings(deadline=None)  # the first example may wait for a compiler
@given(st.lists(st.sampled_from(TORN), max_size=14).map("".join), st.permutations(["newlines", "zero_width", "wide_spaces",
       "blank_lines", "cjk_punctuation"]))  # fmt: skip
def test_what_a_look_at_the_text_leaves_out_would_have_changed_nothing(text, names):
    expected = text
    for name in names:
        expected = NORMALISERS[name](expected)
    assert normalise(text, [NORMALISERS[name] for name in names]) == expected


def test_a_kept_document_is_the_normalised_one_and_a_dropped_one_is_as_it_came():
    kept = Clean({})(record("\u200b" + PROSE + "\r\n"))
    assert isinstance(kept, Keep) and kept.record["text"] == PROSE
    dropped = Clean({})(record("\u200bshort"))
    assert isinstance(dropped, Drop) and dropped.record["text"] == "\u200bshort"


def test_code_is_not_normalised_beyond_line_ends():
    code = "def f():\r\n\treturn 'ﬁ，\u3000'  \r\n"
    kept = Clean({})(record(code, "code", "python"))
    assert isinstance(kept, Keep) and kept.record["text"] == "def f():\n\treturn 'ﬁ，\u3000'"


def test_minified_code_goes():
    outcome = Clean({})(record("var a=1;" * 200, "code", "javascript"))
    assert isinstance(outcome, Drop) and outcome.reason == "longest_line"


def test_every_built_in_rule_set_loads_and_every_document_type_is_covered():
    assert {name.partition("_")[2] for name in built_in()} == {"web", "book", "techlit", "code", "math", "qa"}
    used = {name for text in built_in() for name, _ in RuleSet.load(text).rules}
    assert used < set(RULES)
    assert {RuleSet.open(name).lang for name in built_in("published")} == {"en"}


SOURCE = re.compile(r"Gopher|C4|FineWeb|The Stack|RefinedWeb|\bours\b")
NUMBER = re.compile(r"\d|\b(?:half|one|two|three|four|ten|thousand|without any)\b")


@pytest.mark.parametrize("name", RULES)
def test_every_rule_says_where_it_is_from_and_what_its_threshold_means(name):
    told = RULES[name].__doc__ or ""
    assert SOURCE.search(told) and NUMBER.search(told), told


MORE_DEFECTS = {
    "curly_brackets": PROSE + " {{ title }}",
    "white_space": PROSE.replace(" ", "\t\t\t\t\t"),
    "separator_runs": PROSE + "\n" + "=" * 40,
    "blank_run": PROSE.replace(". ", ".\n \n\n\n\n"),
    "strange_characters": PROSE + "\ue000\uffff",
    "terminal_punctuation": PROSE.replace(".", ""),
    "line_punctuation": PROSE.replace(". ", "\n").rstrip("."),
    "short_line_characters": PROSE.replace(" ", "\n", 20),
    "line_breaks": PROSE.replace(" ", "\n"),
    "long_lines": PROSE,
    "duplicate_line_characters": PROSE + "\nRead more.\nRead more.",
    "duplicate_paragraph_characters": PROSE + "\n\n" + PROSE,
    "unique_words": "the cat and " * 60,
    "hash_signs": PROSE + " #" * 12,
    "ellipses": PROSE + " …" * 12,
    "mean_token_length": PROSE + " " + "x" * 900,
    "alphabetic_tokens": PROSE + " 1234" * 40,
    "top_ngrams_in_text": PROSE + " very long indeed" * 20,
    "duplicate_ngrams_in_text": PROSE + PROSE,
    "bullet_lines_in_text": "- " + PROSE.replace(". ", ".\n- "),
    "ellipsis_lines_in_text": PROSE.replace(". ", "...\n"),
}


@pytest.mark.parametrize("name", MORE_DEFECTS)
def test_a_rule_that_no_built_in_set_uses_finds_its_defect_and_no_other(name):
    rules = RuleSet.parse("en_web", {"drop": {name: {}}})
    failure = rules.failure(MORE_DEFECTS[name])
    assert failure and failure[0] == name and failure[1].threshold
    if name != "long_lines":
        assert rules.failure(PROSE) is None


def test_the_rules_not_in_built_in_sets_are_the_ones_tested_above():
    used = {name for text in built_in() for name, _ in RuleSet.load(text).rules}
    assert set(RULES) - used == set(MORE_DEFECTS)


def test_c4_keeps_whole_sentences_and_drops_menus_scripts_and_policies():
    page = "Home | About\nThe tide rises twice a day.[1]\n\nUse Javascript to see it, please.\nYes!\nWe use cookies here.\nRead on..."
    assert RuleSet.open("c4").normalise(page) == "The tide rises twice a day."
    assert NORMALISERS["terminal_lines"]("潮水最低。\n目录\n“满月。”") == "潮水最低。\n“满月。”"


def test_placeholder_pages_are_found_whatever_their_case():
    rule = RULES["placeholder_page"]
    for text in ("LOREM IPSUM dolor", "Please turn on\nJavaScript.", "请启用javascript", "lorem ıpſum"):
        assert not rule(Document(text)).keep, text
    for text in ("Javascript is a language.", "lorem  ipsum"):
        assert rule(Document(text)).keep, text


def test_overrides_change_add_and_remove_rules():
    rules = FilterConfig.model_validate({"rules": {"en_web": {"length": {"low": 5}, "stop_words": False}}}).rules
    text = "Cats nap. Dogs bark at night. Birds sing."
    assert isinstance(Clean(rules)(record(text)), Keep)
    added = {"en_math": {}, "any_math": {"sentences": {"low": 2}}}
    with pytest.raises(ConfigError, match="unknown rule set 'en_math'"):
        Clean(added)
    assert isinstance(Clean({"any_math": {"sentences": {"low": 2}}})(record("1 + 1 = 2", "math")), Drop)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mean_word_lenght": {}}, "unknown rule 'mean_word_lenght'. Did you mean 'mean_word_length'?"),
        ({"length": {"min": 3}}, "length has no threshold 'min'"),
        ({"length": {"low": [1, 2]}}, "length.low must be a number, not [1, 2]"),
        ({"top_ngrams": {"high": 0.2}}, "top_ngrams.high must be a list of numbers, not 0.2"),
        ({"length": {"low": "many"}}, "length.low must be a number, not 'many'"),
    ],
)
def test_a_wrong_rule_set_says_what_and_where(overrides, message):
    with pytest.raises(ConfigError, match="en_web") as refused:
        RuleSet.load("en_web", overrides)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("- length", "expected a mapping with lang, normalise, drop"),
        ("drops: {length: {}}", "unknown key 'drops'. Did you mean 'drop'?"),
        ("drop: [length]", "drop must be a dict, not ['length']"),
        ("drop: {length: 50}", "length needs thresholds as {name: number}, not 50"),
        ("normalise: [newline]", "unknown normaliser 'newline'. Did you mean 'newlines'?"),
        ("drop: {length: {low: 1}", "no YAML: "),
        (b"drop: \xff", "not UTF-8"),
        ("drop: {length: {}}", "for which language? Say lang: en, zh, any"),
        (None, "No such file or directory"),
    ],
)
def test_a_wrong_file_says_what_and_where_in_one_line(tmp_path, yaml, message):
    path = tmp_path / "mine.yaml"
    if yaml is not None:
        path.write_bytes(yaml if isinstance(yaml, bytes) else yaml.encode())
    with pytest.raises(ConfigError, match="rule set .*mine") as refused:
        RuleSet.open(str(path))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_rule_set_of_ones_own_says_its_language_by_name_or_by_key(tmp_path):
    (tmp_path / "zh_mine.yaml").write_text("drop: {length: {low: 3}}")
    (tmp_path / "mine.yaml").write_text("lang: zh\ndrop: {length: {low: 3}}")
    for name in ("zh_mine", "mine"):
        rules = RuleSet.open(str(tmp_path / f"{name}.yaml"))
        assert rules.lang == "zh" and rules.failure("好好好") is None
    with pytest.raises(ConfigError, match="there are .*any_code.*gopher.*or a .yaml file"):
        RuleSet.open("en_wed")
