"""The configuration: every mistake is one line that says what is known or allowed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from toolkit.config import load_config, parse_config
from toolkit.errors import InputError

GOOD = {
    "descriptors": {"folder": "d", "names": ["a", "b"], "image_paths": "d/images_paths.csv"},
    "stages": [
        {
            "name": "clusterization",
            "fraction": 0.5,
            "n_components": {"a": 150, "b": 0.6},
            "scalers": ["norm", "std"],
            "grid": {
                "KMeans": {"n_clusters": [2, 3, 4]},
                "DBSCAN": {"eps": [0.5, 1, 2], "min_samples": [8, 64]},
                "HDBSCAN": {"min_cluster_size": [8, 64], "min_samples": [8]},
            },
        },
        {"name": "refined", "fraction": 1.0, "refine": {"top": 8}},
        {"name": "prefinal", "fraction": 1.0, "refine": {"top": 3}},
    ],
    "best": {"by": "calinski_harabasz_score", "per": "descriptor"},
}


def changed(path, value):
    content = copy.deepcopy(GOOD)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


def test_the_documented_example_is_read():
    config = parse_config(GOOD)
    assert config.stages[0].components_of("b") == 0.6
    assert parse_config(config.identity()) == config


def test_a_grid_takes_reduction_and_scalers_from_the_stage_before():
    content = copy.deepcopy(GOOD)
    content["stages"].append({"name": "more", "grid": {"KMeans": {"n_clusters": [2]}}})
    assert parse_config(content).stages[3].scalers == ["norm", "std"]
    assert parse_config(content).stages[3].components_of("b") == 0.6


def test_one_value_stands_for_a_list_and_one_grid_for_all():
    content = changed(["stages", 0, "grid", "DBSCAN"], {"eps": 0.5, "min_samples": 8})
    content["stages"][0]["grid_per_descriptor"] = {"b": {"KMeans": {"n_clusters": 30}}}
    stage = parse_config(content).stages[0]
    assert stage.grid_of("a")["DBSCAN"] == {"eps": [0.5], "min_samples": [8]}
    assert stage.grid_of("a")["KMeans"] == {"n_clusters": [2, 3, 4]}
    assert stage.grid_of("b")["KMeans"] == {"n_clusters": [30]}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["seeds"], 1, "unknown key seeds; known here: descriptors, stages, best"),
        (["descriptors", "path"], "x", "unknown key descriptors.path; known here: folder, names, image_paths"),
        (["stages", 0, "scaler"], "norm", "unknown key stages.0.scaler; known here: name, fraction"),
        (["stages", 1, "refine", "best"], 3, "unknown key stages.1.refine.best; known here: top"),
        (["best", "metric"], "x", "unknown key best.metric; known here: by, per"),
        (["best", "by"], "ari", "unknown metric 'ari'; known: calinski_harabasz_score, davies_bouldin_score"),
        (["best", "per"], "image", "best.per is 'image'"),
        (["stages", 0, "fraction"], 0, "fraction is 0: input should be greater than 0"),
        (["stages", 0, "fraction"], 1.2, "less than or equal to 1"),
        (["stages", 0, "n_components"], 1.5, "n_components is 1.5"),
        (["stages", 0, "n_components"], 0, "n_components is 0; allowed: a whole number of at least 1"),
        (["stages", 0, "n_components"], True, "n_components is True"),
        (["stages", 0, "n_components", "a"], "all", "n_components is 'all'"),
        (["stages", 0, "scalers"], [], "at least 1 item"),
        (["stages", 0, "scalers"], ["norm", "norm"], "'norm' is there twice"),
        (["stages", 0, "grid"], {}, "the grid is empty"),
        (["stages", 1, "scalers"], ["norm"], "a stage with refine takes scalers from the models it refines"),
        (["stages", 0, "fraction"], True, "fraction is True"),
        (["stages", 0, "grid", "KMeans", "n_clusters"], [3.0], "is 3.0; allowed: a whole number"),
        (["stages", 0, "grid", "HDBSCAN", "allow_single_cluster"], [1], "allowed: False, True"),
        (["descriptors", "names"], [], "at least 1 item"),
        (["stages", 0, "scalers"], ["max"], "'norm', 'std', 'l2' or 'none'"),
        (["stages", 0, "name"], "../x", "stages.0.name"),
        (["stages", 1, "name"], "clusterization", "two stages are called 'clusterization'"),
        (["stages"], [], "stages"),
        (["stages", 0, "grid"], None, "either a grid or refine"),
        (["stages", 0, "grid", "OPTICS"], {}, "unknown estimator 'OPTICS'; known: KMeans, DBSCAN, HDBSCAN"),
        (["stages", 0, "grid", "KMeans"], {"k": [2]}, "unknown parameter KMeans.k; known: n_clusters"),
        (["stages", 0, "grid", "KMeans", "n_clusters"], [0], "KMeans.n_clusters is 0; allowed: a whole number"),
        (["stages", 0, "grid", "KMeans", "n_clusters"], [2.5], "is 2.5; allowed: a whole number"),
        (["stages", 0, "grid", "KMeans", "n_clusters"], [True], "is True"),
        (["stages", 0, "grid", "KMeans", "n_clusters"], [], "has no values"),
        (["stages", 0, "grid", "DBSCAN", "eps"], [0], "DBSCAN.eps is 0; allowed: a number above 0"),
        (["stages", 0, "grid", "DBSCAN", "eps"], [-1], "allowed: a number above 0"),
        (["stages", 0, "grid", "DBSCAN", "eps"], [float("nan")], "allowed: a number above 0"),
        (["stages", 0, "grid", "DBSCAN", "eps"], ["wide"], "is 'wide'"),
        (["stages", 0, "grid", "DBSCAN"], {"eps": [1]}, "DBSCAN needs values for min_samples"),
        (["stages", 0, "grid", "HDBSCAN", "min_cluster_size"], [1], "of at least 2"),
        (["seed"], -1, "seed is -1"),
        (["engine"], "spark", "engine is 'spark'"),
    ],
)
def test_mistakes(path, value, message):
    with pytest.raises(InputError) as caught:
        parse_config(changed(path, value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_first_stage_needs_a_grid():
    content = copy.deepcopy(GOOD)
    content["stages"] = content["stages"][1:]
    with pytest.raises(InputError, match="nothing to refine"):
        parse_config(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not readable YAML"),
        ("- 1\n", "holds list"),
        ("", "holds NoneType"),
        ("x: 1", "descriptors is missing"),
        ("a: 1\na: 2", "key 'a' is there twice"),
        ("[" * 5000, "not readable"),
    ],
)
def test_files_that_are_no_config(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_config(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_no_file():
    with pytest.raises(InputError, match="does not exist"):
        load_config(Path("nowhere.yaml"))


def test_the_project_s_own_recipes_are_valid():
    recipes = list((Path(__file__).parent.parent / "jobs").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        load_config(recipe)
