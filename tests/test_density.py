"""The density forest against brute force in float64 and scikit-learn, on inputs made to break it."""

import warnings

import numpy as np
import pytest
import sklearn.cluster
from hard_data import KINDS, SHAPES, data, duplicates, far_blobs, heavy_tails, lattice, normal, offset, two_scales
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import toolkit
from toolkit.cluster import mst, neighbors, unlisted
from toolkit.cluster.density import DensityForest
from toolkit.cluster.forest_plan import ForestPlan
from toolkit.cluster.lists import NeighborLists
from toolkit.cluster.neighbors import PassPlan, find_neighbors
from toolkit.cluster.points import Points, Products
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.memory import MemoryBudget, resident_bytes


def squared_distances(X):
    X = X.astype(np.float64)
    return np.stack([((X - row) ** 2).sum(axis=1) for row in X])


def reachability(X, min_samples):
    squared = squared_distances(X)
    core = np.sort(squared, axis=1)[:, min_samples - 1]
    return np.sqrt(np.maximum(squared, np.maximum(core[:, None], core))), np.sqrt(core)


def brute_tree_weights(weights):
    """Prim's algorithm on all pairs."""
    nearest, inside, found = weights[0].copy(), np.zeros(len(weights), bool), []
    inside[0] = True
    for _ in range(len(weights) - 1):
        row = np.argmin(np.where(inside, np.inf, nearest))
        found.append(nearest[row])
        inside[row] = True
        nearest = np.minimum(nearest, weights[row])
    return np.sort(found)


def same_partition(a, b):
    return np.array_equal(a == -1, b == -1) and adjusted_rand_score(a, b) == 1.0


# Neighbours
def lists_of(X, k, n_bytes=1 << 40, **changes):
    points = Points.of(X)
    plan = PassPlan.of(len(points.X), min(k, len(points.X)), n_bytes)
    plan = PassPlan(**{**plan.__dict__, **changes})
    lists = NeighborLists(plan.n_points, plan.n_neighbors)
    find_neighbors(points.X, Products.of(points.X, plan.sample_first()), lists, plan)
    ((_, squared, indices),) = lists.blocks()
    return points, squared, indices


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d", "k"), [(1, 3, 4), (7, 2, 7), (150, 1, 20), (2500, 3, 40), (2300, 40, 300)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbours_are_those_of_brute_force(kind, n, d, k, dtype):
    X = data(kind, n, d).astype(dtype)
    points, squared, indices = lists_of(X, k)
    assert len(np.unique(X, axis=0)) == len(points.X)
    np.testing.assert_array_equal(points.X[points.index_of], X)
    expected = squared_distances(points.X)
    order = np.lexsort((np.broadcast_to(np.arange(len(expected)), expected.shape), expected))[:, : squared.shape[1]]
    np.testing.assert_allclose(squared, np.take_along_axis(expected, order, axis=1), rtol=1e-14)
    ties = np.diff(squared, axis=1) <= 1e-13 * squared[:, 1:]
    if not ties.any():  # else rounding in the last digits may order them otherwise
        np.testing.assert_array_equal(indices, order)


@pytest.mark.parametrize("kind", [normal, lattice, heavy_tails, far_blobs])
@pytest.mark.parametrize(
    "changes",
    [{"panel": 1024, "n_sampled": 1024}, {"capacity": 70}, {"rank": 3}, {"rank": 1, "capacity": 65}],
    ids=str,
)
def test_panels_short_room_and_tight_thresholds_change_no_neighbour(kind, changes):
    X = data(kind, 4200, 12)
    _, squared, indices = lists_of(X, 64)
    _, again, indices_again = lists_of(X, 64, **changes)
    np.testing.assert_array_equal(squared, again)
    np.testing.assert_array_equal(indices, indices_again)


@pytest.mark.parametrize("scale", [1e-310, 5e-324, 1e-200])
def test_values_too_small_for_their_squares(scale):
    """They are all equally far apart, 0, as float64 has it; nothing breaks."""
    forest = DensityForest(5).fit(data(lattice, 150, 1).astype(np.float64) * scale)
    assert set(forest.dbscan(1.0, 5)) == {0}


def test_a_failed_fit_leaves_no_model():
    forest = DensityForest(2).fit(data(normal, 150, 1))
    with pytest.raises(InputError, match="allowed: up to"):
        forest.fit(np.array([[1e200], [0.0]]))
    with pytest.raises(InputError, match="not fitted"):
        forest.dbscan(0.5, 2)


def test_progress_adds_up():
    for n in (150, 2048, 3000):
        told = []
        DensityForest(5).fit(data(normal, n, 3), advance=told.append)
        assert sum(told) == pytest.approx(1.0, abs=0.06)


def test_values_that_float32_cannot_tell_apart():
    """The products are blind here; the measured distances are not."""
    rng = np.random.default_rng(3)
    X = 1e6 + 1e-4 * rng.normal(size=(1300, 5))
    X[0] = -1e6
    _, _, indices = lists_of(X, 10)
    expected = squared_distances(X)
    order = np.lexsort((np.broadcast_to(np.arange(len(X)), expected.shape), expected))[:, :10]
    np.testing.assert_array_equal(indices, order)


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e140])
def test_any_scale(scale):
    X = data(normal, 260, 3).astype(np.float64)
    _, _, expected = lists_of(X, 20)
    _, _, indices = lists_of(X * scale, 20)
    np.testing.assert_array_equal(indices, expected)


@pytest.mark.parametrize("far", [1e21, 1e24, 1e30])
def test_one_row_far_beyond_all_others(far):
    X = np.concatenate([data(normal, 600, 8), np.full((1, 8), far, np.float32)])
    forest = DensityForest([5, 64]).fit(X)
    expected = sklearn.cluster.DBSCAN(eps=2.0, min_samples=5, algorithm="brute").fit(X.astype(float)).labels_
    np.testing.assert_array_equal(forest.dbscan(2.0, 5), expected)


# Spanning trees
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(2, 1), (7, 2), (260, 3), (1300, 2), (1300, 20)])
@pytest.mark.parametrize("table_bytes", [mst.TABLE_BYTES, 3000])
def test_tree_weights_are_those_of_brute_force(kind, n, d, table_bytes, monkeypatch):
    for grow in (mst.largest_spanning_tree, mst.smaller_spanning_tree):
        monkeypatch.setitem(grow.__kwdefaults__, "table_bytes", table_bytes)
    X = data(kind, n, d)
    values = [m for m in (1, 2, 5, 30) if m <= n]
    forest = DensityForest(values).fit(X)
    for m in [*values, *([3] if n > 5 else [])]:  # 3 was not asked for beforehand
        weights, core = reachability(X, m)
        tree = forest.mst(min_samples=m)
        np.testing.assert_allclose(tree.distance, brute_tree_weights(weights), rtol=1e-13)
        np.testing.assert_allclose(weights[tree.i, tree.j], tree.distance, rtol=1e-13)
        assert connected_components(coo_array((np.ones(n - 1), (tree.i, tree.j)), shape=(n, n)), directed=False)[0] == 1
        np.testing.assert_allclose(forest.core_distances(min_samples=m), core, rtol=1e-13)


# DBSCAN
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_dbscan_is_that_of_scikit_learn(kind, n, d):
    """Point for point, with eps on lattice distances and at quantiles of the distances."""
    X = data(kind, n, d)
    distances = np.unique(np.sqrt(squared_distances(X[:100])))
    apart = distances[1:][np.diff(distances) > 1e-6 * distances[1:]]  # the others differ by rounding alone
    radii = [1.0, 2.0, *np.sqrt([2, 3, 5, 6, 8])]
    radii += [apart[int(share * len(apart))] * (1 - 5e-7) for share in (0.01, 0.1, 0.4, 0.9) if len(apart)]
    values = (1, 2, 3, 8, 60)
    forests = [DensityForest(values).fit(X.astype(dtype)) for dtype in (np.float32, np.float64)]
    for eps in map(float, radii):
        for m in values:
            # The trees of scikit-learn compare distances for whole nodes and squares for rows, which differ on the
            # boundary (sqrt(3) ** 2 < 3); its brute force always compares squares, as the forest does.
            reference = sklearn.cluster.DBSCAN(eps=eps, min_samples=m, algorithm="brute")
            expected = reference.fit(X.astype(np.float64))
            for forest in forests:
                np.testing.assert_array_equal(forest.dbscan(eps, m), expected.labels_)
                np.testing.assert_array_equal(np.flatnonzero(forest.is_core(eps, m)), expected.core_sample_indices_)


# HDBSCAN
def naive_tree(weights, min_cluster_size):
    """Clusters by definition: cut at each weight, from the largest down, and look at what stays connected.

    Returns clusters as dicts of rows, birth, parent and the lambda at which each row leaves.
    """
    clusters = [{"rows": np.arange(len(weights)), "birth": 0.0, "parent": None, "leaves": {}}]
    todo = [0]
    while todo:
        number = todo.pop()
        cluster = clusters[number]
        rows = cluster["rows"]
        while True:
            inner = weights[np.ix_(rows, rows)]
            cut = brute_tree_weights(inner)[-1]
            parts = connected_components(inner < cut, directed=False)[1]
            large = [p for p in range(parts.max() + 1) if np.sum(parts == p) >= min_cluster_size]
            value = 1 / cut if cut > 0 else np.inf
            for row in rows[~np.isin(parts, large)]:
                cluster["leaves"][row] = value
            if len(large) == 1:
                rows = rows[parts == large[0]]
                continue
            for p in large:
                clusters.append({"rows": rows[parts == p], "birth": value, "parent": number, "leaves": {}})
                todo.append(len(clusters) - 1)
            cluster["split"] = value if large else None
            cluster["kept"] = rows[np.isin(parts, large)]
            break
    return clusters


def naive_labels(clusters, n):
    """Excess of mass, without the root."""
    from math import fsum

    stability, best = [], []
    for c in clusters:
        values = [value - c["birth"] for value in c["leaves"].values()]
        values += [c["split"] - c["birth"]] * len(c["kept"]) if c["split"] else []
        stability.append(fsum(values) if np.isfinite(values).all() else np.inf)
        best.append([])
    total = list(stability)
    for number in range(len(clusters) - 1, 0, -1):
        inner = [k for k, c in enumerate(clusters) if c["parent"] == number]
        below = sum(total[k] for k in inner)
        if below > stability[number] * (1 + 1e-12):
            total[number], best[number] = below, [k for i in inner for k in best[i]]
        else:
            total[number], best[number] = stability[number], [number]
    chosen = [k for i, c in enumerate(clusters) if c["parent"] == 0 for k in best[i]]
    labels = np.full(n, -1)
    for k in chosen:
        labels[clusters[k]["rows"]] = k
    return labels


def naive_glosh(clusters, n):
    deaths = [max([*c["leaves"].values(), c["split"] or 0.0]) for c in clusters]
    for number in range(len(clusters) - 1, 0, -1):
        above = clusters[number]["parent"]
        deaths[above] = max(deaths[above], deaths[number])
    scores = np.empty(n)
    for c, death in zip(clusters, deaths, strict=True):
        for row, value in c["leaves"].items():
            scores[row] = 0.0 if np.isinf(value) else 1.0 if np.isinf(death) else 1 - value / death
    return scores


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(7, 2), (90, 1), (130, 3), (80, 17)])
def test_hdbscan_and_glosh_by_definition(kind, n, d):
    """Ties included: a cut takes all edges of one weight."""
    X = data(kind, n, d)
    values = [m for m in (1, 2, 5) if m <= n]
    forest = DensityForest(values).fit(X)
    for m in values:
        weights = np.zeros((n, n))
        tree = forest.mst(min_samples=m)  # minimax distances decide, and these have the forest's last digits
        weights[:] = np.inf
        weights[tree.i, tree.j] = weights[tree.j, tree.i] = tree.distance
        for size in (2, 5, 12):
            clusters = naive_tree(weights, size)
            assert same_partition(naive_labels(clusters, n), forest.hdbscan(size, m))
            scores = forest.outlier_scores(min_samples=m, min_cluster_size=size)
            np.testing.assert_allclose(scores, naive_glosh(clusters, n), atol=1e-12)


OPTIONS = (
    {},
    {"cluster_selection_method": "leaf"},
    {"allow_single_cluster": True},
    {"max_cluster_size": 60},
    {"max_cluster_size": 60, "allow_single_cluster": True},
    {"cluster_selection_epsilon": 0.6},
    {"cluster_selection_epsilon": 0.6, "allow_single_cluster": True},
    {"cluster_selection_epsilon": 0.6, "cluster_selection_method": "leaf"},
)


def tie_free_sets():
    """Mutual reachability ties wherever one core distance decides two edges; with min_samples 1 and 2 rarely so."""
    for seed in range(30):
        for kind, n, d in ((normal, 60, 2), (two_scales, 120, 3), (offset, 90, 20), (heavy_tails, 25, 2)):
            X = data(kind, n, d, seed).astype(np.float64)
            forest = DensityForest([1, 2, 3]).fit(X)
            for m in (1, 2, 3):
                if np.diff(forest.mst(min_samples=m).distance).min() > 0:
                    yield X, forest, m


def test_hdbscan_is_that_of_scikit_learn_where_no_weights_tie():
    compared = 0
    for X, forest, m in tie_free_sets():
        for options in OPTIONS:
            for size in (2, 6):
                model = sklearn.cluster.HDBSCAN(min_cluster_size=size, min_samples=m, copy=True, **options)
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        expected = model.fit(X)
                except (TypeError, KeyError):  # scikit-learn 1.9 with some epsilons and single clusters
                    continue
                labels, probabilities = forest.hdbscan(size, m, **options, probabilities=True)
                assert same_partition(expected.labels_, labels), (m, size, options)
                np.testing.assert_allclose(probabilities, expected.probabilities_, atol=1e-9)
                compared += 1
    assert compared > 500


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(150, 1), (260, 3), (200, 17)])
def test_hdbscan_does_not_depend_on_the_order_of_the_rows(kind, n, d):
    X = data(kind, n, d)
    forest = DensityForest([1, 4, 9]).fit(X)
    for seed in range(3):
        shuffle = np.random.default_rng(seed).permutation(n)
        other = DensityForest([1, 4, 9]).fit(X[shuffle])
        for m in (1, 4, 9):
            for size in (2, 7, 20):
                for options in OPTIONS:
                    labels, probabilities = forest.hdbscan(size, m, **options, probabilities=True)
                    again, strengths = other.hdbscan(size, m, **options, probabilities=True)
                    assert same_partition(labels[shuffle], again)
                    np.testing.assert_array_equal(probabilities[shuffle], strengths)
            np.testing.assert_array_equal(
                forest.outlier_scores(min_samples=m)[shuffle], other.outlier_scores(min_samples=m)
            )


def test_relative_validity_prefers_the_clusters_that_are_there():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 300)
    forest = DensityForest(5).fit(rng.normal(size=(300, 2)) + 20 * true[:, None])
    assert forest.relative_validity(true, min_samples=5) > 0.5
    assert forest.relative_validity(rng.permutation(true), min_samples=5) < 0


# What must change nothing
def results(forest):
    found = []
    for m in forest.min_samples:
        found += [*forest.mst(min_samples=m), forest.outlier_scores(min_samples=m)]
        found += [*forest.dbscan_many([0.5, 1.0, 2.5, 4.0], m), forest.hdbscan(8, m), forest.hdbscan(30, m)]
    return found


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(params=[normal, lattice, duplicates, far_blobs], ids=lambda kind: kind.__name__)
def matrix(request):
    return data(request.param, 3300, 6)


def test_spilling_threads_and_precision_change_nothing(matrix, tmp_path, monkeypatch):
    forest = DensityForest([2, 20]).fit(matrix)
    expected = results(forest)
    plan = ForestPlan.of(len(np.unique(matrix, axis=0)), matrix.shape[1], 20, 0)
    assert plan.spilled
    free = plan.n_bytes
    with monkeypatch.context() as patched:
        patched.setattr(MemoryBudget, "free", property(lambda _: free))
        spilled = DensityForest([2, 20], folder=tmp_path).fit(matrix)
        assert spilled._lists.folder is not None
        assert_same(results(spilled), expected)
    del spilled
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(neighbors, "n_threads", lambda: 5)
        patched.setattr(unlisted, "n_threads", lambda: 5)
        assert_same(results(DensityForest([2, 20]).fit(matrix)), expected)
    assert_same(results(DensityForest([2, 20]).fit(matrix.astype(np.float64))), expected)


def test_saved_and_opened_again(matrix, tmp_path):
    forest = DensityForest([2, 20]).fit(matrix)
    forest.save(tmp_path / "forest")
    opened = DensityForest.load(tmp_path / "forest")
    assert_same(results(opened), results(forest))
    np.testing.assert_array_equal(opened.dbscan(1.3, 11), forest.dbscan(1.3, 11))  # 11: new to both
    from_disk = DensityForest.load(tmp_path / "forest", memory=resident_bytes() + 1000)
    assert from_disk._lists.folder is not None
    assert_same(results(from_disk), results(forest))
    with pytest.raises(InputError, match="exists already"):
        forest.save(tmp_path / "forest")


@pytest.mark.parametrize("name", ["squared.npy", "indices.npy", "core_2.npy", "forest.json"])
def test_a_damaged_forest_is_refused(name, tmp_path):
    DensityForest([2]).fit(data(normal, 150, 1)).save(tmp_path / "forest")
    path = tmp_path / "forest" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if name == "forest.json" else content)
    with pytest.raises(InputError, match="fit it again"):
        DensityForest.load(tmp_path / "forest")
    path.unlink()
    with pytest.raises(InputError, match="fit it again"):
        DensityForest.load(tmp_path / "forest")


# Bad input
def test_more_min_samples_than_rows():
    X = data(normal, 7, 2)
    forest = DensityForest([3, 8]).fit(X)
    np.testing.assert_array_equal(forest.dbscan(100.0, 8), np.full(7, -1))
    np.testing.assert_array_equal(forest.core_distances(min_samples=8), np.full(7, np.inf))
    with pytest.raises(ValueError, match=r"min_samples \(8\) must be at most the number of samples in X \(7\)"):
        forest.hdbscan(2, 8)
    with pytest.raises(ValueError, match="at most the number of rows, 7"):
        forest.mst(min_samples=8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.dbscan(0, 5), "eps is 0; allowed: a number above 0"),
        (lambda f: f.dbscan(-1.5, 5), "eps is -1.5; allowed: a number above 0"),
        (lambda f: f.dbscan(np.nan, 5), "eps is nan"),
        (lambda f: f.dbscan("1", 5), "eps is '1'"),
        (lambda f: f.dbscan(1.0, 0), "min_samples is 0; allowed: a whole number of at least 1"),
        (lambda f: f.dbscan(1.0, 2.5), "min_samples is 2.5"),
        (lambda f: f.dbscan(1.0, 9), "min_samples is 9; allowed: at most 5"),
        (lambda f: f.hdbscan(1), "min_cluster_size is 1; allowed: a whole number of at least 2"),
        (lambda f: f.hdbscan(5, cluster_selection_method="best"), "cluster_selection_method is 'best'.*'eom', 'leaf'"),
        (lambda f: f.hdbscan(5, cluster_selection_epsilon=-1), "cluster_selection_epsilon is -1"),
        (lambda f: f.hdbscan(5, max_cluster_size=0), "max_cluster_size is 0"),
        (lambda f: f.outlier_scores(min_samples=5, min_cluster_size=1), "min_cluster_size is 1"),
        (lambda _: DensityForest([]), "min_samples is empty"),
        (lambda _: DensityForest([2, 0]), "min_samples is 0"),
        (lambda _: DensityForest(2).fit(np.ones(3)), r"X has shape \(3,\)"),
        (lambda _: DensityForest(2).fit(np.ones((0, 3))), r"X has shape \(0, 3\)"),
        (lambda _: DensityForest(2).fit(np.array([[1.0], [np.nan]])), "NaN or inf"),
        (lambda _: DensityForest(2).fit(np.array([["a"]])), "X has dtype"),
        (lambda _: DensityForest(2).fit(np.array([[1e200], [0.0]])), "allowed: up to 1e.150"),
        (lambda _: DensityForest(2).dbscan(1.0, 2), "not fitted"),
    ],
)
def test_bad_input(call, message):
    forest = DensityForest(5).fit(data(normal, 150, 1))
    with pytest.raises(InputError, match=message):
        call(forest)


def test_what_does_not_fit_is_refused_with_numbers(monkeypatch, tmp_path):
    import shutil

    X = data(normal, 2300, 40)
    with pytest.raises(MemoryBudgetError, match=r"2,300 rows with min_samples up to 512 needs [\d.]+ MiB, but"):
        DensityForest(512, memory="1MiB").fit(X)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    free = ForestPlan.of(len(X), X.shape[1], 512, 0).n_bytes + (1 << 20)
    monkeypatch.setattr(MemoryBudget, "free", property(lambda _: free))
    with pytest.raises(MemoryBudgetError, match=r"take 13.5 MiB, but .* 1000 B of the disk"):
        DensityForest(512, folder=tmp_path).fit(X)


# Estimators
@parametrize_with_checks([toolkit.DBSCAN(), toolkit.HDBSCAN()])
def test_estimators_keep_to_the_interface(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_estimators_take_what_scikit_learn_takes():
    for ours, theirs in ((toolkit.DBSCAN, sklearn.cluster.DBSCAN), (toolkit.HDBSCAN, sklearn.cluster.HDBSCAN)):
        expected = theirs().get_params() | ({"copy": True} if "copy" in theirs().get_params() else {})
        assert ours().get_params() == expected


def test_estimators_equal_scikit_learn():
    X = data(two_scales, 260, 3).astype(np.float64)
    ours, theirs = (module.DBSCAN(eps=0.4, min_samples=4).fit(X) for module in (toolkit, sklearn.cluster))
    for name in ("labels_", "core_sample_indices_", "components_"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    X = data(two_scales, 120, 3).astype(np.float64)
    options = {"min_cluster_size": 5, "min_samples": 1, "store_centers": "both", "copy": True}
    ours, theirs = (module.HDBSCAN(**options).fit(X) for module in (toolkit, sklearn.cluster))
    assert same_partition(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.probabilities_, theirs.probabilities_, atol=1e-9)
    for name in ("centroids_", "medoids_"):
        one, other = (np.sort(getattr(model, name), axis=0) for model in (ours, theirs))
        np.testing.assert_allclose(one, other, rtol=1e-9)
    for cut in (0.05, 0.3, 1.0):
        assert same_partition(ours.dbscan_clustering(cut), theirs.dbscan_clustering(cut))


def test_rows_that_are_not_finite():
    X = data(two_scales, 120, 3).astype(np.float64)
    X[3, 1], X[5, 0] = np.nan, np.inf
    ours, theirs = (module.HDBSCAN(min_samples=1, copy=True).fit(X) for module in (toolkit, sklearn.cluster))
    assert list(ours.labels_[[3, 5]]) == list(theirs.labels_[[3, 5]]) == [-3, -2]
    np.testing.assert_allclose(ours.probabilities_, theirs.probabilities_, atol=1e-9)
    assert adjusted_rand_score(ours.labels_, theirs.labels_) == 1.0
    assert list(ours.dbscan_clustering(0.3)[[3, 5]]) == [-3, -2]


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (toolkit.DBSCAN(metric="cosine"), "metric is 'cosine', which is not supported; allowed: 'euclidean'"),
        (toolkit.DBSCAN(p=1), "p is 1, which is not supported"),
        (toolkit.DBSCAN(eps=0), "eps is 0; allowed: a number above 0"),
        (toolkit.DBSCAN(algorithm="octree"), "algorithm is 'octree'"),
        (toolkit.HDBSCAN(alpha=0.5), "alpha is 0.5, which is not supported; allowed: 1.0"),
        (toolkit.HDBSCAN(metric="precomputed"), "metric is 'precomputed'"),
        (toolkit.HDBSCAN(store_centers="mean"), "store_centers is 'mean'"),
        (toolkit.HDBSCAN(min_samples=300), r"min_samples \(300\) must be at most"),
    ],
)
def test_estimators_name_what_they_do_not_support(estimator, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(data(normal, 150, 1))


def test_sample_weight_is_refused():
    with pytest.raises(ValueError, match="sample_weight"):
        toolkit.DBSCAN().fit(data(normal, 150, 1), sample_weight=np.ones(150))
