"""How good descriptors, or clusters of them, are where the identity of every image is known.

Identities are the folders that images lie in, or a CSV of paths and identities. Descriptors are judged by the
distances of pairs of rows, clusters by their contingency table with the identities.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from toolkit.atomic import atomic_folder
from toolkit.backend.cpu import ordered_map
from toolkit.backend.simd import squared_distance
from toolkit.cluster.labelling import UNSEEN
from toolkit.descriptors.loader import DataLoader, OneFile
from toolkit.errors import InputError, unknown
from toolkit.memory import MemoryBudget, n_threads
from toolkit.progress import Reporter
from toolkit.score.truth import (
    FALSE_ACCEPTANCE,
    Confusions,
    Match,
    Verification,
    confusions,
    match,
    verification,
    with_single_noise,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

EVALUATION, PICTURE = "evaluation.json", "roc.png"
METRICS = ("euclidean", "cosine")
_PATH_COLUMNS = ("path", "image_path", "filename")
_LABEL_COLUMNS = ("label", "cluster")
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")
_MOST_PAIRS = 50_000_000  # that are all measured
_SAMPLE = 10_000_000  # of each kind, where there are more
_BLOCK_PAIRS = 1 << 18
_NOISE = -1
_SHOWN = 5  # confusions in the text; the JSON has all that were listed
_DPI = 110


@dataclass(frozen=True, eq=False)
class DescriptorEvaluation:
    """How well distances in a descriptor tell identities apart.

    Attributes
    ----------
    descriptor : str
        Its file.
    metric : {"euclidean", "cosine"}
    seed : int
        Of the folds and, if there are any, the sampled pairs.
    n_rows, n_identities : int
        That were compared.
    n_without_identity, n_unreadable : int
        Rows left out: without identity; with NaN or inf or, with cosine, of length zero.
    n_same_pairs, n_different_pairs : int
        Pairs of rows of one identity, and of different ones; how many were measured is in `pairs`.
    pairs : Verification
        On all pairs of rows, or a random sample of them.
    listed : Verification or None
        On the pairs of a file.
    n_listed_left_out : int
        Pairs of the file with a row that is unreadable, or an image that no row is of.
    """

    descriptor: str
    metric: str
    seed: int
    n_rows: int
    n_identities: int
    n_without_identity: int
    n_unreadable: int
    n_same_pairs: int
    n_different_pairs: int
    pairs: Verification
    listed: Verification | None
    n_listed_left_out: int

    @property
    def sampling(self) -> str:
        """Which pairs were measured, in a sentence."""
        kinds = (
            (self.n_same_pairs, self.pairs.n_same, "of one identity"),
            (self.n_different_pairs, self.pairs.n_different, "of different identities"),
        )
        texts = [
            f"all {n:,} pairs {what}"
            if n == measured
            else f"{measured:,} random ones (with replacement, seed {self.seed}) of {n:,} pairs {what}"
            for n, measured, what in kinds
        ]
        return " and ".join(texts)

    @property
    def text(self) -> str:
        """The numbers as a small table."""
        columns = {"all pairs": self.pairs} | ({} if self.listed is None else {"listed pairs": self.listed})
        far = f"{FALSE_ACCEPTANCE:g}"
        rows = [
            ("", list(columns)),
            ("pairs of one identity", [f"{one.n_same:,}" for one in columns.values()]),
            ("pairs of different ones", [f"{one.n_different:,}" for one in columns.values()]),
            ("area under ROC", [_number(one.auc) for one in columns.values()]),
            ("equal error rate", [_number(one.equal_error_rate) for one in columns.values()]),
            (f"TAR at FAR {far}", [_number(one.tar) for one in columns.values()]),
            ("accuracy over folds", [_number(one.accuracy) for one in columns.values()]),
            ("  its deviation", [_number(one.accuracy_std) for one in columns.values()]),
            ("best threshold", [f"{one.threshold:.6g}" for one in columns.values()]),
        ]
        left_out = [
            (self.n_without_identity, "rows without identity"),
            (self.n_unreadable, "unreadable rows"),
            (self.n_listed_left_out, "listed pairs"),
        ]
        return "\n".join(
            [
                f"{self.descriptor}: {self.n_rows:,} rows of {self.n_identities:,} identities, {self.metric} distance"
                + _left_out(left_out),
                f"measured: {self.sampling}",
                *_aligned(rows),
            ]
        )


class NamedMerged(NamedTuple):
    """Two identities in one cluster, see `Merged`."""

    cluster: str
    identity: str
    n_rows: int
    other: str
    n_other: int


class NamedSplit(NamedTuple):
    """An identity in several clusters, see `Split`; `n_noise` of its rows are in none."""

    identity: str
    n_rows: int
    n_clusters: int
    n_largest: int
    n_noise: int


@dataclass(frozen=True, eq=False)
class LabelEvaluation:
    """How far clusters are the identities.

    Attributes
    ----------
    source : str
        Where the labels are from.
    n_without_identity, n_unseen : int
        Rows left out: without identity, without label.
    n_noise : int
        Of the rows that are compared.
    all_rows : Match
        Noise rows count as clusters of one.
    clustered : Match or None
        Without the noise rows; None if there are no others.
    n_mixed, n_split : int
        Clusters of several identities, and identities in several clusters.
    merged : list of NamedMerged
    split : list of NamedSplit
        At most 10 of each, see `Confusions`.
    """

    source: str
    n_without_identity: int
    n_unseen: int
    n_noise: int
    all_rows: Match
    clustered: Match | None
    n_mixed: int
    n_split: int
    merged: list[NamedMerged]
    split: list[NamedSplit]

    @property
    def coverage(self) -> float:
        """The share of the rows that are in clusters."""
        return 1 - self.n_noise / self.all_rows.n_rows

    @property
    def text(self) -> str:
        """The numbers as a small table, and the worst confusions."""
        n_clusters = 0 if self.clustered is None else self.clustered.n_clusters
        columns = {"all rows": self.all_rows}
        if self.n_noise and self.clustered is not None:
            columns["without noise"] = self.clustered
        rows = [("", list(columns)), ("rows", [f"{one.n_rows:,}" for one in columns.values()])]
        rows += [(name, [_number(getattr(one, field)) for one in columns.values()]) for name, field in _MEASURES]
        left_out = [(self.n_without_identity, "rows without identity"), (self.n_unseen, "rows without label")]
        lines = [
            f"{self.source}: {n_clusters:,} clusters, {self.all_rows.n_identities:,} identities, coverage "
            f"{self.coverage:.1%}{_left_out(left_out)}",
            *_aligned(rows),
        ]
        if self.n_noise:
            lines.append(f"{self.n_noise:,} noise rows: each is a cluster of its own among all rows")
        return "\n".join([*lines, *self._confusions()])

    def _confusions(self) -> Iterator[str]:
        yield f"clusters of several identities: {self.n_mixed:,}"
        for merged in self.merged[:_SHOWN]:
            yield (
                f"  cluster {merged.cluster}: {merged.n_rows:,} of {merged.identity}, {merged.n_other:,} of "
                f"{merged.other}"
            )
        yield f"identities in several clusters: {self.n_split:,}"
        for split in self.split[:_SHOWN]:
            noise = f", {split.n_noise:,} more are noise" if split.n_noise else ""
            yield (
                f"  {split.identity}: {split.n_rows:,} rows in {split.n_clusters:,} clusters, {split.n_largest:,} in "
                f"the largest{noise}"
            )


_MEASURES = (
    ("adjusted Rand index", "ari"),
    ("adjusted mutual inf.", "ami"),
    ("normalised mutual inf.", "nmi"),
    ("homogeneity", "homogeneity"),
    ("completeness", "completeness"),
    ("pairs: precision", "pair_precision"),
    ("pairs: recall", "pair_recall"),
    ("pairs: F", "pair_f"),
    ("BCubed: precision", "bcubed_precision"),
    ("BCubed: recall", "bcubed_recall"),
    ("BCubed: F", "bcubed_f"),
)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _left_out(counts: Iterable[tuple[int, str]]) -> str:
    texts = [f"{n:,} {what}" for n, what in counts if n]
    return f"; left out: {', '.join(texts)}" if texts else ""


def _aligned(rows: Sequence[tuple[str, list[str]]]) -> list[str]:
    first = max(len(name) for name, _ in rows)
    width = max(len(cell) for _, cells in rows for cell in cells)
    return [f"{name:<{first}}" + "".join(f"  {cell:>{width}}" for cell in cells) for name, cells in rows]


# The doors
def evaluate_descriptors(
    descriptor: str | Path,
    identities: str | Path | None = None,
    *,
    image_paths: str | Path | None = None,
    pairs: str | Path | None = None,
    metric: str = "euclidean",
    seed: int = 0,
    memory: str | int | MemoryBudget | None = None,
    reporter: Reporter | None = None,
) -> DescriptorEvaluation:
    """Measure how well distances in a descriptor file tell pairs of one identity from pairs of different ones.

    Up to 50 million pairs of rows are all measured; where there are more, at most 10 million random ones of each kind
    (see `DescriptorEvaluation.sampling`). Distances are of float64 differences, and ranked exactly.

    Parameters
    ----------
    descriptor : path
    identities : path, optional
        CSV with the columns path and identity; without it, the identity of an image is the name of its folder.
    image_paths : path, optional
        CSV with one image path per row; without it as in `DataLoader`.
    pairs : path, optional
        CSV of pairs to be judged apart, with the columns row_1, row_2 (from 0) or path_1, path_2, and same (1 or 0).
        Its accuracy is over ten consecutive parts of the pairs of each kind, so over the ten sets of LFW.
    metric : {"euclidean", "cosine"}
        Cosine is 1 - cosine of the angle.
    seed : int
        Of the folds and of the sample.
    memory : str, int, MemoryBudget or None
        As in `MemoryBudget.resolve`; the compared rows are held, and 8 to 24 bytes for each measured pair.
    reporter : Reporter, optional

    Raises
    ------
    InputError
        If a file cannot be used, no image has an identity, or there are no two rows of one identity, or of different
        ones.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    if seed < 0:
        raise InputError(f"seed is {seed}; allowed: a whole number of at least 0")
    descriptor, reporter = Path(descriptor), reporter or Reporter(quiet=True)
    if not descriptor.is_file():
        raise InputError(f"descriptor file {descriptor} does not exist; give a file of descriptors")
    loader = OneFile(descriptor, None if image_paths is None else Path(image_paths), MemoryBudget.resolve(memory))
    paths = loader.image_paths
    if paths is None:
        raise InputError(f"nobody says which images the rows of {descriptor} are; give a CSV of image paths")
    codes, _ = _codes(_identities_of(paths, identities))
    wanted = np.flatnonzero(codes >= 0) if pairs is None else np.arange(loader.n_rows)
    X, rows = _read_rows(loader, wanted, metric, reporter)
    known = np.flatnonzero(codes[rows] >= 0)
    kinds = _kinds_of_pairs(codes[rows], known)
    for kind, what in zip(kinds, ("one identity", "different identities"), strict=True):
        if not kind.n_pairs:
            raise InputError(
                f"{descriptor} has {len(known):,} readable rows with an identity and among them no two of {what}; "
                f"verification compares pairs of both kinds"
            )
    listed, n_left_out = (None, 0) if pairs is None else _listed(Path(pairs), X, rows, paths, metric)
    found = _verify_all(X, kinds, metric, seed, loader.memory, reporter)
    return DescriptorEvaluation(
        descriptor=str(descriptor),
        metric=metric,
        seed=seed,
        n_rows=len(known),
        n_identities=len(np.unique(codes[rows[known]])),
        n_without_identity=int(np.count_nonzero(codes < 0)),
        n_unreadable=int(np.count_nonzero(codes >= 0)) - len(known),
        n_same_pairs=kinds[0].n_pairs,
        n_different_pairs=kinds[1].n_pairs,
        pairs=found,
        listed=listed,
        n_listed_left_out=n_left_out,
    )


def evaluate_labels(
    source: str | Path,
    identities: str | Path | None = None,
    *,
    model: str | None = None,
    memory: str | int | MemoryBudget | None = None,
    reporter: Reporter | None = None,
) -> LabelEvaluation:
    """Compare a clustering with the identities.

    Parameters
    ----------
    source : path
        A CSV with a column of image paths and one of labels: -1 and ``noise`` (``3.noise`` in a labelled.csv) are
        noise, an empty cell is a row without label. Or the folder of a finished run.
    identities : path, optional
        As in `evaluate_descriptors`.
    model : str, optional
        Of a run, the name or id of a model, by default the best; of a CSV, the column of the labels, by default label
        or cluster, or the only one beside the paths.
    memory, reporter
        As in `FinishedRun`.

    Raises
    ------
    InputError
        If a file, the run or the model cannot be used, or no row has both a label and an identity.
    """
    source = Path(source)
    if source.is_dir():
        paths, labels, names, title = _labels_of_run(source, model, memory, reporter)
    else:
        paths, labels, names, title = _labels_of_csv(source, model)
    codes, people = _codes(_identities_of(paths, identities))
    both = (codes >= 0) & (labels >= _NOISE)
    if not both.any():
        raise InputError(f"{title}: none of {len(paths):,} rows has both a label and an identity; nothing to compare")
    n_unseen = int(np.count_nonzero((codes >= 0) & ~both))
    labels, codes = labels[both], codes[both]
    inside = labels != _NOISE
    mixed = confusions(labels[inside], codes[inside])
    noise_of = np.bincount(codes[~inside], minlength=len(people))
    return LabelEvaluation(
        source=title,
        n_without_identity=len(paths) - len(codes) - n_unseen,
        n_unseen=n_unseen,
        n_noise=int(np.count_nonzero(~inside)),
        all_rows=match(with_single_noise(labels), codes),
        clustered=match(labels[inside], codes[inside]) if inside.any() else None,
        n_mixed=mixed.n_mixed,
        n_split=mixed.n_split,
        merged=_named_merged(mixed, names, people),
        split=[NamedSplit(people[one.identity], *one[1:], int(noise_of[one.identity])) for one in mixed.split],
    )


def _named_merged(mixed: Confusions, names: list[str], people: list[str]) -> list[NamedMerged]:
    return [
        NamedMerged(names[one.cluster], people[one.identity], one.n_rows, people[one.other], one.n_other)
        for one in mixed.merged
    ]


def write_evaluation(found: DescriptorEvaluation | LabelEvaluation, out: str | Path) -> Path:
    """Write evaluation.json and, of descriptors, the ROC curve (roc.png) into a new folder, whole or not at all.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the folder is there and not empty.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise InputError(f"--out {out} {what}; give a new folder, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        content = json.dumps(_for_json(found), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / EVALUATION).write_text(content + "\n", encoding="utf-8")
        if isinstance(found, DescriptorEvaluation):
            (folder / PICTURE).write_bytes(_roc_picture(found))
    return out


# Identities and labels
def _codes(names: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """Return the number of each name, (n,) int64, from 0 in the order of first rows, -1 if empty; and the names."""
    numbers: dict[str, int] = {"": -1}
    codes = [numbers.setdefault(name, len(numbers) - 1) for name in names]
    return np.array(codes, dtype=np.int64), list(numbers)[1:]


def _identities_of(paths: np.ndarray, identities: str | Path | None) -> list[str]:
    """Return the identity of each path, empty if it has none."""
    if identities is None:
        found = [_folder_of(path) for path in paths.tolist()]
        if not any(found):
            raise InputError(
                f"no image lies in a folder that could be its identity, for instance {_first(paths.tolist())}; "
                f"give a CSV with the columns path and identity"
            )
        return found
    table = _Table(Path(identities))
    listed, people = table.column(_PATH_COLUMNS), table.column(("identity",))
    if listed == paths.tolist():  # row by row: an image of several faces may have several identities
        return people
    by_path: dict[str, str] = {}
    for path, one in zip(listed, people, strict=True):
        if by_path.setdefault(_plain(path), one) != one:
            raise InputError(
                f"{table.path} gives {path!r:.200} two identities, {by_path[_plain(path)]!r:.60} and {one!r:.60}; list "
                f"each path once, or all in the order of the rows"
            )
    places = match_paths(paths.tolist(), list(by_path))
    if (places < 0).all():
        raise InputError(
            f"{table.path} lists none of the {len(paths):,} images, for instance {_first(paths.tolist())}, but "
            f"{_first(list(by_path))}; paths match if one ends with the other at a /"
        )
    names = list(by_path.values())
    return [names[at] if at >= 0 else "" for at in places.tolist()]


def _first(paths: list[str]) -> str:
    return f"{paths[0]!r:.200}" if paths else "nothing"


def _folder_of(path: str) -> str:
    return _plain(path).rpartition("/")[0].rpartition("/")[2]


def _plain(path: str) -> str:
    """Write a path with ``/``, and without what it starts from."""
    return "/".join(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


def match_paths(paths: Sequence[str], listed: Sequence[str]) -> np.ndarray:
    """Find each path in a list of different ones.

    They match if they are the same, else if one ends with the other at a ``/``, whichever is longer: so images of one
    name in different folders are different images.

    Returns
    -------
    ndarray (n_paths,) int64
        The place in the list, -1 if it is not there.

    Raises
    ------
    InputError
        If a path that is not in the list fits two of it, or one that another path fits too.
    """
    place = {_plain(path): at for at, path in enumerate(listed)}
    plain = [_plain(path) for path in paths]
    others = dict.fromkeys(path for path in plain if path not in place)
    fits = {path: {place[end] for end in _ends(path) if end in place} for path in others}
    for path, at in place.items() if others else ():
        for end in _ends(path):
            if end in others:
                fits[end].add(at)
    taken = {place[path]: path for path in plain if path in place}
    for path, found in fits.items():
        if len(found) > 1:
            alike = " and ".join(repr(listed[at]) for at in sorted(found)[:2])
            raise InputError(f"{path!r:.200} is ambiguous: {alike:.400} fit it; give longer paths")
        for at in found:
            if (other := taken.setdefault(at, path)) != path:
                raise InputError(
                    f"{listed[at]!r:.200} is ambiguous: {other!r:.200} and {path!r:.200} fit it; give longer paths"
                )
    found_at = place | {path: next(iter(found), -1) for path, found in fits.items()}
    return np.array([found_at[path] for path in plain], dtype=np.int64)


def _ends(path: str) -> Iterator[str]:
    """Yield the ends of a path that start behind a ``/``."""
    start = path.find("/")
    while start >= 0:
        yield path[start + 1 :]
        start = path.find("/", start + 1)


class _Table:
    """A CSV with a header, in UTF-8."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                lines = [row for row in csv.reader(file, strict=True) if row]
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist; give a CSV") from error
        except (UnicodeDecodeError, csv.Error, OSError) as error:
            raise InputError(f"{path} is not a readable CSV in UTF-8: {error}") from error
        self.header = [name.strip() for name in lines[0]] if lines else []
        ragged = next((i for i, row in enumerate(lines) if len(row) != len(self.header)), None)
        if ragged is not None:
            raise InputError(
                f"{path}: row {ragged} has {len(lines[ragged])} columns, the header has {len(self.header)}; quote "
                f"cells that hold commas"
            )
        self.rows = lines[1:]

    def find(self, names: Sequence[str]) -> int | None:
        """Return the place of the first of these columns that there is; case does not matter."""
        header = [name.lower() for name in self.header]
        return next((header.index(name) for name in names if name in header), None)

    def column(self, names: Sequence[str]) -> list[str]:
        """Return the first of these columns that there is."""
        place = self.find(names)
        if place is None:
            raise InputError(
                f"{self.path} has no column {' or '.join(names)}; there are: {', '.join(self.header)[:200] or 'none'}"
            )
        return self.cells(place)

    def cells(self, place: int) -> list[str]:
        return [row[place].strip() for row in self.rows]


def _labels_of_csv(path: Path, name: str | None) -> tuple[np.ndarray, np.ndarray, list[str], str]:
    """Return image paths, labels (-1 noise, -2 none), the names of the clusters and what they are from."""
    table = _Table(path)
    paths = np.array(table.column(_PATH_COLUMNS), dtype=object)
    others = [i for i in range(len(table.header)) if i != table.find(_PATH_COLUMNS)]
    if name is not None:
        if name not in table.header:
            raise unknown("column of labels", name, [table.header[i] for i in others] or ["none"])
        place: int | None = table.header.index(name)
    else:
        place = others[0] if len(others) == 1 else table.find(_LABEL_COLUMNS)
    if place is None:
        raise InputError(
            f"{path} has no column {' or '.join(_LABEL_COLUMNS)}; name one with --model: "
            f"{', '.join(table.header[i] for i in others)[:400] or 'there is none beside the paths'}"
        )
    cells = table.cells(place)
    labels, names = _codes("" if _is_noise(cell) else cell for cell in cells)
    labels[[cell == "" for cell in cells]] = UNSEEN
    return paths, labels, names, f"{path}, column {table.header[place]}"


def _is_noise(cell: str) -> bool:
    return cell in ("-1", "-1.0", "noise") or cell.endswith(".noise")


def _labels_of_run(
    folder: Path, name: str | None, memory: str | int | MemoryBudget | None, reporter: Reporter | None
) -> tuple[np.ndarray, np.ndarray, list[str], str]:
    """Return the same of a model of a finished run."""
    from toolkit.grid.finished import FinishedRun

    run = FinishedRun(folder, memory=memory, reporter=reporter)
    model = run.model(name)
    labels = run.all_labels(model).astype(np.int64)
    return run.image_paths, labels, [str(label) for label in range(int(labels.max(initial=-1)) + 1)], model.name


# Distances of pairs
class _Pairs(NamedTuple):
    """All pairs of one kind, numbered: row i of a matrix and each of those at `order[first[i] : first[i] + counts[i]]`.

    Attributes
    ----------
    order : ndarray (n_rows,) int64
        Rows of the matrix, those of one identity in a stretch.
    first : ndarray (n_rows,) int64
        Of the row at each place, the place of the first partner.
    offsets : ndarray (n_rows + 1,) int64
        The number of the first pair of the row at each place.
    """

    order: np.ndarray
    first: np.ndarray
    offsets: np.ndarray

    @property
    def n_pairs(self) -> int:
        return int(self.offsets[-1])

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both rows of pairs, given by their numbers, (n,) int64 each."""
        place = np.searchsorted(self.offsets, numbers, side="right") - 1
        return self.order[place], self.order[self.first[place] + numbers - self.offsets[place]]


def _kinds_of_pairs(codes: np.ndarray, known: np.ndarray) -> tuple[_Pairs, _Pairs]:
    """Return the pairs of one identity and of different ones among the `known` rows of `codes`, each pair once."""
    order = known[np.argsort(codes[known], kind="stable")]
    places = np.arange(len(order))
    end = np.searchsorted(codes[order], codes[order], side="right")
    return tuple(  # type: ignore[return-value]
        _Pairs(order, first, np.concatenate([[0], np.cumsum(last - first)]))
        for first, last in ((places + 1, end), (end, np.full(len(order), len(order))))
    )


def _read_rows(loader: DataLoader, rows: np.ndarray, metric: str, reporter: Reporter) -> tuple[np.ndarray, np.ndarray]:
    """Return those of some rows that can be compared, float32 or float64 (cosine: of length 1), and their numbers."""
    name = loader.names[0]
    file = loader.open(name)
    dtype = np.float64 if metric == "cosine" else np.result_type(file.dtype, np.float32)
    n_bytes = len(rows) * file.n_features * np.dtype(dtype).itemsize
    loader.memory.require(n_bytes, f"{len(rows):,} rows of {file.path}, which are compared with each other,")
    X, kept, n_read, n_kept = np.empty((len(rows), file.n_features), dtype), np.zeros(len(rows), bool), 0, 0
    for block in reporter.watch(f"{name}: reading", loader.blocks(name, rows=rows), len, len(rows)):
        good = np.isfinite(block).all(axis=1)
        values = block[good].astype(dtype)
        if metric == "cosine":
            lengths = np.linalg.norm(values, axis=1)
            good[good] = lengths > 0
            values = values[lengths > 0] / lengths[lengths > 0, None]
        kept[n_read : n_read + len(block)] = good
        X[n_kept : n_kept + len(values)] = values
        n_read, n_kept = n_read + len(block), n_kept + len(values)
    return X[:n_kept], rows[kept]


def _verify_all(
    X: np.ndarray, kinds: tuple[_Pairs, _Pairs], metric: str, seed: int, memory: MemoryBudget, reporter: Reporter
) -> Verification:
    """Judge the distances of all pairs of two kinds, or of a random sample of each."""
    n_measured = [kind.n_pairs for kind in kinds]
    if sum(n_measured) > _MOST_PAIRS:
        n_measured = [min(n, _SAMPLE) for n in n_measured]
    memory.require(24 * sum(n_measured), f"the distances of {sum(n_measured):,} pairs")
    generator = np.random.default_rng(seed)
    same, different = (
        _measure(X, kind, n, metric, generator, reporter) for kind, n in zip(kinds, n_measured, strict=True)
    )
    return verification(same, different, generator)


def _measure(
    X: np.ndarray, kind: _Pairs, n_measured: int, metric: str, generator: np.random.Generator, reporter: Reporter
) -> np.ndarray:
    """Return the distances of all pairs of a kind, or of random ones with replacement, (n_measured,) float64."""
    chosen = None
    if n_measured < kind.n_pairs:
        chosen = np.sort(generator.integers(0, kind.n_pairs, n_measured))  # ascending: one row after the other
    found = np.empty(n_measured)

    def measure(start: int) -> int:
        stop = min(start + _BLOCK_PAIRS, n_measured)
        numbers = np.arange(start, stop) if chosen is None else chosen[start:stop]
        found[start:stop] = _distances(X, *kind.rows(numbers), metric)
        return stop - start

    workers = n_threads() if n_measured > _BLOCK_PAIRS else 0
    done = ordered_map(measure, range(0, n_measured, _BLOCK_PAIRS), workers=workers)
    for _ in reporter.watch(f"distances of {n_measured:,} pairs", done, float, n_measured):
        pass
    return found


def _distances(X: np.ndarray, first: np.ndarray, second: np.ndarray, metric: str) -> np.ndarray:
    squares = _squared_distances(X, first, second)
    return np.asarray(
        squares / 2 if metric == "cosine" else np.sqrt(squares)
    )  # of rows of length 1, |x - y|^2 = 2 - 2 cos


@njit(nogil=True, cache=True)
def _squared_distances(X, first, second):  # type: ignore[no-untyped-def]
    found = np.empty(len(first))
    for pair in range(len(first)):
        found[pair] = squared_distance(X, first[pair], X, second[pair])
    return found


def _listed(path: Path, X: np.ndarray, rows: np.ndarray, paths: np.ndarray, metric: str) -> tuple[Verification, int]:
    """Judge the pairs of a file; return also how many were left out. `rows` says which row of the file each of X is."""
    table = _Table(path)
    cells = [table.column((f"row_{side}", f"path_{side}")) for side in (1, 2)]
    if table.find(("row_1",)) is not None:
        sides = [_row_numbers(path, side, len(paths)) for side in cells]
    else:
        sides = [_rows_of(path, side, paths) for side in cells]
    is_same = _truths(path, table.column(("same",)))
    place = np.full(len(paths) + 1, -1)  # the last is that of images without a row
    place[rows] = np.arange(len(rows))
    first, second = (place[side] for side in sides)
    there = (first >= 0) & (second >= 0)
    distances = _distances(X, first[there], second[there], metric)
    same, different = distances[is_same[there]], distances[~is_same[there]]
    if not len(same) or not len(different):
        raise InputError(
            f"{path} has {len(same):,} pairs that are the same and {len(different):,} that are not, of readable rows; "
            f"at least one of each is needed"
        )
    return verification(same, different), int(np.count_nonzero(~there))


def _row_numbers(path: Path, cells: list[str], n_rows: int) -> np.ndarray:
    wrong = next((cell for cell in cells if not cell.isdecimal() or int(cell) >= n_rows), None)
    if wrong is not None:
        raise InputError(f"{path} names row {wrong!r:.40}; allowed: 0 to {n_rows - 1}")
    return np.array([int(cell) for cell in cells], dtype=np.int64)


def _rows_of(path: Path, cells: list[str], paths: np.ndarray) -> np.ndarray:
    """Return the row of each image, -1 where there is none."""
    rows: dict[str, int] = {}
    twice: set[str] = set()
    for row, name in enumerate(paths.tolist()):
        if rows.setdefault(name, row) != row:
            twice.add(name)
    names = list(rows)
    places = match_paths(cells, names)
    unclear = next((names[at] for at in places.tolist() if at >= 0 and names[at] in twice), None)
    if unclear is not None:
        raise InputError(f"{path} names {unclear!r:.200}, an image of several rows; name rows by row_1 and row_2")
    return np.array([rows[names[at]] if at >= 0 else -1 for at in places.tolist()], dtype=np.int64)


def _truths(path: Path, cells: list[str]) -> np.ndarray:
    wrong = next((cell for cell in cells if cell.lower() not in _YES + _NO), None)
    if wrong is not None:
        raise InputError(f"{path}: same is {wrong!r:.40}; allowed: {' '.join(_YES)} or {' '.join(_NO)}")
    return np.array([cell.lower() in _YES for cell in cells], dtype=bool)


# What is written
def _for_json(value: Any) -> Any:
    """Return what JSON can write: NaN as null, tuples with names and dataclasses as objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {field.name: _for_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        extra = "coverage" if isinstance(value, LabelEvaluation) else "sampling"
        return found | {extra: getattr(value, extra)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _for_json(one) for name, one in value._asdict().items()}
    if isinstance(value, list | np.ndarray):
        return [_for_json(one) for one in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _roc_picture(found: DescriptorEvaluation) -> bytes:
    """Draw TAR over FAR, on a logarithmic scale, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    curves = [("all pairs" if found.listed is not None else "", found.pairs), ("listed pairs", found.listed)]
    for name, one in curves:
        if one is not None:
            label = f"{name} AUC {one.auc:.4f}, equal error rate {one.equal_error_rate:.4f}".strip()
            axes.plot(one.curve_far, one.curve_tar, drawstyle="steps-post", label=label)
    axes.axvline(FALSE_ACCEPTANCE, color="0.75", linewidth=1)
    axes.set_xscale("log")
    axes.set(xlabel="false acceptance rate", ylabel="true acceptance rate", ylim=(0, 1.02))
    axes.set_title(f"{Path(found.descriptor).name}: {found.n_identities:,} identities, {found.metric} distance")
    axes.legend(loc="lower right")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return content.getvalue()
