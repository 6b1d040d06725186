"""From measures in different units to one score and one cut.

A measure is shifted and scaled so that its median is 0 and its 90th percentile 1; above 10 it counts by its logarithm,
so that no single row decides means and cuts. The score of a row in a descriptor is the largest over the detectors: one
that is certain is enough. The score of a row is the mean over descriptors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolkit.cluster.arguments import require_integer
from toolkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMBINATION = (
    "0 is the median of the rows and 1 their 90th percentile, by each detector (of measures of few values by how few "
    "rows reach them); the score in a descriptor is the largest of its detectors, the score the mean over descriptors"
)
_MEDIAN, _HIGH = 0.5, 0.9  # shares of the rows below
_TAIL = np.log((1 - _MEDIAN) / (1 - _HIGH))
_FEW_VALUES = 200  # more than a grid has DBSCAN models
_ROUNDING = 1e-9
_LINEAR = 10.0  # normalised, up to where it is linear
_LARGEST_CONTAMINATION = 0.5
_RULES = ("contamination", "number", "threshold")


def normalised(measure: np.ndarray) -> np.ndarray:
    """Return a measure with its median at 0 and its 90th percentile at 1, (n_rows,) float64, logarithmic above 10.

    In a measure of few values, such as the share of models, and where median and percentile are one value but for
    rounding, a value is as far as how few rows reach it makes it, on the scale of an exponential tail: 0 at half of the
    rows, 1 at a tenth, 2 at 2 %.

    Parameters
    ----------
    measure : ndarray (n_rows,) float64
    """
    middle, high = np.quantile(measure, (_MEDIAN, _HIGH), method="inverted_cdf")
    values, place, counts = np.unique(measure, return_inverse=True, return_counts=True)
    is_coarse = len(values) <= min(_FEW_VALUES, len(measure) / 4)
    if not is_coarse and high - middle > _ROUNDING * max(abs(middle), abs(high)):
        with np.errstate(over="ignore"):
            scaled = np.minimum((measure - middle) / (high - middle), np.finfo(np.float64).max)
        return np.asarray(np.where(scaled > _LINEAR, _LINEAR + np.log(np.maximum(scaled, _LINEAR) / _LINEAR), scaled))
    share = np.cumsum(counts[::-1])[::-1] / len(measure)  # of the rows that reach each value
    return np.asarray(np.where(values > middle, np.log(_MEDIAN / np.minimum(share, _MEDIAN)) / _TAIL, 0.0)[place])


def ranks(score: np.ndarray) -> np.ndarray:
    """Return the rank of each row, (n_rows,) int64 from 1, the highest score first, of equal ones the first row.

    Rows without a score (NaN) come last.
    """
    rank = np.empty(len(score), np.int64)
    rank[np.lexsort((np.arange(len(score)), -score))] = np.arange(1, len(score) + 1)  # NaN sorts last
    return rank


@dataclass(frozen=True)
class Cut:
    """Where outliers begin; without any number at the knee of the sorted scores.

    Parameters
    ----------
    contamination : float, optional
        Their share of the rows, above 0 and at most 0.5.
    number : int, optional
        How many they are.
    threshold : float, optional
        Their least score, above 0.

    Raises
    ------
    InputError
        For more than one of these, or one out of range.
    """

    contamination: float | None = None
    number: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        given = [rule for rule in _RULES if getattr(self, rule) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} are given; at most one rule cuts, without any the knee does")
        if self.contamination is not None and not 0 < self.contamination <= _LARGEST_CONTAMINATION:
            raise InputError(
                f"contamination is {self.contamination:g}; allowed: above 0, at most {_LARGEST_CONTAMINATION:g}"
            )
        if self.number is not None:
            require_integer("number", self.number)
        if self.threshold is not None and not 0 < self.threshold < np.inf:
            raise InputError(f"threshold is {self.threshold:g}; allowed: a score above 0, the median of the rows")

    def n_outliers(self, score: np.ndarray) -> int:
        """Return how many rows are outliers: those of the first so many ranks, equal scores together.

        Rows of the lowest score are none.

        Raises
        ------
        InputError
            If more rows are asked for than have a score.
        """
        known = np.sort(score[~np.isnan(score)])[::-1]
        if self.number is not None and self.number > len(known):
            raise InputError(f"number is {self.number:,}; allowed: at most the rows that have a score, {len(known):,}")
        if self.threshold is not None:
            return int(np.count_nonzero(known >= self.threshold))
        if self.contamination is not None:
            n_first = round(self.contamination * len(known))
        else:
            n_first = knee(known[: -(-len(known) // 2)]) if self.number is None else self.number
        if n_first == 0:
            return 0
        return int(np.count_nonzero((known >= known[n_first - 1]) & (known > known[-1])))

    @property
    def text(self) -> str:
        """The rule, in words."""
        if self.contamination is not None:
            return f"a contamination of {100 * self.contamination:g} %"
        if self.number is not None:
            return f"a number of {self.number:,}"
        if self.threshold is not None:
            return f"a threshold of {self.threshold:g}"
        return "the knee of the sorted scores of the upper half"


def knee(descending: np.ndarray) -> int:
    """Return how many numbers come before the knee of a falling curve: the farthest point below the chord of its ends.

    0 if it does not bend (Satopaa, Albrecht, Irwin, Raghavan 2011, without smoothing).

    Parameters
    ----------
    descending : ndarray (n,) float64
    """
    if len(descending) < 3 or descending[0] == descending[-1]:
        return 0
    along = np.linspace(0, 1, len(descending))
    down = (descending - descending[-1]) / (descending[0] - descending[-1])
    return int((1 - along - down).argmax())


@dataclass(frozen=True)
class Combined:
    """The scores of all rows of a run.

    Attributes
    ----------
    detectors : dict of str to dict of str to ndarray
        Descriptor -> detector -> normalised measure, (n_rows,) float64; NaN where the row has none.
    by_descriptor : dict of str to ndarray
        Descriptor -> score, (n_rows,) float64; NaN where the row has none.
    score : ndarray (n_rows,) float64
        NaN where no descriptor has one.
    strongest : ndarray (n_rows,) of str
        Descriptor and detector of the largest normalised measure.
    """

    detectors: dict[str, dict[str, np.ndarray]]
    by_descriptor: dict[str, np.ndarray]
    score: np.ndarray
    strongest: np.ndarray

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Descriptor and detector, as in `strongest` -> normalised measure."""
        return {f"{name} {one}": values for name, of in self.detectors.items() for one, values in of.items()}

    def votes(self, n_outliers: int) -> tuple[np.ndarray, np.ndarray]:
        """Return how many detectors put a row among their first `n_outliers`, and how many measure it.

        Both (n_rows,) int64. Of rows that a detector cannot tell apart, it counts all or none.
        """
        votes, voters = np.zeros(len(self.score), np.int64), np.zeros(len(self.score), np.int64)
        for values in self.columns.values():
            votes += among_first(values, n_outliers)
            voters += ~np.isnan(values)
        return votes, voters


def among_first(score: np.ndarray, number: int) -> np.ndarray:
    """Return which rows are above 0 and reached by at most so many rows, itself counted: (n_rows,) bool."""
    there = ~np.isnan(score)
    n_reach = np.count_nonzero(there) - np.searchsorted(np.sort(score[there]), score)
    return np.asarray(there & (score > 0) & (n_reach <= number))


def combine(measures: dict[str, dict[str, np.ndarray]]) -> Combined:
    """Normalise and combine measures.

    Parameters
    ----------
    measures : dict of str to dict of str to ndarray
        Descriptor -> detector -> measure, (n_rows,) float64; NaN where the row has none, in all detectors of the
        descriptor. At least one detector each.
    """
    detectors: dict[str, dict[str, np.ndarray]] = {}
    for descriptor, of in measures.items():
        detectors[descriptor] = {}
        for name, measure in of.items():
            there = ~np.isnan(measure)
            values = detectors[descriptor][name] = np.full(len(measure), np.nan)
            values[there] = normalised(measure[there])
    by_descriptor = {name: np.max(list(of.values()), axis=0) for name, of in detectors.items()}
    score = _mean(list(by_descriptor.values()))
    return Combined(detectors, by_descriptor, score, _strongest(detectors))


def _mean(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of the numbers of each row, NaN where it has none."""
    there = np.sum([~np.isnan(score) for score in scores], axis=0)
    total = np.sum([np.nan_to_num(score, nan=0.0) for score in scores], axis=0)
    return np.where(there > 0, total / np.maximum(there, 1), np.nan)


def _strongest(detectors: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    names = [f"{descriptor} {name}" for descriptor, of in detectors.items() for name in of]
    all_values = (values for of in detectors.values() for values in of.values())
    highest = next(all_values).copy()
    strongest = np.zeros(len(highest), np.int64)
    for number, values in enumerate(all_values, start=1):
        higher = (values > highest) | (np.isnan(highest) & ~np.isnan(values))
        highest[higher], strongest[higher] = values[higher], number
    return np.where(np.isnan(highest), "", np.array(names, dtype=object)[strongest])
