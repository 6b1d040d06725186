"""The report of a finished run: finalists with reasons, pictures, contact sheets, one HTML page; each alone or all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.aggregate.reported import stamps
from toolkit.atomic import remove_unfinished, write_text
from toolkit.descriptors.cache import digest, file_digest
from toolkit.errors import ToolkitError, unknown
from toolkit.grid.finished import FinishedRun
from toolkit.grid.folder import RunFolder
from toolkit.images.source import open_images, run_images
from toolkit.images.thumbnails import write_skipped
from toolkit.memory import peak_bytes, reset_peak
from toolkit.naming import NAMES, apply_names
from toolkit.report.predict import predicted_text
from toolkit.report.study import Study
from toolkit.report.why import write_finalists

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

    from toolkit.images.source import ImageSource
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

    Draw = Callable[[], tuple[Figure, str] | None]

_LIBRARY_BYTES = 250 << 20  # of what draws


class _Report:
    """One report being made.

    Attributes
    ----------
    notes : dict of str to list of str
        Part -> what was left out of it, and why; of parts that are not made now, as they were noted when they were.
    """

    def __init__(self, study: Study, source: ImageSource) -> None:
        self.study, self.source = study, source
        self.run, self.plots = study.run, study.run.folder / "plots"
        self.notes: dict[str, list[str]] = dict(self.run.record.get("report", {}).get("notes", {}))

    def finalists(self) -> list[Path]:
        """Write ``finalists.csv``."""
        path = self.run.folder / "finalists.csv"
        write_finalists(self.study, path)
        return [path]

    def pictures(self) -> list[Path]:
        """Write ``plots/DESCRIPTOR_NAME.png`` and ``plots/agreement.png``."""
        from toolkit.report.figures import AGREEMENT, FIGURES

        jobs: list[tuple[str, str, str, Draw]] = [
            (f"{descriptor}_{name}", descriptor, kind.title, lambda d=descriptor, k=kind: k.draw(self.study, d))  # type: ignore[misc]
            for descriptor in self.run.names
            for name, kind in FIGURES.items()
        ]
        jobs.append(("agreement", "", AGREEMENT.title, lambda: AGREEMENT.draw(self.study)))
        written = []
        with self.run.reporter.track("pictures", len(jobs)) as task:
            for name, descriptor, title, draw in jobs:
                path = self.plots / f"{name}.png"
                if self._draw(path, descriptor, title, draw):
                    written.append(path)
                else:
                    path.unlink(missing_ok=True)  # of an earlier report
                task.advance(1, name)
        return written

    def _draw(self, path: Path, descriptor: str, title: str, draw: Draw) -> bool:
        from toolkit.report.drawing import save_figure

        try:
            drawn = draw()
        except OSError:
            raise  # the disk
        except Exception as error:  # a library's trouble with one picture must not cost the others
            reason = " ".join(str(error).split())
            reason = reason if isinstance(error, ToolkitError) else f"{type(error).__name__}: {reason}"
            self.notes["plots"].append(f"picture {path.name} could not be made: {reason}")
            self.run.reporter.warn(self.notes["plots"][-1])
            return False
        if drawn is None:
            return False
        figure, caption = drawn
        title = f"{descriptor}: {title}" if descriptor else title
        save_figure(path, figure, title=title, caption=caption, descriptor=descriptor)
        return True

    def sheets(self) -> list[Path]:
        """Write ``plots/DESCRIPTOR_cluster_K.png`` for the best model of each descriptor; none without images."""
        from toolkit.report.sheets import write_sheets

        if len(self.source.problems) == self.run.n_rows:
            first = f"'{self.run.image_paths[0]:.200}' {self.source.problems[0]}"
            why = "the run has no image paths" if self.run.loader.image_paths is None else f"no image found: {first}"
            text = f"no contact sheets are made, {why}; --images takes a folder or a zip archive"
            self.notes["sheets"].append(text)
            self.run.reporter.say(text)
            return []
        written: list[Path] = []
        for descriptor in self.run.names:
            model = self.study.best(descriptor)
            if model is None:
                continue
            stability = self.study.stability[model.id].clusters
            names = self.study.names_of(model)
            sheets = write_sheets(self.run, model, self.source, self.plots, names=names, stabilities=stability)
            written += sheets.values()
        return written

    def html(self) -> list[Path]:
        """Write ``report.html``."""
        from toolkit.report.html.pack import page_html
        from toolkit.report.page import gather_page

        notes = [note for part in self.notes.values() for note in part]
        document, left_out = page_html(gather_page(self.study, self.source, notes=notes))
        for sentence in left_out:
            self.run.reporter.warn(f"report.html: {sentence}")
        path = self.run.folder / "report.html"
        write_text(path, document)
        return [path]


PARTS: dict[str, Callable[[_Report], list[Path]]] = {
    "finalists": _Report.finalists,
    "plots": _Report.pictures,
    "sheets": _Report.sheets,
    "html": _Report.html,
}


def write_report(
    run: FinishedRun,
    *,
    only: Sequence[str] = (),
    images: str | Path | None = None,
    map_rows: int | None = None,
) -> dict[str, list[Path]]:
    """Make the report of a finished run in its folder.

    Parameters
    ----------
    run : FinishedRun
    only : sequence of {"finalists", "plots", "sheets", "html"}
        Parts; none means all. The page shows the pictures and links the sheets that are there.
    images : path, optional
        Folder or zip archive that holds the images, from now on; by default as the run's configuration says.
    map_rows : int, optional
        Rows on each map; see `toolkit.report.maps.Maps`.

    Returns
    -------
    dict of str to list of Path
        Part -> the files that were written.

    Raises
    ------
    InputError
        For an unknown part, images that cannot be used, or a folder that another process works in.
    """
    if strangers := [name for name in only if name not in PARTS]:
        raise unknown("part of the report", strangers[0], PARTS)
    run.memory.require(_LIBRARY_BYTES, "drawing the report")
    source = run_images(run) if images is None else open_images(run.image_paths, Path(images))
    started = time.monotonic()
    reset_peak()
    with RunFolder(run.folder) as folder, source:
        report = _Report(Study(run, map_rows=map_rows), source)
        report.plots.mkdir(exist_ok=True)
        remove_unfinished(report.plots)
        if not only:
            run.reporter.say(predicted_text(report.study))
        written: dict[str, list[Path]] = {}
        seconds: dict[str, float] = {}
        for name, make in PARTS.items():
            if not only or name in only:
                begun = time.monotonic()
                report.notes[name] = []
                written[name] = make(report)
                seconds[name] = round(time.monotonic() - begun, 3)
        if {"sheets", "html"} & set(written):
            write_skipped(run.folder / "images_skipped.csv", source)
        facts: dict[str, Any] = {"seconds": round(time.monotonic() - started, 3), "parts": seconds}
        facts |= {"peak_bytes": peak_bytes(), "notes": report.notes, "map_rows": map_rows}
        shown = str(Path(images).resolve()) if images is not None else run.record.get("images")
        facts["of"] = run.record.get("report", {}).get("of") if only else _identity(run, shown)
        folder.annotate(report=facts, images=shown)
    apply_names(run, run.reporter)
    return written


def _identity(run: FinishedRun, images: str | None) -> str:
    """Return the hash of what a whole report shows."""
    names = run.folder / NAMES
    named = file_digest(names) if names.exists() else None
    aggregates = stamps(run.folder)
    return digest(run.record["toolkit"], sorted(run.models), run.record["config"]["best"], images, named, aggregates)


def report_after_run(folder: Path, *, memory: MemoryBudget, device: str, reporter: Reporter) -> None:
    """Make the report at the end of a run, whose results do not depend on it: what goes wrong is a warning."""
    try:
        run = FinishedRun(folder, memory=memory, device=device, reporter=reporter)
        last = run.record.get("report", {})
        is_whole = (folder / "report.html").exists() and last.get("map_rows") is None
        if is_whole and last.get("of") == _identity(run, run.record.get("images")):
            reporter.say(f"the report is up to date; `toolkit report {folder}` makes it again")
        else:
            write_report(run)
    except Exception as error:  # the run is finished, and must be said to be
        known = isinstance(error, ToolkitError | OSError)
        reason = " ".join(str(error).split()) if known else f"{type(error).__name__}: {error}"
        reporter.warn(f"the run is complete, its report is not: {reason}; `toolkit report {folder}` makes it")
