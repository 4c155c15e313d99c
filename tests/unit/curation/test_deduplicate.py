"""Duplicates. Oracles: pairs built to an exact Jaccard similarity, and the spec's rule for the survivor."""

import random

import numpy as np
import pytest

from tokenmill.curation.config import DeduplicateConfig
from tokenmill.curation.deduplicate import find_duplicates, fingerprint, shingles
from tokenmill.errors import InputError

CONFIG = DeduplicateConfig()
PAIRS = 60


def record(name: str, text: str, kind: str = "web", lang: str = "en", dump: str | None = None) -> dict:
    return {"id": name, "text": text, "type": kind, "lang": lang} | ({"dump": dump} if dump else {})


def duplicates(*records: dict, config: DeduplicateConfig = CONFIG) -> dict:
    return find_duplicates([fingerprint(r, config) for r in records], config)


def planted_pairs(jaccard: float, n_grams: int = 400) -> list[dict]:
    """Pairs of documents of unique words whose 5-gram sets have exactly this similarity: they share a beginning."""
    rng, records = random.Random(int(100 * jaccard)), []
    shared = round(2 * n_grams * jaccard / (1 + jaccard))
    for pair in range(PAIRS):
        words = [f"w{rng.getrandbits(60):x}" for _ in range(3 * n_grams)]
        first, second = words[: n_grams + 4], words[: shared + 4] + words[-(n_grams - shared) :]
        a, b = (shingles(" ".join(d), "web", "en", 5) for d in (first, second))
        assert len(a & b) / len(a | b) == pytest.approx(jaccard, abs=0.002)
        records += [record(f"{pair}a", " ".join(first)), record(f"{pair}b", " ".join(second))]
    return records


def test_minhash_recall_at_08_and_09_and_precision_below_the_threshold():
    found = {j: duplicates(*planted_pairs(j)) for j in (0.5, 0.6, 0.8, 0.9)}
    assert len(found[0.8]) >= 0.9 * PAIRS
    assert len(found[0.9]) == PAIRS
    assert not found[0.5] and not found[0.6]
    for duplicate_of in (found[0.8], found[0.9]):  # precision: only a planted partner is ever named
        assert all(gone[:-1] == duplicate.survivor[:-1] for gone, duplicate in duplicate_of.items())


def test_a_signature_estimates_the_jaccard_similarity():
    a, b = (fingerprint(r, CONFIG).signature for r in planted_pairs(0.8)[:2])
    assert a.shape == (128,)
    assert np.mean(a == b) == pytest.approx(0.8, abs=4 * 0.036)


TEXT = "The quick brown fox jumps over the lazy dog while the cat looks on and does not move a whisker at all"


def test_same_document_in_two_dumps_keeps_the_newer():
    old, new = record("z", TEXT, dump="CC-MAIN-2023-06"), record("a", TEXT, dump="CC-MAIN-2023-40")
    assert {gone: d.survivor for gone, d in duplicates(old, new).items()} == {"z": "a"}
    undated = record("y", TEXT)
    assert set(duplicates(old, new, undated)) == {"y", "z"}


def test_survivor_is_newest_then_longest_then_last_id():
    base = TEXT.split() * 4
    older_longer = record("c", " ".join([*base, "and then it went home"]), dump="2023-06")
    newer = record("a", " ".join(base), dump="2023-14")
    newer_longer = record("b", " ".join([*base, "indeed"]), dump="2023-14")
    assert set(duplicates(older_longer, newer, newer_longer)) == {"a", "c"}
    assert set(duplicates(record("a", TEXT), record("b", TEXT))) == {"a"}


def test_the_result_does_not_hang_on_the_order_of_documents():
    records = [*planted_pairs(0.8)[:40], *planted_pairs(0.9)[:0], record("x", TEXT), record("y", TEXT + " ")]
    prints = [fingerprint(r, CONFIG) for r in records]
    expected = find_duplicates(prints, CONFIG)
    for seed in range(3):
        random.Random(seed).shuffle(prints)
        assert find_duplicates(prints, CONFIG) == expected


def test_a_large_bucket_is_collapsed_onto_one_survivor():
    copies = [record(f"{i:03d}", TEXT + f" {'!' * i}") for i in range(120)]  # punctuation is not in the shingles
    found = duplicates(*copies)
    assert {d.survivor for d in found.values()} == {"119"}
    assert len(found) == 119


def test_an_exact_copy_of_a_near_duplicate_names_the_document_that_stays():
    long = record("a", TEXT + " whatever")
    found = duplicates(long, record("b", TEXT), record("c", TEXT))
    assert {gone: d.survivor for gone, d in found.items()} == {"b": "a", "c": "a"}


CODE = """
def area(shape):
{i}total = 0
{i}for side in shape.sides:
{i}{i}if side.length > 0:
{i}{i}{i}total += side.length * side.height
{i}return total
"""


def test_code_indented_by_two_spaces_four_or_a_tab_is_one_file():
    copies = [record(str(n), CODE.format(i=i), "code", "python") for n, i in enumerate(("  ", "    ", "\t"))]
    assert len({frozenset(shingles(c["text"], "code", "python", 5)) for c in copies}) == 1
    assert len(duplicates(*copies)) == 2
    renamed = record("r", CODE.format(i="  ").replace("side", "edge").replace("total", "sum_"), "code", "python")
    assert "r" not in duplicates(*copies, renamed)


def test_chinese_is_shingled_by_characters():
    assert shingles("海水每天涨落两次。", "web", "zh", 5) == {"海水每天涨", "水每天涨落", "每天涨落两", "天涨落两次"}
    long = "海水每天涨落两次，是因为月亮吸引着海水。满月和新月的时候，潮水最高；一个星期以后，潮水最低。"
    assert len(duplicates(record("a", long, lang="zh"), record("b", long.replace("，", "、"), lang="zh"))) == 1


def test_generated_problems_go_only_when_equal():
    first, second = ("Question: " + TEXT + f" {n}\nAnswer: {n}" for n in (41, 42))
    assert not duplicates(record("a", first, "math"), record("b", second, "math"))
    assert len(duplicates(record("a", first, "math"), record("b", first, "math"))) == 1
    assert len(duplicates(record("a", first), record("b", second))) == 1


def test_texts_too_short_for_a_shingle_are_compared_exactly():
    assert not duplicates(record("a", "one two"), record("b", "one three"))
    assert len(duplicates(record("a", "one two"), record("b", "one two"))) == 1


def test_two_documents_with_one_id_are_refused_rather_than_both_dropped():
    with pytest.raises(InputError, match="merged with itself"):
        duplicates(record("a", TEXT), record("a", TEXT))
