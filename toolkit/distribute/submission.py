"""What of a run is asked of Slurm: its tasks, and the scripts of its jobs.

A run is an array of shards for each stage, one after the other, then `toolkit run`, which finds all models finished
and writes tables, the best labelling and the report.
"""

from __future__ import annotations

import json
import secrets
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.atomic import write_text
from toolkit.distribute import slurm
from toolkit.distribute.shards import CONFIG, SHARDS
from toolkit.distribute.supervisor import TASK
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBMISSION = "submission.json"
FINISH = "finish"  # of the last job; no stage may be called so


@dataclass(frozen=True)
class Array:
    """Tasks of a stage that were submitted together.

    Attributes
    ----------
    job : str
        The number of their job.
    offset : int
        Of their numbers to those in the array.
    """

    job: str
    offset: int


@dataclass
class Submission:
    """What was asked of Slurm for a run, kept in its folder.

    Attributes
    ----------
    folder, work : Path
        Of the run, and where its jobs run; absolute.
    n_tasks : dict of str to int
        Stage -> tasks.
    resources : Resources
    device, memory : str, str or None
    report : bool
        Whether the last job draws the report.
    strict : bool
    token : str
        See `Probe`.
    python : str
    most_tasks : int
        Of one array.
    arrays : dict of str to list of Array
        Stage, or `FINISH`, -> what was submitted of it, the newest last.
    """

    folder: Path
    work: Path
    n_tasks: dict[str, int]
    resources: slurm.Resources
    device: str
    memory: str | None
    report: bool
    strict: bool
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    python: str = sys.executable
    most_tasks: int = slurm.MOST_TASKS
    arrays: dict[str, list[Array]] = field(default_factory=dict)

    @property
    def inside(self) -> Path:
        """Where scripts, logs and this record are."""
        return self.folder / "slurm"

    @property
    def jobs(self) -> list[str]:
        """The numbers of all jobs."""
        return [array.job for arrays in self.arrays.values() for array in arrays]

    def save(self) -> None:
        """Keep it in the folder."""
        content = asdict(self) | {"folder": str(self.folder), "work": str(self.work)}
        write_text(self.inside / SUBMISSION, json.dumps(content, indent=1) + "\n")

    # Scripts
    def shards_script(self, stage: str, tasks: Sequence[int], offset: int) -> str:
        """Return the script of an array of shards; `tasks` are counted from the offset."""
        command = [self.python, "-m", "toolkit", "shard", str(self.folder), stage]
        command += ["--task", TASK, "--tasks", str(self.n_tasks[stage]), *self._common(), "--grace", str(slurm.GRACE)]
        mark = self.folder / SHARDS / f"{stage}-{TASK}.killed"
        return self._script(stage, "%A_%a", command, mark, array=_ranges(tasks), offset=offset)

    def finish_script(self) -> str:
        """Return the script of the last job."""
        command = [self.python, "-m", "toolkit", "run", str(self.inside / CONFIG), "--out", str(self.folder)]
        command += self._common() + ([] if self.report else ["--no-report"])
        return self._script(FINISH, "%j", command, self.folder / SHARDS / f"{FINISH}.killed")

    def _common(self) -> list[str]:
        return ["--device", self.device, *(["--strict"] if self.strict else [])]

    def _script(self, name: str, number: str, command: list[str], mark: Path, **more: Any) -> str:
        return slurm.script(
            name=f"toolkit-{name}",
            log=self.inside / "logs" / f"{name}-{number}.log",
            work=self.work,
            probe=slurm.Probe(self.folder, self.inside / "probe", self.token, self.python),
            command=command,
            mark=mark,
            memory=self.memory,
            resources=self.resources,
            **more,
        )


def read_submission(folder: Path) -> Submission:
    """Read what was submitted for the run in a folder.

    Raises
    ------
    InputError
        If nothing was, or the record is damaged.
    """
    path = Path(folder) / "slurm" / SUBMISSION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        resources = content["resources"] | {"more": tuple(content["resources"]["more"])}
        arrays = {stage: [Array(**one) for one in many] for stage, many in content["arrays"].items()}
        paths = {"folder": Path(folder).resolve(), "work": Path(content["work"])}
        return Submission(**(content | paths | {"resources": slurm.Resources(**resources), "arrays": arrays}))
    except FileNotFoundError as error:
        raise InputError(f"{folder} was not submitted to Slurm (there is no {path}); see `toolkit submit`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}; restore it, or remove {path.parent} and submit again") from error


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers as Slurm does: ``0-3,7``."""
    texts: list[str] = []
    start = before = None
    for number in [*sorted(numbers), None]:
        if start is None or before is None:
            start = number
        elif number != before + 1:
            texts.append(str(start) if start == before else f"{start}-{before}")
            start = number
        before = number
    return ",".join(texts)
