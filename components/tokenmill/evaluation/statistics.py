"""Intervals by the bootstrap: how far a number would move if the questions had been others like them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

Array = numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float64]]
Array2 = numpy.ndarray[tuple[int, int], numpy.dtype[numpy.float64]]


@dataclass(frozen=True)
class Interval:
    """A value and the range that resampling the questions gives it."""

    value: float
    low: float
    high: float

    def map(self, function: Callable[[float], float]) -> "Interval":
        """The interval of a growing function of the value."""
        return Interval(*(function(x) for x in (self.value, self.low, self.high)))


@dataclass(frozen=True)
class Bootstrap:
    """The percentile bootstrap (Efron 1979); one seed is one set of resamples."""

    resamples: int = 1_000
    confidence: float = 0.95
    seed: int = 0

    def mean(self, values: Sequence[float], weights: Sequence[float] | None = None) -> Interval:
        """Of Σ value·weight / Σ weight; a loss a token is one with each document's tokens as its weight."""
        x = numpy.asarray(values, dtype=numpy.float64)
        w = numpy.ones_like(x) if weights is None else numpy.asarray(weights, dtype=numpy.float64)
        means = self._means(x, w)
        tail = 100 * (1 - self.confidence) / 2
        low, high = numpy.percentile(means, [tail, 100 - tail])
        return Interval(float((x * w).sum() / w.sum()), float(low), float(high))

    def of_sums(self, counts: Array2, score: Callable[[Array], float]) -> Interval:
        """Of a score that is no mean, but a function of counts summed over the questions; counts are (questions, kinds)."""
        drawn = self._drawn(len(counts))
        scores = [score(counts[rows].sum(axis=0)) for rows in drawn]
        tail = 100 * (1 - self.confidence) / 2
        low, high = numpy.percentile(scores, [tail, 100 - tail])
        return Interval(score(counts.sum(axis=0)), float(low), float(high))

    def standard_error(self, values: Sequence[float], weights: Sequence[float] | None = None) -> float:
        """Of the mean, by weight where there are weights."""
        x = numpy.asarray(values, dtype=numpy.float64)
        w = numpy.ones_like(x) if weights is None else numpy.asarray(weights, dtype=numpy.float64)
        return float(self._means(x, w).std())

    def _means(self, x: Array, w: Array) -> Array:
        drawn = self._drawn(len(x))
        means: Array = (x * w)[drawn].sum(axis=1) / w[drawn].sum(axis=1)
        return means

    def _drawn(self, n: int) -> numpy.ndarray[tuple[int, int], numpy.dtype[numpy.int64]]:
        """Which of `n` questions each resample has."""
        return numpy.random.default_rng(self.seed).integers(0, n, (self.resamples, n))
