"""Run every benchmark and keep what it prints under benchmarks/results/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("density", "kmeans", "scoring", "seed_grid", "reduction", "predictions", "report", "outliers")


def main() -> None:
    """Run each in a fresh process, so that one's memory is not another's."""
    for name in BENCHMARKS:
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"], check=True, stdout=subprocess.PIPE, text=True
        )
        print(done.stdout)
        (Path(__file__).parent / "results" / f"{name}.md").write_text(done.stdout)


if __name__ == "__main__":
    main()
