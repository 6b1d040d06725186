"""Every DBSCAN and every HDBSCAN of one matrix from one neighbour pass: the density forest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numba import njit

from toolkit.atomic import atomic_folder, write_text
from toolkit.backend.arrays import from_array
from toolkit.backend.device import get_backend
from toolkit.cluster.arguments import check_matrix, require_choice, require_integer, require_number
from toolkit.cluster.forest_plan import BYTES_PER_POINT
from toolkit.cluster.lists import ENTRY_BYTES, Edges, NeighborLists, save_lists
from toolkit.cluster.local_outliers import local_outlier_factors, noise_radii, square_roots
from toolkit.cluster.mst import join, largest_spanning_tree, smaller_spanning_tree
from toolkit.cluster.points import Points, measure
from toolkit.cluster.trees import CondensedTree, build_hierarchy, condense, glosh, label_rows, select_clusters
from toolkit.descriptors.cache import digest, file_digest, load_arrays, save_arrays
from toolkit.errors import InputError
from toolkit.memory import MemoryBudget
from toolkit.score.density import relative_validity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from toolkit.backend.base import Backend
    from toolkit.cluster.lists import Lists
    from toolkit.cluster.trees import Hierarchy

_VERSION = 1  # of the saved form
METHODS = ("eom", "leaf")


class SpanningTree(NamedTuple):
    """A minimum spanning tree of mutual reachability: two rows, int32, and their float64 distance, ascending."""

    i: np.ndarray
    j: np.ndarray
    distance: np.ndarray


class Neighbors(NamedTuple):
    """The neighbour lists of the distinct rows (points), and which rows these stand for; see `Points`."""

    lists: Lists
    index_of: np.ndarray
    first: np.ndarray
    counts: np.ndarray


@dataclass
class _Tree:
    """What is known for one `min_samples`."""

    core: np.ndarray  # (n_points,) squared
    edges: Edges
    hierarchy: Hierarchy | None = None


class DensityForest:
    """All DBSCAN and HDBSCAN models of one matrix, exactly, for any `min_samples` up to the largest given.

    One blocked pass finds the nearest neighbours of every row, which give the core distances and a minimum spanning
    tree for every `min_samples`; every model is then a cut of such a tree. Distances are Euclidean, compared in
    float64, and `min_samples` counts the row itself, as in scikit-learn. Labels do not depend on the order of the
    rows (but for the numbering, which is by first row), on threads, or on memory.

    Parameters
    ----------
    min_samples : int or sequence of int
        Trees are made for each; a smaller one than the largest can be asked for later and is made then.
    memory : str, int, MemoryBudget or None
        Resident memory of the process; None is what is available. Neighbour lists that do not fit go to disk.
    folder : path or None
        Where they go; None is the system's folder for temporary files.
    device : {"cpu", "cuda", "auto"}, Backend or None
        Where neighbours are found and lists are read; None: where X is. The results are the same.

    Examples
    --------
    >>> forest = DensityForest(min_samples=[8, 16]).fit(X)  # doctest: +SKIP
    >>> labels = forest.dbscan(eps=1.0, min_samples=16)  # doctest: +SKIP
    """

    def __init__(
        self,
        min_samples: int | Sequence[int] = (8, 16, 32, 64, 128, 256, 512),
        *,
        memory: str | int | MemoryBudget | None = None,
        folder: str | Path | None = None,
        device: str | Backend | None = None,
    ) -> None:
        asked = list(min_samples) if np.iterable(min_samples) else [min_samples]
        if not asked:
            raise InputError("min_samples is empty; give at least one whole number")
        self.min_samples = sorted({require_integer("min_samples", value) for value in asked})
        self.memory = memory
        self.folder = None if folder is None else Path(folder)
        self.device = device

    def fit(self, X: Any, *, advance: Callable[[float], None] = lambda _: None) -> Self:
        """Find neighbours and spanning trees.

        Parameters
        ----------
        X : NumPy, CuPy or torch array (n_samples, n_features) float32 or float64
            Other numbers are taken as float64.
        advance : callable
            Told the share of the work that was done, for a progress bar.

        Raises
        ------
        InputError
            For a matrix that is not two-dimensional, is empty, or holds NaN or inf.
        MemoryBudgetError
            If not even the smallest blocks fit, or the lists fit neither into memory nor onto the disk.
        """
        for name in ("_trees", "_lists"):  # of an earlier fit: a failure leaves none, and frees their memory
            self.__dict__.pop(name, None)
        X, where = from_array(X)
        X = check_matrix(X)
        memory = MemoryBudget.resolve(self.memory)
        points = Points.of(X)
        self.n_samples, self.n_features = X.shape
        self._index_of, self._first, self._counts = points.index_of, points.first, points.counts
        lists = get_backend(self.device or where).list_neighbors(
            points.X,
            self.min_samples[-1],
            memory=memory,
            folder=self.folder,
            advance=lambda share: advance(0.95 * share),
        )
        values = sorted({min(value, self.n_samples) for value in self.min_samples})
        core = self._core(values[-1], lists)
        edges = largest_spanning_tree(core, lists, X=points.X)
        trees = {values[-1]: _Tree(core, edges)}
        self._spanning = Edges(edges.i, edges.j, measure(points.X, edges.i, edges.j))
        for value in values[:-1]:
            core = self._core(value, lists)
            trees[value] = _Tree(core, smaller_spanning_tree(core, lists, self._spanning))
        self._lists, self._trees = lists, trees
        advance(0.05)
        return self

    # What every model is made from
    def _check_fitted(self) -> None:
        if not hasattr(self, "_trees"):
            raise InputError("this DensityForest is not fitted; call fit(X) first")

    def _check_min_samples(self, min_samples: object) -> int:
        self._check_fitted()
        value = require_integer("min_samples", min_samples)
        if value > self.min_samples[-1] and value <= self.n_samples:
            raise InputError(
                f"min_samples is {value}; allowed: at most {self.min_samples[-1]}, the largest that this forest was "
                f"fitted for; fit one with min_samples={value}"
            )
        return value

    def _core(self, min_samples: int, lists: Lists) -> np.ndarray:
        """Return the squared core distance of each point; inf if there are fewer rows."""
        if min_samples > self.n_samples:
            return np.full(len(self._first), np.inf)
        return lists.core(self._counts, min_samples)

    def _tree(self, min_samples: int) -> _Tree:
        if min_samples not in self._trees:
            core = self._core(min_samples, self._lists)
            self._trees[min_samples] = _Tree(core, smaller_spanning_tree(core, self._lists, self._spanning))
        return self._trees[min_samples]

    @property
    def neighbors(self) -> Neighbors:
        """The neighbour lists that everything is made from."""
        self._check_fitted()
        return Neighbors(self._lists, self._index_of, self._first, self._counts)

    def core_distances(self, *, min_samples: int) -> np.ndarray:
        """Return the distance of each row to its `min_samples`-th nearest, itself counted: (n_samples,) float64."""
        return np.asarray(np.sqrt(self._core(self._check_min_samples(min_samples), self._lists)[self._index_of]))

    def mst(self, *, min_samples: int) -> SpanningTree:
        """Return a minimum spanning tree of mutual reachability, ``max(core_i, core_j, d_ij)``, lightest edge first.

        Raises
        ------
        InputError
            If `min_samples` is above the number of rows, or above what the forest was fitted for.
        """
        value = self._check_min_samples(min_samples)
        if value > self.n_samples:
            raise InputError(f"min_samples is {value}; allowed: at most the number of rows, {self.n_samples:,}")
        tree = self._tree(value)
        i, j = self._first[tree.edges.i], self._first[tree.edges.j]
        squared = tree.edges.squared
        if self.n_samples > len(self._first):  # a duplicate hangs on the first of its kind
            again = np.setdiff1d(np.arange(self.n_samples, dtype=np.int32), self._first)
            first = self._first[self._index_of[again]]
            i, j = np.concatenate([i, first]), np.concatenate([j, again])
            squared = np.concatenate([squared, tree.core[self._index_of[again]]])
            order = np.lexsort((j, i, squared))
            i, j, squared = i[order], j[order], squared[order]
        return SpanningTree(i, j, np.sqrt(squared))

    # Models
    def dbscan(self, eps: float, min_samples: int) -> np.ndarray:
        """Return the labels of `sklearn.cluster.DBSCAN`, (n_samples,) int64, -1 is noise.

        A core row has at least `min_samples` rows within `eps`, itself counted; clusters are numbered by their first
        core row, and a border row belongs to the lowest-numbered cluster with a core row within `eps`.

        Parameters
        ----------
        eps : float
            Above 0.
        min_samples : int
            At most the largest that the forest was fitted for; above the number of rows all is noise.
        """
        return self.dbscan_many([eps], min_samples)[0]

    def dbscan_many(self, eps: Sequence[float], min_samples: int) -> list[np.ndarray]:
        """Return the labels for each `eps`, reading the neighbour lists once; see `dbscan`."""
        value = self._check_min_samples(min_samples)
        radii = np.array([require_number("eps", radius, above=0.0) for radius in eps])
        if value > self.n_samples:
            return [np.full(self.n_samples, -1) for _ in radii]
        tree = self._tree(value)
        squared_radii = np.minimum(radii, 1e154) ** 2  # as scikit-learn compares: squares
        labels = np.empty((len(radii), len(self._first)), np.int32)
        for row, squared_radius in enumerate(squared_radii):
            n_edges = int(np.searchsorted(tree.edges.squared, squared_radius, side="right"))
            _label_cores(tree.edges.i[:n_edges], tree.edges.j[:n_edges], tree.core, squared_radius, labels[row])
        if (tree.core[:, None] > squared_radii).any():
            self._lists.label_borders(tree.core, squared_radii, labels)
        return [row[self._index_of].astype(np.int64) for row in labels]

    def is_core(self, eps: float, min_samples: int) -> np.ndarray:
        """Return which rows have at least `min_samples` rows within `eps`, themselves counted: (n_samples,) bool."""
        radius = require_number("eps", eps, above=0.0)
        core = self._core(self._check_min_samples(min_samples), self._lists)
        return np.asarray((core <= radius * radius)[self._index_of])

    def hdbscan(
        self,
        min_cluster_size: int = 5,
        min_samples: int | None = None,
        cluster_selection_method: str = "eom",
        cluster_selection_epsilon: float = 0.0,
        *,
        max_cluster_size: int | None = None,
        allow_single_cluster: bool = False,
        probabilities: bool = False,
    ) -> Any:
        """Return the labels of `sklearn.cluster.HDBSCAN` up to their numbering, (n_samples,) int64, -1 is noise.

        Where weights tie, edges of equal weight are merged at once, so that the labels do not depend on the order of
        the rows; where they do not, the partition is scikit-learn's. Clusters are numbered by their first row.

        Parameters
        ----------
        min_cluster_size : int
            At least 2.
        min_samples : int or None
            As in scikit-learn, which counts the row itself; None is `min_cluster_size`.
        cluster_selection_method : {"eom", "leaf"}
        cluster_selection_epsilon : float
            Clusters that split off below this distance are not split.
        max_cluster_size : int or None
            For "eom".
        allow_single_cluster : bool
        probabilities : bool
            Return (labels, probabilities), the latter (n_samples,) float64.

        Raises
        ------
        InputError
            For a parameter out of range, or with fewer rows than `min_samples`.
        """
        tree = self.condensed_tree(min_cluster_size, min_samples)
        require_choice("cluster_selection_method", cluster_selection_method, METHODS)
        epsilon = require_number("cluster_selection_epsilon", cluster_selection_epsilon)
        if max_cluster_size is not None:
            require_integer("max_cluster_size", max_cluster_size)
        selected = select_clusters(
            tree,
            method=cluster_selection_method,
            epsilon=epsilon,
            max_cluster_size=max_cluster_size,
            allow_single_cluster=bool(allow_single_cluster),
        )
        labels, strengths = label_rows(tree, selected, epsilon=epsilon)
        return (labels, strengths) if probabilities else labels

    def condensed_tree(self, min_cluster_size: int, min_samples: int | None = None) -> CondensedTree:
        """Return the condensed tree; parameters as in `hdbscan`."""
        size = require_integer("min_cluster_size", min_cluster_size, least=2)
        value = self._check_min_samples(size if min_samples is None else min_samples)
        if self.n_samples == 1:
            raise InputError("n_samples=1 while HDBSCAN requires more than one sample")
        if value > self.n_samples:
            raise InputError(f"min_samples ({value}) must be at most the number of samples in X ({self.n_samples})")
        tree = self._tree(value)
        if tree.hierarchy is None:
            tree.hierarchy = build_hierarchy(*self.mst(min_samples=value))
        return CondensedTree(*condense(tree.hierarchy, min(size, self.n_samples + 1)))

    def outlier_scores(self, *, min_samples: int, min_cluster_size: int | None = None) -> np.ndarray:
        """Return the GLOSH outlier score of each row, (n_samples,) float64 from 0 to 1.

        One minus the density (one over the distance) at which the row leaves its cluster over the largest density
        within that cluster (Campello, Moulavi, Zimek, Sander 2015).

        Parameters
        ----------
        min_samples : int
        min_cluster_size : int or None
            None is `min_samples`, as in the paper, and at least 2.
        """
        size = max(2, require_integer("min_samples", min_samples)) if min_cluster_size is None else min_cluster_size
        return glosh(self.condensed_tree(size, min_samples))

    def local_outlier_factor(self, *, n_neighbors: int, least_reachability: float = 0.0) -> np.ndarray:
        """Return the local outlier factor of each row, (n_samples,) float64, about 1 inside a cluster.

        ``-negative_outlier_factor_`` of `sklearn.neighbors.LocalOutlierFactor`; where several rows are equally far,
        scikit-learn takes any of them, see `toolkit.cluster.local_outliers`.

        Parameters
        ----------
        n_neighbors : int
            Below the largest `min_samples` of the forest; with fewer rows, all others are taken, as in scikit-learn.
        least_reachability : float
            Of the median distance to the `n_neighbors`-th neighbour; above 0, copies of a row do not make all that is
            beside them an outlier.
        """
        value = require_integer("n_neighbors", n_neighbors)
        floor = require_number("least_reachability", least_reachability)
        self._check_fitted()
        if self.n_samples == 1:
            raise InputError("n_samples=1 while the local outlier factor requires more than one sample")
        value = self._check_min_samples(min(value, self.n_samples - 1) + 1) - 1
        factors = local_outlier_factors(self._lists, self._counts, value, least_reachability=floor)
        return np.asarray(factors[self._index_of])

    def noise_radius(self, *, min_samples: int) -> np.ndarray:
        """Return the smallest `eps` with which `dbscan` puts each row into a cluster, (n_samples,) float64.

        With any smaller number the row is noise; inf where there are fewer rows than `min_samples`.
        """
        core = self._core(self._check_min_samples(min_samples), self._lists)
        return np.asarray(square_roots(noise_radii(self._lists, core))[self._index_of])

    def relative_validity(self, labels: np.ndarray, *, min_samples: int) -> float:
        """Return hdbscan's fast stand-in for DBCV, from the spanning tree; see `toolkit.score.density`.

        Parameters
        ----------
        labels : ndarray (n_samples,) int
            -1 is noise.
        min_samples : int
        """
        return relative_validity(self.mst(min_samples=min_samples), labels)

    # On disk
    @property
    def n_bytes(self) -> int:
        """Bytes of the saved form, about."""
        self._check_fitted()
        return self._lists.n_bytes + len(self._first) * 30 * (len(self._trees) + 1)

    def save(self, path: str | Path) -> None:
        """Write the forest as a folder that appears whole: neighbour lists, spanning trees, a manifest with digests.

        Raises
        ------
        InputError
            If something is there already.
        """
        self._check_fitted()
        path = Path(path)
        if path.exists():
            raise InputError(f"{path} exists already; remove it or give another name")
        if not path.parent.is_dir():
            raise InputError(f"the folder {path.parent} for the forest does not exist; make it first")
        with atomic_folder(path) as folder:
            save_lists(self._lists, folder)
            save_arrays(folder, index_of=self._index_of, first=self._first, counts=self._counts)
            _save_edges(folder, "spanning", self._spanning)
            for value, tree in self._trees.items():
                _save_edges(folder, str(value), tree.edges)
                save_arrays(folder, **{f"core_{value}": tree.core})
            content = {
                "n_samples": self.n_samples,
                "n_features": self.n_features,
                "n_neighbors": self._lists.n_neighbors,
                "min_samples": self.min_samples,
                "trees": sorted(self._trees),
                "files": {file.name: file_digest(file) for file in sorted(folder.iterdir())},
            }
            manifest = {"version": _VERSION, "digest": digest(content), "content": content}
            write_text(folder / "forest.json", json.dumps(manifest, indent=1))

    @classmethod
    def load(cls, path: str | Path, *, memory: str | int | MemoryBudget | None = None) -> Self:
        """Open a saved forest; its lists are read into memory if they fit, and from their files otherwise.

        Raises
        ------
        InputError
            If it is not there, of another version, or not to the bit what was written.
        """
        folder = Path(path)
        try:
            manifest = json.loads((folder / "forest.json").read_text())
            if manifest["version"] != _VERSION:
                raise InputError(f"it is of version {manifest['version']}, allowed is {_VERSION}")
            content = manifest["content"]
            if digest(content) != manifest["digest"]:
                raise InputError("forest.json is not what was saved")
            for name, known in content["files"].items():
                if file_digest(folder / name) != known:
                    raise InputError(f"{name} is not what was saved")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError | TypeError) else error
            raise InputError(
                f"{folder} is not a saved forest: {' '.join(str(reason).split())}; fit it again"
            ) from error
        forest = cls(content["min_samples"], memory=memory)
        forest.n_samples, forest.n_features = content["n_samples"], content["n_features"]
        forest._index_of, forest._first, forest._counts = load_arrays(folder, "index_of", "first", "counts")
        shape = len(forest._first), content["n_neighbors"]
        fits = shape[0] * (shape[1] * ENTRY_BYTES + BYTES_PER_POINT) <= MemoryBudget.resolve(memory).free
        forest._lists = NeighborLists.open(folder, *shape, in_memory=fits)
        forest._spanning = _load_edges(folder, "spanning")
        forest._trees = {
            value: _Tree(load_arrays(folder, f"core_{value}")[0], _load_edges(folder, str(value)))
            for value in content["trees"]
        }
        return forest


@njit(nogil=True, cache=True)
def _label_cores(i, j, core, squared_radius, labels):  # type: ignore[no-untyped-def]
    """Label the core points by their components, numbered by first point; -1 for the others."""
    parent = np.arange(len(core)).astype(np.int32)
    join(parent, i, j)
    n_clusters = 0
    for point in range(len(core)):  # a root is the first point of its component
        root = point
        while parent[root] != root:
            parent[root] = parent[parent[root]]
            root = parent[root]
        if core[point] > squared_radius:
            labels[point] = -1
        elif root == point:
            labels[point] = n_clusters
            n_clusters += 1
        else:
            labels[point] = labels[root]


def _save_edges(folder: Path, name: str, edges: Edges) -> None:
    save_arrays(folder, **{f"{part}_{name}": array for part, array in edges._asdict().items()})


def _load_edges(folder: Path, name: str) -> Edges:
    return Edges(*load_arrays(folder, *(f"{part}_{name}" for part in Edges._fields)))
