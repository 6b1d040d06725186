"""What an evaluation is kept in: a JSON file and the ROC curve."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.atomic import atomic_folder
from toolkit.errors import InputError
from toolkit.faces.evaluation.descriptors import DescriptorEvaluation
from toolkit.faces.evaluation.labels import LabelEvaluation
from toolkit.score.truth import FALSE_ACCEPTANCE

EVALUATION, PICTURE = "evaluation.json", "roc.png"
_DPI = 110


def write_evaluation(found: DescriptorEvaluation | LabelEvaluation, out: str | Path) -> Path:
    """Write evaluation.json and, of descriptors, the ROC curve (roc.png) into a new folder, whole or not at all.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the folder is there and not empty.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise InputError(f"--out {out} {what}; give a new folder, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        content = json.dumps(_for_json(found), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / EVALUATION).write_text(content + "\n", encoding="utf-8")
        if isinstance(found, DescriptorEvaluation):
            (folder / PICTURE).write_bytes(_roc_picture(found))
    return out


def _for_json(value: Any) -> Any:
    """Return what JSON can write: NaN as null, tuples with names and dataclasses as objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {field.name: _for_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        extra = "coverage" if isinstance(value, LabelEvaluation) else "sampling"
        return found | {extra: getattr(value, extra)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _for_json(one) for name, one in value._asdict().items()}
    if isinstance(value, list | np.ndarray):
        return [_for_json(one) for one in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _roc_picture(found: DescriptorEvaluation) -> bytes:
    """Draw TAR over FAR, on a logarithmic scale, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    curves = [("all pairs" if found.listed is not None else "", found.pairs), ("listed pairs", found.listed)]
    for name, one in curves:
        if one is not None:
            label = f"{name} AUC {one.auc:.4f}, equal error rate {one.equal_error_rate:.4f}".strip()
            axes.plot(one.curve_far, one.curve_tar, drawstyle="steps-post", label=label)
    axes.axvline(FALSE_ACCEPTANCE, color="0.75", linewidth=1)
    axes.set_xscale("log")
    axes.set(xlabel="false acceptance rate", ylabel="true acceptance rate", ylim=(0, 1.02))
    axes.set_title(f"{Path(found.descriptor).name}: {found.n_identities:,} identities, {found.metric} distance")
    axes.legend(loc="lower right")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return content.getvalue()
