"""The report of a finished run: finalists with reasons, pictures, contact sheets, one HTML page; each alone or all."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.atomic import atomic_file, write_text
from toolkit.descriptors.cache import digest, file_digest
from toolkit.errors import ToolkitError, unknown
from toolkit.grid.finished import FinishedRun
from toolkit.grid.folder import RunFolder, read_run
from toolkit.images.source import open_images, run_images
from toolkit.memory import peak_bytes, reset_peak
from toolkit.naming import apply_names, names_of
from toolkit.report.predict import predicted_text
from toolkit.report.study import Study
from toolkit.report.why import write_finalists

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

    from toolkit.images.source import ImageSource
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

_DPI = 110
_LIBRARY_BYTES = 250 << 20  # of what draws


class _Report:
    """One report being made."""

    def __init__(self, study: Study, source: ImageSource) -> None:
        self.study, self.source = study, source
        self.run, self.plots = study.run, study.run.folder / "plots"
        self.notes: list[str] = []

    def _say(self, text: str) -> None:
        self.notes.append(text)
        self.run.reporter.say(text)

    def _warn(self, text: str) -> None:
        self.notes.append(text)
        self.run.reporter.warn(text)

    def finalists(self) -> list[Path]:
        """Write ``finalists.csv``."""
        path = self.run.folder / "finalists.csv"
        write_finalists(self.study, path)
        return [path]

    def pictures(self) -> list[Path]:
        """Write ``plots/DESCRIPTOR_NAME.png`` and ``plots/agreement.png``."""
        from toolkit.report.figures import AGREEMENT, FIGURES

        jobs: list[tuple[str, str, Callable[[], tuple[Figure, str] | None]]] = [
            (f"{descriptor}_{name}", f"{descriptor}: {kind.title}", lambda d=descriptor, k=kind: k.draw(self.study, d))  # type: ignore[misc]
            for descriptor in self.run.names
            for name, kind in FIGURES.items()
        ]
        jobs.append(("agreement", AGREEMENT.title, lambda: AGREEMENT.draw(self.study)))
        written = []
        with self.run.reporter.track("pictures", len(jobs)) as task:
            for name, title, draw in jobs:
                path = self.plots / f"{name}.png"
                if self._draw(path, title, draw):
                    written.append(path)
                else:
                    path.unlink(missing_ok=True)  # of an earlier report
                task.advance(1, name)
        return written

    def _draw(self, path: Path, title: str, draw: Callable[[], tuple[Figure, str] | None]) -> bool:
        try:
            drawn = draw()
        except OSError:
            raise  # the disk
        except Exception as error:  # a library's trouble with one picture must not cost the others
            self._warn(f"picture {path.name} could not be made: {type(error).__name__}: {' '.join(str(error).split())}")
            return False
        if drawn is None:
            return False
        figure, caption = drawn
        content = io.BytesIO()
        figure.savefig(content, dpi=_DPI, metadata={"Title": title, "Description": caption, "Software": None})
        with atomic_file(path) as file:
            file.write(content.getbuffer())
        return True

    def sheets(self) -> list[Path]:
        """Write ``plots/DESCRIPTOR_cluster_K.png`` for the best model of each descriptor."""
        from toolkit.report.sheets import write_sheets

        if len(self.source.problems) == self.run.n_rows:
            first = f"'{self.run.image_paths[0]:.200}' {self.source.problems[0]}"
            why = "the run has no image paths" if self.run.loader.image_paths is None else f"no image found: {first}"
            self._say(f"contact sheets are left out, {why}; --images takes a folder or a zip archive")
            return []
        written: list[Path] = []
        for descriptor in self.run.names:
            model = self.study.best(descriptor)
            if model is None:
                continue
            stability = self.study.stability[model.id].clusters
            sheets = write_sheets(
                self.run, model, self.source, self.plots, names=names_of(self.run, model), stabilities=stability
            )
            written += sheets.values()
        return written

    def html(self) -> list[Path]:
        """Write ``report.html``."""
        from toolkit.report.html.pack import page_html
        from toolkit.report.page import gather_page

        document, left_out = page_html(gather_page(self.study, self.source, notes=self.notes))
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
        Folder or zip archive that holds the images; by default as the run's configuration says.
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
        (run.folder / "plots").mkdir(exist_ok=True)
        report = _Report(Study(run, map_rows=map_rows), source)
        if not only:
            run.reporter.say(predicted_text(report.study))
        written: dict[str, list[Path]] = {}
        seconds: dict[str, float] = {}
        for name, make in PARTS.items():
            if not only or name in only:
                begun = time.monotonic()
                written[name] = make(report)
                seconds[name] = round(time.monotonic() - begun, 3)
        folder.record = read_run(run.folder)
        facts: dict[str, Any] = {"seconds": round(time.monotonic() - started, 3), "parts": seconds}
        if images is not None:
            folder.record["images"] = str(Path(images).resolve())  # so that the next report finds them
        facts |= {"of": None if only else _identity(run), "peak_bytes": peak_bytes(), "notes": report.notes}
        folder.describe(report=facts)
    apply_names(run, run.reporter)
    return written


def _identity(run: FinishedRun) -> str:
    """Return the hash of what a whole report shows."""
    names = run.folder / "names.csv"
    return digest(
        run.record["toolkit"],
        sorted(run.models),
        run.record["config"]["best"],
        str(run.config.descriptors.images),
        file_digest(names) if names.exists() else None,
    )


def report_after_run(folder: Path, *, memory: MemoryBudget, device: str, reporter: Reporter) -> None:
    """Make the report at the end of a run, whose results do not depend on it: what goes wrong is a warning."""
    try:
        run = FinishedRun(folder, memory=memory, device=device, reporter=reporter)
        if run.record.get("report", {}).get("of") == _identity(run) and (run.folder / "report.html").exists():
            reporter.say(f"the report is up to date; `toolkit report {folder}` makes it again")
        else:
            write_report(run)
    except ToolkitError as error:
        reporter.warn(f"the run is complete, its report is not: {error}; `toolkit report {folder}` makes it")
