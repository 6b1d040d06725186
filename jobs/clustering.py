"""Cluster vectors by KMeans: a CSV `image_name,class`.

    python jobs/clustering.py --embeddings_path CSV --num_clusters K [--output_csv cluster_results.csv]

Writes the CSV. The labels are those of `toolkit run` with one KMeans model, no scaling, no PCA and seed 0. Seconds for
10,000 vectors of 2,048 numbers; memory of about twice the vectors.
"""

import sys
from pathlib import Path
from typing import Annotated

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
    remove_unfinished(output_csv.parent)
    with scratch_folder(output_csv.parent) as name:
        alone, out = Path(name) / "descriptors", Path(name) / "run"
        alone.mkdir()
        (alone / embeddings_path.name).symlink_to(embeddings_path.resolve())  # what lies beside it is not read
        stage = {"name": "kmeans", "scalers": ["none"], "grid": {"KMeans": {"n_clusters": num_clusters}}}
        config = parse_config({"descriptors": {"folder": str(alone)}, "stages": [stage], "silhouette_rows": 0})
        memory, (backend, reason) = MemoryBudget.resolve(None), choose_backend("auto")
        Run(config, out, memory=memory, backend=backend, reason=reason, reporter=Reporter(quiet=True)).execute()
        run = FinishedRun(out)
        labels = run.all_labels(next(iter(run.models.values())))
        table = pd.DataFrame({"image_name": run.image_paths, "class": labels})[labels != UNSEEN]
    with atomic_file(output_csv) as file:
        table.to_csv(file, index=False, lineterminator="\n")
    left_out = f", without {len(labels) - len(table):,} that are not finite" if len(labels) > len(table) else ""
    print(f"{output_csv}: {len(table):,} images in {num_clusters} clusters{left_out}")


if __name__ == "__main__":
    run_command(app, sys.argv[1:], name=sys.argv[0])
