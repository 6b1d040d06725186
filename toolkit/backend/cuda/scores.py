"""Scores of many labellings on the device; see `toolkit.score.variance` and `toolkit.score.silhouette`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.backend.cpu import ordered_map
from toolkit.backend.cuda.device import Rows
from toolkit.backend.cuda.sums import ExactSums
from toolkit.memory import n_threads
from toolkit.score.silhouette import NEAR
from toolkit.score.variance import scores_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from toolkit.backend.cuda.device import Device
    from toolkit.score.labellings import Partition
    from toolkit.score.silhouette import RowGroup

_VALUE_WORK = 64  # bytes for each value of a block of rows
_DISTANCE_WORK = 40  # bytes for each distance of a tile
_MOST_ROWS = 4096  # of a tile: more is no faster


def variance_scores(
    device: Device,
    X: np.ndarray,
    origin: np.ndarray,
    partitions: list[Partition],
    *,
    advance: Callable[[int], None],
) -> Iterator[tuple[float, float]]:
    """Yield Calinski-Harabasz and Davies-Bouldin of labellings of at least 2 clusters.

    Parameters
    ----------
    device : Device
    X : ndarray (n_samples, n_features) float32 or float64
    origin : ndarray (n_features,) float64
        What is subtracted from every row.
    partitions : list of Partition
    advance : callable
        Told how many labellings were finished.
    """
    values = device.with_less("scoring", lambda _: Rows(device, device.host(X)))
    middle = device.put(origin)
    largest = max(float(X.max()), -float(X.min())) + float(middle.abs().max())

    def sums() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, Partition]]:
        for partition in partitions:
            work = _Variance(device, values, middle, largest, partition).sums
            yield device.with_less("scoring", work)

    for scores in ordered_map(lambda found: scores_of(*found), sums(), workers=n_threads()):
        advance(1)
        yield scores


@dataclass(frozen=True)
class _Variance:
    """One labelling to be scored by its variances."""

    device: Device
    values: Rows
    middle: Any
    largest: float
    partition: Partition

    def sums(self, n_bytes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Partition]:
        """Return what `scores_of` takes, from blocks of so many bytes."""
        device, partition, torch = self.device, self.partition, self.device.torch
        clusters = device.put(partition.clusters(slice(None)), torch.int64)
        rows = (clusters >= 0).nonzero()[:, 0]
        clusters = clusters[rows]
        step = max(1, n_bytes // (_VALUE_WORK * self.values.shape[1]))
        references = self.values[device.put(partition.first_rows)].double() - self.middle

        def blocks() -> Iterator[tuple[Any, Any]]:
            for part, own in zip(rows.split(step), clusters.split(step), strict=True):
                yield own, self.values[part].double() - self.middle

        # Around a row of the cluster: the centroid of equal rows is exactly that row.
        cutter = ExactSums(device, 2 * self.largest, partition.n_clustered)
        sums = torch.zeros((cutter.n_pieces, *references.shape), dtype=torch.int64, device=device.device)
        for own, block in blocks():
            cutter.add(sums, block - references[own], [(own, 1)])
        high, rest = cutter.join(sums)
        centres = (high + rest) / device.put(partition.sizes.astype(float))[:, None] + references
        squares = torch.cat([(block - centres[own]).square_().sum(1) for own, block in blocks()])
        spreads, squares = (self._totals(part, clusters) for part in (squares.sqrt(), squares))
        return device.get(centres), spreads, squares, partition

    def _totals(self, values: Any, clusters: Any) -> np.ndarray:
        torch = self.device.torch
        cutter = ExactSums.of(self.device, [values], self.partition.n_clustered)
        shape = (cutter.n_pieces, self.partition.n_clusters)
        sums = torch.zeros(shape, dtype=torch.int64, device=self.device.device)
        cutter.add(sums, values, [(clusters, 1)])
        high, rest = cutter.join(sums)
        return self.device.get(high + rest)


def silhouettes(
    device: Device, X: np.ndarray, origin: np.ndarray, group: RowGroup, *, advance: Callable[[float], object]
) -> dict[int, tuple[float, int]]:
    """Compute the mean silhouettes of labellings that share rows; see `toolkit.score.silhouette.silhouettes`."""
    torch = device.torch
    labels = [sampled.labels(group.rows) for sampled in group.sampled]
    found: dict[int, tuple[float, int]] = {}

    def work(n_bytes: int) -> None:
        found.clear()
        rows = device.put(X[group.rows]).double() - device.put(origin)
        norms = (rows * rows).sum(1)
        most = max(1, n_bytes // 4 // (8 * len(rows)))  # clusters whose columns are held together
        for flight in _flights([len(sampled.sizes) for sampled in group.sampled], most):
            first = np.cumsum([0] + [len(group.sampled[i].sizes) for i in flight])
            of_rows = device.put(np.stack([labels[i] for i in flight]), torch.int64)
            sizes = device.put(np.concatenate([group.sampled[i].sizes for i in flight]), torch.float64)
            member = torch.zeros((len(rows), int(first[-1])), dtype=torch.float64, device=device.device)
            for own, start in zip(of_rows, first, strict=False):
                inside = (own >= 0).nonzero()[:, 0]
                member[inside, own[inside] + int(start)] = 1
            totals = torch.zeros(len(flight), dtype=torch.float64, device=device.device)
            step = int(max(1, min(_MOST_ROWS, n_bytes // 2 // (_DISTANCE_WORK * len(rows) + 32 * int(first[-1])))))
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                sums = _distances(torch, rows, norms, part) @ member
                totals += _add_silhouettes(torch, sums, of_rows[:, part], first, sizes)
            for at, i in enumerate(flight):
                sampled = group.sampled[i]
                found[sampled.position] = (float(totals[at]) / sampled.n_rows, sampled.n_rows)

    device.with_less("silhouettes", work)
    advance(1.0)
    return found


def _flights(n_clusters: list[int], most: int) -> Iterator[list[int]]:
    """Cut labellings into parts of at most `most` clusters, or of one labelling."""
    flight: list[int] = []
    for i, k in enumerate(n_clusters):
        if flight and sum(n_clusters[j] for j in flight) + k > most:
            yield flight
            flight = []
        flight.append(i)
    yield flight


def _distances(torch: Any, rows: Any, norms: Any, part: slice) -> Any:
    """Return the distances of some rows to all; those that a product has no digits for come from differences."""
    both = norms[part, None] + norms
    squared = torch.addmm(both, rows[part], rows.T, alpha=-2)
    i, j = (squared < NEAR * both).nonzero(as_tuple=True)
    step = max(1, (64 << 20) // (8 * rows.shape[1]))
    for a, b in zip(i.split(step), j.split(step), strict=True):
        squared[a, b] = (rows[part][a] - rows[b]).square_().sum(1)
    return squared.clamp_(min=0).sqrt_()


def _add_silhouettes(torch: Any, sums: Any, labels: Any, first: np.ndarray, sizes: Any) -> Any:
    """Return the sums of the silhouettes of some rows, (n_labellings,); a row alone in its cluster scores 0."""
    totals = []
    for own, start, stop in zip(labels, first[:-1].tolist(), first[1:].tolist(), strict=True):
        inside = (own >= 0).nonzero()[:, 0]
        label = own[inside][:, None]
        here, counts = sums[inside, start:stop], sizes[start:stop]
        alone = counts[label[:, 0]] == 1
        inner = here.gather(1, label)[:, 0] / (counts[label[:, 0]] - 1).clamp(min=1)
        other = (here / counts).scatter_(1, label, torch.inf).amin(1)
        larger = torch.maximum(inner, other)
        values = torch.where((larger > 0) & ~alone, (other - inner) / larger, 0)
        totals.append(values.sum())
    return torch.stack(totals)
