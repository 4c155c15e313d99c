"""What a stage draws from its documents."""

from collections import Counter
from dataclasses import replace

import numpy
import pytest
from token_documents import Document, in_memory

from tokenmill.errors import InputError
from tokenmill.training.settings import StageConfig
from tokenmill.training.stage import mixture


def documents(sizes: dict[str, list[int]]) -> list[Document]:
    """Documents by type; a document's tokens are its own number, so that a sample tells where it is from."""
    return [
        Document(f"{kind}-{i}", kind, numpy.full(size, number))
        for number, (kind, i, size) in enumerate(
            (kind, i, size) for kind, lengths in sizes.items() for i, size in enumerate(lengths)
        )
    ]


def tokens_by_source(samples) -> Counter:
    counted = Counter()
    for sample in samples:
        counted[sample.source] += len(sample)
    return counted


def test_a_part_of_an_epoch_has_the_shares_of_the_whole():
    """A few whole books would use up the budget and leave the code out."""
    corpus = documents({"book": [40_000] * 3, "code": [60_000], "math": [30] * 1000})
    drawn = tokens_by_source(mixture(in_memory(*corpus), StageConfig(context=256, tokens=21_000)))
    assert drawn == {"book/en": 12_000, "code/en": 6_000, "math/en": 3_000}


def test_long_documents_come_in_pieces_from_all_over():
    corpus = documents({"book": [25_600] * 4})
    samples = mixture(in_memory(*corpus), StageConfig(context=256, tokens=10_240))
    assert max(map(len, samples)) == 256
    assert {int(sample.ids[0]) for sample in samples} == {0, 1, 2, 3}


def test_an_epoch_loses_nothing_and_repeats_nothing():
    corpus = documents({"book": [1000, 777], "math": [30, 5]})
    samples = mixture(in_memory(*corpus), StageConfig(context=256, tokens=1812))
    assert Counter(int(t) for sample in samples for t in sample.ids) == {0: 1000, 1: 777, 2: 30, 3: 5}


def test_a_larger_budget_repeats_epochs():
    samples = mixture(in_memory(*documents({"math": [10] * 4})), StageConfig(context=16, tokens=100))
    seen = Counter(int(sample.ids[0]) for sample in samples)
    assert sum(map(len, samples)) == 100 and set(seen.values()) <= {2, 3}


def test_phase_two_takes_half_of_its_tokens_from_short_documents():
    corpus = documents({"book": [5000] * 4, "math": [30] * 400})
    drawn = tokens_by_source(mixture(in_memory(*corpus), StageConfig(context=2048, short_context=256, tokens=8000)))
    assert drawn == {"book/en": 4000, "math/en": 4000}
    with pytest.raises(InputError, match="short_context"):
        mixture(in_memory(*documents({"book": [5000]})), StageConfig(context=2048, short_context=256, tokens=8000))


def test_a_share_is_rehearsed_and_kept_as_sources_of_its_own():
    old = in_memory(
        *(Document(f"old-{d.id}", d.type, d.tokens) for d in documents({"book": [500] * 40, "math": [500] * 10}))
    )
    new = in_memory(*documents({"math": [100] * 200}))
    config = StageConfig(context=256, tokens=10_000)
    drawn = tokens_by_source(mixture(new, config, None, old, 0.2))
    assert drawn == {"math/en": 8000, "rehearsal/book/en": 1600, "rehearsal/math/en": 400}
    assert tokens_by_source(mixture(new, config, None, old, 0.0)) == {"math/en": 10_000}


def test_nothing_that_is_held_out_or_new_is_rehearsed():
    corpus = documents({"book": [100] * 4, "math": [100]})
    kept_back = [replace(corpus[0], heldout=True), *corpus[1:]]
    new = in_memory(corpus[1], *documents({"web": [100]}))
    samples = mixture(new, StageConfig(context=128, tokens=2000), None, in_memory(*kept_back), 0.5)
    assert {int(s.ids[0]) for s in samples if s.source.startswith("rehearsal")} == {2, 3, 4}
    with pytest.raises(InputError, match="nothing to rehearse"):
        mixture(new, StageConfig(context=128, tokens=2000), None, in_memory(corpus[1]), 0.5)


def test_the_long_half_comes_from_the_chosen_documents_alone():
    corpus = documents({"book": [5000] * 4, "math": [30] * 400})
    config = StageConfig(context=2048, short_context=256, tokens=8000)
    samples = mixture(in_memory(*corpus), config, in_memory(*(d for d in corpus if d.id == "book-2")))
    assert {int(sample.ids[0]) for sample in samples if sample.source == "book/en"} == {2}
    assert tokens_by_source(samples) == {"book/en": 4000, "math/en": 4000}
    with pytest.raises(InputError, match="curation.select_long"):
        mixture(in_memory(*corpus), config, in_memory())


def test_what_is_held_out_is_learned_from_neither_half():
    corpus = documents({"book": [5000] * 3, "math": [30] * 400})
    corpus = [replace(d, heldout=d.id in {"book-1", "math-7"}) for d in corpus]
    chosen = [replace(d, heldout=False) for d in corpus[:3]]  # tokenised again, it may be held out there or not
    for choice in (in_memory(*chosen), None):
        samples = mixture(in_memory(*corpus), StageConfig(context=2048, short_context=256, tokens=24_000), choice)
        learned = {int(sample.ids[0]) for sample in samples}
        assert learned.isdisjoint({1, 3 + 7}) and {0, 2, 3} <= learned


def test_a_document_of_several_epochs_is_learned_as_many_times_as_others_are_once():
    plain, high = documents({"code": [100, 100]})
    samples = mixture(in_memory(plain, replace(high, epochs=3)), StageConfig(context=256, tokens=400))
    assert Counter(int(t) for sample in samples for t in sample.ids) == {0: 100, 1: 300}


def test_the_seed_decides_the_order_and_nothing_else():
    corpus = documents({"math": [30 + i for i in range(50)]})
    once, twice, other = (
        [len(s) for s in mixture(in_memory(*corpus), StageConfig(context=256, tokens=1000, seed=seed))]
        for seed in (1, 1, 2)
    )
    assert once == twice != other
