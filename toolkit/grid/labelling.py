"""What a run ends with: the labels of its finalists, their images, and what was left out."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from toolkit.atomic import atomic_file, write_text
from toolkit.descriptors.cache import write_npy_header

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from toolkit.descriptors.keeper import Reduced, Sample

CENTRES, TRAIN_ASSIGNMENTS = "cluster_centers.npy", "train_assignments.json"


def write_best(path: Path, image_paths: np.ndarray, labellings: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the image path and one label column per finalist.

    Parameters
    ----------
    path : Path
    image_paths : ndarray (n_rows,) of str
    labellings : dict
        Name of a model -> (rows that it has seen, their labels); the others are empty.
    """
    table = pd.DataFrame({"image_path": image_paths})
    for name, (rows, found) in labellings.items():
        labels = pd.array([pd.NA] * len(table), dtype="Int64")
        labels[rows] = found
        table[name] = labels
    with atomic_file(path) as file:
        table.to_csv(file, index=False, lineterminator="\n")


def write_quarantine(path: Path, image_paths: np.ndarray, reduced: dict[Sample, Reduced]) -> None:
    """List the rows that no model has seen because they are not finite; nothing if there are none."""
    bad = {(sample.descriptor, int(row)) for sample, one in reduced.items() for row in one.bad_rows}
    rows = [(name, row, image_paths[row], "NaN or inf") for name, row in sorted(bad)]
    if rows:
        with atomic_file(path) as file:
            pd.DataFrame(rows, columns=["descriptor", "row", "image_path", "reason"]).to_csv(file, index=False)


def write_centres(path: Path, centres: np.ndarray) -> None:
    """Write centres, (n_clusters, n_components) float64, as .npy."""
    with atomic_file(path) as file:
        write_npy_header(file, centres.shape, centres.dtype)
        file.write(np.ascontiguousarray(centres).data)


def write_assignments(path: Path, image_paths: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> None:
    """Write ``{image path: cluster}`` of some rows, ascending, as JSON; -1 is noise. See `row_keys` for the paths."""
    keys = row_keys(image_paths)
    found = {keys[row]: int(label) for row, label in zip(rows.tolist(), labels, strict=True)}
    write_text(path, json.dumps(found, indent=0, ensure_ascii=False) + "\n")


def row_keys(image_paths: Iterable[str]) -> list[str]:
    """Return a name for each row: its image path, and ``PATH#ROW`` for each row of a path that occurs twice.

    Where there are no paths, they are row numbers already.
    """
    keys = [str(path) for path in image_paths]
    while len(set(keys)) < len(keys):
        counts = Counter(keys)
        keys = [f"{key}#{row}" if counts[key] > 1 else key for row, key in enumerate(keys)]
    return keys
