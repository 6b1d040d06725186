"""Write the aggregate image of a cluster by a trained autoencoder.

    python jobs/cvae_inference.py --cluster K [--weights cvae/weights/best.pt]

Writes inference_results/cluster_K.jpg and what else `toolkit cvae generate` does. The weights say how many classes
there are and how large the image is; --num_classes and --image_size are compared with them.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from toolkit.aggregate.generate import generate_images
from toolkit.cli import run_command
from toolkit.errors import InputError
from toolkit.packages import import_package
from toolkit.progress import Reporter

app = typer.Typer(add_completion=False)


@app.command()
def main(
    cluster: Annotated[str, typer.Option("--cluster", help="Label or name of a cluster, or all.")],
    weights: Annotated[Path, typer.Option("--weights", help="Of train_cvae.py.")] = Path("cvae/weights/best.pt"),
    num_classes: Annotated[int | None, typer.Option("--num_classes", help="Number of clusters.")] = None,
    image_size: Annotated[int | None, typer.Option("--image_size", help="Pixels of a side.")] = None,
) -> None:
    """Write the aggregate image of a cluster."""
    import_package("torch", pip="torch", what="a variational autoencoder")
    from toolkit.aggregate.checkpoints import open_trained

    config = open_trained(weights).network.config
    for name, value in (("num_classes", num_classes), ("image_size", image_size)):
        if value is not None and value != config[name]:
            raise InputError(f"--{name} is {value}, {weights} were trained with {config[name]}; leave --{name} out")
    print(generate_images(weights, cluster=cluster, reporter=Reporter()).text)


if __name__ == "__main__":
    run_command(app, sys.argv[1:], name=sys.argv[0])
