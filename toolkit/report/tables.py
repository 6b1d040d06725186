"""Plain-text tables for the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from toolkit.grid.folder import is_locked, read_run
from toolkit.grid.store import Store
from toolkit.grid.table import model_name
from toolkit.memory import MemoryBudget, format_size
from toolkit.progress import format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from toolkit.grid.predict import Prediction
    from toolkit.grid.run import Outcome


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Align columns with blanks; numbers to the right, text to the left."""
    texts = [list(header), *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[j]) for row in texts) for j in range(len(header))]
    right = [all(row[j][:1].isdigit() or row[j][:1] in "-~ " for row in texts[1:]) for j in range(len(header))]
    lines = []
    for row in texts:
        cells = [
            text.rjust(width) if r else text.ljust(width) for text, width, r in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def plan_text(parts: list[Prediction], memory: MemoryBudget) -> str:
    """Show the prediction for each part of a run."""
    rows = [
        (
            part.stage,
            part.part,
            f"{'at most ' if part.refined and part.n_cells else ''}{part.n_cells or '-'}",
            f"{part.n_rows:,}",
            format_size(part.cost.n_bytes),
            format_size(part.cost.worst_bytes),
            format_seconds(part.cost.seconds),
        )
        for part in parts
    ]
    header = ("stage", "part", "models", "rows", "memory", "at worst", "time")
    return f"{format_table(header, rows)}\n{plan_summary(parts, memory)}"


def plan_summary(parts: list[Prediction], memory: MemoryBudget) -> str:
    """Say in one line what a run will take."""
    stated, refined = ([part for part in parts if part.refined is refined] for refined in (False, True))
    more = f" and at most {sum(part.n_cells for part in refined)} refined ones" if refined else ""
    seconds = format_seconds(sum(part.cost.seconds for part in stated))
    most = format_seconds(sum(part.cost.seconds for part in parts))
    return (
        f"plan: {sum(part.n_cells for part in stated)} models{more}, about {seconds}"
        f"{f' (with all refined ones at most {most})' if refined else ''}, "
        f"{format_size(max(part.cost.n_bytes for part in parts))} of memory beside the program itself "
        f"(budget {format_size(memory.limit)}, {memory.source}), "
        f"at most {format_size(sum(part.disk_bytes for part in parts))} on disk"
    )


def outcome_text(outcome: Outcome) -> str:
    """Show the finalists and where the files are."""
    best = [
        (
            model_name(model),
            model["n_clusters"],
            _number(model["calinski_harabasz_score"], ".1f"),
            _number(model["davies_bouldin_score"], ".3f"),
            _number(model["silhouette_score"], ".3f"),
            f"{100 * model['coverage']:.0f} %",
        )
        for _, model in outcome.finalists.iterrows()
    ]
    header = ("best models", "n_clusters", "calinski_harabasz", "davies_bouldin", "silhouette", "coverage")
    lines = [format_table(header, best)] if best else ["no model of the last stage meets the constraints of best"]
    failed = sum(int(table["error"].notna().sum()) for table in outcome.models.values())
    lines.append("")
    lines.append(
        f"{sum(map(len, outcome.models.values()))} models in {len(outcome.models)} stages, "
        f"{outcome.n_fitted} fitted now" + (f", {failed} failed (column error)" if failed else "")
    )
    lines += [f"scores     {outcome.folder / name}_scores.csv" for name in outcome.models]
    lines.append(f"labelling  {outcome.folder / 'best_clusterization.csv'}")
    if (page := outcome.folder / "report.html").exists():
        lines.append(f"report     {page}")
    return "\n".join(lines)


def _number(value: float, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)


def status_text(folder: Path) -> str:
    """Say how far a run is: its stages, models on disk, and whether a process works on it."""
    record = read_run(folder)
    if is_locked(folder):
        state = "running"
    elif record["state"] in ("complete", "submitted"):
        state = record["state"]
    else:
        reason = f" ({record['error']})" if record.get("error") else ""
        state = f"stopped{reason}; run the same command to go on"
    lines = [f"{folder}: {state}", f"started {record['started']}, device {record.get('device', {}).get('name', '?')}"]
    rows = []
    for stage in record["config"]["stages"]:
        facts = record["stages"].get(stage["name"])
        if facts:
            rows.append((stage["name"], "done", facts["models"], facts["failed"], format_seconds(facts["seconds"])))
        else:
            rows.append((stage["name"], "not done", "-", "-", "-"))
    lines.append(format_table(("stage", "state", "models", "failed", "time"), rows))
    lines.append(f"{len(Store(folder / 'models').rows)} models on disk")
    return "\n".join(lines)
