"""Where the image of each row is: among files, in a folder, or in a zip archive that stays packed."""

# Paths are strings here: hundreds of thousands are looked up, and Path objects would take several times as long.
# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH116, PTH117, PTH118, PTH123
from __future__ import annotations

import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from toolkit.backend.cpu import ordered_map
from toolkit.errors import InputError, one_line
from toolkit.memory import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from toolkit.grid.finished import FinishedRun

    Candidates = Callable[[str], Iterable[str]]  # path of an image -> files that it may be, the likeliest first

MOST_BYTES = 512 << 20  # of one image, packed or not
_MISSING = "does not exist"
_LOOKED_UP = 1024  # paths at a time
_WAITING = 8  # threads that look paths up: they wait for the file system, not for a processor
_MOST_PARTS = 64  # of a path that are compared: real ones have fewer, and names of thousands would take for ever
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others can unpack a few bytes into gigabytes at once
_READ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class ImageError(InputError):
    """One image cannot be used; the text is the reason, to be put behind its path."""


class ImageSource(ABC):
    """The image of each row, read when it is asked for, from any thread.

    Attributes
    ----------
    paths : ndarray (n_rows,) of str
        As they were given.
    problems : dict of int to str
        Row -> why its image cannot be used, as far as is known: missing and ambiguous ones from the start, damaged
        ones since somebody tried to decode them.
    """

    def __init__(self, paths: np.ndarray, problems: dict[int, str]) -> None:
        self.paths, self.problems = paths, problems

    @abstractmethod
    def n_bytes(self, row: int) -> int:
        """Return how long the image is.

        Raises
        ------
        ImageError
            If it is not there, or longer than 512 MiB.
        """

    @abstractmethod
    def stamp(self, row: int) -> tuple[int, ...]:
        """Return numbers that change with the content; none where there is no image.

        Of a file its size, time and inode, of a member of an archive its size and CRC.
        """

    @abstractmethod
    def _read(self, row: int) -> bytes:
        """Read an image that is known to be there, at most a byte more than is allowed."""

    def read(self, row: int) -> bytes:
        """Return the bytes of the row's image, as they are in its file.

        Raises
        ------
        ImageError
            If it is missing, ambiguous, encrypted, damaged or longer than 512 MiB.
        """
        self.n_bytes(row)
        try:
            data = self._read(row)
        except _READ_ERRORS as error:
            raise ImageError(f"cannot be read: {one_line(error)}") from error
        _check_size(len(data))
        return data

    def url(self, row: int, relative_to: Path) -> str | None:
        """Return the address of the row's image in a page that lies in the folder `relative_to`.

        Percent-encoded and relative; None where there is none: missing images, members of archives.
        """
        return None

    def close(self) -> None:
        """Give the archive back, if there is one."""
        return

    def __enter__(self) -> ImageSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_images(paths: np.ndarray, where: Path | None, *folders: Path) -> ImageSource:
    """Find the image of each row.

    Parameters
    ----------
    paths : ndarray (n_rows,) of str
        Image paths.
    where : Path, optional
        A folder or a zip archive. The image is what is there under its whole path, else the one file or member of
        which the path ends with the other's path at a ``/``, whichever is longer (in a folder: only where the image
        path is). Two that fit, or one that fits two image paths, are ambiguous. Of members with the same name the
        last counts, as when they are unpacked. A path that leads out of a folder is never followed.
    *folders : Path
        Without `where`, paths are files as seen from the current folder, or else from the first of these that has
        them.

    Returns
    -------
    ImageSource
        Its `problems` list the rows without an image. Without `where` that may be all of them.

    Raises
    ------
    InputError
        If `where` does not exist, is no zip archive or a damaged one, or holds none of the images.

    Notes
    -----
    Nothing is unpacked: members are read by their names, which are never used as names of files. Opening an archive
    takes about 1 kB of memory for each member and row (400 MB for 400,000), of which 0.7 kB for each row are kept.
    """
    paths = np.asarray(paths, dtype=np.str_)
    if where is None:
        return FileImages(paths, _seen_from([str(folder) for folder in folders]))
    where = Path(where)
    if not (where.is_dir() or where.is_file()):
        what = "is neither a folder nor a file" if where.exists() else "does not exist"
        raise InputError(f"images {where} {what}; allowed: a folder or a zip archive")
    source = FileImages(paths, _below(where), folder=where) if where.is_dir() else ZipImages(paths, where)
    if len(source.problems) == len(paths) > 0:
        source.close()
        kind = "folder" if where.is_dir() else "archive"
        raise InputError(
            f"the {kind} {where} holds none of the {len(paths):,} images, for instance {str(paths[0])!r:.200} "
            f"{source.problems[0]}; give the {kind} in which the image paths start"
        )
    return source


def run_images(run: FinishedRun) -> ImageSource:
    """Find the images of a finished run, where its configuration says (``descriptors.images``); see `open_images`."""
    started_in = Path(run.record.get("working_folder", "."))
    return open_images(run.image_paths, run.config.descriptors.images, started_in, run.loader.folder)


class FileImages(ImageSource):
    """Images that are files.

    Parameters
    ----------
    paths : ndarray (n_rows,) of str
    candidates : callable
        Image path -> the files that it may be.
    folder : Path, optional
        In which all candidates lie; those after the first must then be the only ones. Else the first that exists is
        taken.
    """

    def __init__(self, paths: np.ndarray, candidates: Candidates, *, folder: Path | None = None) -> None:
        super().__init__(paths, {})
        self._candidates, self._folder = candidates, folder
        self._chosen = np.full(len(paths), -1, np.int8)  # which of the candidates; few bytes for millions of rows
        chunks = [range(start, min(start + _LOOKED_UP, len(paths))) for start in range(0, len(paths), _LOOKED_UP)]
        look_up = self._first if folder is None else self._only

        def look_up_all(rows: range) -> list[int | str]:
            return [look_up(str(paths[row])) for row in rows]

        for rows, found in zip(chunks, ordered_map(look_up_all, chunks, workers=_WAITING), strict=True):
            for row, one in zip(rows, found, strict=True):
                if isinstance(one, str):
                    self.problems[row] = one
                else:
                    self._chosen[row] = one
        if folder is not None:
            self._refuse_shared()

    def _first(self, path: str) -> int | str:
        """Return the first candidate that is a file, or what is wrong."""
        found = next((i for i, file in enumerate(self._candidates(path)) if os.path.isfile(file)), None)
        return self._explain(path) if found is None else found

    def _only(self, path: str) -> int | str:
        """Return the first candidate if it is a file, else the only one that is, or what is wrong."""
        there = (i for i, file in enumerate(self._candidates(path)) if os.path.isfile(file))
        found = None if self._leads_out(path) else next(there, None)
        if not found:
            return self._explain(path) if found is None else found
        return found if next(there, None) is None else _ambiguous("more than one file fits it")

    def _leads_out(self, path: str) -> bool:
        """Whether there is a file where a relative path leaves the folder, so that none inside stands for it."""
        if ".." not in path or os.path.isabs(path):
            return False
        return _leaves(str(self._folder), path) and os.path.isfile(os.path.join(str(self._folder), path))

    def _explain(self, path: str) -> str:
        if path and any(os.path.isdir(file) for file in self._candidates(path)):
            return "is a folder"
        if path and any(os.path.exists(file) and not os.path.isfile(file) for file in self._candidates(path)):
            return "is no regular file"
        if self._folder is None or not _leaves(str(self._folder), path):
            return _MISSING
        is_there = not os.path.isabs(path) or os.path.isfile(path)
        return f"leads outside of {self._folder!s:.200}" if is_there else _MISSING

    def _refuse_shared(self) -> None:
        files = [self._file(row) if self._chosen[row] >= 0 else None for row in range(len(self.paths))]
        _refuse_shared(self.paths, files, self._chosen == 0, self.problems)
        self._chosen[np.fromiter(self.problems, np.int64)] = -1

    def _file(self, row: int) -> str:
        return next(islice(self._candidates(str(self.paths[row])), int(self._chosen[row]), None))

    def n_bytes(self, row: int) -> int:  # noqa: D102
        if self._chosen[row] < 0:
            raise ImageError(self.problems[row])
        try:
            found = os.stat(self._file(row))
        except OSError as error:
            raise ImageError(f"cannot be read: {one_line(error)}") from error
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise ImageError("is not a file")
        return _check_size(found.st_size)

    def stamp(self, row: int) -> tuple[int, ...]:  # noqa: D102
        try:
            found = os.stat(self._file(row)) if self._chosen[row] >= 0 else None
        except OSError:
            found = None
        return () if found is None else (found.st_size, found.st_mtime_ns, found.st_ino)

    def _read(self, row: int) -> bytes:
        with open(self._file(row), "rb") as file:
            return file.read(MOST_BYTES + 1)

    def url(self, row: int, relative_to: Path) -> str | None:  # noqa: D102
        if self._chosen[row] < 0:
            return None
        return quote(os.fsencode(os.path.relpath(self._file(row), relative_to)))


class ZipImages(ImageSource):
    """Images that are members of a zip archive.

    Parameters
    ----------
    paths : ndarray (n_rows,) of str
    archive : Path
    """

    def __init__(self, paths: np.ndarray, archive: Path) -> None:
        super().__init__(paths, {})
        try:
            self._archive = zipfile.ZipFile(archive)
        except (*_READ_ERRORS, NotImplementedError) as error:
            raise InputError(
                f"images {archive} is not a zip archive that can be read: {one_line(error)}; allowed: a folder "
                f"or a zip archive (unpack others)"
            ) from error
        members = {_plain(info.filename): info for info in self._archive.filelist if not info.is_dir()}
        names = _match(paths, members, self.problems)
        self._members = [None if name is None else members[name] for name in names]
        self._archive.filelist.clear()  # what belongs to no row need not be kept
        self._archive.NameToInfo.clear()

    def n_bytes(self, row: int) -> int:  # noqa: D102
        member = self._members[row]
        if member is None:
            raise ImageError(self.problems[row])
        if member.flag_bits & _ENCRYPTED:
            raise ImageError("is encrypted")
        if member.compress_type not in _METHODS:
            raise ImageError(f"is packed by method {member.compress_type}; allowed: stored, deflated")
        return _check_size(member.file_size)

    def stamp(self, row: int) -> tuple[int, ...]:  # noqa: D102
        member = self._members[row]
        return () if member is None else (member.file_size, member.CRC)

    def _read(self, row: int) -> bytes:
        member = self._members[row]
        assert member is not None  # noqa: S101 (for the type checker: n_bytes has raised)
        with self._archive.open(member) as file:
            return file.read(member.file_size)  # inflates no more than that, and compares the CRC

    def close(self) -> None:  # noqa: D102
        self._archive.close()


# Which file or member belongs to a path
def _seen_from(folders: list[str]) -> Candidates:
    def candidates(path: str) -> Iterator[str]:
        yield path
        yield from (os.path.join(folder, path) for folder in folders)

    return candidates


def _below(folder: Path) -> Candidates:
    name = str(folder)

    def candidates(path: str) -> Iterator[str]:
        plain = _plain(path)
        whole = os.path.join(name, path)
        is_so_called = "\\" in path and not _leaves(name, path) and os.path.isfile(whole)  # where it is no separator
        for inside in chain([path if is_so_called else plain], _suffixes(plain)):
            leaves = ".." in inside and _leaves(name, inside)
            yield "" if leaves else os.path.join(name, inside)  # "": the others keep their places

    return candidates


def _leaves(folder: str, path: str) -> bool:
    """Whether a path that starts in a folder, or is absolute, leads out of it."""
    base = os.path.abspath(folder)
    return os.path.commonpath([base, os.path.abspath(os.path.join(base, path))]) != base


def _match(paths: np.ndarray, members: dict[str, zipfile.ZipInfo], problems: dict[int, str]) -> list[str | None]:
    """Return the member of each path, None where there is none or more than one; `problems` takes the reasons."""
    plain = [_plain(str(path)) for path in paths]
    exact = np.array([name in members for name in plain], bool)
    longer = _longer_members({name for name, found in zip(plain, exact, strict=True) if not found}, members)
    names: list[str | None] = []
    for row, name in enumerate(plain):
        if exact[row]:
            names.append(name)
            continue
        fits = [*longer.get(name, []), *(suffix for suffix in _suffixes(name) if suffix in members)]
        names.append(fits[0] if len(fits) == 1 else None)
        if len(fits) != 1:
            listed = " and ".join(fits[:2])
            problems[row] = _ambiguous(f"members that fit it are {listed:.200}") if fits else "is not in the archive"
    _refuse_shared(paths, names, exact, problems)
    return [None if row in problems else name for row, name in enumerate(names)]


def _longer_members(wanted: set[str], members: Iterable[str]) -> dict[str, list[str]]:
    """Return name -> the first two members whose path ends with it."""
    found: dict[str, list[str]] = {}
    if not wanted:
        return found
    for member in members:
        for suffix in _suffixes(member):
            if suffix in wanted and len(found.setdefault(suffix, [])) < 2:
                found[suffix].append(member)
    return found


def _refuse_shared(paths: np.ndarray, found: list[str | None], is_exact: np.ndarray, problems: dict[int, str]) -> None:
    """Make rows ambiguous that got, not by their whole path, what another path got too."""
    first: dict[str, str] = {}
    shared: dict[str, str] = {}
    for path, name in zip(paths, found, strict=True):
        if name is not None and first.setdefault(name, path) != path:
            shared[name] = path
    for row, name in enumerate(found):
        if name in shared and not is_exact[row]:
            other = first[name] if first[name] != paths[row] else shared[name]
            problems[row] = _ambiguous(f"{name:.200} also fits {other:.200}")


def _plain(path: str) -> str:
    """Write a path as archives do: with ``/``, and without what it starts from."""
    if "\\" not in path and path[:1] not in "./" and "/." not in path and "//" not in path:
        return path  # nearly all of them
    return "/".join(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


def _suffixes(path: str) -> Iterator[str]:
    """Yield the ends of a path that start behind a ``/``, the longest first; of very deep ones, the longest few."""
    start = path.find("/")
    for _ in range(_MOST_PARTS):
        if start < 0:
            return
        yield path[start + 1 :]
        start = path.find("/", start + 1)


def _ambiguous(why: str) -> str:
    return f"is ambiguous: {why}"


def _check_size(n_bytes: int) -> int:
    if n_bytes > MOST_BYTES:
        raise ImageError(f"has {format_size(n_bytes)}; allowed: {format_size(MOST_BYTES)}")
    return n_bytes
