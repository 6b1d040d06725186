"""What a trained autoencoder shows of each class: its aggregate, samples, ways between classes, the nearest images."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from toolkit.aggregate.charts import safe_text
from toolkit.aggregate.nearest import nearest_images
from toolkit.aggregate.reported import FOLDER, how_to_show
from toolkit.aggregate.texts import few, plain_text
from toolkit.aggregate.train import IMAGES_FILE, PIXEL_FOLDER
from toolkit.atomic import atomic_file, write_text
from toolkit.backend.device import choose_backend
from toolkit.errors import InputError
from toolkit.images.pixels import PIXELS, PixelFile
from toolkit.packages import import_package
from toolkit.progress import Reporter
from toolkit.report.contact_sheet import COLUMNS, SIDE, Captioned, Section, save_sheet
from toolkit.report.drawing import save_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from toolkit.aggregate.checkpoints import Trained

ALL = "all"
_JPEG_QUALITY = 95
_SAMPLES = 4 * COLUMNS
_STEPS = 8  # of an interpolation, both ends included
_MOST_WAYS = 12  # pairs of classes
_MOST_TILES = 60  # aggregates on one picture; the largest classes
_ACROSS, _CELL = 6, 1.7  # tiles of a row, and inches of one
_TITLE = 24  # characters above one
_NOT_IN_NAMES = re.compile(r"[^\w-]+")


@dataclass(frozen=True)
class Generated:
    """What `generate_images` made.

    Attributes
    ----------
    out : Path
    aggregates : list of Path
        The image of the zero vector of each class.
    others : list of Path
        Samples, interpolation, overview, nearest images and their table.
    run : str
        Folder of the run from which the labels come, or nothing.
    """

    out: Path
    aggregates: list[Path]
    others: list[Path]
    run: str

    @property
    def text(self) -> str:
        """For a person, a few lines."""
        more = f" ... {self.aggregates[-1].name}" if len(self.aggregates) > 1 else ""
        names = [path.name for path in self.others]
        beside = f"{', '.join(names[:12])}{f' and {len(names) - 12} more' if len(names) > 12 else ''}"
        lines = [f"aggregates  {self.aggregates[0]}{more}", f"beside      {beside}"]
        if self.run:
            run = Path(self.run)
            is_there = self.out.absolute() == (run / FOLDER).absolute()
            first = "" if is_there else f"`toolkit cvae generate --out {run / FOLDER}`, then "
            lines.append(f"report      {first}`{how_to_show(run)}` shows the pictures of all clusters in report.html")
        return "\n".join(lines)


def generate_images(
    weights: str | Path,
    *,
    cluster: str = ALL,
    out: str | Path = "inference_results",
    temperature: float = 0.7,
    nearest: int = COLUMNS,
    seed: int = 0,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Generated:
    """Write the images of classes that an autoencoder makes.

    Parameters
    ----------
    weights : path
        ``weights/best.pt`` of `toolkit.aggregate.train.train_cvae`.
    cluster : str
        Name of a class, or ``"all"``.
    out : path
        Folder, made if it is missing: ``cluster_K.jpg``, the image of the zero vector; ``samples_K.png``; where the
        training's images lie beside the weights, ``nearest_K.png`` and ``nearest.csv``; of all classes also
        ``aggregates.png`` and, of two or more, ``interpolation.png``. K is the name of the class, with ``_`` for what a
        file name should not hold.
    temperature : float
        Standard deviation of the latent vectors of the samples; they were learnt at 1.
    nearest : int
        Real images beside each aggregate, of its class and of all, by their pixels; 0 for none.
    seed : int
        Of the samples.
    device : {"auto", "cpu", "cuda"}
    reporter : Reporter, optional

    Raises
    ------
    InputError
        If weights, class or a number cannot be used.
    MissingPackageError
        Without torch.
    """
    import_package("torch", pip="torch", what="a variational autoencoder")
    from toolkit.aggregate.checkpoints import open_trained
    from toolkit.aggregate.training import zero_images

    if not 0 <= temperature < math.inf or nearest < 0 or seed < 0:
        raise InputError(
            f"temperature is {temperature}, nearest {nearest}, seed {seed}; allowed: 0 or more for each of them"
        )
    weights, out, reporter = Path(weights), Path(out), reporter or Reporter(quiet=True)
    backend, _ = choose_backend(device)
    trained = open_trained(weights)
    numbers = _chosen(cluster, trained.class_names)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    out.mkdir(parents=True, exist_ok=True)
    trained.network.to(backend.name)
    stems = file_names(trained.class_names)
    zeros = zero_images(trained.network)
    aggregates = [out / f"cluster_{stems[number]}.jpg" for number in numbers]
    for path, number in zip(aggregates, numbers, strict=True):
        _save(path, Image.fromarray(zeros[number]), "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    others = []
    if cluster == ALL:
        others.append(_write_figure(out / "aggregates.png", trained, *_aggregates_figure(trained, zeros)))
        if len(numbers) > 1:
            others.append(_write_figure(out / "interpolation.png", trained, *_interpolation_figure(trained)))
    with reporter.track("samples", len(numbers)) as task:
        for number in numbers:
            others.append(_write_samples(out / f"samples_{stems[number]}.png", trained, number, temperature, seed))
            task.advance(1, plain_text(trained.class_names[number]))
    kept = _open_kept(weights.parent.parent, trained.network.image_size, reporter) if nearest else None
    if kept is not None:
        with kept.pixels:
            chosen = {number: stems[number] for number in numbers}
            others += _write_nearest(out, kept, trained, zeros, chosen, nearest, reporter)
    return Generated(out, aggregates, others, trained.facts["run"])


def _chosen(cluster: str, names: Sequence[str]) -> list[int]:
    if cluster == ALL:
        return list(range(len(names)))
    if cluster not in names:
        raise InputError(f"unknown cluster {plain_text(cluster)!r}; known: {few(names)}, {ALL}")
    return [names.index(cluster)]


def file_names(names: Sequence[str]) -> list[str]:
    """Return the names of classes as parts of file names, all different even where case does not count."""
    plain = [_NOT_IN_NAMES.sub("_", name).strip("_")[:80] or "class" for name in names]
    lower = [name.lower() for name in plain]
    return [
        f"{name}_{number}" if lower.count(low) > 1 or _is_taken(low, lower) else name
        for number, (name, low) in enumerate(zip(plain, lower, strict=True))
    ]


def _is_taken(name: str, others: list[str]) -> bool:
    """Whether another one might become this name when its number is added."""
    start, _, number = name.rpartition("_")
    return number.isdigit() and others.count(start) > 1


def _save(path: Path, image: Image.Image, kind: str, **options: Any) -> None:
    with atomic_file(path) as file:
        image.save(file, kind, **options)


# Samples
def _write_samples(path: Path, trained: Trained, number: int, temperature: float, seed: int) -> Path:
    import torch

    from toolkit.aggregate.training import as_pixels

    network, device = trained.network, next(trained.network.parameters()).device
    generator = torch.Generator().manual_seed(seed)  # of the CPU: the same samples on every device
    latent = temperature * torch.randn(_SAMPLES, network.latent_dim, generator=generator)
    classes = network.one_hot(torch.full((_SAMPLES,), number))
    with torch.no_grad():
        images = torch.cat(
            [network.decode(latent[i : i + 1].to(device), classes[i : i + 1].to(device)) for i in range(_SAMPLES)]
        )
    tiles = [Captioned("", _thumbnail(pixels)) for pixels in as_pixels(images)]
    lines = [f"{_SAMPLES} samples of the class, temperature {temperature:g}, seed {seed}"]
    save_sheet(path, f"Cluster {plain_text(trained.class_names[number])}", lines, [Section("Samples", tiles)])
    return path


def _thumbnail(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


# All classes together
def _aggregates_figure(trained: Trained, zeros: np.ndarray) -> tuple[Figure, str, str]:
    """Draw the image of the zero vector of every class; return the figure, its title and its caption.

    Parameters
    ----------
    trained : Trained
    zeros : ndarray (n_classes, size, size, 3) uint8
    """
    largest = sorted(range(len(zeros)), key=lambda number: (-trained.class_sizes[number], number))[:_MOST_TILES]
    shown = sorted(largest)
    titles = [f"{safe_text(trained.class_names[n], _TITLE)}  ({trained.class_sizes[n]:,})" for n in shown]
    figure = _tiles(zeros[shown], titles, min(len(shown), _ACROSS))
    left_out = f" The {len(shown)} largest of {len(zeros)} classes." if len(shown) < len(zeros) else ""
    facts = trained.facts
    caption = (
        f"One image for each class: what a conditional variational autoencoder makes of the class and the "
        f"zero vector; in brackets the images of the class.{left_out} Mean squared error of reconstructed validation "
        f"images {facts['validation_error']:.4f}, of the mean image {facts['mean_image_error']:.4f}, of the mean image "
        f"of the class {facts['class_mean_error']:.4f}."
    )
    return figure, "Aggregate images", caption


def _interpolation_figure(trained: Trained) -> tuple[Figure, str, str]:
    import torch

    from toolkit.aggregate.training import as_pixels

    network, device = trained.network, next(trained.network.parameters()).device
    pairs = [(i, i + 1) for i in range(len(trained.class_names) - 1)][:_MOST_WAYS]
    corners, latent = torch.eye(network.num_classes, device=device), torch.zeros(1, network.latent_dim, device=device)
    shares = torch.linspace(0, 1, _STEPS).tolist()
    with torch.no_grad():
        images = torch.cat(
            [
                network.decode(latent, ((1 - share) * corners[a] + share * corners[b])[None])
                for a, b in pairs
                for share in shares
            ]
        )
    titles = []
    for a, b in pairs:
        first, last = (safe_text(trained.class_names[number], _TITLE) for number in (a, b))
        titles += [first, *[""] * (_STEPS - 2), last]
    return (
        _tiles(as_pixels(images), titles, _STEPS),
        "From class to class",
        "Each row goes from the aggregate of one class to that of the next, the class being mixed in equal steps.",
    )


def _tiles(images: np.ndarray, titles: Sequence[str], across: int) -> Figure:
    from matplotlib.figure import Figure

    down = -(-len(images) // across)
    figure = Figure(figsize=(max(_CELL * across, 4.0), (_CELL + 0.2) * down))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.04, wspace=0.02, hspace=0.02)
    axes: Any = figure.subplots(down, across, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, pixels, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(pixels, interpolation="lanczos")
        ax.set_title(title, fontsize=8, pad=2)
    return figure


def _write_figure(path: Path, trained: Trained, figure: Figure, title: str, caption: str) -> Path:
    caption = f"{caption} Labels: {plain_text(trained.facts['labels'], 200)}."
    save_figure(path, figure, title=title, caption=caption)
    return path


# Real images
class _Kept(NamedTuple):
    """The images of a training, as it kept them."""

    pixels: PixelFile
    paths: list[str]
    class_of: np.ndarray  # names, "" where there is none


def _open_kept(training: Path, image_size: int, reporter: Reporter) -> _Kept | None:
    """Open the images that a training used; None, and a warning, where they are not beside the weights."""
    cache, table = training / PIXEL_FOLDER / PIXELS, training / IMAGES_FILE
    if not (cache.is_file() and table.is_file()):
        reporter.warn(f"no nearest images: {cache} and {table}, which the training writes, are not there")
        return None
    with table.open(newline="", encoding="utf-8") as file:
        listed = [(row["image_path"], row["class"]) for row in csv.DictReader(file)]
    pixels = PixelFile(cache)
    if pixels.shape[:2] != (len(listed), image_size):
        pixels.close()
        reporter.warn(f"no nearest images: {cache} and {table} are not those of the weights")
        return None
    return _Kept(pixels, [path for path, _ in listed], np.array([name for _, name in listed], dtype=np.str_))


def _write_nearest(
    out: Path, kept: _Kept, trained: Trained, zeros: np.ndarray, stems: dict[int, str], most: int, reporter: Reporter
) -> list[Path]:
    """Write the images nearest to the aggregates of some classes (number -> name in file names)."""
    rows = np.flatnonzero(kept.class_of != "")
    of_all = nearest_images(kept.pixels, rows, zeros[list(stems)], most, reporter)
    written, lines = [], []
    quiet = Reporter(quiet=True)  # within each class; the classes are followed
    for place, (number, stem) in enumerate(reporter.watch("nearest of the class", stems.items(), _one, len(stems))):
        name, zero = trained.class_names[number], zeros[number]
        members = np.flatnonzero(kept.class_of == name)
        own = nearest_images(kept.pixels, members, zero[None], most, quiet)
        sections = [Section("Aggregate", [Captioned("", _thumbnail(zero))])]
        for among, found, which in (("class", own, 0), ("all", of_all, place)):
            title = "of the class" if among == "class" else "of all, their classes in brackets"
            sections.append(Section(f"Nearest images {title}", _nearest_tiles(kept, found.rows[which], among)))
            pairs = zip(found.rows[which].tolist(), found.distances[which].tolist(), strict=True)
            lines += [
                (name, among, rank, kept.paths[row], kept.class_of[row], f"{distance:.4f}")
                for rank, (row, distance) in enumerate(pairs, 1)
            ]
        text = [f"The images whose pixels are nearest, of {len(members):,} and of {len(rows):,}"]
        written.append(out / f"nearest_{stem}.png")
        save_sheet(written[-1], f"Cluster {plain_text(name)}", text, sections)
    text_of = io.StringIO()
    writer = csv.writer(text_of, lineterminator="\n")
    writer.writerow(("cluster", "among", "rank", "image_path", "class", "distance"))
    writer.writerows(lines)
    write_text(out / "nearest.csv", text_of.getvalue())
    return [*written, out / "nearest.csv"]


def _one(_: object) -> float:
    return 1.0


def _nearest_tiles(kept: _Kept, rows: np.ndarray, among: str) -> list[Captioned]:
    return [
        Captioned(kept.paths[row], _thumbnail(pixels), f"[{kept.class_of[row]}]" if among == "all" else "")
        for row, pixels in zip(rows.tolist(), kept.pixels.read(rows), strict=True)
    ]
