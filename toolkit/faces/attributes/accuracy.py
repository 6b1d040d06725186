"""How well attributes are told: counts of right and wrong answers, and the tables made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from toolkit.atomic import atomic_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Counts:
    """Right and wrong answers of each attribute.

    Parameters
    ----------
    n_attributes : int

    Attributes
    ----------
    table : ndarray (2, 2, n_attributes) of int64
        Has it (0, 1), was said to have it (0, 1).
    """

    def __init__(self, n_attributes: int) -> None:
        self.table = np.zeros((2, 2, n_attributes), np.int64)

    def add(self, labels: np.ndarray, said: np.ndarray) -> None:
        """Count images.

        Parameters
        ----------
        labels : ndarray (n_images, n_attributes) of int8
            1, -1, 0: not known, and not counted.
        said : ndarray (n_images, n_attributes) of bool
        """
        for has, label in enumerate((-1, 1)):
            is_it = labels == label
            self.table[has, 0] += (is_it & ~said).sum(axis=0)
            self.table[has, 1] += (is_it & said).sum(axis=0)

    @property
    def accuracy(self) -> float:
        """Share of right answers, over all attributes; NaN without any."""
        n_labels = self.table.sum()
        return float((self.table[0, 0] + self.table[1, 1]).sum() / n_labels) if n_labels else float("nan")


def accuracy_table(part: str, names: Sequence[str], counts: Counts) -> pd.DataFrame:
    """Return a line for each attribute.

    Returns
    -------
    DataFrame
        ``part``, ``attribute``, ``n`` (images whose label is known), ``positive_rate`` (share of them that have it),
        ``accuracy``, ``balanced_accuracy`` (mean of the shares of right answers where it is there and where it is
        not; missing if one of these does not occur), ``majority_accuracy`` (of always saying what is more frequent).
    """
    table = counts.table.astype(float)
    n_each = table.sum(axis=1)  # has it not, has it
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = n_each[1] / n_each.sum(axis=0)
        right = np.stack([table[0, 0], table[1, 1]])
        return pd.DataFrame(
            {
                "part": part,
                "attribute": list(names),
                "n": n_each.sum(axis=0).astype(np.int64),
                "positive_rate": rate,
                "accuracy": right.sum(axis=0) / n_each.sum(axis=0),
                "balanced_accuracy": (right / n_each).mean(axis=0),
                "majority_accuracy": np.maximum(rate, 1 - rate),
            }
        )


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, whole or not at all."""
    with atomic_file(path) as file:
        table.to_csv(file, index=False, lineterminator="\n", float_format="%.6g")
