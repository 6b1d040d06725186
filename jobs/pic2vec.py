"""Turn every image of a folder into a vector: a CSV `filename,features`, the numbers in one cell with commas between.

    python jobs/pic2vec.py [--image_folder temp] [--csv_name image_features.csv] [--model_name resnet50]
        [--weights PATH] [--accept-licence]

Writes the CSV, and beside it a folder with the same vectors for `toolkit run` (image_features.descriptors/), which also
lists the images that failed; those are not in the CSV. resnet50 and senet50 are those of VGGFace2, whose weights must
be given; dlib and efficientnet_lite0 need none. A job that was stopped goes on with the same command. About 0.1 s per
image and processor with dlib, 0.5 s with resnet50; 1 GiB per process.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli import run_command
from toolkit.faces.embed import embed_images
from toolkit.progress import Reporter, resumable

app = typer.Typer(add_completion=False)
OLDER_NAMES = {"resnet50": "vggface_resnet50", "senet50": "vggface_senet50"}


@app.command()
def main(
    image_folder: Annotated[Path, typer.Option("--image_folder", help="Folder of crops, or of any images.")] = Path(
        "temp"
    ),
    csv_name: Annotated[Path, typer.Option("--csv_name", help="File for the vectors.")] = Path("image_features.csv"),
    model_name: Annotated[
        str, typer.Option("--model_name", help="resnet50, senet50, or a model of `toolkit faces embed`.")
    ] = "resnet50",
    weights: Annotated[Path | None, typer.Option(help="File with the weights of the network.")] = None,
    *,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Use weights that are for non-commercial purposes only.")
    ] = False,
) -> None:
    """Turn every image of a folder into a vector."""
    with resumable():
        found = embed_images(
            image_folder,
            csv_name.with_suffix(".descriptors"),
            model=OLDER_NAMES.get(model_name, model_name),
            weights=weights,
            accept_licence=accept_licence,
            csv=csv_name,
            reporter=Reporter(),
        )
    print(f"{found.text}\ntable       {csv_name}")


if __name__ == "__main__":
    run_command(app, sys.argv[1:], name=sys.argv[0])
