"""Pickles: read in place, never run."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import time
import warnings

import numpy as np
import pytest

from toolkit.descriptors.formats import RawFile, open_pickle
from toolkit.errors import InputError
from toolkit.memory import MemoryBudget, peak_bytes, reset_peak, resident_bytes


def read(path, memory):
    file = open_pickle(path, memory)
    return np.concatenate(list(file.windows(7)))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "u1", "?", "i8"])
def test_arrays_of_every_protocol(tmp_path, memory, rng, protocol, order, dtype):
    matrix = np.asarray(rng.normal(size=(40, 33)) * 50, order=order).astype(dtype, order="K")
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(matrix, protocol))
    found = read(path, memory)
    np.testing.assert_array_equal(found, matrix)
    assert found.dtype == matrix.dtype.newbyteorder("=")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_numbers_stay_in_the_file(tmp_path, memory, rng, protocol):
    matrix = rng.normal(size=(500, 40)).astype(np.float32)
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(matrix, protocol))
    file = open_pickle(path, memory)
    assert isinstance(file, RawFile)
    np.testing.assert_array_equal(file.read(123, 321), matrix[123:321])


@pytest.mark.parametrize("wide", [3, 3000])
@pytest.mark.parametrize("kind", [list, tuple])
def test_list_of_rows(tmp_path, memory, rng, wide, kind):
    matrix = rng.normal(size=(20, wide)).astype(np.float32)
    path = tmp_path / "x.pickle"
    for rows in (kind(matrix), kind(matrix.tolist())):
        path.write_bytes(pickle.dumps(rows))
        np.testing.assert_array_equal(read(path, memory), matrix)


def test_python_2_string_is_read_in_place(tmp_path, memory, rng):
    matrix = rng.normal(size=(300, 4)).astype("<f4")
    data = matrix.tobytes()
    body = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + b"M"
        + struct.pack("<H", 300)
        + b"K\x04\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(data))
        + data
        + b"tb."
    )
    with warnings.catch_warnings():  # the oracle: Python's own reader agrees that this is such a file
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(pickle.loads(body, encoding="latin1"), matrix)
    path = tmp_path / "x.pickle"
    path.write_bytes(body)
    assert isinstance(open_pickle(path, memory), RawFile)
    np.testing.assert_array_equal(read(path, memory), matrix)


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (pickle.dumps(Evil(os.system, "touch owned"), 4), "system"),
        (pickle.dumps(Evil(os.system, "touch owned"), 0), "system"),
        (pickle.dumps(Evil(eval, "open('owned','w')"), 2), "__builtin__.eval"),
        (b"cnumpy\nf2py.os.system\n(S'touch owned'\ntR.", "f2py.os.system"),
        (b"cnumpy.core.multiarray\nscalar.__class__\n.", "scalar.__class__"),
        (b"(S'touch owned'\nios\nsystem\n.", "INST"),
        (b"(cos\nsystem\nS'touch owned'\no.", "system"),
        (b"(N}o.", "EMPTY_DICT"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pid\n.", "PERSID"),
        (b"\x80\x09N.", "protocol 9"),
    ],
)
def test_nothing_is_run(tmp_path, memory, monkeypatch, content, named):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pickle"
    path.write_bytes(content)
    with pytest.raises(InputError, match=named):
        open_pickle(path, memory)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.array([[1, "a"]], dtype=object), "object|O8"),
        (np.array([["a", "b"]]), "U1"),
        (np.zeros(3, dtype=[("x", "f4")]), "V4"),
        (np.zeros((3, 2), complex), "c16"),
        (np.zeros(9), r"shape \(9,\)"),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (np.zeros((0, 5), "f4"), "no row"),
        ([np.zeros(3), np.zeros(4)], "row 1"),
        ([], r"shape \(0, 0\)"),
        ([{"a": 1}], "EMPTY_DICT"),
        ([["a"]], "numbers"),
        ("text", "not one 2-D array"),
        (None, "not one 2-D array"),
        (7, "not one 2-D array"),
    ],
)
def test_other_content_is_named(tmp_path, memory, value, named):
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(InputError, match=named):
        open_pickle(path, memory)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_truncated_anywhere_is_an_input_error(tmp_path, memory, rng, protocol):
    content = pickle.dumps(rng.normal(size=(30, 20)).astype(np.float32), protocol)
    path = tmp_path / "x.pickle"
    cuts = sorted({*range(200), *range(200, len(content) - 1, 37), len(content) - 1})
    for cut in cuts:
        path.write_bytes(content[:cut])
        with pytest.raises(InputError):
            open_pickle(path, memory)


def test_damaged_bytes_never_raise_anything_else(tmp_path, memory, rng):
    content = bytearray(pickle.dumps(rng.normal(size=(6, 5)).astype(np.float32), 4))
    path = tmp_path / "x.pickle"
    outcomes = set()
    for _ in range(3000):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read(path, memory)
            outcomes.add("read")
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_python_objects_are_bounded_by_the_budget(tmp_path, memory):
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps([[float(i)] * 3 for i in range(20_000)]))
    assert open_pickle(path, memory).n_rows == 20_000
    tight = MemoryBudget(MemoryBudget(1).limit - MemoryBudget(1).free + (1 << 20))  # 1 MiB more than now
    with pytest.raises(InputError, match="memory budget"):
        open_pickle(path, tight)


NESTED = b"]q\0" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60))


@pytest.mark.parametrize(
    "content",
    [
        NESTED + b"h\x3ch\x3c\x93.",  # a name that doubles 60 times
        b"cnumpy\ndtype\n" + NESTED + b"h\x3c\x85R.",
        b"cnumpy.core.numeric\n_frombuffer\n(U\x01bcnumpy\ndtype\nU\x02f4\x85RK\x01" + b"\x85" * 100_000 + b"U\x01CtR.",
        b"cnumpy.core.numeric\n_frombuffer\n(C\x01bcnumpy\ndtype\nU\x02f4\x85R(" + b"K\x02" * 100_000 + b"tU\x01CtR.",
        b"cnumpy.core.numeric\n_frombuffer\n(U\x01bcnumpy\ndtype\nU\x02f4\x85R("
        + b"\x8a\xff"
        + b"\x7f" * 255
        + b"q\0"
        + b"h\0" * 100_000
        + b"tU\x01CtR.",
    ],
)
def test_small_files_do_not_take_long(tmp_path, memory, content):
    (tmp_path / "x.pickle").write_bytes(content)
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        open_pickle(tmp_path / "x.pickle", memory)
    assert len(str(caught.value)) < 500
    assert time.monotonic() - start < 10  # not a speed: without the guards these take hours


def test_repeated_text_is_counted(tmp_path):
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\0X\x06\0\0\0latin1q\x01"
    content = b"(" + text + b"c_codecs\nencode\nq\x02" + b"h\x02h\0h\x01\x86R" * 2000 + b"l."
    (tmp_path / "x.pickle").write_bytes(content)
    limit = MemoryBudget(resident_bytes() + (200 << 20))
    reset_peak()
    with pytest.raises(InputError, match="memory budget"):
        open_pickle(tmp_path / "x.pickle", limit)
    assert peak_bytes() < limit.limit


def test_more_than_one_pickle(tmp_path, memory):
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(np.ones((3, 2))) * 2)
    with pytest.raises(InputError, match="more follows"):
        open_pickle(tmp_path / "x.pickle", memory)


def test_rows_of_different_dtypes(tmp_path, memory):
    rows = [np.array([1, 2], "u1"), np.array([-1.5, 1e300])]
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(rows))
    np.testing.assert_array_equal(read(tmp_path / "x.pickle", memory), [[1, 2], [-1.5, 1e300]])
    (tmp_path / "x.pickle").write_bytes(pickle.dumps([[10**400, 1]]))
    with pytest.raises(InputError, match="too large"):
        open_pickle(tmp_path / "x.pickle", memory)


def test_every_instruction_is_either_known_or_refused_by_name():
    from toolkit.descriptors.safe_pickle import _ACTIONS

    known = {info.name for info in pickletools.opcodes}
    assert set(_ACTIONS) < known
    assert {"NEWOBJ", "OBJ", "INST", "EXT1", "PERSID", "BINPERSID", "NEXT_BUFFER"}.isdisjoint(_ACTIONS)
