"""Is the candidate as good as what is served? A judgement over what was observed of both; it moves nothing itself.

Three kinds of evidence: probes (the same questions to both tracks), users' traffic (vLLM's own metrics in Prometheus),
and the model digest that the candidate's answers carry.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from tokenmill.manifest import Frozen


class Limits(Frozen):
    """What a candidate may be worse by. Published nowhere: ours, and meant to be set."""

    max_error_rate: float = Field(0.01, ge=0, le=1, description="share of requests that may fail (5xx, broken streams)")
    max_error_increase: float = Field(0.005, ge=0, le=1, description="by which that share may exceed stable's")
    max_latency_ratio: float = Field(1.25, ge=1, description="candidate's p95 over stable's, for TTFT and ITL")
    latency_floor_s: float = Field(0.05, ge=0, description="seconds below which a difference of p95 is not judged")
    min_quality: float = Field(0.0, ge=0, le=1, description="share of probes that must be answered as expected")
    significance: float = Field(0.05, gt=0, lt=1, description="chance at which more lost than won probes are a loss")
    min_requests: int = Field(20, ge=1, description="of users a track, below which their traffic is not judged")


@dataclass(frozen=True)
class Seen:
    """One track's requests over one window. Latencies are seconds; None where nothing was answered."""

    requests: int
    errors: int
    ttft_p95: float | None
    itl_p95: float | None

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Probed:
    """Probes of both tracks: what each track's requests cost, and question by question whether the answer was right."""

    stable: Seen
    candidate: Seen
    stable_right: tuple[bool, ...]
    candidate_right: tuple[bool, ...]
    candidate_digest: str | None


@dataclass(frozen=True)
class Check:
    """One comparison and its outcome."""

    name: str
    passed: bool
    why: str


def judge(probed: Probed, traffic: tuple[Seen, Seen] | None, limits: Limits, digest: str = "") -> list[Check]:
    """Every check of one window; the candidate goes on if all passed.

    Args:
        probed: what the probes saw.
        traffic: users' requests on (stable, candidate), where a Prometheus is configured.
        limits: what may be worse, and by how much.
        digest: of the model that the candidate should be serving; empty: not checked.
    """
    checks = [_quality(probed, limits), *_compare("probes", probed.stable, probed.candidate, limits)]
    if digest:
        same = probed.candidate_digest == digest
        checks.append(Check("digest", same, f"answers carry {probed.candidate_digest or 'none'}, wanted {digest}"))
    if traffic:
        stable, candidate = traffic
        if min(stable.requests, candidate.requests) < limits.min_requests:
            few = f"{candidate.requests} of users, {stable.requests} at stable: fewer than {limits.min_requests}, not judged"
            checks.append(Check("traffic", True, few))
        else:
            checks += _compare("traffic", stable, candidate, limits)
    return checks


def _compare(kind: str, stable: Seen, candidate: Seen, limits: Limits) -> list[Check]:
    rate = candidate.error_rate
    allowed = min(limits.max_error_rate, stable.error_rate + limits.max_error_increase)
    checks = [
        Check(
            f"{kind}: errors",
            candidate.requests > 0 and rate <= allowed,
            f"{rate:.2%} of {candidate.requests}, allowed {allowed:.2%}",
        )
    ]
    for name, old, new in (("TTFT", stable.ttft_p95, candidate.ttft_p95), ("ITL", stable.itl_p95, candidate.itl_p95)):
        checks.append(_latency(f"{kind}: {name} p95", old, new, limits))
    return checks


def _latency(name: str, stable: float | None, candidate: float | None, limits: Limits) -> Check:
    if stable is None:
        return Check(name, True, "stable's answers have none: nothing to compare with")
    if candidate is None:  # no answer at all fails the check of errors; a single token has no ITL
        return Check(name, True, "the candidate's answers have none: not judged")
    allowed = max(stable * limits.max_latency_ratio, stable + limits.latency_floor_s)
    return Check(name, candidate <= allowed, f"{candidate:.3f} s, stable {stable:.3f} s, allowed {allowed:.3f} s")


def _quality(probed: Probed, limits: Limits) -> Check:
    """Enough right answers, and not more lost than chance loses (McNemar's exact test, one-sided, on the same questions)."""
    right = probed.candidate_right
    share = sum(right) / len(right) if right else 0.0
    pairs = list(zip(probed.stable_right, right, strict=True))
    lost, won = pairs.count((True, False)), pairs.count((False, True))
    chance = loss_by_chance(lost, won)
    passed = bool(right) and share >= limits.min_quality and chance >= limits.significance
    return Check(
        "quality",
        passed,
        f"{share:.0%} of {len(right)} right; {lost} lost and {won} won against stable (p = {chance:.3f})",
    )


def loss_by_chance(lost: int, won: int) -> float:
    """Chance that at least `lost` of `lost + won` fair coins show tails."""
    both = lost + won
    return sum(math.comb(both, k) for k in range(lost, both + 1)) / 2**both


def p95(values: Sequence[float]) -> float | None:
    """The smallest value that 95% do not exceed."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1] if values else None
