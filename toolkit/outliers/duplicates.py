"""Near-duplicates: rows so close to each other that one of them can stand for all, as tables and a contact sheet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numba import njit

from toolkit.atomic import atomic_file, remove_unfinished
from toolkit.backend.cpu import ordered_map
from toolkit.cluster.arguments import check_matrix, require_number
from toolkit.cluster.local_outliers import square_roots
from toolkit.cluster.near_pairs import RowPairs, near_pairs
from toolkit.cluster.points import measure
from toolkit.errors import InputError, unknown
from toolkit.grid.finished import FinishedRun
from toolkit.grid.folder import RunFolder
from toolkit.images.source import open_images, run_images
from toolkit.images.thumbnails import Thumbnails
from toolkit.report.contact_sheet import COLUMNS, SIDE, Captioned, Section, read_images, save_sheet
from toolkit.report.predict import cost_text, predict_forests
from toolkit.report.study import Study

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from toolkit.cluster.density import DensityForest, Neighbors
    from toolkit.grid.finished import Model
    from toolkit.images.source import ImageSource
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

TABLE, PAIRS = "duplicates.csv", "duplicate_pairs.csv"
MOST_PAIRS = 1_000_000  # that are written: more say nothing but that the distance is too large
SHARE = 0.3  # of the usual distance between neighbours, within which rows are duplicates by default
_LEAST = 5e-324  # the smallest number above 0; its square is 0
_LARGEST = 1e154  # whose square is a float64
_ROUNDING = 1e-5  # of the distance to the end of a list: copies are not farther apart
_WRITTEN = 65_536  # rows of a table at a time
_GROUPS_SHOWN, _PAIRS_SHOWN = 20, 10 * COLUMNS // 2
_IMAGES_SHOWN = 2 * COLUMNS  # of a group
_SPARE = 4 * COLUMNS  # rows of a group behind them, for images that cannot be read


class Groups(NamedTuple):
    """Rows in groups of near-duplicates, by group, the representative first, then by distance and row.

    Attributes
    ----------
    row : ndarray (n,) int64
    group : ndarray (n,) int64
        From 0, the largest group first; of equally large ones that with the first row.
    is_representative : ndarray (n,) bool
    distance : ndarray (n,) float64
        To the representative.
    """

    row: np.ndarray
    group: np.ndarray
    is_representative: np.ndarray
    distance: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each group, (n_groups,) int64."""
        return np.bincount(self.group)


@dataclass(frozen=True, eq=False)
class Duplicates:
    """The near-duplicates of a descriptor.

    Attributes
    ----------
    model : Model
        The best one of the descriptor, in whose matrix distances are.
    within : float
        Rows at most so far from each other are a pair.
    typical : float
        The median distance of a row to its nearest other; see `typical_distance`.
    n_rows, n_unreadable : int
        Rows that were compared, and rows left out because they hold NaN or inf.
    groups : Groups
    pairs : RowPairs
        Rows are those of the run, as in `groups`.
    sheet : Path or None
        The contact sheet, if there is one.
    """

    model: Model
    within: float
    typical: float
    n_rows: int
    n_unreadable: int
    groups: Groups
    pairs: RowPairs
    sheet: Path | None = None


# What is found
def typical_distance(forest: DensityForest) -> float:
    """Return the median, over distinct rows, of the distance to the nearest other one; 0 if there is only one.

    Rows that are no farther from each other than rounding sets copies apart (in different blocks of a reduction) are
    not others. Where more than half of the rows have near-duplicates, it is the distance between those.
    """
    lists = forest.neighbors.lists
    if lists.n_points == 1:
        return 0.0
    farthest = np.median(np.concatenate([squared[:, -1] for _, squared, _ in lists.blocks()]))
    nearest = [_first_beyond(_ROUNDING**2 * farthest, squared) for _, squared, _ in lists.blocks()]
    return float(np.median(np.sqrt(np.concatenate(nearest))))


@njit(nogil=True, cache=True)
def _first_beyond(squared_radius, squared):  # type: ignore[no-untyped-def]
    """Return the first entry of each list that is beyond a radius, else the last, (n_points,) float64."""
    first = squared[:, -1].copy()
    for row in range(len(squared)):
        for u in range(squared.shape[1]):
            if squared[row, u] > squared_radius:
                first[row] = squared[row, u]
                break
    return first


def find_duplicates(
    forest: DensityForest, X: np.ndarray, within: float, memory: MemoryBudget
) -> tuple[Groups, RowPairs]:
    """Find all pairs of rows within a distance, and the groups that they connect, exactly.

    A group is a connected component of the graph of the pairs: a cluster of single linkage, cut at the distance. Its
    representative is the row nearest to its mean, which is the medoid of squared distances; of several the first.
    Distances are compared as by DBSCAN, as squares in float64.

    Parameters
    ----------
    forest : DensityForest
        Of X.
    X : ndarray (n_samples, n_features) float32 or float64
    within : float
        At least 0, where only equal rows are duplicates.
    memory : MemoryBudget

    Returns
    -------
    Groups
        Of at least two rows each.
    RowPairs
        Up to 1,000,000.

    Raises
    ------
    InputError
        For a distance that is no number or negative, or a matrix of another shape.
    MemoryBudgetError
        If the pairs do not fit.
    """
    radius = min(require_number("within", within), _LARGEST)
    X, neighbors = check_matrix(X), forest.neighbors
    if X.shape != (forest.n_samples, forest.n_features):
        raise InputError(f"X has shape {X.shape}; allowed: {forest.n_samples, forest.n_features}, that of the forest")
    labels = forest.dbscan(max(radius, _LEAST), 1)
    pairs = near_pairs(X, neighbors, labels, radius * radius, MOST_PAIRS, memory)
    return _groups(X, neighbors, labels), pairs


def _groups(X: np.ndarray, neighbors: Neighbors, labels: np.ndarray) -> Groups:
    """Return the groups; labels are numbered by first row."""
    sizes = np.bincount(labels)
    ranked = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes > 1)]
    number = np.full(len(sizes), -1)
    number[ranked] = np.arange(len(ranked))
    group_of = number[labels]
    points = np.argsort(group_of[neighbors.first], kind="stable")
    points = points[group_of[neighbors.first[points]] >= 0]
    starts = np.searchsorted(group_of[neighbors.first[points]], np.arange(len(ranked) + 1))
    medoids = neighbors.first[_medoids(X, neighbors.first, neighbors.counts, points, starts)]
    row = np.flatnonzero(group_of >= 0)
    group = group_of[row]
    distance = square_roots(measure(X, row, medoids[group]))
    order = np.lexsort((distance, group))  # stable: a representative is the first of the rows that are equal to it
    return Groups(row[order], group[order], (row == medoids[group])[order], distance[order])


@njit(nogil=True, cache=True)
def _medoids(X, first, counts, points, starts):  # type: ignore[no-untyped-def]
    """Return the point of each group that is nearest to the mean of its rows; of several the first.

    Compared are the squares of ``n (x - low) - sum(x - low)``, n times the distance to the mean, low being the least
    value of each feature: two rows, or rows that mirror each other, are then equally far to the last bit. Terms are
    added in ascending order, so that the order of the rows decides nothing.
    """
    medoids = np.empty(len(starts) - 1, np.int64)
    for group in range(len(medoids)):
        members = points[starts[group] : starts[group + 1]]
        weights = counts[members].astype(np.float64)
        n_rows = weights.sum()
        while n_rows > 1:  # scaled exactly, so that squares stay within float64
            weights /= 2
            n_rows /= 2
        column, squared = np.empty(len(members)), np.zeros(len(members))
        for feature in range(X.shape[1]):
            for k in range(len(members)):
                column[k] = X[first[members[k]], feature]
            column -= column.min()
            total = np.sort(weights * column).sum()
            for k in range(len(members)):
                squared[k] += (n_rows * column[k] - total) ** 2
        medoids[group] = members[squared.argmin()]
    return medoids


# What is written
def write_duplicates(
    folder: str | Path,
    *,
    within: float | None = None,
    descriptors: Sequence[str] = (),
    images: str | Path | None = None,
    memory: str | int | MemoryBudget | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> list[Duplicates]:
    """Find the near-duplicates of each descriptor of a finished run, and write tables and contact sheets.

    ``duplicates.csv`` has the rows in groups, ``duplicate_pairs.csv`` all pairs, ``plots/DESCRIPTOR_duplicates.png``
    some of both; what an earlier call wrote and this one does not is removed. Distances are in the matrix of the best
    model of each descriptor, reduced and scaled.

    Parameters
    ----------
    folder : path
        Of a finished run.
    within : float, optional
        Distance up to which two rows are duplicates; by default 0.3 times the usual distance between neighbours
        (`Duplicates.typical`), for each descriptor its own. With 0 only rows of equal numbers are, which
        copies of an image need not be: a reduction may round them differently.
    descriptors : sequence of str
        None means all.
    images : path, optional
        Folder or zip archive that holds the images; by default as the run's configuration says.
    memory, device, reporter
        As in `FinishedRun`.

    Returns
    -------
    list of Duplicates
        In the order of the run; none of a descriptor without any model.

    Raises
    ------
    InputError
        For a run, a distance, a descriptor or images that cannot be used, or a folder that another process works in.
    MemoryBudgetError
        If the pairs do not fit.
    """
    if within is not None:
        require_number("within", within)
    run = FinishedRun(folder, memory=memory, device=device, reporter=reporter)
    if strangers := [name for name in descriptors if name not in run.names]:
        raise unknown("descriptor", strangers[0], run.names)
    source = run_images(run) if images is None else open_images(run.image_paths, Path(images))
    with RunFolder(run.folder), source:
        study = Study(run)
        found = list(_find(study, [name for name in run.names if not descriptors or name in descriptors], within))
        _write_groups(run, found)
        _write_pairs(run, found)
        return _write_sheets(run, source, found)


def _find(study: Study, names: list[str], within: float | None) -> Iterator[Duplicates]:
    """Yield the duplicates of each descriptor; of pairs, no more are held than are written."""
    run, n_pairs = study.run, 0
    models = {name: model for name in names if (model := study.best_matrix(name)) is not None}
    cost = predict_forests(study, models.values(), lambda model: study.min_samples(model)[-1])
    run.reporter.say(f"duplicates: {len(models)} x {run.n_rows:,} rows, {cost_text(cost, run.memory)}")
    for name in names:
        model = models.get(name)
        if model is None:
            run.reporter.warn(f"{name}: no model was fitted, and so no duplicates are looked for")
            continue
        forest, X, reduced = study.forest(model), run.matrix(model), run.reduced(model)
        typical = typical_distance(forest)
        radius = SHARE * typical if within is None else within
        run.reporter.say(f"{name}: looking for pairs within {radius:.4g}")
        groups, pairs = find_duplicates(forest, X, radius, run.memory)
        groups = groups._replace(row=reduced.rows[groups.row])
        n_pairs += pairs.number
        if n_pairs > MOST_PAIRS:
            pairs = RowPairs.only_counted(pairs.number)
        else:
            rows = reduced.rows.astype(np.int32)
            pairs = pairs._replace(row_1=rows[pairs.row_1], row_2=rows[pairs.row_2])
        del forest, X  # before those of the next descriptor are made
        yield Duplicates(model, radius, typical, len(reduced.rows), len(reduced.bad_rows), groups, pairs)


def _write_groups(run: FinishedRun, found: list[Duplicates]) -> None:
    columns = ("descriptor", "group", "row", "image_path", "is_representative", "distance")
    _write(
        run.folder / TABLE,
        columns,
        (
            (one.model.cell.sample.descriptor, group[part], row[part], run.image_paths[row[part]], is_it[part], d[part])
            for one in found
            for row, group, is_it, d in [one.groups]
            for part in _parts(len(row))
        ),
    )


def _write_pairs(run: FinishedRun, found: list[Duplicates]) -> None:
    path = run.folder / PAIRS
    if (number := sum(one.pairs.number for one in found)) > MOST_PAIRS:
        path.unlink(missing_ok=True)
        run.reporter.warn(
            f"{PAIRS} is not written: there are at least {number:,} pairs, allowed: {MOST_PAIRS:,}; lower --within "
            f"(groups are complete)"
        )
        return
    columns = ("descriptor", "row_1", "row_2", "image_path_1", "image_path_2", "distance")
    paths = run.image_paths
    _write(
        path,
        columns,
        (
            (one.model.cell.sample.descriptor, i[part], j[part], paths[i[part]], paths[j[part]], d[part])
            for one in found
            for i, j, d, _ in [one.pairs]
            for part in _parts(len(i))
        ),
    )


def _parts(n_rows: int) -> Iterator[slice]:
    return (slice(start, start + _WRITTEN) for start in range(0, n_rows, _WRITTEN))


def _write(path: Path, columns: tuple[str, ...], parts: Iterator[tuple[object, ...]]) -> None:
    """Write a table part by part, whole or not at all."""
    with atomic_file(path) as file:
        pd.DataFrame(columns=columns).to_csv(file, index=False, lineterminator="\n")
        for part in parts:
            table = pd.DataFrame(dict(zip(columns, part, strict=True)))
            table.to_csv(file, index=False, header=False, lineterminator="\n")


# Contact sheets
def _write_sheets(run: FinishedRun, source: ImageSource, found: list[Duplicates]) -> list[Duplicates]:
    """Write a sheet of each descriptor that has duplicates, and remove those of an earlier call."""
    plots = run.folder / "plots"
    plots.mkdir(exist_ok=True)
    remove_unfinished(plots)
    for name in run.names:
        (plots / f"{name}_duplicates.png").unlink(missing_ok=True)
    if len(source.problems) == run.n_rows:
        first = f"'{run.image_paths[0]:.200}' {source.problems[0]}"
        why = "the run has no image paths" if run.loader.image_paths is None else f"no image found: {first}"
        run.reporter.say(f"no contact sheet is made, {why}; --images takes a folder or a zip archive")
        return found
    thumbnails = Thumbnails(source, SIDE, run.memory)
    return [replace(one, sheet=_write_sheet(run, one, thumbnails, plots)) for one in found]


def _write_sheet(run: FinishedRun, one: Duplicates, thumbnails: Thumbnails, plots: Path) -> Path | None:
    descriptor, sizes = one.model.cell.sample.descriptor, one.groups.sizes
    if not len(sizes):
        return None
    rows, distances = (np.split(array, np.cumsum(sizes)[:-1]) for array in (one.groups.row, one.groups.distance))
    larger = _larger_groups([part for part in rows if len(part) > 2], thumbnails)
    two = np.array([part for part in rows if len(part) == 2], np.int64).reshape(-1, 2)
    apart = np.array([part[1] for part in distances if len(part) == 2])
    order = np.argsort(apart, kind="stable")
    pairs = _pairs(two[order], apart[order], thumbnails)
    if not (sections := [*larger, *pairs]):
        run.reporter.warn(f"{descriptor}: no contact sheet of duplicates, none of their images can be read")
        return None
    lines = [
        f"{descriptor}     scaler {one.model.cell.scaler}     {_counted(one)}",
        _shown(len(larger), int((sizes > 2).sum()), sum(len(part.images) for part in pairs) // 2, len(two)),
    ]
    path = plots / f"{descriptor}_duplicates.png"
    save_sheet(path, f"Near-duplicates within {one.within:.4g}", lines, sections)
    return path


def _larger_groups(groups: list[np.ndarray], thumbnails: Thumbnails) -> list[Section]:
    """Return a section for each of the largest groups of which at least two images can be read."""

    def section(numbered: tuple[int, np.ndarray]) -> Section | None:
        group, rows = numbered
        images = list(read_images(rows[: _IMAGES_SHOWN + _SPARE], thumbnails, _IMAGES_SHOWN))
        first = (
            "the representative first"
            if int(rows[0]) not in thumbnails.problems
            else "the representative cannot be read"
        )
        shown = f", {len(images)} shown" if len(images) < len(rows) else ""
        return Section(f"Group {group}: {len(rows):,} images{shown}, {first}", images) if len(images) > 1 else None

    made = ordered_map(section, enumerate(groups), workers=thumbnails.workers)
    return list(islice((one for one in made if one is not None), _GROUPS_SHOWN))


def _pairs(pairs: np.ndarray, distances: np.ndarray, thumbnails: Thumbnails) -> list[Section]:
    """Return a section of the closest groups of two of which both images can be read, side by side; none without."""

    def both(numbered: tuple[int, np.ndarray]) -> list[Captioned]:
        at, rows = numbered
        notes = {rows[1]: f"{distances[at]:.2g}"}
        images = list(read_images(rows, thumbnails, 2, notes=lambda row: notes.get(row, "")))
        return images if len(images) == 2 else []

    made = ordered_map(both, enumerate(pairs), workers=thumbnails.workers)
    images = list(islice((one for two in made for one in two), 2 * _PAIRS_SHOWN))
    return [Section("Pairs side by side, the closest first, with their distance", images)] if images else []


def _shown(n_groups: int, of_groups: int, n_pairs: int, of_pairs: int) -> str:
    texts = []
    if of_groups:
        texts.append(f"{n_groups:,} of {of_groups:,} groups of more than two (the largest)")
    if of_pairs:
        texts.append(f"{n_pairs:,} of {of_pairs:,} pairs (the closest)")
    return f"Shown: {', '.join(texts)}"


# For people
def duplicates_text(found: Sequence[Duplicates]) -> str:
    """Say what was found for each descriptor."""
    return "\n".join(_described(one) for one in found)


def _described(one: Duplicates) -> str:
    cell, n_duplicates = one.model.cell, len(one.groups.row)
    if np.isclose(one.within, SHARE * one.typical, rtol=1e-12, atol=0):
        meaning = f", {SHARE:g} times the usual distance from a row to its nearest other"
    else:
        meaning = f"; the usual distance from a row to its nearest other is {one.typical:.4g}"
    text = f"{cell.sample.descriptor}: within {one.within:.4g} ({cell.scaler} scaled{meaning}): "
    if n_duplicates:
        at_least = "" if one.pairs.are_listed else "at least "
        n_spare = n_duplicates - len(one.groups.sizes)
        share = f"{100 * n_spare / one.n_rows:.1f} %"
        text += f"{_counted(one)}, {at_least}{_number(one.pairs.number, 'pair')}; {_number(n_spare, 'row')} ({share}) "
        text += "could be dropped"
    else:
        text += "no duplicates"
    return text + _left_out(one)


def _counted(one: Duplicates) -> str:
    return f"{_number(len(one.groups.sizes), 'group')} with {len(one.groups.row):,} of {one.n_rows:,} rows"


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _left_out(one: Duplicates) -> str:
    sample, reasons = one.model.cell.sample, []
    if sample.fraction < 1:
        reasons.append(f"only the fraction of {sample.fraction:g} of the rows that {one.model.name} was fitted on")
    if one.n_unreadable:
        reasons.append(f"without {_number(one.n_unreadable, 'row')} holding NaN or inf")
    return f" ({', '.join(reasons)})" if reasons else ""
