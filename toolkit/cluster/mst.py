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
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from toolkit.backend.cpu import ordered_map
from toolkit.backend.simd import LANES, lowest_bit, reaching, squared_distance
from toolkit.cluster.points import Products, padded, tile
from toolkit.memory import n_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from toolkit.cluster.lists import NeighborLists

_BLOCK = 1024  # columns of a tile
_TILE_ROWS = 512
TABLE_BYTES = 96 << 20  # of the table of edges between components
_EDGE_BYTES = 40  # of one entry: the edge, its bound, and what spanning the table takes


class Edges(NamedTuple):
    """Edges of a graph: two points, int32, and the squared weight, float64, of each."""

    i: np.ndarray
    j: np.ndarray
    squared: np.ndarray


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

    def components(self) -> _Components:
        return _Components(*number_components(self.parent))

    def tree(self) -> Edges:
        """Return all edges, lightest first."""
        i, j, squared = (np.concatenate(parts) for parts in zip(*self.edges, strict=True))
        low, high = np.minimum(i, j), np.maximum(i, j)
        order = np.lexsort((high, low, squared))
        return Edges(low[order], high[order], squared[order])


def largest_spanning_tree(
    core: np.ndarray, lists: NeighborLists, *, X: np.ndarray, table_bytes: int = TABLE_BYTES
) -> Edges:
    """Return a minimum spanning tree of the mutual reachability of all points, lightest edge first.

    Parameters
    ----------
    core : ndarray (n_points,) float64
        Squared core distances, for the largest `min_samples` there will be.
    lists : NeighborLists
        At least as long as the number of neighbours that decides `core`.
    X : ndarray (n_points, n_features)
        For what the lists leave open.
    table_bytes : int
        Bytes of the table of edges between components.
    """
    radius = _radii(lists)

    def tabulate(components: _Components, table: _Table) -> None:
        _tabulate_rows(core, components.of_point, radius, X, table)

    return _grow(core, lists, radius, tabulate, table_bytes)


def smaller_spanning_tree(
    core: np.ndarray, lists: NeighborLists, spanning: Edges, *, table_bytes: int = TABLE_BYTES
) -> Edges:
    """Return a minimum spanning tree for smaller core distances than those of a tree of the same lists.

    Parameters
    ----------
    core, lists, table_bytes
        As for `largest_spanning_tree`.
    spanning : Edges
        The pairs of that tree with their squared distances, not weights.
    """

    def tabulate(components: _Components, table: _Table) -> None:
        _tabulate_pairs(core, spanning, components.of_point, table.size, table.arrays)

    return _grow(core, lists, _radii(lists), tabulate, table_bytes)


def _grow(
    core: np.ndarray,
    lists: NeighborLists,
    radius: np.ndarray,
    tabulate: Callable[[_Components, _Table], None],
    table_bytes: int,
) -> Edges:
    """Grow components by proven listed edges, and join what remains by the edges that `tabulate` adds to the lists'."""
    n_points = len(core)
    forest = _Forest(np.arange(n_points, dtype=np.int32))
    done = np.zeros(n_points, np.int32)  # entries at the start of each list that are in the point's own component
    components = forest.components()
    while components.number > 1:
        before = components.number
        best = _best_edges(core, lists, components, done)
        proven = best.squared <= _smallest(radius, components)
        forest.add(Edges(*(part[proven] for part in best)))
        components = forest.components()
        fits = components.number**2 * _EDGE_BYTES <= table_bytes
        if components.number > 1 and (components.number == before or (fits and components.number > before // 2)):
            table = _Table.empty(components.number, table_bytes)
            for start, squared, indices in lists.blocks():
                _tabulate_lists(core, start, squared, indices, components.of_point, table.size, table.arrays)
            tabulate(components, table)
            forest.add(table.proven())
            components = forest.components()
    return forest.tree()


class _Components(NamedTuple):
    """The component of each point, (n_points,) int32, numbered from 0 by first point, and how many there are."""

    of_point: np.ndarray
    number: int


def _radii(lists: NeighborLists) -> np.ndarray:
    """Return the squared distance within which each list is complete."""
    if lists.n_neighbors == lists.n_points:
        return np.full(lists.n_points, np.inf)
    return np.concatenate([squared[:, -1] for _, squared, _ in lists.blocks()])


def _smallest(values: np.ndarray, components: _Components) -> np.ndarray:
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


def _best_edges(core: np.ndarray, lists: NeighborLists, components: _Components, done: np.ndarray) -> Edges:
    """Return the lightest listed edge that leaves each component; inf where the lists hold none."""
    n = components.number
    best = Edges(np.zeros(n, np.int32), np.zeros(n, np.int32), np.full(n, np.inf))
    for start, squared, indices in lists.blocks():
        _scan_lists(core, start, squared, indices, components.of_point, done, best)
    return best


@njit(nogil=True, cache=True)
def _scan_lists(core, start, squared, indices, component, done, best):  # type: ignore[no-untyped-def]
    best_i, best_j, best_squared = best
    n_neighbors = squared.shape[1]
    for row in range(len(squared)):
        i = start + row
        own = component[i]
        while done[i] < n_neighbors and component[indices[row, done[i]]] == own:
            done[i] += 1
        for u in range(done[i], n_neighbors):
            if max(core[i], squared[row, u]) >= best_squared[own]:
                break
            j = indices[row, u]
            if component[j] != own:
                weight = max(core[i], core[j], squared[row, u])
                if weight < best_squared[own]:
                    best_i[own], best_j[own], best_squared[own] = i, j, weight


# What the lists leave open: edges between components
class _Table(NamedTuple):
    """The lightest edge from each component (row) to each group of `size` components (column).

    `arrays` are (squared weights, point inside, point outside), each (n_components, n_groups); inf is no edge.
    """

    size: int
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def empty(cls, n_components: int, n_bytes: int) -> _Table:
        """Make one with a column for each component if that takes at most `n_bytes`, else with fewer."""
        n_groups = min(n_components, max(1, n_bytes // (_EDGE_BYTES * n_components)))
        size = -(-n_components // n_groups)
        shape = (n_components, -(-n_components // size))
        return cls(size, (np.full(shape, np.inf), np.empty(shape, np.int32), np.empty(shape, np.int32)))

    def bounds(self) -> np.ndarray:
        """Return, for each entry, a weight below which a further edge can be in a spanning tree."""
        return np.asarray(_spanned(self.arrays[0])[1]) if self.size == 1 else self.arrays[0].copy()

    def proven(self) -> Edges:
        """Return a spanning tree of the components, or, with groups, the lightest edge of each component."""
        weights, inside, outside = self.arrays
        if self.size == 1:
            chosen, _ = _spanned(weights)
            return Edges(inside[chosen], outside[chosen], weights[chosen])
        rows, lightest = np.arange(len(weights)), weights.argmin(axis=1)
        return Edges(inside[rows, lightest], outside[rows, lightest], weights[rows, lightest])


@njit(nogil=True, cache=True)
def _put(table, size, a, b, i, j, weight):  # type: ignore[no-untyped-def]
    """Enter an edge between components a and b if it is lighter than what is there."""
    weights, ends, others = table
    if weight < weights[a, b // size]:
        weights[a, b // size], ends[a, b // size], others[a, b // size] = weight, i, j
    if weight < weights[b, a // size]:
        weights[b, a // size], ends[b, a // size], others[b, a // size] = weight, j, i


@njit(nogil=True, cache=True)
def _tabulate_lists(core, start, squared, indices, component, size, table):  # type: ignore[no-untyped-def]
    for row in range(len(squared)):
        i = start + row
        for u in range(squared.shape[1]):
            j = indices[row, u]
            if component[i] != component[j]:
                weight = max(core[i], core[j], squared[row, u])
                _put(table, size, component[i], component[j], i, j, weight)


@njit(nogil=True, cache=True)
def _tabulate_pairs(core, pairs, component, size, table):  # type: ignore[no-untyped-def]
    for pair in range(len(pairs.squared)):
        i, j = pairs.i[pair], pairs.j[pair]
        if component[i] != component[j]:
            weight = max(core[i], core[j], pairs.squared[pair])
            _put(table, size, component[i], component[j], i, j, weight)


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


def _tabulate_rows(core: np.ndarray, component: np.ndarray, radius: np.ndarray, X: np.ndarray, table: _Table) -> None:
    """Enter the edges that are in no list and may be in a spanning tree.

    Such an edge is at least as heavy as the radius at both its ends, so only points whose radius is below the
    largest bound take part.
    """
    bounds, size = table.bounds(), table.size
    if size == 1:
        np.fill_diagonal(bounds, 0)
    largest = bounds.max()
    active = np.flatnonzero(radius < largest)
    order = active[np.lexsort((radius[active], component[active]))].astype(np.int32)
    if len(np.unique(component[order])) < 2:
        return
    made = Products.of(X, order)

    def multiply(pair: tuple[slice, slice]) -> tuple[slice, slice, np.ndarray]:
        rows, columns = pair
        return rows, columns, tile(made.rows[rows], made.rows[columns])

    def pairs() -> Iterator[tuple[slice, slice]]:
        for row in range(0, len(order), _TILE_ROWS):
            for column in range(row // _BLOCK * _BLOCK, len(order), _BLOCK):
                rows, columns = slice(row, row + _TILE_ROWS), slice(column, column + _BLOCK)
                if component[order[rows][0]] != component[order[columns][-1]]:
                    yield rows, columns

    for rows, columns, values in ordered_map(multiply, pairs(), workers=n_threads()):
        n_padded = values.shape[1]
        _scan_between(
            values, order[rows], made.offsets[rows], order[columns], padded(made.offsets[columns], n_padded, np.nan),
            np.full(n_padded, np.inf, np.float32), core, radius, component, X, made.scale, bounds, size, table.arrays,
        )  # fmt: skip


@njit(nogil=True, cache=True)
def _scan_between(  # type: ignore[no-untyped-def]
    products, rows, offsets, columns, column_offsets, unlimited, core, radius, component, X, scale, bounds, size, table
):
    """Enter the edges of a tile whose columns are of later components than their rows.

    Rows and columns are sorted by component and, within one, by radius.
    """
    flat = products.reshape(-1)
    stride = products.shape[1]
    starts = np.empty(len(columns) + 1, np.int64)  # of each component's columns
    n_runs = 0
    for column in range(len(columns)):
        if column == 0 or component[columns[column]] != component[columns[column - 1]]:
            starts[n_runs] = column
            n_runs += 1
    starts[n_runs] = len(columns)
    for row in range(len(rows)):
        i = rows[row]
        a = component[i]
        for run in range(n_runs):
            start, stop = starts[run], starts[run + 1]
            b = component[columns[start]]
            bound = max(bounds[a, b // size], bounds[b, a // size])
            if b > a and radius[i] < bound:
                threshold = _below(bound, scale)
                at = start
                while at < stop and radius[columns[at]] < bound:
                    begin = min(at, stride - LANES)
                    mask = reaching(
                        flat, row * stride + begin, column_offsets, unlimited, begin, offsets[row], threshold
                    )
                    mask &= np.uint32(0xFFFF) << np.uint32(at - begin)
                    while mask != 0:
                        column = begin + np.intp(lowest_bit(mask))
                        mask &= mask - np.uint32(1)
                        j = columns[column] if column < stop else -1
                        if j >= 0 and core[i] < bound and core[j] < bound:
                            weight = max(core[i], core[j], squared_distance(X, i, X, j))
                            if weight < bound:
                                _put(table, size, a, b, i, j, weight)
                                bounds[a, b // size] = min(bounds[a, b // size], weight)
                                bounds[b, a // size] = min(bounds[b, a // size], weight)
                                bound = max(bounds[a, b // size], bounds[b, a // size])
                                threshold = _below(bound, scale)
                    at = begin + LANES


@njit(nogil=True, cache=True)
def _below(limit, scale):  # type: ignore[no-untyped-def]
    """Return what ``v`` of `Products` reaches wherever the squared distance is within a limit."""
    rounded = np.float32(limit * scale * scale)
    if rounded < limit * scale * scale:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    return np.float32(-0.5) * rounded
