"""Splitting one cluster: its rows divided anew, by another model of the run or by an estimator fitted to them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from toolkit.assign import assign_all, assign_rows
from toolkit.cluster.density import DensityForest
from toolkit.cluster.predict import make_predictor
from toolkit.config import PARAMETERS, check_grid
from toolkit.errors import InputError
from toolkit.grid.fit import Settings, fit_and_score

if TYPE_CHECKING:
    from toolkit.cluster.predict import Predictor
    from toolkit.grid.finished import FinishedRun, Model


def split_rows(run: FinishedRun, model: Model, how: str, rows: np.ndarray, fitted: np.ndarray) -> list[str]:
    """Divide the rows of a cluster.

    Parameters
    ----------
    run : FinishedRun
    model : Model
        Whose cluster it is.
    how : str
        The name or id of another model, whose labels divide the rows, or an estimator as `parse_estimator` reads it,
        which is fitted to the rows that `model` has seen, in its space, with the seed and the engine of the run.
    rows, fitted : ndarray (n,) and (at most n,) int64
        Ascending row numbers of the run: of the cluster, and those among them that `model` has seen.

    Returns
    -------
    list of str
        For each row ``0``, ``1``, ..., numbered by their first row, or ``noise``.

    Raises
    ------
    InputError
        If `how` is neither, or the fit fails.
    """
    if how.split()[0] in PARAMETERS:
        return _numbered(_split_by_estimator(run, model, parse_estimator(how), rows, fitted))
    try:
        other = run.model(how)
    except InputError as error:
        raise InputError(f"{error}; or an estimator with parameters: {', '.join(PARAMETERS)}") from error
    labels, source = assign_all(run, other)
    return _numbered(np.where(source[rows] < 2, labels[rows], -1))


def parse_estimator(text: str) -> tuple[str, dict[str, Any]]:
    """Return the estimator and the parameters in a text as ``HDBSCAN min_cluster_size=20 min_samples=5``.

    Raises
    ------
    InputError
        Naming what was received and what is allowed.
    """
    family, *parts = text.split()
    params: dict[str, Any] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or not value or name in params:
            raise InputError(f"{part!r:.60} is not a parameter; write NAME=VALUE, each once, as {family} needs them")
        try:
            params[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{part!r:.60} has no value that can be read; write NAME=VALUE") from error
    try:
        check_grid({family: {name: [value] for name, value in params.items()}})
    except ValueError as error:
        raise InputError(str(error)) from error
    return family, params


def _split_by_estimator(
    run: FinishedRun, model: Model, estimator: tuple[str, dict[str, Any]], rows: np.ndarray, fitted: np.ndarray
) -> np.ndarray:
    X = run.matrix(model)
    at = np.searchsorted(run.reduced(model).rows, fitted)
    run.memory.require(X.itemsize * len(at) * X.shape[1], f"the {len(at):,} rows of a cluster")
    X = X[at]
    config = run.config
    settings = Settings(config.engine, config.noise, 0, config.seed, run.memory, run.backend)
    found = next(iter(fit_and_score([estimator], X, settings)))[0]
    if found.labels is None:
        raise InputError(found.row["error"])
    labels = np.full(len(rows), -1, np.int64)
    labels[np.searchsorted(rows, fitted)] = found.labels
    others = np.setdiff1d(rows, fitted, assume_unique=True)
    if len(others):
        predictor = _predictor(run, estimator, X, found.labels, found.centres)
        file = run.loader.open(model.cell.sample.descriptor)
        labels[np.searchsorted(rows, others)] = assign_rows(run, model, file, rows=others, predictor=predictor).labels
    return labels


def _predictor(
    run: FinishedRun,
    estimator: tuple[str, dict[str, Any]],
    X: np.ndarray,
    labels: np.ndarray,
    centres: np.ndarray | None,
) -> Predictor:
    def forest(min_samples: int) -> DensityForest:
        return DensityForest(min_samples, memory=run.memory, device=run.backend).fit(X)

    return make_predictor(*estimator, centres=centres, X=lambda: X, labels=labels, forest=forest)


def _numbered(labels: np.ndarray) -> list[str]:
    """Return parts numbered by their first row, ``noise`` where the label is -1."""
    numbers: dict[int, str] = {-1: "noise"}
    for label in labels.tolist():
        numbers.setdefault(label, str(len(numbers) - 1))
    return [numbers[label] for label in labels.tolist()]
