"""The domain set and what is left out of it."""

import orjson
import pytest
from pico import Lab

from tokenmill.enhancement.config import PrepareConfig
from tokenmill.enhancement.decontamination import REPORT
from tokenmill.errors import ConfigError, InputError
from tokenmill.records import JSONL, read_jsonl
from tokenmill.steps import configured, find

PROBLEM = "What is the measure of the remaining angle of a triangle with angles of {a} and {b} degrees in all"


def record(number: int, kind: str, text: str, **more) -> dict:
    known = {"id": f"{kind}-{number}", "type": kind, "lang": "en", "source": "made", "path": str(number), "scores": {}}
    return known | {"text": text} | more


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def selected(lab: Lab, records: list[dict], suites: dict[str, list[dict]], **config):
    by_type: dict[str, list[dict]] = {}
    for row in records:
        by_type.setdefault(f"type={row['type']}/lang=en/part-00000{JSONL}", []).append(row)
    questions = lab.issue("questions", {f"{suite}{JSONL}": rows for suite, rows in suites.items()})
    made = lab.step(
        "enhancement.prepare", PrepareConfig(**config), corpus=lab.issue("corpus", by_type), questions=questions
    )
    kept = {row["id"] for shard in made["corpus"].shards for row in read_jsonl(lab.store.blob_path(shard.blob))}
    return kept, made["corpus"].dropped


def problems(n: int) -> list[dict]:
    return [record(i, "math", PROBLEM.format(a=20 + i, b=50 + i)) for i in range(n)]


def test_a_question_is_dropped_and_what_shares_its_template_is_not(lab):
    asked = [{"id": f"q{i}", "question": PROBLEM.format(a=20 + i, b=50 + i), "answer": "1"} for i in (3, 4, 5)]
    kept, dropped = selected(lab, problems(10), {"generate/maths": asked})
    assert kept == {f"math-{i}" for i in range(10)} - {"math-3", "math-4", "math-5"}
    assert dropped == {"asked_by_evaluation": 3}


def test_hits_are_reported_a_benchmark(lab):
    def suite(*numbers: int) -> list[dict]:
        return [{"id": f"q{i}", "question": PROBLEM.format(a=20 + i, b=50 + i), "answer": "1"} for i in numbers]

    suites = {"generate/maths": suite(3, 4, 5), "choice/angles": suite(5, 88, 89), "generate/other": suite(77, 78, 79)}
    made = lab.step(
        "enhancement.prepare",
        PrepareConfig(),
        corpus=lab.issue("corpus", {f"type=math/lang=en/part-00000{JSONL}": problems(10)}),
        questions=lab.issue("questions", {f"{name}{JSONL}": rows for name, rows in suites.items()}),
    )
    report = orjson.loads(lab.store.get_blob(made["decontamination"].shard(REPORT).blob))
    assert report["hits"] == {"choice/angles": 1, "generate/maths": 3} and report["looked_for"] == 9
    assert made["decontamination"].counts["hits"] == 4 and report["dropped"] == {"asked_by_evaluation": 3}


def test_a_document_that_evaluation_reads_is_known_by_its_id(lab):
    """Its wording is a template's, so looking for the text would drop all of them."""
    read = [{"id": "math-7", "text": problems(10)[7]["text"]}, {"id": "book-0@2", "text": "of a long book"}]
    kept, dropped = selected(lab, problems(10), {"perplexity/math": read})
    assert kept == {f"math-{i}" for i in range(10)} - {"math-7"}
    assert dropped == {"read_by_evaluation": 1}


def test_the_rest_is_the_best_that_fits_its_share(lab):
    domain = [record(i, "math", "x" * 740) for i in range(10)]
    books = [record(0, "book", "y" * 100_000), *(record(i, "book", "z" * 500) for i in range(1, 8))]
    kept, _ = selected(lab, domain + books, {"generate/maths": [{"id": "q", "question": "a b c d e f g h"}]})
    rest = {name for name in kept if name.startswith("book")}
    assert "book-0" not in rest and len(rest) == 5  # 2,600 bytes of 10,000


def test_without_types_everything_is_learned_but_what_is_asked(lab):
    corpus = [*problems(6), *(record(i, "book", "z" * 500) for i in range(3))]
    asked = [{"id": f"q{i}", "question": PROBLEM.format(a=20 + i, b=50 + i), "answer": "1"} for i in (1, 2, 3)]
    kept, dropped = selected(lab, corpus, {"generate/maths": asked}, types=())
    assert kept == {row["id"] for row in corpus} - {"math-1", "math-2", "math-3"}
    assert dropped == {"asked_by_evaluation": 3}


def test_without_a_document_of_the_domain_there_is_nothing_to_enhance(lab):
    with pytest.raises(InputError, match=r"enhancement\.prepare\.types"):
        selected(lab, [record(0, "book", "y")], {"generate/maths": []})


# --- the mixture: oracle is report Table 4 ------------------------------------------------------------------------------

SHARES = {"stem": 0.65, "special": 0.09, "high_quality": 0.26}
ASKED = {"generate/maths": [{"id": "q", "question": "nothing that any document here asks about"}]}


def found(number: int, category: str, size: int, score: float) -> dict:
    told = {"category": category, "score": score, "rank": 0, "questions": 1}
    return record(number, "techlit", category[0] * size, retrieved=told) | {"id": f"{category}-{number}"}


def test_shares_are_table_4s_and_the_scarcest_category_sets_the_size(lab):
    stem = [found(i, "stem", 1000, 1.0 + i) for i in range(200)]
    special = [found(i, "special", 1000, 1.0 + i) for i in range(9)]  # 9% of 100 kB
    rest = [record(i, "book", "y" * 1000) for i in range(100)]
    kept, _ = selected(lab, stem + special + rest, ASKED, shares=SHARES)
    by = {name: sorted(k for k in kept if k.startswith(name)) for name in ("stem", "special", "book")}
    assert {name: len(names) for name, names in by.items()} == {"stem": 65, "special": 9, "book": 26}
    # the best of the retrieved ones: those with the highest scores
    assert set(by["stem"]) == {f"stem-{i}" for i in range(135, 200)}


def test_a_document_that_is_there_twice_counts_once_as_retrieved(lab):
    both = record(1, "book", "x" * 1000)
    again = both | {"source": "again", "retrieved": {"category": "stem", "score": 2.0, "rank": 0, "questions": 1}}
    other = record(2, "book", "y" * 1000)
    kept, dropped = selected(lab, [both, again, other], ASKED, shares={"stem": 0.5, "high_quality": 0.5})
    assert kept == {"book-1", "book-2"} and dropped == {}


def test_a_missing_category_and_shares_that_are_no_whole_are_one_clear_line(lab):
    with pytest.raises(InputError, match="no document of category 'special'"):
        selected(lab, [found(1, "stem", 10, 1.0), record(1, "book", "x")], ASKED, shares=SHARES)
    with pytest.raises(ConfigError, match="add up to 1"):
        PrepareConfig.at("enhancement.prepare", {"shares": {"stem": 0.7}})


@pytest.mark.parametrize("preset", ["internlm2-1.8b", "internlm2-7b", "internlm2-20b"])
def test_the_released_presets_mix_as_table_4_and_may_do_without(preset):
    prepare = find("enhancement.prepare")
    assert configured(prepare, preset, {}).shares == SHARES
    assert configured(prepare, preset, {"enhancement.prepare.shares": None}).shares is None
