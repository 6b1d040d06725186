"""Pictures of mean images and of eigenfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from toolkit.aggregate.charts import safe_text
from toolkit.aggregate.texts import plain_text
from toolkit.atomic import atomic_file
from toolkit.report.contact_sheet import SIDE, Captioned, Section, save_sheet
from toolkit.report.drawing import about_picture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from toolkit.aggregate.eigenfaces import Eigenfaces

MOST_ON_SHEET = 400  # clusters
_CELL = 1.15  # inches
_STEPS = 2.0  # standard deviations from the mean
_PER_ROW = 8  # components
_NAMED = 8  # attributes in a caption
_GAP, _TITLE, _LEAST_WIDTH = 0.04, 0.16, 5.0  # in sides of an image: between two, above it, of a figure
_TITLE_CHARACTERS = 11  # per inch
_GREY, _CONTRAST, _STRONGEST = 127.5, 100, 20.0  # of a difference: its middle, its largest value, its magnification


def as_image(pixels: np.ndarray) -> Image.Image:
    """Return pixels (size, size, 3), 0 to 255, as an image; what is beyond is cut."""
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))


def save_image(pixels: np.ndarray, path: Path) -> None:
    """Write pixels (size, size, 3), 0 to 255, as PNG, whole or not at all."""
    with atomic_file(path) as file:
        as_image(pixels).save(file, "PNG")


def save_mean_sheet(path: Path, means: Sequence[tuple[str, int, np.ndarray]], lines: list[str]) -> None:
    """Write a sheet of the mean images of all clusters (name, number of images, mean), in their order."""
    title, what = "Mean images", "Below each mean: the images in it, and the cluster"
    largest = sorted(range(len(means)), key=lambda i: (-means[i][1], i))[:MOST_ON_SHEET]
    shown = [means[i] for i in sorted(largest)]
    if len(shown) < len(means):
        lines = [*lines, f"The {len(shown)} largest of {len(means):,} clusters"]
    images = [Captioned(name, _thumbnail(mean), f"{n_images:,}") for name, n_images, mean in shown]
    about = about_picture(title, f"{'. '.join([*lines, what])}.")
    save_sheet(path, title, lines, [Section(what, images)], about=about)


def _thumbnail(mean: np.ndarray) -> Image.Image:
    return as_image(mean).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def eigenfaces_figure(found: Eigenfaces, title: str) -> tuple[Figure, str]:
    """Draw the mean, and two standard deviations of each component from it, both ways; return the caption too."""
    mean = found.moments.mean
    tiles = {(0.0, 0): ("mean", mean)}
    steps = _STEPS * np.sqrt(found.variance)[:, None, None, None] * found.components
    for number, (step, share) in enumerate(zip(steps, found.share, strict=True)):
        y, x = number // _PER_ROW * (2 + _GAP + _TITLE), number % _PER_ROW + 1
        tiles[y, x] = (f"{number + 1}: {100 * share:.3g} %", mean + step)
        tiles[y + 1 + _GAP, x] = ("", mean - step)
    return _tiled(tiles, title), (
        f"The mean of {found.moments.n_images:,} images, and for each eigenface its share of the variance and the mean "
        f"with {_STEPS:g} standard deviations of it added (above) and taken away (below); together "
        f"{100 * found.share.sum():.3g} % of the variance."
    )


def weighted_figure(
    plain: Eigenfaces, weighted: Eigenfaces, attributes: pd.DataFrame, title: str
) -> tuple[Figure, str]:
    """Draw the mean, the weighted one, their difference, the first weighted component; return the caption too."""
    mean, heavy = plain.moments.mean, weighted.moments.mean
    difference = heavy - mean
    strength = min(_CONTRAST / max(float(np.abs(difference).max()), 1e-9), _STRONGEST)
    shown = [("mean", mean), ("weighted", heavy), (f"difference x {strength:.2g}", _GREY + strength * difference)]
    if len(weighted.components):
        step = _STEPS * np.sqrt(weighted.variance[0]) * weighted.components[0]
        shown += [(f"1: {100 * weighted.share[0]:.3g} %, added", heavy + step), ("taken away", heavy - step)]
    listed = [
        f"{plain_text(str(name))} ({100 * share:.0f} %, lift {lift:.2g})"
        for name, share, lift in zip(*(attributes[key][:_NAMED] for key in ("attribute", "share", "lift")), strict=True)
    ]
    more = f" and {len(attributes) - _NAMED} more" if len(attributes) > _NAMED else ""
    return _tiled({(0.0, x): tile for x, tile in enumerate(shown)}, title), (
        f"Each of the {weighted.moments.n_images:,} images that have any counts as much as the shares of its "
        f"prominent attributes: {', '.join(listed)}{more}. On the right the first weighted eigenface, {_STEPS:g} "
        f"standard deviations each way."
    )


def _tiled(tiles: dict[tuple[float, int], tuple[str, np.ndarray]], title: str) -> Figure:
    """Draw images at their places (top and column, in sides of an image), each below its title."""
    width = max(x for _, x in tiles) * (1 + _GAP) + 1
    height = max(y for y, _ in tiles) + 1
    inches = _CELL * max(width, _LEAST_WIDTH), _CELL * (height + _TITLE) + 0.35
    figure = Figure(figsize=inches, layout="constrained")
    ax: Any = figure.subplots()
    for (y, column), (text, pixels) in tiles.items():
        x = column * (1 + _GAP)
        ax.imshow(np.asarray(as_image(pixels)), extent=(x, x + 1, y + 1, y), interpolation="lanczos")
        ax.text(x + 0.5, y - 0.03, text, ha="center", va="bottom", fontsize=8)
    ax.set(xlim=(0, max(width, _LEAST_WIDTH)), ylim=(height, -_TITLE), aspect="equal")
    ax.axis("off")
    figure.suptitle(safe_text(title, int(inches[0] * _TITLE_CHARACTERS)), fontsize=11, x=0.01, ha="left")
    return figure
