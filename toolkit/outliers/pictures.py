"""Pictures of outliers: their scores with the cut, how far detectors agree, and the images themselves."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from toolkit.atomic import atomic_file, remove_unfinished
from toolkit.images.quality import PROBLEMS
from toolkit.images.thumbnails import Thumbnails
from toolkit.outliers.combine import COMBINATION, among_first, ranks
from toolkit.report.contact_sheet import COLUMNS, SIDE, Section, read_images, save_sheet

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from toolkit.grid.finished import FinishedRun
    from toolkit.images.source import ImageSource
    from toolkit.outliers.build import Outliers
    from toolkit.outliers.detectors import Detector

_SHOWN = 2 * COLUMNS  # images of each detector and of each problem
_SPARE = 4 * COLUMNS  # rows behind those shown, for images that cannot be read
_BINS = 60
_FEWEST = 10  # rows whose agreement is shown, where fewer are outliers
_DPI = 110
_LINE_CHARACTERS = 105  # below the title of a sheet
_CUT, _BARS = "#b2362c", "#4878a8"


def write_pictures(
    run: FinishedRun, found: Outliers, source: ImageSource, *, detectors: dict[str, Detector], top: int
) -> None:
    """Draw everything into ``plots/``; what was there before and is not drawn now is removed.

    Parameters
    ----------
    run : FinishedRun
    found : Outliers
    source : ImageSource
    detectors : dict of str to Detector
        Those that were used.
    top : int
        Images on the sheet of the highest scores.
    """
    plots = run.folder / "plots"
    plots.mkdir(exist_ok=True)
    remove_unfinished(plots)
    figures = {"outlier_scores.png": _scores(found), "outlier_agreement.png": _agreement(found)}
    for name, figure in figures.items():
        _save(figure, plots / name)
    sheets = dict.fromkeys(["outliers.png", "image_problems.png"])
    sheets |= dict.fromkeys(f"{descriptor}_outliers.png" for descriptor in run.names)
    if len(source.problems) < run.n_rows:
        sheets |= _sheets(found, Thumbnails(source, SIDE, run.memory), detectors, top)
    for name, sheet in sheets.items():
        if sheet is None or not any(section.images for section in sheet.sections):
            (plots / name).unlink(missing_ok=True)  # of another time
        else:
            save_sheet(plots / name, *sheet)


# Figures
def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, dpi=_DPI, metadata={"Software": None})
    with atomic_file(path) as file:
        file.write(content.getbuffer())


def _scores(found: Outliers) -> Figure:
    """Draw the distribution of the score, of each descriptor's too, and the sorted scores, with the cut."""
    from matplotlib.figure import Figure

    from toolkit.report.drawing import with_caption

    combined = found.combined
    panels = {"all descriptors": combined.score} if len(combined.by_descriptor) > 1 else {}
    panels |= combined.by_descriptor
    figure = Figure(figsize=(10, 3.2 * len(panels)), layout="constrained")
    axes: Any = figure.subplots(len(panels), 2, squeeze=False)
    for (name, score), (left, right) in zip(panels.items(), axes, strict=True):
        known = np.sort(score[~np.isnan(score)])[::-1]
        n_outliers = found.cut.n_outliers(score)
        left.hist(known, bins=_BINS, color=_BARS)
        left.set(yscale="log", xlabel="score", ylabel="rows", title=name)
        right.plot(np.arange(1, len(known) + 1), known, color=_BARS)
        right.set(xscale="log", xlabel="rank", ylabel="score", title=f"{n_outliers:,} of {len(known):,} are outliers")
        if n_outliers:
            left.axvline(known[n_outliers - 1], color=_CUT)
            right.axvline(n_outliers, color=_CUT)
    figure.suptitle("Outlier scores")
    line = f"The line is the cut, by {found.cut.text}." if found.n_outliers else f"No row is cut, by {found.cut.text}."
    with_caption(figure, f"{line} {COMBINATION[0].upper()}{COMBINATION[1:]}.")
    return figure


def _agreement(found: Outliers) -> Figure:
    """Draw which share of the first rows of one detector are among the first of another."""
    from matplotlib.figure import Figure

    from toolkit.report.drawing import with_caption

    n_first = max(found.n_outliers, _FEWEST)
    columns = found.combined.columns | {"score": found.combined.score}
    first = [among_first(values, n_first) for values in columns.values()]
    both = np.array([[np.count_nonzero(one & other) for other in first] for one in first])
    shares = 100 * both / np.maximum(both.diagonal(), 1)[:, None]
    side = max(5.0, 1.5 + 0.42 * len(columns))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    ax: Any = figure.subplots()
    image = ax.imshow(shares, vmin=0, vmax=100, cmap="Blues")
    ticks = np.arange(len(columns))
    ax.set_xticks(ticks, columns, rotation=90, fontsize=8)
    ax.set_yticks(ticks, columns, fontsize=8)
    for i, j in np.ndindex(*shares.shape):
        ax.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=7,
                color="white" if shares[i, j] > 60 else "0.2")  # fmt: skip
    figure.colorbar(image, ax=ax, shrink=0.6, label="%")
    ax.set_title("Agreement of the detectors")
    with_caption(
        figure,
        f"Of the first {n_first:,} rows of the detector on the left, the percentage that is among the first "
        f"{n_first:,} of the one below. Of rows that a detector cannot tell apart, all or none are counted.",
    )
    return figure


# Contact sheets
class _Sheet(NamedTuple):
    title: str
    lines: list[str]
    sections: list[Section]


def _sheets(
    found: Outliers, thumbnails: Thumbnails, detectors: dict[str, Detector], top: int
) -> dict[str, _Sheet | None]:
    """Return file name -> sheet: of all, of each descriptor, of images with problems."""
    combined = found.combined
    n_rows = int(np.count_nonzero(~np.isnan(combined.score)))
    said = f"{found.n_outliers:,} of {n_rows:,} rows are outliers, by {found.cut.text}; below each image its score"
    highest = _section(f"The {min(top, n_rows):,} highest scores", combined.score, thumbnails, top)
    sheets: dict[str, _Sheet | None] = {"outliers.png": _Sheet("Outliers", [said], [highest])}
    for descriptor, of in combined.detectors.items():
        sections = [_section(f"{one}: {detectors[one].title}", values, thumbnails) for one, values in of.items()]
        line = "The images that each detector finds oddest, and how odd: 0 is the median of all, 1 the 90th percentile"
        sheets[f"{descriptor}_outliers.png"] = _Sheet(f"Outliers by {descriptor}", [line], sections)
    if found.quality is not None:
        sheets["image_problems.png"] = _problems(found.quality, thumbnails)
    return sheets


def _section(title: str, score: np.ndarray, thumbnails: Thumbnails, most: int = _SHOWN) -> Section:
    """Show the rows with the highest scores."""
    n_rows = int(np.count_nonzero(~np.isnan(score)))
    rows = np.argsort(ranks(score))[: min(most + _SPARE, n_rows)]
    images = list(read_images(rows, thumbnails, most, notes=lambda row: f"{score[row]:.1f}"))
    n_lost = sum(int(row) in thumbnails.problems for row in rows[:most])
    lost = f" ({n_lost} of the {min(most, n_rows)} highest cannot be read, others follow)" if n_lost else ""
    n_alike = int(np.count_nonzero(score == score[rows[min(most, len(rows)) - 1]])) if len(rows) else 0
    alike = f" ({n_alike:,} rows have the last one's score)" if n_alike > most else ""
    return Section(title + lost + alike, images)


def _problems(quality: pd.DataFrame, thumbnails: Thumbnails) -> _Sheet:
    """Show the images of each kind of problem, and say by which rules."""
    sections = []
    lines = [f"{len(quality):,} images were looked at, {quality['is_failed'].sum():,} could not be read"]
    for name, problem in PROBLEMS.items():
        rows = quality["row"][quality[f"is_{name}"]].to_numpy()
        if len(rows):
            images = list(read_images(rows, thumbnails, _SHOWN))
            shown = f", {len(images)} shown" if len(images) < len(rows) else ""
            sections.append(Section(f"{problem.title}: {len(rows):,} image{'s' * (len(rows) != 1)}{shown}", images))
            lines += textwrap.wrap(f"{problem.title}: {problem.rule}", _LINE_CHARACTERS)
    return _Sheet("Image problems", lines, sections)
