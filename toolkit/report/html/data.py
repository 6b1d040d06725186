"""What the HTML report shows: plain data, made by `toolkit.report.build`, written by `toolkit.report.html.pack`.

"Page rows" are the rows (images) of which the page holds paths, places on maps and labels: all rows of the run, or a
random sample of them where there are more than the page can hold. A position is an index into the page rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Map:
    """Places of rows in two dimensions; any labelling can be shown on it.

    Attributes
    ----------
    descriptor, scaler : str
        The matrix that was mapped.
    method : {"UMAP", "t-SNE", "PCA"}
    points : ndarray (n_placed, 2) float32
    positions : ndarray (n_placed,) int64
        Of these rows among the page rows, ascending.
    note : str
        How it was made and of which rows, in words, for instance ``UMAP fitted on 50,000 of 416,314 rows, seed 0``.
    """

    descriptor: str
    scaler: str
    method: str
    points: np.ndarray
    positions: np.ndarray
    note: str


@dataclass(frozen=True)
class Cluster:
    """One cluster of a model, or its noise.

    Attributes
    ----------
    label : int
        -1 is noise.
    n_rows : int
        Among all rows that the model was fitted on, not only the page rows.
    name : str
        Given by the user in names.csv; empty if there is none.
    stability : float or None
        Mean Jaccard similarity of the cluster with its counterpart in refits on random halves, from 0 to 1.
    sheet : str or None
        Path of its contact sheet, relative to the report.
    aggregates : dict of str to str
        Pictures of it as a whole: what each is -> its path, relative to the report.
    members : dict of str to list of int
        Kind (``central``, ``random``, ``border``) to positions of rows that show the cluster, best first.
    """

    label: int
    n_rows: int
    name: str = ""
    stability: float | None = None
    sheet: str | None = None
    aggregates: dict[str, str] = field(default_factory=dict)
    members: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportedModel:
    """One row of the model table.

    Attributes
    ----------
    id, name, stage, descriptor, scaler, cluster_class : str
    params : dict
    scores : dict of str to number, str or None
        Columns of the score tables: n_clusters, calinski_harabasz_score, davies_bouldin_score, silhouette_score,
        n_noise, coverage, largest_share, and further ones; error, warning as text.
    labels : ndarray (n_page_rows,) int32 or None
        -1 is noise, -2 is not seen by the model. None: they are not handed on.
    clusters : tuple of Cluster
        Ascending by label; empty where there are no labels.
    is_finalist, is_pareto, is_eligible : bool
        Chosen as a best model; on the Pareto front of its descriptor; meets the constraints of ``best``.
    why : str
        Why it is a finalist, in words; empty for the others.
    """

    id: str
    name: str
    stage: str
    descriptor: str
    scaler: str
    cluster_class: str
    params: dict[str, Any]
    scores: dict[str, Any]
    labels: np.ndarray | None = None
    clusters: tuple[Cluster, ...] = ()
    is_finalist: bool = False
    is_pareto: bool = False
    is_eligible: bool = True
    why: str = ""


@dataclass(frozen=True)
class Cut:
    """One labelling that the what-if sliders can reach.

    Attributes
    ----------
    settings : dict of str to number
        One value per slider.
    n_clusters : int
    coverage : float
        Of all rows that the matrix has.
    labels : ndarray (n_page_rows,) int32
    largest_share : float
        Of the clustered rows, in the largest cluster; 0 where there is none.
    """

    settings: dict[str, float]
    n_clusters: int
    coverage: float
    labels: np.ndarray
    largest_share: float = 0.0


@dataclass(frozen=True)
class WhatIf:
    """Cuts of one matrix's density forest, computed beforehand.

    Attributes
    ----------
    descriptor, scaler, cluster_class : str
    sliders : dict of str to list of number
        Parameter -> its values, ascending; there is a cut for every combination.
    cuts : list of Cut
        In the order of ``itertools.product(*sliders.values())``.
    note : str
        What was computed, in words.
    start : int
        The cut with which the sliders start, as a place in `cuts`.
    """

    descriptor: str
    scaler: str
    cluster_class: str
    sliders: dict[str, list[float]]
    cuts: list[Cut]
    note: str = ""
    start: int = 0


@dataclass(frozen=True)
class Figure:
    """A static picture.

    Attributes
    ----------
    descriptor : str
        Empty: of the whole run.
    title, caption : str
    image : bytes
        WebP, JPEG or PNG.
    """

    descriptor: str
    title: str
    caption: str
    image: bytes


@dataclass(frozen=True)
class Page:
    """Everything on the page.

    Attributes
    ----------
    title : str
    facts : list of (str, str)
        Of the run, to be shown as they are: rows, seed, device, versions, time.
    notes : list of str
        What was sampled or left out of the page.
    n_rows : int
        Of the run.
    rows : ndarray (n_page_rows,) int64
        The row of the run that each page row is, ascending.
    paths : list of str
        Image path of each page row; text from outside, to be escaped.
    image_urls : list of str or None
        Address of each page row's image relative to the report, percent-encoded, where images are files; None where
        they are not (archives, no images).
    thumbnails : dict of int to bytes
        Position -> JPEG of at most 64 pixels a side, the most important first.
    maps : list of Map
    models : list of ReportedModel
        The most important first: finalists, then by rank.
    what_ifs : list of WhatIf
    figures : list of Figure
    metrics : dict of str to bool
        Name of a score -> whether greater is better.
    agreement : list of (str, str, float, float)
        Model id, model id, adjusted Rand index, adjusted mutual information of two finalists.
    """

    title: str
    facts: list[tuple[str, str]]
    notes: list[str]
    n_rows: int
    rows: np.ndarray
    paths: list[str]
    image_urls: list[str] | None
    thumbnails: dict[int, bytes]
    maps: list[Map]
    models: list[ReportedModel]
    what_ifs: list[WhatIf]
    figures: list[Figure]
    metrics: dict[str, bool]
    agreement: list[tuple[str, str, float, float]] = field(default_factory=list)
