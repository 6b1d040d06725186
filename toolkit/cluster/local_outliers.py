"""What the neighbour lists say of single points: their local outlier factor, and up to which eps they are noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from toolkit.cluster.lists import Lists

_LEAST = 1e-10  # added to mean distances, as scikit-learn does: more than k equal rows have a finite density


def local_outlier_factors(
    lists: Lists, counts: np.ndarray, n_neighbors: int, *, least_reachability: float = 0.0
) -> np.ndarray:
    """Return the local outlier factor of each point, (n_points,) float64 (Breunig, Kriegel, Ng, Sander 2000).

    The mean density of the `n_neighbors` nearest other rows over the row's own, density being one over the mean
    reachability distance. Of rows that are equally far, as many as are needed are taken, equal rows before others,
    lower numbers first.

    Parameters
    ----------
    lists : Lists
        Longer than `n_neighbors`, or with all points.
    counts : ndarray (n_points,) int
        Rows of each point.
    n_neighbors : int
        Below the number of rows.
    least_reachability : float
        In multiples of the median distance to the `n_neighbors`-th neighbour: smaller reachability distances are taken
        for that. Without it, rows beside a few copies of one row have factors of millions.
    """
    core = lists.core(counts, n_neighbors + 1)  # the row itself is counted there
    core = np.maximum(core, (least_reachability * np.median(np.sqrt(np.repeat(core, counts)))) ** 2)
    density = np.empty(len(core))
    for block in lists.blocks():
        _densities(*block, counts, n_neighbors, core, density)
    factor = np.empty(len(core))
    for block in lists.blocks():
        _factors(*block, counts, n_neighbors, density, factor)
    return factor


def noise_radii(lists: Lists, core: np.ndarray) -> np.ndarray:
    """Return the smallest squared eps with which DBSCAN puts each point into a cluster, (n_points,) float64.

    There the point is core, or within eps of one that is: the least of ``max(core_j, d_ij)`` over all points j, itself
    included. What is below the point's own core distance is in its list.

    Parameters
    ----------
    lists : Lists
    core : ndarray (n_points,) float64
        Squared core distances.
    """
    radii = np.empty(len(core))
    for block in lists.blocks():
        _radii(*block, core, radii)
    return radii


def square_roots(squared: np.ndarray) -> np.ndarray:
    """Return the smallest numbers whose squares, rounded to float64, reach these; the root may be one float beside."""
    root = np.sqrt(squared)
    with np.errstate(over="ignore"):
        below = np.nextafter(root, 0.0)
        root = np.where((below * below >= squared) & np.isfinite(root), below, root)
        return np.asarray(np.where(root * root < squared, np.nextafter(root, np.inf), root))


@njit(nogil=True, cache=True)
def _taken(point, other, counts, left):  # type: ignore[no-untyped-def]
    """Return how many rows of a listed point are among the `left` nearest that are still wanted."""
    return min(left, counts[other] - (1 if other == point else 0))


@njit(nogil=True, cache=True)
def _densities(start, squared, indices, counts, n_neighbors, core, density):  # type: ignore[no-untyped-def]
    for row in range(len(squared)):
        left, total = n_neighbors, 0.0
        for u in range(squared.shape[1]):
            other = indices[row, u]
            n_taken = _taken(start + row, other, counts, left)
            total += n_taken * np.sqrt(max(core[other], squared[row, u]))
            left -= n_taken
            if left == 0:
                break
        density[start + row] = 1 / (total / n_neighbors + _LEAST)


@njit(nogil=True, cache=True)
def _factors(start, squared, indices, counts, n_neighbors, density, factor):  # type: ignore[no-untyped-def]
    for row in range(len(squared)):
        left, total = n_neighbors, 0.0
        for u in range(squared.shape[1]):
            other = indices[row, u]
            n_taken = _taken(start + row, other, counts, left)
            total += n_taken * density[other]
            left -= n_taken
            if left == 0:
                break
        factor[start + row] = total / n_neighbors / density[start + row]


@njit(nogil=True, cache=True)
def _radii(start, squared, indices, core, radii):  # type: ignore[no-untyped-def]
    for row in range(len(squared)):
        least = core[start + row]
        for u in range(squared.shape[1]):
            if squared[row, u] >= least:
                break
            least = min(least, max(core[indices[row, u]], squared[row, u]))
        radii[start + row] = least
