"""Where KMeans starts: merged k-means++ prototypes for all starts and all numbers of clusters at once, or random rows.

An ordering's first rows are the seeds of every smaller number of clusters: nothing in a step depends on how many steps
follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.cluster.kmeans_kernels import BLOCK, kernel, label_dtype, move_rows, squared_distance
from toolkit.cluster.kmeans_merge import merge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.cluster.kmeans_matrix import Matrix, Share

_GROUP = 16  # starts that share a product; fixed, so that a start's products have the same shape in any budget
_BLOCKS_AT_ONCE = 8
_FEW = 16  # prototypes at least: with fewer, too little is left to choose for a small number of clusters
_VARIETY = 8  # numbers of prototypes that starts take in turn: where all merge alike, more starts would not help


def seeding_bytes(n_samples: int, n_features: int, n_clusters: Sequence[int], n_init: int, workers: int) -> int:
    """Return what `plus_plus` holds beside the data, its result included, in bytes."""
    most, group = _most_prototypes(max(n_clusters), n_samples), min(n_init, _GROUP)
    by_row = 4 + 2 * np.dtype(label_dtype(most)).itemsize
    centres = n_init * sum(n_clusters) + (2 * group + 5 * workers) * most
    return n_samples * group * by_row + 8 * n_features * centres + group * 32 * most


def generators(seed: int, n_init: int) -> list[np.random.Generator]:
    """Return one independent stream per start; a start's stream does not depend on how many there are."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(n_init)]


def random_rows(X: np.ndarray, n_clusters: Sequence[int], streams: list[np.random.Generator]) -> dict[int, np.ndarray]:
    """Return different rows, every order equally likely, in the form of `plus_plus`."""
    order = np.stack([stream.permutation(len(X))[: max(n_clusters)].copy() for stream in streams])
    return {k: X[order[:, :k]].astype(np.float64) for k in n_clusters}


def plus_plus(
    data: Matrix, n_clusters: Sequence[int], streams: list[np.random.Generator], share: Share
) -> dict[int, np.ndarray]:
    """Return initial centres: k-means++ prototypes, moved to the means of their rows, merged to fewer.

    The first row of a start is drawn evenly, every further one with probability proportional to the squared distance
    to the nearest row so far; of several drawn (as many as scikit-learn draws), the one that leaves the smallest sum of
    squared distances is taken (Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful seeding", also for
    the greedy variant). At least twice as many rows as clusters are drawn; the means of the rows nearest to each are
    merged by `kmeans_merge`. On the clusters of benchmarks/kmeans.py one such start ends nearer to the best known than
    ten from single rows do.

    Parameters
    ----------
    data : Matrix
    n_clusters : sequence of int
        Different, each at most n_samples.
    streams : list of Generator
        One per start.
    share : callable
        ``share(function, items)`` calls the function for every item, on all threads.

    Returns
    -------
    dict of int to ndarray (n_init, n_clusters, n_features) float64
    """
    starts = {k: np.empty((len(streams), k, data.X.shape[1])) for k in n_clusters}
    for i in range(0, len(streams), _GROUP):
        part = {k: centres[i : i + _GROUP] for k, centres in starts.items()}
        _seed_group(data, part, streams[i : i + _GROUP], share)
    return starts


def _most_prototypes(k: int, n_samples: int) -> int:
    return min(max(2 * k, _FEW + _VARIETY - 1), n_samples)


def _n_prototypes(k: int, start: int, n_samples: int) -> int:
    """Return how many prototypes are merged to k clusters."""
    return min(max(2 * k, _FEW + start % _VARIETY), n_samples)


def _seed_group(data: Matrix, starts: dict[int, np.ndarray], streams: list[np.random.Generator], share: Share) -> None:
    """Fill in the initial centres of up to `_GROUP` starts."""
    n_starts, n_samples, d = len(streams), data.n_samples, data.X.shape[1]
    wanted: dict[int, list[tuple[int, int]]] = {}
    for k in starts:
        for s in range(n_starts):
            wanted.setdefault(_n_prototypes(k, s, n_samples), []).append((k, s))
    n_seeds = max(wanted)
    order = np.empty((n_starts, n_seeds), np.int64)
    order[:, 0] = [stream.integers(n_samples) for stream in streams]
    closest = np.full((n_starts, n_samples), np.inf, np.float32)
    owner, summed = np.zeros((2, n_starts, n_samples), label_dtype(n_seeds))
    changed = np.zeros((n_starts, data.n_blocks), np.int32)
    fresh = np.ones(n_starts, np.bool_)
    first = np.arange(n_starts + 1) * n_seeds
    high, rest = np.zeros((2, n_starts * n_seeds, d))
    counts = np.zeros(n_starts * n_seeds, np.int64)
    sums = np.empty((data.n_blocks, n_starts))

    def start_from(k: int, s: int, n_prototypes: int) -> None:
        own = slice(first[s], first[s] + n_prototypes)
        held = np.flatnonzero(counts[own])  # a seed that equals an earlier one has no rows
        if len(held) < k:
            starts[k][s] = data.X[order[s, :k]]
            return
        totals, sizes = (high[own] + rest[own])[held], counts[own][held].astype(np.float64)
        means = totals / sizes[:, None]
        labels = merge((means - data.mean) * data.scale, sizes, k)
        for j in range(k):
            mine = labels == j
            starts[k][s, j] = totals[mine].sum(axis=0) / sizes[mine].sum()

    for step in range(1, n_seeds + 1):

        def absorb(burst: int, step: int = step) -> None:
            chosen = np.ascontiguousarray(order[:, step - 1])
            _absorb(*data.arrays, burst, _BLOCKS_AT_ONCE, chosen, step - 1, closest, owner, changed, sums)

        share(absorb, range(0, data.n_blocks, _BLOCKS_AT_ONCE))
        if step in wanted:
            due = np.unique([s for _, s in wanted[step]])

            def add_up(i: int, due: np.ndarray = due) -> None:
                move_rows(data.X, due[i : i + 1], fresh, first, owner, summed, changed, high, rest, counts)

            def begin(i: int, step: int = step) -> None:
                start_from(*wanted[step][i], step)

            share(add_up, range(len(due)))
            changed[due], fresh[due] = 0, False
            share(begin, range(len(wanted[step])))
        if step < n_seeds:
            order[:, step] = _next_rows(data, streams, step, closest, sums, share)


def _next_rows(
    data: Matrix, streams: list[np.random.Generator], step: int, closest: np.ndarray, sums: np.ndarray, share: Share
) -> np.ndarray:
    """Draw rows for every start and return the best of each, (n_starts,) int64."""
    n_starts, n_trials = len(streams), 2 + int(np.log(step + 1))
    drawn = np.empty((n_starts, n_trials), np.int64)
    for s, stream in enumerate(streams):
        _draw(np.cumsum(sums[:, s]), closest[s], stream.random(n_trials), drawn[s])
    left = np.empty((data.n_blocks, n_starts * n_trials))

    def try_out(burst: int) -> None:
        _try_out(*data.arrays, burst, _BLOCKS_AT_ONCE, drawn.ravel(), closest, left)

    share(try_out, range(0, data.n_blocks, _BLOCKS_AT_ONCE))
    best = left.sum(axis=0).reshape(n_starts, n_trials).argmin(axis=1)
    chosen: np.ndarray = drawn[np.arange(n_starts), best]
    return chosen


@kernel
def _draw(ends: np.ndarray, closest: np.ndarray, draws: np.ndarray, out: np.ndarray) -> None:
    """Draw rows with probability proportional to `closest`; `ends` are its sums up to the end of each block."""
    n_blocks = len(ends)
    for t in range(len(draws)):
        target = draws[t] * ends[-1]
        block = min(np.searchsorted(ends, target), n_blocks - 1)
        total = ends[block - 1] if block else 0.0
        row = block * BLOCK
        stop = min(row + BLOCK, len(closest))
        out[t] = row
        while row < stop:
            if closest[row] > 0.0:
                out[t] = row  # rounding may leave the target just beyond the last row that has a share
            total += np.float64(closest[row])
            if total >= target:
                break
            row += 1


@kernel
def _error(n_features: int, a: np.float32, b: np.float32) -> Any:
    """Return below which value a float32 squared distance of rows of length a and b has lost its digits."""
    return (8.0 * 2.0**-24) * ((2.0 * n_features + 20.0) * a * b + 6.0 * (a * a + b * b)) + 1e-30


@kernel
def _distances(
    X: np.ndarray,
    scale: float,
    length: np.ndarray,
    square: np.ndarray,
    start: int,
    pick: int,
    line: np.ndarray,
    closest: np.ndarray,
) -> None:
    """Turn the products of a block with one row into squared distances; those without digits are computed anew."""
    own = square[pick]
    longest = np.float32(0.0)
    for i in range(len(line)):
        longest = max(longest, length[start + i])
    error = np.float32(_error(X.shape[1], longest, length[pick]))
    n_lost = 0
    for i in range(len(line)):
        value = (square[start + i] + own) - np.float32(2.0) * line[i]
        line[i] = value
        n_lost += value <= error
    if n_lost:
        for i in range(len(line)):
            row = start + i
            if line[i] <= error and line[i] <= _error(X.shape[1], length[row], length[pick]):
                near = closest[row] > 0.0  # otherwise nothing can be nearer
                line[i] = squared_distance(X, row, X, pick) * scale * scale if near else 0.0


@kernel
def _absorb(
    X: np.ndarray,
    Z: np.ndarray,
    scale: float,
    length: np.ndarray,
    square: np.ndarray,
    burst: int,
    n_blocks: int,
    chosen: np.ndarray,
    number: int,
    closest: np.ndarray,
    owner: np.ndarray,
    changed: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Let the chosen row of every start, the start's `number`-th, own what it is closest to; sum up `closest`."""
    rows = np.empty((len(chosen), Z.shape[1]), np.float32)
    for s in range(len(chosen)):
        rows[s] = Z[chosen[s]]
    for block in range(burst, min(burst + n_blocks, len(sums))):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, X.shape[0])
        products = np.dot(rows, Z[start:stop].T)
        for s in range(len(chosen)):
            _distances(X, scale, length, square, start, chosen[s], products[s], closest[s])
            total = 0.0
            n_changed = 0
            for i in range(start, stop):
                nearer = products[s, i - start] < closest[s, i]
                closest[s, i] = products[s, i - start] if nearer else closest[s, i]
                owner[s, i] = number if nearer else owner[s, i]
                n_changed += nearer
                total += np.float64(closest[s, i])
            changed[s, block] += n_changed
            sums[block, s] = total


@kernel
def _try_out(
    X: np.ndarray,
    Z: np.ndarray,
    scale: float,
    length: np.ndarray,
    square: np.ndarray,
    burst: int,
    n_blocks: int,
    drawn: np.ndarray,
    closest: np.ndarray,
    left: np.ndarray,
) -> None:
    """Sum up by block what each drawn row would leave of `closest` of its start."""
    n_trials = len(drawn) // len(closest)
    rows = np.empty((len(drawn), Z.shape[1]), np.float32)
    for c in range(len(drawn)):
        rows[c] = Z[drawn[c]]
    lanes = np.empty(16)
    for block in range(burst, min(burst + n_blocks, len(left))):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, X.shape[0])
        products = np.dot(rows, Z[start:stop].T)
        for c in range(len(drawn)):
            line, now = products[c], closest[c // n_trials, start:stop]
            _distances(X, scale, length, square, start, drawn[c], line, closest[c // n_trials])
            lanes[:] = 0.0
            whole = len(line) - len(line) % 16
            for i in range(0, whole, 16):
                for lane in range(16):
                    lanes[lane] += np.float64(min(line[i + lane], now[i + lane]))
            total = lanes.sum()
            for i in range(whole, len(line)):
                total += np.float64(min(line[i], now[i]))
            left[block, c] = total
