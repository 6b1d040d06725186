"""Whose image each path is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolkit.errors import InputError
from toolkit.faces.evaluation.tables import PATH_COLUMNS, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def number_names(names: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """Return the number of each name, (n,) int64, from 0 in the order of first rows, -1 if empty; and the names."""
    numbers: dict[str, int] = {"": -1}
    codes = [numbers.setdefault(name, len(numbers) - 1) for name in names]
    return np.array(codes, dtype=np.int64), list(numbers)[1:]


def identities_of(paths: np.ndarray, identities: str | Path | None) -> list[str]:
    """Return the identity of each path, empty if it has none."""
    names = [str(path) for path in paths.tolist()]  # not NumPy's text, which an array of objects may hold
    if identities is None:
        found = [_folder_of(path) for path in names]
        if not any(found):
            raise InputError(
                f"no image lies in a folder that could be its identity, for instance {_first(names)}; give "
                f"a CSV with the columns path and identity"
            )
        return found
    table = Table(Path(identities))
    listed, people = table.column(PATH_COLUMNS), table.column(("identity",))
    if listed == names:  # row by row: an image of several faces may have several identities
        return people
    by_path: dict[str, str] = {}
    for path, one in zip(listed, people, strict=True):
        if by_path.setdefault(_plain(path), one) != one:
            raise InputError(
                f"{table.path} gives {path!r:.200} two identities, {by_path[_plain(path)]!r:.60} and {one!r:.60}; list "
                f"each path once, or all in the order of the rows"
            )
    places = match_paths(names, list(by_path))
    if (places < 0).all():
        raise InputError(
            f"{table.path} lists none of the {len(paths):,} images, for instance {_first(names)}, but "
            f"{_first(list(by_path))}; paths match if one ends with the other at a /"
        )
    known = list(by_path.values())
    return [known[at] if at >= 0 else "" for at in places.tolist()]


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
