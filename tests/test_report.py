"""Reports of a real small run: which models are shown, what is said of them, pictures, cuts, the files."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.cluster import DBSCAN, HDBSCAN
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score
from test_run import execute

from toolkit.aggregate.build import aggregate_clusters
from toolkit.aggregate.reported import pictures_of_each
from toolkit.cluster.density import DensityForest
from toolkit.cluster.labelling import UNSEEN
from toolkit.cluster.trees import select_clusters
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.grid.finished import FinishedRun
from toolkit.grid.selection import finalists
from toolkit.images.source import run_images
from toolkit.progress import Reporter
from toolkit.report import build
from toolkit.report.build import PARTS, report_after_run, write_report
from toolkit.report.cuts import radii, suggest_eps, what_ifs
from toolkit.report.drawing import cluster_colours, matched_colours, with_caption
from toolkit.report.figures import FIGURES
from toolkit.report.figures import density as density_figures
from toolkit.report.figures.labellings import agreement_map
from toolkit.report.figures.maps import _is_dense
from toolkit.report.maps import Maps, pca_map, tsne_map
from toolkit.report.page import gather_page
from toolkit.report.study import Study
from toolkit.report.why import finalists_table

N = 240
GRID = {
    "KMeans": {"n_clusters": [2, 3, 4, 5]},
    "DBSCAN": {"eps": [0.2, 0.4, 5.0], "min_samples": [4, 8]},
    "HDBSCAN": {"min_cluster_size": [8, 20]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of two descriptors of 240 images in 4 kinds; row 7 of `b` is not finite."""
    place = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 4, N)
    (place / "d" / "images").mkdir(parents=True)
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]
    for i, kind in enumerate(truth):
        Image.new("RGB", (20, 16), colours[kind]).save(place / "d" / "images" / f"{i}.png")
    (place / "d" / "images" / "11.png").write_bytes(b"not an image")
    a = rng.normal(size=(4, 6))[truth] * 4 + rng.normal(size=(N, 6))
    b = rng.normal(size=(4, 5))[truth] * 2 + rng.normal(size=(N, 5))
    b[7] = np.nan
    np.save(place / "d" / "a.npy", a.astype(np.float32))
    np.save(place / "d" / "b.npy", b.astype(np.float32))
    paths = "\n".join(["path", *(f"images/{i}.png" for i in range(N))])
    (place / "d" / "images_paths.csv").write_text(paths + "\n")
    stages = [
        {"name": "wide", "fraction": 0.5, "scalers": ["norm", "std"], "grid": GRID},
        {"name": "last", "scalers": ["norm"], "grid": GRID},
    ]
    content = {
        "descriptors": {"folder": str(place / "d"), "images": str(place / "d")},
        "stages": stages,
        "best": {"by": "silhouette_score"},
    }
    execute(content, place / "out")
    return place / "out"


@pytest.fixture
def run(folder):
    return FinishedRun(folder, memory="4GiB")


@pytest.fixture
def study(run):
    return Study(run)


# A finished run
def test_a_finished_run_gives_everything_back(run, folder):
    assert run.names == ("a", "b")
    assert len(run.models) == 72  # 2 x 2 x 12 of half of the rows, 2 x 12 of all
    best = pd.read_csv(folder / "best_clusterization.csv")
    for model in run.finalists:
        labels = run.all_labels(model)
        column = best[model.name]
        np.testing.assert_array_equal(labels[column.notna()], column[column.notna()])
        assert (labels == UNSEEN).sum() == column.isna().sum()
        assert run.matrix(model).shape == (len(run.reduced(model).rows), 6 if model.name[0] == "a" else 5)
    b = next(model for model in run.finalists if model.name[0] == "b")
    assert run.all_labels(b)[7] == UNSEEN
    kmeans = run.model("a_norm_KMeans_n_clusters=4")
    distances = ((run.matrix(kmeans)[:, None].astype(float) - run.centres(kmeans)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), run.labels(kmeans))
    assert run.centres(run.model("a_norm_HDBSCAN_min_cluster_size=8")) is None
    assert run.model(kmeans.id[:8]) is kmeans
    assert run.model() is run.finalists[0]
    with pytest.raises(InputError, match="unknown model 'x'; known: "):
        run.model("x")


def test_a_run_that_cannot_be_opened(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"state": "stopped"}))
    with pytest.raises(InputError, match="is not finished"):
        FinishedRun(copy)
    (copy / "run.json").write_text(json.dumps(record | {"inputs": record["inputs"] | {"a": "0" * 32}}))
    with pytest.raises(InputError, match="descriptor a is not the file"):
        FinishedRun(copy)
    (copy / "run.json").write_text(json.dumps(record))
    next((copy / "models").glob("*.parquet")).unlink()
    with pytest.raises(InputError, match="are missing or damaged"):
        FinishedRun(copy)
    with pytest.raises(InputError, match="holds no run"):
        FinishedRun(tmp_path / "nowhere")


def test_paths_start_where_the_run_was_started(folder, tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    record = json.loads((folder / "run.json").read_text())
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = record | {"working_folder": str(folder.parent), "images": "d"}
    content["config"] = content["config"] | {"descriptors": content["config"]["descriptors"] | {"folder": "d"}}
    (copy / "run.json").write_text(json.dumps(content))
    run = FinishedRun(copy)
    assert run.config.descriptors.images == folder.parent / "d"
    assert run.matrix(run.finalists[0]).shape == (N, 6)


def test_another_device_is_said(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    record = json.loads((copy / "run.json").read_text())
    FinishedRun(copy, reporter=Reporter())
    assert capsys.readouterr().err == ""
    (copy / "run.json").write_text(json.dumps(record | {"device": {"name": "cuda"}}))
    FinishedRun(copy, device="cpu", reporter=Reporter())
    assert "was run on cuda, this is cpu" in capsys.readouterr().err


# What is shown
def test_best_and_shortlist(study):
    assert study.best("a") is study.run.finalists[0]
    listed = study.shortlist("a")
    assert listed[0] is study.best("a")
    assert len({model.id for model in listed}) == len(listed)
    families = [model.cell.cluster_class for model in listed[1:]]
    assert max(families.count(name) for name in families) <= 2
    assert all(model.stage == "last" for model in listed)


def test_without_a_model_that_meets_the_constraints_the_best_is_shown_all_the_same(run):
    run.config = run.config.model_copy(update={"best": run.config.best.model_copy(update={"max_largest_share": 0.01})})
    run.finalists = []
    study = Study(run)
    assert study.ranked == []
    assert study.best("a") is not None
    assert study.shortlist("a") == [study.best("a")]
    table = finalists_table(study)
    assert table.empty
    assert table.columns[0] == "rank"
    with run_images(run) as source:
        notes = gather_page(study, source, notes=[]).notes
    assert "No model of a meets the constraints of best: shown is the best regardless of them." in notes


def test_more_clusters_asked_for_than_any_model_has(run):
    run.config = run.config.model_copy(update={"best": run.config.best.model_copy(update={"min_clusters": 99})})
    run.finalists = []
    assert Study(run).best("a") is not None


def test_stability_is_kept(study, run):
    first = study.stability
    assert set(first) >= {model.id for model in run.finalists}
    assert Study(run).stability == first
    assert min(first[study.best("a").id].ari) > 0.5


def test_values_of_min_samples_are_those_of_the_grid(study):
    assert study.min_samples(study.best("a")) == [4, 8]
    assert study.density_values(study.best("a"), "eps") == [0.2, 0.4, 5.0]
    assert study.forest(study.best("a")).min_samples[-1] >= 8


def test_why(study):
    table = finalists_table(study)
    assert table["rank"].tolist() == [1, 2]
    text = table["why"][0]
    model = study.run.finalists[0]
    rivals = [other for other in study.contenders if other.cell.sample.descriptor == model.cell.sample.descriptor]
    silhouette = model.scores["silhouette_score"]
    of = f"of the {len(rivals)} labellings of descriptor {model.cell.sample.descriptor} in stage last"
    assert text.startswith(f"Best by silhouette (silhouette {silhouette:.4g}) {of}")
    assert f"Next is {rivals[1].name} (silhouette " in text
    assert "Stable: refits on 10 random samples of 120 rows" in text
    words = "strong" if silhouette > 0.7 else "reasonable" if silhouette > 0.5 else "weak"
    assert f"A silhouette of {silhouette:.2f} is a sign of {words} structure" in text
    other = study.run.finalists[1]
    ari = adjusted_rand_score(*(study.run.all_labels(m)[np.arange(N) != 7] for m in (model, other)))
    assert f"{other.name} AMI " in text
    assert f"ARI {ari:.2f}." in text


def test_why_names_what_the_constraints_left_out(run):
    run.config = run.config.model_copy(update={"best": run.config.best.model_copy(update={"min_clusters": 5})})
    chosen = finalists(run.tables["last"], run.config.best)["model"]
    run.finalists = [run.models[model] for model in chosen]
    text = finalists_table(Study(run))["why"][0]
    assert "Better by silhouette, but outside the constraints: " in text
    assert "4 clusters, coverage" in text


def test_why_of_others_than_the_best_and_of_other_groups(run):
    best = {"top": 2, "per": "cluster_class", "by": ["silhouette_score", "davies_bouldin_score"]}
    run.config = run.config.model_copy(update={"best": run.config.best.model_copy(update=best)})
    chosen = finalists(run.tables["last"], run.config.best)["model"]
    run.finalists = [run.models[model] for model in chosen]
    texts = finalists_table(Study(run)).set_index("model")["why"]
    firsts = {}
    for model in run.finalists:
        family = model.cell.cluster_class
        place = "Number 2" if family in firsts else "Best"
        firsts[family] = model
        assert texts[model.id].startswith(
            f"{place} by the mean of its ranks in silhouette and davies bouldin (silhouette "
        )
        assert f"labellings of {family} in stage last" in texts[model.id]
    assert set(firsts) == set(GRID)


def test_a_run_without_silhouettes(run):
    run.tables["last"]["silhouette_score"] = np.nan
    for model in run.models.values():
        model.scores["silhouette_score"] = np.nan
    study = Study(run)
    run.config = run.config.model_copy(
        update={"best": run.config.best.model_copy(update={"by": "calinski_harabasz_score"})}
    )
    figure, _ = FIGURES["n_clusters_score"].draw(study, "a")
    assert len(figure.legends) == 1
    assert any(model in study.front for model in {one.id for one in study.ranked})
    chosen = finalists(run.tables["last"], run.config.best)["model"]
    run.finalists = [run.models[model] for model in chosen]
    for text in finalists_table(study)["why"]:
        assert "No eligible model of descriptor" in text or "at least as good in all metrics" in text


# Maps
def test_pca_map_is_scikit_learns(rng):
    X = (rng.normal(size=(300, 7)) * np.arange(1, 8)).astype(np.float32) + 1000
    points = pca_map(X, 3, 0)
    expected = PCA(3, svd_solver="full").fit_transform(X.astype(float))
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-3)
    assert pca_map(X[:, :1], 2, 0)[:, 1].tolist() == [0.0] * 300


def test_maps_show_nested_random_rows(run):
    maps = Maps(run, 100)
    model = run.finalists[0]
    places = maps.get(model, "pca")
    assert len(places.rows) == 100
    assert places.rows.max() > 200  # not the first ones
    assert (np.diff(places.rows) > 0).all()
    assert "100 random of 240 rows" in places.note
    assert set(Maps(run, 40).get(model, "pca").rows) < set(places.rows)
    whole = Maps(run).get(model, "pca", 3)
    assert whole.points.shape == (240, 3)
    assert "PCA of 240 rows" in whole.note
    with pytest.raises(InputError, match="unknown map 'som'; known: pca, tsne, umap"):
        maps.get(model, "som")
    with pytest.raises(InputError, match="map rows are 0"):
        Maps(run, 0)


@pytest.mark.parametrize("n_rows", [3, 8, 40])
def test_tsne_of_few_rows(rng, n_rows):
    assert np.isfinite(tsne_map(rng.normal(size=(n_rows, 5)).astype(np.float32), 2, 0)).all()


# Pictures
def test_many_colours_are_distinct_and_not_grey():
    for n in (1, 10, 18, 60, 200):
        colours = np.array(cluster_colours(n), float)[:, :3]
        assert len(np.unique(colours.round(3), axis=0)) == n
        assert np.ptp(colours, axis=1).min() > 0.05
    near = np.linalg.norm(np.diff(np.array(cluster_colours(80), float), axis=0), axis=1)
    assert near.min() > 0.2  # clusters with neighbouring numbers look different


@pytest.mark.filterwarnings("error:constrained_layout not applied")
@pytest.mark.parametrize("name", [name for name in FIGURES if not name.startswith(("umap", "tsne"))])
def test_pictures(study, name):
    for descriptor in study.run.names:
        figure, caption = FIGURES[name].draw(study, descriptor)
        with_caption(figure, caption)
        figure.savefig(io.BytesIO())
        assert descriptor in "".join(text.get_text() for text in figure.findobj(lambda o: hasattr(o, "get_text")))
        assert len(caption) > 20


def test_scores_are_drawn_for_every_model(study):
    figure, _ = FIGURES["n_clusters_score"].draw(study, "a")
    axes = [ax for ax in figure.axes if ax.get_title().startswith("norm: silhouette")]
    tables = pd.concat(study.run.tables.values())
    scored = tables[(tables["descriptor"] == "a") & (tables["scaler"] == "norm") & tables["silhouette_score"].notna()]
    drawn = axes[0].collections[0].get_offsets()
    assert sorted(drawn[:, 1]) == pytest.approx(sorted(scored["silhouette_score"]))
    assert sorted(drawn[:, 0]) == sorted(scored["n_clusters"])


def test_agreement_map(study):
    figure, _ = agreement_map(study)
    shown = [text.get_text() for text in figure.axes[0].texts]
    one, other = study.compared[:2]
    assert f"{study.agreements[one.id, other.id].ari:.2f}" in shown
    assert len(shown) == len(study.compared) ** 2


def test_silhouettes_of_algorithms_are_scikit_learns(study):
    figure, caption = FIGURES["silhouette_n_clusters"].draw(study, "a")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert {"KMeans", "agglomerative", "Birch"} <= set(lines)
    dots = {dots.get_label() for dots in figure.axes[0].collections}
    assert {"DBSCAN", "HDBSCAN", "OPTICS"} <= dots
    X = study.run.matrix(study.best("a")).astype(float)
    from sklearn.cluster import AgglomerativeClustering

    expected = silhouette_score(X, AgglomerativeClustering(4).fit_predict(X))
    x, y = lines["agglomerative"].get_data()
    assert y[list(x).index(4)] == pytest.approx(expected, abs=1e-9)
    assert caption.startswith("Fitted and scored exactly on 240 rows: ")


def test_the_suggested_eps_is_the_best_of_those_tried(study):
    """By brute force: the most clusters of at least 1 % of the rows, within the constraints of best."""
    model = study.best("a")
    X = study.run.matrix(model).astype(float)
    found = suggest_eps(study, model, 8)
    best, counts = study.run.config.best, {}
    for eps in radii(study, model):
        labels = DBSCAN(eps=eps, min_samples=8).fit_predict(X)
        sizes = np.bincount(labels[labels >= 0], minlength=1)
        if (labels >= 0).mean() >= best.min_coverage and sizes.max() <= best.max_largest_share * sizes.sum():
            counts[eps] = ((sizes >= 0.01 * N).sum(), (labels >= 0).mean())
    assert (found.n_large, found.coverage) == max(counts.values())
    assert counts[found.eps] == (found.n_large, found.coverage)
    figure, _ = FIGURES["k_distance"].draw(study, "a")
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert (
        f"min_samples 8: eps {found.eps:g} gives {found.n_clusters} clusters, {found.coverage:.0%} coverage" in legend
    )
    start = what_ifs(study, model, np.arange(3))[0]
    assert start.cuts[start.start].settings["eps"] == suggest_eps(study, model, 4).eps


def test_no_eps_is_suggested_where_none_meets_the_constraints(run):
    run.config = run.config.model_copy(update={"best": run.config.best.model_copy(update={"max_largest_share": 0.1})})
    study = Study(run)
    assert suggest_eps(study, study.best("a"), 8) is None
    for what_if in what_ifs(study, study.best("a"), np.arange(3)):
        start = what_if.cuts[what_if.start]
        enough = [cut for cut in what_if.cuts if cut.coverage >= 0.5]
        assert start.n_clusters == max(cut.n_clusters for cut in enough)
        assert start.coverage >= 0.5
    figure, _ = FIGURES["k_distance"].draw(study, "a")
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "min_samples 8: no eps meets the constraints" in texts


def test_selected_clusters_of_the_tree_have_the_numbers_of_the_labelling(study):
    forest = study.forest(study.best("a"))
    tree = forest.condensed_tree(8, 4)
    selected = select_clusters(tree, method="eom", epsilon=0.0, max_cluster_size=None, allow_single_cluster=False)
    labels = forest.hdbscan(8, 4)
    numbers = density_figures._numbers(tree, selected)
    assert sorted(numbers.values()) == list(range(labels.max() + 1))
    for cluster, number in numbers.items():
        own = tree.row_cluster == cluster
        assert set(labels[own]) <= {number}


def test_colours_match_where_clusters_overlap(rng):
    first = rng.integers(0, 4, 200)
    renamed = np.array([3, 0, 1, 2])[first]
    split = np.where((first == 2) & (np.arange(200) % 3 == 0), 9, renamed)
    split[:5] = -1
    colours = matched_colours([first, renamed, split])
    for name in range(4):
        assert colours[1][renamed[first == name][0]] == colours[0][name]
        assert colours[2][renamed[first == name][0]] == colours[0][name]
    assert colours[2][9] not in colours[0].values()
    assert -1 not in colours[2]


def test_the_dense_part_of_a_map_leaves_out_lone_points(rng):
    points = np.concatenate([rng.normal(size=(90, 2)), rng.normal(size=(10, 2)) * 50 + 300])
    dense = _is_dense(points.astype(np.float32))
    assert dense.sum() == 80
    assert not dense[90:].any()


def test_clusters_of_the_tree_are_as_wide_as_they_have_rows(study):
    forest = study.forest(study.best("a"))
    tree = forest.condensed_tree(8, 4)
    assert len(tree.size) > 3
    low, high = 1e-6, 1e3
    for cluster in range(len(tree.size)):
        distance, width = density_figures._outline(tree, cluster, low, high)
        assert width[0] == tree.size[cluster]
        assert (np.diff(width) <= 0).all()
        assert (np.diff(distance) <= 0).all()
    places = density_figures._layout(tree, list(range(len(tree.size))))
    for cluster in range(len(tree.size)):
        children = np.flatnonzero(tree.parent == cluster)
        spans = sorted((places[c] - tree.size[c] / 2, places[c] + tree.size[c] / 2) for c in children)
        for (_, right), (left, _) in itertools.pairwise(spans):
            assert right <= left + 1e-6  # siblings do not overlap


# Cuts
def test_cuts_are_scikit_learns(study):
    model = study.best("a")
    rows = np.array([0, 5, 7, 100, 239])
    dbscan, hdbscan = what_ifs(study, model, rows)
    X = study.run.matrix(model).astype(float)
    assert len(dbscan.cuts) == len(dbscan.sliders["eps"]) * len(dbscan.sliders["min_samples"])
    assert {0.2, 0.4} <= set(dbscan.sliders["eps"])
    for cut in dbscan.cuts:
        expected = DBSCAN(eps=cut.settings["eps"], min_samples=int(cut.settings["min_samples"])).fit_predict(X)
        np.testing.assert_array_equal(cut.labels, expected[rows])
        assert cut.n_clusters == expected.max() + 1
        assert cut.coverage == pytest.approx((expected >= 0).mean())
    for cut in hdbscan.cuts:
        params = {name: int(value) for name, value in cut.settings.items()}
        assert cut.n_clusters == HDBSCAN(**params, copy=True).fit_predict(X).max() + 1


def test_cuts_of_rows_that_the_matrix_does_not_have(study):
    model = study.best("b")
    for what_if in what_ifs(study, model, np.array([6, 7, 8])):
        assert all(cut.labels[1] == UNSEEN != cut.labels[0] for cut in what_if.cuts)


# The page's data
def test_page_holds_all_rows_and_models(study, run):
    with run_images(run) as source:
        page = gather_page(study, source, notes=[])
    np.testing.assert_array_equal(page.rows, np.arange(N))
    assert [model.id for model in page.models[:2]] == [model.id for model in run.finalists]
    assert len(page.models) == len(run.models)
    assert page.models[0].why
    assert all(0 <= position < N for position in page.thumbnails)
    assert len(page.thumbnails) == N - 1  # 11.png is no image
    known: set[int] = set()  # what shows the clusters of the finalists comes first, the best one's before the others'
    for model in page.models[:2]:
        members = {p for c in model.clusters for kind in c.members.values() for p in kind} - {11} - known
        assert set(list(page.thumbnails)[len(known) : len(known | members)]) == members
        known |= members
    assert {(m.descriptor, m.method) for m in page.maps} == {(d, m) for d in "ab" for m in ("UMAP", "t-SNE", "PCA")}
    for cluster in page.models[0].clusters:
        for positions in cluster.members.values():
            assert (page.models[0].labels[positions] == cluster.label).all()
    half = next(model for model in page.models if model.stage == "wide")
    assert (half.labels == UNSEEN).sum() == N // 2


def test_a_page_of_some_rows_holds_all_members(study, run, monkeypatch):
    monkeypatch.setattr("toolkit.report.page.PAGE_ROWS", 50)
    with run_images(run) as source:
        page = gather_page(study, source, notes=["something"])
    members = {p for m in page.models for c in m.clusters for kind in c.members.values() for p in kind}
    assert 50 <= len(page.rows) < N
    assert members <= set(range(len(page.rows)))
    assert page.notes[0] == "something"
    assert f"The page shows {len(page.rows)} of 240 rows: a random sample (seed 0)" in page.notes[1]
    for map_ in page.maps:
        places = study.maps.get(
            study.best(map_.descriptor), {"UMAP": "umap", "t-SNE": "tsne", "PCA": "pca"}[map_.method]
        )
        of_row = dict(zip(places.rows.tolist(), places.points.tolist(), strict=True))
        assert [of_row[row] for row in page.rows[map_.positions].tolist()] == map_.points.tolist()


def test_page_says_what_no_model_has_seen(tmp_path, blobs):
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", blobs[0][:100])
    stage = {"name": "s", "fraction": 0.5, "grid": {"KMeans": {"n_clusters": [4]}}}
    execute({"descriptors": {"folder": str(tmp_path / "d")}, "stages": [stage]}, tmp_path / "out")
    run = FinishedRun(tmp_path / "out")
    with run_images(run) as source:
        page = gather_page(Study(run), source, notes=[])
    assert len(page.rows) == 50
    assert page.notes[0].startswith("50 of 100 rows are not here: no shown model was fitted on them")
    assert not any("random sample" in note for note in page.notes)


def test_labels_of_some_models_only(study, run, monkeypatch):
    monkeypatch.setattr("toolkit.report.page._LABEL_VALUES", 20 * N)
    with run_images(run) as source:
        page = gather_page(study, source, notes=[])
    assert [model.labels is not None for model in page.models] == [i < 20 for i in range(len(page.models))]
    assert "At most the labels of the first 20 of 72 models are on this page." in page.notes


def test_a_map_that_fails_costs_only_itself(study, run, monkeypatch):
    monkeypatch.setattr(Maps, "get", lambda *_: (_ for _ in ()).throw(MemoryBudgetError("too large")))
    with run_images(run) as source:
        page = gather_page(study, source, notes=[])
    assert page.maps == []
    assert "There is no UMAP map of a: too large." in page.notes


# The files
def test_a_whole_report_and_its_parts(run, folder):
    written = write_report(run)
    assert list(written) == list(PARTS)
    plots = {path.name for path in (folder / "plots").iterdir()}
    assert plots >= {f"{d}_{name}.png" for d in "ab" for name in FIGURES} | {"agreement.png", "a_cluster_0.png"}
    record = json.loads((folder / "run.json").read_text())
    assert record["state"] == "complete"
    assert set(record["report"]["parts"]) == set(PARTS)
    assert record["report"]["peak_bytes"] > 0
    with Image.open(folder / "plots" / "a_k_distance.png") as image:
        assert "suggested" not in image.text["Title"]
        assert "Dot: suggested eps" in image.text["Description"]
    assert "11.png" in (folder / "images_skipped.csv").read_text()
    before = {path: path.stat().st_mtime_ns for path in (folder / "plots").iterdir()}
    (folder / "plots" / "b_k_distance.png").unlink()
    assert list(write_report(run, only=["html"])) == ["html"]
    assert {p: p.stat().st_mtime_ns for p in (folder / "plots").iterdir()}.items() <= before.items()
    assert "b: Distance to the k-th" not in (folder / "report.html").read_text()
    with pytest.raises(InputError, match="unknown part of the report 'pdf'; known: finalists, html, plots, sheets"):
        write_report(run, only=["pdf"])


def test_a_picture_that_fails_costs_only_itself(run, folder, monkeypatch, capsys):
    def fail(*_):
        raise ZeroDivisionError("of a library")

    for name in set(FIGURES) - {"pca_2", "countplot"}:
        monkeypatch.delitem(FIGURES, name)
    kind = FIGURES["pca_2"]
    monkeypatch.setitem(FIGURES, "pca_2", type(kind)(kind.title, fail))
    written = write_report(run, only=["plots"])
    assert [path.name for path in written["plots"]] == ["a_countplot.png", "b_countplot.png", "agreement.png"]
    assert not (folder / "plots" / "a_pca_2.png").exists()
    text = "picture a_pca_2.png could not be made: ZeroDivisionError: of a library"
    assert text in capsys.readouterr().err
    write_report(FinishedRun(folder), only=["html"])
    assert text in (folder / "report.html").read_text()  # noted by the report that drew


def test_names_that_cannot_be_used_cost_only_themselves(run, folder, tmp_path, capsys):
    names = folder / "names.csv"
    names.write_text(f"model,cluster,name\n{run.finalists[0].id},0,one\n{run.finalists[0].id},0,two\n")
    write_report(run, only=["html"])
    assert "names are left out" in capsys.readouterr().err
    names.write_text(f"model,cluster,name\n{run.finalists[0].id},0,Zürich\n")
    write_report(run, only=["html"])
    assert Study(run).names_of(run.finalists[0]) == {0: "Zürich"}
    assert "Zürich" in pd.read_csv(folder / "labelled.csv")["name"].tolist()
    names.unlink()


def test_the_report_of_a_run_is_made_once_and_its_failure_is_a_warning(run, folder, monkeypatch, capsys):
    how = {"memory": run.memory, "device": "cpu", "reporter": Reporter()}
    made = []
    monkeypatch.setattr(
        build, "PARTS", {"html": lambda report: made.append((report.run.folder / "report.html").touch())}
    )
    report_after_run(folder, **how)
    report_after_run(folder, **how)
    assert len(made) == 1
    assert "the report is up to date" in capsys.readouterr().err
    (folder / "aggregates").mkdir()
    (folder / "aggregates" / "mean_images.png").touch()  # the page shows it
    report_after_run(folder, **how)
    report_after_run(folder, **how)
    assert len(made) == 2
    shutil.rmtree(folder / "aggregates")
    (folder / "report.html").unlink()
    monkeypatch.setattr(build, "PARTS", {"html": lambda _: 1 / 0})
    report_after_run(folder, **how)
    assert (
        "warning: the run is complete, its report is not: ZeroDivisionError: division by zero"
        in capsys.readouterr().err
    )
    assert FinishedRun(folder).finalists


def test_pictures_belong_to_their_descriptor(tmp_path, blobs):
    """One descriptor's name begins with the other's and ends as a picture is called."""
    (tmp_path / "d").mkdir()
    for name in ("hog", "hog_pca"):
        np.save(tmp_path / "d" / f"{name}.npy", blobs[0][:90] + len(name))
    stage = {"name": "s", "grid": {"KMeans": {"n_clusters": [3, 4]}}}
    execute({"descriptors": {"folder": str(tmp_path / "d")}, "stages": [stage]}, tmp_path / "out")
    run = FinishedRun(tmp_path / "out")
    write_report(run, only=["plots"])
    with run_images(run) as source:
        figures = gather_page(Study(run), source, notes=[]).figures
    for name in ("hog", "hog_pca"):
        titles = [figure.title for figure in figures if figure.descriptor == name]
        assert sorted(titles) == sorted(f"{name}: {kind.title}" for kind in FIGURES.values())


def test_aggregates_are_shown_with_the_model_whose_they_are(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.aggregate.clusters.MOST_DRAWN", 2)
    out = tmp_path / "out"
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("plots", "report.html"))
    run = FinishedRun(out, memory="4GiB")
    model, other = run.finalists[:2]
    shade = "\n".join(["path,$shade$", *(f"images/{i}.png,{'dark' if i % 3 else '<b>'}" for i in range(N))])
    (tmp_path / "shades.csv").write_text(shade)
    options = {"attributes": tmp_path / "shades.csv", "size": 16, "n_components": 2, "workers": 0, "memory": "4GiB"}
    made = aggregate_clusters(out, model=model.name, **options)
    assert f"`toolkit report {out} --only html`" in made.text
    Image.new("RGB", (9, 9)).save(out / "aggregates" / "aggregates.png")  # somebody else's: it does not say what it is
    (out / "aggregates" / "interpolation.png").write_bytes(b"GIF89a")
    with run_images(run) as source:
        page = gather_page(Study(run), source, notes=[])
    assert [(figure.descriptor, figure.title) for figure in page.figures] == [
        ("", "Mean images"),
        ("", "Attributes by cluster"),
    ]
    assert all(model.name in figure.caption for figure in page.figures)
    of = {one.id: {c.label: c.aggregates for c in one.clusters} for one in page.models}
    links = {label: pictures for label, pictures in of[model.id].items() if pictures}
    assert len(links) == 2
    for label, pictures in links.items():  # images of one colour: there may be no eigenfaces
        assert pictures["Attributes"] == f"aggregates/occurrence_{label}.png"
        assert all((out / path).is_file() for path in pictures.values())
    assert not any(of[other.id].values())
    (out / "aggregates" / "aggregates.json").write_text("[1]")
    assert not any(pictures_of_each(out, model.id, {0: "0"}).values())


def test_aggregates_by_name_belong_to_the_labels_that_have_it(tmp_path):
    (tmp_path / "aggregates").mkdir()
    clusters = [{"cluster": "3", "number": 3}, {"cluster": "4", "number": 4}]
    about = {"model": "m", "named": True, "clusters": clusters}
    (tmp_path / "aggregates" / "aggregates.json").write_text(json.dumps(about))
    for number in (3, 4):
        (tmp_path / "aggregates" / f"eigenfaces_{number}.png").touch()
    found = pictures_of_each(tmp_path, "m", {2: "3", 3: "night", 4: "4"})
    assert found == {
        2: {"Eigenfaces": "aggregates/eigenfaces_3.png"},
        3: {},
        4: {"Eigenfaces": "aggregates/eigenfaces_4.png"},
    }
    assert pictures_of_each(tmp_path, "other", {4: "4"}) == {}


def test_images_that_are_elsewhere(run, folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", folder.parent / "d")
    written = write_report(run, only=["sheets"], images=archive)
    assert len(written["sheets"]) > 4
    assert FinishedRun(folder).config.descriptors.images.name == "all.zip"
    with pytest.raises(InputError, match="does not exist"):
        write_report(run, only=["sheets"], images=tmp_path / "none")


def test_a_run_without_images(folder, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"images": None}))
    shutil.copytree(folder.parent / "d", tmp_path / "d", ignore=shutil.ignore_patterns("images"))
    record["config"]["descriptors"]["folder"] = str(tmp_path / "d")
    (copy / "run.json").write_text(json.dumps(record | {"images": None}))
    run = FinishedRun(copy, reporter=Reporter())
    assert write_report(run, only=["sheets", "html"])["sheets"] == []
    assert "no contact sheets are made, no image found: 'images/0.png'" in capsys.readouterr().err
    assert "no contact sheets are made" in (copy / "report.html").read_text()


def test_constant_and_tiny_data(tmp_path):
    """Three rows, two of them equal: every picture is drawn or left out, and the report is whole."""
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", np.array([[0.0, 1], [0, 1], [5, 5]], np.float32))
    stage = {"name": "s", "grid": {"KMeans": {"n_clusters": [2]}, "DBSCAN": {"eps": [1], "min_samples": [1, 2]}}}
    execute({"descriptors": {"folder": str(tmp_path / "d")}, "stages": [stage]}, tmp_path / "out")
    run = FinishedRun(tmp_path / "out")
    write_report(run)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["report"]["notes"]["plots"] == []


def test_the_forest_of_a_study_reaches_far_enough(study):
    forest = study.forest(study.best("a"))
    assert isinstance(forest, DensityForest)
    assert study.forest(study.best("a")) is forest


def test_a_killed_report_made_again_is_the_uninterrupted_one(folder, tmp_path):
    """SIGKILL while pictures are drawn; then the same files, to the byte, and nothing half-written."""
    for name in ("whole", "killed"):
        shutil.copytree(folder, tmp_path / name)
        shutil.rmtree(tmp_path / name / "plots", ignore_errors=True)
    command = [sys.executable, "-m", "toolkit", "report", "--quiet"]
    subprocess.run([*command, tmp_path / "whole"], check=True)
    process = subprocess.Popen([*command, tmp_path / "killed"])
    while process.poll() is None and len(list((tmp_path / "killed").glob("plots/*.png"))) < 5:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "plots" / "agreement.png").exists()
    subprocess.run([*command, tmp_path / "killed"], check=True)
    files = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).glob("plots/*")}
        for name in ("whole", "killed")
    ]
    assert files[0] == files[1]
    assert (tmp_path / "whole" / "report.html").read_bytes() == (tmp_path / "killed" / "report.html").read_bytes()
