"""Duplicates. Oracles: pairs built to an exact Jaccard similarity, all pairs compared in Python, the spec's rule for the
survivor, and one run over everything beside many over parts of it."""

import itertools
import random

import numpy as np
import pytest

from tokenmill.curation import bands as bands_module
from tokenmill.curation import fingerprints as fingerprints_module
from tokenmill.curation.bands import Bounds, band_rows, find_pairs, similarity
from tokenmill.curation.clusters import clusters, settle
from tokenmill.curation.fingerprints import Index, Prints, write_prints
from tokenmill.curation.minhash import jaccard, ngram_set, signatures
from tokenmill.curation.repeats_config import DeduplicateConfig
from tokenmill.curation.units import encoded, unit_kind
from tokenmill.errors import CorruptError, InputError

CONFIG = DeduplicateConfig()
PAIRS = 60


def record(name: str, text: str, kind: str = "web", lang: str = "en", dump: str | None = None) -> dict:
    return {"id": name, "text": text, "type": kind, "lang": lang} | ({"dump": dump} if dump else {})


class Dedup:
    """Records in, as shards of fingerprints; who goes and for whom out."""

    def __init__(self, folder) -> None:
        self.folder, self.files = folder, itertools.count()

    def prints(self, records: list[dict], config=CONFIG) -> Prints:
        path = self.folder / f"{next(self.files)}.prints"
        write_prints(path, records, config)
        return Prints(path, path.name)

    def __call__(self, *records: dict, config=CONFIG, old: tuple[dict, ...] = (), shards: int = 1) -> dict[str, str]:
        return {
            gone: survivor for gone, (survivor, _) in self.told(*records, config=config, old=old, shards=shards).items()
        }

    def told(self, *records, config=CONFIG, old=(), shards=1, texts=True) -> dict[str, tuple[str, float]]:
        parts = [list(records[i::shards]) for i in range(shards)]
        listed = [self.prints(list(old), config)] * bool(old) + [self.prints(part, config) for part in parts]
        index = Index(listed, int(bool(old)), self.folder)
        everything = [*old, *itertools.chain(*parts)]
        bounds = Bounds.around(config.threshold, config.margin, config.permutations)
        rows = band_rows(config.permutations, config.bands, config.rounds)
        pairs = list(find_pairs(index, rows, bounds))

        def compare(pairs):
            return np.array(
                [np.nan if p["a"] < index.old else true_jaccard(everything[p["a"]], everything[p["b"]]) for p in pairs]
            )

        found = settle(index, pairs, bounds, config.threshold, compare if texts else None)
        gone = np.flatnonzero(found.survivor != np.arange(index.size)).tolist()
        return {index.id(i): (index.id(found.survivor[i]), found.similarity(index, i)) for i in gone}


def true_jaccard(one: dict, other: dict) -> float:
    sets = []
    for r in (one, other):
        kind = unit_kind(r["type"], r["lang"])
        sets.append(ngram_set(encoded(r["text"], kind), kind, 5))
    return jaccard(*sets)


@pytest.fixture
def duplicates(tmp_path):
    return Dedup(tmp_path)


def planted_pairs(similar: float, n_grams: int = 400, pairs: int = PAIRS) -> list[dict]:
    """Pairs of documents of unique words whose 5-gram sets have exactly this similarity: they share a beginning."""
    rng, records = random.Random(int(1000 * similar)), []
    shared = round(2 * n_grams * similar / (1 + similar))
    for pair in range(pairs):
        words = [f"w{rng.getrandbits(60):x}" for _ in range(3 * n_grams)]
        first, second = words[: n_grams + 4], words[: shared + 4] + words[-(n_grams - shared) :]
        a, b = ({tuple(d[i : i + 5]) for i in range(len(d) - 4)} for d in (first, second))
        assert len(a & b) / len(a | b) == pytest.approx(similar, abs=1 / n_grams)
        records += [record(f"{pair}a", " ".join(first)), record(f"{pair}b", " ".join(second))]
    return records


@pytest.mark.parametrize(("similar", "least", "most"), [
    (0.5, 0, 0), (0.6, 0, 0), (0.65, 0, 0), (0.69, 0, 0), (0.72, 0.9, 1), (0.8, 0.99, 1), (0.85, 0.99, 1), (0.9, 1, 1),
])  # fmt: skip
def test_pairs_from_08_on_are_found_and_none_below_the_threshold(duplicates, similar, least, most):
    pairs = 200
    found = duplicates(*planted_pairs(similar, 150, pairs))
    assert least * pairs <= len(found) <= most * pairs
    assert all(gone[:-1] == survivor[:-1] for gone, survivor in found.items())  # only a planted partner is ever named


def test_without_texts_the_estimate_decides(duplicates):
    records = planted_pairs(0.69, 150, 200)
    assert 20 < len(duplicates.told(*records, texts=False)) < 120  # σ = 0.04: about two in five of those that meet
    assert not duplicates.told(*records)


def test_what_is_told_of_a_near_duplicate_reaches_the_threshold(duplicates):
    found = duplicates.told(*planted_pairs(0.72, 150, 100))
    assert found and all(0.7 <= similar < 1 for _, similar in found.values())


def test_all_pairs_compared_one_by_one_give_the_same_clusters(duplicates):
    """Random mixtures of common parts: clusters of any size, chains, bridges. The oracle knows no hashing of sets."""
    rng = random.Random(5)
    parts = [" ".join(f"p{i}x{k}" for k in range(30)) for i in range(12)]
    records = []
    for n in range(90):
        chosen = rng.choice([parts[:9], parts[1:10], parts[3:12], rng.sample(parts, 8)])
        chosen = [p for p in chosen if rng.random() > 0.03]
        records.append(record(f"{n:03d}", " ".join(chosen)))
    sets = [{tuple(w[i : i + 5]) for i in range(len(w) - 4)} for r in records if (w := r["text"].split())]
    component = list(range(len(records)))
    for a, b in itertools.combinations(range(len(records)), 2):
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= 0.7:
            component = [component[a] if c == component[b] else c for c in component]
    best: dict[int, int] = {}
    for n, r in enumerate(records):
        if component[n] not in best or (len(r["text"]), r["id"]) > (
            len(records[best[component[n]]]["text"]),
            records[best[component[n]]]["id"],
        ):
            best[component[n]] = n
    expected = {r["id"]: records[best[component[n]]]["id"] for n, r in enumerate(records) if best[component[n]] != n}
    assert len(set(expected.values())) + len(expected) > 5 and expected
    assert duplicates(*records) == expected


TEXT = "The quick brown fox jumps over the lazy dog while the cat looks on and does not move a whisker at all"


def test_same_document_in_two_dumps_keeps_the_newer(duplicates):
    old, new = record("z", TEXT, dump="CC-MAIN-2023-06"), record("a", TEXT, dump="CC-MAIN-2023-40")
    assert duplicates(old, new) == {"z": "a"}
    assert set(duplicates(old, new, record("y", TEXT))) == {"y", "z"}
    assert duplicates(record("z", TEXT, dump="2023-40"), record("a", TEXT, dump="2024-10"), shards=2) == {"z": "a"}


def test_survivor_is_newest_then_longest_then_last_id(duplicates):
    base = TEXT.split() * 4
    older_longer = record("c", " ".join([*base, "and then it went home"]), dump="2023-06")
    newer = record("a", " ".join(base), dump="2023-14")
    newer_longer = record("b", " ".join([*base, "indeed"]), dump="2023-14")
    assert set(duplicates(older_longer, newer, newer_longer)) == {"a", "c"}
    assert set(duplicates(record("a", TEXT), record("b", TEXT))) == {"a"}
    ids = [f"{n:016x}" for n in (2**63 + 5, 17, 2**62)]
    assert set(duplicates(*(record(i, TEXT) for i in ids)).values()) == {max(ids)}


def corpus(seed: int = 0) -> list[dict]:
    """Planted pairs, copies, near copies and documents by themselves, of three dumps and two languages."""
    rng = random.Random(seed)
    records = [*planted_pairs(0.8, 100, 20), *planted_pairs(0.68, 150, 20), *planted_pairs(0.95, 100, 20)]
    records = [r | {"id": f"{n:04d}"} for n, r in enumerate(records)]
    records += [rng.choice(records[:60]) | {"id": f"copy{n}"} for n in range(30)]
    return [r | {"dump": rng.choice(["2023-06", "2023-40", "2024-10"])} for r in records]


def test_the_result_does_not_hang_on_the_order_or_the_shards_of_documents(duplicates):
    records = corpus()
    expected = duplicates.told(*records)
    assert len(expected) > 50
    for seed, shards in ((0, 1), (1, 3), (2, 7)):
        random.Random(seed).shuffle(records)
        assert duplicates.told(*records, shards=shards) == expected


def test_neither_does_it_hang_on_how_much_is_held_in_memory(duplicates, monkeypatch):
    records = corpus()
    expected = duplicates.told(*records)
    monkeypatch.setattr(bands_module, "SORTED_AT_ONCE", 40)
    monkeypatch.setattr(bands_module, "_BLOCK", 64)
    monkeypatch.setattr(fingerprints_module, "SCRATCH_FROM", 10)
    monkeypatch.setattr("tokenmill.curation.clusters.PAIRS_AT_ONCE", 7)
    assert duplicates.told(*records, shards=2) == expected


def test_the_bands_in_parts_find_the_pairs_of_the_bands_together(duplicates):
    index = Index([duplicates.prints(corpus())], 0)
    bounds = Bounds.around(0.7, 0.15, 128)
    rows = band_rows(128, 16, 3)
    together = settle(index, find_pairs(index, rows, bounds), bounds, 0.7, None)
    parts = [pairs for part in range(5) for pairs in find_pairs(index, rows[part::5], bounds, with_equal=part == 0)]
    apart = settle(index, parts[::-1], bounds, 0.7, None)
    assert (apart.survivor == together.survivor).all() and (apart.copies == together.copies).all()


def test_every_round_cuts_all_of_the_signature_anew():
    rows = band_rows(128, 16, 3)
    assert rows.shape == (48, 8)
    for turn in range(3):
        assert sorted(rows[16 * turn : 16 * turn + 16].ravel().tolist()) == list(range(128))
    assert (rows[0] == np.arange(8)).all()
    assert len({frozenset(row) for row in rows.tolist()}) == 48


def test_a_large_bucket_is_collapsed_onto_one_survivor(duplicates):
    copies = [record(f"{i:03d}", TEXT + f" {'!' * i}") for i in range(120)]  # punctuation is not in the shingles
    found = duplicates(*copies)
    assert set(found.values()) == {"119"}
    assert len(found) == 119


def test_an_exact_copy_of_a_near_duplicate_names_the_document_that_stays(duplicates):
    found = duplicates.told(record("a", TEXT + " whatever"), record("b", TEXT), record("c", TEXT))
    assert {gone: survivor for gone, (survivor, _) in found.items()} == {"b": "a", "c": "a"}
    assert found["b"][1] == 1.0 and 0.7 < found["c"][1] < 1


CODE = """
def area(shape):
{i}total = 0
{i}for side in shape.sides:
{i}{i}if side.length > 0:
{i}{i}{i}total += side.length * side.height
{i}return total
"""


def test_code_indented_by_two_spaces_four_or_a_tab_is_one_file(duplicates):
    copies = [record(str(n), CODE.format(i=i), "code", "python") for n, i in enumerate(("  ", "    ", "\t"))]
    assert len(duplicates(*copies)) == 2
    renamed = record("r", CODE.format(i="  ").replace("side", "edge").replace("total", "sum_"), "code", "python")
    assert "r" not in duplicates(*copies, renamed)


def test_chinese_is_compared_by_characters_and_only_with_chinese(duplicates):
    long = "海水每天涨落两次，是因为月亮吸引着海水。满月和新月的时候，潮水最高；一个星期以后，潮水最低。"
    other = long.replace("，", "、")
    assert len(duplicates(record("a", long, lang="zh"), record("b", other, lang="zh"))) == 1
    assert not duplicates(record("a", long, lang="zh"), record("b", other, lang="en"))
    assert not duplicates(record("a", long, lang="zh"), record("b", long, lang="en"))


def test_generated_problems_go_only_when_equal(duplicates):
    first, second = ("Question: " + TEXT + f" {n}\nAnswer: {n}" for n in (41, 42))
    assert not duplicates(record("a", first, "math"), record("b", second, "math"))
    assert len(duplicates(record("a", first, "math"), record("b", first, "math"))) == 1
    assert len(duplicates(record("a", first), record("b", second))) == 1


def test_texts_too_short_for_a_shingle_are_compared_exactly(duplicates):
    assert not duplicates(record("a", "one two"), record("b", "one three"))
    assert len(duplicates(record("a", "one two"), record("b", "one two"))) == 1


def test_two_documents_with_one_id_are_refused_rather_than_both_dropped(duplicates):
    with pytest.raises(InputError, match="the id a: was a corpus merged with itself"):
        duplicates(record("a", TEXT), record("a", TEXT + " again"))
    with pytest.raises(InputError, match="0000000000000007"):
        duplicates(record(f"{7:016x}", TEXT), record(f"{7:016x}", TEXT + " again"), shards=2)


# --- a stored index --------------------------------------------------------------------------------------------------


def test_a_new_dump_is_compared_with_the_index_and_the_newer_stays(duplicates):
    first = record("o1", TEXT, dump="2023-06"), record("o2", "something else " + TEXT[40:], dump="2023-40")
    new = record("n1", TEXT, dump="2023-14"), record("n2", first[1]["text"], dump="2023-14"), record("n3", "quite new")
    assert duplicates(*new, old=first) == {"o1": "n1", "n2": "o2"}  # the index's o1 is superseded, the new n2 goes


def test_documents_of_the_index_are_never_joined_with_each_other(duplicates):
    a, b = planted_pairs(0.68, 150, 1)
    bridge = record("n", a["text"] + " " + b["text"], dump="2020-01")
    old = a | {"dump": "2023-06"}, b | {"dump": "2023-06"}
    low = DeduplicateConfig(threshold=0.5, margin=0.0)
    assert duplicates(bridge, old=old, config=low) in ({"n": "0a"}, {"n": "0b"})
    newer = bridge | {"dump": "2024-01"}
    assert duplicates(newer, old=old, config=low) == {"0a": "n", "0b": "n"}
    assert not duplicates(record("n", "nothing like it at all in the world"), old=old, config=low)


def test_what_a_new_document_has_nothing_in_common_with_stays_in_the_index(duplicates):
    """o1 and o2 are alike, the new one is like o1 only: nothing new was said of o2."""
    words = [f"w{n}" for n in range(200)]
    o1, o2 = " ".join(words), " ".join([*words[:182], *(f"x{n}" for n in range(18))])
    new = " ".join([*(f"y{n}" for n in range(18)), *words[18:]])
    old = record("o1", o1, dump="2023-06"), record("o2", o2, dump="2023-06")
    assert duplicates(record("n", new, dump="2024-10"), old=old) == {"o1": "n"}
    assert set(duplicates(record("n", new, dump="2024-10"), *old)) == {"o1", "o2"}  # side by side they are one


def test_the_same_dump_again_changes_nothing(duplicates):
    records = [record(f"{n:016x}", text) for n, text in enumerate((TEXT, TEXT[::-1], "short"))]
    assert duplicates(*records, old=tuple(records)) == {r["id"]: r["id"] for r in records}


def test_an_index_made_with_other_options_is_refused(duplicates):
    listed = [
        duplicates.prints([record("a", TEXT)], CONFIG),
        duplicates.prints([record("b", TEXT)], DeduplicateConfig(ngram=4)),
    ]
    with pytest.raises(InputError, match="cannot be compared"):
        Index(listed, 1)


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_fingerprint_takes_159_bytes_and_a_selection_is_what_its_records_give(duplicates, tmp_path):
    records = [record(f"{n:016x}", f"{TEXT} {n}", dump=f"2023-{n % 3:02d}") for n in range(2000)]
    prints = duplicates.prints(records)
    size = (tmp_path / prints.name).stat().st_size
    assert 159 * 2000 < size <= 160 * 2000
    prints.select(tmp_path / "some.prints", np.array([3, 0, 1500]))
    few = Prints(tmp_path / "some.prints", "some")
    alone = duplicates.prints([records[3], records[0], records[1500]])
    assert [few.id(i) for i in range(3)] == [alone.id(i) for i in range(3)]
    assert (few.signatures == alone.signatures).all() and (few.exact == alone.exact).all()


def test_ids_of_another_form_are_kept_as_they_are(duplicates, tmp_path):
    prints = duplicates.prints([record("Ünïcode/7", TEXT), record("b", TEXT)])
    assert [prints.id(0), prints.id(1)] == ["Ünïcode/7", "b"]
    prints.select(tmp_path / "one.prints", np.array([1]))
    assert Prints(tmp_path / "one.prints", "one").id(0) == "b"


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"X" + b[1:], lambda b: b[:9], lambda b: b + b"0"])
def test_a_damaged_file_is_one_clear_line(duplicates, tmp_path, damage):
    prints = duplicates.prints([record("a", TEXT)])
    (tmp_path / "bad.prints").write_bytes(damage((tmp_path / prints.name).read_bytes()))
    with pytest.raises(CorruptError, match="bad"):
        Prints(tmp_path / "bad.prints", "bad")


# --- the pure functions ----------------------------------------------------------------------------------------------


def test_clusters_of_signatures_alone():
    texts = [r["text"] for r in planted_pairs(0.9, 100, 10)] + [TEXT]
    found = clusters(signatures(texts))
    assert found.tolist() == [n for k in range(10) for n in (2 * k + 1,) * 2] + [20]
    first = clusters(signatures(texts), priority=np.arange(21)[::-1])
    assert first.tolist() == [n for k in range(10) for n in (2 * k,) * 2] + [20]


def test_clusters_ask_for_the_exact_similarity_near_the_threshold_only():
    texts = [r["text"] for r in (*planted_pairs(0.69, 150, 30), *planted_pairs(0.95, 100, 30))]
    asked = []

    def compare(a: int, b: int) -> float:
        asked.append((a, b))
        return true_jaccard(record("a", texts[a]), record("b", texts[b]))

    found = clusters(signatures(texts), compare=compare)
    assert (found[:60] == np.arange(60)).all() and (found[60::2] == np.arange(61, 120, 2)).all()
    assert {a < 60 for a, _ in asked} == {True}


def test_an_agreement_of_bytes_estimates_without_bias():
    rng = np.random.default_rng(1)
    same = rng.random((2000, 128)) < 0.6
    one, other = rng.integers(0, 256, (2, 2000, 128))
    agree = np.where(same, True, one == other).sum(axis=1)
    assert np.mean([similarity(int(a), 128) for a in agree]) == pytest.approx(0.6, abs=0.005)
    bounds = Bounds.around(0.7, 0.1, 128)
    assert similarity(bounds.middle, 128) >= 0.7 > similarity(bounds.middle - 1, 128)
    assert bounds.low < bounds.middle < bounds.high <= 128


@pytest.mark.parametrize("n,keys", [(0, 9), (1, 9), (5000, 1), (5000, 40), (5000, 2**63)])
def test_equal_keys_keep_their_turn_whatever_the_processor_sorts_with(n, keys):
    draw = np.random.default_rng(n + keys)
    unsorted, numbers = draw.integers(0, keys, n, dtype=np.uint64), np.sort(draw.integers(0, 10**9, n))
    order = sorted(range(n), key=lambda k: int(unsorted[k]))  # Python's sort is stable
    found = bands_module._sorted(unsorted, numbers)
    assert found[0].tolist() == unsorted[order].tolist() and found[1].tolist() == numbers[order].tolist()
