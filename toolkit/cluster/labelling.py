"""What fitting a model of a grid gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


NOISE, UNSEEN = -1, -2  # labels that are no cluster: noise, and a row that the model was not fitted on


class Labelling(NamedTuple):
    """The clusters of one model.

    Attributes
    ----------
    labels : ndarray (n_samples,) int
        -1 is noise.
    centres : ndarray (n_clusters, n_features) float64 or None
        Of KMeans: the ones that the labels are exact for, so that new rows can be assigned.
    """

    labels: np.ndarray
    centres: np.ndarray | None = None


Result = Labelling | Exception  # or why there is none
