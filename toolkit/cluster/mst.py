"""Minimum spanning trees of mutual reachability, exactly, from neighbour lists.

The weight of a pair is ``max(core_i, core_j, d_ij)`` (Campello, Moulavi, Sander 2013), here always squared. A pair
that is not in the list of i is at least as far as the end of that list, its radius. So Boruvka rounds over the lists
alone are proven wherever a component's best listed edge is within the smallest radius of its points. What remains is
a small graph of components, whose edges come from

- the lists and the tree of the next larger ``min_samples``, for all but the largest: a pair that is in neither list
  weighs the same under both and is spanned by that tree, so the tree has a path of no heavier edges (the argument of
  CORE-SG, Neto et al. 2022);
- the lists and the products of the remaining rows, for the largest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from toolkit.cluster.lists import Components, Edges, Table, put

if TYPE_CHECKING:
    from collections.abc import Callable

    from toolkit.cluster.lists import EdgeSearch, Lists

TABLE_BYTES = 96 << 20  # of the table of edges between components


_NO_EDGES = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0))


@dataclass
class _Forest:
    """The components so far: union-find over the points, and the edges that made them."""

    parent: np.ndarray
    edges: list[Edges] = field(default_factory=lambda: [Edges(*_NO_EDGES)])

    def add(self, edges: Edges) -> int:
        """Add those edges that join two components; return how many did."""
        joined = join(self.parent, edges.i, edges.j)
        self.edges.append(Edges(edges.i[joined], edges.j[joined], edges.squared[joined]))
        return int(joined.sum())

    def components(self) -> Components:
        return Components(*number_components(self.parent))

    def tree(self) -> Edges:
        """Return all edges, lightest first."""
        i, j, squared = (np.concatenate(parts) for parts in zip(*self.edges, strict=True))
        low, high = np.minimum(i, j), np.maximum(i, j)
        order = np.lexsort((high, low, squared))
        return Edges(low[order], high[order], squared[order])


def largest_spanning_tree(core: np.ndarray, lists: Lists, *, X: np.ndarray, table_bytes: int = TABLE_BYTES) -> Edges:
    """Return a minimum spanning tree of the mutual reachability of all points, lightest edge first.

    Parameters
    ----------
    core : ndarray (n_points,) float64
        Squared core distances, for the largest `min_samples` there will be.
    lists : Lists
        At least as long as the number of neighbours that decides `core`.
    X : ndarray (n_points, n_features)
        For what the lists leave open.
    table_bytes : int
        Bytes of the table of edges between components.
    """
    search = lists.edges(core, X)

    def tabulate(components: Components, table: Table) -> None:
        bounds = _bounds(table)
        if table.size == 1:
            np.fill_diagonal(bounds, 0)
        search.tabulate_rest(components, table, bounds)

    return _grow(search, lists, tabulate, table_bytes)


def smaller_spanning_tree(core: np.ndarray, lists: Lists, spanning: Edges, *, table_bytes: int = TABLE_BYTES) -> Edges:
    """Return a minimum spanning tree for smaller core distances than those of a tree of the same lists.

    Parameters
    ----------
    core, lists, table_bytes
        As for `largest_spanning_tree`.
    spanning : Edges
        The pairs of that tree with their squared distances, not weights.
    """

    def tabulate(components: Components, table: Table) -> None:
        _tabulate_pairs(core, spanning, components.of_point, table.size, table.arrays)

    return _grow(lists.edges(core), lists, tabulate, table_bytes)


def _grow(search: EdgeSearch, lists: Lists, tabulate: Callable[[Components, Table], None], table_bytes: int) -> Edges:
    """Grow components by proven listed edges, and join what remains by the edges that `tabulate` adds to the lists'."""
    radius = lists.radii()
    forest = _Forest(np.arange(lists.n_points, dtype=np.int32))
    components = forest.components()
    while components.number > 1:
        before = components.number
        best = search.best(components)
        proven = best.squared <= _smallest(radius, components)
        forest.add(Edges(*(part[proven] for part in best)))
        components = forest.components()
        fits = Table.fits(components.number, table_bytes)
        if components.number > 1 and (components.number == before or (fits and components.number > before // 2)):
            table = Table.empty(components.number, table_bytes)
            search.tabulate(components, table)
            tabulate(components, table)
            forest.add(_proven(table))
            components = forest.components()
    return forest.tree()


def _smallest(values: np.ndarray, components: Components) -> np.ndarray:
    smallest = np.full(components.number, np.inf)
    np.minimum.at(smallest, components.of_point, values)
    return smallest


@njit(nogil=True, cache=True)
def _find(parent, i):  # type: ignore[no-untyped-def]
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def join(parent, i, j):  # type: ignore[no-untyped-def]
    """Unite the components of each two points in turn; the first point of one is its root. Tell which were apart."""
    joined = np.zeros(len(i), np.bool_)
    for edge in range(len(i)):
        a, b = _find(parent, i[edge]), _find(parent, j[edge])
        if a != b:
            parent[max(a, b)] = min(a, b)
            joined[edge] = True
    return joined


@njit(nogil=True, cache=True)
def number_components(parent):  # type: ignore[no-untyped-def]
    """Return the component of each point, (n_points,) int32, numbered from 0 by first point, and their number."""
    component = np.empty(len(parent), np.int32)
    n_components = 0
    for i in range(len(parent)):  # a root is the first of its component
        root = _find(parent, i)
        if root == i:
            component[i] = n_components
            n_components += 1
        else:
            component[i] = component[root]
    return component, n_components


# What the lists leave open: edges between components
def _bounds(table: Table) -> np.ndarray:
    """Return, for each entry, a weight below which a further edge can be in a spanning tree."""
    return np.asarray(_spanned(table.arrays[0])[1]) if table.size == 1 else table.arrays[0].copy()


def _proven(table: Table) -> Edges:
    """Return a spanning tree of the components, or, with groups, the lightest edge of each component."""
    weights, inside, outside = table.arrays
    if table.size == 1:
        chosen, _ = _spanned(weights)
        return Edges(inside[chosen], outside[chosen], weights[chosen])
    rows, lightest = np.arange(len(weights)), weights.argmin(axis=1)
    return Edges(inside[rows, lightest], outside[rows, lightest], weights[rows, lightest])


@njit(nogil=True, cache=True)
def _tabulate_pairs(core, pairs, component, size, table):  # type: ignore[no-untyped-def]
    for pair in range(len(pairs.squared)):
        i, j = pairs.i[pair], pairs.j[pair]
        if component[i] != component[j]:
            weight = max(core[i], core[j], pairs.squared[pair])
            put(table, size, component[i], component[j], i, j, weight)


@njit(nogil=True, cache=True)
def _spanned(weights):  # type: ignore[no-untyped-def]
    """Return a minimum spanning forest of a dense graph, and for each two nodes the heaviest edge between them.

    Prim's algorithm; the forest as a mask of the entries that are its edges. Nodes without a path are inf apart.
    """
    n = len(weights)
    chosen = np.zeros((n, n), np.bool_)
    heaviest = np.full((n, n), np.inf)
    nearest = np.full(n, np.inf)
    source = np.full(n, -1, np.int64)
    order = np.empty(n, np.int64)
    inside = np.zeros(n, np.bool_)
    for turn in range(n):
        node = -1
        for other in range(n):
            if not inside[other] and (node == -1 or nearest[other] < nearest[node]):
                node = other
        if nearest[node] < np.inf:
            chosen[source[node], node] = True
            for earlier in range(turn):
                between = max(heaviest[source[node], order[earlier]], nearest[node])
                if order[earlier] == source[node]:
                    between = nearest[node]
                heaviest[node, order[earlier]] = heaviest[order[earlier], node] = between
        inside[node] = True
        order[turn] = node
        for other in range(n):
            if not inside[other] and weights[node, other] < nearest[other]:
                nearest[other], source[other] = weights[node, other], node
    return chosen, heaviest
