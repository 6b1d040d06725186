"""Compare the labellings of `make run` with the true digits, which the run has not seen."""

import sys
from pathlib import Path

import pandas as pd
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score


def main(folder: Path) -> None:
    """Print the adjusted Rand index of every finalist in a run's folder."""
    truth = load_digits().target
    table = pd.read_csv(folder / "best_clusterization.csv")
    print("\nAgainst the true digits (adjusted Rand index; 1 is perfect, 0 is chance):")
    for name in table.columns[1:]:
        known = table[name].notna()
        print(f"  {adjusted_rand_score(truth[known], table[name][known]):.3f}  {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
