"""Optional packages: imported where they are used, and the files that ship in them."""

from __future__ import annotations

import hashlib
import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from toolkit.errors import InputError, MissingPackageError, one_line


def import_package(module: str, *, pip: str, what: str) -> Any:
    """Import a module of an optional package.

    Raises
    ------
    MissingPackageError
        If it, or one that it needs, is not installed or does not fit the others.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        needs = "" if missing == module else f", which needs {missing}"
        raise MissingPackageError(
            f"{what} needs the package {module}{needs}, which is missing: pip install {pip if not needs else missing}"
        ) from error
    except Exception as error:  # libraries of other versions than it was built for
        raise MissingPackageError(
            f"{what} needs the package {module}, which cannot be imported: {one_line(error)}; install it anew: pip "
            f"install --force-reinstall {pip}"
        ) from error


def packaged_file(package: str, file: str, *, what: str, sha256: str | None = None, pip: str | None = None) -> Path:
    """Find a file that ships in a package, which is not imported: it may need others, or an older Python.

    Parameters
    ----------
    package, file : str
        The file as seen from the folder of the package.
    what : str
        Needs it, for the error.
    sha256 : str, optional
        Of the file, where it is compared.
    pip : str, optional
        What to tell ``pip install``, by default the name of the package.

    Raises
    ------
    MissingPackageError
        Without the package.
    InputError
        If the file is missing or not the one that is known.
    """
    pip = pip or package
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(f"{what} needs the package {package}, which is missing: pip install {pip}")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise InputError(f"{path} is missing; install it anew: pip install --force-reinstall {pip}")
    if sha256 is None:
        return path
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != sha256:
        raise InputError(
            f"{path} has SHA-256 {found[:16]}..., allowed: {sha256[:16]}...; it is damaged or of another version: pip "
            f"install --force-reinstall {pip}"
        )
    return path
