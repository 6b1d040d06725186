"""The command line: every verb is one call into the library."""

from __future__ import annotations

import errno
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.aggregate.verbs import aggregate, cvae
from toolkit.cli_options import ConfigFile, Debug, Device, Images, Memory, NoisyModel, Quiet, Seed, Strict
from toolkit.distribute.verbs import cancel, resume, shard, submit
from toolkit.errors import InputError, InterruptedRunError, ToolkitError
from toolkit.faces.verbs import faces
from toolkit.progress import resumable

if TYPE_CHECKING:
    from toolkit.grid.run import Outcome
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

app = typer.Typer(
    help="Cluster image descriptors: PCA, scaling, a grid of KMeans, DBSCAN and HDBSCAN, scores, the best labelling.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(faces, name="faces")
app.add_typer(cvae, name="cvae")

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UsageError: type[Any] = typer.BadParameter.__mro__[1]  # click's UsageError, wherever this version of typer keeps it


@app.command()
def run(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="Folder for the results; an unfinished run in it goes on.")],
    device: Device = "auto",
    memory: Memory = None,
    seed: Seed = None,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS|local:N|slurm:N",
            help="Work on a Dask cluster: of a scheduler that runs, N processes of this machine, or N jobs of Slurm.",
        ),
    ] = None,
    *,
    strict: Strict = False,
    report: Annotated[bool, typer.Option(help="Draw the plots and write report.html at the end.")] = True,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run all stages of CONFIG and write scores, the best labelling, plots, report.html and run.json to --out."""
    from toolkit.report.build import report_after_run
    from toolkit.report.tables import outcome_text

    with resumable():
        outcome, budget, reporter = _execute(config, out, device, memory, seed, dask, strict=strict, quiet=quiet)
        if report:
            report_after_run(out, memory=budget, device=device, reporter=reporter)
    if not quiet:
        print(outcome_text(outcome))


def _execute(
    config: Path,
    out: Path,
    device: str,
    memory: str | None,
    seed: int | None = None,
    dask: str | None = None,
    *,
    strict: bool,
    quiet: bool,
) -> tuple[Outcome, MemoryBudget, Reporter]:
    """Run all stages of a configuration."""
    from toolkit.backend.device import choose_backend
    from toolkit.config import load_config, seeded
    from toolkit.grid.run import Run
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

    loaded = seeded(load_config(config), seed)
    if dask is not None:
        from toolkit.distribute.dask_backend import open_backend

        budget, reporter = MemoryBudget.resolve(memory), Reporter(quiet=quiet)
        opened = open_backend(dask, out, device=device, engine=loaded.engine, memory=budget, reporter=reporter)
        with opened as (cluster, own):
            job = Run(loaded, out, memory=own, backend=cluster, reason="--dask", reporter=reporter, strict=strict)
            return job.execute(), budget, reporter
    backend, reason = choose_backend(device, engine=loaded.engine, memory=memory)
    budget, reporter = MemoryBudget.resolve(memory), Reporter(quiet=quiet)
    job = Run(loaded, out, memory=budget, backend=backend, reason=reason, reporter=reporter, strict=strict)
    return job.execute(), budget, reporter


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Part to make: finalists, plots, sheets or html; may be given again.")
    ] = None,
    images: Images = None,
    map_rows: Annotated[
        int | None,
        typer.Option(help="Rows on each map; by default 50,000 (UMAP), 10,000 (t-SNE), 100,000 (PCA).", min=20),
    ] = None,
    device: Device = "auto",
    memory: Memory = None,
    *,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make the report of the run in DIR again: finalists.csv, plots, contact sheets, report.html."""
    from toolkit.grid.finished import FinishedRun
    from toolkit.progress import Reporter
    from toolkit.report.build import write_report

    run = FinishedRun(folder, memory=memory, device=device, reporter=Reporter(quiet=quiet))
    written = write_report(run, only=only or (), images=images, map_rows=map_rows)
    if not quiet:
        for part, paths in written.items():
            print(f"{part:10}{len(paths)} file{'s' * (len(paths) != 1)}" + (f", {paths[0]}" if paths else ""))


@app.command()
def plan(config: ConfigFile, memory: Memory = None, *, debug: Debug = False) -> None:
    """Print what CONFIG will compute: rows, bytes, predicted seconds and GiB per group; exit 2 if it cannot fit."""
    from toolkit.config import load_config
    from toolkit.grid.fitter import open_loader
    from toolkit.grid.predict import check_memory, predict
    from toolkit.memory import MemoryBudget
    from toolkit.report.tables import plan_text

    loaded = load_config(config)
    loader = open_loader(loaded, MemoryBudget.resolve(memory))
    parts = predict(loaded, loader)
    print(plan_text(parts, loader.memory))
    check_memory(parts, loader.memory)


@app.command()
def assign(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    descriptors: Annotated[
        Path,
        typer.Argument(
            metavar="NEW_DESCRIPTORS",
            help="Descriptor file named as in DIR (or give --model), or a folder of such files.",
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Name or id of one model; by default all finalists.")] = None,
    image_paths: Annotated[Path | None, typer.Option(help="CSV with one image path per row.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables; by default DIR.")] = None,
    device: Device = "auto",
    memory: Memory = None,
    *,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Label the rows of NEW_DESCRIPTORS by the models of DIR: test_assignments.csv and .json."""
    from toolkit.assign import assign_descriptors, assigned_text
    from toolkit.progress import Reporter

    found = assign_descriptors(
        folder,
        descriptors,
        model=model,
        image_paths=image_paths,
        out=out,
        memory=memory,
        device=device,
        reporter=Reporter(quiet=quiet),
    )
    if not quiet:
        print(f"{assigned_text(found)}\nlabels     {(out or folder) / 'test_assignments.csv'}")


@app.command()
def outliers(
    source: Annotated[
        Path, typer.Argument(metavar="CONFIG|DIR", help="Folder of a finished run, or a configuration to run first.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the results of CONFIG, as in `toolkit run`.")] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(help="Detector to use, may be given again; all (our own, the default) or pyod.NAME of PyOD."),
    ] = None,
    contamination: Annotated[float | None, typer.Option(help="Share of the rows that are outliers.")] = None,
    number: Annotated[int | None, typer.Option(help="How many rows are outliers.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least score of an outlier; 1 is the 90th percentile. By default the knee.")
    ] = None,
    top: Annotated[int, typer.Option(help="Images on the sheet of the highest scores.", min=1, max=1000)] = 64,
    images: Images = None,
    device: Device = "auto",
    memory: Memory = None,
    seed: Seed = None,
    *,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rank all rows by how odd they are: outliers.csv, contact sheets, and images that failed or show nothing."""
    from toolkit.grid.finished import FinishedRun
    from toolkit.outliers.build import outliers_text, write_outliers
    from toolkit.outliers.combine import Cut
    from toolkit.outliers.detectors import find_detectors
    from toolkit.progress import Reporter

    cut = Cut(contamination, number, threshold)
    find_detectors(detector or ())  # what is wrong with the names is said before a run
    with resumable():
        if not source.exists():
            raise InputError(
                f"{source} does not exist; give the folder of a finished run, or a configuration and --out"
            )
        if source.is_file():
            if out is None:
                raise InputError(f"{source} is a configuration; --out says where its results go")
            _execute(source, out, device, memory, seed, strict=False, quiet=quiet)
        elif out is not None or seed is not None:
            given = "--out" if out is not None else "--seed"
            raise InputError(f"{given} is for a configuration; {source} is a run, whose outliers go into its folder")
        run = FinishedRun(out or source, memory=memory, device=device, reporter=Reporter(quiet=quiet))
        found = write_outliers(run, detectors=detector or (), cut=cut, top=top, images=images)
    if not quiet:
        print(outliers_text(run, found))


@app.command()
def duplicates(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    within: Annotated[
        float | None,
        typer.Option(help="Distance in the scaled space; by default 0.3 of the usual one to the nearest row.", min=0),
    ] = None,
    descriptor: Annotated[
        list[str] | None, typer.Option(help="Descriptor to look at, may be given again; by default all.")
    ] = None,
    images: Images = None,
    device: Device = "auto",
    memory: Memory = None,
    *,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Group near-duplicates: duplicates.csv with one representative each, duplicate_pairs.csv, contact sheets."""
    from toolkit.outliers.duplicates import duplicates_text, write_duplicates
    from toolkit.progress import Reporter

    found = write_duplicates(
        folder,
        within=within,
        descriptors=descriptor or (),
        images=images,
        memory=memory,
        device=device,
        reporter=Reporter(quiet=quiet),
    )
    if not quiet:
        print(duplicates_text(found))


@app.command()
def reassign(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    model: NoisyModel = None,
    min_confidence: Annotated[
        float, typer.Option(help="Rows with less stay noise: 0 is as near to another cluster, 1 no other is near.")
    ] = 0.0,
    device: Device = "auto",
    memory: Memory = None,
    *,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Give the noise of a model to the nearest clusters, with a confidence: new columns in reassigned.csv."""
    from toolkit.outliers.noise import reassign as reassign_noise
    from toolkit.progress import Reporter

    table = reassign_noise(
        folder, model=model, min_confidence=min_confidence, memory=memory, device=device, reporter=Reporter(quiet=quiet)
    )
    if not quiet:
        print(table.text)


@app.command()
def recluster(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    grid: Annotated[
        Path | None,
        typer.Argument(metavar="GRID", help="YAML with grid:, as in a stage, and best:; by default a few HDBSCAN."),
    ] = None,
    model: NoisyModel = None,
    device: Device = "auto",
    memory: Memory = None,
    *,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Cluster the noise of a model by a grid of its own: new columns in reclustered.csv."""
    from toolkit.outliers.noise import recluster as recluster_noise
    from toolkit.progress import Reporter

    table = recluster_noise(folder, grid, model=model, memory=memory, device=device, reporter=Reporter(quiet=quiet))
    if not quiet:
        print(table.text)


@app.command()
def label(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    model: Annotated[
        str | None, typer.Option(help="Name or id of a model; by default the one that the names are for, or the best.")
    ] = None,
    names: Annotated[
        Path | None, typer.Option(help="CSV of names, put into DIR/names.csv, which is the default.")
    ] = None,
    device: Device = "auto",
    memory: Memory = None,
    *,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write labelled.csv: every image with its cluster's name; without names.csv, a form to fill in."""
    from toolkit.naming import label_images
    from toolkit.progress import Reporter

    reporter = Reporter(quiet=quiet)
    named = label_images(folder, model=model, names=names, memory=memory, device=device, reporter=reporter)
    if not quiet:
        print(named.text)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")],
    *,
    debug: Debug = False,
) -> None:
    """Print how far the run in DIR is."""
    from toolkit.distribute.states import submission_text
    from toolkit.report.tables import status_text

    print(status_text(folder))
    if submitted := submission_text(folder):
        print(submitted)


app.command()(aggregate)
app.command()(submit)
app.command()(resume)
app.command()(cancel)
app.command(hidden=True)(shard)


@app.command()
def doctor(*, debug: Debug = False) -> None:
    """Print versions, device, free memory and optional packages."""
    from toolkit.report.doctor import doctor_text

    print(doctor_text())


def main() -> None:
    """Run the command line."""
    run_command(app, sys.argv[1:] or ["--help"], name="toolkit")


def run_command(command: typer.Typer, arguments: list[str], *, name: str) -> None:
    """Run a command and exit; errors that a user can act on are one line, without a traceback."""
    try:
        sys.exit(command(arguments, standalone_mode=False))
    except _UsageError as error:
        sys.exit(_fail(f"{error.format_message().rstrip('.')}; see {name} --help", error.exit_code))
    except typer.Abort:
        sys.exit(_fail("stopped", InterruptedRunError.exit_code))
    except (ToolkitError, OSError) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        if isinstance(error, ToolkitError):
            sys.exit(_fail(str(error), error.exit_code))
        sys.exit(_fail(_explain(error), InputError.exit_code))


def _explain(error: OSError) -> str:
    if error.errno in _DISK_ERRORS:
        return f"cannot write: {error.strerror}; free some space and run the same command, finished models are kept"
    return f"cannot use {error.filename or 'a file'}: {error.strerror or error}; check the path and its permissions"


def _fail(text: str, code: int) -> int:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return code
