"""Labels of images from everything that has them."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from test_run import execute

from toolkit.aggregate.labels import read_labels
from toolkit.errors import InputError
from toolkit.grid.finished import FinishedRun
from toolkit.naming import label_images


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on all of 90 rows but one, which holds NaN."""
    folder = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(3)
    X = (np.repeat(rng.normal(size=(3, 5)) * 9, 30, axis=0) + rng.normal(size=(90, 5))).astype(np.float32)
    X[7] = np.nan
    (folder / "d").mkdir()
    np.save(folder / "d" / "a.npy", X)
    (folder / "d" / "images_paths.csv").write_text("path\n" + "".join(f"in/{i}.jpg\n" for i in range(90)))
    grid = {"KMeans": {"n_clusters": [3, 5]}, "DBSCAN": {"eps": [0.15], "min_samples": [6]}}
    stage = {"name": "s", "n_components": 4, "scalers": ["norm"], "grid": grid}
    execute(
        {"descriptors": {"folder": str(folder / "d")}, "stages": [stage], "best": {"by": "silhouette_score"}},
        folder / "out",
    )
    return folder / "out"


@pytest.fixture
def out(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def table(tmp_path, *lines, name="labels.csv"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def classes(labels):
    """Image -> name of its class."""
    return dict(zip(labels.paths.tolist(), [labels.names[number] for number in labels.classes], strict=True))


def test_a_csv_of_the_seed(tmp_path):
    found = read_labels(table(tmp_path, "image_name,class", "b.jpg,10", "a.jpg,9", "c.jpg,10"))
    assert found.names == ("9", "10")  # by number, not by the alphabet
    assert classes(found) == {"b.jpg": "10", "a.jpg": "9", "c.jpg": "10"}
    assert found.paths.tolist() == ["b.jpg", "a.jpg", "c.jpg"]
    assert found.sizes.tolist() == [1, 2]
    assert "9: 1, 10: 2" in found.text


def test_noise_and_empty_cells_are_left_out_and_counted(tmp_path):
    lines = ["image_path,m", "a,0.0", "b,-1.0", "c,", "d,2", "e,noise", "f,3.noise", "g,-1"]
    found = read_labels(table(tmp_path, *lines))
    assert classes(found) == {"a": "0", "d": "2"}
    assert (found.n_noise, found.n_unlabelled) == (4, 1)
    assert "left out: 4 noise, 1 unlabelled" in found.text


def test_the_column_is_chosen(tmp_path):
    path = table(tmp_path, "image_path,first model,second", "a,0,1", "b,0,2")
    assert read_labels(path).names == ("0",)
    assert read_labels(path, model="second").names == ("1", "2")
    with pytest.raises(InputError, match=r"unknown column of labels 'third'; known: first model, second$"):
        read_labels(path, model="third")


def test_names_of_a_labelled_csv(tmp_path):
    lines = ["image_path,cluster,name,source", "a,0,old men,fitted", "b,1,old men,fitted", "c,2,,fitted"]
    lines += [
        "d,-1,odd ones,fitted",
        "e,0.noise,,fitted",
        "f,,,unreadable",
        "g,3,'=SUM(1),assigned",
        "h,4.1,young 1,fitted",
    ]
    found = read_labels(table(tmp_path, *lines))
    assert classes(found) == {"a": "old men", "b": "old men", "c": "2", "g": "=SUM(1)", "h": "young 1"}
    assert (found.n_noise, found.n_unlabelled) == (2, 1)


def test_an_image_twice(tmp_path):
    same = read_labels(table(tmp_path, "image_name,class", "a,1", "b,0", "a,1.0"))
    assert classes(same) == {"a": "1", "b": "0"}
    with pytest.raises(InputError, match="image 'a' has the labels '1' and '2'; keep one"):
        read_labels(table(tmp_path, "image_name,class", "a,1", "a,2"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["name,class", "a,1"], "no column of images"),
        (["image_name", "a"], "no column beside the images"),
        (["image_name,class", "a,1,2"], "row 2 has 3 cells, the header has 2"),
        (["image_name,class", "a,-1"], "has no label but noise"),
        (["image_name,class"], "has no label but noise"),
        ([""], "no column of images"),
    ],
)
def test_what_is_wrong_with_a_table(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        read_labels(table(tmp_path, *lines))


def test_no_table(tmp_path):
    with pytest.raises(InputError, match="do not exist; give the folder of a run"):
        read_labels(tmp_path / "none.csv")
    (tmp_path / "image.csv").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match="not a readable CSV in UTF-8"):
        read_labels(tmp_path / "image.csv")


def test_a_run_and_its_tables_say_the_same(out):
    run = FinishedRun(out, device="cpu")
    best = run.finalists[0]
    from_folder, from_table = read_labels(out), read_labels(out / "best_clusterization.csv")
    expected = {
        path: str(label) for path, label in zip(run.image_paths, run.all_labels(best), strict=True) if label >= 0
    }
    assert classes(from_folder) == classes(from_table) == expected
    assert from_folder.n_unlabelled == from_table.n_unlabelled == 1
    other = next(model for model in run.models.values() if dict(model.cell.params) == {"n_clusters": 5})
    assert len(read_labels(out, model=other.name).names) == 5
    noisy = next(model for model in run.models.values() if model.cell.cluster_class == "DBSCAN")
    assert read_labels(out, model=noisy.name).n_noise == np.count_nonzero(run.labels(noisy) == -1) > 0


def test_clusters_of_one_name_are_one_class(out):
    run = FinishedRun(out, device="cpu")
    model = next(model for model in run.models.values() if dict(model.cell.params) == {"n_clusters": 3})
    rows = [f"{model.name},{cluster},{name}" for cluster, name in ((0, "x"), (1, ""), (2, "x"))]
    names = table(out, "model,cluster,name", *rows, name="names.csv")
    label_images(out, device="cpu")
    found = read_labels(names)
    assert found.names == ("1", "x")
    assert found.sizes.tolist() == np.bincount(run.labels(model) != 1, minlength=2).tolist()
    assert classes(found) == classes(read_labels(out / "labelled.csv"))
    assert len(read_labels(out, model=model.name).names) == 3  # the run itself, without names
    table(out, "model,cluster,name,split", f"{model.name},0,x,KMeans n_clusters=2", name="names.csv")
    with pytest.raises(InputError, match=r"splits clusters of .*; give .*labelled\.csv"):
        read_labels(names)


def test_names_for_two_models(out):
    run = FinishedRun(out, device="cpu")
    two = [model for model in run.models.values() if model.cell.cluster_class == "KMeans"]
    names = table(out, "model,cluster,name", *(f"{one.name},0,x" for one in two), name="names.csv")
    with pytest.raises(InputError, match=r"for 2 models.*choose one with --model"):
        read_labels(names)
    assert read_labels(names, model=two[1].name).names == read_labels(names, model=two[1].id).names
    other = next(model for model in run.models.values() if model.cell.cluster_class == "DBSCAN")
    with pytest.raises(InputError, match="names no cluster of"):
        read_labels(names, model=other.name)


def test_of_which_run_and_model_labels_are(out, tmp_path):
    labels, column = read_labels(out), read_labels(out / "best_clusterization.csv")
    assert (labels.run, labels.is_named) == (out, False)
    assert labels.model == FinishedRun(out).finalists[0].id
    assert (column.run, column.model) == (out, None)
    elsewhere = read_labels(table(tmp_path, "image_name,class", "a.jpg,1"))
    assert (elsewhere.run, elsewhere.model) == (None, None)
    kept = labels.keep(np.arange(3))
    assert (kept.run, kept.model) == (out, labels.model)


def test_keep(tmp_path):
    kept = read_labels(table(tmp_path, "image_name,class", "a,0", "b,1", "c,2", "d,2")).keep(np.array([0, 3]))
    assert kept.names == ("0", "2")
    assert classes(kept) == {"a": "0", "d": "2"}
    assert pd.Series(kept.classes).tolist() == [0, 1]


@pytest.mark.parametrize(("n", "n_shared"), [(20, 0), (40, 19)])
def test_values_are_no_labels(tmp_path, n, n_shared):
    def lines(shared):
        return [f"{i}.jpg,{7 if i < shared else f'[{i}.25 {0.1 * i} ' + '0.1 ' * 99 + ']'}" for i in range(n)]

    with pytest.raises(InputError, match=r"column features has .* different values") as refused:
        read_labels(table(tmp_path, "image_name,features", *lines(n_shared)))
    assert "it holds no clusters; give labels such as cluster_results.csv" in str(refused.value)
    assert len(str(refused.value)) < 400 + len(str(tmp_path))
    read_labels(table(tmp_path, "image_name,features", *lines(n // 2)))  # half are alone, not more
    read_labels(table(tmp_path, "image_name,features", *lines(0)[:19]))  # few images may each be a class


def test_long_names_are_shortened_where_they_are_printed(tmp_path):
    found = read_labels(table(tmp_path, "image_name,class", f"a.jpg,{'x' * 900}", "b.jpg,y"))
    assert found.names[0] == "x" * 900
    assert f"({'x' * 31}…: 1, y: 1)" in found.text


def test_semicolons(tmp_path):
    with pytest.raises(InputError, match="are separated by semicolons; save them as CSV separated by commas"):
        read_labels(table(tmp_path, "image_name;class", "a.jpg;1", "b.jpg;2"))
