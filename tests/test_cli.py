"""The command line: what it prints, and one line with exit code 2 for everything a user can get wrong."""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

STAGE = {"name": "s", "n_components": 3, "grid": {"KMeans": {"n_clusters": [2, 3]}}}


def toolkit(*arguments, cwd, **options):
    command = [sys.executable, "-m", "toolkit", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)


@pytest.fixture
def place(tmp_path, blobs):
    """A folder with descriptors a (npy) and b (pickle), image paths and config.yaml."""
    folder = tmp_path / "descriptors"
    folder.mkdir()
    np.save(folder / "a.npy", blobs[0])
    (folder / "b.pickle").write_bytes(pickle.dumps(blobs[0][:, ::2]))
    (folder / "images_paths.csv").write_text("path\n" + "".join(f"{i}.jpg\n" for i in range(600)))
    write(tmp_path)
    return tmp_path


def write(place, **changes):
    content = {"descriptors": {"folder": "descriptors"}, "stages": [STAGE]} | changes
    (place / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def one_line(done, *words):
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == errors[0]
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0]


def test_run_plan_status_doctor(place):
    done = toolkit("plan", "config.yaml", "--memory", "2GiB", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "a norm KMeans" in done.stdout
    assert "plan: 4 models" in done.stdout
    assert not (place / "out").exists()
    done = toolkit("run", "config.yaml", "--out", "out", "--seed", "3", "--no-report", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "labelling  out/best_clusterization.csv" in done.stdout
    assert "plan: 4 models, about" in done.stderr
    done = toolkit("status", "out", cwd=place)
    assert "out: complete" in done.stdout
    assert "4 models on disk" in done.stdout
    done = toolkit("doctor", cwd=place)
    assert done.returncode == 0
    assert "scikit-learn" in done.stdout
    quiet = toolkit("run", "config.yaml", "--out", "quiet", "--quiet", "--no-report", cwd=place)
    assert (quiet.stdout, quiet.stderr, quiet.returncode) == ("", "", 0)
    assert not (place / "quiet" / "report.html").exists()
    seed = yaml.safe_load((place / "out" / "run.json").read_text())["seed"]
    assert seed == 3


def test_help_is_the_manual(place):
    for verb in ((), ("run",), ("plan",), ("status",), ("doctor",)):
        done = toolkit(*verb, "--help", cwd=place)
        assert done.returncode == 0
        assert "Usage" in done.stdout


class Evil:
    def __reduce__(self):
        return eval, ("open('owned', 'w')",)


def save_pickle(value):
    return lambda folder, X: (folder / "b.pickle").write_bytes(pickle.dumps(value(X)))


def truncate(folder, _):
    (folder / "a.npy").write_bytes((folder / "a.npy").read_bytes()[:-1])


def save(change):
    return lambda folder, X: np.save(folder / "a.npy", change(X))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (save_pickle(lambda _: Evil()), ["b.pickle", "builtins.eval", "refused"]),
        (save_pickle(lambda X: X.astype(object)), ["b.pickle", "'O8'", "numeric"]),
        (truncate, ["a.npy is truncated"]),
        (save(lambda X: X.ravel()), ["shape (7200,)", "(n_rows, n_features)"]),
        (save(lambda X: X[:0]), ["no row"]),
        (save(lambda X: X[:599]), ["a 599", "b 600"]),
        (save(lambda X: X * 0 + 7), ["descriptor a", "all 600 rows are the same"]),
        (save(lambda X: X * np.nan), ["descriptor a", "all 600 rows hold NaN"]),
        (save(lambda X: X[:, :2]), ["n_components of a is 3", "at most 2"]),
        (lambda folder, _: (folder / "images_paths.csv").write_text("path\nx.jpg\n"), ["1 image paths", "600 rows"]),
        (lambda folder, _: (folder / "c.npy").write_bytes(b""), ["c.npy"]),
        (save(lambda X: X.astype(np.float64) * 1e200), ["descriptor a", "overflow"]),
        (save(lambda X: X.astype(np.float64) * 1e60), ["descriptor a", "too large for float32"]),
        (lambda folder, _: [p.unlink() for p in folder.iterdir()], ["holds no descriptor file"]),
    ],
)
def test_bad_descriptors(place, blobs, spoil, words):
    spoil(place / "descriptors", blobs[0])
    one_line(toolkit("run", "config.yaml", "--out", "out", cwd=place), *words)
    assert not (place / "out").exists()
    assert not (place / "owned").exists()


@pytest.mark.parametrize("n_components", [None, 3])
def test_rows_that_are_all_the_same(place, blobs, n_components):
    write(place, stages=[STAGE | {"n_components": n_components}])
    np.save(place / "descriptors" / "a.npy", np.full_like(blobs[0], 7.3))
    one_line(toolkit("run", "config.yaml", "--out", "out", cwd=place), "descriptor a", "all 600 rows are the same")
    assert not (place / "out").exists()


def test_no_model_can_be_fitted(place):
    write(place, stages=[STAGE | {"grid": {"KMeans": {"n_clusters": [700, 800]}}}])
    one_line(toolkit("run", "config.yaml", "--out", "out", cwd=place), "all 4 models of stage s failed", "700")


def test_the_folder_of_another_program_is_left_alone(place):
    (place / "out").mkdir()
    (place / "out" / "run.json").write_text('{"wandb": 1}')
    for command in (["run", "config.yaml", "--out", "out"], ["status", "out"]):
        one_line(toolkit(*command, cwd=place), "not the record of a run of this toolkit")
    assert [path.name for path in (place / "out").iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere.yaml", "--out", "out"], ["nowhere.yaml does not exist"]),
        (["run", "config.yaml", "--out", "config.yaml"], ["is a file"]),
        (["run", "config.yaml", "--out", "descriptors"], ["holds files but no run"]),
        (["run", "config.yaml", "--out", "config.yaml/out"], ["config.yaml/out"]),
        (["run", "config.yaml", "--out", "/proc/out"], ["/proc/out"]),
        (["run", "config.yaml", "--out", "out", "--memory", "lots"], ["'lots' is not a size", "8GiB"]),
        (["run", "config.yaml", "--out", "out", "--memory", "1MiB"], ["does not fit", "1 MiB"]),
        (["plan", "config.yaml", "--memory", "1MiB"], ["does not fit", "1 MiB"]),
        (["run", "config.yaml", "--out", "out", "--device", "tpu"], ["unknown device 'tpu'", "auto, cpu, cuda"]),
        (["run", "config.yaml", "--out", "out", "--device", "cuda"], ["--device cuda", "--device cpu"]),
        (["run", "config.yaml", "--out", "out", "--seed", "99999999999"], ["--seed", "4294967296"]),
        (["run", "config.yaml", "--out", "x" * 300], ["File name too long"]),
        (["run", "config.yaml"], ["--out"]),
        (["run", "config.yaml", "--out", "out", "--seed", "x"], ["--seed"]),
        (["fly"], ["fly"]),
        (["run", "config.yaml", "--out", "out", "--fast"], ["--fast"]),
        (["status", "nowhere"], ["holds no run"]),
    ],
)
def test_bad_arguments(place, arguments, words):
    one_line(toolkit(*arguments, cwd=place), *words)
    assert not list(place.glob("out/*"))


def test_bad_config(place):
    write(place, scalers=["norm"])
    one_line(toolkit("run", "config.yaml", "--out", "out", cwd=place), "unknown key scalers", "descriptors, stages")
    assert not (place / "out").exists()


def test_not_finite_rows_with_and_without_strict(place, blobs):
    X = blobs[0].copy()
    X[4] = np.nan
    np.save(place / "descriptors" / "a.npy", X)
    one_line(toolkit("run", "config.yaml", "--out", "strict", "--strict", cwd=place), "1 rows hold NaN", "row 4")
    done = toolkit("run", "config.yaml", "--out", "out", "--no-report", cwd=place)
    assert done.returncode == 0
    assert "quarantine.csv" in done.stderr
    assert "a,4,4.jpg" in (place / "out" / "quarantine.csv").read_text()


def test_a_disk_that_is_full(place):
    """The limit on the size of a file stands in for the disk: writing fails in the same place, as another number."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    one_line(toolkit("run", "config.yaml", "--out", "out", cwd=place, preexec_fn=limit), "cannot write", "same command")
    assert not list(place.rglob("out/**/.unfinished-*"))
    assert toolkit("run", "config.yaml", "--out", "out", "--no-report", cwd=place).returncode == 0


def test_interrupted(place):
    code = (
        "import toolkit.grid.fitter as fitter, toolkit.cli as cli, sys\n"
        "def stop(*a, **k): raise KeyboardInterrupt\n"
        "fitter.fit_and_score = stop\n"
        "sys.argv = ['toolkit', 'run', 'config.yaml', '--out', 'out']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "error: stopped; the same command goes on where it stopped"


def test_debug_shows_the_traceback(place):
    done = toolkit("run", "nowhere.yaml", "--out", "out", "--debug", cwd=place)
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert done.returncode == 2


def test_import_is_fast_and_touches_no_device():
    code = (
        "import time; t = time.perf_counter(); import toolkit; t = time.perf_counter() - t\n"
        "import sys; print(t, [m for m in ('torch', 'cupy', 'sklearn', 'numpy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, loaded = done.stdout.split(maxsplit=1)
    assert loaded.strip() == "[]"
    assert float(seconds) < 0.3  # the one promise about time that users see at every start


def test_public_names():
    import toolkit as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="DataKeeper"):
        _ = package.nothing


def test_examples_in_the_readme_are_real():
    """Every toolkit verb and make target that the README names exists."""
    root = Path(__file__).parent.parent
    text = (root / "README.md").read_text()
    makefile = (root / "Makefile").read_text()
    for word in {part.split()[1] for part in text.split("`") if part.startswith("make ") and len(part.split()) > 1}:
        assert f"\n{word}:" in makefile, word


GRIDS = {"DBSCAN": {"eps": [0.03, 0.05, 0.07, 0.1, 0.2], "min_samples": [8]}, "KMeans": {"n_clusters": [4]}}


def test_outliers_and_duplicates(place):
    write(place, stages=[STAGE | {"grid": GRIDS}])
    done = toolkit("outliers", "config.yaml", "--out", "out", "--seed", "5", "--number", "12", "--quiet", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    table = pd.read_csv(place / "out" / "outliers.csv")
    assert table["is_outlier"].sum() == 12
    done = toolkit(
        "outliers", "out", "--contamination", "0.1", "--detector", "lof", "--detector", "pyod.ECOD", cwd=place
    )
    assert done.returncode == 0, done.stderr
    assert "outliers   60 of 600 rows (10 %), by a contamination of 10 %: score " in done.stdout
    assert [c for c in pd.read_csv(place / "out" / "outliers.csv") if c.startswith("a_")][2:] == [
        "a_lof",
        "a_pyod.ECOD",
    ]
    done = toolkit("outliers", "out", "--threshold", "2.5", cwd=place)
    table = pd.read_csv(place / "out" / "outliers.csv")
    assert (table["is_outlier"] == (table["score"] >= 2.5)).all()
    done = toolkit("duplicates", "out", "--within", "0.01", "--descriptor", "a", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a: within 0.01 (norm scaled; the usual distance")
    assert set(pd.read_csv(place / "out" / "duplicates.csv")["descriptor"]) <= {"a"}


def test_noise_verbs(place):
    write(place, stages=[STAGE | {"grid": GRIDS}])
    assert toolkit("run", "config.yaml", "--out", "out", "--no-report", cwd=place).returncode == 0
    scores = pd.read_csv(place / "out" / "s_scores.csv")
    noisy = scores.loc[
        (scores["cluster_class"] == "DBSCAN") & (scores["n_noise"] > 20) & (scores["n_clusters"] > 1), "model"
    ].iloc[0]
    done = toolkit("reassign", "out", "--model", noisy, "--min-confidence", "0.4", cwd=place)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(place / "out" / "reassigned.csv").iloc[:, 1:]
    assert ((table.iloc[:, 1] < 0) == (table.iloc[:, 3] < 0.4)).all()
    (place / "grid.yaml").write_text("grid: {KMeans: {n_clusters: [2, 3]}}\nbest: {max_largest_share: 1.0}\n")
    done = toolkit("recluster", "out", "grid.yaml", "--model", noisy, cwd=place)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(place / "out" / "recluster_scores.csv")) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["outliers", "nothing.yaml", "--out", "out"], ["nothing.yaml does not exist"]),
        (["outliers", "config.yaml"], ["is a configuration; --out says"]),
        (["outliers", "config.yaml", "--out", "out", "--detector", "lov"], ["unknown detector 'lov'; known: all, "]),
        (["outliers", "descriptors", "--out", "out"], ["--out is for a configuration"]),
        (["outliers", "descriptors", "--seed", "3"], ["--seed is for a configuration"]),
        (["outliers", "descriptors"], ["holds no run"]),
        (["outliers", "descriptors", "--number", "3", "--threshold", "2"], ["number and threshold are given"]),
        (["outliers", "descriptors", "--contamination", "nan"], ["contamination is nan; allowed"]),
        (["duplicates", "descriptors"], ["holds no run"]),
        (["reassign", "descriptors"], ["holds no run"]),
        (["recluster", "descriptors", "none.yaml"], ["holds no run"]),
    ],
)
def test_what_is_wrong_with_outliers(place, arguments, words):
    one_line(toolkit(*arguments, cwd=place), *words)
    assert not (place / "out").exists()
