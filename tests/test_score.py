"""Scores against brute force in float64 and against scikit-learn; many labellings together against one alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.datasets import load_iris, load_wine
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

from toolkit.errors import InputError, MemoryBudgetError
from toolkit.memory import MemoryBudget, resident_bytes
from toolkit.score import METRICS, labellings, silhouette, variance
from toolkit.score import partition as partition_module
from toolkit.score.density import dbcv, relative_validity
from toolkit.score.partition import cluster_centroids, score_labellings, score_labels


def calinski_harabasz_by_hand(X, labels):
    X = X - X[0]
    groups = [X[labels == name] for name in np.unique(labels)]
    centres = [group[0] + (group - group[0]).mean(axis=0) for group in groups]
    between = sum(len(g) * np.sum((c - X.mean(axis=0)) ** 2) for g, c in zip(groups, centres, strict=True))
    within = sum(np.sum((g - c) ** 2) for g, c in zip(groups, centres, strict=True))
    return between / (len(groups) - 1) / (within / (len(X) - len(groups))) if within else 1.0


def davies_bouldin_by_hand(X, labels):
    X = X - X[0]
    groups = [X[labels == name] for name in np.unique(labels)]
    centres = [group[0] + (group - group[0]).mean(axis=0) for group in groups]
    spread = [np.mean([np.linalg.norm(x - c) for x in group]) for group, c in zip(groups, centres, strict=True)]
    worst = []
    for i, a in enumerate(centres):
        apart = [(j, np.linalg.norm(a - b)) for j, b in enumerate(centres) if j != i]
        worst.append(max((spread[i] + spread[j]) / distance if distance > 1e-12 else 0.0 for j, distance in apart))
    return np.mean(worst)


def silhouette_by_hand(X, labels):
    """Differences, row by row; a row alone or with no distance to anything scores 0."""
    names, scores = np.unique(labels), []
    distances = cdist(X, X)
    for i in range(len(X)):
        mean = {name: distances[i, labels == name].mean() for name in names if name != labels[i]}
        others = np.count_nonzero(labels == labels[i]) - 1
        a, b = distances[i, labels == labels[i]].sum() / max(others, 1), min(mean.values())
        scores.append((b - a) / max(a, b) if others and max(a, b) > 0 else 0.0)
    return np.mean(scores)


ORACLES = {
    "calinski_harabasz_score": calinski_harabasz_by_hand,
    "davies_bouldin_score": davies_bouldin_by_hand,
    "silhouette_score": silhouette_by_hand,
}
SCIKIT_LEARN = {
    "calinski_harabasz_score": calinski_harabasz_score,
    "davies_bouldin_score": davies_bouldin_score,
    "silhouette_score": silhouette_score,
}


def hard(kind, rng):
    X, labels = rng.normal(size=(400, 5)), rng.integers(-1, 6, 400)
    if kind in OFFSETS:
        X += OFFSETS[kind]
    elif kind == "duplicates":
        X = np.repeat(X[:40], 10, axis=0)
    elif kind == "duplicates split evenly":  # every centroid is the same point
        X = X[np.concatenate([rng.permutation(40) for _ in range(10)])]
        labels = np.repeat([0, 1, 2, 3, -1], 80)
    elif kind == "clusters of duplicates":
        X = X[np.maximum(labels, 0)] * 0.1
    elif kind == "near duplicates":  # pairs whose product in float64 shows no distance at all
        X = X[labels] * 100 + 1e-6 * X
    elif kind == "constant columns":
        X[:, 1:4] = [0.1, 1e6, 0]
    elif kind == "singletons":
        labels[:3] = [10, 11, 12]
    elif kind == "one feature":
        X = X[:, :1]
    elif kind == "heavy tails":
        X = rng.standard_cauchy((400, 5))
    elif kind == "lattice":
        X = rng.integers(0, 3, (400, 2)).astype(float)
    elif kind == "many clusters":
        labels = rng.integers(-1, 150, 400)
    elif kind == "nearly all alone":
        X, labels = X[:30], np.r_[0, np.arange(29)]
    elif kind == "three rows":
        X, labels = X[:3], np.array([4, 4, -3])
    return X, labels


OFFSETS = {"offset 1e3": 1e3, "offset 1e4": 1e4}
KINDS = [
    *("plain", "duplicates", "duplicates split evenly", "clusters of duplicates", "near duplicates"),
    *("constant columns", "singletons", "one feature", "heavy tails", "lattice", "many clusters", "nearly all alone"),
    *("three rows", *OFFSETS),
]


def some_labellings(rng, n):
    """Labellings of all sorts: balanced, skewed, with much noise and little, repeated, renumbered, without clusters."""
    found = [rng.integers(0, k, n) for k in (2, 3, 17, 60)]
    found += [np.minimum(rng.geometric(p, n) - 1, 80) - 1 for p in (0.02, 0.2, 0.6)]
    found += [np.where(rng.random(n) < share, 3 * found[2], -1) for share in (0.02, 0.2, 0.45, 0.8)]
    found += [found[0], 5 - found[1], np.full(n, -1), np.zeros(n, int), np.arange(n)]
    found += [found[2].astype(np.int8), found[3].astype(np.uint16), found[4][::-1], np.where(found[5] > 3, 10**15, -1)]
    return found


def test_every_metric_has_an_oracle():
    assert set(METRICS) == set(ORACLES) == set(SCIKIT_LEARN)


@pytest.mark.parametrize("noise", ["exclude", "as_cluster"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_to_brute_force(rng, kind, noise, dtype):
    X, labels = hard(kind, rng)
    X = X.astype(dtype)
    used = labels != -1 if noise == "exclude" else np.ones(len(X), bool)
    row = score_labels(X, labels, noise=noise)
    for name, oracle in ORACLES.items():
        expected = oracle(X[used].astype(np.float64), labels[used])
        assert row[name] == pytest.approx(expected, rel=1e-9, abs=1e-12), name
    assert row["n_clusters"] == len(np.unique(labels[used]))
    assert row["n_noise"] == np.count_nonzero(labels == -1)
    assert row["coverage"] == pytest.approx(np.mean(labels != -1))
    assert row["largest_share"] == max(np.unique(labels[used], return_counts=True)[1]) / used.sum()
    assert row["silhouette_rows"] == used.sum()


@pytest.mark.parametrize("name", METRICS)
def test_equal_to_scikit_learn_on_ordinary_data_of_many_tiles(rng, name):
    X = rng.normal(size=(2300, 11)).astype(np.float32)
    for labels in some_labellings(rng, len(X)):
        used = labels != -1
        score = score_labels(X, labels)[name]
        if score is not None:
            assert score == pytest.approx(SCIKIT_LEARN[name](X[used].astype(np.float64), labels[used]), abs=1e-9)


# Properties that every metric has
@pytest.fixture
def plain(rng):
    return hard("plain", rng)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_names_of_clusters_change_no_bit(rng, name, kind):
    X, labels = hard(kind, rng)
    names = rng.permutation(200) * 10**6 + 100
    renamed = np.where(labels != -1, names[labels], -1)
    assert score_labels(X, renamed)[name] == score_labels(X, labels)[name]


@pytest.mark.parametrize("name", METRICS)
def test_invariant_under_shuffling_rows(rng, plain, name):
    order = rng.permutation(len(plain[0]))
    assert score_labels(plain[0][order], plain[1][order])[name] == pytest.approx(score_labels(*plain)[name], rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_invariant_under_moving_turning_and_scaling(rng, plain, name, factor):
    X, labels = plain
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    moved = (X @ rotation + [3, 0, -8, 1, 2]) * factor
    assert score_labels(moved, labels)[name] == pytest.approx(score_labels(X, labels)[name], rel=1e-10)


@pytest.mark.parametrize("name", METRICS)
def test_excluding_noise_is_removing_its_rows(plain, name):
    X, labels = plain
    X[labels == -1] *= 50
    without = score_labels(X[labels != -1], labels[labels != -1])
    assert score_labels(X, labels)[name] == pytest.approx(without[name], rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_better_clusters_score_better(rng, name):
    labels = np.arange(300) % 3
    tight, loose = (labels[:, None] * 5 + spread * rng.normal(size=(300, 4)) for spread in (0.1, 2.0))
    difference = score_labels(tight, labels)[name] - score_labels(loose, labels)[name]
    assert (difference > 0) == METRICS[name].greater_is_better


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    "labels",
    [
        *(np.full(20, -1), np.zeros(20, int), np.r_[np.full(10, -1), np.zeros(10, int)], np.arange(20)),
        *(np.zeros(1, int), np.full(1, -1), np.array([0, 1]), np.array([-1, 1]), np.array([3, 3])),
    ],
)
def test_without_two_clusters_scores_are_empty(rng, labels, name):
    row = score_labels(rng.normal(size=(len(labels), 3)), labels)
    assert (row[name], row["silhouette_rows"]) == (None, 0)
    assert row["n_noise"] == np.count_nonzero(labels == -1)


# Together, and in parts
def test_together_is_alone_bit_for_bit(rng):
    X = rng.normal(size=(3000, 13)).astype(np.float32)
    several = some_labellings(rng, len(X))
    together = score_labellings(X, several, silhouette_rows=700, seed=3)
    assert together == [score_labels(X, labels, silhouette_rows=700, seed=3) for labels in several]
    assert together[::-1] == score_labellings(X, several[::-1], silhouette_rows=700, seed=3)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("room", [2**22, 2**40])
def test_threads_and_memory_change_no_bit(rng, monkeypatch, workers, room):
    X, flights, cut = rng.normal(size=(2300, 6)), [], silhouette._flights
    several = some_labellings(rng, len(X))
    expected = score_labellings(X, several)
    monkeypatch.setattr(partition_module, "n_threads", lambda: workers)
    monkeypatch.setattr(silhouette, "_flights", lambda *args: flights.extend(cut(*args)) or iter(flights))
    monkeypatch.setattr(MemoryBudget, "free", room)
    monkeypatch.setattr(variance, "_BLOCK_BYTES", 2**14 if room == 2**22 else 2**20)
    assert score_labellings(X, several, memory=MemoryBudget(room)) == expected
    assert (len(flights) > 1) == (room == 2**22)


def test_memory_stays_within_the_budget():
    script = (
        "import numpy as np\n"
        "from toolkit.memory import MemoryBudget, peak_bytes, reset_peak, resident_bytes\n"
        "from toolkit.score.partition import score_labellings\n"
        "rng = np.random.default_rng(0)\n"
        "X = rng.normal(size=(20_000, 128)).astype(np.float32)\n"
        "several = [rng.integers(0, 1500, len(X)) for _ in range(24)]\n"
        "def score(memory, n=len(X)):\n"
        "    return score_labellings(X[:n], [a[:n] for a in several], silhouette_rows=2000, memory=memory)\n"
        "score(None, 2000)\n"
        "reset_peak()\n"
        "limit = resident_bytes() + (24 << 20)\n"
        "small = score(MemoryBudget(limit))\n"
        "over = peak_bytes() - limit\n"
        "assert small == score(MemoryBudget(2**40))\n"
        "print(over >> 10)\n"
    )
    over = int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
    assert over <= 0


def test_what_does_not_fit_is_refused_with_numbers(rng):
    X, memory = rng.normal(size=(20_000, 50)), MemoryBudget(resident_bytes() + (6 << 20))
    labels = rng.integers(0, 9, len(X))
    with pytest.raises(MemoryBudgetError, match=r"silhouette of 10,000 rows in 9 clusters needs .* MiB, but .* free"):
        score_labellings(X, [labels], memory=memory)
    many = rng.integers(0, 19_000, len(X))
    with pytest.raises(MemoryBudgetError, match=r"scoring a labelling of \d+,\d+ clusters needs .* MiB"):
        score_labellings(X, [labels, many], silhouette_rows=0, memory=memory)
    with pytest.raises(MemoryBudgetError, match="centroids"):
        cluster_centroids(X, many, memory=memory)
    with pytest.raises(MemoryBudgetError, match="DBCV of 20,000 clustered rows"):
        dbcv(X, labels, memory=memory)
    assert score_labellings(X, [labels], silhouette_rows=0, memory=memory)[0]["davies_bouldin_score"] > 0


@pytest.mark.parametrize("collision", [False, True])
def test_the_same_partition_is_scored_once(rng, monkeypatch, collision):
    X, scored = rng.normal(size=(500, 4)), []
    a, b = rng.integers(-1, 4, 500), rng.integers(-1, 4, 500)
    several = [a, b, a.copy(), np.where(a == -1, -1, 7 - a), a.astype(np.int16)]
    expected = [score_labels(X, labels) for labels in several]
    plainly = variance.variance_scores
    monkeypatch.setattr(variance, "variance_scores", lambda X, o, group: scored.extend(group) or plainly(X, o, group))
    if collision:
        monkeypatch.setattr(labellings, "_digest", lambda _: b"")
    assert score_labellings(X, several) == expected
    assert len(scored) == 2


def test_sampled_silhouette_is_that_of_the_first_rows_of_one_order(rng):
    """With coverage 0.8 and 0.6 they lie in its common prefix; with 0.1 and 0.03 the labelling has rows of its own."""
    X = rng.normal(size=(3000, 4))
    X[:, 0] += np.arange(3000) % 3 * 3
    order = np.random.default_rng(7).permutation(3000)
    several = [np.where(rng.random(3000) < share, np.arange(3000) % 3, -1) for share in (0.8, 0.6, 0.1, 0.03)]
    rows = score_labellings(X, several, silhouette_rows=200, seed=7)
    for labels, row in zip(several, rows, strict=True):
        first = order[labels[order] != -1][:200]
        assert row["silhouette_score"] == pytest.approx(silhouette_by_hand(X[first], labels[first]), rel=1e-12)
        assert row["silhouette_rows"] == len(first)
    assert rows[0]["silhouette_rows"] == 200 > rows[3]["silhouette_rows"]
    groups = silhouette.sample_rows(
        labellings.distinct(several, n_samples=3000, noise="exclude")[0], 3000, max_rows=200, seed=7
    )
    assert [len(group.sampled) for group in groups] == [2, 1, 1]
    none = score_labels(X, several[0], silhouette_rows=0)
    assert (none["silhouette_score"], none["silhouette_rows"]) == (None, 0)
    assert none["davies_bouldin_score"] == rows[0]["davies_bouldin_score"]


def test_a_sample_of_one_cluster_has_no_silhouette(rng):
    labels = np.zeros(2000, int)
    labels[np.random.default_rng(0).permutation(2000)[100:]] = 1
    row = score_labels(rng.normal(size=(2000, 2)), 1 - labels, silhouette_rows=100)
    assert (row["silhouette_score"], row["silhouette_rows"]) == (None, 0)
    assert row["n_clusters"] == 2


def test_origin_is_amid_the_data(rng):
    X = rng.normal(size=(1000, 3)) + np.array([1e6, 0, -1e4])
    X[:, 1] = 0.1
    origin = variance.column_origin(X)
    assert origin[1] == 0.1
    assert (abs(origin - X.mean(axis=0)) < 0.3).all()


def test_progress_rises_to_one(rng):
    X, told = rng.normal(size=(1500, 3)), []
    score_labellings(X, some_labellings(rng, 1500), silhouette_rows=500, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0 > told[0] > 0
    assert told[-2] > 0.999
    assert score_labellings(X, []) == []


@pytest.mark.parametrize("noise", ["exclude", "as_cluster"])
def test_centroids(rng, noise):
    X, labels = hard("offset 1e4", rng)
    names, found = cluster_centroids(X, labels, noise=noise)
    assert list(names) == [name for name in np.unique(labels) if noise == "as_cluster" or name != -1]
    for name, centroid in zip(names, found, strict=True):
        np.testing.assert_allclose(centroid, X[labels == name].mean(axis=0), rtol=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": "drop"}, "unknown noise 'drop'; known: as_cluster, exclude"),
        ({"silhouette_rows": -1}, "silhouette_rows is -1; allowed: 0"),
        ({"labels": np.zeros(19, int)}, r"labelling 0 is int64 \(19,\); allowed: integers \(20,\)"),
        ({"labels": np.zeros(20)}, "labelling 0 is float64"),
        ({"X": np.zeros((20, 2), int)}, "X is int64"),
        ({"X": np.zeros(20)}, r"X is float64 \(20,\)"),
        ({"X": np.r_[np.zeros((9, 2)), [[np.nan, 0]], np.zeros((10, 2))]}, "row 9 of X holds NaN or inf"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, message):
    given = {"X": np.zeros((20, 2)), "labels": np.zeros(20, int)} | change
    with pytest.raises(InputError, match=message):
        score_labels(**given)


# Density-based validity
def validity_by_hand(X, labels):
    """Definitions 1 to 8 of Moulavi et al. 2014; Prim's algorithm, a tie goes to the first row in the tree."""
    members = {name: np.flatnonzero(labels == name) for name in np.unique(labels[labels != -1])}
    reach = cdist(X, X)
    core, inner, sparse = np.zeros(len(X)), {}, {}
    for rows in members.values():
        for row in rows:
            others = np.array([reach[row, other] for other in rows if reach[row, other] > 0])
            core[row] = np.exp(-(logsumexp(-X.shape[1] * np.log(others)) - np.log(len(rows) - 1)) / X.shape[1])
    reach = np.maximum(reach, np.maximum(core[:, None], core))
    for name, rows in members.items():
        tree, edges = [rows[0]], []
        while len(tree) < len(rows):
            left = [row for row in rows if row not in tree]
            new = min(left, key=lambda row: min(reach[row, tree]))
            weight = min(reach[new, tree])
            edges.append((min(row for row in tree if np.isclose(reach[new, row], weight, atol=0)), new, weight))
            tree.append(new)
        ends = [end for edge in edges for end in edge[:2]]
        inner[name] = [row for row in rows if ends.count(row) > 1] or [rows[0]]
        between = [w for i, j, w in edges if i in inner[name] and j in inner[name]]
        sparse[name] = max(between or [w for _, _, w in edges])
    total = 0.0
    for name, rows in members.items():
        separation = min(reach[np.ix_(inner[name], inner[other])].min() for other in members if other != name)
        total += len(rows) / len(X) * (separation - sparse[name]) / max(separation, sparse[name])
    return total


@pytest.mark.parametrize("kind", ["plain", "lattice", "pairs", "150 features", "tiny", "offset"])
def test_dbcv_is_the_formula(rng, kind):
    X, labels = rng.normal(size=(160, 3)), rng.integers(-1, 4, 160)
    X[:, 0] += 3 * labels
    if kind == "lattice":
        X = np.round(X)
    elif kind == "pairs":
        labels = np.arange(160) // 2
    elif kind == "150 features":
        X = rng.normal(size=(160, 150)) * 1e-3 + 1e-2 * labels[:, None]  # distance^-150 is 1e300 and more
    elif kind == "tiny":
        X *= 1e-12
    elif kind == "offset":
        X += 1e4
    assert dbcv(X, labels) == pytest.approx(validity_by_hand(X, labels), rel=1e-9)


def test_dbcv_of_hdbscan():
    """The values of hdbscan.validity.validity_index, hdbscan 0.8.44, on scikit-learn's iris and wine."""
    iris, wine = load_iris(return_X_y=True), load_wine(return_X_y=True)
    assert dbcv(*iris) == pytest.approx(-0.009362824610027187, abs=1e-10)
    assert dbcv(*wine) == pytest.approx(-0.822479820384888, abs=1e-10)


def test_dbcv_of_degenerate_clusters(rng):
    X = np.r_[np.zeros((5, 2)), np.ones((5, 2)), [[9.0, 9.0]]]
    labels = np.r_[np.zeros(5, int), np.ones(5, int), 2]
    assert dbcv(X, labels) == pytest.approx(10 / 11)  # duplicates: sparseness 0; a row alone: validity 0
    assert dbcv(np.zeros((4, 2)), np.array([0, 0, 1, 1])) == 0
    assert np.isnan(dbcv(X, np.zeros(11, int)))
    with pytest.raises(InputError, match="labelling 0 is"):
        dbcv(X, labels[1:])


def relative_validity_by_hand(edges, labels):
    clusters, heaviest = sorted(set(labels) - {-1}), max(weight for *_, weight in edges)
    total = 0.0
    for name in clusters:
        inside = [w for i, j, w in edges if labels[i] == labels[j] == name]
        ends = [({labels[i], labels[j]} - {name}, w) for i, j, w in edges if name in (labels[i], labels[j])]
        to_others = [w for other, w in ends if other and other != {-1}]
        to_noise = [w for other, w in ends if other == {-1}]
        alone = min(to_noise or [heaviest]) if len(clusters) == 1 else heaviest
        separation, sparse = min(to_others or [2 * alone]), max(inside or [0])
        total += np.count_nonzero(labels == name) * (separation - sparse) / max(separation, sparse)
    return total / len(labels)


@pytest.mark.parametrize("names", [[-1, 0], [0], [-1, 0, 1, 2], [-1, -1, -1, 3, 8], [4, 5]])
def test_relative_validity_is_the_formula(rng, names):
    for n in (2, 3, 10, 60):
        edges = [(int(rng.integers(0, j)), j, float(rng.random())) for j in range(1, n)]
        labels = np.sort(rng.choice(names, n)) if n == 60 else rng.choice(names, n)
        mst = tuple(np.array(part) for part in zip(*edges, strict=True))
        expected = relative_validity_by_hand(edges, labels)
        assert relative_validity(mst, labels) == pytest.approx(expected, rel=1e-12)
    assert relative_validity(mst, np.full(n, -1)) == 0
    assert relative_validity((mst[0], mst[1], 0 * mst[2]), labels) == 0
    with pytest.raises(InputError, match="one edge less than labels"):
        relative_validity(mst, labels[1:])
