"""The command line of aggregates: every verb is one call into the library.

Options of `cvae` have an underscore between words, as the jobs had that these verbs replace.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli_options import Debug, Device, Images, Memory, Quiet
from toolkit.progress import Reporter, resumable

cvae = typer.Typer(
    help="One image per cluster by a conditional variational autoencoder.",
    no_args_is_help=True,
)

Seed = Annotated[int, typer.Option(help="Random seed.", min=0)]


def aggregate(
    labels: Annotated[
        Path,
        typer.Argument(metavar="LABELS", help="Folder of a finished run, or CSV with image paths and a column class."),
    ],
    images: Images = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; of a run, DIR/aggregates.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Name or id of a model of the run, or the column of the labels of a CSV.")
    ] = None,
    attributes: Annotated[
        Path | None, typer.Option(help="CSV with image paths or names and columns of anything, or CelebA's list.")
    ] = None,
    fields: Annotated[
        str | None, typer.Option(help="Attributes from file names: {id}_{born}_{year}; {person*} may hold a _.")
    ] = None,
    faces: Annotated[
        Path | None, typer.Option(help="faces.csv of `faces detect`: faces are aligned by its landmarks.")
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels of a side.")] = 128,
    components: Annotated[int, typer.Option(help="Eigenfaces of each cluster.")] = 8,
    memory: Memory = None,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at images that cannot be used.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Mean images, eigenfaces and occurrence of attributes of each cluster of LABELS."""
    from toolkit.aggregate.build import aggregate_clusters

    with resumable():
        found = aggregate_clusters(
            labels,
            images=images,
            out=out,
            model=model,
            attributes=attributes,
            fields=fields,
            faces=faces,
            size=size,
            n_components=components,
            strict=strict,
            memory=memory,
            reporter=Reporter(quiet=quiet),
        )
    if not quiet:
        print(found.text)


@cvae.command()
def train(
    image_path: Annotated[Path, typer.Option("--image_path", help="Folder or zip archive that holds the images.")],
    labels_path: Annotated[
        Path,
        typer.Option(
            "--labels_path",
            help="Folder of a run, its names.csv, best_clusterization.csv or labelled.csv; or a CSV image_name,class.",
        ),
    ],
    num_classes: Annotated[
        int | None, typer.Option("--num_classes", help="Classes at most; by default those of the labels.", min=1)
    ] = None,
    image_size: Annotated[
        int, typer.Option("--image_size", help="Pixels of a side: 16, or a multiple of 32 up to 512.")
    ] = 224,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Images of a step.")] = 32,
    num_epochs: Annotated[int, typer.Option("--num_epochs", help="Epochs at most.")] = 50,
    out: Annotated[
        Path, typer.Option(help="Folder for weights/, history.csv, the pixels; an unfinished training in it goes on.")
    ] = Path("cvae"),
    model: Annotated[
        str | None, typer.Option(help="Name or id of a model of the run, or the column of the labels of a CSV.")
    ] = None,
    latent_dim: Annotated[int, typer.Option("--latent_dim", help="Numbers of the latent vector.")] = 128,
    width: Annotated[int, typer.Option(help="Feature maps next to the image, a multiple of 8.")] = 32,
    learning_rate: Annotated[float, typer.Option("--learning_rate", help="Of Adam.")] = 1e-3,
    detail: Annotated[
        float, typer.Option(help="Independent values of an image: more is sharper, less nearer to the mean.")
    ] = 400.0,
    free_nats: Annotated[
        float, typer.Option("--free_nats", help="Divergence of a latent unit that costs nothing.")
    ] = 0.01,
    warm_up: Annotated[int, typer.Option("--warm_up", help="Epochs until the divergence has its full weight.")] = 5,
    validation: Annotated[float, typer.Option(help="Share of each class that is kept for validation.")] = 0.1,
    patience: Annotated[int, typer.Option(help="Epochs without improvement after which it stops.")] = 10,
    device: Device = "auto",
    memory: Memory = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode images; by default as many as processors.", min=0)
    ] = None,
    seed: Seed = 0,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at images that cannot be used.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train an autoencoder on labelled images; the same command goes on where one was stopped."""
    from toolkit.aggregate.plan import Plan
    from toolkit.aggregate.train import train_cvae

    plan = Plan(
        image_size=image_size,
        latent_dim=latent_dim,
        width=width,
        batch_size=batch_size,
        learning_rate=learning_rate,
        detail=detail,
        free_nats=free_nats,
        warm_up=warm_up,
        validation=validation,
        seed=seed,
    )
    with resumable():
        found = train_cvae(
            image_path,
            labels_path,
            out,
            plan,
            num_classes=num_classes,
            model=model,
            num_epochs=num_epochs,
            patience=patience,
            strict=strict,
            device=device,
            memory=memory,
            workers=workers,
            reporter=Reporter(quiet=quiet),
        )
    if not quiet:
        print(found.text)


@cvae.command()
def generate(
    cluster: Annotated[str, typer.Option(help="A cluster by its label or name, or all.")] = "all",
    weights: Annotated[Path, typer.Option(help="Of `cvae train`.")] = Path("cvae/weights/best.pt"),
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("inference_results"),
    temperature: Annotated[float, typer.Option(help="Of the samples: how far they are from the aggregate.")] = 0.7,
    nearest: Annotated[int, typer.Option(help="Real images beside each aggregate.", min=0)] = 8,
    device: Device = "auto",
    seed: Seed = 0,
    *,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the aggregate of each cluster, samples, interpolations and the nearest real images."""
    from toolkit.aggregate.generate import generate_images

    found = generate_images(
        weights,
        cluster=cluster,
        out=out,
        temperature=temperature,
        nearest=nearest,
        seed=seed,
        device=device,
        reporter=Reporter(quiet=quiet),
    )
    if not quiet:
        print(found.text)
