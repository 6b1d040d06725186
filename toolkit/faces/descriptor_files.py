"""The files of a descriptor: rows, paths, what failed, what is there twice, and the older table."""

from __future__ import annotations

import csv as csv_format
import io
import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from toolkit.atomic import atomic_file, write_text
from toolkit.descriptors.cache import write_npy_header
from toolkit.descriptors.formats import open_npy
from toolkit.descriptors.loader import read_paths
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from toolkit.images.chunks import Chunks
    from toolkit.memory import MemoryBudget

PATHS_FILE, DUPLICATES_FILE = "images_paths.csv", "duplicate_files.csv"
_CSV_ROWS = 256  # at a time


class Counts(NamedTuple):
    """What was counted while the files were written.

    Attributes
    ----------
    n_failed, n_duplicates : int
        Rows of NaN; images whose file has the bytes of an earlier one.
    by_pillow : dict of str to int
        Images that DALI left to Pillow, by why.
    """

    n_failed: int
    n_duplicates: int
    by_pillow: dict[str, int]


def quarantine(descriptor: Path) -> Path:
    """Return the table of the images without a descriptor."""
    return descriptor.parent / f"quarantine_{descriptor.stem}.csv"


def write_paths(out: Path, names: list[str]) -> None:
    """Write which images the rows of a folder are, or compare.

    Raises
    ------
    InputError
        If its rows are other images.
    """
    listed = out / PATHS_FILE
    if not listed.exists():
        _write_table(listed, ("path",), ([name] for name in names))
    elif read_paths(listed).tolist() != names:
        raise InputError(
            f"{listed} lists other images than the {len(names):,} given; descriptors in one folder are of the same "
            f"images: give another folder"
        )


def write_descriptor(
    descriptor: Path, chunks: Chunks, names: list[str], dimensions: int, *, finish: Callable[[Counts], None]
) -> None:
    """Write the rows of all chunks, and the tables beside them.

    Parameters
    ----------
    descriptor : Path
        ``.npy``; it appears last, so that what is there is finished.
    chunks : Chunks
        With lines as `toolkit.faces.loaders.Line`.
    names : list of str
        Of the images.
    dimensions : int
    finish : callable
        Is given what was counted, when all else is written.
    """
    digests: list[str] = []
    failed: list[tuple[str, str]] = []
    by_pillow: Counter[str] = Counter()
    with atomic_file(descriptor) as file:
        write_npy_header(file, (len(names), dimensions), np.dtype("<f4"))
        for part in chunks.parts():
            assert part.array is not None  # noqa: S101 (for the type checker: the worker gives one)
            file.write(part.array.astype("<f4", copy=False).tobytes())
            for line in part.lines:
                if line["reason"]:
                    failed.append((names[len(digests)], line["reason"]))
                if line["by_pillow"]:
                    by_pillow[line["by_pillow"]] += 1
                digests.append(line["digest"])
        copies = _copies(names, digests)
        _write_list(quarantine(descriptor), ("path", "reason"), failed)
        _write_list(descriptor.parent / DUPLICATES_FILE, ("path", "same_as"), copies)
        finish(Counts(len(failed), len(copies), dict(sorted(by_pillow.items()))))


def write_features(csv: Path, descriptor: Path, names: list[str], budget: MemoryBudget) -> None:
    """Write ``filename,features`` without the images that have no descriptor, a block of rows at a time."""
    csv.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(csv) as file:
        file.write(b"filename,features\n")
        start = 0
        for window in open_npy(descriptor, budget).windows(_CSV_ROWS):
            text = io.StringIO()
            writer = csv_format.writer(text, lineterminator="\n")
            named = zip(names[start : start + len(window)], window.tolist(), strict=True)
            writer.writerows((path, ",".join(map(str, row))) for path, row in named if not math.isnan(row[0]))
            file.write(text.getvalue().encode())
            start += len(window)


def _copies(paths: Sequence[str], digests: Sequence[str]) -> list[tuple[str, str]]:
    """Return (path, the first path whose file has the same bytes)."""
    first: dict[str, str] = {}
    pairs = [(path, first.setdefault(name, path)) for path, name in zip(paths, digests, strict=True) if name]
    return [(path, same) for path, same in pairs if path != same]


def _write_list(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table if there is anything to write; without, an earlier one goes."""
    if rows:
        _write_table(path, header, rows)
    else:
        path.unlink(missing_ok=True)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv_format.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
