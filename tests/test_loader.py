"""DataLoader: names, lengths, fractions, image paths."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

import toolkit
from toolkit.errors import InputError, MissingPackageError


@pytest.fixture
def folder(tmp_path, rng):
    np.save(tmp_path / "a.npy", rng.normal(size=(50, 4)).astype(np.float32))
    np.savez(tmp_path / "b.npz", rng.normal(size=(50, 7)))
    (tmp_path / "notes.txt").write_text("not a descriptor")
    return tmp_path


def test_every_descriptor_by_default(folder):
    loader = toolkit.DataLoader(descriptor_folder=folder)
    assert loader.names == ("a", "b")
    assert loader.n_rows == 50
    assert loader.image_paths is None
    assert toolkit.DataLoader(["b"], folder).names == ("b",)


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.999, 1.0])
def test_a_fraction_is_sorted_random_rows(folder, fraction):
    loader = toolkit.DataLoader(descriptor_folder=folder)
    whole = loader.load_descriptor("a")
    part = loader.load_descriptor("a", data_fraction=fraction, random_state=3)
    assert loader.descriptor[0] == "a"
    assert loader.descriptor[1] is part
    assert len(part) == math.ceil(fraction * 50)
    where = [int(np.flatnonzero((whole == row).all(axis=1))[0]) for row in part]
    assert where == sorted(set(where))
    np.testing.assert_array_equal(part, loader.load_descriptor("a", "numpy", fraction, 3))


def test_different_seeds_take_different_rows(folder):
    loader = toolkit.DataLoader(descriptor_folder=folder)
    assert not np.array_equal(loader.rows(0.5, 1), loader.rows(0.5, 2))


@pytest.mark.parametrize("fraction", [0, -1, 1.5])
def test_fraction_out_of_range(folder, fraction):
    with pytest.raises(InputError, match="fraction is"):
        toolkit.DataLoader(descriptor_folder=folder).rows(fraction)


@pytest.mark.parametrize("header", [True, False, "pandas"])
def test_image_paths(folder, header):
    names = [f"i/{i}.jpg" for i in range(50)]
    if header == "pandas":
        pd.DataFrame({"path": names}).to_csv(folder / "images_paths.csv")
    else:
        (folder / "images_paths.csv").write_text("\n".join((["path"] if header else []) + names) + "\n")
    assert toolkit.DataLoader(descriptor_folder=folder).image_paths.tolist() == names
    assert "images_paths" not in toolkit.DataLoader(descriptor_folder=folder).names


def test_lengths_that_differ_are_both_named(folder, rng):
    (folder / "images_paths.csv").write_text("path\n" + "x.jpg\n" * 49)
    with pytest.raises(InputError, match=r"49 image paths.* 50 rows"):
        _ = toolkit.DataLoader(descriptor_folder=folder).image_paths
    np.save(folder / "c.npy", rng.normal(size=(51, 4)))
    with pytest.raises(InputError, match="a 50, b 50, c 51"):
        toolkit.DataLoader(descriptor_folder=folder)


def test_image_paths_with_commas_and_marks(folder):
    names = [f"a,{i}.jpg" for i in range(50)]
    (folder / "images_paths.csv").write_text("\ufeffpath\n" + "".join(f'"{name}"\n' for name in names))
    assert toolkit.DataLoader(descriptor_folder=folder).image_paths.tolist() == names
    (folder / "images_paths.csv").write_text("path\n" + "\n".join(names))
    with pytest.raises(InputError, match="quote paths that hold commas"):
        _ = toolkit.DataLoader(descriptor_folder=folder).image_paths


def test_what_is_not_there(folder, tmp_path):
    with pytest.raises(InputError, match="unknown descriptor 'z'; known: a, b"):
        toolkit.DataLoader(["z"], folder)
    with pytest.raises(InputError, match="does not exist"):
        toolkit.DataLoader(descriptor_folder=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no descriptor file"):
        toolkit.DataLoader(descriptor_folder=tmp_path / "empty")
    with pytest.raises(InputError, match="unknown dtype"):
        toolkit.DataLoader(descriptor_folder=folder).load_descriptor("a", "tensorflow")


def test_the_same_name_twice(folder, rng):
    np.save(folder / "b.npy", rng.normal(size=(50, 4)))
    with pytest.raises(InputError, match="twice"):
        toolkit.DataLoader(descriptor_folder=folder)


def test_too_large_for_the_budget(folder):
    loader = toolkit.DataLoader(descriptor_folder=folder, memory="1MiB")
    with pytest.raises(InputError, match="1 MiB"):
        loader.load_descriptor("a")


@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_other_array_libraries(folder, library):
    """Where the library is installed it hands out the same numbers; where not, it says what to install."""
    loader = toolkit.DataLoader(descriptor_folder=folder)
    try:
        __import__(library)
    except ImportError:
        with pytest.raises(MissingPackageError, match=f"pip install {library}"):
            loader.load_descriptor("a", library)
    else:
        found = loader.load_descriptor("a", library)
        assert type(found).__module__.startswith(library)
        np.testing.assert_array_equal(np.asarray(found.cpu()), loader.load_descriptor("a"))
