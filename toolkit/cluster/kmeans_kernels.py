"""The compiled inner loops of KMeans: what is decided is decided in float64, what is only sorted out, in float32.

A squared distance is ``|x|^2 + (|c|^2 - 2 x.c)``, all relative to the mean of the data and scaled by a power of two.
The bracket comes from one float32 product for many centres at once and is off by at most ``|x| * slope + offset`` of
the centre: the roundings of the row, of the centre, of the product (Higham 2002, "Accuracy and Stability of Numerical
Algorithms", 3.1: any order of summation) and of the last steps. A centre wins where its upper bound lies below every
other lower bound; elsewhere the differences are squared and added in float64 from the values as they were given.

Nothing that decides is compiled with fastmath: sums have the order in which they are written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import scipy.linalg  # noqa: F401  (numba's products call its BLAS, and its threads can be held only once it is loaded)
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")
kernel: Callable[[F], F] = njit(nogil=True, cache=True)
# Products may be summed in any order, as BLAS does: their error bound covers every order.
products_kernel: Callable[[F], F] = njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})

BLOCK = 1024  # rows: with the products of WIDTH centres they stay in a processor's second-level cache
WIDTH = 256  # centres in one product
DENSE_SHARE = 0.5  # of a block's rows still open, above which a model joins the product of the whole block
SLACK = 2.0**-21  # relative, on distances: covers the roundings of float64 decisions and of float32 bounds
_ZERO, _ONE, _TWO, _SLACK, _FAR = (np.float32(value) for value in (0, 1, 2, SLACK, 1e30))
_LANES = 8


def label_dtype(n_clusters: int) -> type[np.integer[Any]]:
    """Return the type in which labels are kept while models are fitted."""
    return np.uint16 if n_clusters <= 1 << 16 else np.int32


@kernel
def squared_distance(X: np.ndarray, i: int, C: np.ndarray, j: int) -> float:
    """Return ``|X[i] - C[j]|^2``: float64 differences, eight running sums, added in a fixed order."""
    d = X.shape[1]
    whole = d - d % _LANES
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    for t in range(0, whole, _LANES):
        d0 = np.float64(X[i, t]) - np.float64(C[j, t])
        d1 = np.float64(X[i, t + 1]) - np.float64(C[j, t + 1])
        d2 = np.float64(X[i, t + 2]) - np.float64(C[j, t + 2])
        d3 = np.float64(X[i, t + 3]) - np.float64(C[j, t + 3])
        d4 = np.float64(X[i, t + 4]) - np.float64(C[j, t + 4])
        d5 = np.float64(X[i, t + 5]) - np.float64(C[j, t + 5])
        d6 = np.float64(X[i, t + 6]) - np.float64(C[j, t + 6])
        d7 = np.float64(X[i, t + 7]) - np.float64(C[j, t + 7])
        s0 += d0 * d0
        s1 += d1 * d1
        s2 += d2 * d2
        s3 += d3 * d3
        s4 += d4 * d4
        s5 += d5 * d5
        s6 += d6 * d6
        s7 += d7 * d7
    total = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
    for t in range(whole, d):
        diff = np.float64(X[i, t]) - np.float64(C[j, t])
        total += diff * diff
    return total


@kernel
def label_distances(X: np.ndarray, C: np.ndarray, labels: np.ndarray, start: int, stop: int, out: np.ndarray) -> float:
    """Write the squared distance of each row to the centre of its label into `out`; return their sum, in row order."""
    total = 0.0
    for i in range(start, stop):
        value = squared_distance(X, i, C, labels[i])
        out[i - start] = value
        total += value
    return total


@products_kernel
def _few_products(Z: np.ndarray, rows: np.ndarray, centres: np.ndarray, G: np.ndarray) -> None:
    """Write the products of some rows of Z with all centres into G, (n_clusters, len(rows))."""
    k, d = centres.shape
    fours = k - k % 4
    zero = np.float32(0.0)
    for r in range(0, len(rows), 2):  # two rows with four centres at a time: eight sums in registers
        q = min(r + 1, len(rows) - 1)
        y, z = Z[rows[r]], Z[rows[q]]
        for j in range(0, fours, 4):
            c0, c1, c2, c3 = centres[j], centres[j + 1], centres[j + 2], centres[j + 3]
            s0, s1, s2, s3 = zero, zero, zero, zero
            u0, u1, u2, u3 = zero, zero, zero, zero
            for t in range(d):
                v, w = y[t], z[t]
                e0, e1, e2, e3 = c0[t], c1[t], c2[t], c3[t]
                s0 += v * e0
                s1 += v * e1
                s2 += v * e2
                s3 += v * e3
                u0 += w * e0
                u1 += w * e1
                u2 += w * e2
                u3 += w * e3
            G[j, r], G[j + 1, r], G[j + 2, r], G[j + 3, r] = s0, s1, s2, s3
            G[j, q], G[j + 1, q], G[j + 2, q], G[j + 3, q] = u0, u1, u2, u3
        for j in range(fours, k):
            c = centres[j]
            s0, u0 = zero, zero
            for t in range(d):
                s0 += y[t] * c[t]
                u0 += z[t] * c[t]
            G[j, r], G[j, q] = s0, u0


@kernel
def _two_smallest(
    G: np.ndarray,
    base: np.ndarray,
    slope: np.ndarray,
    offset: np.ndarray,
    length: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    second: np.ndarray,
    arg: np.ndarray,
) -> None:
    """Find, per column of G (k, f), the smallest lower bound, its upper bound and row, and the second smallest."""
    f = len(length)
    for i in range(f):
        low[i] = second[i] = _FAR
    for j in range(G.shape[0]):
        b = base[j]
        s = slope[j]
        o = _TWO * offset[j]
        jj = np.int32(j)
        for i in range(f):  # without branches, so that it becomes vector code
            error = length[i] * s
            v = (b + G[j, i]) - error
            old, other = low[i], second[i]
            less = v < old
            rest = v if v < other else other
            second[i] = old if less else rest
            low[i] = v if less else old
            high[i] = v + (error + error + o) if less else high[i]
            arg[i] = jj if less else arg[i]


@kernel
def _gaps(square: np.ndarray, low: np.ndarray, high: np.ndarray, second: np.ndarray, gap: np.ndarray) -> int:
    """Write how much farther than its nearest centre any other is at least; return how often that is not positive."""
    n_open = 0
    for i in range(len(square)):
        own = square[i]
        near = (own + high[i]) + (own + abs(low[i]) + abs(high[i])) * _SLACK
        far = (own + second[i]) - (own + abs(second[i])) * _SLACK
        near = near if near > _ZERO else _ZERO
        far = far if far > _ZERO else _ZERO
        value = np.sqrt(far) * (_ONE - _SLACK) - np.sqrt(near) * (_ONE + _SLACK)
        n_open += not value > _ZERO
        gap[i] = value
    return n_open


@kernel
def _settle(
    X: np.ndarray,
    C: np.ndarray,
    G: np.ndarray,
    base: np.ndarray,
    slope: np.ndarray,
    rows: np.ndarray,
    length: np.ndarray,
    square: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    gap: np.ndarray,
    arg: np.ndarray,
) -> None:
    """Decide in float64 between the centres that the bounds leave open."""
    for i in range(len(rows)):
        if not gap[i] > _ZERO:
            gap[i] = -_ONE  # to be looked at again next time
            limit = np.float64(high[i])
            limit += (np.float64(square[i]) + abs(limit) + abs(np.float64(low[i]))) * (16.0 * SLACK)
            best = np.inf
            for c in range(len(base)):
                if np.float64((base[c] + G[c, i]) - length[i] * slope[c]) <= limit:
                    value = squared_distance(X, rows[i], C, c)
                    if value < best:  # the smallest index wins a tie
                        best = value
                        arg[i] = c


@kernel
def _triage(
    start: int,
    stop: int,
    models: np.ndarray,
    first: np.ndarray,
    spent: np.ndarray,
    labels: np.ndarray,
    until: np.ndarray,
) -> np.ndarray:
    """Return how many rows are open in each model."""
    n_open = np.zeros(len(models), np.int64)
    for position in range(len(models)):
        m = models[position]
        a = first[m]
        count = 0
        for i in range(start, stop):
            count += not until[m, i] > spent[a + labels[m, i]]
        n_open[position] = count
    return n_open


@kernel
def assign_block(
    X: np.ndarray,
    Z: np.ndarray,
    length: np.ndarray,
    square: np.ndarray,
    block: int,
    models: np.ndarray,
    first: np.ndarray,
    C: np.ndarray,
    doubled: np.ndarray,
    base: np.ndarray,
    slope: np.ndarray,
    offset: np.ndarray,
    spent: np.ndarray,
    labels: np.ndarray,
    until: np.ndarray,
    changed: np.ndarray,
) -> None:
    """Assign one block of rows to the centres of every model in `models`.

    A row whose `until` exceeds what its centre has `spent` (how far it and its fastest rival have moved since) cannot
    have changed its label (Hamerly 2010, "Making k-means even faster") and is left out. Models with many open rows
    share one product for the whole block; of the others, the open rows are multiplied alone.
    """
    start = block * BLOCK
    stop = min(start + BLOCK, X.shape[0])
    f = stop - start
    low, high, second = np.empty(f, np.float32), np.empty(f, np.float32), np.empty(f, np.float32)
    gap, arg = np.empty(f, np.float32), np.empty(f, np.int32)
    rows = np.empty(f, np.int64)
    lengths, squares = np.empty(f, np.float32), np.empty(f, np.float32)
    n_open = _triage(start, stop, models, first, spent, labels, until)
    is_dense = n_open > DENSE_SHARE * f
    widest, total = 1, 0
    for position in range(len(models)):
        k = first[models[position] + 1] - first[models[position]]
        widest = max(widest, k)
        total += k if is_dense[position] else 0
    packed = np.empty((min(total, max(WIDTH, widest)), Z.shape[1]), np.float32)
    products = np.empty((len(packed), f), np.float32)
    few_products = np.empty((widest, f), np.float32)
    at, packed_until = 0, 0  # centre in `packed`, and position of the first model that is not in it
    for position in range(len(models)):
        m = models[position]
        a, b = first[m], first[m + 1]
        if n_open[position] == 0:
            continue
        if is_dense[position]:
            if position >= packed_until:
                at = 0
                while packed_until < len(models):
                    other = models[packed_until]
                    if packed_until >= position and is_dense[packed_until]:
                        k = first[other + 1] - first[other]
                        if at + k > len(packed):
                            break
                        packed[at : at + k] = doubled[first[other] : first[other + 1]]
                        at += k
                    packed_until += 1
                np.dot(packed[:at], Z[start:stop].T, products[:at])
                at = 0
            G = products[at : at + b - a]
            at += b - a
            n = f
            for i in range(f):
                rows[i] = start + i
                lengths[i] = length[start + i]
                squares[i] = square[start + i]
        else:
            n = 0
            for i in range(start, stop):
                rows[min(n, f - 1)] = i
                n += not until[m, i] > spent[a + labels[m, i]]
            for i in range(n):
                lengths[i] = length[rows[i]]
                squares[i] = square[rows[i]]
            G = few_products[: b - a]
            _few_products(Z, rows[:n], doubled[a:b], G)
        _two_smallest(G, base[a:b], slope[a:b], offset[a:b], lengths[:n], low, high, second, arg)
        if _gaps(squares[:n], low, high, second, gap):
            _settle(X, C[a:b], G, base[a:b], slope[a:b], rows[:n], lengths, squares, low, high, gap, arg)
        n_changed = 0
        for i in range(n):
            n_changed += labels[m, rows[i]] != arg[i]
            labels[m, rows[i]] = arg[i]
            until[m, rows[i]] = (gap[i] + spent[a + arg[i]]) * (_ONE - _SLACK) if gap[i] > _ZERO else -_ONE
        changed[m, block] = n_changed


@kernel
def _add(X: np.ndarray, i: int, high: np.ndarray, rest: np.ndarray, j: int, sign: float) -> None:
    """Add a row to a sum held in two float64 numbers (Knuth's TwoSum): what leaves takes away just what it brought."""
    for t in range(X.shape[1]):
        value = sign * np.float64(X[i, t])
        old = high[j, t]
        new = old + value
        part = new - old
        rest[j, t] += (old - (new - part)) + (value - part)
        high[j, t] = new


@kernel
def move_rows(
    X: np.ndarray,
    models: np.ndarray,
    fresh: np.ndarray,
    first: np.ndarray,
    labels: np.ndarray,
    summed: np.ndarray,
    changed: np.ndarray,
    high: np.ndarray,
    rest: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Bring the sums of some models from the labels they hold (`summed`) to `labels`, row by row, in row order."""
    for block in range(changed.shape[1]):
        start = block * BLOCK
        stop = min(start + BLOCK, X.shape[0])
        for m in models:
            if fresh[m]:
                for i in range(start, stop):
                    j = first[m] + np.int64(labels[m, i])
                    summed[m, i] = labels[m, i]
                    counts[j] += 1
                    _add(X, i, high, rest, j, 1.0)
            elif changed[m, block]:
                for i in range(start, stop):
                    if summed[m, i] != labels[m, i]:
                        j = first[m] + np.int64(summed[m, i])
                        counts[j] -= 1
                        _add(X, i, high, rest, j, -1.0)
                        j = first[m] + np.int64(labels[m, i])
                        counts[j] += 1
                        _add(X, i, high, rest, j, 1.0)
                        summed[m, i] = labels[m, i]


@kernel
def fill_means(
    models: np.ndarray, first: np.ndarray, high: np.ndarray, rest: np.ndarray, counts: np.ndarray, new: np.ndarray
) -> np.ndarray:
    """Write the means of the clusters of some models; return how many clusters of each are empty."""
    empty = np.zeros(len(models), np.int64)
    for position in range(len(models)):
        m = models[position]
        for j in range(first[m], first[m + 1]):
            size = max(counts[j], 1)
            empty[position] += counts[j] == 0
            for t in range(new.shape[1]):
                new[j, t] = (high[j, t] + rest[j, t]) / size
    return empty


@kernel
def place_centres(
    models: np.ndarray,
    first: np.ndarray,
    mean: np.ndarray,
    scale: float,
    new: np.ndarray,
    C: np.ndarray,
    doubled: np.ndarray,
    base: np.ndarray,
    slope: np.ndarray,
    offset: np.ndarray,
    moved: np.ndarray,
    spent: np.ndarray,
    shifts: np.ndarray,
) -> None:
    """Move the centres of `models` from `C` to `new`, and derive all that `assign_block` needs.

    `shifts` receives the sum of squared moves per model, `moved` and `spent` grow by how far each centre and its
    fastest rival went, in scaled units.
    """
    d = C.shape[1]
    unit = 2.0**-24
    growth = 1.0 + 4.0 * d * unit
    for m in models:
        a, b = first[m], first[m + 1]
        fastest, next_fastest, which = 0.0, 0.0, -1
        total = 0.0
        moves = np.empty(b - a)
        for j in range(a, b):
            square, norm = 0.0, 0.0
            for t in range(d):
                step = new[j, t] - C[j, t]
                square += step * step
                C[j, t] = new[j, t]
                value = (new[j, t] - mean[t]) * scale
                norm += value * value
                doubled[j, t] = np.float32(-2.0 * value)
            total += square
            move = np.sqrt(square) * scale * (1.0 + 1e-9)
            moves[j - a] = move
            if move > fastest:
                fastest, next_fastest, which = move, fastest, j
            elif move > next_fastest:
                next_fastest = move
            slope[j] = np.float32((2.0 * d + 20.0) * unit * growth * np.sqrt(norm) * (1.0 + 1e-6))
            error = 6.0 * unit * growth * norm + 1e-30
            offset[j] = np.float32(error * (1.0 + 1e-6))
            base[j] = np.float32(norm - error)
        for j in range(a, b):
            moved[j] += moves[j - a] + (next_fastest if j == which else fastest)
            spent[j] = np.float32(moved[j] * (1.0 + 2.0**-22))
        shifts[m] = total
