"""The images of a training: those that are listed, labelled, assigned to a part and readable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from toolkit.errors import InputError
from toolkit.faces.attributes.accuracy import write_table
from toolkit.faces.attributes.celeba import PARTS, Attributes, read_attributes, read_partition

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

QUARANTINE = "quarantine.csv"


@dataclass(frozen=True)
class Listed:
    """What the lists say together.

    Attributes
    ----------
    attributes : Attributes
        The selected ones, of the images that have a part.
    part : ndarray (n_images,) of int8
        Number in `PARTS`.
    unassigned : list of (str, str)
        Images that one of the lists lacks, and the reason.
    """

    attributes: Attributes
    part: np.ndarray
    unassigned: list[tuple[str, str]]


def read_lists(attributes: Path, partition: Path, names: Sequence[str], without: Sequence[str]) -> Listed:
    """Read both lists; see `read_attributes`, `Attributes.select` and `read_partition`."""
    listed, parts = read_attributes(attributes), read_partition(partition)
    selected = listed.select(names, without)
    part = np.array([parts.get(path, -1) for path in listed.paths.tolist()], np.int8)
    known = set(listed.paths.tolist())
    unassigned = [(str(path), f"has no line in {partition.name}") for path in listed.paths[part < 0]]
    unassigned += [(path, f"has no line in {attributes.name}") for path in parts if path not in known]
    there = part >= 0
    kept = Attributes(selected.paths[there], selected.names, selected.labels[there])
    return Listed(kept, part[there], unassigned)


def usable_rows(listed: Listed, failed: list[tuple[int, str]], out: Path) -> list[np.ndarray]:
    """Return the rows of each part whose image can be read, and list the others in ``quarantine.csv``.

    Raises
    ------
    InputError
        If there are fewer than two images for training, or none for validation, or none of their labels is known.
    """
    paths = listed.attributes.paths
    quarantined = [(str(paths[row]), reason) for row, reason in failed] + listed.unassigned
    if quarantined:
        write_table(pd.DataFrame(quarantined, columns=["image_path", "reason"]), out / QUARANTINE)
    else:
        (out / QUARANTINE).unlink(missing_ok=True)
    is_there = np.ones(len(paths), bool)
    is_there[[row for row, _ in failed]] = False
    rows = [np.flatnonzero((listed.part == number) & is_there) for number in range(len(PARTS))]
    found = ", ".join(f"{len(of_part):,} for {part}" for part, of_part in zip(PARTS, rows, strict=True))
    if len(rows[0]) < 2 or not len(rows[1]):
        why = f"; {len(quarantined):,} are left out, see {out / QUARANTINE}" if quarantined else ""
        raise InputError(
            f"images that can be used: {found}{why}; needed: 2 for training (0 in the partition), 1 for validation (1)"
        )
    for part, of_part in zip(PARTS[:2], rows, strict=False):
        if not listed.attributes.labels[of_part].any():
            raise InputError(f"no label of the images for {part} is known; needed: 1 or -1 for some of them")
    return rows
