"""Cluster vectors by KMeans: a CSV `image_name,class`.

    python jobs/clustering.py --embeddings_path CSV --num_clusters K [--output_csv cluster_results.csv]

Writes the CSV. The labels are those of `toolkit run` with one KMeans model, no scaling, no PCA and seed 0. Seconds for
10,000 vectors of 2,048 numbers; memory of about twice the vectors.
"""

import re
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from toolkit.atomic import atomic_file, remove_unfinished, scratch_folder
from toolkit.backend.device import choose_backend
from toolkit.cli import run_command
from toolkit.cluster.labelling import UNSEEN
from toolkit.config import parse_config
from toolkit.errors import InputError
from toolkit.grid.finished import FinishedRun
from toolkit.grid.run import Run
from toolkit.memory import MemoryBudget
from toolkit.progress import Reporter

app = typer.Typer(add_completion=False)
NAME = "filename"  # the column of the images
_HEADER = 1 << 20  # characters of the first line that are read


@app.command()
def main(
    embeddings_path: Annotated[
        Path, typer.Option("--embeddings_path", help="CSV of pic2vec.py, or a descriptor file.")
    ],
    num_clusters: Annotated[int, typer.Option("--num_clusters", help="Number of clusters, from 2.")],
    output_csv: Annotated[Path, typer.Option("--output_csv", help="File for the clusters.")] = Path(
        "cluster_results.csv"
    ),
) -> None:
    """Cluster vectors by KMeans."""
    if not embeddings_path.is_file():
        raise InputError(f"embeddings {embeddings_path} is not a file; give the CSV that pic2vec.py wrote")
    if num_clusters < 2:
        raise InputError(f"--num_clusters is {num_clusters}; allowed: from 2")
    if output_csv.is_dir() or not output_csv.parent.is_dir():
        what = "is a folder" if output_csv.is_dir() else f"lies in {output_csv.parent}, which is no folder"
        raise InputError(f"--output_csv {output_csv} {what}; give a file in a folder that is there")
    _check_header(embeddings_path)
    remove_unfinished(output_csv.parent)
    with scratch_folder(output_csv.parent) as name:
        alone = Path(name) / "descriptors"
        alone.mkdir()
        (alone / embeddings_path.name).symlink_to(embeddings_path.resolve())  # what lies beside it is not read
        try:
            paths, labels = _clusters(alone, Path(name) / "run", num_clusters)
        except InputError as error:  # in the words of this command
            told = str(error).replace(str(alone / embeddings_path.name), str(embeddings_path))
            told = told.replace(str(alone), str(embeddings_path))
            raise InputError(re.sub(r"(\w+\.\d+: )?(KMeans\.)?\bn_clusters\b", "--num_clusters", told)) from error
    table = pd.DataFrame({"image_name": paths, "class": labels})[labels != UNSEEN]
    with atomic_file(output_csv) as file:
        table.to_csv(file, index=False, lineterminator="\n")
    left_out = f", without {len(labels) - len(table):,} that are not finite" if len(labels) > len(table) else ""
    print(f"{output_csv}: {len(table):,} images in {num_clusters} clusters{left_out}")


def _check_header(embeddings: Path) -> None:
    """Refuse a CSV that does not say which images its rows are."""
    if embeddings.suffix.lower() != ".csv":
        return
    with embeddings.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline(_HEADER).strip()
    if NAME not in (cell.strip(' "').lower() for cell in header.split(",")):
        raise InputError(f"{embeddings} has no column {NAME}, but {header[:80]!r}; give the CSV that pic2vec.py wrote")


def _clusters(descriptors: Path, out: Path, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the image and the cluster of each row."""
    stage = {"name": "kmeans", "scalers": ["none"], "grid": {"KMeans": {"n_clusters": n_clusters}}}
    config = parse_config({"descriptors": {"folder": str(descriptors)}, "stages": [stage], "silhouette_rows": 0})
    memory, (backend, reason) = MemoryBudget.resolve(None), choose_backend("auto")
    Run(config, out, memory=memory, backend=backend, reason=reason, reporter=Reporter(quiet=True)).execute()
    run = FinishedRun(out)
    return run.image_paths, run.all_labels(next(iter(run.models.values())))


if __name__ == "__main__":
    run_command(app, sys.argv[1:], name=sys.argv[0])
