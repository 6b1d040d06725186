"""Work in chunks by several processes: resumed it ends as uninterrupted, and another job's work is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from toolkit.errors import InputError
from toolkit.images import chunks as room
from toolkit.images.chunks import Chunks, Part, WorkerDiedError, has_chunks
from toolkit.progress import Reporter

QUIET = Reporter(quiet=True)


class Squares:
    """Made in each process: turns items into their squares."""

    def __init__(self, fails_at: int | None = None, log: str | None = None) -> None:
        self.fails_at, self.log = fails_at, log

    def __call__(self):
        return self.work

    def work(self, items: range) -> Part:
        if self.fails_at in items:
            raise ValueError("no")
        if self.log is not None:
            with Path(self.log).open("a") as file:
                file.write(f"{items.start}\n")
        return Part([{"item": item, "name": f"é{item}"} for item in items], np.array(items)[:, None] ** 2)


class Killed(Squares):
    """A process of it is killed."""

    def work(self, items: range) -> Part:
        if 70 in items:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().work(items)


def result(chunks):
    parts = list(chunks.parts())
    lines = [line for part in parts for line in part.lines]
    return lines, np.concatenate([part.array for part in parts])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_all_items_in_their_order(tmp_path, workers):
    chunks = Chunks(tmp_path / "out", ["squares"], 200, reporter=QUIET)
    chunks.run("squares", Squares(), workers=workers)
    lines, array = result(chunks)
    assert [line["item"] for line in lines] == list(range(200))
    assert lines[3]["name"] == "é3"
    np.testing.assert_array_equal(array[:, 0], np.arange(200) ** 2)
    chunks.remove()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_finished_is_not_done_again(tmp_path, workers):
    log = tmp_path / "log"
    first = Chunks(tmp_path / "out", ["squares"], 300, reporter=QUIET)
    with pytest.raises(ValueError, match="no"):
        first.run("squares", Squares(fails_at=200, log=str(log)), workers=workers)
    again = Chunks(tmp_path / "out", ["squares"], 300, reporter=QUIET)
    kept = {int(path.name) for path in again.folder.iterdir() if path.is_dir()}
    assert {0, 64, 128} >= kept - {256} >= {0}
    log.unlink()
    again.run("squares", Squares(log=str(log)), workers=workers)
    assert sorted(map(int, log.read_text().split())) == sorted(set(range(0, 300, 64)) - kept)
    np.testing.assert_array_equal(result(again)[1][:, 0], np.arange(300) ** 2)


def test_a_process_that_is_killed_costs_its_chunk(tmp_path):
    chunks = Chunks(tmp_path / "out", ["squares"], 150, reporter=QUIET)
    with pytest.raises(
        WorkerDiedError, match="a process of the job died, perhaps for lack of memory; the same command"
    ):
        chunks.run("squares", Killed(), workers=1)
    chunks.run("squares", Squares(), workers=1)
    np.testing.assert_array_equal(result(chunks)[1][:, 0], np.arange(150) ** 2)


class Slow(Squares):
    """Tells its process, and takes long."""

    def work(self, items: range) -> Part:
        with Path(self.log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(60)
        return super().work(items)


class SlowAtTheEnd(Slow):
    """The first chunk is finished at once."""

    def work(self, items: range) -> Part:
        return super().work(items) if items.start else Squares.work(self, items)


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    code = (
        "from pathlib import Path; from toolkit.images.chunks import Chunks; from toolkit.progress import Reporter; "
        "from tests.test_chunks import Slow; import sys; "
        "Chunks(Path(sys.argv[1]), [], 200, reporter=Reporter(quiet=True)).run('x', Slow(log=sys.argv[2]), workers=2)"
    )
    log = tmp_path / "log"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out"), str(log)], cwd=Path(__file__).parents[1]
    )
    started = time.monotonic()
    while not log.exists() or len(log.read_text().split()) < 2:
        assert time.monotonic() - started < 60
        time.sleep(0.1)
    children = [int(pid) for pid in log.read_text().split()]
    parent.kill()
    parent.wait()
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in children):
        assert time.monotonic() - started < 60
        time.sleep(0.1)


@pytest.mark.parametrize("stops", ["work", "keeping"])
def test_what_is_not_kept_is_not_waited_for(tmp_path, monkeypatch, stops):
    log = tmp_path / "log"
    chunks = Chunks(tmp_path / "out", [], 200, reporter=QUIET)
    if stops == "work":
        wait = room.wait

        def interrupted(*options, **named):
            while not log.exists():
                wait(*options, timeout=0.1, **named)
            raise KeyboardInterrupt

        monkeypatch.setattr(room, "wait", interrupted)
        make, error = Slow(log=str(log)), KeyboardInterrupt
    else:  # a full disk: the second process is still at work
        monkeypatch.setattr(room, "save_arrays", lambda *_, **__: (_ for _ in ()).throw(OSError("disk")))
        make, error = SlowAtTheEnd(log=str(log)), OSError
    started = time.monotonic()
    with pytest.raises(error):
        chunks.run("x", make, workers=2)
    assert time.monotonic() - started < 50, "it waits for the minute that the work takes"


def test_a_chunk_that_was_not_finished_is_no_chunk(tmp_path, monkeypatch):
    chunks = Chunks(tmp_path / "out", ["squares"], 100, reporter=QUIET)
    monkeypatch.setattr(room, "save_arrays", lambda *_, **__: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        chunks.run("squares", Squares(), workers=0)
    assert [path.name for path in chunks.folder.iterdir()] == ["job.json"]


def test_work_of_another_job_is_refused(tmp_path):
    Chunks(tmp_path / "out", ["squares", 0], 100, reporter=QUIET)  # nothing is kept of it
    chunks = Chunks(tmp_path / "out", ["squares", 1], 100, reporter=QUIET)
    assert not has_chunks(tmp_path / "out")
    chunks.run("squares", Squares(), workers=0)
    assert has_chunks(tmp_path / "out")
    for identity, n_items in ((["squares", 2], 100), (["squares", 1], 101)):
        with pytest.raises(InputError, match="holds unfinished work of other images or options; run that command"):
            Chunks(tmp_path / "out", identity, n_items, reporter=QUIET)


def test_no_items(tmp_path):
    chunks = Chunks(tmp_path / "out", [], 0, reporter=QUIET)
    chunks.run("nothing", Squares(), workers=2)
    assert list(chunks.parts()) == []
