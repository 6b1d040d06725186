"""Planning, refining, selecting, storing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from toolkit.config import Best, parse_config
from toolkit.descriptors.keeper import Sample
from toolkit.descriptors.loader import DataLoader
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.grid.plan import Cell, check_descriptors, expand, group_cells, stage_cells
from toolkit.grid.predict import check_disk, check_memory, predict
from toolkit.grid.refine import refine
from toolkit.grid.selection import finalists, rank
from toolkit.grid.store import Store
from toolkit.grid.table import score_table, shorten
from toolkit.memory import MemoryBudget

SEED_GRID = {
    "KMeans": {"n_clusters": list(range(2, 16))},
    "DBSCAN": {"eps": [2.0**i for i in range(-2, 10)], "min_samples": [2**i for i in range(3, 10)]},
    "HDBSCAN": {"min_cluster_size": [2**i for i in range(3, 10)]},
}


def config(folder, **stage):
    stage = {"name": "s", "grid": SEED_GRID, "scalers": ["norm", "std"]} | stage
    return parse_config({"descriptors": {"folder": str(folder)}, "stages": [stage]})


@pytest.fixture
def folder(tmp_path, rng):
    for name in ("efficientnet-b7", "osnet", "vdc_color", "vdc_type"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(40, 8)).astype(np.float32))
    return tmp_path


def test_the_seed_grid_is_870_models(folder):
    wide = {"vdc_color": {"KMeans": {"n_clusters": list(range(2, 31))}}}
    cells = stage_cells(config(folder, grid_per_descriptor=wide).stages[0], DataLoader(None, folder).names, 0)
    assert len(cells) == 870
    groups = group_cells(cells)
    assert len(groups) == 8
    assert [cell for group in groups for cell in group.cells] == cells


def test_expansion_keeps_order_and_drops_repetitions():
    cells = expand({"DBSCAN": {"eps": [1, 0.5, 1], "min_samples": [8, 4]}})
    assert [tuple(dict(params).values()) for _, params in cells] == [(1, 8), (1, 4), (0.5, 8), (0.5, 4)]


def models(cells, scores):
    """Make a score table in which cell i has silhouette scores[i]."""
    return score_table(
        [
            {
                "descriptor": cell.sample.descriptor,
                "scaler": cell.scaler,
                "cluster_class": cell.cluster_class,
                "cluster_class_params": dict(cell.params),
                "silhouette_score": score,
                "davies_bouldin_score": score,
                "coverage": 1.0,
                "largest_share": 0.5,
                "model": str(i),
            }
            for i, (cell, score) in enumerate(zip(cells, scores, strict=True))
        ]
    )


def refined(grid, winner, *, top=1, family=None):
    family = family or next(iter(grid))
    cells = [Cell(Sample("a", 0.5), "norm", name, params) for name, params in expand(grid)]
    scores = [1.0 if dict(cell.params) == winner else 0.1 for cell in cells]
    best = Best(by="silhouette_score")
    found = refine(cells, models(cells, scores), top=top, best=best, fraction=1.0)
    assert all(cell.sample == Sample("a", 1.0) for cell in found)
    return [dict(cell.params) for cell in found if cell.cluster_class == family]


def test_refining_takes_half_steps_to_the_neighbours():
    found = refined({"DBSCAN": {"eps": [0.5, 1, 2, 4], "min_samples": [8, 16, 32]}}, {"eps": 2, "min_samples": 16})
    assert {params["eps"] for params in found} == {1.5, 2, 3}
    assert {params["min_samples"] for params in found} == {12, 16, 24}
    assert len(found) == 9


@pytest.mark.parametrize(
    ("values", "winner", "expected"),
    [
        ([2, 3, 4], 3, [2, 3, 4]),  # neighbours of a whole number
        ([5, 10, 15], 10, [7, 10, 13]),  # halves are rounded outwards
        ([5, 10, 15], 15, [12, 15, 18]),  # beyond the end
        ([2, 3, 4], 2, [2, 3]),  # 1 cluster is no clustering
        ([8, 64], 8, [4, 8, 36]),  # the mirrored step would go below 0
        ([7], 7, [7]),  # no step is known
    ],
)
def test_refining_kmeans(values, winner, expected):
    found = refined({"KMeans": {"n_clusters": values}}, {"n_clusters": winner})
    assert [params["n_clusters"] for params in found] == expected


def test_refining_leaves_choices_and_absent_values_alone():
    grid = {
        "HDBSCAN": {
            "min_cluster_size": [8, 16],
            "min_samples": [None, 4, 8],
            "cluster_selection_method": ["eom", "leaf"],
        }
    }
    winner = {"min_cluster_size": 8, "min_samples": None, "cluster_selection_method": "leaf"}
    found = refined(grid, winner)
    assert [params["min_cluster_size"] for params in found] == [4, 8, 12]
    assert {(p["min_samples"], p["cluster_selection_method"]) for p in found} == {(None, "leaf")}


def test_refining_unites_neighbourhoods():
    cells = [Cell(Sample("a"), "norm", "KMeans", (("n_clusters", k),)) for k in range(2, 10)]
    table = models(cells, [0.1, 0.9, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1])
    found = refine(cells, table, top=2, best=Best(by="silhouette_score"), fraction=1.0)
    assert [dict(cell.params)["n_clusters"] for cell in found] == [2, 3, 4, 5]


def test_ranking_follows_the_metric_and_the_constraints():
    cells = [Cell(Sample(name), "norm", "KMeans", (("n_clusters", k),)) for name in "ab" for k in (2, 3, 4)]
    table = models(cells, [0.1, 0.3, 0.3, None, 0.2, 0.9])
    table.loc[5, "coverage"] = 0.3
    order = rank(table, Best(by="silhouette_score"))
    assert order["model"].tolist() == ["1", "2", "4", "0"]
    assert rank(table, Best(by="davies_bouldin_score"))["model"].tolist() == ["0", "4", "1", "2"]
    assert finalists(table, Best(by="silhouette_score"))["model"].tolist() == ["1", "4"]
    table.loc[1, "largest_share"] = 0.99
    assert finalists(table, Best(by="silhouette_score"))["model"].tolist() == ["2", "4"]
    assert finalists(table, Best(by="silhouette_score", min_coverage=0.2))["model"].tolist() == ["5", "2"]


@pytest.mark.parametrize("highest", [-1, 0, 126, 127, 128, 40_000])
def test_store_gives_labels_and_rows_back(tmp_path, rng, highest):
    labels = rng.integers(-1, highest + 1, 500)
    labels[0] = highest
    store = Store(tmp_path / "models")
    store.prepare()
    store.commit({"x": ({"score": 1.5, "none": None}, labels), "y": ({"score": 2}, labels[::-1])})
    for again in (store, Store(tmp_path / "models")):
        np.testing.assert_array_equal(again.labels("x"), labels)
        np.testing.assert_array_equal(again.labels("y"), labels[::-1])
        assert again.rows == {"x": {"score": 1.5, "none": None}, "y": {"score": 2}}
    assert store.labels("x").itemsize == (1 if highest < 128 else 4 if highest > 32_767 else 2)
    with pytest.raises(InputError, match="unknown model 'z'"):
        store.labels("z")


def test_a_damaged_model_file_counts_as_not_there(tmp_path):
    store = Store(tmp_path)
    store.commit({"x": ({}, np.zeros(9, int))})
    path = next(tmp_path.glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "other.parquet").write_bytes(b"")
    assert Store(tmp_path).rows == {}


def test_labels_are_shortened_as_numpy_prints_them():
    assert shorten(np.r_[np.zeros(900, int), np.ones(900, int)]) == "[0 0 0 ... 1 1 1]"


def test_model_ids_hold_everything_that_decides_a_result(folder):
    base = config(folder)
    cell = Cell(Sample("osnet", 1.0, 0, 5), "norm", "DBSCAN", (("eps", 1), ("min_samples", 8)))

    def name(cell=cell, config=base, fingerprint="f"):
        return cell.model_id(fingerprint, config)

    same = [
        Cell(Sample("osnet", 1.0, 1, 5), "norm", "DBSCAN", cell.params),  # all rows: the seed chooses none
        Cell(cell.sample, "norm", "DBSCAN", cell.params[::-1]),
    ]
    assert {name(other) for other in same} == {name()}
    others = [
        name(Cell(Sample("osnet", 0.5, 0, 5), "norm", "DBSCAN", cell.params)),
        name(Cell(Sample("osnet", 0.5, 1, 5), "norm", "DBSCAN", cell.params)),
        name(Cell(Sample("osnet", 1.0, 0, 6), "norm", "DBSCAN", cell.params)),
        name(Cell(cell.sample, "std", "DBSCAN", cell.params)),
        name(Cell(cell.sample, "norm", "DBSCAN", (("eps", 2), ("min_samples", 8)))),
        name(fingerprint="g"),
        name(config=base.model_copy(update={"noise": "as_cluster"})),
        name(config=base.model_copy(update={"seed": 5})),
        name(config=base.model_copy(update={"silhouette_rows": 5})),
    ]
    assert len({name(), *others}) == len(others) + 1


def test_plan_predicts_every_group_and_refuses_what_cannot_fit(folder):
    loader = DataLoader(None, folder, memory="8GiB")  # more than a process with many tests behind it holds
    parts = predict(config(folder, n_components=3), loader)
    assert len(parts) == 4 + 4 * 2 * 2  # reductions; a sweep and a forest for each matrix
    assert sum(part.n_cells for part in parts) == 4 * 2 * (14 + 84 + 7)
    assert all(part.cost.seconds > 0 and part.cost.n_bytes <= part.cost.worst_bytes for part in parts)
    check_memory(parts, loader.memory)
    check_disk(parts, folder)
    with pytest.raises(MemoryBudgetError, match=r"the plan does not fit: s: .* needs .* memory budget of 1 MiB"):
        check_memory(parts, MemoryBudget(1 << 20))
    with pytest.raises(InputError, match="on the disk"):
        check_disk([dataclasses.replace(parts[0], least_disk_bytes=1 << 60)], folder)


def test_plan_covers_refined_stages(folder):
    """On more rows than the stage before, with at most as many models as a refined grid can have."""
    content = {
        "descriptors": {"folder": str(folder), "names": ["osnet"]},
        "stages": [
            {"name": "first", "fraction": 0.1, "grid": {"DBSCAN": {"eps": [1, 2], "min_samples": [2, 4]}}},
            {"name": "second", "refine": {"top": 2}},
        ],
    }
    parts = predict(parse_config(content), DataLoader(["osnet"], folder))
    assert [(part.stage, part.part, part.n_cells, part.n_rows) for part in parts] == [
        ("first", "osnet reduction", 0, 4),
        ("first", "osnet norm density", 4, 4),
        ("second", "osnet reduction", 0, 40),
        ("second", "osnet density", 18, 40),
    ]


def test_plan_grows_with_the_rows(tmp_path, rng):
    seconds = []
    for n_rows in (1000, 4000):
        folder = tmp_path / str(n_rows)
        folder.mkdir()
        np.save(folder / "a.npy", rng.normal(size=(n_rows, 8)).astype(np.float32))
        parts = predict(config(folder, n_components=3), DataLoader(None, folder))
        seconds.append({part.part: part.cost.seconds for part in parts})
    assert all(seconds[1][part] > seconds[0][part] for part in seconds[0] if "reduction" not in part)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"n_components": 9}, "n_components of efficientnet-b7 is 9; allowed: at most 8"),
        ({"n_components": {"resnet": 3}}, "names descriptor 'resnet'; known: efficientnet-b7, osnet"),
        ({"grid_per_descriptor": {"x": {"KMeans": {"n_clusters": [2]}}}}, "names descriptor 'x'"),
        ({"fraction": 0.1, "n_components": 5}, "at most 4"),
        ({"n_components": {"osnet": 3}}, "says nothing of efficientnet-b7"),
    ],
)
def test_what_the_descriptors_cannot_do(folder, stage, message):
    with pytest.raises(InputError, match=message):
        check_descriptors(config(folder, **stage), DataLoader(None, folder))
