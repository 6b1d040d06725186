"""What is made of each cluster: its mean image, its eigenfaces, its chart; and the sheets of all."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.aggregate.charts import OVERVIEW, occurrence_chart, overview
from toolkit.aggregate.eigenfaces import eigenfaces
from toolkit.aggregate.mean_images import moments
from toolkit.aggregate.occurrence import occurrence, prominent
from toolkit.aggregate.pictures import eigenfaces_figure, save_image, save_mean_sheet, weighted_figure
from toolkit.aggregate.reported import ABOUT, FOLDER, how_to_show
from toolkit.aggregate.texts import plain_text
from toolkit.atomic import atomic_file
from toolkit.report.drawing import save_figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from toolkit.aggregate.eigenfaces import Eigenfaces
    from toolkit.aggregate.labels import Labels
    from toolkit.aggregate.metadata import Attributes
    from toolkit.images.pixels import PixelFile
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

OCCURRENCE, SKIPPED = "occurrence.csv", "images_skipped.csv"
MOST_DRAWN = 100  # clusters that have more than a mean image; of more, nobody looks at each
_NUMBER = re.compile(r"\d{1,9}")
_TITLE = 80  # characters of a name; charts and sheets cut it to their room


@dataclass
class Aggregates:
    """What was made.

    Attributes
    ----------
    folder : Path
    labels : Labels
    failed : dict of int to str
        Row of the labels -> why its image has no part in any mean.
    table : DataFrame or None
        See `toolkit.aggregate.occurrence.occurrence`; None without attributes.
    notes : list of str
        What was left out, and how things were read.
    clusters : list of dict
        For each cluster: cluster (its name), number (in the names of files), images, and what is known of it.
    files : list of str
    """

    folder: Path
    labels: Labels
    failed: dict[int, str]
    table: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)
    clusters: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """For a person."""
        lines = [f"labels     {self.labels.text}"]
        if self.failed:
            row, reason = min(self.failed.items())
            example = f"for instance {str(self.labels.paths[row])!r:.120} {reason}"
            lines.append(f"images     {len(self.failed):,} cannot be used ({example}); all are in {SKIPPED}")
        lines += [f"note       {note}" for note in self.notes]
        if self.table is not None:
            clear = int(((self.table["p_adjusted"] < 0.05) & ~self.table["is_noisy"]).sum())
            noisy = int(self.table["is_noisy"].sum())
            lines.append(
                f"attributes {self.table['attribute'].nunique():,} in {self.table['cluster'].nunique():,} clusters: "
                f"{clear:,} differ from the whole set, {noisy:,} are noisy (of {len(self.table):,})"
            )
        lines.append(f"written    {self.folder}: {len(self.files):,} files, {ABOUT} says which")
        run = self.labels.run
        if run is not None and self.folder.absolute() == (run / FOLDER).absolute():
            lines.append(f"report     `{how_to_show(run)}` shows them in report.html")
        return "\n".join(lines)


@dataclass(frozen=True)
class Drawer:
    """Makes everything of the clusters, and notes it in `found`.

    Attributes
    ----------
    found : Aggregates
    pixels : PixelFile
        Of all images of the labels.
    known : Attributes or None
    n_components : int
    memory : MemoryBudget
    """

    found: Aggregates
    pixels: PixelFile
    known: Attributes | None
    n_components: int
    memory: MemoryBudget

    def draw(self, reporter: Reporter) -> None:
        """Write all pictures and the table."""
        labels, found = self.found.labels, self.found
        usable = np.ones(len(labels.paths), bool)
        usable[np.fromiter(found.failed, np.int64)] = False
        if self.known is not None:
            found.table = self._occurrence(self.known)
        drawn = np.argsort(-labels.sizes, kind="stable")[:MOST_DRAWN]
        if len(drawn) < len(labels.names):
            found.notes.append(
                f"of {len(labels.names):,} clusters the {len(drawn)} largest have more than a mean image"
            )
        means = []
        with reporter.track("mean images and eigenfaces", int(usable.sum())) as task:
            for cluster, number in enumerate(numbers_of(labels.names)):
                rows = np.flatnonzero((labels.classes == cluster) & usable)
                found.clusters.append({"cluster": labels.names[cluster], "number": number, "images": len(rows)})
                mean = self._cluster(cluster, rows, is_drawn=cluster in drawn)
                means += [] if mean is None else [(self._title(cluster), len(rows), mean)]
                task.advance(len(rows), self._title(cluster))
        if found.table is not None:
            self._save("occurrence.png", OVERVIEW, *overview(found.table, dict(enumerate(map(_title, labels.names)))))
        whole = moments(self.pixels, np.flatnonzero(usable))
        lines = [labels.source, f"The first is that of all {whole.n_images:,} images"]
        sheet = [("all images", whole.n_images, whole.mean), *means]
        save_mean_sheet(found.folder / "mean_images.png", sheet, lines)
        found.files.append("mean_images.png")

    def _cluster(self, cluster: int, rows: np.ndarray, *, is_drawn: bool) -> np.ndarray | None:
        """Draw one cluster, the last of those noted; return its mean image, if there is one."""
        found, about = self.found, self.found.clusters[-1]
        if found.table is not None and is_drawn:
            lines = found.table[found.table["cluster"] == cluster]
            title = f"{self._title(cluster)}: attributes of {int(lines['n'].max()):,} images"
            name = f"occurrence_{about['number']}.png"
            about["occurrence"] = self._save(name, title, *occurrence_chart(lines, title))
        if not len(rows):
            found.notes.append(f"{self._title(cluster)}: not one of its images can be used")
            return None
        n_components = self.n_components if is_drawn else 0
        faces = eigenfaces(self.pixels, rows, n_components=n_components, memory=self.memory)
        about["mean"] = f"mean_{about['number']}.png"
        save_image(faces.moments.mean, found.folder / about["mean"])
        found.files.append(about["mean"])
        if is_drawn:
            self._draw_faces(cluster, about, faces)
            self._draw_weighted(cluster, about, faces, rows)
        return faces.moments.mean

    def _draw_faces(self, cluster: int, about: dict[str, Any], faces: Eigenfaces) -> None:
        if not len(faces.components):
            why = "it has one image" if about["images"] == 1 else "its images are all the same"
            self.found.notes.append(f"{self._title(cluster)} has no eigenfaces: {why}")
            return
        title = f"{self._title(cluster)}: eigenfaces"
        name = f"eigenfaces_{about['number']}.png"
        about["eigenfaces"] = self._save(name, title, *eigenfaces_figure(faces, title))
        about |= {"variance": faces.moments.variance, "shares": faces.share.tolist(), "method": faces.method}

    def _draw_weighted(self, cluster: int, about: dict[str, Any], faces: Eigenfaces, rows: np.ndarray) -> None:
        if self.known is None or self.found.table is None:
            return
        lines = prominent(self.found.table, cluster)
        about["prominent"] = dict(zip(lines["attribute"].tolist(), lines["share"].tolist(), strict=True))
        has = self.known.has[rows][:, [self.known.names.index(name) for name in about["prominent"]]]
        weights = has @ lines["share"].to_numpy()
        if not weights.any():
            return
        counted = np.flatnonzero(weights)
        heavy = eigenfaces(self.pixels, rows[counted], n_components=1, weights=weights[counted], memory=self.memory)
        title = f"{self._title(cluster)}: weighted by its prominent attributes"
        name = f"weighted_{about['number']}.png"
        about["weighted"] = self._save(name, title, *weighted_figure(faces, heavy, lines, title))

    def _occurrence(self, known: Attributes) -> pd.DataFrame:
        table = occurrence(self.found.labels.classes, known)
        names = table.assign(cluster=table["cluster"].map(dict(enumerate(self.found.labels.names))))
        with atomic_file(self.found.folder / OCCURRENCE) as file:
            names.to_csv(file, index=False, lineterminator="\n", float_format="%.6g")
        self.found.files.append(OCCURRENCE)
        return table

    def _title(self, cluster: int) -> str:
        return _title(self.found.labels.names[cluster])

    def _save(self, name: str, title: str, figure: Figure, caption: str) -> str:
        caption = f"{caption} Labels: {plain_text(self.found.labels.source, 200)}."
        save_figure(self.found.folder / name, figure, title=title, caption=caption)
        self.found.files.append(name)
        return name


def numbers_of(names: Sequence[str]) -> list[int]:
    """Return the numbers that clusters have in names of files: their labels, if all are numbers, else 0, 1, ..."""
    return [int(name) for name in names] if all(map(_NUMBER.fullmatch, names)) else list(range(len(names)))


def _title(name: str) -> str:
    return f"Cluster {name}" if _NUMBER.fullmatch(name) else plain_text(name, _TITLE)
