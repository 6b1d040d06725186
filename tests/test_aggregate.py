"""Clusters as a whole: mean images, eigenfaces, how often attributes occur, how faces are aligned."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
from PIL import Image
from sklearn.decomposition import PCA
from test_assign import command, refused
from test_run import execute
from threadpoolctl import threadpool_limits

from toolkit.aggregate import build as build_module
from toolkit.aggregate import clusters as clusters_module
from toolkit.aggregate import eigenfaces as eigenfaces_module
from toolkit.aggregate import mean_images as mean_module
from toolkit.aggregate.alignment import read_alignment
from toolkit.aggregate.build import aggregate_clusters
from toolkit.aggregate.charts import occurrence_chart, overview, safe_text
from toolkit.aggregate.clusters import numbers_of
from toolkit.aggregate.eigenfaces import eigenfaces
from toolkit.aggregate.mean_images import moments
from toolkit.aggregate.metadata import Column, encoded, lines_of, name_fields, read_attributes
from toolkit.aggregate.occurrence import (
    adjusted,
    as_lift,
    association,
    occurrence,
    prominent,
    ratio_interval,
    wilson_interval,
)
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.faces.align import ARCFACE_5, template
from toolkit.folder import held
from toolkit.images.pixels import PixelFile
from toolkit.images.source import ImageError
from toolkit.memory import MemoryBudget
from toolkit.progress import Reporter

Z = scipy.stats.norm.ppf(0.975)


# Pixels
@pytest.fixture
def pixels(tmp_path):
    """Make a file of pixels; it is closed at the end."""
    files = []

    def make(images):
        path = tmp_path / f"{len(files)}.npy"
        np.save(path, images)
        files.append(PixelFile(path))
        return files[-1]

    yield make
    for file in files:
        file.close()


def smooth_images(n, size, seed=0):
    """Images whose pixels hang together, some of them clipped at black or white."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 10, (n, size, size, 3)).cumsum(axis=1).cumsum(axis=2) / 3
    return np.clip(steps + rng.normal(128, 40, (n, 1, 1, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 200])
def test_means_are_exact(pixels, n, rng):
    images = smooth_images(250, 8)
    rows = rng.permutation(250)[:n]
    found = moments(pixels(images), rows)
    assert found.n_images == n
    assert (found.mean == images[rows].astype(np.int64).sum(axis=0) / n).all()
    assert found.variance == pytest.approx(images[rows].astype(float).var(axis=0).sum(), rel=1e-12, abs=1e-9)
    weights = rng.uniform(0, 3, n)
    weighted = moments(pixels(images), rows, weights)
    oracle = np.average(images[rows].astype(float), axis=0, weights=weights)
    np.testing.assert_allclose(weighted.mean, oracle, rtol=1e-12)
    spread = np.average((images[rows] - oracle) ** 2, axis=0, weights=weights).sum()
    assert weighted.variance == pytest.approx(spread, rel=1e-9, abs=1e-6)


def test_blocks_change_no_bit_of_a_mean(pixels, monkeypatch):
    file, rows = pixels(smooth_images(200, 8)), np.arange(200)
    whole = moments(file, rows)
    monkeypatch.setattr(mean_module, "BLOCK", 7)
    assert (moments(file, rows).mean == whole.mean).all()


def assert_components(found, images, weights, n):
    """Compare with scikit-learn; a weight is how many times an image is there."""
    data = np.repeat(images.reshape(len(images), -1).astype(float), weights, axis=0)
    oracle = PCA(n, svd_solver="full").fit(data)
    np.testing.assert_allclose(found.share, oracle.explained_variance_ratio_, rtol=1e-6)
    vectors = found.components.reshape(len(found.components), -1)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(n), atol=1e-9)
    np.testing.assert_allclose(np.abs((vectors * oracle.components_).sum(axis=1)), 1, atol=1e-6)
    np.testing.assert_allclose(found.moments.mean.ravel(), oracle.mean_, rtol=1e-12)
    assert (vectors.max(axis=1) >= -vectors.min(axis=1)).all()


@pytest.mark.parametrize("method", ["gram", "lanczos"])
@pytest.mark.parametrize(("n", "n_components"), [(30, 8), (400, 5), (9, 8)])
def test_eigenfaces_are_principal_components(pixels, memory, monkeypatch, method, n, n_components):
    if method == "lanczos":
        monkeypatch.setattr(eigenfaces_module, "MOST_IN_GRAM", 1)
    images = smooth_images(n, 8)
    found = eigenfaces(pixels(images), np.arange(n), n_components=n_components, memory=memory)
    assert found.method == method
    assert_components(found, images, np.ones(n, int), n_components)


@pytest.mark.parametrize("most", [2048, 1])
def test_weights_count_as_repeated_images(pixels, memory, monkeypatch, rng, most):
    monkeypatch.setattr(eigenfaces_module, "MOST_IN_GRAM", most)
    images, weights = smooth_images(60, 8), rng.integers(0, 5, 60)
    found = eigenfaces(pixels(images), np.arange(60), n_components=4, weights=weights.astype(float), memory=memory)
    assert_components(found, images, weights, 4)


@pytest.mark.parametrize("most", [2048, 1])
def test_images_that_are_the_same(pixels, memory, monkeypatch, most):
    monkeypatch.setattr(eigenfaces_module, "MOST_IN_GRAM", most)
    images = smooth_images(3, 8)
    file = pixels(np.concatenate([images] * 10 + [images[:1]]))

    def n_found(rows):
        return len(eigenfaces(file, np.array(rows), n_components=8, memory=memory).components)

    assert n_found(range(31)) == 2
    assert n_found([0]) == 0
    assert n_found([0, 3, 6, 9]) == 0
    assert n_found([0, 1]) == 1


@pytest.mark.parametrize("most", [2048, 1])
def test_processors_change_no_bit_of_eigenfaces(pixels, memory, monkeypatch, most):
    monkeypatch.setattr(eigenfaces_module, "MOST_IN_GRAM", most)
    file, found = pixels(smooth_images(300, 8)), []
    for n in (1, 2, 5):
        for module in (eigenfaces_module, mean_module):
            monkeypatch.setattr(module, "n_threads", lambda n=n: n)
        with threadpool_limits(n, user_api="blas"):
            found.append(eigenfaces(file, np.arange(300), n_components=6, memory=memory))
    assert all((one.components == found[0].components).all() for one in found)
    assert all((one.variance == found[0].variance).all() for one in found)


def test_eigenfaces_ask_for_memory(pixels):
    with pytest.raises(MemoryBudgetError, match="eigenfaces of 50 images"):
        eigenfaces(pixels(smooth_images(50, 8)), np.arange(50), n_components=2, memory=MemoryBudget(1 << 20))


# Statistics
@pytest.mark.parametrize(("x", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (3, 17), (999, 100_000)])
def test_wilson(x, n):
    oracle = scipy.stats.binomtest(x, n).proportion_ci(method="wilson")
    low, high = wilson_interval(np.array([x]), np.array([n]))
    assert low[0] == pytest.approx(oracle.low, abs=1e-12)
    assert high[0] == pytest.approx(oracle.high, abs=1e-12)


def score_by_search(ratio, x1, n1, x0, n0):
    """Koopman's chi-squared of a ratio, the likeliest shares with that ratio being found by search."""

    def surprise(p0):
        def log(x, n, p):
            return scipy.stats.binom.logpmf(x, n, p)

        return -(log(x1, n1, ratio * p0) + log(x0, n0, p0))

    most = min(1.0, 1 / ratio)
    p0 = scipy.optimize.minimize_scalar(surprise, bounds=(0, most), method="bounded", options={"xatol": 1e-14}).x
    p1 = ratio * p0
    return (x1 - n1 * p1) ** 2 / (n1 * p1 * (1 - p1)) + (x0 - n0 * p0) ** 2 / (n0 * p0 * (1 - p0))


@pytest.mark.parametrize("counts", [(36, 40, 16, 80), (3, 10, 200, 900), (1, 5, 1, 2000), (60, 61, 5, 300)])
def test_koopman_against_a_search(counts):
    low, high = ratio_interval(*(np.array([one]) for one in counts))
    for end in (low[0], high[0]):
        assert score_by_search(end, *counts) == pytest.approx(Z**2, rel=1e-4)
    x1, n1, x0, n0 = counts
    assert low[0] < (x1 / n1) / (x0 / n0) < high[0]


def test_koopman_s_own_example():
    """36 of 40 against 16 of 80 (Koopman 1984, Biometrics 40:513-517): 2.94 to 7.15."""
    low, high = ratio_interval(*(np.array([one]) for one in (36, 40, 16, 80)))
    assert low[0] == pytest.approx(2.94, abs=0.005)
    assert high[0] == pytest.approx(7.15, abs=0.005)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((0, 10, 5, 10), 0, None), ((5, 10, 0, 10), None, math.inf), ((0, 10, 0, 10), math.nan, math.nan),
     ((0, 0, 5, 10), math.nan, math.nan), ((3, 10, 0, 0), math.nan, math.nan)],
)  # fmt: skip
def test_ratios_of_nothing(counts, low, high):
    found = [end[0] for end in ratio_interval(*(np.array([one]) for one in counts))]
    for end, expected in zip(found, (low, high), strict=True):
        if expected is None:
            assert 0 < end < math.inf
        else:
            assert end == pytest.approx(expected, nan_ok=True)


def test_a_ratio_to_the_rest_becomes_one_to_the_whole(rng):
    x1, x0 = rng.integers(1, 50, 20), rng.integers(1, 500, 20)
    n1, n0 = np.full(20, 60), np.full(20, 700)
    lift = as_lift((x1 / n1) / (x0 / n0), n1 / (n1 + n0))
    np.testing.assert_allclose(lift, (x1 / n1) / ((x1 + x0) / 760), rtol=1e-12)
    assert as_lift(np.array([math.inf]), np.array([0.25]))[0] == 4
    assert as_lift(np.array([math.nan]), np.array([1.0]))[0] == 1


def test_association_is_the_chi_squared_test(rng):
    x1, x0 = rng.integers(0, 40, 50), rng.integers(1, 90, 50)
    p = association(x1, np.full(50, 40), x0, np.full(50, 100))
    tables = [[[a, 40 - a], [b, 100 - b]] for a, b in zip(x1, x0, strict=True)]
    oracle = [scipy.stats.chi2_contingency(table, correction=False).pvalue for table in tables]
    np.testing.assert_allclose(p, oracle, rtol=1e-9)
    nothing = association(np.array([0, 5, 2]), np.array([5, 5, 5]), np.array([0, 9, 0]), np.array([9, 9, 0]))
    assert nothing.tolist() == [1, 1, 1]


def test_adjusted_is_benjamini_and_hochberg(rng):
    p = np.concatenate([rng.uniform(size=50), [0, 0, 1, 1e-9, 0.5, 0.5]])
    np.testing.assert_allclose(adjusted(p), scipy.stats.false_discovery_control(p), rtol=1e-12)
    assert adjusted(np.empty(0)).shape == (0,)


@pytest.fixture
def counted(rng):
    """600 images in three clusters; of a third it is not known whether they are red, the smallest cluster is rare."""
    labels = np.repeat([0, 1, 2], [300, 295, 5])
    is_red = rng.random(600) < np.where(labels == 0, 0.6, 0.2)
    is_red[5:10] = True
    is_rare = labels == 2
    known = np.arange(600) % 3 > 0
    columns = [
        Column("red", np.where(known, is_red, -1).astype(np.int64), ["0", "1"]),
        Column("rare", is_rare.astype(np.int64), ["false", "true"]),
        Column("all", np.zeros(600, np.int64), ["1"]),
        Column("common", (np.arange(600) == 299).astype(np.int64), ["1", "0"]),
    ]
    return labels, encoded(columns), is_red, known


def test_occurrence_by_hand(counted):
    labels, attributes, is_red, known = counted
    table = occurrence(labels, attributes).set_index(["cluster", "attribute"])
    assert len(table) == 12
    for cluster in range(3):
        inside = known & (labels == cluster)
        line = table.loc[(cluster, "red")]
        assert (line["n"], line["count"]) == (inside.sum(), is_red[inside].sum())
        share, of_all = is_red[inside].mean(), is_red[known].mean()
        assert line["share"] == pytest.approx(share)
        assert line["lift"] == pytest.approx(share / of_all)
        expected = min(of_all, 1 - of_all) * min(inside.sum(), (known & ~inside).sum())
        assert line["expected"] == pytest.approx(expected)
        assert line["is_noisy"] == (expected < 5)
        assert line["lift_low"] <= line["lift"] <= line["lift_high"]
        if not line["is_noisy"]:  # the interval and the test are one
            assert (line["p"] < 0.05) == (not line["lift_low"] <= 1 <= line["lift_high"])
    assert table.loc[(slice(None), ["rare", "common"]), "is_noisy"].all()
    assert table.loc[(2, "rare"), "p_adjusted"] < 1e-9
    assert table.loc[(2, "rare"), "lift"] == pytest.approx(120)
    assert (table.loc[(slice(None), "all"), "lift"] == 1).all()
    assert (table.loc[(slice(None), "all"), "p"] == 1).all()
    assert prominent(table.reset_index(), 0)["attribute"].tolist() == ["red"]
    assert prominent(table.reset_index(), 1).empty
    assert prominent(table.reset_index(), 2).empty  # what is rare is noisy


def test_one_cluster_is_the_whole_set(counted):
    _, attributes, _, _ = counted
    table = occurrence(np.zeros(600, int), attributes)
    assert (table[["lift", "lift_low", "lift_high", "p"]] == 1).all(axis=None)


def test_intervals_cover(rng):
    """Of 95 % intervals of a lift with counts that are not small, 95 % hold the true one (2,000 draws)."""
    n1, n0, p1, p0 = 80, 320, 0.3, 0.15
    x1, x0 = rng.binomial(n1, p1, 2000), rng.binomial(n0, p0, 2000)
    ends = ratio_interval(x1, np.full(2000, n1), x0, np.full(2000, n0))
    low, high = (as_lift(end, np.full(2000, 0.2)) for end in ends)
    lift = p1 / (0.2 * p1 + 0.8 * p0)
    assert 0.93 < np.mean((low <= lift) & (lift <= high)) < 0.97


# Attributes
def table_of(tmp_path, text, name="a.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


PATHS = np.array(["x/a.jpg", "x/b.jpg", "y/c.jpg", "y/d.jpg"])


def has_of(found):
    return {name: found.has[:, i].astype(int).tolist() for i, name in enumerate(found.names)}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-1", "1", "-1"], {"v": [1, 0, 1, 0]}),
        (["1", "0", "", "1"], {"v": [1, 0, 0, 1]}),
        (["TRUE", "false", "True", "no"], {"v": [1, 0, 1, 0]}),
        (["0.5", "0.49", "1", "1e-3"], {"v": [1, 0, 1, 0]}),
        (["red", "blue", "red ", ""], {"v=blue": [0, 1, 0, 0], "v=red": [1, 0, 1, 0]}),
        (["2", "10", "2", "-1"], {"v=-1": [0, 0, 0, 1], "v=2": [1, 0, 1, 0], "v=10": [0, 1, 0, 0]}),
        (["=1+1", "$x$", "=1+1", "a,b"], {"v=$x$": [0, 1, 0, 0], "v==1+1": [1, 0, 1, 0], "v=a,b": [0, 0, 0, 1]}),
    ],
)
def test_columns(tmp_path, cells, expected):
    lines = [f'{path},"{cell}"' for path, cell in zip(PATHS, cells, strict=True)]
    found = read_attributes(table_of(tmp_path, "\n".join(["path,v", *lines])), PATHS)
    assert has_of(found) == expected
    assert found.is_known[:, 0].tolist() == [bool(cell) for cell in cells]


def test_many_numbers_are_in_ranges():
    values = np.random.default_rng(0).integers(1900, 2000, 1000)
    texts = sorted({str(value) for value in values})
    codes = np.array([texts.index(str(value)) for value in values])
    found = encoded([Column("year", codes, texts)])
    assert len(found.names) == 5
    assert (found.has.sum(axis=1) == 1).all()
    assert found.has.sum(axis=0).min() > 150
    assert (found.has.sum(axis=0).cumsum() >= 200 * np.arange(1, 6)).all()
    ends = [tuple(map(int, name.removeprefix("year ").split(" to "))) for name in found.names]
    for (low, high), has in zip(ends, found.has.T, strict=True):
        assert (has == ((values >= low) & (values <= high))).all()
    assert ends == sorted(ends)
    assert "5 ranges" in found.notes[0]


def test_names_of_things_are_no_attributes():
    found = encoded([Column("id", np.arange(60), [f"n{i}" for i in range(60)]), Column("v", np.zeros(60, int), ["x"])])
    assert found.names == ["v=x"]
    assert found.notes == ["columns with more than 50 different texts, left out: id"]


def test_celeba_s_list(tmp_path):
    text = "2\nBald  Young\na.jpg -1  1\nb.jpg  1  1\n"
    found = read_attributes(table_of(tmp_path, text, "list_attr_celeba.txt"), PATHS)
    assert has_of(found) == {"Bald": [0, 1, 0, 0], "Young": [1, 1, 0, 0]}
    assert found.n_known == 2
    assert "2 of 4 images have no line" in found.notes[0]


def test_lines_belong_to_images():
    names = ["./x/a.jpg", "b.jpg", "c.jpg", "c.jpg", "z\\d.jpg"]
    assert lines_of(PATHS, names).tolist() == [0, 1, -1, 4]
    both = np.array(["x/a.jpg", "y/a.jpg"])
    assert lines_of(both, ["a.jpg", "y/a.jpg"]).tolist() == [-1, 1]
    assert lines_of(both, ["a.jpg"]).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a readable CSV"),
        ("p,v\na.jpg,1\n", "has no column called any of: path"),
        ("path;v\na.jpg;1\n", "separated by semicolons"),
        ("path,v\nother.jpg,1\n", "no line of"),
        ("path,v\na.jpg,1\nb.jpg,1,2,3\n", "not a readable CSV"),
    ],
)
def test_tables_that_are_none(tmp_path, text, said):
    with pytest.raises(InputError, match=said) as error:
        read_attributes(table_of(tmp_path, text), PATHS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("template_", "name", "expected"),
    [
        ("{id}_{born}_{year}", "1_1908-08-19_1950", {"id": "1", "born": "1908-08-19", "year": "1950"}),
        ("{id}_{born}-{_}-{_}_{year}", "1_1908-08-19_1950", {"id": "1", "born": "1908", "year": "1950"}),
        ("{person*}_{number}", "A_B_C_0001", {"person": "A_B_C", "number": "0001"}),
        ("{person}_{number}", "A_B_C_0001", None),
        ("cam{n}.{kind*}", "cam7.a.b_c", {"n": "7", "kind": "a.b_c"}),
        ("cam{n}.{kind*}", "cam7xab", None),
        ("{all}", "a_b", {"all": "a_b"}),
        ("(a+)+{x}", "aaaa", None),
    ],
)
def test_names_of_files(template_, name, expected):
    paths = np.array([f"f_o/o/{name}.jpg", "\n.jpg"])
    if expected is None:
        with pytest.raises(InputError, match="no file name is like"):
            name_fields(template_, paths)
        return
    found = name_fields(template_, paths)
    has = {key: value for key, (value, _) in has_of(found).items()}
    assert {f"{key}={value}" for key, value in expected.items()} >= {key for key, value in has.items() if "=" in key}
    assert len(found.names) == len(expected)


@pytest.mark.parametrize("template_", ["", "year", "{}", "{a}{b}", "{a}_{a}", "{a*}_{b*}", "{a b}", "{a}_{", "{1}"])
def test_templates_that_are_none(template_):
    with pytest.raises(InputError, match="is no template"):
        name_fields(template_, PATHS)


def test_hostile_names_take_no_time():
    template_ = "{a*}" + "".join(f"_{{f{i}}}" for i in range(30))
    usual = "_".join("a" * 31)
    names = ["_" * 255, "a_" * 127, "x" * 70_000, "x" * 300 + usual, usual]  # the fourth is longer than files may have
    found = name_fields(template_, np.array([f"{name}.jpg" for name in names]))
    assert found.n_known == 1


# Alignment
def dots_at(points, side):
    """Return an image that has a dot of its own colour at each of the first three points."""
    y, x = np.mgrid[:side, :side]
    image = np.zeros((side, side, 3))
    for (px, py), colour in zip(points, 255 * np.eye(5, 3), strict=True):
        image += np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8)[..., None] * colour
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def middle_of(image, channel):
    weight = np.asarray(image)[..., channel].astype(float)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()


@pytest.fixture
def table(tmp_path):
    """A table of faces in three photographs: p.jpg has one, q.jpg two, s.jpg one without landmarks."""
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    points = (template(100, 0.25) @ turn.T) * 1.5 + (60, 20)
    header = "crop,image_path,face,x,y,width,height,score,landmarks,detector,found,aligned\n"
    landmarks = '"' + json.dumps(points.tolist()) + '"'
    lines = [
        f"crops/p_0.png,p.jpg,0,20,30,120,100,1,{landmarks},yunet,original,false",
        f"crops/q_0.png,q.jpg,0,20,30,120,100,1,{landmarks},yunet,original,true",
        f"crops/q_1.png,q.jpg,1,20,30,120,100,1,{landmarks},yunet,original,true",
        "crops/s_0.png,s.jpg,0,20,30,120,100,1,,haar,original,false",
    ]
    path = tmp_path / "faces.csv"
    path.write_text(header + "\n".join(lines) + "\n")
    (tmp_path / "faces.json").write_text(json.dumps({"job": {"landmarks": ARCFACE_5, "margin": 0.25}}))
    return path, points


def test_landmarks_get_where_they_belong(table):
    path, points = table
    found = read_alignment(path, np.array(["p.jpg", "crops/p_0.png", "q_1.png", "q.jpg", "s_0.png", "t.jpg"]), size=96)
    assert (found.n_aligned, found.n_warped, sorted(found.problems)) == (1, 2, [3, 4, 5])
    photograph = dots_at(points, 260)
    side, corner = 120 * 1.5, np.array([80 - 90, 80 - 90])
    crop = dots_at((points + 0.5 - corner) * 150 / side - 0.5, 150)
    for row, image in ((0, photograph), (1, crop)):
        chip = found(row, image)
        assert chip.size == (96, 96)
        for channel in range(3):
            assert middle_of(chip, channel) == pytest.approx(template(96, 0.25)[channel], abs=0.1)
    assert found(2, crop) is crop
    for row, said in ((3, "several faces"), (4, "no landmarks"), (5, "no line")):
        with pytest.raises(ImageError, match=said):
            found(row, photograph)
    assert found.text.startswith("1 are aligned crops; 2 are warped by their arcface-5 landmarks; 3 without")


def test_faces_that_cannot_be_used(table, tmp_path):
    path, _ = table
    with pytest.raises(InputError, match="no image gets a position"):
        read_alignment(path, np.array(["t.jpg"]), size=96)
    (tmp_path / "other.csv").write_text("crop,x\n")
    with pytest.raises(InputError, match="has no column image_path"):
        read_alignment(tmp_path / "other.csv", PATHS, size=96)
    path.write_text(path.read_text().replace("[[", "[[[", 1))
    with pytest.raises(InputError, match="are no JSON"):
        read_alignment(path, np.array(["p.jpg"]), size=96)
    (tmp_path / "faces.json").unlink()
    with pytest.raises(InputError, match="keep it beside"):
        read_alignment(path, np.array(["p.jpg"]), size=96)


# All of it
COLOURS = {"red": (220, 30, 30), "=x/../$\\frac": (30, 200, 30), "lonely 猫": (30, 30, 220), "flat": (9, 9, 9)}


@pytest.fixture
def made(tmp_path):
    """Four classes with strange names: 20, 12, one image, three that are the same; one image damaged, one missing."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    lines, attributes = ["image_name,class"], ["filename,shade,size"]
    for (name, colour), n in zip(COLOURS.items(), (20, 12, 1, 3), strict=True):
        for i in range(n):
            file = f"{len(lines)}_{1990 + len(lines) % 3}.png"
            noise = 0 if name == "flat" else rng.integers(-9, 9, (20, 20, 3))
            image = np.clip(np.full((20, 20, 3), colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / file)
            lines.append(f"{file},{name}")
            attributes.append(f"{file},{'warm' if name == 'red' or i == 3 else 'cold'},{i}")
    (folder / "3_1990.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    (folder / "5_1992.png").unlink()
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "attributes.csv").write_text("\n".join(attributes) + "\n")
    return tmp_path


def aggregate(made, out="out", **options):
    options = {"images": made / "images", "size": 16, "workers": 0, "memory": "4GiB"} | options
    return aggregate_clusters(made / "labels.csv", out=made / out, **options)


def test_all_of_it(made):
    out = made / "out"
    options = {"attributes": made / "attributes.csv", "fields": "{_}_{year}", "n_components": 3}
    found = aggregate(made, **options)
    about = json.loads((out / "aggregates.json").read_text())
    names = [cluster["cluster"] for cluster in about["clusters"]]
    assert sorted(names) == sorted(COLOURS)
    assert [cluster["number"] for cluster in about["clusters"]] == [0, 1, 2, 3]
    by_name = {cluster["cluster"]: cluster for cluster in about["clusters"]}
    assert {name: by_name[name]["images"] for name in COLOURS} == dict(zip(COLOURS, (18, 12, 1, 3), strict=True))
    assert (about["images"], about["failed"]) == (36, 2)
    skipped = pd.read_csv(out / "images_skipped.csv")
    assert skipped["image_path"].tolist() == ["3_1990.png", "5_1992.png"]
    assert set(about["files"]) | {"aggregates.json", ".aggregate.lock"} == {path.name for path in out.iterdir()}
    for cluster in about["clusters"]:  # images of one size: the mean is the numbers' own
        rows = [i for i, name in enumerate(found.labels.names) if name == cluster["cluster"]]
        files = found.labels.paths[np.isin(found.labels.classes, rows)]
        read = [Image.open(made / "images" / file) for file in files if file not in set(skipped["image_path"])]
        small = [np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)) for image in read]
        mean = np.rint(np.mean(np.array(small, float), axis=0))
        assert (np.asarray(Image.open(out / cluster["mean"])) == mean).all()
    assert "eigenfaces" not in by_name["lonely 猫"]
    assert "eigenfaces" not in by_name["flat"]
    assert any("lonely 猫 has no eigenfaces: it has one image" in note for note in about["notes"])
    assert any("flat has no eigenfaces: its images are all the same" in note for note in about["notes"])
    assert list(by_name["red"]["prominent"]) == ["shade=warm"]
    assert "weighted" in by_name["red"]
    table = pd.read_csv(out / "occurrence.csv")
    assert len(table) == 4 * len(set(table["attribute"]))
    assert {"year=1990", "year=1991", "year=1992", "shade=cold"} <= set(table["attribute"])


@pytest.fixture
def few_pictures(monkeypatch):
    monkeypatch.setattr(clusters_module, "MOST_DRAWN", 1)


@pytest.mark.usefixtures("few_pictures")
def test_the_same_bytes_again_and_nothing_of_another_time(made):
    aggregate(made, attributes=made / "attributes.csv")
    first = {path.name: path.read_bytes() for path in (made / "out").iterdir()}
    aggregate(made, attributes=made / "attributes.csv", workers=2)
    assert {path.name: path.read_bytes() for path in (made / "out").iterdir()} == first
    (made / "out" / "mine.txt").write_text("stays")
    (made / "out" / ".pixels-of-a-killed-job").mkdir()
    aggregate(made)
    left = {path.name for path in (made / "out").iterdir()}
    assert "mine.txt" in left
    assert not any(word in name for name in left for word in ("occurrence", "weighted", "pixels"))


@pytest.mark.usefixtures("few_pictures")
def test_a_killed_job_goes_on(made, monkeypatch):
    """What was decoded before it was killed is not decoded again, and the end is the same."""
    aggregate(made, out="whole")
    with monkeypatch.context() as patched:
        patched.setattr(build_module, "Drawer", None)
        with pytest.raises(TypeError):
            aggregate(made)
    aggregate(made, size=24)  # other options are another job
    with monkeypatch.context() as patched:
        patched.setattr(build_module, "Drawer", None)
        with pytest.raises(TypeError):
            aggregate(made)
    patch_reader(monkeypatch)
    aggregate(made)
    for path in (made / "whole").iterdir():
        assert (made / "out" / path.name).read_bytes() == path.read_bytes()


def test_one_job_at_a_time_in_a_folder(made):
    with (
        held(made / "out", "aggregating clusters", lock=".aggregate.lock", reporter=Reporter(quiet=True)),
        pytest.raises(InputError, match="another process is aggregating clusters"),
    ):
        aggregate(made)
    (made / "file").touch()
    with pytest.raises(InputError, match="file is a file; give a folder"):
        aggregate(made, out="file")


def patch_reader(monkeypatch):
    """Let images be read no more."""

    def fail(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr("toolkit.images.pixels.decode", fail)


@pytest.mark.usefixtures("few_pictures")
def test_a_cluster_without_any_image(made):
    lines = [line for line in (made / "labels.csv").read_text(encoding="utf-8").splitlines() if "lonely" in line]
    (made / "images" / lines[0].split(",")[0]).unlink()
    found = aggregate(made)
    assert "lonely 猫: not one of its images can be used" in found.notes
    assert len([name for name in found.files if name.startswith("mean_") and name != "mean_images.png"]) == 3


@pytest.mark.usefixtures("few_pictures")
def test_the_largest_clusters_are_drawn(made):
    found = aggregate(made, attributes=made / "attributes.csv")
    assert sum(name.startswith("mean_") for name in found.files) == 5
    for kind in ("eigenfaces", "weighted", "occurrence"):
        assert [name for name in found.files if name.startswith(f"{kind}_")] == [f"{kind}_3.png"]
    assert "of 4 clusters the 1 largest have more than a mean image" in found.notes


def test_no_image_can_be_used(made):
    for path in (made / "images").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not one of 36 images can be used"):
        aggregate(made)


@pytest.mark.usefixtures("few_pictures")
def test_faces_are_aligned_first(made):
    paths = pd.read_csv(made / "labels.csv")["image_name"]
    points = json.dumps(template(20, 0.1).tolist())
    lines = [f'c/{i}.png,{path},0,0,0,9,9,1,"{points}",yunet,original,false' for i, path in enumerate(paths[:10])]
    header = "crop,image_path,face,x,y,width,height,score,landmarks,detector,found,aligned\n"
    (made / "faces.csv").write_text(header + "\n".join(lines))
    (made / "faces.json").write_text(json.dumps({"job": {"landmarks": ARCFACE_5, "margin": 0.25}}))
    found = aggregate(made, faces=made / "faces.csv")
    assert len(found.failed) == 28
    assert json.loads((made / "out" / "aggregates.json").read_text())["alignment"].startswith("0 are aligned crops; 10")


def test_images_that_cannot_be_used_are_refused_or_warned_of(made, capsys, monkeypatch):
    with pytest.raises(InputError, match=r"2 of 36 images cannot be used.*; without --strict they are skipped"):
        aggregate(made, strict=True)
    with pytest.raises(InputError, match="not one of 36 images can be used"):
        aggregate(made, images=made / "labels.csv")
    options = ["--images", made / "images", "--out", made / "out", "--size", 16]
    assert command(capsys, monkeypatch, "aggregate", made / "labels.csv", *options, "--strict")[0] == 2
    assert not (made / "out" / "aggregates.json").exists()
    Image.new("RGB", (20, 20)).save(made / "images" / "5_1992.png")  # it has come meanwhile
    code, out, errors = command(capsys, monkeypatch, "aggregate", made / "labels.csv", *options, "--quiet")
    assert (code, out) == (0, "")
    assert "warning: 1 of 36 images cannot be used" in errors
    assert pd.read_csv(made / "out" / "images_skipped.csv")["image_path"].tolist() == ["3_1990.png"]


@pytest.mark.usefixtures("few_pictures")
def test_paths_that_leave_the_folder(made):
    outside = made / "images2"  # as the folder begins
    outside.mkdir()
    Image.new("RGB", (20, 20)).save(made / "images" / "inside.png")
    for name in ("near.png", "far.png", "1_1991.png"):
        Image.new("RGB", (20, 20)).save(outside / name)
    paths = ["../images2/near.png", str(outside / "far.png"), "../images2/1_1991.png", "../../nowhere.png"]
    paths += ["gone/../../images2/near.png", "/gone/../images2/near.png", "/no/x.png"]  # their ends lead out too
    with (made / "labels.csv").open("a", encoding="utf-8") as file:
        file.writelines(
            f"{path},red\n" for path in [*paths, "../images/2_1992.png", str(made / "images" / "inside.png")]
        )
    found = aggregate(made)
    skipped = pd.read_csv(made / "out" / "images_skipped.csv").set_index("image_path")["reason"]
    leads = f"leads outside of {made / 'images'}"
    assert skipped.loc[paths].tolist() == [*[leads] * 5, *["does not exist"] * 2]
    assert len(found.failed) == 2 + 7
    listed = aggregate(made, out="listed", images=outside / "list.csv")  # as a list's own, they may be anywhere
    assert not set(paths[:3]) & {str(found.labels.paths[row]) for row in listed.failed}


def test_numbers_in_names_of_files():
    assert numbers_of(["0", "3", "12"]) == [0, 3, 12]
    assert numbers_of(["3", "3.1", "a"]) == [0, 1, 2]


def test_pictures_of_many_and_of_few(rng):
    labels = rng.integers(0, 70, 4000)
    columns = [Column(f"a${i}", rng.integers(0, 2, 4000), ["0", "1"]) for i in range(40)]
    columns.append(Column("never", np.zeros(4000, np.int64), ["0"]))
    table = occurrence(labels, encoded(columns))
    many, caption = overview(table, {})
    assert len(many.axes[0].get_yticks()) == 60
    assert len(many.axes[0].get_xticks()) == 30
    assert "60 largest of 70 clusters" in caption
    chart = occurrence_chart(table[table["cluster"] == 3], "3")[0]
    assert len(chart.axes[0].get_yticks()) == 30
    assert "Everything is noisy" not in caption
    assert "Everything is noisy" in overview(table.assign(is_noisy=True), {})[1]
    few = table[table["attribute"].isin(["never"]) & table["cluster"].isin([0, 1])]
    assert len(overview(few, {})[0].axes[0].get_yticks()) == 2
    assert len(occurrence_chart(few[few["cluster"] == 0], "0")[0].axes[0].get_yticks()) == 0


def test_texts_are_safe():
    assert safe_text("a\nb$") == "a\N{REPLACEMENT CHARACTER}b\\$"
    assert len(safe_text("x" * 99)) == 32


def test_command_line(made, capsys, monkeypatch):
    labels, images = made / "labels.csv", made / "images"

    def run(*arguments):
        return command(capsys, monkeypatch, "aggregate", *arguments)

    code, out, _ = run(labels, "--images", images, "--out", made / "o", "--size", 16, "--components", 2)
    assert code == 0
    assert "2 cannot be used" in out
    refused(run(labels, "--images", images), "--out says where")
    refused(run(labels, "--out", made / "o"), "--images takes a folder")
    refused(run(labels, "--images", images, "--out", made / "o", "--size", 9), "allowed: 16 to 512")
    refused(run(labels, "--images", images, "--out", made / "o", "--components", 0), "allowed: 1 to 64")
    refused(run(made / "none.csv", "--images", images, "--out", made / "o"), "do not exist")


@pytest.mark.parametrize(("told", "where"), [(True, "i"), (False, "i"), (False, "../i")])
def test_of_a_run(tmp_path, told, where):
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 2, 40)
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "a.npy", (groups[:, None] * 9 + rng.normal(size=(40, 5))).astype(np.float32))
    (tmp_path / "d" / "images_paths.csv").write_text("path\n" + "".join(f"{where}/{i}.png\n" for i in range(40)))
    (tmp_path / "d" / where).mkdir()
    for i, group in enumerate(groups):
        Image.new("RGB", (20, 20), (250, 0, i) if group else (0, 250, i)).save(tmp_path / "d" / where / f"{i}.png")
    stage = {
        "name": "s",
        "fraction": 1.0,
        "n_components": 2,
        "scalers": ["norm"],
        "grid": {"KMeans": {"n_clusters": [2]}},
    }
    descriptors = {"folder": str(tmp_path / "d")} | ({"images": str(tmp_path / "d")} if told else {})
    execute({"descriptors": descriptors, "stages": [stage], "best": {"by": "silhouette_score"}}, tmp_path / "out")
    found = aggregate_clusters(tmp_path / "out", size=16, workers=0, memory="4GiB")
    assert found.folder == tmp_path / "out" / "aggregates"
    assert not found.failed
    means = [np.asarray(Image.open(found.folder / f"mean_{k}.png")).mean(axis=(0, 1)) for k in (0, 1)]
    assert sorted(tuple(np.rint(mean[:2]).astype(int)) for mean in means) == [(0, 250), (250, 0)]
