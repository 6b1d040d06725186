"""What callers pass in, checked once at the public door."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolkit.errors import InputError

_CHECKED_ROWS = 8192
_LARGEST = 1.0e300  # beyond any distance that float64 squares


def require_integer(name: str, value: object, *, least: int = 1) -> int:
    """Return a whole number of at least `least`.

    Raises
    ------
    InputError
        Saying what was received and what is allowed.
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least:
        return int(value)
    raise InputError(f"{name} is {_short(value)}; allowed: a whole number of at least {least}")


def _short(value: object) -> str:
    return " ".join(repr(value).split())[:60]


def require_number(name: str, value: object, *, least: float = 0.0, above: float | None = None) -> float:
    """Return a finite number of at least `least`, or above `above` if that is given.

    Raises
    ------
    InputError
        Saying what was received and what is allowed.
    """
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        number = float(min(value, _LARGEST))
        if number < np.inf and (number >= least if above is None else number > above):
            return number
    allowed = f"of at least {least:g}" if above is None else f"above {above:g}"
    raise InputError(f"{name} is {_short(value)}; allowed: a number {allowed}")


def require_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Accept only what is listed.

    Raises
    ------
    InputError
        Saying what was received and what is allowed.
    """
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        names = ", ".join(repr(choice) for choice in allowed)
        raise InputError(f"{name} is {_short(value)}, which is not supported; allowed: {names}")


def refuse(method: str, unsupported: dict[str, object]) -> None:
    """Accept further arguments of a method only if they are None.

    Raises
    ------
    InputError
        Naming the first other one.
    """
    for name, value in unsupported.items():
        if value is not None:
            raise InputError(
                f"{method} got {name} {_short(value)}, which is not supported; allowed: None (leave it out)"
            )


def check_matrix(given: Any) -> np.ndarray:
    """Return a C-contiguous float32 or float64 matrix of finite numbers.

    Raises
    ------
    InputError
        Saying what was received.
    """
    if hasattr(given, "toarray"):
        raise InputError("X is a sparse matrix; allowed: a dense one (X.toarray())")
    X: np.ndarray = np.asarray(given)
    if X.ndim != 2 or 0 in X.shape:
        raise InputError(f"X has shape {X.shape}; allowed: (n_samples, n_features), at least one of each")
    if X.dtype not in (np.float32, np.float64):
        if X.dtype.kind not in "iufb":
            raise InputError(f"X has dtype {X.dtype}; allowed: float32 or float64, or what converts to float64")
        X = X.astype(np.float64)
    matrix: np.ndarray = np.ascontiguousarray(X)
    for start in range(0, len(X), _CHECKED_ROWS):
        if not np.isfinite(matrix[start : start + _CHECKED_ROWS]).all():
            raise InputError("X holds NaN or inf; allowed: finite numbers; leave those rows out")
    return matrix
