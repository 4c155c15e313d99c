"""Drops along a training: what chance gives is none, what lies beyond it is, and it is measured from the best."""

import random

import pytest

from tokenmill.evaluation.follow import Point, as_text, find_drops
from tokenmill.evaluation.measured import Measured
from tokenmill.evaluation.statistics import Bootstrap
from tokenmill.manifest import Draft, Shard
from tokenmill.training.exports import apart, together

SUITE = "choice/next_line"


def point(tokens: int, scores: list[float], suite: str = SUITE) -> Point:
    rows = {f"q{n}": {"id": f"q{n}", "score": score} for n, score in enumerate(scores)}
    value = {"value": sum(scores) / len(scores)}
    return Point(tokens, Measured({"label": "x", "suites": {suite: value}}, {suite: rows}))


def losses(tokens: int, values: list[float]) -> Point:
    rows = {f"q{n}": {"id": f"q{n}", "score": None, "loss": 10 * v, "tokens": 10} for n, v in enumerate(values)}
    return Point(tokens, Measured({"label": "x", "suites": {}}, {"perplexity/en": rows}))


def right(share: float, seed: int, of: int = 200) -> list[float]:
    return [float(random.Random(f"{seed}:{n}").random() < share) for n in range(of)]


def found(*points: Point) -> list[tuple[str, int, int]]:
    return [(drop.suite, drop.tokens, drop.best_tokens) for drop in find_drops(points, 3.0, Bootstrap(200))]


def test_a_score_that_falls_by_half_is_a_drop_below_the_best_before_it() -> None:
    assert found(point(1, right(0.4, 1)), point(2, right(0.8, 2)), point(3, right(0.4, 3))) == [(SUITE, 3, 2)]


def test_a_slow_decline_is_measured_from_the_best_and_not_from_the_last() -> None:
    """Three questions in a hundred are chance, lost each time; six are none."""
    way = [point(n, [1.0] * (160 - lost) + [0.0] * (40 + lost)) for n, lost in enumerate((0, 3, 6, 12))]
    assert found(*way) == [(SUITE, 3, 0)]


@pytest.mark.parametrize("seed", range(5))
def test_what_another_draw_of_the_same_model_gives_is_no_drop(seed: int) -> None:
    assert found(*(point(n, right(0.6, 10 * seed + n)) for n in range(4))) == []


def test_losses_are_compared_document_by_document() -> None:
    """Documents differ by nats, models by hundredths: only pairs see that."""
    documents = [random.Random(n).uniform(1, 5) for n in range(100)]
    worse = [loss + random.Random(-n).uniform(0.01, 0.05) for n, loss in enumerate(documents)]
    assert found(losses(1, documents), losses(2, worse)) == [("perplexity/en", 2, 1)]
    assert found(losses(1, worse), losses(2, documents)) == []


def test_a_model_that_gives_no_finite_loss_is_a_drop_and_never_the_best() -> None:
    fine = [2.0, 3.0]
    none = [float("nan"), 3.0]
    assert found(losses(1, fine), losses(2, none), losses(3, fine)) == [("perplexity/en", 2, 1)]
    assert found(losses(1, none), losses(2, fine)) == []


def test_the_page_marks_the_drop() -> None:
    points = [point(1000, [1.0] * 4), point(2000, [0.0, 0.0, 0.0, 1.0])]
    drops = list(find_drops(points, 0.5, Bootstrap(100)))
    page = as_text(points, drops)
    assert "| tokens | 1,000 | 2,000 |" in page and "| choice/next_line | 1 | 0.25 ▼ |" in page
    assert "Nothing was kept" in as_text([], [])


def test_weights_that_were_put_together_come_apart_as_they_were() -> None:
    way = [
        Draft(
            kind="weights",
            shards=tuple(Shard(name=name, blob=f"b{n}", content=f"c{n}{name}", size=n) for name in ("config.json", "model.safetensors")),
            counts={"tokens_seen": 512 * n, "steps": n},
        )
        for n in (1, 12)
    ]  # fmt: skip
    assert apart(together(way)) == way
    assert apart(together([])) == []
