"""The functions that notebooks call."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import DBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score

import toolkit
from toolkit.errors import InputError

mpl.use("Agg")


@pytest.fixture
def keeper(tmp_path, blobs):
    np.save(tmp_path / "a.npy", blobs[0])
    np.save(tmp_path / "b.npy", blobs[0][:, ::3])
    loader = toolkit.DataLoader(["a", "b"], tmp_path)
    return toolkit.DataKeeper({"a": 5}, loader=loader)


def test_grid_search_over_all_combinations(keeper, blobs):
    selected = {"a": {KMeans: {"n_clusters": [2, 4]}, DBSCAN: {"eps": [0.1, 0.3], "min_samples": np.array([4, 8])}}}
    models = toolkit.conduct_grid_search(selected, True, "norm", keeper, 1.0, 0)
    assert [model["cluster_class"] for model in models] == ["KMeans"] * 2 + ["DBSCAN"] * 4
    seed_columns = [
        "descriptor",
        "scaler",
        "cluster_class",
        "cluster_class_params",
        "labels",
        "n_clusters",
        "calinski_harabasz_score",
        "davies_bouldin_score",
    ]
    assert list(models[0])[: len(seed_columns) - 3] == seed_columns[:5]
    assert set(seed_columns) <= set(models[0])
    assert models[5]["cluster_class_params"] == {"eps": 0.3, "min_samples": 8}
    assert all(len(model["labels"]) == 600 for model in models)
    assert adjusted_rand_score(blobs[1], models[1]["labels"]) > 0.99
    again = toolkit.conduct_grid_search(selected, True, "norm", keeper, 1.0, 0)
    assert all((a["labels"] == b["labels"]).all() for a, b in zip(models, again, strict=True))


def test_grid_search_value_by_value_on_a_fraction(keeper):
    selected = {"b": {"DBSCAN": {"eps": [0.1, 0.3], "min_samples": [4, 8]}}}
    models = toolkit.conduct_grid_search(selected, get_mesh=False, scaler="std", data_keeper=keeper, data_fraction=0.5)
    assert [model["cluster_class_params"]["eps"] for model in models] == [0.1, 0.3]
    assert all(len(model["labels"]) == 300 for model in models)
    with pytest.raises(InputError, match="equal length"):
        toolkit.conduct_grid_search({"b": {"DBSCAN": {"eps": [0.1], "min_samples": [4, 8]}}}, False, "std", keeper)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"OPTICS": {}}, "known: KMeans, DBSCAN, HDBSCAN"),
        ({"KMeans": {"k": [1]}}, "known: n_clusters"),
        ({"DBSCAN": {"eps": [-1], "min_samples": [3]}}, "above 0"),
    ],
)
def test_grid_search_mistakes(keeper, grid, message):
    with pytest.raises(ValueError, match=message):
        toolkit.conduct_grid_search({"a": grid}, data_keeper=keeper)


def search(keeper, fraction=1.0):
    selected = {
        name: {"KMeans": {"n_clusters": [2, 3, 4]}, "DBSCAN": {"eps": [0.05, 0.2], "min_samples": [4]}} for name in "ab"
    }
    return toolkit.conduct_grid_search(selected, data_keeper=keeper, data_fraction=fraction)


def test_display_models(keeper, capsys):
    shown = toolkit.display_models(pd.DataFrame(search(keeper)), head_rows=2)
    assert shown.groupby(["descriptor", "cluster_class"]).size().tolist() == [2, 2, 2, 2]
    kmeans = shown[(shown["descriptor"] == "a") & (shown["cluster_class"] == "KMeans")]
    assert kmeans["calinski_harabasz_score"].is_monotonic_decreasing
    printed = capsys.readouterr().out
    assert "a\n" in printed
    assert "n_clusters" in printed
    assert "labels" not in printed


def test_countplot(keeper, tmp_path):
    models = search(keeper)
    many = dict(models[0], labels=np.arange(600) % 50 - 1)
    axes = toolkit.countplot_clusters([*models, many], sidesize=3)
    assert len(axes) == 11
    assert axes[0].get_title() == "a / KMeans\nn_clusters=2"
    heights = sorted(patch.get_height() for patch in axes[2].patches if patch.get_height() > 0)
    assert heights == sorted(np.bincount(models[2]["labels"]))
    assert len(axes[-1].patches) == 50
    axes[0].figure.savefig(tmp_path / "count.png")
    with pytest.raises(InputError, match="not an array"):
        toolkit.countplot_clusters([dict(models[0], labels="[0 1 ... 1]")])
    with pytest.raises(InputError, match="no model"):
        toolkit.countplot_clusters([])


@pytest.mark.parametrize("n_components", [2, 3])
def test_visualization(keeper, n_components):
    models = search(keeper, 0.3)[1:5:3]
    axes = toolkit.get_cluster_visualization(pd.DataFrame(models), keeper, n_components=n_components, sidesize=4)
    drawn = [sum(len(points.get_offsets()) for points in ax.collections) for ax in axes]
    assert drawn == [180, 180]
    low = toolkit.get_cluster_visualization(models[:1], keeper, n_components, thresh=[(-1e9, 0)] * n_components)
    assert sum(len(points.get_offsets()) for points in low[0].collections) < 180
    with pytest.raises(InputError, match=r"one \(low, high\) for each"):
        toolkit.get_cluster_visualization(models, keeper, n_components, thresh=[(0, 1)] * 5)


def test_visualization_mistakes(keeper):
    models = search(keeper, 0.3)[:1]
    with pytest.raises(InputError, match="2 or 3"):
        toolkit.get_cluster_visualization(models, keeper, n_components=4)
    shorter = dict(models[0], labels=models[0]["labels"][:-1])
    with pytest.raises(InputError, match="179 labels, data_keeper gives 180 rows"):
        toolkit.get_cluster_visualization([shorter], keeper)


def test_every_model_is_drawn_on_the_rows_it_has_seen(keeper):
    """Two searches over different random halves in one figure: each cluster of each model lies where its rows lie."""
    models = []
    for seed in (1, 2):
        selected = {"a": {"KMeans": {"n_clusters": [4]}}}
        models += toolkit.conduct_grid_search(selected, True, "norm", keeper, 0.5, seed)
    drawn = []

    def remember(sample, scaler):
        drawn.append(sample)
        return type(keeper).scale(keeper, sample, scaler)

    keeper.scale = remember
    toolkit.get_cluster_visualization(models, keeper)
    assert [(sample.fraction, sample.seed) for sample in drawn] == [(0.5, 1), (0.5, 2)]


def test_a_model_that_cannot_be_fitted_costs_itself(keeper):
    models = toolkit.conduct_grid_search({"b": {"KMeans": {"n_clusters": [2, 700]}}}, data_keeper=keeper)
    assert models[0]["n_clusters"] == 2
    assert models[1]["labels"] is None
    assert "700" in models[1]["error"]
    assert len(toolkit.countplot_clusters(models)) == 1
    with pytest.raises(InputError, match="unknown scaler"):
        toolkit.conduct_grid_search({"b": {"KMeans": {"n_clusters": [2]}}}, scaler="max", data_keeper=keeper)
    with pytest.raises(InputError, match="unknown noise"):
        toolkit.conduct_grid_search({"b": {"KMeans": {"n_clusters": [2]}}}, data_keeper=keeper, noise="as cluster")


def test_the_current_descriptor_stays_current(keeper):
    """Searching or drawing another descriptor does not change what the keeper's own calls return."""
    keeper.load_descriptor_PCA("a")
    norm = keeper.get_norm_scaled_descriptor()
    toolkit.conduct_grid_search({"b": {"KMeans": {"n_clusters": [2]}}}, data_keeper=keeper)
    assert keeper.get_norm_scaled_descriptor() is norm
    assert keeper.get_std_scaled_descriptor().shape == norm.shape
    keeper.load_descriptor_PCA("b")
    assert keeper.get_norm_scaled_descriptor().shape == (600, 4)
