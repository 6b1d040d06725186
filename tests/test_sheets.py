"""Rows that show a cluster, against brute force; contact sheets of a real run."""

from __future__ import annotations

import itertools
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.spatial.distance import cdist

from tests.hard_data import KINDS, constant_columns, data, duplicates, identical, offset
from toolkit.backend.cpu import CpuBackend
from toolkit.config import parse_config
from toolkit.errors import InputError, MemoryBudgetError
from toolkit.grid.finished import FinishedRun
from toolkit.grid.run import Run
from toolkit.images.source import open_images, run_images
from toolkit.memory import MemoryBudget, peak_bytes, reset_peak, resident_bytes
from toolkit.progress import Reporter
from toolkit.report import contact_sheet
from toolkit.report import members as members_room
from toolkit.report.contact_sheet import Captioned, Section
from toolkit.report.members import members_of, model_members
from toolkit.report.sheets import write_sheets


# Which rows
def oracle(X, labels):
    """Return the centroids' labels, distances of all rows to all of them, and each row's simplified silhouette."""
    X = X.astype(np.float64)
    names = np.unique(labels[labels >= 0])
    centroids = np.array([X[labels == name].mean(axis=0) for name in names]).reshape(-1, X.shape[1])
    distances = cdist(X, centroids)
    silhouettes = np.full(len(X), np.nan)
    for row, label in enumerate(labels):
        if label >= 0 and len(names) > 1:
            a = distances[row, names == label][0]
            b = distances[row, names != label].min()
            silhouettes[row] = (b - a) / max(a, b) if max(a, b) > 0 else 0
    return names, distances, silhouettes


def assert_best(chosen, rows, values, X, n):
    """The chosen rows have the smallest values, ascending; of equal rows the first come first."""
    scale = np.abs(values[rows]).max(initial=0) + np.abs(X).max()
    assert len(chosen) == min(n, len(rows)) == len(set(chosen.tolist()))
    assert np.isin(chosen, rows).all()
    np.testing.assert_allclose(values[chosen], np.sort(values[rows])[:n], rtol=1e-9, atol=1e-9 * scale)
    place = {row: i for i, row in enumerate(chosen.tolist())}
    _, group = np.unique(X[rows], axis=0, return_inverse=True)
    for same in np.unique(group):
        places = [place.get(row, n) for row in rows[group == same].tolist()]
        assert places == sorted(places)


def labelled(kind, n, d, k):
    """Hard data with k clusters: one of a single row, the others of any size, and noise."""
    X = data(kind, n, d)
    labels = np.random.default_rng([n, d, k]).integers(-1, k, n)
    labels[labels == 0] = k - 1
    labels[n // 2] = 0
    return X, labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d", "k"), [(60, 3, 2), (200, 17, 5), (150, 150, 12)])
def test_members_against_brute_force(memory, kind, n, d, k):
    X, labels = labelled(kind, n, d, k)
    found = members_of(X, labels, n=7, spare=3, memory=memory)
    names, distances, silhouettes = oracle(X, labels)
    assert list(found) == [-1, *names]
    for i, name in enumerate(names):
        rows = np.flatnonzero(labels == name)
        assert_best(found[name]["central"], rows, distances[:, i], X, 10)
        assert_best(found[name]["border"], rows, silhouettes, X, 10)
        sums = cdist(X[rows].astype(np.float64), X[rows].astype(np.float64), "sqeuclidean").sum(axis=1)
        first = sums[rows == found[name]["central"][0]][0]
        assert first <= sums.min() * (1 + 1e-9) + 1e-9 * np.abs(X).max() ** 2
    assert_best(found[-1]["farthest"], np.flatnonzero(labels == -1), -distances.min(axis=1), X, 10)
    for name, kinds in found.items():
        others = [rows[:7] for kind_, rows in kinds.items() if kind_ != "random"]
        check_random(kinds["random"], np.flatnonzero(labels == name), np.concatenate(others), n=7, spare=3)


def check_random(chosen, rows, shown, *, n, spare):
    assert len(chosen) == min(n + spare, len(rows)) == len(set(chosen.tolist()))
    assert np.isin(chosen, rows).all()
    if len(np.setdiff1d(rows, shown)) >= n:
        assert not np.isin(chosen[:n], shown).any()


def test_one_cluster_has_no_border(memory):
    X = data(duplicates, 100, 4)
    kinds = members_of(X, np.zeros(100, np.int8), memory=memory)[0]
    assert len(kinds["border"]) == 0
    assert len(kinds["central"]) == len(kinds["random"]) == 16


def test_only_noise(memory):
    kinds = members_of(data(offset, 100, 4), np.full(100, -1), n=5, memory=memory)
    assert list(kinds) == [-1]
    assert len(kinds[-1]["farthest"]) == 0
    assert len(kinds[-1]["random"]) == 5


def test_noise_around_one_cluster(memory):
    X = data(offset, 100, 4)
    labels = np.where(np.arange(100) < 70, 0, -1)
    chosen = members_of(X, labels, n=5, memory=memory)[-1]["farthest"]
    distances = np.linalg.norm(X - X[:70].astype(np.float64).mean(axis=0), axis=1)
    assert_best(chosen, np.arange(70, 100), -distances, X, 5)


@pytest.mark.parametrize("k", [1, 2, 100])
def test_equal_rows_come_in_their_order(memory, k):
    """All distances are zero: nothing but the row number tells rows apart."""
    labels = np.arange(100) % k
    for name, kinds in members_of(data(identical, 100, 3), labels, n=50, memory=memory).items():
        rows = np.flatnonzero(labels == name)
        assert kinds["central"].tolist() == rows[:50].tolist()
        assert kinds["border"].tolist() == (rows[:50].tolist() if k > 1 else [])


@pytest.mark.parametrize("kind", [duplicates, constant_columns, offset])
def test_blocks_and_threads_change_nothing(memory, monkeypatch, kind):
    X, labels = labelled(kind, 260, 3, 9)
    whole = members_of(X, labels, n=200, memory=memory)
    for n_bytes, threads in ((1, 1), (4000, 3), (100_000, 2)):
        monkeypatch.setattr(members_room, "_BLOCK_BYTES", n_bytes)
        monkeypatch.setattr(members_room, "n_threads", lambda threads=threads: threads)
        parts = members_of(X, labels, n=200, memory=memory)
        for name, kind_ in itertools.product(whole, members_room.KINDS):
            assert parts[name].get(kind_, np.empty(0)).tolist() == whole[name].get(kind_, np.empty(0)).tolist()
    doubled = members_of(X.astype(np.float64), labels, n=200, memory=memory)
    assert all(np.array_equal(doubled[name]["border"], whole[name]["border"]) for name in whole if name >= 0)


@pytest.mark.parametrize("distance", [1e6, 1e8])
def test_far_from_the_origin(memory, rng, distance):
    """Where products lose the digits that tell the nearest centroid, differences still find it."""
    X = distance + rng.normal(size=(400, 17))
    labels = rng.integers(-1, 30, 400)
    found = members_of(X, labels, n=400, memory=memory)
    names, distances, silhouettes = oracle(X - distance, labels)
    for name in names:
        rows = np.flatnonzero(labels == name)
        np.testing.assert_allclose(silhouettes[found[name]["border"]], np.sort(silhouettes[rows]), atol=1e-5)
    noise = distances.min(axis=1)
    np.testing.assert_allclose(noise[found[-1]["farthest"]], -np.sort(-noise[labels == -1]), atol=1e-5)


def test_a_cluster_s_rows_do_not_depend_on_which_are_asked_for(memory):
    X, labels = labelled(offset, 260, 3, 9)
    whole = members_of(X, labels, memory=memory)
    some = members_of(X, labels, names=[5, -1, 99], memory=memory)
    assert list(some) == [-1, 5, 99]
    for name in (5, -1):
        assert {kind: rows.tolist() for kind, rows in some[name].items()} == {
            kind: rows.tolist() for kind, rows in whole[name].items()
        }
    assert all(len(rows) == 0 for rows in some[99].values())


def test_the_seed_decides_what_is_random(memory):
    X, labels = labelled(offset, 260, 3, 2)
    first, again, other = (members_of(X, labels, seed=seed, memory=memory)[1] for seed in (1, 1, 2))
    assert first["random"].tolist() == again["random"].tolist() != other["random"].tolist()
    assert first["central"].tolist() == other["central"].tolist()


def test_only_usable_rows_are_chosen_and_centroids_are_of_all(memory):
    X, labels = labelled(offset, 260, 3, 4)
    usable = np.arange(260) % 3 == 0
    found = members_of(X, labels, n=300, usable=usable, memory=memory)
    whole = members_of(X, labels, n=300, memory=memory)
    for name, kinds in found.items():
        for kind, rows in kinds.items():
            if kind != "random":
                assert rows.tolist() == [row for row in whole[name][kind].tolist() if usable[row]]
            assert usable[rows].all()


def test_thousands_of_clusters(rng):
    """Distances of all rows to all centroids would take 960 MB."""
    n, k = 20_000, 6_000
    X = rng.normal(size=(n, 12)).astype(np.float32)
    labels = rng.permutation(np.arange(n) % k)
    members_of(X[:100], labels[:100], memory=MemoryBudget(4 << 30))  # compiled
    reset_peak()
    before = resident_bytes()
    found = members_of(X, labels, n=2, memory=MemoryBudget(before + (100 << 20)))
    assert peak_bytes() - before < 200 << 20
    assert len(found) == k
    centroids = np.array([X[labels == name].astype(np.float64).mean(axis=0) for name in range(k)])
    for name in (0, 17, 5999):
        rows = np.flatnonzero(labels == name)
        distances = cdist(X[rows].astype(np.float64), centroids)
        a = distances[:, name]
        b = np.delete(distances, name, axis=1).min(axis=1)
        assert found[name]["central"].tolist() == rows[np.argsort(a)[:2]].tolist()
        assert found[name]["border"].tolist() == rows[np.argsort((b - a) / np.maximum(a, b))[:2]].tolist()


def test_what_cannot_be_shown(memory):
    with pytest.raises(InputError, match="row 3 of X holds NaN"):
        members_of(np.where(np.arange(10)[:, None] == 3, np.nan, np.ones((10, 2))), np.zeros(10, int), memory=memory)
    with pytest.raises(MemoryBudgetError, match="centroids"):
        members_of(data(offset, 260, 3), np.arange(260), memory=MemoryBudget(1 << 20))


# Sheets
@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run over 200 images in 3 clusters, about 60 of it noise in DBSCAN; (its folder, its images)."""
    folder = tmp_path_factory.mktemp("sheets")
    rng = np.random.default_rng(1)
    truth = np.arange(200) % 3
    X = rng.normal(size=(200, 4)) * 0.3 + 10 * truth[:, None]
    X[:60] += rng.normal(size=(60, 4)) * 60
    X[[1, 50]] = np.nan  # left out of the run: the positions of the others are not their rows
    (folder / "descriptors").mkdir()
    (folder / "images").mkdir()
    np.save(folder / "descriptors" / "net.npy", X.astype(np.float32))
    for row in range(200):
        colour = [85, 85, 85]
        colour[truth[row]] = 255
        Image.new("RGB", (30, 20), tuple(colour)).save(folder / "images" / f"a rather long name of image {row:03}.png")
    lines = ["path", *(f"a rather long name of image {row:03}.png" for row in range(200))]
    (folder / "descriptors" / "images_paths.csv").write_text("\n".join(lines) + "\n")
    execute(folder)
    return folder / "run", folder / "images"


def execute(home, **descriptors):
    config = {
        "descriptors": {"folder": str(home / "descriptors")} | descriptors,
        "stages": [
            {
                "name": "only",
                "scalers": ["none"],
                "grid": {"KMeans": {"n_clusters": [3, 40]}, "DBSCAN": {"eps": [2], "min_samples": [4]}},
            }
        ],
    }
    run = Run(
        parse_config(config),
        home / "run",
        memory=MemoryBudget(4 << 30),
        backend=CpuBackend(),
        reason="test",
        reporter=Reporter(quiet=True),
    )
    return run.execute()


@pytest.fixture
def images(made, tmp_path):
    """A copy of the images that a test may damage."""
    return shutil.copytree(made[1], tmp_path / "images")


class Heard(Reporter):
    def __init__(self):
        super().__init__(quiet=True)
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture
def run(made):
    return FinishedRun(made[0], memory="4GiB", reporter=Heard())


def sources(run, images):
    return open_images(run.image_paths, images)


def test_where_images_are_decides_no_result(made, tmp_path, monkeypatch):
    """They are named, moved and packed without another run; relative paths start where the run was started."""
    folder = shutil.copytree(made[0].parent, tmp_path / "all")
    descriptors = str(made[0].parent / "descriptors")
    monkeypatch.chdir(folder)
    assert execute(folder, folder=descriptors, images="images").n_fitted == 0
    monkeypatch.chdir(tmp_path)
    run = FinishedRun(folder / "run", memory="4GiB")
    assert run.config.descriptors.images == folder / "images"
    assert run_images(run).url(0, folder / "run").startswith("../images/a%20rather")
    shutil.make_archive(str(folder / "packed"), "zip", folder, "images")
    assert execute(folder, folder=descriptors, images=str(folder / "packed.zip")).n_fitted == 0
    found = run_images(FinishedRun(folder / "run", memory="4GiB"))
    assert found.problems == {}
    assert found.read(7) == (folder / "images" / run.image_paths[7]).read_bytes()


def is_shown(path, colour):
    return bool((np.asarray(Image.open(path).convert("RGB")) == colour).all(axis=2).any())


def test_sheets(run, images, tmp_path):
    model = run.model("net_none_DBSCAN_eps=2_min_samples=4")
    labels = run.labels(model)
    sheets = write_sheets(run, model, sources(run, images), tmp_path / "plots", names={0: "red"}, stabilities={0: 0.9})
    assert list(sheets) == sorted(set(labels.tolist()))
    assert -1 in sheets
    assert sorted(path.name for path in sheets.values()) == sorted(path.name for path in (tmp_path / "plots").iterdir())
    for label, path in sheets.items():
        assert path.name == f"net_cluster_{'noise' if label == -1 else label}.png"
        image = Image.open(path)
        image.load()
        assert path.stat().st_size < 600_000
        truth = int(run.reduced(model).rows[labels == label][0]) % 3
        colours = np.full((3, 3), 85) + 170 * np.eye(3, dtype=int)
        if label >= 0:
            assert [is_shown(path, colour) for colour in colours] == [i == truth for i in range(3)]
    assert run.reporter.warnings == []
    assert not (run.folder / "images_skipped.csv").exists()


def test_sheets_are_the_same_every_time(run, images, tmp_path):
    model = run.model("net_none_KMeans_n_clusters=3")
    first = write_sheets(run, model, sources(run, images), tmp_path / "a")
    again = write_sheets(run, model, sources(run, images), tmp_path / "b")
    assert [path.read_bytes() for path in first.values()] == [path.read_bytes() for path in again.values()]


def test_sheets_of_an_earlier_model_are_removed(run, images, tmp_path):
    source = sources(run, images)
    kept = ["net_cluster_x.png", "net_2_cluster_7.png", "net_cluster_7.png.txt", "other_net_cluster_7.png"]
    for name in kept:
        (tmp_path / name).touch()
    write_sheets(run, run.model("net_none_KMeans_n_clusters=40"), source, tmp_path)
    write_sheets(run, run.model("net_none_KMeans_n_clusters=3"), source, tmp_path)
    found = {path.name for path in tmp_path.iterdir()} - {"images"}
    assert found == {*kept, *(f"net_cluster_{label}.png" for label in range(3))}


def test_the_largest_clusters_are_shown(run, images, tmp_path):
    model = run.model("net_none_KMeans_n_clusters=40")
    sheets = write_sheets(run, model, sources(run, images), tmp_path / "plots", most=5)
    sizes = np.bincount(run.labels(model))
    assert sorted(sizes[list(sheets)]) == sorted(sizes)[-5:]
    assert run.reporter.warnings == [
        "net_none_KMeans_n_clusters=40: contact sheets of the 5 largest clusters only, 35 have none"
    ]


@pytest.fixture
def drawn(monkeypatch):
    """Title -> sections of the sheets that are drawn."""
    found = {}
    draw = contact_sheet.draw_sheet
    monkeypatch.setattr(
        contact_sheet,
        "draw_sheet",
        lambda title, lines, sections: found.update({title: sections}) or draw(title, lines, sections),
    )
    return found


def test_images_that_cannot_be_used_are_replaced(run, images, tmp_path, drawn):
    """Of those that would be shown every second is missing or damaged; the others and those behind them are shown."""
    model = run.model("net_none_KMeans_n_clusters=3")
    best = model_members(run, model, names=[0], n=16)[0]["central"]
    paths = run.image_paths
    for row in best[::4]:
        (images / paths[row]).unlink()
    for row in best[2::4]:
        (images / paths[row]).write_bytes(b"damaged")
    sheets = write_sheets(run, model, sources(run, images), tmp_path / "plots")
    assert list(sheets) == [0, 1, 2]
    deeper = model_members(run, model, names=[0], n=100)[0]["central"]
    good = [row for row in deeper.tolist() if row not in set(best[::2].tolist())]
    central = next(section for section in drawn["Cluster 0"] if section.title.startswith("Central"))
    assert [path for path, *_ in central.images] == paths[good[:16]].tolist()
    skipped = pd.read_csv(run.folder / "images_skipped.csv")
    assert skipped["row"].tolist() == sorted(best[::2].tolist())
    (warning,) = run.reporter.warnings
    assert warning.startswith("8 of 200 images cannot be used (for instance 'a rather long name of image ")
    assert "\n" not in warning


def test_few_images_are_all_shown(run, images, tmp_path, drawn):
    """However many candidates before them are missing, and in one section."""
    model = run.model("net_none_KMeans_n_clusters=3")
    ranked = model_members(run, model, names=[0], n=200)[0]["central"]
    for row in ranked[:-9]:
        (images / run.image_paths[row]).unlink()
    write_sheets(run, model, sources(run, images), tmp_path / "plots")
    (section,) = drawn["Cluster 0"]
    assert section.title == f"All images, from the centre outwards ({len(ranked) - 9} more cannot be read)"
    assert [path for path, *_ in section.images] == run.image_paths[ranked[-9:]].tolist()


def test_members_of_a_model_are_rows_of_the_run(run):
    model = run.model("net_none_DBSCAN_eps=2_min_samples=4")
    rows = run.reduced(model).rows
    assert len(rows) == 198
    positions = members_of(run.matrix(model), run.labels(model), n=5)
    for name, kinds in model_members(run, model, n=5).items():
        for kind, found in kinds.items():
            assert found.tolist() == rows[positions[name][kind]].tolist()


def test_no_image_at_all(run, images, tmp_path):
    """With names that lead nowhere, and with files that are no images: a warning, and what is there stays."""
    model = run.model("net_none_KMeans_n_clusters=3")
    write_sheets(run, model, sources(run, images), tmp_path / "plots")
    assert write_sheets(run, model, run_images(run), tmp_path / "plots") == {}
    for path in images.iterdir():
        path.write_bytes(b"")
    assert write_sheets(run, model, sources(run, images), tmp_path / "plots") == {}
    assert len(list((tmp_path / "plots").iterdir())) == 3
    assert [warning.split("(")[0] for warning in run.reporter.warnings] == [
        "no new contact sheets: not one image could be read "
    ] * 2
    assert "does not exist" in run.reporter.warnings[0]
    assert "is empty" in run.reporter.warnings[1]


def test_a_cluster_without_images_has_no_sheet(run, images, tmp_path):
    model = run.model("net_none_KMeans_n_clusters=3")
    for row in np.flatnonzero(run.all_labels(model) == 1):
        (images / run.image_paths[row]).write_bytes(b"")
    assert list(write_sheets(run, model, sources(run, images), tmp_path / "plots")) == [0, 2]
    assert "sheets missing for lack of images: 1;" in run.reporter.warnings[0]


@pytest.mark.parametrize("text", ["two\nlines\x00", "Ж女🚗" * 2000, "x" * 50_000, "", "\ud800"])
def test_texts_are_drawn_whatever_they_are(text):
    """Line breaks, letters of any script and very long names stay on their line, within their width."""
    image = Image.new("RGB", (96, 96))
    plain, sheet = (
        np.asarray(contact_sheet.draw_sheet(one, [one, one], [Section("All", [Captioned(one, image)])]))
        for one in ("plain", text)
    )
    assert sheet.shape == plain.shape
    margin = contact_sheet._MARGIN
    assert (sheet[:, -margin // 2 :] == 255).all()
    np.testing.assert_array_equal(sheet[150:240], plain[150:240])  # the images
    assert (sheet[-margin // 2 :] == 255).all()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("1/a.jpg", "1/a.jpg"),
        ("a/very/long/folder/name/that/does/not/fit/a.jpg", "a.jpg"),
        ("folder/10004299_1908-08-19_1950.jpg", r"1000429.*….*50\.jpg"),
        ("", ""),
    ],
)
def test_file_names_are_shortened_in_the_middle(path, expected):
    font = contact_sheet._font(10)
    text = contact_sheet._file_name(path, font, 96)
    assert re.fullmatch(expected, text)
    assert font.getlength(text) <= 96
    assert font.getname()[0] == "DejaVu Sans"
