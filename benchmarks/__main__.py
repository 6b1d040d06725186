"""Run every benchmark and keep what it prints under benchmarks/results/.

    python -m benchmarks [FOLDER]

That of faces needs photographs: FOLDER holds a folder of them for each person.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("density", "kmeans", "scoring", "seed_grid", "dask", "reduction", "predictions", "report", "outliers")


def main(photographs: str | None = None) -> None:
    """Run each in a fresh process, so that one's memory is not another's."""
    for name in BENCHMARKS:
        run(name)
    if photographs is None:
        print("faces: not run, it needs photographs; python -m benchmarks FOLDER runs it too")
    else:
        run("faces", photographs)


def run(name: str, *arguments: str) -> None:
    """Run one and keep what it prints."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    (Path(__file__).parent / "results" / f"{name}.md").write_text(done.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
