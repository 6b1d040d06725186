"""What a descriptor pickle may hold: arrays of numbers, as records that say where their bytes lie."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMERIC = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")
_MAX_DIMENSIONS = 32
_KINDS = {
    "PickledArray": "array",
    "RawBytes": "bytes object",
    "PickledDtype": "dtype",
    "Constructor": "NumPy constructor",
    "NoneType": "None",
}  # what things are called in errors


@dataclass(frozen=True)
class RawBytes:
    """Bytes that lie in the file: `size` bytes from `offset` on."""

    offset: int
    size: int


@dataclass(frozen=True)
class Constructor:
    """A name of the allow-list; `CONSTRUCTORS` says what it makes."""

    name: str


def show(value: Any) -> str:
    """Describe a value of the file for an error: short, whatever the file makes of it."""
    if isinstance(value, str | bytes):
        return repr(value[:60])
    if isinstance(value, int | float) and abs(value) < 1 << 63:
        return repr(value)
    return _KINDS.get(type(value).__name__, type(value).__name__)


class PickledDtype:
    """The dtype of numbers; any other is refused."""

    def __init__(self, code: str) -> None:
        if not _NUMERIC.fullmatch(code):
            raise InputError(f"dtype {show(code)} is not numeric; allowed: bool, integers and floats of up to 8 bytes")
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        """Take the byte order from the state that NumPy pickles."""
        if not (isinstance(state, tuple) and len(state) >= 2 and state[1] in ("<", ">", "=", "|")):
            raise InputError("the state of the dtype is not that of a number")
        self.dtype = self.dtype.newbyteorder(state[1]) if state[1] in "<>" else self.dtype


class PickledArray:
    """An array whose numbers are still in the file (`data` is `RawBytes`) or were too small to leave there."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype = np.dtype("f8")
        self.fortran = False
        self.data: RawBytes | bytes = b""

    def fill(self, shape: Any, dtype: Any, *, fortran: bool, data: Any) -> PickledArray:
        """Set what the pickle states, after checking that it fits together."""
        is_shape = isinstance(shape, tuple) and len(shape) <= _MAX_DIMENSIONS
        if not (is_shape and all(type(n) is int and 0 <= n < 1 << 63 for n in shape)):
            raise InputError("the array's shape is not a tuple of sizes")
        if not isinstance(dtype, PickledDtype):
            raise InputError(f"the array's dtype is {show(dtype)}, not that of numbers")
        if isinstance(data, list):
            raise InputError("the array has object dtype; save numbers, for instance array.astype('float32')")
        if not isinstance(data, bytes | RawBytes):
            raise InputError(f"the array's data are {show(data)}, not bytes")
        size = data.size if isinstance(data, RawBytes) else len(data)
        if size != math.prod(shape) * dtype.dtype.itemsize:
            raise InputError(f"array of shape {shape} and dtype {dtype.dtype} does not match its {size} bytes")
        self.shape, self.dtype, self.fortran, self.data = shape, dtype.dtype, fortran, data
        return self


def _call_frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    if order not in ("C", "F"):
        raise InputError(f"the pickled array has memory order {show(order)}; C and F are read")
    return PickledArray().fill(shape, dtype, fortran=order == "F", data=data)


def _call_dtype(code: Any, *_: Any) -> PickledDtype:
    if not isinstance(code, str | bytes):
        raise InputError(f"the dtype is {show(code)}, not the name of one")
    return PickledDtype(code.decode("latin1") if isinstance(code, bytes) else code)


def _call_scalar(dtype: PickledDtype, data: bytes | str) -> float:
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(dtype, PickledDtype) or len(data) != dtype.dtype.itemsize:
        raise InputError("the pickle holds a NumPy scalar that is not a number")
    return float(np.frombuffer(data, dtype.dtype)[0])


def _call_encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise InputError("the pickle encodes something else than text as latin1, which is how bytes are written")
    return text.encode("latin1")


CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "_reconstruct": lambda _type, _shape, _code: PickledArray(),
    "_frombuffer": _call_frombuffer,
    "dtype": _call_dtype,
    "scalar": _call_scalar,
    "encode": _call_encode,
}
