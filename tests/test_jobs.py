"""The older command lines: from photographs to crops, vectors and clusters, in a folder of their own."""

from __future__ import annotations

import csv
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import astronaut
from sklearn.metrics import adjusted_rand_score
from test_run import execute

from toolkit.faces.models import make_embedder

JOBS = Path(__file__).parent.parent / "jobs"


def run(folder, job, *options):
    """Run a job in a folder as its users do and return what it prints."""
    command = [sys.executable, JOBS / f"{job}.py", *options]
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run a job in an empty folder as `run` does, but in this process; return its exit code."""

    def start(job, *options):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{job}.py", *options])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(JOBS / f"{job}.py"), run_name="__main__")
        return left.value.code

    return start


def older_vectors(path):
    """Read vectors as clustering scripts have always done."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        assert next(rows) == ["filename", "features"]
        return {name: [float(number) for number in features.split(",")] for name, features in rows}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def cropped(tmp_path_factory):
    """A folder in which photographs were cropped, and what the job said."""
    folder = tmp_path_factory.mktemp("user")
    face = Image.fromarray(np.ascontiguousarray(astronaut()[:, ::-1]))  # this way round the strict detector finds it
    paler = face.point([value // 2 + 100 for value in range(256)] * 3)
    for name, picture in {"a/ada.jpg": face, "b/ada.jpg": paler, "b/eve.png": paler, "two words.JPG": face}.items():
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=95)
    (folder / "photos" / "broken.jpg").write_bytes(b"no image")
    Image.new("RGB", (200, 200)).save(folder / "photos" / "nobody.jpg")
    return folder, run(folder, "image_preprocessing", "--directory", "photos")


def test_one_crop_per_image_under_its_own_name(cropped):
    folder, said = cropped
    faces = pd.read_csv(folder / "temp.faces" / "faces.csv").set_index("image_path")["crop"]
    expected = {"a/ada.jpg": "ada.jpg", "b/ada.jpg": "ada-2.jpg", "b/eve.png": "eve.png", "two words.JPG": "two words.JPG"}  # fmt: skip # noqa: E501
    assert sorted(path.name for path in (folder / "temp").iterdir()) == sorted(expected.values())
    for image, name in expected.items():
        with Image.open(folder / "temp" / name) as crop, Image.open(folder / "temp.faces" / faces[image]) as cut:
            assert crop.format == ("PNG" if name.endswith("png") else "JPEG")
            assert crop.size == (224, 224)
            apart = np.abs(np.asarray(crop, float) - np.asarray(cut, float)).mean()
            assert apart == 0 if crop.format == "PNG" else 0 < apart < 3
    assert said.count("ada") == 0
    assert "1 crops have another name" in said
    names = pd.read_csv(folder / "temp.faces" / "names.csv")
    assert names.to_numpy().tolist() == [["b/ada.jpg", "temp/ada-2.jpg"]]
    assert list(names) == ["source", "crop"]
    assert "4 faces in 6 images; 2 images without" in said
    quarantine = pd.read_csv(folder / "temp.faces" / "quarantine.csv")
    assert quarantine["image_path"].tolist() == ["broken.jpg", "nobody.jpg"]


def test_again_changes_nothing_and_a_lost_folder_is_made_again(cropped):
    folder, _ = cropped
    before = contents(folder / "temp")
    assert "is finished already" in run(folder, "image_preprocessing", "--directory", "photos")
    assert contents(folder / "temp") == before
    (folder / "temp").rename(folder / "away")
    run(folder, "image_preprocessing", "--directory", "photos")
    assert contents(folder / "temp") == before


def test_vectors_as_older_scripts_read_them(cropped):
    folder, _ = cropped
    (folder / "temp" / "none.jpg").write_bytes(b"no image")
    said = run(folder, "pic2vec", "--model_name", "dlib")
    (folder / "temp" / "none.jpg").unlink()
    found = older_vectors(folder / "image_features.csv")
    assert list(found) == ["ada-2.jpg", "ada.jpg", "eve.png", "two words.JPG"]
    images = [np.asarray(Image.open(folder / "temp" / name)) for name in found]
    np.testing.assert_array_equal(np.float32(list(found.values())), make_embedder("dlib")(images))
    assert "1 without a descriptor" in said
    assert "none.jpg" in (folder / "image_features.descriptors" / "quarantine_dlib.csv").read_text()


def test_clusters_are_those_of_a_run(tmp_path, rng, start):
    people = rng.permuted(np.repeat(np.arange(4), 15))
    X = np.float32(rng.normal(size=(4, 5))[people] * 9 + rng.normal(size=(60, 5)))
    lines = [f'{i}.jpg,"{",".join(map(str, row))}"' for i, row in enumerate(X.tolist())]
    (tmp_path / "vectors.csv").write_text("\n".join(["filename,features", *lines, '"no, one.jpg","nan,0,0,0,0"', ""]))
    (tmp_path / "vectors.npy").write_bytes(b"of another job")
    (tmp_path / "images_paths.csv").write_text("path\nof another job\n")
    said = run(tmp_path, "clustering", "--embeddings_path", "vectors.csv", "--num_clusters", 4)
    found = pd.read_csv(tmp_path / "cluster_results.csv")
    assert list(found) == ["image_name", "class"]
    assert found["image_name"].tolist() == [f"{i}.jpg" for i in range(60)]
    assert adjusted_rand_score(people, found["class"]) == 1
    assert "60 images in 4 clusters" in said
    (tmp_path / "descriptors").mkdir()
    np.save(tmp_path / "descriptors" / "x.npy", X)
    stage = {"name": "a", "scalers": ["none"], "grid": {"KMeans": {"n_clusters": [7]}}}
    execute({"descriptors": {"folder": str(tmp_path / "descriptors")}, "stages": [stage]}, tmp_path / "out")
    expected = pd.read_csv(tmp_path / "out" / "best_clusterization.csv").iloc[:, 1].tolist()
    start("clustering", "--embeddings_path", "vectors.csv", "--num_clusters", "7", "--output_csv", "seven.csv")
    assert pd.read_csv(tmp_path / "seven.csv")["class"].tolist() == expected
    assert not list(tmp_path.glob(".*")), "the run was not removed"


@pytest.mark.parametrize(
    ("job", "options", "expected"),
    [
        ("image_preprocessing", ["--directory", "nowhere"], "images nowhere does not exist"),
        ("image_preprocessing", [], "Missing option '--directory'"),
        ("pic2vec", ["--model_name", "dlib"], "images temp does not exist"),
        ("pic2vec", ["--model_name", "vgg"], "unknown model 'vgg'; known: "),
        ("pic2vec", [], "model vggface_resnet50 needs weights"),
        ("pic2vec", ["--model_name", "senet50"], "model vggface_senet50 needs weights"),
        ("clustering", ["--embeddings_path", "nowhere.csv", "--num_clusters", "2"], "nowhere.csv is not a file"),
        (
            "clustering",
            ["--embeddings_path", "few.csv", "--num_clusters", "4"],
            "--num_clusters is 4; allowed: at most",
        ),
        ("clustering", ["--embeddings_path", "few.csv", "--num_clusters", "1"], "--num_clusters is 1; allowed"),
        ("clustering", ["--embeddings_path", "nameless.csv", "--num_clusters", "2"], "has no column filename, but 'x,"),
        ("clustering", ["--embeddings_path", "text.csv", "--num_clusters", "2"], "text.csv"),
        ("clustering", ["--embeddings_path", "few.csv", "--num_clusters", "2", "--output_csv", "."], ". is a folder"),
    ],
)
def test_bad_input_is_one_line(job, options, expected, tmp_path, start, capsys):
    (tmp_path / "few.csv").write_text('filename,features\na,"1.5,2"\nb,"2,3"\nc,"4,5"\n')
    (tmp_path / "nameless.csv").write_text('x,features\na,"1.5,2"\n')
    (tmp_path / "text.csv").write_text("filename,features\na,b\n")
    assert start(job, *options) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert expected in last
    assert ".unfinished" not in last
    assert not {path.name for path in tmp_path.iterdir()} & {"temp", "image_features.csv", "cluster_results.csv"}


def test_crops_of_something_else_stay(tmp_path, start, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "temp").mkdir()
    assert start("image_preprocessing", "--directory", "photos") == 2
    assert "remove both temp and temp.faces to begin anew" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "photos", tmp_path / "temp"]


def test_without_torch_an_image_of_a_cluster_is_refused_in_one_line(start, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert start("cvae_inference", "--cluster", "1") == 2
    assert "pip install torch" in capsys.readouterr().err.splitlines()[-1]
