"""New rows of a descriptor in the space that a model was fitted in, the same bits whatever block they come in.

A BLAS product rounds a row differently in a block of another length, or at another place in the block (OpenBLAS's
Haswell kernels do in every second row). So a row that the run has seen takes its place in the run's own matrix, found
by its content; any other row is projected in float64 and rounded to float32 once, and where the last bits of the
float64 product could change that rounding, the sum is taken again in one fixed order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash
from numba import njit

from toolkit.descriptors.cache import Cache, digest, load_arrays, save_arrays
from toolkit.descriptors.keeper import block_rows
from toolkit.descriptors.reduce import Projection, working_dtype
from toolkit.descriptors.scale import SCALERS

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.descriptors.formats import DescriptorFile, RawFile
    from toolkit.descriptors.keeper import Reduced
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

REASONS = ("", "NaN or inf", "too large for float32 once reduced and scaled")  # why a row has no place in the space
_VERSION = 1  # of the digests
_UNIT = 2.0**-53
_GAP = 64  # rows between two wanted ones of a matrix that are rather read than passed over


class Placed(NamedTuple):
    """A block of rows in a model's space.

    Attributes
    ----------
    rows : ndarray (n_placed, n_components) float32
        C order, finite.
    reason : ndarray (n,) int8
        For each row of the block, the place in `REASONS` of why it is not among them; 0 if it is.
    """

    rows: np.ndarray
    reason: np.ndarray


class NewRows:
    """The way of rows through the reduction and the scaler of a model.

    Parameters
    ----------
    reduced : Reduced
        What the model was fitted on.
    scaler : str
    digests : ndarray (n_rows, 2) uint64 or None
        Of all rows of the file that was reduced, from `file_digests`; None where nothing is projected.
    """

    def __init__(self, reduced: Reduced, scaler: str, digests: np.ndarray | None) -> None:
        self.projection, self.matrix = reduced.projection, reduced.matrix
        self.scale = SCALERS[scaler](reduced.statistics)
        self.known = None if digests is None else _Known(digests, reduced.rows)

    @staticmethod
    def row_bytes(file: DescriptorFile, n_components: int) -> int:
        """Return what one row of a block takes on its way."""
        return file.n_features * (2 * file.dtype.itemsize + 24) + 48 * n_components + 64

    def place(self, block: np.ndarray, numbers: np.ndarray) -> Placed:
        """Reduce and scale a block, (n, n_features); `numbers`, (n,), are the rows' numbers in their file."""
        reason = np.where(np.isfinite(block).all(axis=1), 0, 1).astype(np.int8)
        good = np.flatnonzero(reason == 0)
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            rows = np.ascontiguousarray(self.scale(self._reduce(block[good], numbers[good])))
        fits = np.isfinite(rows).all(axis=1)
        reason[good[~fits]] = 2
        return Placed(rows if fits.all() else rows[fits], reason)

    def _reduce(self, block: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        if self.known is None:
            return self.projection.apply(block)
        place = self.known.find(row_digests(block), numbers)
        new = np.flatnonzero(place < 0)
        reduced = np.empty((len(block), self.projection.n_features_out), np.float32)
        reduced[place >= 0] = _read_rows(self.matrix, place[place >= 0])
        reduced[new] = project(self.projection, block[new])
        return reduced


class _Known:
    """Finds rows by their content among those that a reduction was made from.

    Parameters
    ----------
    digests : ndarray (n_rows, 2) uint64
        Of every row of the file.
    rows : ndarray (n_reduced,) int64
        The row of the file that each row of the reduced matrix is.
    """

    def __init__(self, digests: np.ndarray, rows: np.ndarray) -> None:
        self.digests = digests
        self.place = np.full(len(digests), -1, np.int64)
        self.place[rows] = np.arange(len(rows))
        self.order = np.lexsort((digests[rows, 1], digests[rows, 0]))
        self.first, self.second = digests[rows[self.order]].T

    def find(self, digests: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return the place of each row in the reduced matrix, (n,) int64, or -1.

        Of several equal rows it is the one with the same number in its file, so that a file finds itself, else the
        first.
        """
        at = np.minimum(np.searchsorted(self.first, digests[:, 0]), len(self.first) - 1)
        found = (self.first[at] == digests[:, 0]) & (self.second[at] == digests[:, 1])
        place = np.where(found, self.order[at], -1)
        inside = np.flatnonzero(numbers < len(self.digests))
        itself = inside[(self.digests[numbers[inside]] == digests[inside]).all(axis=1)]
        itself = itself[self.place[numbers[itself]] >= 0]
        place[itself] = self.place[numbers[itself]]
        return place


def row_digests(block: np.ndarray) -> np.ndarray:
    """Return 128 bits for the values of each row, (n, 2) uint64; equal numbers in other dtypes give the same."""
    values = block.astype(np.float64) + 0.0  # -0.0 becomes 0.0
    found = b"".join(xxhash.xxh3_128_digest(row) for row in values)
    return np.frombuffer(found, np.uint64).reshape(-1, 2)


def file_digests(
    cache: Cache, fingerprint: str, file: DescriptorFile, memory: MemoryBudget, reporter: Reporter
) -> np.ndarray:
    """Return `row_digests` of a whole file, from the cache or in one read, (n_rows, 2) uint64."""

    def make(folder: Path) -> dict[str, Any]:
        size = memory.rows_that_fit(
            file.n_features * (2 * file.dtype.itemsize + 16),
            wanted=block_rows(file.n_features),
            what=f"a block of {file.path.name}",
        )
        blocks = reporter.watch(f"{file.path.name}: which rows it holds", file.blocks(size), len, file.n_rows)
        save_arrays(folder, digests=np.concatenate([row_digests(block) for block in blocks]))
        return {"n_rows": file.n_rows}

    memory.require(64 * file.n_rows, f"the digests of {file.n_rows:,} rows")
    folder, _ = cache.get("digests", digest(_VERSION, fingerprint), make)
    return load_arrays(folder, "digests")[0]


def _read_rows(matrix: RawFile, places: np.ndarray) -> np.ndarray:
    """Return some rows of a matrix on disk, in the order asked for; neighbouring ones are read together."""
    found = np.empty((len(places), matrix.n_features), matrix.dtype)
    order = np.argsort(places, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(places[order]) > _GAP) + 1):
        if len(part):
            start = int(places[part[0]])
            found[part] = matrix.read(start, int(places[part[-1]]) + 1)[places[part] - start]
    return found


def project(projection: Projection, block: np.ndarray) -> np.ndarray:
    """Project rows, (n, n_features), as `Projection.apply` does, (n, n_components) float32, each by itself.

    What `apply` multiplies, rounded as it does, is multiplied in float64, with an error of at most
    ``n_features * 2**-53 |x| |c|`` in whatever order (Higham 2002, section 3.1). Where that leaves the float32 value
    open, twice over so that neither of two orders is told from the other, the order is fixed.
    """
    work = working_dtype(block.dtype)
    rows = np.subtract(block, projection.mean.astype(work), dtype=work).astype(np.float64)
    components = projection.components.astype(work).astype(np.float64)
    products = rows @ components.T
    relative = 2 * (rows.shape[1] + 4) * _UNIT * 1.01
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    error = relative * lengths[:, None] * np.sqrt(np.einsum("ij,ij->i", components, components))
    with np.errstate(over="ignore"):  # the caller looks at the result
        open_ = np.nonzero((products - error).astype(np.float32) != (products + error).astype(np.float32))
        products[open_] = _dot(rows, components, *open_)
        found: np.ndarray = products.astype(np.float32)
    return found


@njit(nogil=True, cache=True)
def _dot(A, B, i, j):  # type: ignore[no-untyped-def]
    """Return the products of pairs of rows, (n_pairs,) float64, added from the first column to the last."""
    products = np.zeros(len(i))
    for pair in range(len(i)):
        for t in range(A.shape[1]):
            products[pair] += A[i[pair], t] * B[j[pair], t]
    return products
