"""Runs as jobs of a real Slurm, against the same run in one process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from slurm_cluster import Cluster, require_packages, wait_for

from toolkit.config import parse_config
from toolkit.distribute import slurm
from toolkit.distribute.shards import Shard, deal, read_record, run_shard, units_of, write_record
from toolkit.distribute.states import shard_states
from toolkit.distribute.submission import _ranges, read_submission
from toolkit.distribute.submit import plan_submission, scripts_text, submit_run
from toolkit.errors import InputError
from toolkit.grid.fitter import open_loader
from toolkit.grid.plan import stage_cells
from toolkit.memory import MemoryBudget
from toolkit.progress import Reporter

GRID = {
    "KMeans": {"n_clusters": [2, 3, 4, 5]},
    "DBSCAN": {"eps": [0.5, 1, 2], "min_samples": [4, 8]},
    "HDBSCAN": {"min_cluster_size": [8, 16]},
}
CONFIG = {
    "descriptors": {"folder": "descriptors"},
    "stages": [
        {"name": "first", "n_components": 4, "scalers": ["norm", "std"], "grid": GRID},
        {"name": "second", "refine": {"top": 1}},
    ],
    "best": {"by": "calinski_harabasz_score", "min_coverage": 0.0},
}
SECONDS = ["fit_seconds", "score_seconds"]
TOOLKIT = [sys.executable, "-m", "toolkit"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with two descriptors and a configuration, which is the current one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("descriptors").mkdir()
    for name, n_groups in (("a", 4), ("b", 6)):
        centres = rng.normal(scale=6, size=(n_groups, 6))
        X = centres[rng.integers(n_groups, size=600)] + rng.normal(size=(600, 6))
        np.save(f"descriptors/{name}.npy", X.astype(np.float32))
    Path("grid.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return tmp_path


@pytest.fixture(scope="module")
def cluster():
    require_packages()
    made = Cluster()
    yield made
    made.stop()


@pytest.fixture
def on_cluster(cluster, monkeypatch):
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.environment[name])
    return cluster


def toolkit(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOOLKIT, *arguments], capture_output=True, text=True, check=check)


def submit(out: str, *more: str) -> None:
    toolkit("submit", "grid.yaml", "--out", out, "--slurm", "--no-report", "--device", "cpu", "--memory", "2GiB", *more)


def is_complete(out: str) -> bool:
    return '"state": "complete"' in Path(out, "run.json").read_text()


def assert_equal_runs(out: str) -> None:
    """Compare with the same run in one process; no model may be there twice."""
    toolkit("run", "grid.yaml", "--out", "alone", "--no-report", "--device", "cpu", "--memory", "2GiB", "--quiet")
    for name in ("first", "second"):
        one, other = (pd.read_csv(Path(where, f"{name}_scores.csv")).drop(columns=SECONDS) for where in (out, "alone"))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    for name in ("best_clusterization.csv", "train_assignments.json", "cluster_centers.npy"):
        assert Path(out, name).read_bytes() == Path("alone", name).read_bytes()
    models = [name for path in Path(out, "models").glob("*.parquet") for name in pq.read_schema(path).names]
    assert len(models) == len(set(models)) > 0


def processes_of(*words: str) -> list[psutil.Process]:
    """Return the processes of shards whose command holds all words."""
    found = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"]]
    return [p for p in found if "shard" in p.info["cmdline"] and all(word in p.info["cmdline"] for word in words)]


def child_of_task(work: Path, stage: str, task: int) -> psutil.Process | None:
    """Return the process that fits a shard, once it works."""
    words = (str(work / "out"), stage, "--task", str(task), "toolkit")
    working = [p for p in processes_of(*words) if "toolkit.distribute.supervisor" not in p.info["cmdline"]]
    return working[0] if working else None


# Without Slurm
def test_the_script_to_the_letter():
    text = slurm.script(
        name="toolkit-first",
        log=Path("/data/run/slurm/logs/first-%A_%a.log"),
        work=Path("/home/me/my work"),
        probe=slurm.Probe(Path("/data/run"), Path("/data/run/slurm/probe"), "abc", "/opt/python"),
        command=["/opt/python", "-m", "toolkit", "shard", "/data/run", "first", "--task", "{task}"],
        mark=Path("/data/run/shards/first-{task}.killed"),
        memory="8GiB",
        resources=slurm.Resources("gpu", "gpu:1", "01:00:00", "16G", 4, "lab", "high", ("--constraint=a100",)),
        array="0-3",
        offset=1000,
    )
    assert text == (
        "#!/bin/bash\n"
        "#SBATCH --job-name=toolkit-first\n"
        "#SBATCH --output=/data/run/slurm/logs/first-%A_%a.log\n"
        "#SBATCH --open-mode=append\n"
        '#SBATCH --chdir="/home/me/my work"\n'
        "#SBATCH --requeue\n"
        "#SBATCH --signal=B:USR1@120\n"
        "#SBATCH --array=0-3\n"
        "#SBATCH --partition=gpu\n"
        "#SBATCH --account=lab\n"
        "#SBATCH --qos=high\n"
        "#SBATCH --time=01:00:00\n"
        "#SBATCH --cpus-per-task=4\n"
        "#SBATCH --mem=16G\n"
        "#SBATCH --gres=gpu:1\n"
        "#SBATCH --constraint=a100\n"
        'if [ "$(cat /data/run/slurm/probe 2>/dev/null)" != abc ]; then\n'
        "  echo \"error: $(hostname)\" 'does not see the files of /data/run; give --out a folder that all nodes share' "
        ">&2\n"
        "  exit 1\n"
        "fi\n"
        'if ! /opt/python -c "import toolkit" 2>/dev/null; then\n'
        '  echo "error: $(hostname)" \'cannot import toolkit with /opt/python; install it there, or submit from an '
        "environment that all nodes share' >&2\n"
        "  exit 1\n"
        "fi\n"
        "exec /opt/python -m toolkit.distribute.supervisor '--mark=/data/run/shards/first-{task}.killed' --offset=1000 "
        "--memory=8GiB -- /opt/python -m toolkit shard /data/run first --task '{task}'\n"
    )


@pytest.mark.parametrize(
    ("numbers", "text"), [([0], "0"), ([0, 1, 2], "0-2"), ([5, 0, 2, 3], "0,2-3,5"), ([], ""), ([7, 9], "7,9")]
)
def test_numbers_as_slurm_writes_them(numbers, text):
    assert _ranges(numbers) == text


def test_units_share_nothing_and_leave_nothing_out(work):
    config = parse_config(CONFIG)
    loader = open_loader(config, MemoryBudget.resolve())
    cells = stage_cells(config.stages[0], loader.names, config.seed)
    units = units_of(cells, config)
    assert sorted(map(repr, (cell for unit in units for cell in unit.cells))) == sorted(map(repr, cells))
    kinds = {(u.sample, u.scaler, u.cells[0].cluster_class == "KMeans") for u in units}
    assert len(kinds) == len(units) == 8
    for n_tasks in (1, 3, 8, 11):
        dealt = deal(units, n_tasks, config, loader)
        assert len(dealt) == n_tasks
        assert sorted(map(repr, (unit for task in dealt for unit in task))) == sorted(map(repr, units))
        assert dealt == deal(units, n_tasks, config, loader)
        assert max(map(len, dealt)) - min(map(len, dealt)) <= max(2, len(units) // n_tasks)


def test_arrays_larger_than_the_cluster_allows_are_cut(work):
    how = {"resources": slurm.Resources(), "device": "cpu", "memory": None}
    text = scripts_text(plan_submission(parse_config(CONFIG), Path("out"), most_tasks=3, **how))
    assert [line for line in text.splitlines() if "--array" in line] == 2 * [
        "#SBATCH --array=0-2",
        "#SBATCH --array=0-2",
        "#SBATCH --array=0-1",
    ]
    assert [text.count(f"--offset={start} ") for start in (0, 3, 6)] == [3, 2, 2]  # the last job has none either
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("token", r"error: .* does not see the files of .*; give --out a folder that all nodes share"),
        ("python", r"error: .* cannot import toolkit with .*nothing; install it there, or submit from"),
    ],
)
def test_a_node_that_cannot_work_says_why(work, change, message):
    (work / "probe").write_text("abc\n")
    (work / "nothing").write_text("#!/bin/sh\nexit 1\n")
    (work / "nothing").chmod(0o755)
    python = str(work / "nothing") if change == "python" else sys.executable
    probe = slurm.Probe(work, work / "probe", "other" if change == "token" else "abc", python)
    text = slurm.script(
        name="a", log=work, work=work, probe=probe, command=["true"], mark=work, memory=None,
        resources=slurm.Resources(),
    )  # fmt: skip
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert pd.Series([done.stderr.strip()]).str.fullmatch(message + ".*").all(), done.stderr


def test_without_slurm_it_is_said(work, monkeypatch):
    monkeypatch.setenv("PATH", str(work))
    config = parse_config(CONFIG)
    made = plan_submission(config, Path("out"), resources=slurm.Resources(), device="cpu", memory=None)
    with pytest.raises(InputError, match="sbatch is not on the path, so there is no Slurm here; submit from a login"):
        submit_run(made, config, reporter=Reporter(quiet=True))
    assert not Path("out").exists()
    for verb in ("resume", "cancel"):
        done = toolkit(verb, "out", check=False)
        assert done.returncode == 2
        assert "sbatch is not on the path" in done.stderr
    assert "submit where? add --slurm" in toolkit("submit", "grid.yaml", "--out", "out", check=False).stderr


def test_records_that_are_damaged_count_as_missing(tmp_path):
    path = tmp_path / "a.json"
    write_record(path, {"state": "done"})
    assert read_record(path) == {"state": "done"}
    path.write_text(path.read_text().replace("done", "gone"))
    assert read_record(path) == {}
    path.write_text("{")
    assert read_record(path) == {}


def test_a_stop_is_no_failure_of_a_model(work):
    """It comes in the middle of a cut; engines make what is wrong with a model its own error."""
    out = work / "out"
    (out / "slurm").mkdir(parents=True)
    shutil.copy("grid.yaml", out / "slurm" / "config.yaml")
    code = (
        "import os, signal\n"
        "from toolkit.cluster.density import DensityForest\n"
        "def told(*arguments, **more):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    signal.sigtimedwait([], 5)\n"
        "DensityForest.hdbscan = told\n"
        "from toolkit.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "shard", str(out), "first", "--task", "0", "--tasks", "1", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 75, done.stderr
    record = read_record(out / "shards" / "first-0.json")
    assert (record["state"], record["errors"]) == ("stopped", {})
    assert "it was told to end" in done.stderr


def test_a_refused_submission_can_be_made_again(work, on_cluster):
    refused = toolkit("submit", "grid.yaml", "--out", "out", "--slurm", "--partition", "nowhere", check=False)
    assert refused.returncode == 2
    submit("out", "--array-size", "1")
    toolkit("cancel", "out")


def test_two_attempts_without_a_model_end_at_the_time_limit(work):
    """The process is told to stop as soon as it listens, so it finishes nothing."""
    out = work / "out"
    (out / "slurm").mkdir(parents=True)
    shutil.copy("grid.yaml", out / "slurm" / "config.yaml")
    code = (
        "import os, signal, sys, threading\n"
        "from toolkit.distribute import shards\n"
        "inner = shards._fit\n"
        "def told(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    signal.pause()\n"
        "shards._fit = told\n"
        "from toolkit.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "shard", str(out), "first", "--task", "0", "--tasks", "2", "--device", "cpu"]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(2))
    assert (first.returncode, second.returncode) == (75, 1)
    assert "2 attempts in a row ended at the time limit before any model was finished; submit with a" in second.stderr
    assert read_record(out / "shards" / "first-0.json")["state"] == "failed"


def test_a_stage_waits_for_the_one_before(work):
    out = work / "out"
    (out / "slurm").mkdir(parents=True)
    shutil.copy("grid.yaml", out / "slurm" / "config.yaml")
    from toolkit.backend.cpu import CpuBackend

    how = {"memory": MemoryBudget.resolve("4GiB"), "backend": CpuBackend(), "reporter": Reporter(quiet=True)}
    with pytest.raises(InputError, match="stage second needs stage first, of which 48 of 48 models are missing"):
        run_shard(out, Shard("second", 0, 1), **how)
    with pytest.raises(InputError, match="unknown stage 'third'; known: first, second"):
        run_shard(out, Shard("third", 0, 1), **how)


# With Slurm
def test_killed_requeued_out_of_time_and_without_a_controller(work, on_cluster):
    submit("out", "--array-size", "4")
    jobs = read_submission(Path("out")).jobs

    def working(task: int):
        wait_for(lambda: child_of_task(work, "first", task), seconds=60)
        return child_of_task(work, "first", task)

    working(0).kill()
    working(1)
    on_cluster.ask("scontrol", "requeue", f"{jobs[0]}_1")
    process = working(2)
    wait_for(lambda: Path("out/shards/first-2.json").exists(), seconds=60)  # it listens soon after
    on_cluster.ask("scancel", "--batch", "--signal=USR1", f"{jobs[0]}_2")
    on_cluster.stop_controller()
    process.wait(60)
    on_cluster.start_controller()
    wait_for(lambda: is_complete("out"), seconds=240)
    assert_equal_runs("out")
    logs = {path.name: path.read_text() for path in Path("out/slurm/logs").iterdir()}
    assert "killed, perhaps for lack of memory: once more with half of it" in logs[f"first-{jobs[0]}_0.log"]
    assert "0 fitted now" in logs[f"finish-{jobs[-1]}.log"]
    states = shard_states(read_submission(Path("out")))
    assert {state.state for state in states} == {"done"}
    text = toolkit("status", "out").stdout
    assert text.count(" done ") >= 8
    assert "lost" not in text


def test_cancelled_and_resumed(work, on_cluster):
    submit("out", "--array-size", "2")
    wait_for(lambda: child_of_task(work, "first", 0), seconds=60)
    assert "tasks cancelled; `toolkit resume out` goes on" in toolkit("cancel", "out").stdout
    wait_for(lambda: not on_cluster.ask("squeue", "-h").strip(), seconds=60)
    text = toolkit("status", "out").stdout
    assert "CANCELLED" in text
    assert "5 of 5 tasks are lost; `toolkit resume" in text
    assert "4 tasks submitted again" in toolkit("resume", "out").stdout
    again = toolkit("submit", "grid.yaml", "--out", "out", "--slurm", check=False)
    assert again.returncode == 2
    assert "has been submitted" in again.stderr
    wait_for(lambda: is_complete("out"), seconds=240)
    assert_equal_runs("out")
    assert "0 tasks submitted again" in toolkit("resume", "out").stdout


def test_killed_twice_is_reported(work, on_cluster):
    submit("out", "--array-size", "1")
    record = Path("out/shards/first-0.json")
    for attempt in (1, 2):
        wait_for(lambda n=attempt: read_record(record).get("attempts") == n, seconds=90)
        child_of_task(work, "first", 0).send_signal(signal.SIGKILL)
    wait_for(lambda: "lost" in toolkit("status", "out").stdout, seconds=60)
    line = [line for line in toolkit("status", "out").stdout.splitlines() if line.startswith("first ")][-1]
    assert "FAILED" in line
    assert "killed again, with half of the memory; submit with more --mem" in line
    toolkit("cancel", "out")


def test_what_slurm_refuses_is_one_line(work, on_cluster):
    done = toolkit("submit", "grid.yaml", "--out", "out", "--slurm", "--partition", "nowhere", check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: sbatch refused: ")
    assert "invalid partition specified: nowhere" in done.stderr


def test_small_arrays_on_a_real_cluster(work, on_cluster):
    config = parse_config(CONFIG)
    made = plan_submission(
        config, Path("out"), resources=slurm.Resources(), device="cpu", memory="8GiB", array_size=3, most_tasks=2,
        report=False,
    )  # fmt: skip
    submit_run(made, config, reporter=Reporter(quiet=True))
    assert [len(arrays) for arrays in made.arrays.values()] == [2, 2, 1]
    wait_for(lambda: is_complete("out"), seconds=240)
    assert_equal_runs("out")


def test_the_recipe_of_faces(work, on_cluster):
    """A job that is told that its time is over goes on after a requeue."""
    skimage_data = pytest.importorskip("skimage.data")
    pytest.importorskip("dlib")
    from PIL import Image

    (work / "photographs").mkdir()
    for i in range(3):
        Image.fromarray(skimage_data.astronaut()).save(work / "photographs" / f"{i}.png")
    recipe = Path(__file__).parents[1] / "jobs" / "slurm_faces.sh"
    job = subprocess.run(
        ["sbatch", "--parsable", "--mem=0", "--cpus-per-task=1", str(recipe), "photographs", "out"],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHON": sys.executable},
    ).stdout.strip()  # fmt: skip
    log = work / f"toolkit-faces-{job}.log"

    def is_detecting() -> bool:
        commands = [p.info["cmdline"] or () for p in psutil.process_iter(["cmdline"])]
        return any("detect" in one and "toolkit.distribute.supervisor" not in one for one in commands)

    wait_for(is_detecting, seconds=60)
    on_cluster.ask("scancel", "--signal=USR1", job)
    wait_for(lambda: (work / "out/descriptors/dlib.json").exists(), seconds=120)
    wait_for(lambda: not on_cluster.ask("squeue", "-h").strip(), seconds=60)
    assert np.load(work / "out/descriptors/dlib.npy").shape == (3, 128)
    assert "its time is over: it goes on after a requeue" in log.read_text()


def test_the_recipe_of_a_grid(work, on_cluster):
    recipe = Path(__file__).parents[1] / "jobs" / "slurm_grid.sh"
    command = [
        "bash",
        str(recipe),
        "grid.yaml",
        "out",
        "--array-size",
        "2",
        "--device",
        "cpu",
        "--memory",
        "2GiB",
        "--no-report",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHON": sys.executable}
    )
    assert "submitted  jobs" in done.stdout
    wait_for(lambda: is_complete("out"), seconds=240)
    assert_equal_runs("out")
