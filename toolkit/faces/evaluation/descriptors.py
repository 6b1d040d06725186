"""Descriptors judged by the distances of pairs of rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.descriptors.loader import DataLoader, OneFile
from toolkit.errors import InputError, unknown
from toolkit.faces.evaluation.identities import identities_of, number_names
from toolkit.faces.evaluation.pairs import kinds_of_pairs, verify_all, verify_listed
from toolkit.faces.evaluation.tables import aligned, left_out_text, number
from toolkit.memory import MemoryBudget
from toolkit.progress import Reporter
from toolkit.score.truth import FALSE_ACCEPTANCE

if TYPE_CHECKING:
    from toolkit.score.truth import Verification

METRICS = ("euclidean", "cosine")


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
            ("area under ROC", [number(one.auc) for one in columns.values()]),
            ("equal error rate", [number(one.equal_error_rate) for one in columns.values()]),
            (f"TAR at FAR {far}", [number(one.tar) for one in columns.values()]),
            ("accuracy over folds", [number(one.accuracy) for one in columns.values()]),
            ("  its deviation", [number(one.accuracy_std) for one in columns.values()]),
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
                + left_out_text(left_out),
                f"measured: {self.sampling}",
                *aligned(rows),
            ]
        )


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
    codes, _ = number_names(identities_of(paths, identities))
    wanted = np.flatnonzero(codes >= 0) if pairs is None else np.arange(loader.n_rows)
    X, rows = _read_rows(loader, wanted, metric, reporter)
    known = np.flatnonzero(codes[rows] >= 0)
    kinds = kinds_of_pairs(codes[rows], known)
    for kind, what in zip(kinds, ("one identity", "different identities"), strict=True):
        if not kind.n_pairs:
            raise InputError(
                f"{descriptor} has {len(known):,} readable rows with an identity and among them no two of {what}; "
                f"verification compares pairs of both kinds"
            )
    listed, n_left_out = (None, 0) if pairs is None else verify_listed(Path(pairs), X, rows, paths, metric)
    found = verify_all(X, kinds, metric, seed, loader.memory, reporter)
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
