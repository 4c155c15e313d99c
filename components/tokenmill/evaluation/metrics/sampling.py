"""pass@k: is one of k samples right? Estimated from more than k."""

from math import prod


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples, drawn without replacement, hold one of the c that passed.

    1 − C(n−c, k) / C(n, k), which is unbiased; 1 − (1 − c/n)^k is not (Chen et al. 2021, "Evaluating Large Language Models
    Trained on Code", §2.1). As a product, so that no large number arises.

    Raises:
        ValueError: not 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {c} right among {n} samples: needs 0 ≤ c ≤ n and 1 ≤ k ≤ n")
    if n - c < k:
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(n - c + 1, n + 1))
