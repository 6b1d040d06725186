"""Descriptors and clusters against known identities: scikit-learn and brute force as oracles, on hard inputs."""

from __future__ import annotations

import csv
import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from scipy.spatial.distance import cdist
from sklearn import metrics
from test_run import execute
from typer.testing import CliRunner

from toolkit.cli import app
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.faces.evaluation import evaluate_descriptors, evaluate_labels, match_paths, write, write_evaluation
from toolkit.faces.evaluation import pairs as module
from toolkit.faces.evaluation.identities import identities_of
from toolkit.grid.finished import FinishedRun
from toolkit.score import truth
from toolkit.score.truth import confusions, match, verification, with_single_noise


def write_csv(path, header, *columns):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *zip(*columns, strict=True)])
    return path


def in_folders(people):
    return [f"photos/{one}/{number}.jpg" for number, one in enumerate(people)]


# Verification of pairs, on distances
def distances(kind, rng):
    """Return distances of pairs of one identity and of different ones."""
    return {
        "usual": lambda: (rng.normal(1, 0.4, 700), rng.normal(2, 0.4, 5000)),
        "ties": lambda: (rng.integers(0, 6, 300) / 4, rng.integers(2, 9, 2500) / 4),
        "all equal": lambda: (np.ones(12), np.ones(30)),
        "separated": lambda: (rng.random(40), 1 + rng.random(2000)),
        "reversed": lambda: (1 + rng.random(40), rng.random(50)),
        "more of one identity": lambda: (rng.random(900), rng.random(20) + 0.3),
        "equal gains": lambda: (np.array([0.0, 2.0]), np.array([1.0, 3.0])),
        "between": lambda: (np.array([1.0, 3.0]), np.array([2.0, 2.5, 4.0])),
        "one of each": lambda: (np.array([1.0]), np.array([2.0])),
        "three and two": lambda: (np.array([0.0, 0.0, 1.0]), np.array([0.0, 2.0])),
    }[kind]()


KINDS = (
    "usual", "ties", "all equal", "separated", "reversed", "more of one identity", "equal gains", "between",
    "one of each", "three and two",
)  # fmt: skip


def accuracy_at(threshold, same, different):
    return (np.mean(same <= threshold) + np.mean(different > threshold)) / 2


def best_by_trial(same, different):
    """Return the lowest of the distances that separate best."""
    tried = np.unique(same)
    gains = [np.mean(same <= one) - np.mean(different <= one) for one in tried]
    return tried[int(np.argmax(np.round(gains, 12)))]


@pytest.mark.parametrize("kind", KINDS)
def test_verification_by_scikit_learn(kind, rng):
    same, different = distances(kind, rng)
    found = verification(same.copy(), different.copy(), np.random.default_rng(0))
    is_same = np.repeat([1, 0], [len(same), len(different)])
    nearness = -np.concatenate([same, different])
    far, tar, _ = metrics.roc_curve(is_same, nearness, drop_intermediate=False)
    assert found.auc == pytest.approx(metrics.roc_auc_score(is_same, nearness), abs=1e-12)
    assert found.tar == pytest.approx(tar[far <= 1e-3].max(), abs=1e-12)
    crossing = brentq(lambda x: 1 - x - interp1d(far, tar)(x), 0, 1) if kind in ("usual", "ties") else None
    if crossing is not None:
        assert found.equal_error_rate == pytest.approx(crossing, abs=1e-9)
    assert found.threshold == best_by_trial(same, different)
    corners = set(zip(far.round(12).tolist(), tar.round(12).tolist(), strict=True))
    drawn = list(zip(found.curve_far.round(12).tolist(), found.curve_tar.round(12).tolist(), strict=True))
    assert set(drawn) <= corners
    assert drawn == sorted(drawn)
    assert (found.curve_far[-1], found.curve_tar[-1]) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("all equal", 0.5),
        ("separated", 0),
        ("reversed", 1),
        ("one of each", 0),
        ("between", 0.5),
        ("three and two", 3 / 7),
    ],
)
def test_the_equal_error_rate_by_hand(kind, expected, rng):
    """Three and two: the curve goes straight from (0, 0) to (1/2, 2/3), and on it 1 - TAR = FAR at 3/7."""
    found = verification(*distances(kind, rng), np.random.default_rng(0))
    assert found.equal_error_rate == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_folds_in_the_order_given_judge_each_by_the_others(kind, rng):
    same, different = distances(kind, rng)
    found = verification(same, different)
    n_folds = min(10, len(same), len(different))
    if n_folds < 2:
        assert np.isnan(found.accuracy)
        assert np.isnan(found.accuracy_std)
        return
    parts = [np.array_split(np.arange(len(values)), n_folds) for values in (same, different)]
    if kind in ("usual", "ties", "separated"):  # folds of one length: cut where array_split cuts
        expected = []
        for here, there in zip(*parts, strict=True):
            threshold = best_by_trial(np.delete(same, here), np.delete(different, there))
            expected.append(accuracy_at(threshold, same[here], different[there]))
        assert found.accuracy == pytest.approx(np.mean(expected), abs=1e-12)
        assert found.accuracy_std == pytest.approx(np.std(expected), abs=1e-12)
    assert 0 <= found.accuracy <= 1


def test_shuffled_folds_say_the_same_but_for_chance(rng):
    same, different = distances("usual", rng)
    ordered = verification(same, different)
    dealt = [verification(same.copy(), different.copy(), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert dealt[0].accuracy == dealt[1].accuracy != dealt[2].accuracy
    for one in dealt:
        assert one[:5] == ordered[:5]
        assert one.accuracy == pytest.approx(ordered.accuracy, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_change_nothing(kind, rng, monkeypatch):
    same, different = distances(kind, rng)
    whole = verification(same, different)
    monkeypatch.setattr(truth, "_PIECE", 3)
    assert str(verification(same, different)[:8]) == str(whole[:8])
    monkeypatch.setattr(truth, "_PIECE", 1)
    assert str(verification(same, different)[:8]) == str(whole[:8])


# Verification of descriptors
def faces(rng, n_people=9, n_rows=70, d=17):
    people = rng.integers(0, n_people, n_rows)
    X = rng.normal(size=(n_people, d))[people] + rng.normal(size=(n_rows, d))
    X[5] = X[9]  # duplicates, whoever they are of
    return X.astype(np.float32), [f"p{one}" for one in people]


def all_pairs(X, people, metric="euclidean"):
    """Return the distances of pairs of one identity and of different ones."""
    first, second = np.triu_indices(len(people), 1)
    is_same = np.array(people)[first] == np.array(people)[second]
    apart = cdist(X.astype(np.float64), X.astype(np.float64), metric)[first, second]
    return apart[is_same], apart[~is_same]


def expected_auc(X, people, metric="euclidean"):
    same, different = all_pairs(X, people, metric)
    is_same = np.repeat([1, 0], [len(same), len(different)])
    return metrics.roc_auc_score(is_same, -np.concatenate([same, different]))


def saved(folder, X, people, paths=None):
    folder.mkdir(exist_ok=True)
    np.save(folder / "faces.npy", X)
    write_csv(folder / "images_paths.csv", ["path"], in_folders(people) if paths is None else paths)
    return folder / "faces.npy"


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("d", [3, 17])
def test_all_pairs_by_brute_force(metric, d, rng, tmp_path):
    X, people = faces(rng, d=d)
    found = evaluate_descriptors(saved(tmp_path / "d", X, people), metric=metric, memory="4GiB")
    assert found.pairs.auc == pytest.approx(expected_auc(X, people, metric), abs=1e-12)
    same, different = all_pairs(X, people, metric)
    assert (found.pairs.n_same, found.pairs.n_different) == (len(same), len(different))
    assert found.pairs.threshold == pytest.approx(best_by_trial(same, different), rel=1e-12)
    assert found.n_identities == len(set(people))
    assert "left out" not in found.text
    assert "random" not in found.text


def test_rows_that_cannot_be_compared_are_left_out_and_counted(rng, tmp_path):
    X, people = faces(rng)
    X[3], X[4, 2] = np.nan, -np.inf
    X[6] = 0
    paths = in_folders(people)
    paths[3], paths[7] = "3.jpg", "7.jpg"  # in no folder
    path = saved(tmp_path / "d", X, people, paths)
    (tmp_path / "d" / "faces.csv").write_text("of another kind, beside it\n")
    for metric, out in (("euclidean", [3, 4, 7]), ("cosine", [3, 4, 6, 7])):
        found = evaluate_descriptors(path, metric=metric)
        kept = np.setdiff1d(np.arange(70), out)
        assert found.pairs.auc == pytest.approx(expected_auc(X[kept], [people[i] for i in kept], metric), abs=1e-12)
        assert (found.n_rows, found.n_without_identity) == (len(kept), 2)
        assert found.n_unreadable == len(out) - 2
        assert f"left out: 2 rows without identity, {len(out) - 2} unreadable rows" in found.text


def test_a_sample_is_said_and_near(rng, tmp_path, monkeypatch):
    X, people = faces(rng, n_people=12, n_rows=300)
    path = saved(tmp_path / "d", X, people)
    whole = evaluate_descriptors(path)
    monkeypatch.setattr(module, "_MOST_PAIRS", 300 * 299 // 2 - 1)
    monkeypatch.setattr(module, "_SAMPLE", 6000)
    monkeypatch.setattr(module, "_BLOCK_PAIRS", 1000)
    found, again, other = (evaluate_descriptors(path, seed=seed) for seed in (3, 3, 4))
    assert found.pairs.n_same == whole.pairs.n_same < 6000 == found.pairs.n_different
    assert f"all {whole.pairs.n_same:,} pairs of one identity and 6,000 random ones (with replacement, seed 3)" in (
        found.text
    )
    assert found.pairs.auc == again.pairs.auc != other.pairs.auc
    assert found.pairs.auc == pytest.approx(whole.pairs.auc, abs=0.02)
    assert found.n_different_pairs == whole.pairs.n_different


def test_pairs_are_numbered_once_each(rng):
    codes = np.array([3, -1, 0, 3, 0, 3, 2])
    known = np.flatnonzero(codes >= 0)
    same, different = module.kinds_of_pairs(codes, known)
    for kind, wanted in ((same, True), (different, False)):
        pairs = {
            tuple(sorted(pair))
            for pair in zip(*(side.tolist() for side in kind.rows(np.arange(kind.n_pairs))), strict=True)
        }
        assert pairs == {(i, j) for i, j in combinations(known.tolist(), 2) if (codes[i] == codes[j]) == wanted}
        assert len(pairs) == kind.n_pairs


@pytest.mark.parametrize("by", ["row", "path"])
def test_listed_pairs_are_judged_apart(by, rng, tmp_path):
    X, people = faces(rng)
    X[3] = np.nan
    path = saved(tmp_path / "d", X, people)
    sides = rng.integers(0, 70, (2, 400))
    sides[:, 0] = 3, 8
    same = [people[i] == people[j] for i, j in sides.T]
    names = [f"{one}/{i}.jpg" for i, one in enumerate(people)]  # ends of the image paths
    cells = sides if by == "row" else [[names[i] for i in side] for side in sides]
    if by == "path":
        cells[1][1] = "p0/unknown.jpg"
    pairs = write_csv(tmp_path / "pairs.csv", [f"{by}_1", f"{by}_2", "same"], *cells, [str(one) for one in same])
    found = evaluate_descriptors(path, pairs=pairs)
    kept = [k for k in range(400) if 3 not in sides[:, k] and not (by == "path" and k == 1)]
    apart = [np.linalg.norm(X[i].astype(float) - X[j]) for i, j in sides.T[kept]]
    assert found.listed.auc == pytest.approx(
        metrics.roc_auc_score([same[k] for k in kept], -np.array(apart)), abs=1e-12
    )
    assert found.n_listed_left_out == 400 - len(kept)
    assert "listed pairs" in found.text


def test_an_image_of_several_faces_is_no_pair_of_paths(rng, tmp_path):
    X, people = faces(rng)
    paths = in_folders(people)
    paths[1] = paths[0]
    path = saved(tmp_path / "d", X, people, paths)
    pairs = write_csv(tmp_path / "pairs.csv", ["path_1", "path_2", "same"], paths[:3], paths[1:4], [1, 0, 0])
    with pytest.raises(InputError, match="an image of several rows; name rows"):
        evaluate_descriptors(path, pairs=pairs)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("row_1,row_2,same", "0,70,1", "names row '70'; allowed: 0 to 69"),
        ("row_1,row_2,same", "-1,2,1", "names row '-1'"),
        ("row_1,row_2,same", "0,1,maybe", "same is 'maybe'; allowed: 1 true yes or 0 false no"),
        ("row_1,row_2", "0,1", "no column same"),
        ("left,right,same", "0,1,1", "no column row_1 or path_1"),
        ("row_1,row_2,same", "0,1,1", "1 pairs that are the same and 0 that are not"),
        ("row_1,row_2,same", "0,1", "row 1 has 2 columns, the header has 3"),
    ],
)
def test_pairs_that_cannot_be_used(header, row, message, rng, tmp_path):
    path = saved(tmp_path / "d", *faces(rng))
    (tmp_path / "pairs.csv").write_text(f"{header}\n{row}\n")
    with pytest.raises(InputError, match=message):
        evaluate_descriptors(path, pairs=tmp_path / "pairs.csv")


@pytest.mark.parametrize(
    ("people", "message"),
    [
        (["anna"] * 4, "no two of different identities"),
        (["anna", "bob", "cleo", "dora"], "no two of one identity"),
        (["anna", "anna"], "no two of different identities"),
        (["anna", "bob"], "no two of one identity"),
    ],
)
def test_both_kinds_of_pairs_are_needed(people, message, rng, tmp_path):
    path = saved(tmp_path / "d", rng.normal(size=(len(people), 3)), people)
    with pytest.raises(InputError, match=message):
        evaluate_descriptors(path)


def test_input_that_cannot_be_evaluated(rng, tmp_path):
    X, people = faces(rng)
    path = saved(tmp_path / "d", X, people)
    with pytest.raises(InputError, match="unknown metric 'manhattan'; known: cosine, euclidean"):
        evaluate_descriptors(path, metric="manhattan")
    with pytest.raises(InputError, match="seed is -1"):
        evaluate_descriptors(path, seed=-1)
    with pytest.raises(InputError, match="does not exist"):
        evaluate_descriptors(tmp_path / "missing.npy")
    with pytest.raises(MemoryBudgetError, match="compared with each other"):
        evaluate_descriptors(path, memory="1MiB")
    (tmp_path / "d" / "images_paths.csv").unlink()
    with pytest.raises(InputError, match="nobody says which images"):
        evaluate_descriptors(path)
    write_csv(tmp_path / "flat.csv", ["path"], [f"{i}.jpg" for i in range(70)])
    with pytest.raises(InputError, match=r"no image lies in a folder .* '0.jpg'; give a CSV"):
        evaluate_descriptors(path, image_paths=tmp_path / "flat.csv")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, ">f4", bool])
def test_other_numbers_are_exact(dtype, tmp_path, rng):
    X = (rng.integers(0, 2, (40, 20)) * 255).astype(dtype)
    people = [f"p{one}" for one in rng.integers(0, 4, 40)]
    found = evaluate_descriptors(saved(tmp_path / "d", X, people))
    assert found.pairs.auc == pytest.approx(expected_auc(X, people), abs=1e-12)


# Clusters
def labellings(kind, rng, n=400):
    """Return labels, -1 is noise, and identities."""
    return {
        "usual": lambda: (rng.integers(-1, 12, n), rng.integers(0, 15, n)),
        "near": lambda: ((truth_ := rng.integers(0, 30, n)) // 2, truth_),
        "one identity": lambda: (rng.integers(-1, 5, n), np.zeros(n, int)),
        "each its own identity": lambda: (rng.integers(-1, 5, n), np.arange(n)),
        "all noise": lambda: (np.full(n, -1), rng.integers(0, 9, n)),
        "all noise, each its own": lambda: (np.full(n, -1), np.arange(n)),
        "ten rows, each its own": lambda: (np.arange(10), np.arange(10)[::-1]),
        "one cluster": lambda: (np.zeros(n, int), rng.integers(0, 9, n)),
        "one cluster, one identity": lambda: (np.zeros(n, int), np.zeros(n, int)),
        "equal": lambda: ((truth_ := rng.integers(0, 30, n)), (truth_ * 7) % 30),
        "two rows": lambda: (np.array([0, 0]), np.array([0, 1])),
        "two rows apart": lambda: (np.array([0, 1]), np.array([0, 0])),
        "one row": lambda: (np.array([0]), np.array([0])),
        "numbers left out": lambda: (rng.choice([2, 90, 91], n), rng.choice([5, 6, 700], n)),
    }[kind]()


LABELLINGS = (
    "usual", "near", "one identity", "each its own identity", "all noise", "all noise, each its own",
    "ten rows, each its own", "one cluster",
    "one cluster, one identity", "equal", "two rows", "two rows apart", "one row", "numbers left out",
)  # fmt: skip


def bcubed_by_brute_force(labels, identities):
    together, alike = labels[:, None] == labels, identities[:, None] == identities
    both = (together & alike).sum(axis=1)
    precision, recall = np.mean(both / together.sum(axis=1)), np.mean(both / alike.sum(axis=1))
    return precision, recall, 2 * precision * recall / (precision + recall)


def pairs_by_confusion_matrix(labels, identities):
    if len(labels) == 1:
        return np.nan, np.nan, np.nan
    ((_, claimed), (missed, both)) = metrics.cluster.pair_confusion_matrix(identities, labels)
    parts = [(both, both + claimed), (both, both + missed), (2 * both, 2 * both + claimed + missed)]
    return tuple(part / whole if whole else np.nan for part, whole in parts)


@pytest.mark.parametrize("kind", LABELLINGS)
def test_clusters_by_scikit_learn_and_brute_force(kind, rng):
    noisy, identities = labellings(kind, rng)
    labels = with_single_noise(noisy)
    assert len(np.unique(labels)) == len(set(noisy.tolist()) - {-1}) + np.count_nonzero(noisy == -1)
    found = match(labels, identities)
    homogeneity, completeness, v_measure = metrics.homogeneity_completeness_v_measure(identities, labels)
    same_groups = kind in (
        "equal",
        "all noise, each its own",
        "ten rows, each its own",
        "one cluster, one identity",
        "one row",
    )
    expected = [
        metrics.adjusted_rand_score(identities, labels),
        1.0 if same_groups else metrics.adjusted_mutual_info_score(identities, labels),
        metrics.normalized_mutual_info_score(identities, labels),
        homogeneity,
        completeness,
        *pairs_by_confusion_matrix(labels, identities),
        *bcubed_by_brute_force(labels, identities),
    ]
    np.testing.assert_allclose(found[3:], expected, atol=1e-9)
    assert found.nmi == pytest.approx(v_measure, abs=1e-12)
    assert found[:3] == (len(labels), len(set(labels.tolist())), len(set(identities.tolist())))


def test_many_rows_do_not_overflow(rng):
    """The square of the pairs of 400,000 rows is far beyond 64 bits."""
    identities = np.repeat([0, 1], 200_000)
    labels = np.zeros(400_000, int)
    labels[:100_000] = 1
    found = match(labels, identities)
    assert found.ari == pytest.approx(metrics.adjusted_rand_score(identities, labels), abs=1e-12)
    assert found.pair_precision == pytest.approx((1e5**2 + 1e5**2 + 2e5**2) / (1e5**2 + 3e5**2), rel=1e-4)
    assert found.bcubed_precision == pytest.approx(0.25 + 0.25 / 3 + 0.5 * 2 / 3, rel=1e-9)


def test_confusions_by_hand():
    labels = np.array([0] * 9 + [1] * 4 + [2] * 3)
    identities = np.array([5] * 5 + [7] * 3 + [8] + [8] * 3 + [7] + [7] * 3)
    found = confusions(labels, identities)
    assert (found.n_mixed, found.n_split) == (2, 2)
    assert found.merged == [(0, 5, 5, 7, 3), (0, 5, 5, 8, 1), (1, 8, 3, 7, 1)]
    assert found.split == [(7, 7, 3, 3), (8, 4, 2, 3)]
    assert confusions(labels, identities, most=1).merged == found.merged[:1]
    empty = confusions(labels[:0], identities[:0])
    assert (empty.n_mixed, empty.merged, empty.split) == (0, [], [])


@pytest.mark.parametrize("kind", LABELLINGS)
def test_labels_in_a_table(kind, rng, tmp_path):
    noisy, identities = labellings(kind, rng)
    table = write_csv(tmp_path / "l.csv", ["path", "label"], in_folders([f"p{one}" for one in identities]), noisy)
    found = evaluate_labels(table)
    inside = noisy >= 0
    np.testing.assert_allclose(found.all_rows, match(with_single_noise(noisy), identities), atol=1e-12)
    if inside.any():
        np.testing.assert_allclose(found.clustered, match(noisy[inside], identities[inside]), atol=1e-12)
    else:
        assert found.clustered is None
    assert found.coverage == pytest.approx(inside.mean())
    assert found.n_noise == np.count_nonzero(~inside)
    assert ("without noise" in found.text) == (0 < found.n_noise < len(noisy))


def test_rows_without_label_or_identity_are_left_out_and_counted(tmp_path):
    """Names as `toolkit label` writes them: parts of clusters, noise of a split cluster, nothing."""
    paths = ["a/1", "a/2", "a/3", "a/4", "b/1", "b/2", "b/3", "5", "6", "b/4"]
    cells = ["3.0", "3.0", "-1", "3.noise", "3.1", "3.0", "", "3.0", "", "3.1"]
    table = write_csv(tmp_path / "l.csv", ["image_path", "cluster", "name"], paths, cells, cells)
    found = evaluate_labels(table)
    assert (found.n_without_identity, found.n_unseen, found.n_noise) == (2, 1, 2)
    assert (found.all_rows.n_rows, found.all_rows.n_clusters, found.clustered.n_clusters) == (7, 4, 2)
    assert found.merged == [("3.0", "a", 2, "b", 1)]
    assert found.split == [("b", 3, 2, 2, 0)]
    assert "cluster 3.0: 2 of a, 1 of b" in found.text
    assert "left out: 2 rows without identity, 1 rows without label" in found.text


def test_noise_of_a_split_identity_is_told(tmp_path):
    table = write_csv(tmp_path / "l.csv", ["path", "label"], ["a/1", "a/2", "a/3", "a/4"], [0, 1, -1, 1])
    assert evaluate_labels(table).split == [("a", 3, 2, 2, 1)]


def test_which_column_holds_the_labels(tmp_path):
    people, path = ["a", "a", "b", "b"], tmp_path / "l.csv"
    write_csv(path, ["image_path", "KMeans", "DBSCAN"], in_folders(people), [0, 0, 1, 1], [0, 0, 0, 0])
    assert evaluate_labels(path, model="KMeans").all_rows.ari == 1
    assert evaluate_labels(path, model="DBSCAN").all_rows.ari == 0
    with pytest.raises(InputError, match="no column label or cluster or class; name one with --model: KMeans, DBSCAN"):
        evaluate_labels(path)
    with pytest.raises(InputError, match="unknown column of labels 'OPTICS'; known: DBSCAN, KMeans"):
        evaluate_labels(path, model="OPTICS")
    write_csv(path, ["image_path", "KMeans"], in_folders(people), [0, 0, 1, 1])
    assert evaluate_labels(path).all_rows.ari == 1
    write_csv(path, ["image_path", "other", "Label"], in_folders(people), [0, 0, 0, 0], [0, 0, 1, 1])
    assert evaluate_labels(path).all_rows.ari == 1
    for header in (["image_name", "class"], ["filename", "label"]):
        write_csv(path, header, in_folders(people), [0, 0, 1, 1])
        assert evaluate_labels(path).all_rows.ari == 1


@pytest.mark.parametrize(
    ("source", "option"),
    [
        ("faces.npy", "--model=KMeans"),
        *[("l.csv", f"--{name}=1") for name in ("pairs", "image-paths", "metric", "seed")],
    ],
)
def test_options_of_the_other_kind_are_refused(source, option, rng, tmp_path):
    saved(tmp_path, *faces(rng))
    write_csv(tmp_path / "l.csv", ["path", "label"], in_folders(["a", "b"]), [0, 1])
    result = CliRunner().invoke(app, ["faces", "evaluate", str(tmp_path / source), option])
    assert isinstance(result.exception, InputError)
    assert f"{option.partition('=')[0]} is of a " in str(result.exception)


def test_labels_that_cannot_be_used(tmp_path):
    path = tmp_path / "l.csv"
    with pytest.raises(InputError, match="does not exist"):
        evaluate_labels(path)
    for content, message in (
        ("", "no column path or image_path or filename or image_name; there are: none"),
        ("path,label\na/1,\n", "none of 1 rows has both"),
        ("path,label\n", "no image lies in a folder"),
        ('path,label\n"a/1,0\n', "is not a readable CSV"),
        ("path,label\na/1,2,0\n", "row 1 has 3 columns"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            evaluate_labels(path)
    path.write_bytes(b"path,label\n\xff\xfe/1,0\n")
    with pytest.raises(InputError, match="UTF-8"):
        evaluate_labels(path)


# Identities
def test_identities_from_a_table(tmp_path):
    labels = write_csv(
        tmp_path / "l.csv", ["path", "label"], ["x/1.jpg", "x/2.jpg", "y/1.jpg", "y/3.jpg"], [0, 0, 1, 1]
    )
    table = write_csv(
        tmp_path / "i.csv", ["Identity", "path"], ["é", "é", "NA", ""], ["d/y/1.jpg", "x/1.jpg", "x/2.jpg", "y/3.jpg"]
    )
    found = evaluate_labels(labels, table)
    assert found.n_without_identity == 1
    assert found.all_rows.n_identities == 2
    assert found.merged == [("0", "é", 1, "NA", 1)] or found.merged == [("0", "NA", 1, "é", 1)]
    assert found.split == [("é", 2, 2, 1, 0)]


def test_identities_row_by_row_where_the_paths_are_the_same(tmp_path):
    """An image of two faces has two identities."""
    paths = ["1.jpg", "1.jpg", "2.jpg", "2.jpg"]
    labels = write_csv(tmp_path / "l.csv", ["path", "label"], paths, [0, 1, 0, 1])
    table = write_csv(tmp_path / "i.csv", ["path", "identity"], paths, ["a", "b", "a", "b"])
    assert evaluate_labels(labels, table).all_rows.ari == 1
    write_csv(table, ["path", "identity"], paths[:3], ["a", "b", "a"])
    with pytest.raises(InputError, match=r"gives '1.jpg' two identities, 'a' and 'b'"):
        evaluate_labels(labels, table)


def test_identities_that_cannot_be_used(tmp_path):
    labels = write_csv(tmp_path / "l.csv", ["path", "label"], ["x/1.jpg", "y/1.jpg"], [0, 1])
    table = write_csv(tmp_path / "i.csv", ["path", "identity"], ["1.jpg"], ["a"])
    with pytest.raises(InputError, match=r"'1.jpg' is ambiguous: 'x/1.jpg' and 'y/1.jpg' fit it"):
        evaluate_labels(labels, table)
    write_csv(table, ["path", "identity"], ["z/1.jpg"], ["a"])
    with pytest.raises(InputError, match=r"lists none of the 2 images, for instance 'x/1.jpg', but 'z/1.jpg'"):
        evaluate_labels(labels, table)
    write_csv(table, ["path", "person"], ["x/1.jpg"], ["a"])
    with pytest.raises(InputError, match="no column identity; there are: path, person"):
        evaluate_labels(labels, table)


def test_paths_match_by_their_ends():
    listed = ["a/x/1", "b/x/1", "2", "deep/c/3", "./e\\4", "5"]
    found = match_paths(["a/x/1", "q/b/x/1", "any/2", "c/3", "e/4", "15", "a/x/1"], listed)
    assert found.tolist() == [0, 1, 2, 3, 4, -1, 0]
    assert match_paths(["5", "6"], listed).tolist() == [5, -1]
    for paths in (["x/1"], ["a/2", "b/2"], ["2", "b/2"]):
        with pytest.raises(InputError, match="ambiguous"):
            match_paths(paths, listed)


def test_errors_show_paths_as_text(tmp_path):
    paths = np.array([np.str_("1.jpg"), np.str_("2.jpg")], dtype=object)  # as a run may hold them
    with pytest.raises(InputError, match=r"for instance '1\.jpg'; give"):
        identities_of(paths, None)
    write_csv(tmp_path / "who.csv", ["path", "identity"], ["a/1.jpg", "b/1.jpg"], ["a", "b"])
    with pytest.raises(InputError, match=r"^'1\.jpg' is ambiguous"):
        identities_of(paths, tmp_path / "who.csv")


def test_the_folder_is_the_identity(tmp_path):
    """Images of one name in different folders are different images; the last folder counts, however it is written."""
    paths = ["/data/one/anna/1.jpg", "two\\anna\\1.jpg", "./bob/1.jpg", "bob//2.jpg"]
    found = evaluate_labels(write_csv(tmp_path / "l.csv", ["path", "label"], paths, [0, 0, 1, 1]))
    assert found.all_rows.ari == 1
    assert found.all_rows[:3] == (4, 2, 2)


# A run
def test_a_model_of_a_finished_run(blobs, tmp_path):
    X, people = blobs
    X = X.copy()
    X[[0, 17]] = np.nan
    saved(tmp_path / "descriptors", X, [f"p{one}" for one in people])
    grid = {"KMeans": {"n_clusters": [2, 4]}, "DBSCAN": {"eps": [4.0], "min_samples": [5]}}
    stage = {"name": "only", "fraction": 1.0, "n_components": 6, "scalers": ["none"], "grid": grid}
    folder = tmp_path / "run"
    execute({"descriptors": {"folder": str(tmp_path / "descriptors")}, "stages": [stage]}, folder)
    run = FinishedRun(folder)
    for model in run.models.values():
        found = evaluate_labels(folder, model=model.name)
        labels = run.all_labels(model)
        seen = np.flatnonzero(labels > -2)
        np.testing.assert_allclose(found.all_rows, match(with_single_noise(labels[seen]), people[seen]), atol=1e-12)
        assert (found.n_unseen, found.n_without_identity) == (2, 0)
        table = pd.read_csv(folder / "best_clusterization.csv")
        if model.name in table:
            again = evaluate_labels(folder / "best_clusterization.csv", model=model.name)
            np.testing.assert_allclose(again.all_rows, found.all_rows, atol=1e-12)
            assert again.n_unseen == 2
    assert evaluate_labels(folder).source == run.model().name


# What is written
def test_what_is_written(rng, tmp_path):
    X, people = faces(rng)
    path = saved(tmp_path / "d", X, people)
    pairs = write_csv(tmp_path / "pairs.csv", ["row_1", "row_2", "same"], [0, 1], [2, 3], [1, 0])
    found = evaluate_descriptors(path, pairs=pairs)
    out = write_evaluation(found, tmp_path / "new" / "out")
    content = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert content["pairs"]["auc"] == found.pairs.auc
    assert content["pairs"]["curve_tar"] == found.pairs.curve_tar.tolist()
    assert content["listed"]["accuracy"] is None  # one pair of each kind has no folds
    assert content["sampling"] == found.sampling
    assert (out / "roc.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        write_evaluation(found, out)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write_evaluation(found, tmp_path / "file")


def test_what_is_written_of_clusters(tmp_path):
    table = write_csv(tmp_path / "l.csv", ["path", "label"], ["a/1", "a/2", "b/1"], [-1, -1, -1])
    found = evaluate_labels(table)
    (tmp_path / "out").mkdir()
    out = write_evaluation(found, tmp_path / "out")
    assert [one.name for one in out.iterdir()] == ["evaluation.json"]
    content = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert content["clustered"] is None
    assert content["coverage"] == 0
    assert content["all_rows"]["pair_precision"] is None  # no two rows in one cluster
    assert content["all_rows"]["bcubed_precision"] == 1


def test_a_picture_that_fails_leaves_nothing(rng, tmp_path, monkeypatch):
    found = evaluate_descriptors(saved(tmp_path / "d", *faces(rng)))
    monkeypatch.setattr(write, "_roc_picture", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_evaluation(found, tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["d"]
