"""Which images a job works on: those of a folder, a zip archive, a list, or a folder of detected faces."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.descriptors.cache import digest
from toolkit.descriptors.loader import check_path, read_paths
from toolkit.errors import InputError, one_line
from toolkit.faces.align import DLIB_5
from toolkit.faces.models import CHIP_MARGIN
from toolkit.images.source import ImageError, ImageSource, open_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from toolkit.progress import Reporter

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
FACES, FACES_RECORD = "faces.csv", "faces.json"  # of a folder of detected faces, see `toolkit.faces.crops`
_CROP, _ALIGNED = "crop", "aligned"  # columns
_OF_PROGRAMS = ("__MACOSX",)  # what macOS adds to archives
_TOLD = 5  # kinds of files


@dataclass(frozen=True)
class Images:
    """Images in the order of the rows; it can be sent to another process.

    Attributes
    ----------
    paths : ndarray (n_images,) of str
        Below the folder, in the archive, or as a CSV has them.
    where, folders : Path or None, tuple of Path
        Where they are, see `toolkit.images.source.open_images`.
    is_aligned : ndarray (n_images,) of bool
        Whether the image is a face as dlib's network takes it, if its size is right.
    are_faces : bool
        Whether they are known to be faces.
    passed_over : dict of str to int
        Files beside them whose names do not end as those of images: how many of each ending.
    """

    paths: np.ndarray
    where: Path | None
    folders: tuple[Path, ...]
    is_aligned: np.ndarray
    are_faces: bool = False
    passed_over: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The paths as tables can hold them: with escapes where `read_image` refuses one."""
        escaped = (path.encode(errors="backslashreplace").decode() for path in self.paths.tolist())
        return [path.replace("\r", "\\r") for path in escaped]

    def open(self) -> ImageSource:
        """Open the images, to be read one by one by `read_image`."""
        return open_images(self.paths, self.where, *self.folders)

    def identity(self) -> str:
        """Return what stands for the images: their paths, sizes and times, and which are aligned."""
        with self.open() as source:
            stamps = [source.stamp(row) for row in range(len(self.paths))]
        return digest(self.paths.tolist(), stamps, np.flatnonzero(self.is_aligned).tolist())

    def tell_passed_over(self, reporter: Reporter) -> None:
        """Say how many files are passed over, and of which kinds."""
        if not self.passed_over:
            return
        kinds = Counter(self.passed_over)
        told = [f"{count:,} {suffix or 'without an ending'}" for suffix, count in kinds.most_common(_TOLD)]
        more = ", ..." if len(kinds) > _TOLD else ""
        reporter.say(
            f"{kinds.total():,} files in {self.where} are passed over, their names are not those of images "
            f"({', '.join(told)}{more}); a CSV of paths takes any name"
        )


def list_images(images: Path, *, beside: Path, crops: bool = False, each_once: bool = False) -> Images:
    """List images, those of a folder or an archive sorted by their paths.

    Files of which the name ends with none of `IMAGE_SUFFIXES` are passed over and counted; hidden files, and folders
    that are links, are passed over. Whether a file is the image that its name promises shows when it is read.

    Parameters
    ----------
    images : Path
        A folder with its subfolders, a zip archive, or a CSV with a path per row, as seen from the current folder or
        else from that of the CSV.
    beside : Path
        The folder of the results, which is passed over where it lies in that of the images.
    crops : bool
        Whether a folder with a ``faces.csv`` of detected faces stands for their crops.
    each_once : bool
        Whether the paths of a CSV are sorted and each is taken once, rather than a row being a row.

    Raises
    ------
    InputError
        If there are none, or they cannot be listed.
    """
    if images.is_dir():
        table = images / FACES
        if crops and not table.is_file() and (images / FACES_RECORD).is_file():
            raise InputError(
                f"{images} holds faces that are not finished: there is no {FACES} yet; run `toolkit faces detect` again"
            )
        found = _of_faces(table) if crops and table.is_file() else _named(_below(images, beside), images)
    elif images.is_file() and images.suffix.lower() == ".csv":
        paths = read_paths(images)
        paths = np.unique(paths) if each_once else paths
        found = Images(paths, None, (images.parent,), np.zeros(len(paths), bool))
    elif images.is_file() and zipfile.is_zipfile(images):
        open_images(np.array([], np.str_), images).close()  # refuses what cannot be read
        found = _named(_members(images), images)
    else:
        what = "is no zip archive and no CSV" if images.is_file() else "does not exist"
        if images.exists() and not images.is_file():  # a pipe, a device
            what = "is no regular file"
        raise InputError(f"images {images} {what}; allowed: a folder, a zip archive, a CSV with a path per row")
    if not len(found.paths):
        raise InputError(
            f"images {images} holds no image; their names end in {' '.join(IMAGE_SUFFIXES)}, others can be listed in a "
            f"CSV with a path per row"
        )
    return found


def read_image(source: ImageSource, row: int) -> bytes:
    """Return the bytes of the row's image.

    Raises
    ------
    ImageError
        If it is missing, ambiguous, encrypted or damaged, or the tables of results cannot hold its name: it is not
        UTF-8, or has a carriage return, which readers of CSV take for the end of a line.
    """
    path = str(source.paths[row])
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ImageError("has a name that is not UTF-8; rename it") from error
    if "\r" in path:
        raise ImageError("has a carriage return in its name; rename it")
    return source.read(row)


def _named(names: Iterable[str], where: Path) -> Images:
    """Take those that are called as images are."""
    paths: list[str] = []
    passed_over: Counter[str] = Counter()
    for name in names:
        if name.lower().endswith(IMAGE_SUFFIXES):
            paths.append(name)
        else:
            passed_over[Path(name).suffix.lower()] += 1
    found = np.unique(np.array(paths, np.str_))
    return Images(found, where, (), np.zeros(len(found), bool), passed_over=dict(passed_over))


def _below(folder: Path, beside: Path) -> Iterator[str]:
    results = beside.resolve()
    for inside, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if _is_shown(name) and Path(inside, name).resolve() != results]
        start = Path(inside).relative_to(folder).as_posix()
        yield from (name if start == "." else f"{start}/{name}" for name in names if _is_shown(name))


def _refuse(error: OSError) -> None:
    raise InputError(f"a folder of the images cannot be listed: {one_line(error)}; make it readable, or remove it")


def _members(archive: Path) -> Iterator[str]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if not info.is_dir() and all(map(_is_shown, info.filename.split("/"))):
                check_path(info.filename, archive)
                yield info.filename


def _is_shown(part: str) -> bool:
    """Whether a part of a path does not say that what is there is of a program, rather than of a person."""
    return not (part.startswith(".") and part not in (".", "..")) and part not in _OF_PROGRAMS


def _of_faces(table: Path) -> Images:
    """Read which crops there are, and which of them dlib's network takes as they are."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if missing := {_CROP, _ALIGNED} - set(rows.fieldnames or ()):
            raise InputError(
                f"{table} has no column {' and '.join(sorted(missing))}; it is not a table of detected faces: give a "
                f"folder of images without it"
            )
        crops = [(row[_CROP], row[_ALIGNED] == "true") for row in rows]
    paths = np.array([crop for crop, _ in crops], dtype=np.str_)
    is_aligned = np.array([aligned for _, aligned in crops], bool) & has_chips(table.with_name(FACES_RECORD))
    return Images(paths, table.parent, (), is_aligned, are_faces=True)


def has_chips(record: Path, landmarks: str = DLIB_5, margin: float = CHIP_MARGIN) -> bool:
    """Whether faces were aligned as a network was trained, by its landmarks and with its margin: by default dlib's."""
    try:
        job = json.loads(record.read_text(encoding="utf-8"))["job"]
        return bool(job["landmarks"] == landmarks and job["margin"] == margin)
    except (OSError, ValueError, KeyError, TypeError):
        return False
