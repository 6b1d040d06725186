"""Packing of the report page: what is packed comes back, nothing breaks out, the budget holds."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import itertools
import json
import re
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from report_demo import HOSTILE, demo_page

from toolkit.report.html.pack import page_html, safe_address

if TYPE_CHECKING:
    from toolkit.report.html.data import Page


class Elements(html.parser.HTMLParser):
    """Reads a document as a browser does: its elements, and the text of those that have an id."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: dict[str, str] = {}
        self._id = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._id = dict(attrs).get("id") or ""

    def handle_data(self, data: str) -> None:
        self.texts[self._id] = self.texts.get(self._id, "") + data

    def page(self) -> dict[str, Any]:
        return dict(json.loads(self.texts["page"]))

    def array(self, name: str, itemsize: int) -> np.ndarray:
        data = zlib.decompress(base64.b64decode(self.texts[name]))
        planes = np.frombuffer(data, np.uint8).reshape(itemsize, -1)
        return np.ascontiguousarray(planes.T).view(f"<u{itemsize}").ravel()


@pytest.fixture(scope="module")
def small() -> Page:
    return demo_page()


@pytest.fixture(scope="module")
def document(small: Page) -> str:
    return page_html(small)[0]


def test_points_come_back(small: Page, document: str) -> None:
    elements = Elements(document)
    for map_, packed in zip(small.maps, elements.page()["maps"], strict=True):
        points = elements.array(packed["points"], 2).reshape(2, -1).T * packed["step"] + packed["low"]
        np.testing.assert_allclose(points, map_.points, atol=np.ptp(map_.points, axis=0).max() / 65535 * 0.51)
        steps = np.ones(len(points)) if packed["positions"] is None else elements.array(packed["positions"], 4)
        assert packed["positions"] is None or np.array_equal(np.cumsum(steps), map_.positions)
        assert packed["positions"] is not None or len(map_.positions) == len(small.paths)


@pytest.mark.parametrize("greatest", [-2, -1, 0, 253, 254, 65_533, 70_000])
def test_labels_come_back(small: Page, greatest: int) -> None:
    labels = np.resize(np.linspace(-2, greatest, 97).astype(np.int32), len(small.paths))
    model = dataclasses.replace(small.models[0], labels=labels)
    elements = Elements(page_html(dataclasses.replace(small, models=[model]))[0])
    name, itemsize = elements.page()["models"][0]["labels"]
    assert itemsize == (1 if greatest <= 253 else 2 if greatest <= 65_533 else 4)
    assert np.array_equal(elements.array(name, itemsize).astype(np.int64) - 2, labels)


def test_all_labels_rows_and_paths_come_back(small: Page, document: str) -> None:
    elements = Elements(document)
    page = elements.page()
    assert np.array_equal(np.cumsum(elements.array(page["rows"], 4)), small.rows)
    images = json.loads(zlib.decompress(base64.b64decode(elements.texts[page["images"]])))
    assert images[::2] == small.paths
    models = zip(small.models, page["models"], strict=True)
    cuts = zip(small.what_ifs[0].cuts, page["what_ifs"][0]["cuts"], strict=True)
    for ours, packed in itertools.chain(models, cuts):
        assert (ours.labels is None) == (packed["labels"] is None)
        if ours.labels is not None:
            assert np.array_equal(elements.array(*packed["labels"]).astype(int) - 2, ours.labels)


def test_nothing_breaks_out_of_its_element(small: Page) -> None:
    names = [*HOSTILE, "@blocks@ @script@ \\1"]
    hostile = dataclasses.replace(
        small,
        title=names[1],
        facts=[(name, name) for name in names],
        notes=names,
        models=[dataclasses.replace(model, name=names[i % 9], why=names[1]) for i, model in enumerate(small.models)],
    )
    usual, elements = Elements(page_html(small)[0]), Elements(page_html(hostile)[0])
    assert elements.tags == usual.tags
    assert elements.page()["notes"] == names
    assert elements.page()["title"] == names[1]


def test_needs_no_network_and_no_inline_handlers(document: str) -> None:
    ours = re.sub(r'<script type="application/.*?</script>', "", document, flags=re.DOTALL)
    assert set(re.findall(r"https?://[\w./]+", ours)) == {"http://www.w3.org/2000/svg"}  # a namespace
    assert "innerHTML" not in ours
    assert "unsafe" not in ours.split("<style>")[0]


@pytest.mark.parametrize(
    ("address", "safe"),
    [
        ("images/a b.jpg", "images/a%20b.jpg"),
        ("../images/100%.jpg", "../images/100%25.jpg"),
        ("a%20b.jpg", "a%20b.jpg"),
        ("a#1?.jpg", "a%231%3F.jpg"),
        ("javascript:alert(1)", "javascript%3Aalert%281%29"),
        ("JaVa\tscript:alert(1)", "JaVa%09script%3Aalert%281%29"),
        ("data:text/html,x", "data%3Atext/html%2Cx"),
        ("https://a.b/c.jpg", "https%3A//a.b/c.jpg"),
        ("//host/a.jpg", "/host/a.jpg"),
        ("\\\\host\\a.jpg", "%5C%5Chost%5Ca.jpg"),
        ("/data/ü.jpg", "/data/%C3%BC.jpg"),
        ("file:///C:/a b.jpg", "file:///C:/a%20b.jpg"),
        ("file:////host/a.jpg", "file:///host/a.jpg"),
        ("file://host/a.jpg", "file%3A//host/a.jpg"),
        ("broken\udcff.jpg", "broken%FF.jpg"),
        ('"><img>', "%22%3E%3Cimg%3E"),
    ],
)
def test_addresses_are_paths_only(address: str, safe: str) -> None:
    assert safe_address(address) == safe
    assert safe_address(safe) == safe


def test_eligibility_and_the_start_of_the_sliders_are_handed_on(small: Page, document: str) -> None:
    page = Elements(document).page()
    assert [model["is_eligible"] for model in page["models"]] == [model.is_eligible for model in small.models]
    assert {model["is_eligible"] for model in page["models"]} == {True, False}
    what_if = page["what_ifs"][0]
    assert what_if["start"] == small.what_ifs[0].start != 0
    assert [cut["largest_share"] for cut in what_if["cuts"]] == [cut.largest_share for cut in small.what_ifs[0].cuts]


def kept(document: str) -> tuple[int, int, int, int]:
    elements = Elements(document)
    page = elements.page()
    return (
        sum(cut["labels"] is not None for what_if in page["what_ifs"] for cut in what_if["cuts"]),
        sum(model["labels"] is not None for model in page["models"]),
        len(json.loads(elements.texts["thumbnails"])),
        len(json.loads(elements.texts["figures"])),
    )


def test_budget_gives_up_parts_in_order(small: Page) -> None:
    few = dict(list(small.thumbnails.items())[:30])  # of a size like that of the other parts
    page = dataclasses.replace(small, thumbnails=few)
    document = page_html(page)[0]
    full, least, most = kept(document), len(page_html(page, max_bytes=1)[0].encode()), len(document.encode())
    assert full == (60, 12, 30, 3)
    seen = []
    for max_bytes in np.linspace(least, most, 25).astype(int):
        text, left_out = page_html(page, max_bytes=int(max_bytes))
        assert len(text.encode()) <= max_bytes
        counts = kept(text)
        partial = [count < whole for count, whole in zip(counts, full, strict=True)]
        given_up_later = [any(partial[i + 1 :]) for i in range(4)]
        assert [count for count, later in zip(counts, given_up_later, strict=True) if later] == [0] * sum(
            given_up_later
        )
        assert len(left_out) == sum(partial)
        assert Elements(text).page()["notes"] == [*page.notes, *left_out]
        seen.append(counts)
    assert seen == sorted(seen, key=lambda counts: counts[::-1])
    assert seen[-1] == full
    assert all(len({counts[i] for counts in seen}) > 2 for i in range(4)), "each part was once given up in part"


def test_budget_leaves_out_the_end_and_no_more_than_it_must(small: Page, document: str) -> None:
    text, left_out = page_html(small, max_bytes=len(document) - 5000)
    assert len(left_out) == 1
    assert left_out[0].startswith(f"Left out: labels of {kept(text)[0]} of 60 what-if cuts are in the page")
    cuts = [cut["labels"] is not None for cut in Elements(text).page()["what_ifs"][0]["cuts"]]
    assert cuts == sorted(cuts, reverse=True)
    assert len(text) > len(document) - 5000 - 2500  # one cut more, of about 1 to 2 kB, would have been too much
    numbers = Elements(text).page()["what_ifs"][0]["cuts"]
    assert [cut["n_clusters"] for cut in numbers] == [cut.n_clusters for cut in small.what_ifs[0].cuts]


def test_links_to_pictures_of_a_cluster_are_paths(small: Page) -> None:
    hostile = {"a": "javascript:alert(1)", "</script>": "aggregates/eigenfaces_1.png"}
    cluster = dataclasses.replace(small.models[0].clusters[0], aggregates=hostile)
    model = dataclasses.replace(small.models[0], clusters=(cluster,))
    elements = Elements(page_html(dataclasses.replace(small, models=[model]))[0])
    name = elements.page()["models"][0]["clusters"]
    (packed,) = json.loads(zlib.decompress(base64.b64decode(elements.texts[name])))
    assert packed["aggregates"] == {"a": "javascript%3Aalert%281%29", "</script>": "aggregates/eigenfaces_1.png"}


def test_too_small_a_budget_is_said(small: Page) -> None:
    text, left_out = page_html(small, max_bytes=1)
    assert kept(text) == (0, 0, 0, 0)
    assert re.fullmatch(r"The page takes 0\.\d MB without any of these: more than was asked for\.", left_out[-1])


def test_same_page_same_bytes(document: str) -> None:
    assert page_html(demo_page())[0] == document


def test_equal_labellings_are_written_once(small: Page) -> None:
    twice = dataclasses.replace(small, models=[small.models[0], small.models[0]])
    first, second = Elements(page_html(twice)[0]).page()["models"]
    assert first["labels"] == second["labels"]
