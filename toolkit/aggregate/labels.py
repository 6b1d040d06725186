"""The class of each image: from a finished run, from the tables that it or a person wrote, or from any CSV."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.aggregate.texts import plain_text
from toolkit.errors import InputError, unknown
from toolkit.naming import LABELLED, NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

PATH_COLUMNS = ("image_path", "image_name", "path", "filename", "file", "image")
_LABEL_COLUMNS = ("class", "cluster", "label", "labels")
_RUN_RECORD = "run.json"
_NAMED_COLUMN, _NAME_COLUMN = "cluster", "name"  # of a labelled.csv
_LEAST_ALONE = 20  # images from which classes of one image each say that they are none
_NOISE = re.compile(r"-1(\.0*)?|(.*\.)?noise")
_WHOLE = re.compile(r"(-?\d+)(\.0*)?")  # pandas writes 3.0 where a column has empty cells


@dataclass(frozen=True)
class Labels:
    """Images and the class of each; every image is there once.

    Attributes
    ----------
    paths : ndarray (n_images,) of str
    classes : ndarray (n_images,) int64
        Numbers of classes, as in `names`; each has at least one image.
    names : tuple of str
        Of the classes: labels as they were written, in the order of their numbers, or names, in that of the alphabet.
    source : str
        What the labels are, for people.
    n_noise, n_unlabelled : int
        Images that are left out: noise, and those without a label.
    run : Path or None
        Folder of the run from which they come.
    model : str or None
        Id of the model of that run, where they are not read from a table.
    is_named : bool
        Whether the clusters of that model have the names that its run gives them, rather than their labels.
    """

    paths: np.ndarray
    classes: np.ndarray
    names: tuple[str, ...]
    source: str
    n_noise: int = 0
    n_unlabelled: int = 0
    run: Path | None = None
    model: str | None = None
    is_named: bool = False

    @property
    def sizes(self) -> np.ndarray:
        """Images of each class, (n_classes,) int64."""
        return np.bincount(self.classes, minlength=len(self.names))

    @property
    def text(self) -> str:
        """For a person, one line."""
        left_out = [
            f"{count:,} {what}" for count, what in ((self.n_noise, "noise"), (self.n_unlabelled, "unlabelled")) if count
        ]
        sizes = ", ".join(
            f"{plain_text(name)}: {size:,}" for name, size in zip(self.names[:20], self.sizes.tolist(), strict=False)
        )
        more = f" and {len(self.names) - 20} more" if len(self.names) > 20 else ""
        text = f"{self.source}: {len(self.paths):,} images in {len(self.names)} classes ({sizes}{more})"
        return f"{text}; left out: {', '.join(left_out)}" if left_out else text

    def keep(self, rows: np.ndarray) -> Labels:
        """Return these images only, given by ascending row; classes without an image go."""
        there, classes = np.unique(self.classes[rows], return_inverse=True)
        names = tuple(self.names[number] for number in there.tolist())
        return replace(self, paths=self.paths[rows], classes=classes.astype(np.int64), names=names)


def read_labels(
    source: str | Path,
    *,
    model: str | None = None,
    memory: str | int | MemoryBudget | None = None,
    reporter: Reporter | None = None,
) -> Labels:
    """Read which class each image has.

    Parameters
    ----------
    source : path
        The folder of a finished run; its ``names.csv``, by which clusters of one name are one class; its
        ``best_clusterization.csv`` or ``labelled.csv``; or another CSV with a header, a column of image paths
        (image_path, image_name, path, filename, file or image) and one of labels.
    model : str, optional
        Of a run, name or id of a model; by default the best, or the one that ``names.csv`` is for. Of a CSV, the column
        of the labels; by default class, cluster, label or labels, else the first beside the paths.
    memory, reporter
        As in `FinishedRun`.

    Returns
    -------
    Labels
        Noise (-1, or ``noise`` as in ``3.noise``) and images without a label are left out and counted. In a
        ``labelled.csv`` the class is the name, or the cluster where it has none.

    Raises
    ------
    InputError
        If the file or the run cannot be used, an image has two different labels, there is no label at all, or, of 20
        images of a CSV or more, most are classes of their own.
    """
    source = Path(source)
    if source.is_dir():
        return _of_run(source, model, memory, reporter, named=False)
    if source.name == NAMES and (source.parent / _RUN_RECORD).is_file():
        return _of_run(source.parent, model, memory, reporter, named=True)
    labels = _labels(*_of_csv(source, model))
    _refuse_values(labels)
    return replace(labels, run=source.parent) if (source.parent / _RUN_RECORD).is_file() else labels


def _labels(paths: Sequence[str], cells: Sequence[str], title: str) -> Labels:
    """Leave out what is without class, and number the classes."""
    plain = [_plain(cell) for cell in cells]
    seen: dict[str, str] = {}
    for path, cell in zip(paths, plain, strict=True):
        if (before := seen.setdefault(path, cell)) != cell:
            raise InputError(f"{title}: image {path!r:.200} has the labels {before!r:.40} and {cell!r:.40}; keep one")
    n_noise = sum(_NOISE.fullmatch(cell) is not None for cell in seen.values())
    labelled = {path: cell for path, cell in seen.items() if cell and not _NOISE.fullmatch(cell)}
    if not labelled:
        raise InputError(f"{title} has no label but noise for any of {len(seen):,} images; give other labels")
    names = tuple(sorted(set(labelled.values()), key=_order))
    number = {name: i for i, name in enumerate(names)}
    return Labels(
        np.array(list(labelled), dtype=np.str_),
        np.array([number[cell] for cell in labelled.values()], dtype=np.int64),
        names,
        title,
        n_noise,
        len(seen) - n_noise - len(labelled),
    )


def _refuse_values(labels: Labels) -> None:
    """Refuse a column of something else, as vectors and numbers are, of which nearly each is there once."""
    n_images, n_alone = len(labels.paths), int((labels.sizes == 1).sum())
    if n_images >= _LEAST_ALONE and n_alone > n_images / 2:
        raise InputError(
            f"{labels.source} has {len(labels.names):,} different values for {n_images:,} images, for instance "
            f"{plain_text(labels.names[0])!r}; it holds no clusters; give labels such as cluster_results.csv, or "
            f"another column with --model"
        )


def _plain(cell: str) -> str:
    """Write a label as everywhere: 3.0 as 3, and without the apostrophe that keeps a spreadsheet from calculating."""
    cell = cell.strip()
    if whole := _WHOLE.fullmatch(cell):
        return str(int(whole[1]))
    return cell[1:] if cell[:2] in ("'=", "'+", "'-", "'@") else cell


def _order(name: str) -> tuple[int, int, str]:
    """Order numbers by their value, before names."""
    return (0, int(name), "") if _WHOLE.fullmatch(name) else (1, 0, name)


# A finished run
def _of_run(
    folder: Path,
    name: str | None,
    memory: str | int | MemoryBudget | None,
    reporter: Reporter | None,
    *,
    named: bool,
) -> Labels:
    """Return the labels of a model, or the names of its clusters; UNSEEN rows are without."""
    from toolkit.grid.finished import FinishedRun
    from toolkit.naming import all_names

    run = FinishedRun(folder, memory=memory, reporter=reporter)
    if run.loader.image_paths is None:
        raise InputError(f"the run in {folder} has no image paths; run again with descriptors.image_paths")
    found = all_names(run) if named else {}
    if named and name is None and len(found) != 1:
        listed = ", ".join(one.name for one in found) or "none that the run has"
        raise InputError(f"{folder / NAMES} is for {len(found)} models: {listed}; choose one with --model")
    model = next(iter(found)) if named and name is None else run.model(name)
    if named and model not in found:
        raise InputError(f"{folder / NAMES} names no cluster of {model.name}; add rows with that model")
    if named and found[model].split:
        raise InputError(f"{folder / NAMES} splits clusters of {model.name}; give {folder / LABELLED}, which has them")
    names = found[model].names if named else {}
    text = {label: names.get(label, str(label)) for label in np.unique(run.labels(model)).tolist()}
    cells = [text.get(label, "") for label in run.all_labels(model).tolist()]
    labels = _labels(run.image_paths.tolist(), cells, f"{model.name} of {folder}")
    return replace(labels, run=folder, model=model.id, is_named=named)


# A table
def _of_csv(path: Path, column: str | None) -> tuple[list[str], list[str], str]:
    header, rows = _read(path)
    lower = [name.lower() for name in header]
    place = _first_of(PATH_COLUMNS, lower)
    if place is None:
        raise InputError(
            f"labels {path} have no column of images ({', '.join(PATH_COLUMNS)}); there are: "
            f"{', '.join(header)[:200] or 'none'}"
        )
    others = [i for i in range(len(header)) if i != place]
    if not others:
        raise InputError(f"labels {path} have no column beside the images; add one called class")
    if column is not None:
        if column not in header:
            raise unknown("column of labels", column, [header[i] for i in others])
        return [row[place] for row in rows], [row[header.index(column)] for row in rows], f"{path}, column {column}"
    label = _first_of(_LABEL_COLUMNS, lower)
    label = others[0] if label is None else label
    paths, cells = [row[place] for row in rows], [row[label] for row in rows]
    name = _first_of((_NAME_COLUMN,), lower)
    if name is None or lower[label] != _NAMED_COLUMN:
        return paths, cells, f"{path}, column {header[label]}"
    return paths, [_name_or(row[name], row[label]) for row in rows], f"{path}, column {header[name]}"


def _name_or(name: str, cluster: str) -> str:
    """Return the name of a cluster; noise stays noise, whatever it is called."""
    return cluster if not name.strip() or _NOISE.fullmatch(cluster.strip()) else name


def _first_of(names: Iterable[str], header: list[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a CSV; they have equally many cells."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [row for row in csv.reader(file, strict=True) if row]
    except FileNotFoundError as error:
        raise InputError(
            f"labels {path} do not exist; give the folder of a run, its best_clusterization.csv, or a CSV "
            f"image_name,class"
        ) from error
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"labels {path} are not a readable CSV in UTF-8: {error}") from error
    header = [name.strip() for name in lines[0]] if lines else []
    if len(header) == 1 and ";" in header[0]:
        raise InputError(f"labels {path} are separated by semicolons; save them as CSV separated by commas")
    for number, row in enumerate(lines[1:], 2):
        if len(row) != len(header):
            raise InputError(f"labels {path}: row {number} has {len(row)} cells, the header has {len(header)}")
    return header, lines[1:]
