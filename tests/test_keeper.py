"""DataKeeper: the right matrix, computed once, within the budget."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import toolkit
from toolkit.descriptors import keeper as keeper_module
from toolkit.descriptors.keeper import DataKeeper, Sample
from toolkit.descriptors.loader import DataLoader
from toolkit.errors import InputError


@pytest.fixture
def folder(tmp_path, blobs):
    (tmp_path / "descriptors").mkdir()
    np.save(tmp_path / "descriptors" / "a.npy", blobs[0])
    np.save(tmp_path / "descriptors" / "b.npy", np.asfortranarray(blobs[0][:, ::2].astype(np.float64) + 1e3))
    return tmp_path / "descriptors"


def make(folder, **options):
    loader = DataLoader(descriptor_folder=folder)
    return DataKeeper({"a": 5, "b": 0.9}, loader=loader, cache=folder.parent / "cache", **options)


def test_reduced_and_scaled_as_by_scikit_learn(folder, blobs):
    keeper = make(folder)
    expected = PCA(5, svd_solver="full").fit_transform(blobs[0].astype(np.float64))
    np.testing.assert_allclose(keeper.load_descriptor_PCA("a"), expected, atol=1e-4)
    np.testing.assert_allclose(keeper.get_norm_scaled_descriptor(), MinMaxScaler().fit_transform(expected), atol=1e-5)
    np.testing.assert_allclose(keeper.get_std_scaled_descriptor(), StandardScaler().fit_transform(expected), atol=1e-5)
    assert set(keeper.descriptors_scaled) == {"norm", "std"}
    assert keeper.get_norm_scaled_descriptor().dtype == np.float32
    keeper.del_PCA()
    assert set(keeper.descriptors_scaled) == {"norm", "std"}
    keeper.del_data()
    assert not keeper.descriptors_scaled
    with pytest.raises(InputError, match="load_descriptor_PCA"):
        keeper.get_std_scaled_descriptor()


def test_fraction_is_that_of_the_loader(folder):
    keeper = make(folder)
    part = keeper.load_descriptor_PCA("b", 0.3, 7)
    rows = keeper.loader.rows(0.3, 7)
    assert len(part) == len(rows) == 180
    raw = keeper.loader.load_descriptor("b")[rows]
    np.testing.assert_allclose(part, PCA(part.shape[1], svd_solver="full").fit_transform(raw), atol=1e-5)


def test_no_reduction_keeps_the_values(folder, blobs):
    keeper = DataKeeper(loader=DataLoader(descriptor_folder=folder))
    np.testing.assert_array_equal(keeper.load_descriptor_PCA("a"), blobs[0])


@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (37, 2), (10_000, 3)])
def test_blocks_and_threads_change_nothing(folder, monkeypatch, rows, threads):
    """Threads change no bit; blocks only the rounding of float64 sums, which float32 does not show."""
    expected = {name: make(folder).scale(Sample(name, 0.7, 1, 4), "std") for name in ("a", "b")}
    shutil.rmtree(folder.parent / "cache")
    monkeypatch.setattr(keeper_module, "block_rows", lambda _: rows)
    monkeypatch.setattr(keeper_module, "n_threads", lambda: threads)
    for name, matrix in expected.items():
        np.testing.assert_allclose(make(folder).scale(Sample(name, 0.7, 1, 4), "std"), matrix, atol=1e-5)


def test_nothing_is_computed_twice(folder, monkeypatch):
    """A second keeper over the same cache reads no descriptor; other components reuse the moments."""
    sample = Sample("a", n_components=5)
    first = make(folder).scale(sample, "norm")
    passes = []
    blocks = keeper_module.DataKeeper._stream
    monkeypatch.setattr(
        keeper_module.DataKeeper, "_stream", lambda *a, **k: passes.append(k["what"]) or blocks(*a, **k)
    )
    np.testing.assert_array_equal(make(folder).scale(sample, "norm"), first)
    make(folder).scale(sample, "std")
    assert passes == []
    make(folder).reduce(Sample("a", n_components=3))
    assert passes == ["projection"]


def test_changed_content_is_computed_anew(folder, blobs):
    before = make(folder).scale(Sample("a", n_components=5), "norm")
    np.save(folder / "a.npy", blobs[0] * np.arange(1, 13, dtype=np.float32))
    assert not np.allclose(make(folder).scale(Sample("a", n_components=5), "norm"), before)


@pytest.mark.parametrize(
    "damage", ["truncate", "change", "delete manifest", "no manifest", "delete matrix", "no files"]
)
def test_a_damaged_cache_is_made_again(folder, damage):
    expected = make(folder).scale(Sample("a", n_components=5), "norm")
    entry = next((folder.parent / "cache").glob("reduced-*"))
    if damage == "truncate":
        (entry / "matrix.npy").write_bytes((entry / "matrix.npy").read_bytes()[:-4])
    elif damage == "change":
        content = bytearray((entry / "matrix.npy").read_bytes())
        content[-7] ^= 255
        (entry / "matrix.npy").write_bytes(content)
    elif damage == "no manifest":
        (entry / "entry.json").write_text("[]")
    elif damage == "no files":
        (folder.parent / "cache" / "files.json").write_text("{")
    else:
        (entry / ("entry.json" if damage == "delete manifest" else "matrix.npy")).unlink()
    np.testing.assert_array_equal(make(folder).scale(Sample("a", n_components=5), "norm"), expected)


def test_rows_that_are_not_finite(folder, blobs):
    X = blobs[0].copy()
    X[[3, 500]] = np.nan
    np.save(folder / "a.npy", X)
    reduced = make(folder).reduce(Sample("a", n_components=5))
    assert reduced.bad_rows.tolist() == [3, 500]
    assert len(reduced.rows) == 598
    assert not {3, 500} & set(reduced.rows.tolist())
    part = make(folder).reduce(Sample("a", 0.9, 4, 5))
    chosen = make(folder).loader.rows(0.9, 4)
    assert sorted([*part.rows, *part.bad_rows]) == chosen.tolist()
    for cached in (True, False):
        if not cached:
            shutil.rmtree(folder.parent / "cache")
        with pytest.raises(InputError, match="2 rows hold NaN or inf, the first is row 3"):
            make(folder, strict=True).reduce(Sample("a", n_components=5))


def test_float64_without_reduction_keeps_its_digits(tmp_path, rng):
    X = rng.normal(size=(500, 4)) + 1e9
    np.save(tmp_path / "x.npy", X)
    keeper = DataKeeper(loader=DataLoader(descriptor_folder=tmp_path))
    np.testing.assert_allclose(keeper.scale(keeper.sample("x"), "norm"), MinMaxScaler().fit_transform(X), atol=1e-6)


def test_a_second_keeper_does_not_disturb_the_first(folder, monkeypatch):
    """Two keepers over one cache at once, here one inside the other's computation."""
    measure = keeper_module.measure
    inner = []

    def disturbed(*arguments, **options):
        if not inner:
            inner.append(True)
            inner.append(make(folder).scale(Sample("a", n_components=5), "norm"))
        return measure(*arguments, **options)

    monkeypatch.setattr(keeper_module, "measure", disturbed)
    np.testing.assert_array_equal(make(folder).scale(Sample("a", n_components=5), "norm"), inner[1])


@pytest.mark.parametrize("value", [0, -0.5, 1.5, 5.0, "5", True])
def test_components_out_of_range(folder, value):
    with pytest.raises(InputError, match="allowed: a whole number of at least 1"):
        DataKeeper({"a": value}, loader=DataLoader(descriptor_folder=folder))


def test_names_that_do_not_exist(folder):
    keeper = make(folder)
    with pytest.raises(InputError, match="unknown scaler 'max'; known: l2, none, norm, std"):
        keeper.scale(Sample("a"), "max")
    with pytest.raises(InputError, match="unknown descriptor 'z'"):
        keeper.load_descriptor_PCA("z")
    with pytest.raises(InputError, match="n_components 'z'"):
        DataKeeper({"z": 3}, loader=keeper.loader)


PEAK = """
import numpy as np, toolkit
from toolkit.descriptors.keeper import Sample
from toolkit.memory import peak_bytes
keeper = toolkit.DataKeeper({"x": 20}, loader=toolkit.DataLoader(descriptor_folder=FOLDER, memory=LIMIT), cache=CACHE)
keeper.load_descriptor_PCA("x")
keeper.get_norm_scaled_descriptor()
keeper.get_std_scaled_descriptor()
print(peak_bytes())
"""


def test_peak_memory_stays_within_the_budget(tmp_path, rng):
    """300 MB of pickle through both scalers in a process that may hold 240 MiB."""
    (tmp_path / "in").mkdir()
    X = rng.normal(size=(150_000, 512)).astype(np.float32)
    import pickle

    with (tmp_path / "in" / "x.pickle").open("wb") as file:
        pickle.dump(X, file)
    limit = 240 << 20
    code = PEAK.replace("FOLDER", repr(str(tmp_path / "in"))).replace("LIMIT", str(limit))
    code = textwrap.dedent(code).replace("CACHE", repr(str(tmp_path / "cache")))
    peak = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert peak < limit
    assert peak < X.nbytes


def test_too_small_a_budget_is_refused_with_the_numbers(folder):
    loader = toolkit.DataLoader(descriptor_folder=folder, memory="1MiB")
    with pytest.raises(InputError, match=r"needs .* 0 B of the memory budget of 1 MiB \(given\) is free"):
        DataKeeper({"a": 5}, loader=loader).load_descriptor_PCA("a")
