"""The command line of faces: every verb is one call into the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli_options import Debug, Device, Memory, Quiet, Seed
from toolkit.errors import InputError
from toolkit.progress import Reporter, resumable

faces = typer.Typer(
    help="Photographs to face crops, images to descriptor files, and how good they are where identities are known.",
    no_args_is_help=True,
)

ImageSet = Annotated[
    Path,
    typer.Argument(metavar="IMAGES", help="Folder (with its subfolders), zip archive, or CSV with a path per row."),
]
Weights = Annotated[Path | None, typer.Option(help="File with the weights of the network.")]
Workers = Annotated[
    int | None,
    typer.Option(help="Processes, 0 for none beside this one; by default as many as processors, if they fit.", min=0),
]


@faces.command()
def detect(
    images: ImageSet,
    out: Annotated[Path, typer.Option(help="Folder for crops/, faces.csv, quarantine.csv; an unfinished job goes on.")],
    detector: Annotated[
        str | None,
        typer.Option(
            help="dlib-hog, dlib-mmod, haar, haar-strict (minNeighbors 45), mtcnn or yunet; by default dlib-hog, or "
            "mtcnn where dlib is not installed."
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of the detector: a file, of mtcnn a folder.")] = None,
    size: Annotated[int, typer.Option(help="Pixels of a side of a crop.")] = 150,
    margin: Annotated[float, typer.Option(help="Around the face, as a share of it.")] = 0.25,
    min_size: Annotated[float, typer.Option(help="Pixels of a face.")] = 20,
    min_score: Annotated[float | None, typer.Option(help="Score of a face.")] = None,
    memory: Memory = None,
    workers: Workers = None,
    *,
    align: Annotated[bool, typer.Option(help="Bring the landmarks to one position.")] = True,
    largest: Annotated[bool, typer.Option("--largest", help="Only the largest face of each image.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Cut out the faces of IMAGES."""
    from toolkit.faces.crops import detect_faces

    with resumable():
        found = detect_faces(
            images,
            out,
            detector=detector,
            weights=weights,
            align=align,
            size=size,
            margin=margin,
            min_size=min_size,
            min_score=min_score,
            largest=largest,
            memory=memory,
            workers=workers,
            reporter=Reporter(quiet=quiet),
        )
    if not quiet:
        print(found.text)


@faces.command()
def embed(
    images: ImageSet,
    out: Annotated[Path, typer.Option(help="Folder of descriptors for `toolkit run`; an unfinished job goes on.")],
    model: Annotated[
        str,
        typer.Option(help="One of `toolkit faces models`, for instance dlib, vggface_resnet50 or onnx:PATH."),
    ] = "dlib",
    weights: Weights = None,
    preprocessing: Annotated[str | None, typer.Option(help="Of onnx:PATH: arcface, imagenet or none.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images that the network sees at once.", min=1)] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write a CSV `filename,features`.")] = None,
    device: Device = "auto",
    loader: Annotated[
        str, typer.Option(help="What decodes: pillow, dali, or auto: DALI on a GPU where it is installed.")
    ] = "auto",
    memory: Memory = None,
    workers: Workers = None,
    *,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Use weights that are for non-commercial purposes only.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write one descriptor per image: of face crops (the folder of `faces detect`), or of any images."""
    from toolkit.faces.embed import embed_images

    with resumable():
        found = embed_images(
            images,
            out,
            model=model,
            weights=weights,
            accept_licence=accept_licence,
            preprocessing=preprocessing,
            batch=batch,
            device=device,
            memory=memory,
            workers=workers,
            csv=csv,
            loader=loader,
            reporter=Reporter(quiet=quiet),
        )
    if not quiet:
        print(found.text)


@faces.command()
def models(*, debug: Debug = False) -> None:
    """List the models of `embed` as a Markdown table."""
    from toolkit.faces.models import model_table

    print(model_table())


@faces.command()
def attributes(
    images: ImageSet,
    weights: Annotated[Path, typer.Option(help="best.pt of `train-attributes`, or a Keras file of the predecessor.")],
    out: Annotated[Path, typer.Option(help="Folder for attributes.csv; an unfinished job goes on.")],
    batch: Annotated[int | None, typer.Option(help="Images that the network sees at once.", min=1)] = None,
    device: Device = "auto",
    memory: Memory = None,
    workers: Workers = None,
    *,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Tell which attributes faces have (glasses, a smile, ...): a probability for each, per image."""
    from toolkit.faces.attributes.predict import predict_attributes

    with resumable():
        found = predict_attributes(
            images,
            out,
            weights=weights,
            batch=batch,
            device=device,
            memory=memory,
            workers=workers,
            reporter=Reporter(quiet=quiet),
        )
    if not quiet:
        print(found.text)


@faces.command()
def train_attributes(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder or zip archive of the listed images.")],
    listed: Annotated[
        Path, typer.Option("--attributes", help="list_attr_celeba.txt, or a CSV: which attributes each image has.")
    ],
    partition: Annotated[
        Path, typer.Option(help="list_eval_partition.txt, or a CSV: 0 training, 1 validation, 2 test.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for best.pt and tables; an unfinished training goes on.")],
    backbone: Annotated[
        Path | None, typer.Option(help="State dict of torchvision's mobilenet_v2, to start from.")
    ] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="Wanted; may be given several times.")] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Not wanted; by default Attractive, Blurry and Pale_Skin.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Times that each image is seen.", min=1)] = 8,
    batch: Annotated[int, typer.Option(help="Images of a step.", min=2)] = 64,
    learning_rate: Annotated[float, typer.Option(help="At the start; it falls as a cosine.")] = 1e-3,
    image_size: Annotated[int, typer.Option(help="Pixels of a side that the network sees.")] = 224,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 0,
    memory: Memory = None,
    workers: Workers = None,
    *,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a network to tell attributes of faces, from data in the form of CelebA."""
    from toolkit.faces.attributes import train

    with resumable():
        found = train.train_attributes(
            images,
            out,
            attributes=listed,
            partition=partition,
            backbone=backbone,
            names=attribute or (),
            without=without or (),
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            image_size=image_size,
            device=device,
            seed=seed,
            memory=memory,
            workers=workers,
            reporter=Reporter(quiet=quiet),
        )
    if not quiet:
        print(found.text)


@faces.command()
def evaluate(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Descriptor file; or a clustering: folder of a run, or CSV of labels."),
    ],
    identities: Annotated[
        Path | None, typer.Option(help="CSV (path, identity); by default the folder that each image lies in.")
    ] = None,
    image_paths: Annotated[Path | None, typer.Option(help="Of a descriptor: CSV with one path per row.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="Of a descriptor: CSV of pairs (path_1, path_2, same).")] = None,
    metric: Annotated[str | None, typer.Option(help="Of a descriptor: euclidean (by default) or cosine.")] = None,
    model: Annotated[str | None, typer.Option(help="Of a clustering: model of the run, or column of the CSV.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json and the ROC curve.")] = None,
    memory: Memory = None,
    seed: Seed = None,
    *,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare a descriptor (pairs: same or not) or a clustering with known identities."""
    from toolkit.faces.evaluation import (
        DescriptorEvaluation,
        LabelEvaluation,
        evaluate_descriptors,
        evaluate_labels,
        write_evaluation,
    )

    reporter = Reporter(quiet=quiet)
    found: DescriptorEvaluation | LabelEvaluation
    if source.is_dir() or source.suffix.lower() == ".csv":
        of_descriptors: dict[str, object] = {"image-paths": image_paths, "pairs": pairs, "metric": metric, "seed": seed}
        _refuse_needless(of_descriptors, f"a descriptor, and {source} is taken for a clustering")
        found = evaluate_labels(source, identities, model=model, memory=memory, reporter=reporter)
    else:
        _refuse_needless({"model": model}, f"a clustering, and {source} is taken for a descriptor")
        found = evaluate_descriptors(
            source,
            identities,
            image_paths=image_paths,
            pairs=pairs,
            metric=metric or "euclidean",
            seed=seed or 0,
            memory=memory,
            reporter=reporter,
        )
    if out is not None:
        write_evaluation(found, out)
    if not quiet:
        print(found.text)


def _refuse_needless(options: dict[str, object], whose: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise InputError(f"--{name} is of {whose}; leave it out")
