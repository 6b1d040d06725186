"""Which models are chosen, how stable they are, how far they agree."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from toolkit.backend.cpu import CpuBackend
from toolkit.cluster.density import DensityForest
from toolkit.cluster.estimators import kmeans_sweep
from toolkit.config import Best, parse_config
from toolkit.errors import InputError
from toolkit.grid.selection import finalists, pareto, rank
from toolkit.grid.table import score_table
from toolkit.score.agreement import agreement, cluster_overlaps
from toolkit.score.stability import stabilities

METRICS = ("calinski_harabasz_score", "davies_bouldin_score", "silhouette_score")


def table(*rows):
    """Make a score table from (descriptor, n_clusters, CH, DB, silhouette, coverage)."""
    names = ("descriptor", "n_clusters", *METRICS, "coverage")
    return score_table(
        [
            dict(zip(names, row, strict=True))
            | {"scaler": "norm", "cluster_class": "KMeans", "largest_share": 0.5, "model": str(i)}
            for i, row in enumerate(rows)
        ]
    )


MODELS = table(
    ("a", 2, 10.0, 1.0, 0.5, 1.0),
    ("a", 5, 30.0, 0.9, 0.3, 1.0),
    ("a", 9, 20.0, 0.5, 0.4, 0.9),
    ("a", 40, 5.0, 2.0, 0.1, 1.0),
    ("b", 3, 99.0, 0.1, 0.9, 1.0),
)


def order(**best):
    return rank(MODELS, Best(**best))["model"].tolist()


def test_several_metrics_rank_by_the_mean_of_ranks():
    assert order(by="silhouette_score") == ["4", "0", "2", "1", "3"]
    # ranks in a: CH 1, 2, 0, 3; DB 2, 1, 0, 3 -> models 1 and 2 have 0.5 (tie: table order), 0 has 2, 3 has 3
    assert order(by=["calinski_harabasz_score", "davies_bouldin_score"]) == ["4", "1", "2", "0", "3"]
    # CH 1, 2, 0, 3 and silhouette 0, 2, 1, 3: 0 and 1 have 1, 2 has 1: means are equal, worst ranks are not
    three = ["calinski_harabasz_score", "davies_bouldin_score", "silhouette_score"]
    assert order(by=three) == ["4", "2", "1", "0", "3"]  # 2: 0.67, 1: 1.0, 0: 1.33


def test_ranks_do_not_depend_on_other_descriptors():
    best = Best(by=["calinski_harabasz_score", "silhouette_score"])
    alone = rank(MODELS[MODELS["descriptor"] == "a"], best)["model"].tolist()
    others = table(*[("b", 3, 20.0 + i, 0.5, 0.3 + i / 100, 1.0) for i in range(9)]).assign(model="b")
    mixed = rank(pd.concat([MODELS[MODELS["descriptor"] == "a"], others], ignore_index=True), best)["model"]
    assert [model for model in mixed if model != "b"] == alone


def test_one_labelling_of_several_estimators_stays_in_each():
    twins = pd.concat([MODELS, MODELS.assign(cluster_class="DBSCAN", model="t" + MODELS["model"])], ignore_index=True)
    chosen = finalists(twins, Best(by="silhouette_score", per="cluster_class"))
    assert chosen["model"].tolist() == ["4", "t4"]
    assert finalists(twins, Best(by="silhouette_score", top=2))["model"].tolist() == ["4", "0", "2"]


def test_the_number_of_clusters_is_a_constraint():
    assert order(by="silhouette_score", min_clusters=3, max_clusters=10) == ["4", "2", "1"]
    assert order(by="silhouette_score", max_clusters=2) == ["0"]


def test_several_finalists_each_another_labelling():
    twice = pd.concat([MODELS, MODELS.iloc[[0]].assign(model="again")], ignore_index=True)
    chosen = finalists(twice, Best(by="silhouette_score", top=2))
    assert chosen["model"].tolist() == ["4", "0", "2"]


@pytest.mark.parametrize(
    ("best", "words"),
    [
        ({"by": ["silhouette_score", "ari"]}, "unknown metric 'ari'"),
        ({"by": []}, "best.by"),
        ({"by": ["silhouette_score", "silhouette_score"]}, "there twice"),
        ({"min_clusters": 5, "max_clusters": 4}, "max_clusters is 4; allowed: min_clusters (5) or more"),
        ({"top": 0}, "best.top is 0"),
    ],
)
def test_mistakes_in_best(best, words):
    stage = {"name": "s", "grid": {"KMeans": {"n_clusters": [2]}}}
    with pytest.raises(InputError) as caught:
        parse_config({"descriptors": {"folder": "x"}, "stages": [stage], "best": best})
    assert words in str(caught.value)


def test_pareto_front_against_brute_force(rng):
    rows = [
        (str(rng.choice(["a", "b"])), 2, *rng.integers(0, 4, 3).astype(float), float(rng.integers(0, 3)) / 2)
        for _ in range(120)
    ]
    rows[7] = ("a", 2, 1.0, 1.0, None, 1.0)
    found = pareto(table(*rows))
    signs = np.array([1, -1, 1, 1])
    for i, row in enumerate(rows):
        if None in row:
            assert not found[i]
            continue
        dominated = False
        for other in rows:
            if other[0] != row[0] or None in other:
                continue
            gain = (np.array(other[2:], float) - np.array(row[2:], float)) * signs
            dominated |= bool((gain >= 0).all() and (gain > 0).any())
        assert found[i] == (not dominated)


def test_pareto_front_without_a_metric_that_no_model_has():
    models = MODELS.assign(silhouette_score=np.nan)
    assert pareto(models).tolist() == [False, True, True, False, True]
    assert not pareto(models.assign(calinski_harabasz_score=np.nan, davies_bouldin_score=np.nan, coverage=np.nan)).any()


def test_agreement_is_that_of_scikit_learn_on_rows_that_both_have_seen(rng):
    a, b = rng.integers(-1, 4, 500), rng.integers(-1, 6, 500)
    b[::2] = a[::2]
    a[:50], b[400:] = -2, -2
    both = slice(50, 400)
    found = agreement(a, b)
    assert found.ari == pytest.approx(adjusted_rand_score(a[both], b[both]), abs=1e-12)
    assert found.ami == pytest.approx(adjusted_mutual_info_score(a[both], b[both]), abs=1e-12)
    assert found.n_rows == 350
    one, each = np.zeros(40, int), np.arange(40)
    many = rng.integers(0, 900, 4000), rng.integers(0, 1500, 4000)
    for labels in ((a[both], a[both]), (one, one), (each, one), (each, each), many):
        expected = adjusted_mutual_info_score(*labels)
        assert agreement(*labels).ami == pytest.approx(expected, abs=1e-9)
    assert np.isnan(agreement(np.full(3, -2), np.zeros(3, int)).ari)


def test_cluster_overlaps_against_brute_force(rng):
    a, b = rng.integers(-1, 5, 300), rng.integers(-1, 4, 300)
    found = cluster_overlaps(a, b)
    assert sorted(found) == [0, 1, 2, 3, 4]
    for name, value in found.items():
        jaccards = [((a == name) & (b == k)).sum() / ((a == name) | (b == k)).sum() for k in range(4)]
        assert value == max(jaccards)
    assert cluster_overlaps(np.array([0, 0, 1]), np.full(3, -1)) == {0: 0.0, 1: 0.0}


def measure(X, models, labellings, **options):
    return stabilities(X, models, labellings, seed=0, memory=options.pop("memory"), backend=CpuBackend(), **options)


def test_stability_is_that_of_refits_by_hand(blobs, memory):
    X = blobs[0]
    labels = kmeans_sweep(X, [3])[3].labels_
    cuts = DensityForest([8]).fit(X).dbscan(3.5, 8)
    models = [("KMeans", {"n_clusters": 3}), ("DBSCAN", {"eps": 3.5, "min_samples": 8})]
    found = measure(X, models, [labels, cuts], n_refits=3, memory=memory)
    generator = np.random.default_rng(0)
    for i in range(3):
        rows = np.sort(generator.choice(600, 300, replace=False))
        again = kmeans_sweep(X[rows], [3])[3].labels_
        assert found[0].ari[i] == pytest.approx(adjusted_rand_score(labels[rows], again), abs=1e-12)
        again = DensityForest([4]).fit(X[rows]).dbscan(3.5, 4)  # half the rows: half of min_samples
        assert found[1].ari[i] == pytest.approx(adjusted_rand_score(cuts[rows], again), abs=1e-12)
    assert found[0].n_rows == 300
    assert set(found[0].clusters) == {0, 1, 2}


def test_true_clusters_are_stable_and_arbitrary_ones_are_not(blobs, memory):
    X = blobs[0]
    models = [("KMeans", {"n_clusters": 4}), ("KMeans", {"n_clusters": 9})]
    labellings = [kmeans_sweep(X, [k])[k].labels_ for k in (4, 9)]
    good, bad = measure(X, models, labellings, memory=memory)
    assert min(good.ari) == 1.0
    assert min(good.clusters.values()) == 1.0
    assert np.mean(bad.ari) < 0.8


def test_what_cannot_be_measured_says_why(blobs, memory):
    X, labels = blobs[0], np.zeros(600, int)
    models = [
        ("DBSCAN", {"eps": 1, "min_samples": 8}),
        ("HDBSCAN", {"min_cluster_size": 200}),
        ("KMeans", {"n_clusters": 90}),
    ]
    dbscan, hdbscan, kmeans = measure(X, models, [labels] * 3, max_rows=60, n_refits=2, memory=memory)
    assert dbscan.reason == "min_samples 8 would be 0.8 on 60 of 600 rows"
    assert len(hdbscan.ari) == 2
    assert (kmeans.ari, kmeans.clusters) == ((), {})
    assert "n_clusters is 90" in kmeans.reason
