"""Pack a `Page` into one HTML file that needs no network: the style, the scripts and the data are inside.

Numbers are deflated and written in base64, one block each, which the page inflates when it first shows them. A
labelling is stored as `label + 2`, in the smallest unsigned integers that hold it: 0 is not seen, 1 is noise.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import math
import re
import zlib
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

if TYPE_CHECKING:
    from toolkit.report.html.data import Cluster, Figure, Map, Page, ReportedModel, WhatIf

STYLES = ("style.css", "models.css", "detail.css", "panels.css")
SCRIPTS = (
    "dom.js",
    "data.js",
    "colors.js",
    "map.js",
    "map_input.js",
    "images.js",
    "selection.js",
    "table.js",
    "scatter.js",
    "detail.js",
    "partitions.js",
    "compare.js",
    "whatif.js",
    "figures.js",
    "app.js",
)
_LEVELS = 65535  # of a quantised coordinate: finer than a pixel at 30-fold zoom
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def page_html(page: Page, *, max_bytes: int = 15_000_000) -> tuple[str, list[str]]:
    """Write the page as HTML.

    What does not fit is left out in this order, each from its end, as much as is needed: labels of what-if cuts,
    labels of models, thumbnails, figures.

    Parameters
    ----------
    page : Page
    max_bytes : int
        Of the file in UTF-8.

    Returns
    -------
    document : str
    left_out : list of str
        What was left out, in words; the page shows it among its notes. If the rest alone is larger than `max_bytes`,
        the last sentence says so.
    """
    packed = _Packed(page)
    kept = full = packed.everything()
    for kind in full.__dataclass_fields__:
        if packed.size(kept, max_bytes) <= max_bytes:
            break
        kept = replace(kept, **{kind: _most(packed, kept, kind, max_bytes)})
    return packed.render(kept, max_bytes), packed.left_out(kept, max_bytes)


@dataclass(frozen=True)
class _Kept:
    """How many of each optional part are kept, always the first ones; in the order in which they are given up."""

    cuts: int
    labels: int
    thumbnails: int
    figures: int


_LEFT_OUT = {
    "cuts": "labels of {kept} of {full} what-if cuts are in the page, for the others the sliders show only numbers",
    "labels": "labels of {kept} of {full} models are in the page, the other models have only their scores",
    "thumbnails": "{kept} of {full} thumbnails are in the page",
    "figures": "{kept} of {full} figures are in the page",
}


def _most(packed: _Packed, kept: _Kept, kind: str, max_bytes: int) -> int:
    """Return the greatest number of `kind` with which the page fits, by bisection; 0 if it never does."""
    fits, too_many = 0, getattr(kept, kind)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if packed.size(replace(kept, **{kind: middle}), max_bytes) <= max_bytes:
            fits = middle
        else:
            too_many = middle
    return fits


class _Packed:
    """The parts of a page, compressed once, from which documents with more or fewer of them are put together."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.fixed = _fixed_parts()
        self.maps = [_map_parts(map_, len(page.paths)) for map_ in page.maps]
        self.images = pack_json(_images(page))
        self.rows = None if _is_range(page.rows) else pack_array(_steps(page.rows))
        self.models = [_model_part(model) for model in page.models]
        self.clusters = [
            pack_json([_cluster_part(cluster) for cluster in model.clusters]) if model.clusters else None
            for model in page.models
        ]
        self.labels = [None if model.labels is None else _pack_labels(model.labels) for model in page.models]
        self.cuts = [[_pack_labels(cut.labels) for cut in what_if.cuts] for what_if in page.what_ifs]
        self.thumbnails = [(int(position), _base64(image)) for position, image in page.thumbnails.items()]
        self.figures = [_figure_part(figure) for figure in page.figures]

    def everything(self) -> _Kept:
        return _Kept(
            cuts=sum(len(cuts) for cuts in self.cuts),
            labels=sum(labels is not None for labels in self.labels),
            thumbnails=len(self.thumbnails),
            figures=len(self.figures),
        )

    def size(self, kept: _Kept, max_bytes: int) -> int:
        return len(self.render(kept, max_bytes).encode())

    def left_out(self, kept: _Kept, max_bytes: int) -> list[str]:
        full = self.everything()
        why = f"the page would be larger than {max_bytes / 1e6:,.1f} MB"
        sentences = [
            f"Left out: {text.format(kept=f'{getattr(kept, kind):,}', full=f'{getattr(full, kind):,}')}; {why}."
            for kind, text in _LEFT_OUT.items()
            if getattr(kept, kind) < getattr(full, kind)
        ]
        if kept == _Kept(0, 0, 0, 0) and (size := len(self._document(kept, sentences).encode())) > max_bytes:
            sentences.append(f"The page takes {size / 1e6:,.1f} MB without any of these: more than was asked for.")
        return sentences

    def render(self, kept: _Kept, max_bytes: int) -> str:
        return self._document(kept, self.left_out(kept, max_bytes))

    def _document(self, kept: _Kept, left_out: list[str]) -> str:
        blocks = _Blocks()
        content = self._content(kept, left_out, blocks)
        parts = self.fixed | {
            "title": _ascii_html(self.page.title),
            "page": script_json(content),
            "thumbnails": script_json(dict(self.thumbnails[: kept.thumbnails])),
            "figures": script_json(self.figures[: kept.figures]),
            "blocks": blocks.elements(),
        }
        # One pass: text that looks like a placeholder and comes from the data is left alone.
        return re.sub(r"@(\w+)@", lambda found: parts[found[1]], _read("page.html"))

    def _content(self, kept: _Kept, left_out: list[str], blocks: _Blocks) -> dict[str, Any]:
        page = self.page
        labels_left, cuts_left = itertools.count(kept.labels, -1), itertools.count(kept.cuts, -1)
        models = [
            part
            | {
                "clusters": blocks.add(clusters),
                "labels": None if labels is None or next(labels_left) <= 0 else [blocks.add(labels[0]), labels[1]],
                "has_labels": labels is not None,
            }
            for part, clusters, labels in zip(self.models, self.clusters, self.labels, strict=True)
        ]
        what_ifs = [
            _what_if_part(what_if, [blocks.add(cut[0]) if next(cuts_left) > 0 else None for cut in cuts], cuts)
            for what_if, cuts in zip(page.what_ifs, self.cuts, strict=True)
        ]
        return {
            "title": page.title,
            "facts": page.facts,
            "notes": [*page.notes, *left_out],
            "n_rows": int(page.n_rows),
            "n_page_rows": len(page.paths),
            "rows": blocks.add(self.rows),
            "images": blocks.add(self.images),
            "has_urls": page.image_urls is not None,
            "maps": [
                part | {"points": blocks.add(points), "positions": blocks.add(positions)}
                for part, points, positions in self.maps
            ],
            "models": models,
            "what_ifs": what_ifs,
            "metrics": {name: bool(greater) for name, greater in page.metrics.items()},
            "agreement": [[first, second, _plain(ari), _plain(ami)] for first, second, ari, ami in page.agreement],
        }


class _Blocks:
    """Compressed blocks by name; equal ones, as of cuts that are also models, are written once."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, text: str | None) -> str | None:
        return None if text is None else self._names.setdefault(text, f"block-{len(self._names)}")

    def elements(self) -> str:
        return "\n".join(
            f'<script type="application/octet-stream" id="{name}">{text}</script>' for text, name in self._names.items()
        )


def pack_array(array: np.ndarray) -> str:
    """Deflate an array byte plane by byte plane (all lowest bytes first), which compresses better; in base64."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    planes = little.view(np.uint8).reshape(-1, array.itemsize).T
    return _base64(zlib.compress(planes.tobytes(), 9))


def pack_json(value: Any) -> str:
    """Deflate a value written as JSON, in base64."""
    return _base64(zlib.compress(_json(value).encode("ascii"), 9))


def script_json(value: Any) -> str:
    """Write a value as JSON that cannot end its script element, whatever is in its strings."""
    return _json(value).replace("<", "\\u003c")


def safe_address(address: str) -> str:
    """Percent-encode an address so that it can only be a path, relative or of a file.

    Everything is encoded that is not plain in a path, a colon too, so that no scheme is left but ``file:///``; two
    slashes in front, which would name a host, become one. What is encoded already stays as it is.
    """
    prefix, path, plain = "", address, "/%"
    if address.startswith("file:///"):
        prefix, path, plain = "file:///", address.removeprefix("file:///"), "/%:"
    path = _BARE_PERCENT.sub("%25", re.sub(r"^/+", "" if prefix else "/", path))
    return prefix + quote(path.encode("utf-8", "surrogateescape"), safe=plain)


def _fixed_parts() -> dict[str, str]:
    style = "".join(_read(name) for name in STYLES)
    script = "(() => {\n" + "\n".join(_read(name) for name in SCRIPTS) + "})();\n"
    # Hashes instead of 'unsafe-inline': a handler or script that gets in through the data is not run even so.
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src 'self' file: data:; require-trusted-types-for 'script'; base-uri 'none'; form-action 'none'"
    )
    return {"style": style, "script": script, "policy": policy}


def _read(name: str) -> str:
    return (files("toolkit.report.html") / name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _map_parts(map_: Map, n_page_rows: int) -> tuple[dict[str, Any], str, str | None]:
    """Return a map's description, its packed points and, unless it places every page row, its packed positions."""
    points = np.asarray(map_.points, dtype=np.float64)
    low = points.min(axis=0, initial=np.inf) if len(points) else np.zeros(2)
    spans = points.max(axis=0) - low if len(points) else np.zeros(2)
    step = float(spans.max()) / _LEVELS or 1.0  # the same on both axes, which keeps the shape
    quantised = np.rint((points - low) / step).astype(np.uint16)
    part = {
        "descriptor": map_.descriptor,
        "scaler": map_.scaler,
        "method": map_.method,
        "note": map_.note,
        "n_placed": len(points),
        "low": [float(value) for value in low],
        "step": step,
        "spans": [int(value) for value in np.rint(spans / step)],
    }
    positions = None if len(points) == n_page_rows else pack_array(_steps(map_.positions))
    return part, pack_array(quantised.T), positions


def _pack_labels(labels: np.ndarray) -> tuple[str, int]:
    """Return packed labels and the bytes that each takes."""
    codes = np.asarray(labels, dtype=np.int64) + 2
    dtype = np.min_scalar_type(int(codes.max(initial=0)))
    return pack_array(codes.astype(dtype)), dtype.itemsize


def _steps(ascending: np.ndarray) -> np.ndarray:
    """Return the first value and the differences: small numbers, which compress well."""
    return np.diff(ascending, prepend=0).astype(np.uint32)


def _is_range(rows: np.ndarray) -> bool:
    return bool(np.array_equal(rows, np.arange(len(rows))))


def _images(page: Page) -> list[str]:
    """Return the paths, each followed by its address if there are addresses: beside its like it compresses best."""
    if page.image_urls is None:
        return list(page.paths)
    pairs = zip(page.paths, map(safe_address, page.image_urls), strict=True)
    return list(itertools.chain.from_iterable(pairs))


def _model_part(model: ReportedModel) -> dict[str, Any]:
    names = ("id", "name", "stage", "descriptor", "scaler", "cluster_class", "why")
    marks = ("is_finalist", "is_pareto", "is_eligible")
    scores = {name: _plain(value) for name, value in model.scores.items()}
    params = {name: _plain(value) for name, value in model.params.items()}
    flags = {name: bool(getattr(model, name)) for name in marks}
    return {name: getattr(model, name) for name in names} | flags | {"scores": scores, "params": params}


def _cluster_part(cluster: Cluster) -> dict[str, Any]:
    return {
        "label": int(cluster.label),
        "n_rows": int(cluster.n_rows),
        "name": cluster.name,
        "stability": _plain(cluster.stability),
        "sheet": None if cluster.sheet is None else safe_address(cluster.sheet),
        "aggregates": {title: safe_address(path) for title, path in cluster.aggregates.items()},
        "members": {kind: [int(position) for position in members] for kind, members in cluster.members.items()},
    }


def _what_if_part(what_if: WhatIf, names: list[str | None], packed: list[tuple[str, int]]) -> dict[str, Any]:
    return {
        "descriptor": what_if.descriptor,
        "scaler": what_if.scaler,
        "cluster_class": what_if.cluster_class,
        "note": what_if.note,
        "start": int(what_if.start),
        "sliders": {name: [_plain(value) for value in values] for name, values in what_if.sliders.items()},
        "cuts": [
            {
                "n_clusters": int(cut.n_clusters),
                "coverage": _plain(cut.coverage),
                "largest_share": _plain(cut.largest_share),
                "labels": None if name is None else [name, itemsize],
            }
            for cut, name, (_, itemsize) in zip(what_if.cuts, names, packed, strict=True)
        ],
    }


def _figure_part(figure: Figure) -> dict[str, str]:
    address = f"data:{_image_type(figure.image)};base64,{_base64(figure.image)}"
    return {"descriptor": figure.descriptor, "title": figure.title, "caption": figure.caption, "image": address}


def _image_type(image: bytes) -> str:
    if image[:4] == b"RIFF":
        return "image/webp"
    return "image/png" if image[:4] == b"\x89PNG" else "image/jpeg"


def _plain(value: Any) -> Any:
    """Return a number, text, bool or None; what JSON has no word for (NaN, infinity, NA) is None or text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return None if str(value) in {"<NA>", "NaT"} else str(value)


def _json(value: Any) -> str:
    """Write JSON in ASCII, in which file names of broken encodings can be written, too."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _ascii_html(text: str) -> str:
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
