"""Names for clusters: what a person writes, and what comes of every image."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from test_assign import command, refused
from test_run import execute

from toolkit.errors import InputError
from toolkit.grid.finished import FinishedRun
from toolkit.naming import apply_names, defused, label_images, names_of, read_names
from toolkit.progress import Reporter
from toolkit.splitting import parse_estimator

GRID = {
    "KMeans": {"n_clusters": [3, 4]},
    "DBSCAN": {"eps": [0.12], "min_samples": [4]},
    "HDBSCAN": {"min_cluster_size": [10]},
}
BAD = [5, 17, 400]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on half of the rows, three of which hold NaN."""
    folder = tmp_path_factory.mktemp("naming")
    rng = np.random.default_rng(1)
    X = (rng.normal(size=(4, 6))[rng.integers(0, 4, 500)] * 3 + rng.normal(size=(500, 6))).astype(np.float32)
    X[BAD] = np.nan
    (folder / "d").mkdir()
    np.save(folder / "d" / "a.npy", X)
    (folder / "d" / "images_paths.csv").write_text("path\n" + "".join(f"{i}.jpg\n" for i in range(500)))
    stage = {"name": "s", "fraction": 0.5, "n_components": 4, "scalers": ["norm"], "grid": GRID}
    content = {"descriptors": {"folder": str(folder / "d")}, "stages": [stage], "best": {"by": "silhouette_score"}}
    execute(content, folder / "out")
    return folder


@pytest.fixture
def out(finished, tmp_path):
    shutil.copytree(finished / "out", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def run(out):
    return FinishedRun(out, memory="4GiB", device="cpu")


@pytest.fixture
def label(out, capsys, monkeypatch):
    return lambda *arguments: command(capsys, monkeypatch, "label", out, *arguments, "--device", "cpu")


def model_of(run, family, **params):
    found = (model for model in run.models.values() if model.cell.cluster_class == family)
    return next(model for model in found if params.items() <= dict(model.cell.params).items())


def write(out, *rows, header="model,cluster,name,split"):
    (out / "names.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def labelled(out):
    return pd.read_csv(out / "labelled.csv", dtype=str, keep_default_na=False)


def test_a_form_is_filled_in(out, run, label):
    best = run.finalists[0]
    code, text, errors = label()
    assert code == 0, errors
    assert "fill in the column name" in text
    assert not (out / "labelled.csv").exists()
    form = pd.read_csv(out / "names.csv", keep_default_na=False)
    assert form.columns.tolist() == ["model", "cluster", "name", "split", "n_rows", "share"]
    labels = run.labels(best)
    assert form["cluster"].tolist() == np.unique(labels).tolist()
    assert form["n_rows"].tolist() == [(labels == cluster).sum() for cluster in form["cluster"]]
    assert form["share"].sum() == pytest.approx(1, abs=1e-3)
    form["name"] = ["one", "two", *["rest"] * (len(form) - 2)]  # two clusters with one name share it
    form.to_csv(out / "names.csv", index=False)
    before = (out / "names.csv").read_bytes()
    code, text, errors = label()
    assert code == 0, errors
    assert "497 of 500 images have one of 3 names" in text
    assert (out / "names.csv").read_bytes() == before
    table = labelled(out)
    assert table.columns.tolist() == ["image_path", "cluster", "name", "source"]
    assert table["image_path"].tolist() == [f"{i}.jpg" for i in range(500)]
    seen = run.all_labels(best)
    names = dict(zip(form["cluster"], form["name"], strict=True))
    for row, (cluster, name, source) in enumerate(table[["cluster", "name", "source"]].itertuples(index=False)):
        if row in BAD:
            assert (cluster, name, source) == ("", "", "unreadable")
            continue
        assert source == ("assigned" if seen[row] == -2 else "fitted")
        assert name == names[int(cluster)]
        assert seen[row] in (-2, int(cluster))
    assert {"fitted", "assigned", "unreadable"} == set(table["source"])


def test_rows_that_were_not_seen_go_to_their_nearest_centre(out, run, label):
    model = model_of(run, "KMeans", n_clusters=4)
    write(out, f"{model.id},0,x")
    assert label()[0] == 0
    table = labelled(out)
    projection, statistics = run.reduced(model).projection, run.reduced(model).statistics
    X = np.load(run.loader.open("a").path).astype(np.float64)
    rows = (X - projection.mean) @ projection.components.T
    rows = (rows - statistics.minimum) / (statistics.maximum - statistics.minimum)
    distances = ((rows[:, None] - run.centres(model)) ** 2).sum(axis=2)
    for row in np.flatnonzero(table["source"] == "assigned"):
        assert int(table["cluster"][row]) == distances[row].argmin()


def test_noise_has_a_row_and_a_name(out, run, label):
    model = model_of(run, "DBSCAN")
    assert label("--model", model.name)[0] == 0
    form = (out / "names.csv").read_text()
    assert f"{model.name},-1,,," in form
    write(out, f"{model.name},-1,strange")
    assert label()[0] == 0
    table = labelled(out)
    assert (table["cluster"] == "-1").any()
    assert ((table["name"] == "strange") == (table["cluster"] == "-1")).all()


def test_a_cluster_is_split_by_an_estimator(out, run, label):
    model = model_of(run, "KMeans", n_clusters=3)
    rows = [f"{model.id[:10]},0,car,KMeans n_clusters=3", f"{model.name},0.1,van,", f"{model.name},2,bus,"]
    write(out, *rows)
    code, _, errors = label()
    assert code == 0, errors
    table = labelled(out)
    seen = run.all_labels(model)
    inside = table["cluster"].str.startswith("0.")
    assert (inside[seen > -2] == (seen == 0)[seen > -2]).all()
    assert table["cluster"][inside].drop_duplicates().tolist() == ["0.0", "0.1", "0.2"]  # by first row
    assert table["name"][inside].map({"car 0": "0.0", "van": "0.1", "car 2": "0.2"}).equals(table["cluster"][inside])
    assert set(table["name"][~inside & (table["source"] != "unreadable")]) == {"bus", ""}
    X = run.matrix(model)[run.labels(model) == 0].astype(np.float64)
    parts = table["cluster"][seen == 0].to_numpy()
    means = {part: X[parts == part].mean(axis=0) for part in set(parts)}
    inertia = sum(((x - means[part]) ** 2).sum() for x, part in zip(X, parts, strict=True))
    assert inertia <= 1.01 * KMeans(3, n_init=10, random_state=0).fit(X).inertia_
    assert (table["source"][inside] == "assigned").any()


def test_noise_inside_a_cluster(out, run, label):
    model = model_of(run, "KMeans", n_clusters=3)
    write(out, f"{model.name},1,car,DBSCAN eps=0.05 min_samples=3", f"{model.name},1.noise,odd,")
    code, _, errors = label()
    assert code == 0, errors
    table = labelled(out)
    assert (table["name"][table["cluster"] == "1.noise"] == "odd").any()
    write(out, f"{model.name},1,car,HDBSCAN min_cluster_size=20 min_samples=2")
    assert label()[0] == 0
    table = labelled(out)
    assert set(table["name"][table["cluster"] == "1.noise"]) <= {"car noise"}


def test_a_cluster_is_split_by_another_model(out, run, label):
    model, other = model_of(run, "KMeans", n_clusters=3), model_of(run, "KMeans", n_clusters=4)
    write(out, f"{model.name},0,,{other.name}", f"{model.name},1,b,{other.id}")
    code, _, errors = label()
    assert code == 0, errors
    table = labelled(out)
    seen, divided = run.all_labels(model), run.all_labels(other)
    for cluster in (0, 1):
        inside = np.flatnonzero(seen == cluster)
        pairs = set(zip(table["cluster"][inside], divided[inside], strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert set(table["name"][table["cluster"].str.startswith("0")]) == {""}
    assert set(table["name"][table["cluster"] == "1.0"]) == {"b 0"}


def test_errors_are_one_line(out, run, label):
    model = model_of(run, "KMeans", n_clusters=3)
    name = model.name
    cases = [
        (f"{name},7,x", "line 2", "has no cluster 7", "0, 1, 2"),
        (f"{name},0.1,x", "has no cluster 0.1"),
        (f"{name},-1,x", "has no cluster -1"),
        (f"{name},zero,x", "cluster is 'zero'", "3.noise"),
        ("nobody,0,x", "line 2", "unknown model 'nobody'", name),
        (",0,x", "names no model"),
        (f"{name},0,x\n{model.id},0,y", "line 3", "cluster 0 is there already", "line 2"),
        (f"{name},0,x,y,z,w", "has 6 cells, the header has 4"),
        (f"{name},0,x,Kmeans n_clusters=2", "split of cluster 0", "unknown model", "KMeans, DBSCAN, HDBSCAN"),
        (f"{name},0,x,KMeans k=2", "unknown parameter KMeans.k", "n_clusters"),
        (f"{name},0,x,KMeans n_clusters=1", "n_clusters is 1", "at least 2"),
        (f"{name},0,x,KMeans", "needs values for n_clusters"),
        (f"{name},0,x,KMeans 3", "'3' is not a parameter", "NAME=VALUE"),
        (f"{name},0,x,KMeans n_clusters=100000", "allowed: at most the number of rows"),
        (f"{name},0,x,KMeans n_clusters=2\n{name},0.1,y,KMeans n_clusters=2", "cannot be split again"),
        (f"{name},0,x,KMeans n_clusters=2\n{name},0.2,y", "has no cluster 0.2", "0.0, 0.1"),
    ]
    for rows, *words in cases:
        write(out, rows)
        refused(label(), *words)
    write(out, "x,0", header="model;cluster,name")
    refused(label(), "has no column model", "model;cluster, name")
    write(out)
    refused(label(), "has no rows")
    (out / "names.csv").write_bytes(b"")
    refused(label(), "has no column model", "none")
    (out / "names.csv").write_bytes(f"model,cluster,name\n{name},0,caf\xe9\n".encode("latin-1"))
    refused(label(), "not UTF-8")
    (out / "names.csv").write_text(f'model,cluster,name\n{name},0,"open\n')
    refused(label(), "not a readable CSV")
    refused(label("--names", out / "none.csv"), "does not exist", "without --names")
    assert not (out / "labelled.csv").exists()


def test_names_of_several_models(out, run, label):
    one, two = model_of(run, "KMeans", n_clusters=3), model_of(run, "KMeans", n_clusters=4)
    write(out, f"{one.name},0,a", f"{two.name},0,b", f"{two.name},1,")
    refused(label(), "is for 2 models", one.name, two.name, "--model")
    assert label("--model", two.id)[0] == 0
    assert set(labelled(out)["name"]) == {"b", ""}
    other = model_of(run, "HDBSCAN")
    refused(label("--model", other.name), f"names no cluster of {other.name}", one.name)
    assert names_of(run, one) == {0: "a"}
    assert names_of(run, two) == {0: "b"}
    assert names_of(run, other) == {}


def test_names_elsewhere_and_as_excel_writes_them(out, run, label, tmp_path):
    model = model_of(run, "KMeans", n_clusters=3)
    path = tmp_path / "mine.csv"
    path.write_text(
        f'Model,Cluster,Name,n_rows\r\n{model.name},0," Zürich, \U0001f697 ",12\r\n,,,\r\n', encoding="utf-8-sig"
    )
    code, _, errors = label("--names", path)
    assert code == 0, errors
    assert set(labelled(out)["name"]) == {"Zürich, \U0001f697", ""}
    assert names_of(run, model) == {0: "Zürich, \U0001f697"}  # kept, for later runs


def test_names_from_elsewhere_replace_those_of_their_model_only(out, run, label, tmp_path):
    one, two = model_of(run, "KMeans", n_clusters=3), model_of(run, "KMeans", n_clusters=4)
    write(out, f"{one.name},0,old,", f"{one.name},1,old too,", f"{two.name},2,other,KMeans n_clusters=2")
    mine = tmp_path / "mine.csv"
    mine.write_text(f"model,cluster,name\n{one.id},0,new\n")
    code, said, errors = label("--names", mine)
    assert code == 0, errors
    assert names_of(run, one) == {0: "new", 1: "old too"}
    assert names_of(run, two) == {2: "other"}
    assert "has these 1 names too, in place of 1 (2 others stay)" in said
    assert "KMeans n_clusters=2" in (out / "names.csv").read_text()
    assert label("--names", out / "names.csv", "--model", one.name)[0] == 0
    mine.write_text(f"model,cluster,name\n{one.id},99,new\n")
    assert label("--names", mine)[0] == 2
    assert names_of(run, one) == {0: "new", 1: "old too"}  # names that are wrong are not kept


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@SUM(A1)"])
def test_formulas_are_defused(out, run, label, name):
    model = model_of(run, "KMeans", n_clusters=3)
    write(out, f'{model.name},0,"{name}",')
    assert label()[0] == 0
    assert set(labelled(out)["name"]) == {f"'{name}", ""}
    assert names_of(run, model) == {0: name}
    assert defused("a=b") == "a=b"


def test_names_are_applied_again(out, run, capsys):
    reporter = Reporter(quiet=False)
    apply_names(run, reporter)
    assert capsys.readouterr().err == ""
    one, two = model_of(run, "KMeans", n_clusters=3), model_of(run, "KMeans", n_clusters=4)
    write(out, f"{one.name},0,a")
    apply_names(run, reporter)
    assert "images have one of 1 names" in capsys.readouterr().err
    before = (out / "labelled.csv").read_bytes()
    label_images(out, memory="4GiB", device="cpu")
    assert (out / "labelled.csv").read_bytes() == before
    write(out, "gone_norm_KMeans_n_clusters=9,0,a", f"{two.name},0,b", f"{one.name},0,a")
    apply_names(run, reporter)
    errors = capsys.readouterr().err
    assert "warning" in errors
    assert "no model 'gone_norm_KMeans_n_clusters=9'" in errors
    best = next(model for model in (*run.finalists, *run.models.values()) if model in (one, two))
    assert f"labelled.csv for {best.name}" in errors
    assert set(labelled(out)["name"]) == {"a" if best is one else "b", ""}
    for rows in (["gone,0,a"], [f"{one.name},99,a"]):
        write(out, *rows)
        apply_names(run, reporter)
        assert "warning" in capsys.readouterr().err


def test_an_estimator_in_words():
    assert parse_estimator("KMeans n_clusters=3") == ("KMeans", {"n_clusters": 3})
    assert parse_estimator("HDBSCAN  min_cluster_size=20 cluster_selection_method=leaf") == (
        "HDBSCAN",
        {"min_cluster_size": 20, "cluster_selection_method": "leaf"},
    )
    for text in ("KMeans n_clusters=[", "KMeans n_clusters=3 n_clusters=4", "DBSCAN eps=0 min_samples=3"):
        with pytest.raises(InputError):
            parse_estimator(text)


def test_parts_have_one_form(tmp_path):
    path = tmp_path / "n.csv"
    path.write_text("model,cluster,name\nm,03,a\nm,3.00,b\nm,-1,c\nm,3.noise,d\n")
    assert [row.cluster for row in read_names(path)] == ["3", "3.0", "-1", "3.noise"]


def test_a_run_keeps_to_its_descriptors_whatever_the_folder_holds_by_now(finished, tmp_path):
    folder = shutil.copytree(finished / "d", tmp_path / "d")
    stage = {"name": "s", "n_components": 4, "grid": {"KMeans": {"n_clusters": [3]}}}
    content = {"descriptors": {"folder": str(folder)}, "stages": [stage]}
    execute(content, tmp_path / "new")
    np.save(folder / "b.npy", np.random.default_rng(0).normal(size=(500, 5)))
    assert FinishedRun(tmp_path / "new", memory="4GiB", device="cpu").names == ("a",)
    with pytest.raises(InputError, match=r"descriptor b is new: .*new was begun with a; give another --out, or move"):
        execute(content, tmp_path / "new")
