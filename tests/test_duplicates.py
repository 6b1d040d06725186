"""Near-duplicates, against brute force; tables and contact sheets of a real run."""

from __future__ import annotations

import fcntl
import shutil
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from tests.hard_data import KINDS, SHAPES, data, normal
from toolkit.backend.cpu import CpuBackend
from toolkit.cluster import near_pairs as near_pairs_room
from toolkit.cluster.density import DensityForest
from toolkit.config import parse_config
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.grid.finished import FinishedRun
from toolkit.grid.run import Run
from toolkit.memory import MemoryBudget, resident_bytes
from toolkit.outliers import duplicates as room
from toolkit.outliers.duplicates import duplicates_text, find_duplicates, typical_distance, write_duplicates
from toolkit.progress import Reporter
from toolkit.report import contact_sheet


def found(X, within, memory):
    return find_duplicates(DensityForest(8, memory=memory).fit(X), X, within, memory)


# Oracles
def squares(X):
    return squareform(pdist(X.astype(np.float64), "sqeuclidean"))


def medoid(X):
    """Return the first row that is nearest to the mean of all, in whole numbers, so that ties are ties."""
    numbers = np.array([[int(Fraction(float(value)) * 2**1100) for value in row] for row in X], object)
    scores = ((len(X) * numbers - numbers.sum(axis=0)) ** 2).sum(axis=1)
    return scores.tolist().index(min(scores))


def distances_apart(X):
    """Return distances that no pair is near to: between any two, and beyond all; and 0."""
    squared = np.unique(squares(X))
    wide = np.flatnonzero(np.diff(squared) > 1e-9 * squared[1:])
    between = np.sqrt((squared[wide] + squared[wide + 1]) / 2)
    chosen = np.unique(np.linspace(0, len(between) - 1, 5).astype(int)) if len(between) else []
    return [0.0, *between[chosen].tolist(), 2 * np.sqrt(squared[-1]) + 1]


def assert_right(X, within, groups, pairs):
    squared = squares(X)
    near = squared <= within * within
    i, j = np.nonzero(np.triu(near, 1))
    order = np.lexsort((j, i, pairs_squared := squared[i, j]))
    assert pairs.number == len(i)
    assert pairs.are_listed
    assert set(zip(pairs.row_1.tolist(), pairs.row_2.tolist(), strict=True)) == set(
        zip(i.tolist(), j.tolist(), strict=True)
    )
    np.testing.assert_allclose(pairs.distance, np.sqrt(pairs_squared[order]), rtol=1e-12)
    assert (pairs.distance * pairs.distance <= within * within).all()
    own = list(zip(pairs.distance.tolist(), pairs.row_1.tolist(), pairs.row_2.tolist(), strict=True))
    assert own == sorted(own)
    _, component = connected_components(near)
    wanted = [np.flatnonzero(component == one) for one in np.unique(component)]
    wanted = sorted((rows for rows in wanted if len(rows) > 1), key=lambda rows: (-len(rows), rows[0]))
    assert groups.sizes.tolist() == [len(rows) for rows in wanted]
    for number, rows in enumerate(wanted):
        mine = groups.group == number
        assert sorted(groups.row[mine].tolist()) == rows.tolist()
        first = rows[medoid(X[rows])]
        assert groups.row[mine][groups.is_representative[mine]].tolist() == [first] == groups.row[mine][:1].tolist()
        np.testing.assert_allclose(groups.distance[mine], np.sqrt(squared[first, groups.row[mine]]), rtol=1e-12)
        rest = list(zip(groups.distance[mine].tolist(), groups.row[mine].tolist(), strict=True))[1:]
        assert rest == sorted(rest)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_against_brute_force(kind, shape, memory):
    X = data(kind, *shape)
    forest = DensityForest(8, memory=memory).fit(X)
    for within in distances_apart(X):
        assert_right(X, within, *find_duplicates(forest, X, within, memory))


def test_float64(memory, rng):
    X = 1000 + 1e-4 * rng.normal(size=(150, 5))
    for within in distances_apart(X)[1:]:
        groups, pairs = found(X, within, memory)
        squared = squares(X)
        assert pairs.number == (squared[np.triu_indices(150, 1)] <= within**2).sum()
        assert groups.sizes.sum() == ((squared <= within**2).sum(axis=1) > 1).sum()


def test_a_distance_exactly_on_the_boundary_counts(memory):
    """On a lattice; and any distance that is listed finds its own pair when it is given as the limit."""
    X = np.stack(np.meshgrid(*[np.arange(6.0)] * 3), axis=-1).reshape(-1, 3)
    forest = DensityForest(8).fit(X)
    for squared in (1, 2, 3, 5, 6):
        distance = find_duplicates(forest, X, np.sqrt(squared) * 1.01, memory)[1].distance.max()
        groups, pairs = find_duplicates(forest, X, distance, memory)
        assert pairs.number == (pdist(X, "sqeuclidean") <= squared).sum()
        assert groups.sizes.tolist() == [216]
        below = find_duplicates(forest, X, np.nextafter(distance, 0), memory)[1]
        assert below.number == (pdist(X, "sqeuclidean") < squared).sum()


def test_lists_that_end_exactly_at_the_distance(memory):
    """100 rows, each 2 from each other, of which lists hold 64."""
    X = np.repeat(np.eye(100), 2, axis=1)
    assert_right(X, 2, *found(X, 2, memory))
    assert found(X, np.nextafter(2, 0), memory)[1].number == 0


def test_many_equal_rows(memory, rng):
    X = rng.normal(size=(1500, 20)).astype(np.float32)
    same = np.sort(rng.permutation(1500)[:1000])
    X[same] = X[same[0]]
    groups, pairs = found(X, 0, memory)
    assert pairs.number == 1000 * 999 // 2
    assert (pairs.row_1[0], pairs.row_2[0], pairs.row_1[-1], pairs.row_2[-1]) == (*same[:2], *same[-2:])
    assert groups.row.tolist() == same.tolist()
    assert groups.is_representative.tolist() == [True, *[False] * 999]
    assert not groups.distance.any()
    assert not pairs.distance.any()


@pytest.mark.parametrize("tile", [7, 512])
def test_lists_that_are_too_short(memory, rng, monkeypatch, tile):
    """Three balls of 100 rows each within the distance, while lists hold 64: what they lack is measured."""
    monkeypatch.setattr(near_pairs_room, "_TILE", tile)
    X = rng.normal(size=(600, 30)) * 10
    for start in (0, 200, 350):
        X[start : start + 100] = X[start] + 1e-3 * rng.normal(size=(100, 30))
    X[99] = X[98]
    X = X[rng.permutation(600)].astype(np.float32)
    forest = DensityForest(8).fit(X)
    assert forest.neighbors.lists.n_neighbors == 64
    for within in (0.008, 0.02, 1.0):
        assert_right(X, within, *find_duplicates(forest, X, within, memory))


def test_more_pairs_than_are_listed(memory, monkeypatch):
    """They are counted up to there; groups are the same. One less, and they are listed."""
    X = data(normal, 260, 3)
    forest = DensityForest(8).fit(X)
    within = float(np.quantile(pdist(X.astype(float)), 0.5)) * 1.0001
    number = int((pdist(X.astype(float)) <= within).sum())
    whole = find_duplicates(forest, X, within, memory)
    for most in (10, number // 2, number - 1):
        monkeypatch.setattr(room, "MOST_PAIRS", most)
        groups, pairs = find_duplicates(forest, X, within, memory)
        assert not pairs.are_listed
        assert len(pairs.row_1) == len(pairs.row_2) == len(pairs.distance) == 0
        assert most < pairs.number <= number
        assert all(np.array_equal(*both) for both in zip(groups, whole[0], strict=True))
    monkeypatch.setattr(room, "MOST_PAIRS", number)
    assert find_duplicates(forest, X, within, memory)[1].number == number == whole[1].number


def equal(one, other):
    return all(np.array_equal(*both) for pair in zip(one, other, strict=True) for both in zip(*pair, strict=True))


def test_memory_and_threads_change_nothing(rng, memory, monkeypatch, tmp_path):
    X = rng.normal(size=(6000, 8)).astype(np.float32)
    X[1000:1200] = X[0] + np.float32(1e-3) * rng.normal(size=(200, 8)).astype(np.float32)
    X[5000:5100] = X[7]
    large = find_duplicates(DensityForest(8, memory=memory).fit(X), X, 0.3, memory)
    assert (large[1].number, large[0].sizes[0]) > (20_000, 200)
    monkeypatch.setattr(near_pairs_room, "n_threads", lambda: 1)
    saved = DensityForest(8, memory=memory).fit(X)
    saved.save(tmp_path / "forest")
    on_disk = DensityForest.load(tmp_path / "forest", memory=resident_bytes() + (4 << 20))
    assert on_disk.neighbors.lists.folder is not None
    monkeypatch.setattr("toolkit.cluster.lists._READ_BYTES", 64 * 12 * 100)
    tight = MemoryBudget(resident_bytes() + (40 << 20))
    assert equal(large, find_duplicates(on_disk, X, 0.3, tight))
    with pytest.raises(MemoryBudgetError, match="a smaller distance has fewer"):
        find_duplicates(on_disk, X, 0.3, MemoryBudget(resident_bytes() - 1))


def test_the_order_of_the_rows_decides_nothing(memory, rng):
    X = rng.normal(size=(400, 5))
    X = (X[rng.integers(0, 400, 900)] + 0.05 * rng.normal(size=(900, 5))).astype(np.float32)
    X[800:] = X[:100]
    new = rng.permutation(900)
    groups, pairs = found(X, 0.2, memory)
    others, other_pairs = found(X[new], 0.2, memory)

    def rows(groups, pairs, row_of):
        linked = {
            (*sorted((row_of[i], row_of[j])), d)
            for i, j, d in zip(pairs.row_1, pairs.row_2, pairs.distance.tolist(), strict=True)
        }
        parts = np.split(np.arange(len(groups.row)), np.cumsum(groups.sizes)[:-1])
        grouped = {
            (frozenset(row_of[groups.row[part]].tolist()), X[row_of[groups.row[part[0]]]].tobytes())
            for part in parts
            if len(np.unique(X[row_of[groups.row[part]]], axis=0)) > 2  # of two the first stands for both
        }
        return linked, grouped

    one, other = rows(groups, pairs, np.arange(900)), rows(others, other_pairs, new)
    assert len(one[1]) > 50
    assert one == other


def test_the_order_of_the_rows_decides_no_near_tie(memory, rng):
    """Groups that mirror themselves but for rounding: the same row wins in any order, or the first of equal ones."""
    offsets = rng.normal(size=(300, 7, 9))
    offsets[:, 0] *= 0.5
    X = np.concatenate([0.1 + offsets, 0.1 - offsets], axis=1).reshape(-1, 9)
    X[:, 0] = 1000 * np.repeat(np.arange(300), 14)
    winners = [set() for _ in range(300)]
    is_first = np.ones(300, bool)
    for _ in range(12):
        new = rng.permutation(len(X))
        groups, _ = found(X[new], 100, memory)
        for row in new[groups.row[groups.is_representative]].tolist():
            winners[row // 14].add(row)
            mirrored = row + 7 if row % 14 < 7 else row - 7
            is_first[row // 14] &= (new == row).argmax() < (new == mirrored).argmax()
    assert all(len(rows) == 1 or first for rows, first in zip(winners, is_first, strict=True))
    assert sum(len(rows) > 1 for rows in winners) < 300


def test_of_two_rows_the_first_stands_for_both(memory, rng):
    """They are equally far from their mean, however different their values and however often each occurs."""
    X = np.zeros((300, 40))
    for pair in range(100):
        X[3 * pair : 3 * pair + 3] = 2.0 ** rng.integers(-40, 1, (3, 40)) * rng.normal(size=(3, 40))
        X[3 * pair : 3 * pair + 3, 0] = 1000 * pair
    X[2::3] = X[1::3]  # of three rows two are equal: these stand for all
    two = np.delete(X, np.arange(2, 300, 3), axis=0)
    groups, _ = found(two, 30, memory)
    assert groups.sizes.tolist() == [2] * 100
    assert groups.row[groups.is_representative].tolist() == list(range(0, 200, 2))
    groups, _ = found(X, 30, memory)
    assert groups.row[groups.is_representative].tolist() == list(range(1, 300, 3))
    for times in (3, 5, 7):
        groups, _ = found(np.repeat(two, times, axis=0), 30, memory)
        assert groups.row[groups.is_representative].tolist() == list(range(0, 200 * times, 2 * times))


def test_large_values(memory):
    """Squares of n times the distance would leave float64."""
    X = np.array([-1e150, 1e150]).repeat([15_000, 25_000])[:, None]
    groups, pairs = found(X, 1e152, memory)
    assert groups.row[0] == 15_000
    assert not pairs.are_listed
    assert pairs.number == 40_000 * 39_999 // 2


def test_one_and_two_rows(memory):
    X = np.array([[1.0, 2.0]])
    forest = DensityForest(8).fit(X)
    groups, pairs = find_duplicates(forest, X, 5, memory)
    assert len(groups.row) == len(groups.sizes) == pairs.number == 0
    assert typical_distance(forest) == 0
    X = np.array([[0.0], [1.0]])
    assert found(X, 0.5, memory)[1].number == 0
    assert found(X, 1, memory)[0].row.tolist() == [0, 1]
    assert typical_distance(DensityForest(8).fit(X)) == 1


@pytest.mark.parametrize("within", [-1, np.nan, "1", True, None])
def test_distances_that_cannot_be_used(memory, within):
    X = np.zeros((3, 2))
    with pytest.raises(InputError, match=r"within is .*; allowed: a number of at least 0"):
        find_duplicates(DensityForest(2).fit(X), X, within, memory)


def test_another_matrix(memory):
    with pytest.raises(InputError, match=r"X has shape \(4, 2\); allowed: \(3, 2\)"):
        find_duplicates(DensityForest(2).fit(np.zeros((3, 2))), np.zeros((4, 2)), 1, memory)


# The usual distance
@pytest.mark.parametrize("kind", KINDS)
def test_typical_distance(kind):
    X = data(kind, 150, 17)
    squared = squares(np.unique(X, axis=0))
    np.fill_diagonal(squared, np.inf)
    expected = 0 if len(squared) == 1 else np.median(np.sqrt(squared.min(axis=1)))
    assert typical_distance(DensityForest(8).fit(X)) == pytest.approx(expected, rel=1e-12)


def test_copies_that_were_rounded_differently_are_not_others(rng):
    X = rng.normal(size=(500, 20)).astype(np.float32)
    doubled = np.concatenate([X, X * np.float32(1 + 2e-7), X * np.float32(1 - 2e-7)])
    assert len(np.unique(doubled, axis=0)) > 1300
    typical = typical_distance(DensityForest(8).fit(doubled))
    assert typical == pytest.approx(typical_distance(DensityForest(8).fit(X)), rel=1e-3)


# A whole run
TRIPLE, TWINS, PAIR, CLOSE = (10, 40, 70), (11, 71), (5, 6), (100, 101)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run over 120 images in 3 clusters, of which some are close to each other; (its folder, its images)."""
    folder = tmp_path_factory.mktemp("duplicates")
    rng = np.random.default_rng(3)
    X = rng.normal(size=(120, 12)) + 20 * (np.arange(120) % 3)[:, None]
    X[40], X[70] = X[10] + 0.01, X[10] - 0.02
    X[71] = X[11]
    X[6], X[101] = X[5] + 0.05, X[100] + 0.03
    X[[1, 50]] = np.nan  # left out: the positions of the others are not their rows
    (folder / "descriptors").mkdir()
    (folder / "images").mkdir()
    np.save(folder / "descriptors" / "net.npy", X.astype(np.float32))
    np.save(folder / "descriptors" / "apart.npy", np.repeat(np.eye(120) * np.arange(5, 125), 2, axis=1).astype("f4"))
    for row in range(120):
        Image.new("RGB", (30, 20), (2 * row, 0, 0)).save(folder / "images" / f"image {row:03}.png")
    lines = ["path", *(f"image {row:03}.png" for row in range(120))]
    (folder / "descriptors" / "images_paths.csv").write_text("\n".join(lines) + "\n")
    execute(folder, folder / "run", {"images": str(folder / "images")})
    return folder / "run", folder / "images"


def execute(home, out, descriptors, **stage):
    stage = {"name": "only", "scalers": ["none"], "grid": {"KMeans": {"n_clusters": [3, 7]}}} | stage
    run = Run(
        parse_config({"descriptors": {"folder": str(home / "descriptors")} | descriptors, "stages": [stage]}),
        out,
        memory=MemoryBudget(4 << 30),
        backend=CpuBackend(),
        reason="test",
        reporter=Reporter(quiet=True),
    )
    return run.execute()


class Heard(Reporter):
    def __init__(self):
        super().__init__(quiet=True)
        self.said, self.warnings = [], []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture
def run_folder(made, tmp_path):
    """A copy of the run that a test may write into."""
    return shutil.copytree(made[0], tmp_path / "run")


@pytest.fixture
def images(made, tmp_path):
    return shutil.copytree(made[1], tmp_path / "images")


@pytest.fixture
def drawn(monkeypatch):
    """(Title, lines, sections) of the sheets that are drawn."""
    kept = []
    draw = contact_sheet.draw_sheet
    monkeypatch.setattr(contact_sheet, "draw_sheet", lambda *parts: kept.append(parts) or draw(*parts))
    return kept


def write(folder, **options):
    return write_duplicates(folder, **({"within": 0.2, "memory": "4GiB"} | options))


def test_tables(run_folder):
    apart, net = write(run_folder)
    table = pd.read_csv(run_folder / "duplicates.csv")
    assert table.columns.tolist() == ["descriptor", "group", "row", "image_path", "is_representative", "distance"]
    assert set(table["descriptor"]) == {"net"}
    assert table["group"].tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert table["row"].tolist() == [10, 40, 70, 5, 6, 11, 71, 100, 101]
    assert table["image_path"].tolist() == [f"image {row:03}.png" for row in table["row"]]
    assert table["row"][table["is_representative"]].tolist() == [10, 5, 11, 100]
    run = FinishedRun(run_folder, memory="4GiB")
    matrix = dict(zip(run.reduced(net.model).rows.tolist(), run.matrix(net.model).astype(float), strict=True))
    first = {0: 10, 1: 5, 2: 11, 3: 100}
    rows = zip(table["group"], table["row"], strict=True)
    expected = [np.linalg.norm(matrix[row] - matrix[first[group]]) for group, row in rows]
    np.testing.assert_allclose(table["distance"], expected, rtol=1e-12)
    pairs = pd.read_csv(run_folder / "duplicate_pairs.csv")
    assert pairs.columns.tolist() == ["descriptor", "row_1", "row_2", "image_path_1", "image_path_2", "distance"]
    assert list(zip(pairs["row_1"], pairs["row_2"], strict=True)) == [
        (11, 71), (10, 40), (10, 70), (40, 70), (100, 101), (5, 6),
    ]  # fmt: skip
    assert pairs["image_path_2"].tolist() == [f"image {row:03}.png" for row in pairs["row_2"]]
    expected = [np.linalg.norm(matrix[i] - matrix[j]) for i, j in zip(pairs["row_1"], pairs["row_2"], strict=True)]
    np.testing.assert_allclose(pairs["distance"], expected, rtol=1e-12)
    assert (net.n_rows, net.n_unreadable, net.within, net.pairs.number) == (118, 2, 0.2, 6)
    assert net.groups.row.tolist() == table["row"].tolist()
    assert (apart.n_rows, len(apart.groups.row), apart.sheet) == (120, 0, None)
    assert duplicates_text([apart, net]).split("\n") == [
        f"apart: within 0.2 (none scaled; the usual distance from a row to its nearest other is {apart.typical:.4g}): "
        "no duplicates",
        f"net: within 0.2 (none scaled; the usual distance from a row to its nearest other is {net.typical:.4g}): "
        "4 groups with 9 of 118 rows, 6 pairs; 5 rows (4.2 %) could be dropped (without 2 rows holding NaN or inf)",
    ]


def test_the_default_distance(run_folder):
    for one in write(run_folder, within=None):
        assert one.within == room.SHARE * one.typical
        assert "0.3 times the usual distance" in duplicates_text([one])
    assert one.groups.row[one.groups.group == 0].tolist() == [10, 40, 70]


def test_the_same_every_time(run_folder):
    names = ["duplicates.csv", "duplicate_pairs.csv", "plots/net_duplicates.png"]
    write(run_folder)
    first = [(run_folder / name).read_bytes() for name in names]
    write(run_folder, memory="2GiB")
    assert first == [(run_folder / name).read_bytes() for name in names]


def test_sheet(run_folder, drawn):
    _, net = write(run_folder)
    assert net.sheet == run_folder / "plots" / "net_duplicates.png"
    image = Image.open(net.sheet)
    image.load()
    ((title, lines, sections),) = drawn
    assert title == "Near-duplicates within 0.2"
    assert "4 groups with 9 of 118 rows" in lines[0]
    assert lines[1] == "Shown: 1 of 1 groups of more than two (the largest), 3 of 3 pairs (the closest)"
    shown = [[int(path[6:9]) for path, *_ in section.images] for section in sections]
    assert shown == [[10, 40, 70], [11, 71, 100, 101, 5, 6]]
    assert sections[0].title == "Group 0: 3 images, the representative first"
    assert [note for _, _, note in sections[1].images] == ["", "0", "", "0.1", "", "0.17"]


def test_no_more_is_shown_than_fits(run_folder, drawn):
    """With everything in one group: two rows of images; with too many groups and pairs: the first ones."""
    write(run_folder, within=1000)
    sections = {lines[0].split()[0]: sections for _, lines, sections in drawn}
    assert len(sections["net"][0].images) == 16
    assert sections["net"][0].title == "Group 0: 118 images, 16 shown, the representative first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_GROUPS_SHOWN", 0)
        patch.setattr(room, "_PAIRS_SHOWN", 2)
        write(run_folder)
    _, lines, (pairs,) = drawn[-1]
    assert [int(path[6:9]) for path, *_ in pairs.images] == [11, 71, 100, 101]
    assert lines[1] == "Shown: 0 of 1 groups of more than two (the largest), 2 of 3 pairs (the closest)"


def test_images_that_cannot_be_used_cost_themselves(run_folder, images, drawn):
    (images / "image 010.png").unlink()
    (images / "image 071.png").write_bytes(b"damaged")
    write(run_folder, images=images)
    _, lines, sections = drawn[-1]
    shown = [[int(path[6:9]) for path, *_ in section.images] for section in sections]
    assert shown == [[40, 70], [100, 101, 5, 6]]
    assert sections[0].title == "Group 0: 3 images, 2 shown, the representative cannot be read"
    assert lines[1] == "Shown: 1 of 1 groups of more than two (the largest), 2 of 3 pairs (the closest)"
    (images / "image 040.png").unlink()  # one image of a group is not worth a section
    write(run_folder, images=images)
    _, lines, (pairs,) = drawn[-1]
    assert len(pairs.images) == 4
    assert lines[1] == "Shown: 0 of 1 groups of more than two (the largest), 2 of 3 pairs (the closest)"
    for row in (*TRIPLE, *TWINS, *PAIR, *CLOSE):
        (images / f"image {row:03}.png").write_bytes(b"damaged")
    heard = Heard()
    assert write(run_folder, images=images, reporter=heard)[1].sheet is None
    assert heard.warnings == ["net: no contact sheet of duplicates, none of their images can be read"]
    assert not (run_folder / "plots" / "net_duplicates.png").exists()


def test_no_images(made, tmp_path):
    home = made[0].parent
    execute(home, tmp_path / "run", {})
    heard = Heard()
    assert [one.sheet for one in write(tmp_path / "run", reporter=heard)] == [None, None]
    (line,) = [text for text in heard.said if "sheet" in text]
    assert line.startswith("no contact sheet is made, no image found: 'image 000.png' does not exist; --images takes")
    assert heard.warnings == []


def test_what_an_earlier_call_wrote_is_replaced(run_folder):
    write(run_folder)
    assert [one.sheet for one in write(run_folder, within=0, descriptors=["apart"])] == [None]
    assert (run_folder / "duplicates.csv").read_text() == "descriptor,group,row,image_path,is_representative,distance\n"
    pairs = (run_folder / "duplicate_pairs.csv").read_text()
    assert pairs == "descriptor,row_1,row_2,image_path_1,image_path_2,distance\n"
    assert not (run_folder / "plots" / "net_duplicates.png").exists()


def test_too_many_pairs_for_a_file(run_folder, monkeypatch):
    """Counted over all descriptors; the groups are written all the same."""
    write(run_folder)
    monkeypatch.setattr(room, "MOST_PAIRS", 118 * 117 // 2 + 100)
    heard = Heard()
    both = write(run_folder, within=1000, reporter=heard)
    assert [one.pairs.are_listed for one in both] == [False, False]
    assert not (run_folder / "duplicate_pairs.csv").exists()
    (warning,) = heard.warnings
    assert warning.startswith("duplicate_pairs.csv is not written: there are at least ")
    assert "allowed: 7,003; lower --within" in warning
    assert len(pd.read_csv(run_folder / "duplicates.csv")) == 118 + 120
    assert "at least " in duplicates_text(both)
    write(run_folder, descriptors=["net"], within=1000)
    assert len(pd.read_csv(run_folder / "duplicate_pairs.csv")) == 118 * 117 // 2


def test_tables_appear_whole_or_not_at_all(run_folder, monkeypatch):
    write(run_folder)
    before = (run_folder / "duplicates.csv").read_bytes()
    to_csv = pd.DataFrame.to_csv

    def full_disk(table, *rest, **options):
        if len(table):
            raise OSError("no space left")
        return to_csv(table, *rest, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write(run_folder, within=1000)
    assert (run_folder / "duplicates.csv").read_bytes() == before
    assert not list(run_folder.glob(".unfinished-*"))


def test_a_fraction_of_the_rows(made, tmp_path):
    execute(made[0].parent, tmp_path / "run", {"images": str(made[1])}, fraction=0.5)
    (net,) = write(tmp_path / "run", descriptors=["net"])
    assert net.n_rows < 70
    assert "only the fraction of 0.5 of the rows that net_none_KMeans_n_clusters=" in duplicates_text([net])
    run = FinishedRun(tmp_path / "run", memory="4GiB")
    assert np.isin(net.groups.row, run.reduced(net.model).rows).all()


def test_what_cannot_be_used(run_folder, tmp_path):
    with pytest.raises(InputError, match="unknown descriptor 'nte'; known: apart, net"):
        write(run_folder, descriptors=["net", "nte"])
    with pytest.raises(InputError, match="within is -1"):
        write(run_folder, within=-1)
    with pytest.raises(InputError, match="does not exist"):
        write(run_folder, images=tmp_path / "nowhere")
    with (run_folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is running"):
            write(run_folder)
    assert not (run_folder / "duplicates.csv").exists()
