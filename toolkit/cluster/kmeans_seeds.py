"""Where KMeans starts: k-means++ orderings for all starts at once, or random rows.

An ordering's first k rows are the seeds for k clusters: nothing in a step depends on how many steps follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.cluster.kmeans_kernels import BLOCK, kernel, squared_distance

if TYPE_CHECKING:
    from toolkit.cluster.kmeans_matrix import Matrix, Share

_TRIALS = 8  # scikit-learn takes 2 + int(log(k)), which stays at or below this up to k = 1,096
_GROUP = 16  # starts that share a product; fixed, so that a start's products have the same shape in any budget
_BLOCKS_AT_ONCE = 8


def seeding_bytes(n_samples: int, n_init: int) -> int:
    """Return what `plus_plus` holds beside the data, in bytes."""
    return n_samples * min(n_init, _GROUP) * 4


def generators(seed: int, n_init: int) -> list[np.random.Generator]:
    """Return one independent stream per start; a start's stream does not depend on how many there are."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(n_init)]


def random_rows(n_samples: int, n_clusters: int, streams: list[np.random.Generator]) -> np.ndarray:
    """Return different rows, every order equally likely: (n_init, n_clusters) int64."""
    return np.stack([stream.permutation(n_samples)[:n_clusters] for stream in streams]).astype(np.int64)


def plus_plus(
    data: Matrix,
    n_clusters: int,
    streams: list[np.random.Generator],
    share: Share,
) -> np.ndarray:
    """Return greedy k-means++ orderings, (n_init, n_clusters) int64 row numbers.

    The first row of a start is drawn evenly, every further one with probability proportional to the squared distance
    to the nearest row so far; of several drawn, the one that leaves the smallest sum of squared distances is taken
    (Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful seeding", also for the greedy variant).

    Parameters
    ----------
    data : Matrix
    n_clusters : int
    streams : list of Generator
        One per start.
    share : callable
        ``share(function, items)`` calls the function for every item, on all threads.
    """
    groups = [streams[i : i + _GROUP] for i in range(0, len(streams), _GROUP)]
    return np.concatenate([_order_group(data, n_clusters, group, share) for group in groups])


def _order_group(
    data: Matrix,
    n_clusters: int,
    streams: list[np.random.Generator],
    share: Share,
) -> np.ndarray:
    n_starts = len(streams)
    order = np.empty((n_starts, n_clusters), np.int64)
    order[:, 0] = [stream.integers(data.n_samples) for stream in streams]
    closest = np.full((n_starts, data.n_samples), np.inf, np.float32)
    sums = np.empty((data.n_blocks, n_starts))
    bursts = range(0, data.n_blocks, _BLOCKS_AT_ONCE)
    for step in range(1, n_clusters):
        chosen = np.ascontiguousarray(order[:, step - 1])

        def absorb(burst: int, chosen: np.ndarray = chosen) -> None:
            _absorb(*data.arrays, burst, _BLOCKS_AT_ONCE, chosen, closest, sums)

        share(absorb, bursts)
        n_trials = max(_TRIALS, 2 + int(np.log(step + 1)))
        drawn = np.empty((n_starts, n_trials), np.int64)
        for start, stream in enumerate(streams):
            _draw(np.cumsum(sums[:, start]), closest[start], stream.random(n_trials), drawn[start])
        left = np.empty((data.n_blocks, n_starts * n_trials))

        def try_out(burst: int, drawn: np.ndarray = drawn, left: np.ndarray = left) -> None:
            _try_out(*data.arrays, burst, _BLOCKS_AT_ONCE, drawn.ravel(), closest, left)

        share(try_out, bursts)
        best = left.sum(axis=0).reshape(n_starts, n_trials).argmin(axis=1)
        order[:, step] = drawn[np.arange(n_starts), best]
    return order


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
    closest: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Let the chosen row of every start shorten `closest`, and sum it up by block."""
    rows = np.empty((len(chosen), Z.shape[1]), np.float32)
    for s in range(len(chosen)):
        rows[s] = Z[chosen[s]]
    for block in range(burst, min(burst + n_blocks, len(sums))):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, X.shape[0])
        products = np.dot(rows, Z[start:stop].T)
        for s in range(len(chosen)):
            _distances(X, scale, length, square, start, chosen[s], products[s], closest[s])
            total = 0.0
            for i in range(start, stop):
                closest[s, i] = min(closest[s, i], products[s, i - start])
                total += np.float64(closest[s, i])
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
