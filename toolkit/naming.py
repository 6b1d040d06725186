"""Names for clusters: a CSV that a person fills in, and the named images that come of it.

``names.csv`` has the columns model (its name or id), cluster, name and, if wanted, split; others are ignored. Two
clusters with one name share it. ``split`` divides a cluster's rows anew: by another model of the run (its name or id),
or by an estimator with parameters (``KMeans n_clusters=3``) that is fitted to these rows in the model's own space. The
parts of cluster 3 are ``3.0``, ``3.1``, ..., numbered by their first row, and ``3.noise``; they can be named like
clusters, and are called ``NAME 0``, ``NAME 1``, ..., ``NAME noise`` otherwise.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from toolkit.assign import SOURCES, assign_all
from toolkit.atomic import atomic_file
from toolkit.errors import InputError
from toolkit.grid.finished import FinishedRun
from toolkit.splitting import split_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from toolkit.grid.finished import Model
    from toolkit.memory import MemoryBudget
    from toolkit.progress import Reporter

NAMES, LABELLED = "names.csv", "labelled.csv"
_COLUMNS = ("model", "cluster", "name")  # that a names.csv must have
_CLUSTER = re.compile(r"(-?\d{1,9})(?:\.(\d{1,9}|noise))?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class NameRow(NamedTuple):
    """A row of a names.csv: `where` says which, for errors; `cluster` is ``3``, ``-1``, ``3.0`` or ``3.noise``."""

    where: str
    model: str
    cluster: str
    name: str
    split: str


class ClusterNames(NamedTuple):
    """Of one model: label -> name of the clusters that have one, and the labels of those that are split."""

    names: dict[int, str]
    split: list[int]


@dataclass(frozen=True)
class Named:
    """What was written.

    Attributes
    ----------
    path : Path
    text : str
        What it is and what to do next, for a person.
    """

    path: Path
    text: str


def label_images(
    folder: str | Path,
    *,
    model: str | None = None,
    names: str | Path | None = None,
    memory: str | int | MemoryBudget | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Named:
    """Give every image of a run the name of its cluster; without names, write a form to fill in.

    Parameters
    ----------
    folder : path
        Of a finished run.
    model : str, optional
        Name or id; by default the one that the names are for, of a form the best of all.
    names : path, optional
        By default ``names.csv`` in the run; those of another file are put in there, for later runs and reports.
    memory, device, reporter
        As in `FinishedRun`.

    Returns
    -------
    Named
        ``labelled.csv`` in the run: image_path, cluster, name and source of every row. The source is ``fitted``,
        ``assigned`` (a row that the model has not seen, see `toolkit.assign`) or ``unreadable`` (NaN or inf: without
        cluster). A name that a spreadsheet would take for a formula (first character = + - @) begins with an
        apostrophe there. Or, where there were no names, ``names.csv``.

    Raises
    ------
    InputError
        If the run cannot be used, or the names are not what the module says.
    """
    run = FinishedRun(folder, memory=memory, device=device, reporter=reporter)
    path = run.folder / NAMES if names is None else Path(names)
    if not path.exists():
        if names is not None:
            raise InputError(f"names {path} does not exist; without --names, a form is written to {run.folder / NAMES}")
        return _write_form(run, run.model(model), path)
    rows = read_names(path)
    by_model: dict[Model, list[NameRow]] = {}
    for row in rows:
        by_model.setdefault(_model_of(run, row), []).append(row)
    chosen = run.model(model) if model is not None else next(iter(by_model), None)
    listed = ", ".join(one.name for one in by_model)
    if chosen is None:
        raise InputError(f"{path} has no rows; delete it, and a form is written in its place")
    if chosen not in by_model:
        raise InputError(f"{path} names no cluster of {chosen.name}, only of {listed}; add rows with that model")
    if model is None and len(by_model) > 1:
        raise InputError(f"{path} is for {len(by_model)} models: {listed}; choose one with --model")
    named = _write_labelled(run, chosen, by_model[chosen])
    if names is None or path.resolve() == (run.folder / NAMES).resolve():
        return named
    return replace(named, text=f"{named.text}; {_keep_names(run, chosen, by_model[chosen])}")


def _keep_names(run: FinishedRun, model: Model, rows: list[NameRow]) -> str:
    """Put names into the run's own ``names.csv``, for later runs and reports; say what became of those there."""
    path = run.folder / NAMES
    before = read_names(path) if path.exists() else []
    new = {row.cluster for row in rows}
    kept = [row for row in before if row.cluster not in new or model not in _known_models(run, [row], None)]
    with atomic_file(path) as file:
        table = pd.DataFrame([*rows, *kept]).drop(columns="where")
        table.to_csv(file, index=False, lineterminator="\n")
    return f"{path} has these {len(rows)} names too, in place of {len(before) - len(kept)} ({len(kept)} others stay)"


def apply_names(run: FinishedRun, reporter: Reporter) -> None:
    """Write ``labelled.csv`` anew if there is a ``names.csv``; what is wrong with it is a warning, not an error.

    Of several models that are named, it is the one that comes first among the finalists, then in the last table.
    """
    path = run.folder / NAMES
    if not path.exists():
        return
    try:
        named = _known_models(run, read_names(path), reporter)
        ranked = [model for model in dict.fromkeys((*run.finalists, *run.models.values())) if model in named]
        if not ranked:
            reporter.warn(f"{path} names no model that this run has; {LABELLED} is not written")
            return
        if len(ranked) > 1:
            reporter.say(f"{path} is for {len(ranked)} models, {LABELLED} for {ranked[0].name}; see `toolkit label`")
        reporter.say(_write_labelled(run, ranked[0], named[ranked[0]]).text)
    except InputError as error:
        reporter.warn(f"{LABELLED} is not written: {error}")


def names_of(run: FinishedRun, model: Model) -> dict[int, str]:
    """Return the names of a model's clusters in the run's ``names.csv``, those without a name left out.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    found = all_names(run)
    return found[model].names if model in found else {}


def all_names(run: FinishedRun) -> dict[Model, ClusterNames]:
    """Return what the run's ``names.csv`` says of every model that it names.

    Raises
    ------
    InputError
        As `names_of`.
    """
    path = run.folder / NAMES
    if not path.exists():
        return {}
    found = {}
    for model, rows in _known_models(run, read_names(path), None).items():
        whole = {int(one): row for one, row in _by_cluster(rows).items() if "." not in one}
        names = {label: row.name for label, row in whole.items() if row.name}
        found[model] = ClusterNames(names, [label for label, row in whole.items() if row.split])
    return found


def defused(name: str) -> str:
    """Return a name as no spreadsheet takes it for a formula: an apostrophe before = + - @, tab or return."""
    return f"'{name}" if name.startswith(_FORMULA) else name


# Reading names
def read_names(path: Path) -> list[NameRow]:
    """Read a names.csv; clusters are checked for their form only.

    Raises
    ------
    InputError
        If it is no CSV in UTF-8 with the columns model, cluster and name, or a cluster is nothing that can be one.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(i, row) for i, row in enumerate(csv.reader(file, strict=True), 1) if any(map(str.strip, row))]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as CSV UTF-8") from error
    except (csv.Error, OSError) as error:
        raise InputError(f"{path} is not a readable CSV: {error}") from error
    header = [name.strip().lower() for name in lines[0][1]] if lines else []
    if len(header) == 1 and ";" in header[0]:
        raise InputError(f"{path} is separated by semicolons; save it as CSV separated by commas")
    if missing := [name for name in _COLUMNS if name not in header]:
        raise InputError(f"{path} has no column {missing[0]}; there are: {', '.join(header) or 'none'}")
    place = {name: header.index(name) for name in (*_COLUMNS, "split") if name in header}
    found = []
    for number, row in lines[1:]:
        if len(row) > len(header):
            raise InputError(f"{path}, line {number} has {len(row)} cells, the header has {len(header)}; quote commas")
        cells = {name: row[at].strip() if at < len(row) else "" for name, at in place.items()}
        where = f"{path}, line {number}"
        found.append(
            NameRow(where, cells["model"], _cluster_of(where, cells["cluster"]), cells["name"], cells.get("split", ""))
        )
    return found


def _cluster_of(where: str, text: str) -> str:
    match = _CLUSTER.fullmatch(text)
    if not match:
        raise InputError(f"{where}: cluster is {text!r:.40}; allowed: a label as 3 or -1, or a part as 3.0 or 3.noise")
    part = match[2] if match[2] in (None, "noise") else str(int(match[2]))
    return str(int(match[1])) if part is None else f"{int(match[1])}.{part}"


def _model_of(run: FinishedRun, row: NameRow) -> Model:
    if not row.model:
        raise InputError(f"{row.where} names no model; write the name or id of one")
    try:
        return run.model(row.model)
    except InputError as error:
        raise InputError(f"{row.where}: {error}") from error


def _known_models(run: FinishedRun, rows: list[NameRow], reporter: Reporter | None) -> dict[Model, list[NameRow]]:
    """Return the rows of each model that the run has; the others are a warning."""
    found: dict[Model, list[NameRow]] = {}
    strangers: dict[str, str] = {}
    for row in rows:
        try:
            found.setdefault(_model_of(run, row), []).append(row)
        except InputError:
            strangers.setdefault(row.model, row.where)
    if reporter is not None:
        for model, where in strangers.items():
            reporter.warn(f"{where}: this run has no model {model!r:.80}; its names are left out")
    return found


def _by_cluster(rows: Iterable[NameRow]) -> dict[str, NameRow]:
    found: dict[str, NameRow] = {}
    for row in rows:
        if row.cluster in found:
            raise InputError(
                f"{row.where}: cluster {row.cluster} is there already in {found[row.cluster].where}; keep one of them "
                f"(a spreadsheet may have turned a part as 3.10 into 3.1: format the column as text)"
            )
        found[row.cluster] = row
    return found


def _require_known(rows: Iterable[NameRow], known: Iterable[str], model: Model) -> None:
    there = list(known)
    for row in rows:
        if row.cluster not in there:
            raise InputError(
                f"{row.where}: {model.name} has no cluster {row.cluster}; there are: {', '.join(there[:200])}"
            )


# Writing them
def _write_form(run: FinishedRun, model: Model, path: Path) -> Named:
    labels, counts = np.unique(run.labels(model), return_counts=True)
    known_as = model.name if run.model(model.name) is model else model.id
    table = pd.DataFrame(
        {
            "model": known_as,
            "cluster": labels,
            "name": "",
            "split": "",
            "n_rows": counts,
            "share": [f"{share:.4f}" for share in counts / counts.sum()],
        }
    )
    with atomic_file(path) as file:
        table.to_csv(file, index=False, lineterminator="\n")
    return Named(
        path,
        f"{path} is a form for the {len(labels)} clusters of {model.name}: fill in the column name (one name for "
        f"several clusters joins them; split divides one, for instance with: KMeans n_clusters=3), then run "
        f"`toolkit label {run.folder}` again",
    )


def _write_labelled(run: FinishedRun, model: Model, rows: list[NameRow]) -> Named:
    named = _by_cluster(rows)
    labels, source = assign_all(run, model)
    clusters = [str(label) for label in np.unique(run.labels(model))]
    _require_known((row for row in rows if "." not in row.cluster), clusters, model)
    if deep := [row for row in rows if row.split and "." in row.cluster]:
        raise InputError(f"{deep[0].where}: {deep[0].cluster} is a part and cannot be split again; split otherwise")
    cluster = np.array([str(label) for label in labels.tolist()], dtype=object)
    for row in rows:
        if row.split:
            inside = np.flatnonzero((labels == int(row.cluster)) & (source < 2))
            try:
                parts = split_rows(run, model, row.split, inside, inside[source[inside] == 0])
            except InputError as error:
                raise type(error)(f"{row.where} (split of cluster {row.cluster}): {error}") from error
            cluster[inside] = [f"{row.cluster}.{part}" for part in parts]
    cluster[source == 2] = ""
    known = dict.fromkeys([*clusters, *sorted(set(cluster[cluster != ""].tolist()) - set(clusters))])
    _require_known(rows, known, model)
    name_of = {one: _name_of(one, named) for one in known} | {"": ""}
    table = pd.DataFrame(
        {
            "image_path": run.image_paths,
            "cluster": cluster,
            "name": [name_of[one] for one in cluster],
            "source": np.array(SOURCES, dtype=object)[source],
        }
    )
    path = run.folder / LABELLED
    with atomic_file(path) as file:
        table.assign(name=table["name"].map(defused)).to_csv(file, index=False, lineterminator="\n")
    with_name = int((table["name"] != "").sum())
    n_names = table.loc[table["name"] != "", "name"].nunique()
    text = f"{path}: {with_name:,} of {len(table):,} images have one of {n_names} names, by {model.name}"
    if not n_names:
        text = f"{path} has no name yet: fill in the column name of {run.folder / NAMES}"
    if parts := [one for one in known if "." in one and one not in named]:
        text += f"; the parts {', '.join(parts[:20])} can be named by rows of their own"
    return Named(path, f"{text}; `toolkit report {run.folder} --only sheets --only html` shows names")


def _name_of(cluster: str, named: dict[str, NameRow]) -> str:
    """Return the name of a cluster or of a part: its own, or that of the whole with the part's."""
    if cluster in named and named[cluster].name:
        return named[cluster].name
    whole, _, part = cluster.partition(".")
    return f"{named[whole].name} {part}" if part and whole in named and named[whole].name else ""
