"""Scores against scikit-learn in float64."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

from toolkit.score import METRICS
from toolkit.score import partition as partition_module
from toolkit.score.partition import score_labels


def davies_bouldin_by_hand(X, labels):
    """scikit-learn's own, but for its distances, which lose digits far from the origin and for equal points."""
    groups = [X[labels == name] for name in np.unique(labels)]
    centres = [group.mean(axis=0) for group in groups]
    spread = [np.mean([np.linalg.norm(x - c) for x in group]) for group, c in zip(groups, centres, strict=True)]
    worst = []
    for i, a in enumerate(centres):
        apart = [(j, np.linalg.norm(a - b)) for j, b in enumerate(centres) if j != i]
        worst.append(max((spread[i] + spread[j]) / distance if distance else 0.0 for j, distance in apart))
    return np.mean(worst)


ORACLES = {
    "calinski_harabasz_score": lambda X, labels: calinski_harabasz_score(X - X.mean(axis=0), labels),
    "davies_bouldin_score": davies_bouldin_by_hand,
    "silhouette_score": silhouette_score,
}


def hard(kind, rng):
    X, labels = rng.normal(size=(400, 5)), rng.integers(-1, 6, 400)
    if kind == "offset":
        X += 1e4
    elif kind == "duplicates":
        X = np.repeat(X[:40], 10, axis=0)
    elif kind == "singletons":
        labels[:3] = [10, 11, 12]
    elif kind == "one feature":
        X = X[:, :1]
    elif kind == "heavy tails":
        X = rng.standard_cauchy((400, 5))
    elif kind == "lattice":
        X = rng.integers(0, 3, (400, 2)).astype(float)
    elif kind == "nearly all alone":
        X, labels = X[:30], np.r_[0, np.arange(29)]
    return X, labels


KINDS = ["plain", "offset", "duplicates", "singletons", "one feature", "heavy tails", "lattice", "nearly all alone"]


def test_every_metric_has_an_oracle():
    assert set(METRICS) == set(ORACLES)


@pytest.mark.parametrize("noise", ["exclude", "as_cluster"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 64, 10_000])
def test_equal_to_scikit_learn(rng, monkeypatch, kind, noise, block):
    monkeypatch.setattr(partition_module, "_BLOCK_ROWS", block)
    X, labels = hard(kind, rng)
    used = labels >= 0 if noise == "exclude" else np.ones(len(X), bool)
    row = score_labels(X, labels, noise=noise)
    for name, oracle in ORACLES.items():
        assert row[name] == pytest.approx(oracle(X[used], labels[used]), rel=1e-9), name
    assert row["n_clusters"] == len(np.unique(labels[used]))
    assert row["n_noise"] == np.count_nonzero(labels == -1)
    assert row["coverage"] == pytest.approx(np.mean(labels != -1))
    assert row["largest_share"] == max(np.unique(labels[used], return_counts=True)[1]) / used.sum()
    assert row["silhouette_rows"] == used.sum()


def test_float32_is_scored_in_float64(rng):
    X, labels = hard("offset", rng)
    X = X.astype(np.float32)
    row = score_labels(X, labels)
    for name, oracle in ORACLES.items():
        assert row[name] == pytest.approx(oracle(X[labels >= 0].astype(np.float64), labels[labels >= 0]), rel=1e-9)


def test_davies_bouldin_is_scikit_learns_near_the_origin(rng):
    X, labels = hard("plain", rng)
    used = labels >= 0
    assert score_labels(X, labels)["davies_bouldin_score"] == pytest.approx(
        davies_bouldin_score(X[used], labels[used]), rel=1e-9
    )


@pytest.mark.parametrize("name", METRICS)
def test_invariant_under_renaming_clusters_and_shuffling_rows(rng, name):
    X, labels = hard("plain", rng)
    names = rng.permutation(6) + 100
    order = rng.permutation(len(X))
    renamed = np.where(labels >= 0, names[labels], -1)[order]
    assert score_labels(X[order], renamed)[name] == pytest.approx(score_labels(X, labels)[name], rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_better_clusters_score_better(rng, name):
    labels = np.arange(300) % 3
    tight, loose = (labels[:, None] * 5 + spread * rng.normal(size=(300, 4)) for spread in (0.1, 2.0))
    difference = score_labels(tight, labels)[name] - score_labels(loose, labels)[name]
    assert (difference > 0) == METRICS[name].greater_is_better


@pytest.mark.parametrize(
    "labels", [np.full(20, -1), np.zeros(20, int), np.r_[np.full(10, -1), np.zeros(10, int)], np.arange(20)]
)
def test_without_two_clusters_scores_are_empty(rng, labels):
    row = score_labels(rng.normal(size=(20, 3)), labels)
    assert all(row[name] is None for name in METRICS)
    assert row["n_noise"] == np.count_nonzero(labels == -1)


def test_sampled_silhouette_says_so(rng):
    X, labels = rng.normal(size=(3000, 4)), rng.integers(0, 3, 3000)
    X[:, 0] += labels * 3
    exact = score_labels(X, labels, silhouette_rows=3000)
    sampled = score_labels(X, labels, silhouette_rows=500, seed=1)
    assert (exact["silhouette_rows"], sampled["silhouette_rows"]) == (3000, 500)
    assert sampled["silhouette_score"] == pytest.approx(exact["silhouette_score"], abs=0.05)
    assert sampled["silhouette_score"] != exact["silhouette_score"]
    assert score_labels(X, labels, silhouette_rows=500, seed=1) == sampled
    none = score_labels(X, labels, silhouette_rows=0)
    assert (none["silhouette_score"], none["silhouette_rows"]) == (None, 0)
