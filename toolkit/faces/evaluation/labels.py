"""Clusters judged by their contingency table with the identities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from toolkit.cluster.labelling import NOISE, UNSEEN
from toolkit.errors import InputError, unknown
from toolkit.faces.evaluation.identities import identities_of, number_names
from toolkit.faces.evaluation.tables import PATH_COLUMNS, Table, aligned, left_out_text, number
from toolkit.score.truth import Confusions, Match, confusions, match, with_single_noise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

_LABEL_COLUMNS = ("label", "cluster", "class")
_SHOWN = 5  # confusions in the text; the JSON has all that were listed
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
        rows += [(name, [number(getattr(one, field)) for one in columns.values()]) for name, field in _MEASURES]
        left_out = [(self.n_without_identity, "rows without identity"), (self.n_unseen, "rows without label")]
        lines = [
            f"{self.source}: {n_clusters:,} clusters, {self.all_rows.n_identities:,} identities, coverage "
            f"{self.coverage:.1%}{left_out_text(left_out)}",
            *aligned(rows),
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
        Of a run, the name or id of a model, by default the best; of a CSV, the column of the labels, by default
        label, cluster or class, or the only one beside the paths.
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
    codes, people = number_names(identities_of(paths, identities))
    both = (codes >= 0) & (labels >= NOISE)
    if not both.any():
        raise InputError(f"{title}: none of {len(paths):,} rows has both a label and an identity; nothing to compare")
    n_unseen = int(np.count_nonzero((codes >= 0) & ~both))
    labels, codes = labels[both], codes[both]
    inside = labels != NOISE
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


def _labels_of_csv(path: Path, name: str | None) -> tuple[np.ndarray, np.ndarray, list[str], str]:
    """Return image paths, labels (-1 noise, -2 none), the names of the clusters and what they are from."""
    table = Table(path)
    paths = np.array(table.column(PATH_COLUMNS), dtype=object)
    others = [i for i in range(len(table.header)) if i != table.find(PATH_COLUMNS)]
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
    labels, names = number_names("" if _is_noise(cell) else cell for cell in cells)
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
