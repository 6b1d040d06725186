"""Weights that are given to a detector: refused where it takes none, and read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolkit.errors import InputError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refuse(name: str, weights: Path | None) -> None:
    """Raise InputError if a detector that takes no weights is given some."""
    if weights is not None:
        raise InputError(f"detector {name!r} takes no weights, received {weights}; leave them out")


def loaded(name: str, make: Callable[[str], Any], path: Path) -> Any:
    """Return what a library makes of the path of a model.

    Raises
    ------
    InputError
        If it is no file, or the library cannot read it.
    """
    if not path.is_file():
        raise InputError(f"weights {path} is not a file; give the file of the model of {name}")
    try:
        return make(str(path))
    except Exception as error:  # dlib's and OpenCV's have no common class
        raise InputError(
            f"weights {path} cannot be read: {one_line(error)}; give the file of a model of {name}"
        ) from error
