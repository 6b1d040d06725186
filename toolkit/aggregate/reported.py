"""What the report of a run shows of its aggregates: the pictures of all clusters, and links to those of each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FOLDER, ABOUT = "aggregates", "aggregates.json"  # in a run; what `toolkit aggregate` says of what it wrote there
_OF_ALL = ("aggregates", "interpolation", "mean_images", "occurrence")
_OF_EACH = {"Eigenfaces": "eigenfaces", "Attributes": "occurrence", "Weighted by attributes": "weighted"}


def pictures_of_all(run: Path) -> list[Path]:
    """Return the pictures of all clusters together that are there."""
    paths = [run / FOLDER / f"{name}.png" for name in _OF_ALL]
    return [path for path in paths if path.is_file()]


def stamps(run: Path) -> list[tuple[str, int, int]]:
    """Return the name, size and time (ns) of whatever the report may show of a run's aggregates."""
    paths = [*sorted((run / FOLDER).glob("*.png")), run / FOLDER / ABOUT]
    found = [(path.name, path.stat()) for path in paths if path.is_file()]
    return [(name, one.st_size, one.st_mtime_ns) for name, one in found]


def how_to_show(run: Path) -> str:
    """Return the command that brings the pictures in a run's folder of aggregates into its report."""
    return f"toolkit report {run} --only html"


def pictures_of_each(run: Path, model: str, names: Mapping[int, str]) -> dict[int, dict[str, str]]:
    """Return the pictures of single clusters: label -> what it is -> its path as seen from the run.

    Parameters
    ----------
    run : Path
    model : str
        Its id. There is nothing where the aggregates are of another model, or of labels that are none of the run.
    names : mapping of int to str
        Label -> name, of all clusters of the model: what it is called now, else the label itself.
    """
    try:
        about = json.loads((run / FOLDER / ABOUT).read_text(encoding="utf-8"))
        if about["model"] != model:
            return {}
        number_of = {str(one["cluster"]): int(one["number"]) for one in about["clusters"]}
        is_named = bool(about["named"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or somebody else's
        return {}
    found: dict[int, dict[str, str]] = {}
    for label, name in names.items():
        number = number_of.get(name if is_named else str(label))
        paths = {title: f"{FOLDER}/{kind}_{number}.png" for title, kind in _OF_EACH.items()}
        found[label] = {title: path for title, path in paths.items() if (run / path).is_file()}
    return found
