"""Work on many images in chunks, by several processes; each chunk is kept as soon as it is finished.

A killed job goes on with the chunks that are missing, and ends with the same files as one that was not.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from toolkit.atomic import atomic_folder, remove_unfinished, write_text
from toolkit.descriptors.cache import digest, save_arrays
from toolkit.errors import InputError, ToolkitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from toolkit.progress import Reporter

    Work = Callable[[range], "Part"]

CHUNK = 64  # items
_FOLDER, _JOB = ".parts", "job.json"


class Part(NamedTuple):
    """What was found in a chunk: lines of a table, as JSON can write them, and an array that belongs to them."""

    lines: list[dict[str, Any]]
    array: np.ndarray | None = None


class WorkerDiedError(ToolkitError):
    """A process of the job was killed, or crashed."""


class Chunks:
    """The chunks of a job, in a folder of its own inside the folder of the results.

    Parameters
    ----------
    folder : Path
        Of the results; made if it is missing.
    identity : JSON-ready
        What decides the results beside the code: the items and the options.
    n_items : int
    reporter : Reporter

    Raises
    ------
    InputError
        If the folder holds finished chunks of another job.
    """

    def __init__(self, folder: Path, identity: Any, n_items: int, *, reporter: Reporter) -> None:
        self.folder, self.n_items, self.reporter = folder / _FOLDER, n_items, reporter
        self.ranges = [range(start, min(start + CHUNK, n_items)) for start in range(0, n_items, CHUNK)]
        key = digest(identity, n_items, CHUNK)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.folder)
        job = self.folder / _JOB
        is_other = job.exists() and json.loads(job.read_text()) != {"job": key}
        if is_other and not has_chunks(folder):  # a start that failed
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            is_other = False
        if not job.exists():
            write_text(job, json.dumps({"job": key}))
        elif is_other:
            raise InputError(
                f"{folder} holds unfinished work of other images or options; run that command again, or give another "
                f"folder, or remove {self.folder}"
            )

    def run(self, title: str, make: Callable[[], Work], *, workers: int) -> None:
        """Work on the chunks that are missing.

        Parameters
        ----------
        title : str
            For the progress.
        make : callable
            Makes, once in each process, what turns a range of items into a `Part`; it can be pickled.
        workers : int
            Processes; 0 works in this one.

        Raises
        ------
        WorkerDiedError
            If a process dies; what is finished is kept.
        """
        missing = [chunk for chunk in self.ranges if not self._path(chunk).exists()]
        with self.reporter.track(title, sum(map(len, missing))) as task:
            for chunk, part in _here(make, missing) if workers == 0 else _elsewhere(make, missing, workers):
                self._keep(chunk, part)
                task.advance(len(chunk))

    def parts(self) -> Iterator[Part]:
        """Yield all parts in the order of the items."""
        for chunk in self.ranges:
            path = self._path(chunk)
            array = path / "array.npy"
            yield Part(
                json.loads((path / "lines.json").read_text(encoding="utf-8")),
                np.load(array, allow_pickle=False) if array.exists() else None,
            )

    def remove(self) -> None:
        """Remove the chunks, once what is made of them is written."""
        shutil.rmtree(self.folder)

    def _path(self, chunk: range) -> Path:
        return self.folder / f"{chunk.start:09}"

    def _keep(self, chunk: range, part: Part) -> None:
        with atomic_folder(self._path(chunk)) as folder:
            write_text(folder / "lines.json", json.dumps(part.lines))
            if part.array is not None:
                save_arrays(folder, array=part.array)


def has_chunks(folder: Path) -> bool:
    """Whether an unfinished job has kept chunks in the folder of its results."""
    return any((folder / _FOLDER).glob("[0-9]*"))


def _here(make: Callable[[], Work], chunks: list[range]) -> Iterator[tuple[range, Part]]:
    if chunks:
        work = make()
        yield from ((chunk, work(chunk)) for chunk in chunks)


def _elsewhere(make: Callable[[], Work], chunks: list[range], workers: int) -> Iterator[tuple[range, Part]]:
    """Yield the parts as they are finished; as many chunks as workers wait beside those that are worked on."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks of threads that it has not
    left = iter(chunks)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(make,)) as pool:
        pending: dict[Future[Part], range] = {}
        try:
            while True:
                while len(pending) < 2 * workers and (chunk := next(left, None)) is not None:
                    pending[pool.submit(_continue, chunk)] = chunk
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending[future], future.result()
                    del pending[future]
        except BrokenProcessPool as error:
            raise WorkerDiedError(
                "a process of the job died, perhaps for lack of memory; the same command goes on, with less --memory "
                "by fewer processes"
            ) from error
        except BaseException:
            for process in list(pool._processes.values()):  # what they do is not kept, and would be waited for
                process.terminate()
            raise


_work: Work | None = None  # of a process of the pool


def _begin(make: Callable[[], Work]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends its children
    os.environ["OMP_NUM_THREADS"] = "1"  # of what is imported from here on: the processes share the processors already
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _work
    _work = make()


def _end_with_parent() -> None:
    """End this process when its parent has been killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _continue(chunk: range) -> Part:
    if _work is None:
        raise AssertionError("the process has not begun")
    return _work(chunk)
