"""Read the NumPy matrix in a pickle without running anything that the file says.

A pickle is a program for a small stack machine. Python's own machine imports and calls whatever the program
names; this one knows only the instructions that describe numbers, text, tuples, lists and NumPy arrays, builds plain
records from them, and stops at the first thing it does not know. Raw bytes are not read: their place in the file
is noted, so the matrix can be read block by block afterwards.

The instructions are those of `pickletools` (PEP 3154 for protocol 4, PEP 574 for protocol 5).
"""

from __future__ import annotations

import pickletools
import struct
from typing import IO, TYPE_CHECKING, Any

from toolkit.descriptors.pickled_array import CONSTRUCTORS, Constructor, PickledArray, PickledDtype, RawBytes, show
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_OPCODES = {info.code.encode("latin1"): info.name for info in pickletools.opcodes}
_SMALL = 64  # bytes up to this size are read (they are scalars or names), larger ones only located
_LINE = 1 << 20  # a line (protocol 0) that is longer is text, and counted as such
_OBJECT = 100  # bytes that Python takes for one number or list item, about

_ALLOWED = {
    (f"numpy.{core}.{module}", name): name
    for core in ("core", "_core")
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
} | {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # how Python 3 writes bytes in protocols 0 to 2
}


class _Mark:
    """Where a MARK stands on the stack."""


class _Machine:
    """The stack machine: one method per instruction, found by the instruction's name."""

    def __init__(self, file: IO[bytes], size: int, max_bytes: int) -> None:
        self.file = file
        self.size = size
        self.free_bytes = max_bytes
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self.take(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise InputError(f"byte {code!r} at offset {self.file.tell() - 1} is not a pickle instruction")
            if opcode == "STOP":
                if self.file.tell() != self.size:
                    raise InputError(
                        f"more follows after the pickle's end at offset {self.file.tell()}; one array is read"
                    )
                return self.pop()
            action = _ACTIONS.get(opcode)
            if action is None:
                raise InputError(
                    f"pickle instruction {opcode} at offset {self.file.tell() - 1} is refused: a descriptor "
                    f"pickle holds one NumPy array of numbers; save it as .npy instead"
                )
            self.spend(_OBJECT)
            action(self)

    def spend(self, n: int) -> None:
        """Count what has to be held in memory, and stop before it is too much."""
        self.free_bytes -= n
        if self.free_bytes < 0:
            raise InputError(
                "the pickle holds so many Python objects (a list of numbers, or bytes as text: protocols 0 to 2) that "
                "they do not fit into the memory budget; save one array with protocol 4 or 5, or as .npy"
            )

    # What the instructions are made of
    def take(self, n: int) -> bytes:
        data = self.file.read(n) if n <= self.size - self.file.tell() else b""
        if len(data) < n:
            raise InputError(
                f"the pickle is truncated: {n} bytes expected at offset {self.file.tell()}, file has {self.size}"
            )
        return data

    def integer(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def line(self) -> str:
        pieces = [b""]
        while not pieces[-1].endswith(b"\n"):
            pieces.append(self.file.readline(_LINE))
            if not pieces[-1]:
                raise InputError(f"the pickle is truncated at offset {self.file.tell()}")
            self.spend(5 * len(pieces[-1]))
        return b"".join(pieces)[:-1].decode("latin1")

    def pop(self) -> Any:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise InputError("the pickle takes a value from an empty stack")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        items: list[Any] = []
        while self.stack:
            item = self.stack.pop()
            if isinstance(item, _Mark):
                return items[::-1]
            items.append(item)
        raise InputError("the pickle takes a mark that was never set")

    def top_list(self) -> list[Any]:
        if not self.stack or not isinstance(self.stack[-1], list):
            raise InputError("the pickle appends to something that is not a list")
        return self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise InputError(f"the pickle recalls memo {index}, which was never set")
        self.stack.append(self.memo[index])

    def store(self, index: int) -> None:
        value = self.pop()
        self.stack.append(value)
        self.memo[index] = value

    def raw(self, size: int) -> None:
        """Push bytes: small ones as they are, large ones as their place in the file."""
        if size <= _SMALL:
            self.stack.append(self.take(size))
            return
        offset = self.file.tell()
        if size > self.size - offset:
            raise InputError(f"the pickle is truncated: {size} bytes expected at offset {offset}, file has {self.size}")
        self.stack.append(RawBytes(offset, size))
        self.file.seek(size, 1)

    def text(self, size: int) -> None:
        self.spend(4 * size)
        self.stack.append(self.take(size).decode("utf-8", "surrogatepass"))

    def append(self) -> None:
        value = self.pop()
        self.top_list().append(value)

    def extend(self) -> None:
        values = self.pop_mark()
        self.top_list().extend(values)

    def protocol(self) -> None:
        version = self.take(1)[0]
        if version > 5:
            raise InputError(f"the pickle has protocol {version}; protocols 0 to 5 are read")

    def frame(self) -> None:
        self.take(8)  # a reading hint only

    def find(self, module: Any, name: Any) -> None:
        is_name = isinstance(module, str) and isinstance(name, str)
        known = _ALLOWED.get((module, name)) if is_name else None
        if known is None:
            named = f"{module}.{name}"[:80].encode("unicode_escape").decode() if is_name else "something without a name"
            raise InputError(
                f"the pickle names {named}, which is refused: only NumPy arrays of numbers are read, "
                f"nothing is run; if you trust the file, load it yourself and save the array as .npy"
            )
        self.stack.append(Constructor(known))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Constructor) or not isinstance(arguments, tuple):
            raise InputError("the pickle calls something that is not a NumPy constructor")
        if function.name == "encode" and arguments and isinstance(arguments[0], str):
            self.spend(len(arguments[0]))
        try:
            self.stack.append(CONSTRUCTORS[function.name](*arguments))
        except (TypeError, KeyError, UnicodeError, struct.error) as error:
            raise InputError(f"the pickle calls numpy {function.name} with arguments it does not take") from error

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if isinstance(target, PickledDtype):
            target.set_state(state)
        elif isinstance(target, PickledArray) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, data = state
            if isinstance(data, str):  # Python 2 wrote bytes as text
                self.spend(len(data))
                data = data.encode("latin1")
            target.fill(shape, dtype, fortran=bool(fortran), data=data)
        else:
            raise InputError("the pickle sets the state of something that is not an array")
        self.stack.append(target)


def _push(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(read(machine))


def _tuple(n: int) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(tuple(machine.pop() for _ in range(n))[::-1])


def _int_line(machine: _Machine) -> int | bool:
    text = machine.line()
    try:
        return {"00": False, "01": True}[text] if text in ("00", "01") else int(text.rstrip("L"))
    except ValueError as error:
        raise InputError(f"the pickle holds {text!r:.40} where an integer is expected") from error


def _float_line(machine: _Machine) -> float:
    text = machine.line()
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"the pickle holds {text!r:.40} where a number is expected") from error


def _quoted(machine: _Machine) -> str:
    """Read a Python 2 string literal (protocol 0): quotes and backslash escapes."""
    text = machine.line()
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        raise InputError(f"the pickle holds {text!r:.40} where a quoted string is expected")
    return text[1:-1].encode("latin1").decode("unicode_escape")


def _long(machine: _Machine, size: int) -> int:
    return int.from_bytes(machine.take(size), "little", signed=True)


_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "PROTO": _Machine.protocol,
    "FRAME": _Machine.frame,
    "NONE": _push(lambda _: None),
    "NEWTRUE": _push(lambda _: True),
    "NEWFALSE": _push(lambda _: False),
    "INT": _push(_int_line),
    "LONG": _push(_int_line),
    "BININT": _push(lambda m: m.integer("<i")),
    "BININT1": _push(lambda m: m.integer("<B")),
    "BININT2": _push(lambda m: m.integer("<H")),
    "LONG1": _push(lambda m: _long(m, m.integer("<B"))),
    "FLOAT": _push(_float_line),
    "BINFLOAT": _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    "SHORT_BINBYTES": lambda m: m.raw(m.integer("<B")),
    "BINBYTES": lambda m: m.raw(m.integer("<I")),
    "BINBYTES8": lambda m: m.raw(m.integer("<Q")),
    "BYTEARRAY8": lambda m: m.raw(m.integer("<Q")),
    "SHORT_BINSTRING": _push(lambda m: m.take(m.integer("<B")).decode("latin1")),
    "BINSTRING": lambda m: m.raw(max(m.integer("<i"), 0)),
    "STRING": _push(_quoted),
    "SHORT_BINUNICODE": lambda m: m.text(m.integer("<B")),
    "BINUNICODE": lambda m: m.text(m.integer("<I")),
    "BINUNICODE8": lambda m: m.text(m.integer("<Q")),
    "UNICODE": _push(lambda m: m.line().encode("latin1").decode("raw_unicode_escape")),
    "MARK": _push(lambda _: _Mark()),
    "EMPTY_TUPLE": _push(lambda _: ()),
    "TUPLE": _push(lambda m: tuple(m.pop_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "EMPTY_LIST": _push(lambda _: []),
    "LIST": _push(lambda m: m.pop_mark()),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "MEMOIZE": lambda m: m.store(len(m.memo)),
    "PUT": lambda m: m.store(int(m.line())),
    "BINPUT": lambda m: m.store(m.integer("<B")),
    "LONG_BINPUT": lambda m: m.store(m.integer("<I")),
    "GET": lambda m: m.recall(int(m.line())),
    "BINGET": lambda m: m.recall(m.integer("<B")),
    "LONG_BINGET": lambda m: m.recall(m.integer("<I")),
    "GLOBAL": lambda m: m.find(m.line(), m.line()),
    "STACK_GLOBAL": lambda m: m.find(*(m.pop(), m.pop())[::-1]),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


def locate_array(path: Path, *, max_bytes: int) -> PickledArray | list[Any]:
    """Return where the array in a pickle lies, or the list of rows that the pickle holds.

    Parameters
    ----------
    path : Path
        A pickle of one 2-D NumPy array (protocols 0 to 5), or of a list of equally long rows.
    max_bytes : int
        What may be held in memory meanwhile. An array in protocol 3, 4 or 5 needs next to nothing; protocols 0 to 2
        write bytes as text, and a list of numbers is one Python object a number.

    Returns
    -------
    PickledArray or list
        The array's shape, dtype, order and place; or a list of `PickledArray`, lists or tuples of numbers.

    Raises
    ------
    InputError
        If the pickle is truncated, holds anything but numbers, or names anything outside the allow-list: the
        message names the instruction or global. Nothing of the file is ever run.
    """
    with path.open("rb") as file:
        try:
            found = _Machine(file, path.stat().st_size, max_bytes).run()
        except (ValueError, OverflowError) as error:
            raise error if isinstance(error, InputError) else InputError(f"the pickle is damaged: {error}") from error
    if isinstance(found, PickledArray | list | tuple):
        return list(found) if isinstance(found, tuple) else found
    raise InputError(f"the pickle holds {show(found)}, not one 2-D array of numbers")
