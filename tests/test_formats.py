"""Every format gives the matrix back, in windows of any size, and refuses what is not a matrix."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toolkit.descriptors.formats import FORMATS, open_descriptor
from toolkit.errors import InputError


def write_parquet_lists(path, matrix):
    pq.write_table(pa.table({"filename": names(matrix), "vector": matrix.tolist()}), path, row_group_size=17)


def write_parquet_fixed(path, matrix):
    values = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    pq.write_table(pa.table({"embedding": values}), path)


def write_parquet_wide(path, matrix):
    pd.DataFrame(matrix, columns=[f"f{j}" for j in range(matrix.shape[1])], index=names(matrix)).to_parquet(path)


def write_csv_joined(path, matrix):
    joined = [",".join(map(repr, map(float, row))) for row in matrix]
    pd.DataFrame({"filename": names(matrix), "features": joined}).to_csv(path, index=False)


def write_csv_wide(path, matrix):
    pd.DataFrame(matrix.astype(float)).to_csv(path)


def write_csv_headerless(path, matrix):
    np.savetxt(path, matrix, delimiter=",", fmt="%.17g")


def write_hdf5(path, matrix):
    with h5py.File(path, "w") as file:
        file.create_dataset("group/x", data=matrix, chunks=(8, matrix.shape[1]))
        file["names"] = np.arange(len(matrix))


def names(matrix):
    return [f"{i:03d}.jpg" for i in range(len(matrix))]


WRITERS = {
    "npy": ("x.npy", lambda path, matrix: np.save(path, matrix)),
    "npy fortran": ("x.npy", lambda path, matrix: np.save(path, np.asfortranarray(matrix))),
    "npy big-endian": ("x.npy", lambda path, matrix: np.save(path, matrix.astype(">f4"))),
    "npz": ("x.npz", lambda path, matrix: np.savez(path, matrix, names=np.arange(3))),
    "npz fortran": ("x.npz", lambda path, matrix: np.savez(path, np.asfortranarray(matrix))),
    "npz compressed": ("x.npz", lambda path, matrix: np.savez_compressed(path, features=matrix, other=matrix[:2])),
    "npz compressed fortran": ("x.npz", lambda path, matrix: np.savez_compressed(path, np.asfortranarray(matrix))),
    "pickle": ("x.pickle", lambda path, matrix: path.write_bytes(pickle.dumps(matrix))),
    "pkl": ("x.pkl", lambda path, matrix: path.write_bytes(pickle.dumps(list(matrix)))),
    "parquet lists": ("x.parquet", write_parquet_lists),
    "parquet fixed": ("x.parquet", write_parquet_fixed),
    "parquet wide": ("x.parquet", write_parquet_wide),
    "csv joined": ("x.csv", write_csv_joined),
    "csv wide": ("x.csv", write_csv_wide),
    "csv headerless": ("x.csv", write_csv_headerless),
    "hdf5": ("x.h5", write_hdf5),
    "hdf5 long": ("x.hdf5", write_hdf5),
}


@pytest.fixture
def matrix(rng):
    return rng.normal(size=(101, 9)).astype(np.float32)


@pytest.mark.parametrize("kind", WRITERS)
def test_round_trip(tmp_path, memory, matrix, rng, kind):
    name, write = WRITERS[kind]
    write(tmp_path / name, matrix)
    file = open_descriptor(tmp_path / name, memory)
    assert (file.n_rows, file.n_features) == matrix.shape
    for size in (1, 10, 101, 1000):
        blocks = list(file.blocks(size))
        assert all(len(block) == size for block in blocks[:-1])
        np.testing.assert_array_equal(np.concatenate(blocks), matrix)
    rows = np.sort(rng.choice(101, 30, replace=False))
    np.testing.assert_array_equal(np.concatenate(list(file.blocks(13, rows))), matrix[rows])


def test_every_format_is_tested():
    assert set(FORMATS) == {"." + name.split(".")[1] for name, _ in WRITERS.values()}


def test_names_inside_a_table(tmp_path, memory, matrix):
    for kind in ("csv joined", "parquet lists", "parquet wide"):
        name, write = WRITERS[kind]
        write(tmp_path / name, matrix)
        assert open_descriptor(tmp_path / name, memory).image_names().tolist() == names(matrix)
    write_csv_wide(tmp_path / "x.csv", matrix)
    assert open_descriptor(tmp_path / "x.csv", memory).image_names() is None


@pytest.mark.parametrize("kind", ["lists", "wide", "csv joined", "csv wide"])
def test_a_bad_value_costs_its_row(tmp_path, memory, matrix, kind):
    """A missing value, a text and a vector of another length are NaN rows; all others stay as they are."""
    values: list = matrix.astype(float).tolist()
    values[3][1] = None
    if kind == "lists":
        path = tmp_path / "x.parquet"
        values[7], values[9] = values[7][:4], None
        pq.write_table(pa.table({"v": values}), path)
    elif kind == "wide":
        path = tmp_path / "x.parquet"
        values[7][0] = values[9][2] = None
        pq.write_table(pa.table({f"f{j}": [row[j] for row in values] for j in range(9)}), path)
    elif kind == "csv joined":
        path = tmp_path / "x.csv"
        values[7], values[9][0] = values[7][:4], "abc"
        text = [",".join("" if v is None else str(v) for v in row) for row in values]
        pd.DataFrame({"filename": names(matrix), "features": text}).to_csv(path, index=False)
    else:
        path = tmp_path / "x.csv"
        values[7][2], values[9][0] = "n/a", "abc"
        pd.DataFrame(values, columns=[f"f{j}" for j in range(9)]).to_csv(path, index=False)
    found = np.concatenate(list(open_descriptor(path, memory).windows(40)))
    bad = np.isnan(found).any(axis=1)
    assert np.flatnonzero(bad).tolist() == [3, 7, 9]
    np.testing.assert_array_equal(found[~bad], matrix[~bad].astype(float))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.pickle", "x.parquet", "x.h5"])
def test_truncated_file(tmp_path, memory, matrix, name):
    write = next(write for known, write in WRITERS.values() if known == name)
    write(tmp_path / name, np.tile(matrix, (40, 1)))
    content = (tmp_path / name).read_bytes()
    for share in (0, 0.01, 0.5, 0.99):
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=r"truncated|readable|damaged"):
            open_descriptor(tmp_path / name, memory)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", np.zeros(5), "shape"),
        ("x.npy", np.zeros((2, 2, 2)), "shape"),
        ("x.npy", np.zeros((0, 4)), "no row"),
        ("x.npy", np.zeros((4, 0)), "no column"),
        ("x.npy", np.array([["a", "b"]]), "dtype"),
        ("x.npy", np.array([[{}, 1]], dtype=object), "dtype object"),
        ("x.csv", "", "empty"),
        ("x.csv", "filename,features\n", "no row"),
        ("x.csv", "filename,colour\na.jpg,red\n", "no column of numbers"),
        ("x.csv", "a,b\n1,2\n3\n", "row 2 has 1 columns, the first has 2"),
        ("x.csv", 'filename,f,g\na,"1,2","3,4"\n', "2 columns of vectors"),
        ("x.txt", "1 2", "unknown descriptor format"),
    ],
)
def test_what_is_no_matrix(tmp_path, memory, name, content, message):
    path = tmp_path / name
    np.save(path, content) if isinstance(content, np.ndarray) else path.write_text(content)
    with pytest.raises(InputError, match=message):
        open_descriptor(path, memory)


@pytest.mark.parametrize(
    ("text", "matrix", "images"),
    [
        ("0,1\n5,6.5\n7,8\n", [[5, 6.5], [7, 8]], None),  # pandas' column numbers
        ("0,2,3\n5,,6.5\n7,,8\n", None, "header or numbers"),
        ("5,6,7\n5,1,6.5\n7,1,8\n", None, "header or numbers"),
        ("1,2,3\n5,1,6.5\n", [[5, 1, 6.5]], None),
        ("9,2,3\n5,1,6.5\n", [[9, 2, 3], [5, 1, 6.5]], None),
        (",1,2\n0,5,6\n1,7,8\n", [[5, 6], [7, 8]], None),
        ("filename,0,1\na,5,6\nb,7,8\n", [[5, 6], [7, 8]], ["a", "b"]),
        ("0,1\n5,6\n7,8\n", None, "header or numbers"),
        ("0\n1\n2\n", None, "header or numbers"),
        ("3,7\n5,6\n7,8\n", [[3, 7], [5, 6], [7, 8]], None),
        ("1,bad\n2,bad\n3,bad\n", None, "column 1 holds text"),
        ("0,5.5\n1,6.5\n2,7.5\n", None, "first column counts"),
        ("f\n1.5\n\n3.5\n", [[1.5], [np.nan], [3.5]], None),  # a missing value of the only column
        (",0,1\n0,5,6\n1,7,8\n", [[5, 6], [7, 8]], None),
        ("Unnamed: 0,a,b\n0,5,6\n1,7,8\n", [[5, 6], [7, 8]], None),
        ('x.jpg,"1,2"\ny.jpg,"3,4"\n', [[1, 2], [3, 4]], ["x.jpg", "y.jpg"]),  # no header
        ("x.jpg,1,2\ny.jpg,3,4\n", [[1, 2], [3, 4]], ["x.jpg", "y.jpg"]),
        ("1,2,\n3,4,\n", [[1, 2], [3, 4]], None),  # trailing comma
        ("\ufeff1,2\n3,4\n", [[1, 2], [3, 4]], None),  # byte order mark
        ("\ufefflabel,a,b\n9,1,2\n9,3,4\n", [[1, 2], [3, 4]], None),
        ("a,a,b\n1,2,3\n4,5,6\n", [[1, 2, 3], [4, 5, 6]], None),  # a header twice
        ('filename,features\na,"1,2,3"\nb,"1,2"\nc,"3,4"\n', [[np.nan] * 2, [1, 2], [3, 4]], ["a", "b", "c"]),
        ("class,filename,a\ncar,x.jpg,1\nvan,y.jpg,2\n", [[1], [2]], ["x.jpg", "y.jpg"]),
        ("filename,a\nNA,1\nnull,2\n", [[1], [2]], ["NA", "null"]),
        ("filename,a\n001,1\n002,2\n", [[1], [2]], ["001", "002"]),
        (",a,b\nx.jpg,1,2\ny.jpg,3,4\n", [[1, 2], [3, 4]], ["x.jpg", "y.jpg"]),  # pandas' string index
        ('"file\nname",a\nx,1\ny,2\n', None, "holds no numbers"),
        ("a,b\n\n1,2\n\n3,4\n", [[1, 2], [3, 4]], None),  # blank lines
        ("a,b\r\n1,2\r\n3,4\r\n", [[1, 2], [3, 4]], None),
        ("1,2\n", [[1, 2]], None),  # one row
    ],
)
def test_dialects_of_csv(tmp_path, memory, text, matrix, images):
    (tmp_path / "x.csv").write_text(text, newline="")
    if matrix is None:
        with pytest.raises(InputError, match=images):
            open_descriptor(tmp_path / "x.csv", memory)
        return
    file = open_descriptor(tmp_path / "x.csv", memory)
    np.testing.assert_array_equal(np.concatenate(list(file.windows(10))), matrix)
    names = file.image_names()
    assert images == (None if names is None else names.tolist())


def test_a_feature_that_is_no_number_at_the_top_is_not_dropped(tmp_path, memory):
    (tmp_path / "x.csv").write_text("a,b\n" + "1,none\n" * 150 + "2,3\n")
    with pytest.raises(InputError, match="column 'b' holds no numbers"):
        open_descriptor(tmp_path / "x.csv", memory)


def test_parquet_of_other_types(tmp_path, memory):
    """Dictionary-encoded and decimal numbers, an index, a short first vector."""
    from decimal import Decimal

    table = {
        "label": ["car", "van"],
        "filename": pa.array(["x", "y"]).dictionary_encode(),
        "a": pa.array([1.5, 2.5]).dictionary_encode(),
        "b": pa.array([Decimal("3.25"), Decimal("4.25")]),
        "Id": [7, 8],
    }
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    file = open_descriptor(tmp_path / "x.parquet", memory)
    np.testing.assert_array_equal(np.concatenate(list(file.windows(10))), [[1.5, 3.25], [2.5, 4.25]])
    assert file.image_names().tolist() == ["x", "y"]
    frame = pd.DataFrame({"f0": [1.5, 2.5]}, index=pd.Index([7, 3], name="image_id")).assign(filename=[4, 5])
    frame.to_parquet(tmp_path / "x.parquet")
    file = open_descriptor(tmp_path / "x.parquet", memory)
    np.testing.assert_array_equal(np.concatenate(list(file.windows(10))), [[1.5], [2.5]])
    assert file.image_names().tolist() == ["4", "5"]
    pq.write_table(pa.table({"f0": [1.0], "f1": ["1.5"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="column 'f1' holds no numbers"):
        open_descriptor(tmp_path / "x.parquet", memory)
    pq.write_table(pa.table({"v": [[1.0], [1.0, 2.0], [3.0, 4.0]]}), tmp_path / "x.parquet")
    found = np.concatenate(list(open_descriptor(tmp_path / "x.parquet", memory).windows(10)))
    assert np.isnan(found).all(axis=1).tolist() == [True, False, False]


def test_npz_whose_header_promises_too_much(tmp_path, memory, matrix):
    """The bytes of the next member are not rows of this one."""
    np.savez(tmp_path / "x.npz", a=matrix, b=matrix[0])
    content = (tmp_path / "x.npz").read_bytes()
    assert b"(101, 9)" in content
    changed = content.replace(b"(101, 9)", b"(102, 9)")
    import zipfile
    import zlib

    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        member = archive.read("a.npy")
    old, new = (zlib.crc32(m).to_bytes(4, "little") for m in (member, member.replace(b"(101, 9)", b"(102, 9)")))
    (tmp_path / "x.npz").write_bytes(changed.replace(old, new))
    with pytest.raises(InputError, match="does not match its"):
        open_descriptor(tmp_path / "x.npz", memory)


def test_bytes_after_an_npy(tmp_path, memory, matrix):
    np.save(tmp_path / "x.npy", matrix)
    with (tmp_path / "x.npy").open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match="4 bytes more than its header says"):
        open_descriptor(tmp_path / "x.npy", memory)


def test_a_table_that_changes_after_opening(tmp_path, memory, matrix):
    write_csv_wide(tmp_path / "x.csv", matrix)
    file = open_descriptor(tmp_path / "x.csv", memory)
    write_csv_wide(tmp_path / "x.csv", matrix[:50])
    with pytest.raises(InputError, match="has 50 rows, 101 when it was opened"):
        list(file.blocks(40))


def test_ambiguous_and_missing(tmp_path, memory, matrix):
    np.savez(tmp_path / "two.npz", a=matrix, b=matrix)
    with pytest.raises(InputError, match=r"2 two-dimensional arrays \(of: a, b\)"):
        open_descriptor(tmp_path / "two.npz", memory)
    with pytest.raises(InputError, match="does not exist"):
        open_descriptor(tmp_path / "no.npy", memory)


def test_a_file_that_shrinks_is_an_error_not_a_crash(tmp_path, memory, matrix):
    np.save(tmp_path / "x.npy", matrix)
    file = open_descriptor(tmp_path / "x.npy", memory)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:600])
    with pytest.raises(InputError, match="shorter"):
        list(file.windows(50))
