"""Union-find over an array of parents, compiled: documents that are one, directly or through others (Tarjan 1975)."""

import numpy as np
from numba import njit


@njit(cache=True)
def root(parent, i):  # type: ignore[no-untyped-def]
    """The number that stands for i's set; halves the way for those who come after."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True)
def join(parent, i, j):  # type: ignore[no-untyped-def]
    """Make two sets one; False if they were. The smaller number stands for it, whatever the order of joins."""
    i, j = root(parent, i), root(parent, j)
    if i == j:
        return False
    parent[max(i, j)] = min(i, j)
    return True


@njit(cache=True)
def join_all(parent, a, b):  # type: ignore[no-untyped-def]
    for k in range(a.shape[0]):
        join(parent, np.int64(a[k]), np.int64(b[k]))


@njit(cache=True)
def apart(parent, a, b, out):  # type: ignore[no-untyped-def]
    """out[k] = whether a[k] and b[k] are in two sets."""
    for k in range(a.shape[0]):
        out[k] = root(parent, np.int64(a[k])) != root(parent, np.int64(b[k]))


@njit(cache=True)
def better(priority, order, i, j):  # type: ignore[no-untyped-def]
    """Whether document i stays rather than j: priority, then order, then the one that was there first."""
    if priority[i] != priority[j]:
        return priority[i] > priority[j]
    if order[i] != order[j]:
        return order[i] > order[j]
    return i < j


@njit(cache=True)
def best_of_each(parent, priority, order, best):  # type: ignore[no-untyped-def]
    """best[i] = the document that stays of i's set."""
    best[:] = -1
    for i in range(parent.shape[0]):
        r = root(parent, i)
        if best[r] < 0 or better(priority, order, i, best[r]):
            best[r] = i
    for i in range(parent.shape[0]):
        r = root(parent, i)
        if r != i:
            best[i] = best[r]  # r < i: a root is its set's smallest number, and is read before it could be overwritten
    # a root's own entry is its set's best already
