"""The report page in a real browser."""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browser import (
    DETAIL,
    click_model,
    css,
    drag,
    hover,
    open_page,
    place,
    settled,
    severe_entries,
    shown_models,
    start_browser,
    watch_pointer,
)
from report_demo import HOSTILE, NAMES, START, demo_page, write_images
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix

from toolkit.report.html.pack import page_html

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

    from toolkit.report.html.data import Page


@pytest.fixture(scope="module")
def small() -> Page:
    return demo_page()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    yield from start_browser(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def report_path(browser: Chrome, small: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "report.html").write_text(page_html(small)[0], "utf-8")
    write_images(small, folder)
    return folder / "report.html"


@pytest.fixture
def page(browser: Chrome, report_path: Path) -> Iterator[Chrome]:
    """The page in its first state; at the end the console must have no errors and no name may have been run."""
    open_page(browser, report_path)
    yield browser
    assert severe_entries(browser) == []
    assert browser.execute_script("return window.hacked") is None


def names_of_labels(labels: Any, word: str = "") -> dict[int, str]:
    """Return how the page calls labels: by number, behind `word` where there is no name of the user's."""
    named = {label: f"{label} · {name.strip()}" for label, name in NAMES.items()}
    return {int(label): "noise" if label == -1 else named.get(int(label), f"{word}{label}") for label in labels}


@pytest.fixture
def phone(page: Chrome) -> Iterator[Chrome]:
    """The page on a screen of 390 by 844 pixels, which it had not when it was opened."""
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield page
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def score(model: Any, key: str) -> float | None:
    value = model.scores.get(key)
    return None if value is None or np.isnan(value) else value


@pytest.mark.parametrize(("key", "better_is_greater"), [("silhouette_score", True), ("davies_bouldin_score", False)])
def test_sorting(page: Chrome, small: Page, key: str, better_is_greater: bool) -> None:
    head = css(page, f'#models th[data-key="{key}"]')
    missing = [i for i, model in enumerate(small.models) if score(model, key) is None]
    known = [i for i in range(len(small.models)) if i not in missing]
    for descending in (better_is_greater, not better_is_greater):
        head.find_element("css selector", "button").click()
        assert head.get_attribute("aria-sort") == ("descending" if descending else "ascending")
        order = sorted(known, key=lambda i: (score(small.models[i], key) or 0) * (-1 if descending else 1))
        assert shown_models(page) == order + missing
    head.find_element("css selector", "button").send_keys("\ue007")
    assert head.get_attribute("aria-sort") == "none"
    assert shown_models(page) == list(range(len(small.models)))


def test_best_value_of_each_metric_is_marked(page: Chrome, small: Page) -> None:
    for key, greater in small.metrics.items():
        values = {
            i: value
            for i, model in enumerate(small.models)
            if model.is_eligible and (value := score(model, key)) is not None
        }
        best = (max if greater else min)(values, key=lambda i: values[i])
        marked = page.find_elements("css selector", f'#models td.best[data-key="{key}"]')
        rows = [cell.find_element("xpath", "..").get_attribute("data-model") for cell in marked]
        assert rows == [str(best)]


def test_filters(page: Chrome, small: Page) -> None:
    def expect(test: Any) -> None:
        expected = [i for i, model in enumerate(small.models) if test(model)]
        assert shown_models(page) == expected
        assert css(page, "#shown").text == f"{len(expected)} of 60 models"

    css(page, "#filter-text").send_keys("hdbscan min_samples=8")
    expect(lambda model: model.cluster_class == "HDBSCAN")
    css(page, "#filter-coverage").send_keys("80")
    expect(lambda model: model.cluster_class == "HDBSCAN" and model.scores["coverage"] >= 0.8)
    css(page, "#filters button[type=reset]").click()
    assert shown_models(page) == list(range(60))
    css(page, '#filter-descriptor option[value="vdc_color"]').click()
    css(page, "#filter-least").send_keys("20")
    css(page, "#filter-most").send_keys("200")
    expect(lambda model: model.descriptor == "vdc_color" and 20 <= (score(model, "n_clusters") or 0) <= 200)
    css(page, "#filters button[type=reset]").click()
    css(page, "#filter-finalist").click()
    expect(lambda model: model.is_finalist)
    css(page, "#filter-pareto").click()
    expect(lambda model: model.is_finalist and model.is_pareto)
    css(page, "#filters button[type=reset]").click()
    css(page, "#filter-eligible").click()
    expect(lambda model: model.is_eligible)


def test_keys_choose_a_model(page: Chrome) -> None:
    from selenium.webdriver import ActionChains, Keys

    page.execute_script("document.querySelector('#models tr[data-model=\"0\"]').focus()")
    ActionChains(page).send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_DOWN, Keys.ENTER).perform()
    settled(page, "report.state.model === 2")
    assert css(page, '#models tr[aria-selected="true"]').get_attribute("data-model") == "2"
    css(page, "#tab-models").send_keys(Keys.ARROW_RIGHT)
    settled(page, "!document.getElementById('panel-compare').hidden")


def test_a_model_shows_its_clusters_with_hostile_names_as_text(page: Chrome, small: Page) -> None:
    click_model(page, 1)
    settled(page, "document.querySelectorAll('#clusters .bar').length === arguments[0]", len(small.models[1].clusters))
    largest = max(small.models[1].clusters, key=lambda cluster: cluster.n_rows)
    assert f"{largest.n_rows:,}" in css(page, "#clusters .bar").text
    assert css(page, '#clusters .bar[data-code="2"] .bar-name').text == "0 · people <i>walking</i>"
    assert css(page, "#detail .why").text == small.models[1].why
    css(page, '#clusters .bar[data-code="5"]').click()
    settled(page, "document.querySelectorAll('.sheet').length === 1")
    members = small.models[1].clusters[4].members
    shown = [int(tile.get_attribute("data-position")) for tile in page.find_elements("css selector", ".sheet .tile")]
    assert shown == [position for kind in members.values() for position in kind]
    assert css(page, ".sheet header a").get_attribute("href").endswith("/sheets/cluster%203.png")
    assert page.execute_script("return report.views().detail.isolated") == 5


def test_models_without_labels_or_members_say_so(page: Chrome, small: Page) -> None:
    click_model(page, 6)
    settled(page, "document.querySelector('.sheet .caption')")
    assert css(page, ".sheet .caption").text.startswith("Examples: rows of this cluster that have a thumbnail")
    click_model(page, 30)
    settled(page, "document.getElementById('no-labels')")
    assert css(page, "#no-labels").text.startswith("Its labels are not in the page")
    click_model(page, 59)
    settled(page, "document.getElementById('no-labels').textContent.startsWith('This model failed')")
    assert small.models[59].scores["error"] in css(page, "#no-labels").text


def test_hovering_shows_the_nearest_row(page: Chrome, small: Page) -> None:
    x, y = place(page, DETAIL, 700)
    hover(page, x, y)
    script = f"const v = {DETAIL}; const c = v.canvas; return v.unitsAt(arguments[0] + c.clientWidth / 2, "
    at = page.execute_script(script + "arguments[1] + c.clientHeight / 2)", round(x), round(y))
    map_ = small.maps[0]
    step = np.ptp(map_.points, axis=0).max() / 65535
    units = (map_.points - map_.points.min(axis=0)) / step
    distances = np.linalg.norm(units - [at["x"], at["y"]], axis=1)
    path = css(page, "#tooltip .path").text
    assert distances[small.paths.index(path)] <= distances.min() + 2
    label = int(small.models[0].labels[small.paths.index(path)])
    assert css(page, "#tooltip .cluster-name").text == names_of_labels([label], "cluster ")[label]


@pytest.mark.parametrize("exists", [True, False])
def test_images_load_lazily_and_may_be_missing(page: Chrome, small: Page, report_path: Path, exists: bool) -> None:
    points = small.maps[0].points
    for position in range(len(HOSTILE), len(small.paths)):  # a lonely row without a thumbnail
        apart = np.sort(np.linalg.norm(points - points[position], axis=1))[1]
        if position not in small.thumbnails and apart > 0.25:
            break
    image = report_path.parent / "images" / small.paths[position]
    if not exists:
        image.rename(image.with_suffix(".gone"))
    hover(page, *place(page, DETAIL, position))
    assert css(page, "#tooltip .path").text == small.paths[position]
    loaded = "document.querySelector('#tooltip img')?.naturalWidth"
    settled(page, f"{loaded} > 0" if exists else "document.querySelector('#tooltip img') === null")
    if not exists:
        image.with_suffix(".gone").rename(image)
        # The browser itself notes a file that is not there; the page cannot prevent that, and makes no other entry.
        assert all("ERR_FILE_NOT_FOUND" in message for message in severe_entries(page))


def inside(page: Chrome, small: Page, corners: list[tuple[float, float]]) -> list[int]:
    """Tell which rows are inside a convex outline on the first map, clockwise on the screen, from its corner."""
    script = f"const v = {DETAIL}; return arguments[0].map(([x, y]) => v.unitsAt(x, y))"
    outline = np.array([[at["x"], at["y"]] for at in page.execute_script(script, corners)])
    points = small.maps[0].points.astype(np.float64)
    units = np.rint((points - points.min(axis=0)) / (np.ptp(points, axis=0).max() / 65535))
    edges = np.roll(outline, -1, axis=0) - outline
    sides = [dx * (units[:, 1] - y) - dy * (units[:, 0] - x) for (dx, dy), (x, y) in zip(edges, outline, strict=True)]
    return [int(row) for row in np.flatnonzero((np.array(sides) <= 0).all(axis=0))]


def test_box_and_lasso_select_what_is_inside(page: Chrome, small: Page) -> None:
    place(page, DETAIL, 0)
    watch_pointer(page)
    drag(page, [(-210, -160), (190, 130)], shift=True)
    (left, top), *_, (right, bottom) = page.execute_script("return window.trail")
    expected = inside(page, small, [(left, top), (right, top), (right, bottom), (left, bottom)])
    assert 100 < len(expected) < 1400
    settled(page, "report.state.selection")
    assert page.execute_script("return [...report.state.selection]") == expected
    settled(page, "document.getElementById('selection').querySelector('h2')")
    assert css(page, "#selection h2").text == f"{len(expected):,} rows selected"
    counts = {label: int((small.models[0].labels[expected] == label).sum()) for label in (0, 1, 2)}
    assert [int(b.text.replace(",", "")) for b in page.find_elements("css selector", "#selection .chips b")] == sorted(
        counts.values(), reverse=True
    )
    tiles = [
        int(tile.get_attribute("data-position")) for tile in page.find_elements("css selector", "#selection .tile")
    ]
    assert tiles == [row for row in expected if row in small.thumbnails][:200]
    css(page, "#clear-selection").click()
    css(page, '#map-column [data-mode="lasso"]').click()
    place(page, DETAIL, 0)
    watch_pointer(page)
    drag(page, [(-200, -150), (220, -100), (10, 150)])
    expected = inside(page, small, page.execute_script("return window.trail"))
    assert 100 < len(expected) < 1400
    settled(page, "report.state.selection")
    assert page.execute_script("return [...report.state.selection]") == expected
    page.find_element("css selector", "body").send_keys("\ue00c")
    settled(page, "report.state.selection === null && document.getElementById('selection').hidden")


def test_zoom_pan_and_reset(page: Chrome) -> None:
    from selenium.webdriver import Keys

    camera = f"const {{x, y, zoom}} = {DETAIL}.camera; return [x, y, zoom]"
    home = page.execute_script(camera)
    canvas = css(page, "#map-column canvas")
    canvas.send_keys("+", Keys.ARROW_RIGHT, Keys.ARROW_UP)
    x, y, zoom = page.execute_script(camera)
    assert (x > home[0], y > home[1], zoom > home[2]) == (True, True, True)
    place(page, DETAIL, 0)
    drag(page, [(0, 0), (80, 0)])
    assert page.execute_script(camera)[0] < x
    canvas.send_keys("0")
    assert page.execute_script(camera) == home
    wheel = (
        f"const v = {DETAIL}; const at = v.locate(900); const box = v.canvas.getBoundingClientRect();"
        "const where = {clientX: box.left + at.x, clientY: box.top + at.y};"
        "v.canvas.dispatchEvent(new WheelEvent('wheel', {deltaY: -500, ...where}));"
        "const then = v.locate(900); return [at.x, at.y, then.x, then.y, v.camera.zoom]"
    )
    was_x, was_y, is_x, is_y, zoom = page.execute_script(wheel)
    # An event's place is in whole pixels, and the zoom magnifies the rounding.
    assert (is_x, is_y) == pytest.approx((was_x, was_y), abs=2), "what is under the pointer stays there"
    assert zoom > 2


def test_download_has_the_selected_rows(page: Chrome, small: Page, tmp_path: Path) -> None:
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    chosen = [0, 1, 2, 3, 4, 5, 6, 7, 40, 900]
    page.execute_script("report.select(arguments[0])", chosen)
    settled(page, "document.getElementById('download-csv')")
    css(page, "#download-csv").click()
    file, end = tmp_path / "selected_rows.csv", time.monotonic() + 10
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.02)
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    paths = [small.paths[i].replace("\udcff", "\ufffd") for i in chosen]
    labels = small.models[0].labels
    assert rows == [["row", "path", "label"]] + [
        [str(small.rows[i]), path, str(labels[i])] for i, path in zip(chosen, paths, strict=True)
    ]
    listed = [
        item.get_attribute("textContent") for item in page.find_elements("css selector", "#selection .paths li")[:5]
    ]
    assert listed == HOSTILE[:5]


def assert_table_shows(page: Chrome, counts: np.ndarray, place_of: dict[int, int], labels: np.ndarray) -> None:
    """Compare the table on the page, by the names in its heads, with the counts."""
    name_of = names_of_labels([*place_of, *labels])
    head, *rows = page.execute_script(
        "return [...document.querySelectorAll('#contingency-table tr')].map("
        "  (row) => [...row.cells].map((cell) => cell.textContent.trim()))"
    )
    assert sorted(head[1:-1]) == sorted(name_of[int(label)] for label in labels)
    assert len(rows) == min(30, len(place_of))
    by_name = {name_of[label]: counts[at] for label, at in place_of.items()}
    column_of = {name_of[int(label)]: at for at, label in enumerate(labels)}
    for name, *cells, total in rows:
        shown = [0 if cell == "·" else int(cell.replace(",", "")) for cell in cells]
        assert shown == [by_name[name][column_of[column]] for column in head[1:-1]]
        assert int(total.replace(",", "")) == by_name[name].sum()


@pytest.mark.parametrize(("first", "second"), [(0, 1), (2, 1), (2, 3), (3, 7), (5, 5)])
def test_comparison_equals_numpy_and_sklearn(page: Chrome, small: Page, first: int, second: int) -> None:
    css(page, "#tab-compare").click()
    settled(page, "report.contingency()")
    for side, model in (("first", first), ("second", second)):
        css(page, f'#compare-{side} option[value="{model}"]').click()
    a, b = small.models[first].labels, small.models[second].labels
    both = (a != -2) & (b != -2)
    expected = contingency_matrix(a[both], b[both])
    now = "report.contingency().cells.map((cell) => cell[2]).join()"
    settled(page, f"{now} === arguments[0]", ",".join(map(str, expected[expected > 0])))
    table = page.execute_script("return report.contingency()")
    assert [code - 2 for code in table["first"]] == np.unique(a[both]).tolist()
    assert [code - 2 for code in table["second"]] == np.unique(b[both]).tolist()
    counts = np.zeros_like(expected)
    for code_a, code_b, count in table["cells"]:
        counts[table["first"].index(code_a), table["second"].index(code_b)] = count
    assert np.array_equal(counts, expected)
    ari = adjusted_rand_score(a[both], b[both])
    assert page.execute_script("return report.ari()") == pytest.approx(ari, abs=1e-12)
    assert css(page, "#ari").text == f"{ari:.3f}"
    assert_table_shows(
        page, expected, {int(label): at for at, label in enumerate(np.unique(a[both]))}, np.unique(b[both])
    )
    cell = css(page, "#contingency-table button")
    code_a, code_b = map(int, cell.get_attribute("data-cell").split(","))
    page.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", cell)
    rows = np.flatnonzero((a == code_a - 2) & (b == code_b - 2))
    assert cell.text.replace(",", "") == str(len(rows))
    assert page.execute_script("return [...report.state.selection]") == rows.tolist()


def test_compared_maps_move_together(page: Chrome) -> None:
    css(page, "#tab-compare").click()
    settled(page, "report.views().compare.length === 2 && report.views().compare[1].drawMs")
    css(page, "#compare-left canvas").send_keys("++")
    left, right = page.execute_script(
        "return report.views().compare.map((view) => { view.draw(); return view.locate(20); })"
    )
    assert left == right
    assert page.execute_script("return report.views().compare[1].camera.zoom") > 1.9


def test_sliders_show_the_cut(page: Chrome, small: Page) -> None:
    from selenium.webdriver import Keys

    what_if = small.what_ifs[0]
    css(page, "#tab-whatif").click()
    settled(page, "report.cut()")
    seen = set()
    for keys, eps, min_samples in [("", 6, 3), (Keys.HOME, 0, 3), (Keys.ARROW_RIGHT * 3, 3, 3), (Keys.END, 11, 3)]:
        css(page, "#slider-0").send_keys(keys)
        cut = what_if.cuts[eps * 5 + min_samples]
        assert (cut.settings["eps"], cut.settings["min_samples"]) == (what_if.sliders["eps"][eps], 32)
        numbers = [dd.text for dd in page.find_elements("css selector", "#whatif-numbers dd")]
        assert numbers[0] == str(cut.n_clusters)
        shares = (cut.coverage, 1 - cut.coverage, cut.largest_share)
        if not cut.n_clusters:
            assert numbers.pop() == "\N{EN DASH}"
        for text, share in zip(numbers[1:], shares, strict=False):
            assert float(text.split()[0]) == pytest.approx(100 * share, abs=0.051)
        settled(
            page, "report.views().whatif.codes.every((code, i) => code - 2 === arguments[0][i])", cut.labels.tolist()
        )
        seen.add(numbers[0])
    assert len(seen) == 4
    steps = "return [...document.querySelectorAll('.steps')].map((one) => [...one.children].map((s) => s.textContent))"
    eps, min_samples = page.execute_script(steps)
    assert min_samples == ["4", "8", "16", "32", "64"]
    assert (len(eps), eps[0], eps[-1]) == (12, "0.2", "2.4")
    ticks = {
        side: [text.text for text in page.find_elements("css selector", f"#whatif-chart .{side} text")]
        for side in ("left", "bottom")
    }
    counts = [cut.n_clusters for cut in what_if.cuts[3::5]]
    assert ticks["left"][0] == "0"
    assert ticks["left"][-1] == str(max(counts))
    assert (ticks["bottom"][0], ticks["bottom"][-1]) == ("0.2", "2.4")
    css(page, "#slider-1").send_keys(Keys.HOME)
    assert page.execute_script("return report.cut().coverage") == what_if.cuts[11 * 5].coverage


def test_what_if_without_labels_shows_numbers(browser: Chrome, small: Page, tmp_path: Path) -> None:
    text, _ = page_html(small, max_bytes=len(page_html(small)[0]) - 150_000)
    (tmp_path / "report.html").write_text(text, "utf-8")
    open_page(browser, tmp_path / "report.html")
    assert "what-if cuts" in css(browser, "#notes").get_attribute("textContent")
    css(browser, "#tab-whatif").click()
    settled(browser, "!document.getElementById('whatif-missing').hidden")
    assert css(browser, "#whatif-numbers dd").text == str(small.what_ifs[0].cuts[START].n_clusters)
    assert severe_entries(browser) == []


def test_headings_say_which_way_is_better_in_words(page: Chrome, small: Page) -> None:
    heads = page.find_elements("css selector", "#models th")
    assert not any(arrow in head.text for head in heads for arrow in "↑↓")
    for key, greater in small.metrics.items():
        button = css(page, f'#models th[data-key="{key}"] button')
        better = f"{'higher' if greater else 'lower'} is better"
        assert (button.get_attribute("title"), button.find_element("css selector", "small").text) == (better, better)
    order = css(page, "#models-order")
    assert order.text.startswith("Most important first: finalists, then by rank.")
    css(page, '#models th[data-key="davies_bouldin_score"] button').click()
    assert order.text == "Sorted by davies-bouldin, lowest first."
    mark = "return getComputedStyle(arguments[0].querySelector('.sorted'), '::after').content"
    assert [page.execute_script(mark, head) for head in heads].count("none") == len(heads) - 1


def test_ineligible_models_are_pale_and_say_why(page: Chrome, small: Page) -> None:
    for i, model in enumerate(small.models[:12]):
        row = css(page, f'#models tr[data-model="{i}"]')
        why = None if model.is_eligible else "Does not meet the constraints of best"
        assert (row.get_attribute("title") or None) == why
        assert ("ineligible" in row.get_attribute("class")) is not model.is_eligible
        for dot in page.find_elements("css selector", f'#scatter .dot[data-model="{i}"]'):
            opacity = float(dot.value_of_css_property("fill-opacity"))
            assert (opacity < 0.2) is not (model.is_eligible or i == 0)
    assert css(page, "#scatter-hollow").text == "hollow: does not meet the constraints"
    colours = [css(page, f'tr[data-model="{i}"] td.number').value_of_css_property("color") for i in (0, 4)]
    assert colours[0] != colours[1]


def test_numbers_of_clusters_stand_on_their_members(page: Chrome, small: Page) -> None:
    anchors = f"return {DETAIL}.numbered.anchors.map(({{code, place}}) => [code - 2, place])"
    for model, n_numbers in ((1, 4), (2, 60)):
        click_model(page, model)
        labels = small.models[model].labels
        settled(page, f"{DETAIL}.codes.every((code, i) => code - 2 === arguments[0][i])", labels.tolist())
        settled(page, f"{DETAIL}.numbered.codes === {DETAIL}.codes")
        found = page.execute_script(anchors)
        assert len(found) == n_numbers
        sizes = [int((labels == label).sum()) for label, _ in found]
        assert sizes == sorted(sizes)
        assert sizes[0] >= sorted(np.unique(labels[labels >= 0], return_counts=True)[1])[-n_numbers]
        points = small.maps[0].points.astype(np.float64)
        step = np.ptp(points, axis=0).max() / 65535
        for label, place_ in found:
            members = points[labels == label]
            away = np.linalg.norm(members - np.median(members, axis=0), axis=1).min()
            assert labels[place_] == label
            assert np.linalg.norm(points[place_] - np.median(members, axis=0)) <= away + 4 * step
    pixels = (
        f"const v = {DETAIL}; v.draw(); const c = v.canvas; const d = c.getContext('2d');"
        "return [...d.getImageData(0, 0, c.width, c.height).data].reduce((sum, value) => sum + value, 0)"
    )
    written = page.execute_script(pixels)
    toggle = css(page, '#map-column [data-toggle="showNumbers"]')
    assert toggle.is_selected()
    toggle.click()
    assert page.execute_script(pixels) != written


def test_clusters_of_one_name_have_one_colour_everywhere(page: Chrome) -> None:
    page.execute_script("return report.chooseModel(5)")  # labels 0 to 7, of which 3 and 7 are night
    settled(page, "document.querySelectorAll('#clusters .bar').length === 9")
    bar = '#clusters .bar[data-code="{}"]'
    names = [css(page, bar.format(code)).find_element("css selector", ".bar-name").text for code in (5, 9, 6, 1)]
    assert names == ["3 · night", "7 · night", "cluster 4", "noise"]
    colour = "return document.querySelector(arguments[0]).style.getPropertyValue('--colour')"
    for selector in (bar, '.sheet[data-code="{}"]'):
        three, seven, four = (page.execute_script(colour, selector.format(code)) for code in (5, 9, 6))
        assert three == seven != four
    ink = (
        f"const v = {DETAIL}; const inks = {{}}; v.order.forEach((place, i) => {{"
        "  inks[v.codes[v.places.positions[place]]] = v.ink[i]; }); return inks"
    )
    inks = page.execute_script(ink)
    assert inks["5"] == inks["9"] != inks["6"]
    long = css(page, f"{bar.format(7)} .clip")
    assert page.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", long)
    assert css(page, bar.format(7)).get_attribute("title").startswith(f"5 · {NAMES[5]}")
    heads = [span.text for span in page.find_elements("css selector", ".bars-head span")]
    assert heads == ["Cluster", "Stability", "Rows"]


def test_facts_of_a_model_and_of_the_run(page: Chrome, small: Page) -> None:
    names = [dt.text for dt in page.find_elements("css selector", "#detail-head > .scores dt")]
    metrics = ["Calinski-Harabasz", "Davies-Bouldin", "Silhouette"]
    assert names == ["Clusters", *metrics, "Coverage", "Noise", "Largest share", "Stability", "Parameters", "Rows"]
    assert css(page, "#how summary").text == "How it was computed"
    rest = "return [...document.querySelectorAll('#how dt')].map((dt) => dt.textContent)"
    assert page.execute_script(rest) == ["Descriptor", "Scaler", "Algorithm", "Stage", "Silhouette rows"]
    assert css(page, "#how").get_attribute("open") is None
    css(page, "#how summary").click()
    click_model(page, 1)
    settled(page, "document.getElementById('how').open")
    assert "60 in 1 stage" in [dd.text for dd in page.find_elements("css selector", "#facts dd")]
    time_ = css(page, "#facts time")
    local = "return new Date('2026-03-05T09:07:08Z').getHours()"
    assert time_.text == f"5 Mar 2026, {page.execute_script(local):02}:07"
    assert time_.get_attribute("title") == dict(small.facts)["Finished"]


def test_contact_sheets_say_where_they_lie(page: Chrome) -> None:
    settled(page, "document.getElementById('sheets-note')")
    assert css(page, "#sheets-note").text.startswith("Contact sheets lie in plots/ beside the report")
    links = page.find_elements("css selector", ".sheet:first-child header a")
    assert [link.text for link in links] == ["Contact sheet", "Eigen<i>faces"]
    titles = [link.get_attribute("title") for link in links]
    assert titles == ["sheets/cluster 0.png beside this file", "aggregates/eigenfaces_0.png beside this file"]
    assert links[1].get_attribute("href").endswith("/aggregates/eigenfaces_0.png")
    page.execute_script("return report.chooseModel(6)")
    settled(page, "!document.getElementById('sheets-note')")


def test_colours_of_the_right_model_are_those_of_the_left_with_most_rows(page: Chrome, small: Page) -> None:
    css(page, "#tab-compare").click()
    for side, model in (("first", 1), ("second", 5)):
        css(page, f'#compare-{side} option[value="{model}"]').click()
    a, b = small.models[1].labels, small.models[5].labels
    settled(page, "report.views().compare[1].codes.every((code, i) => code - 2 === arguments[0][i])", b.tolist())
    tints = dict(page.execute_script("return [...report.views().compare[1].legend.tints]"))
    merged = {3: 3, 7: 3}  # they share a name
    shared = {
        (left, right): int(((a == left) & np.isin(b, [k for k in range(8) if merged.get(k, k) == right])).sum())
        for left in range(4)
        for right in (0, 1, 2, 3, 4, 5, 6)
    }
    expected: dict[int, int] = {}
    for (left, right), _ in sorted(shared.items(), key=lambda item: (-item[1], item[0])):
        if right not in expected and left not in expected.values():
            expected[right] = left
    assert {right: tints[right + 2] - 2 for right in expected} == expected
    assert tints[9] == tints[5]
    others = [tints[right + 2] - 2 for right in range(7) if right not in expected]
    assert len(set(others)) == 3
    assert min(others) > 3
    swatches = "return [...document.querySelectorAll(arguments[0])].map((swatch) => swatch.style.cssText)"
    rows, columns = (
        set(page.execute_script(swatches, f"#contingency-table {part} th .swatch")) for part in ("tbody", "thead")
    )
    assert rows <= columns
    assert not any("cluster" in head.text for head in page.find_elements("css selector", "#contingency-table th"))


def test_thirty_columns_fit(page: Chrome) -> None:
    css(page, "#tab-compare").click()
    for side, model in (("first", 1), ("second", 2)):
        css(page, f'#compare-{side} option[value="{model}"]').click()
    settled(page, "document.querySelectorAll('#contingency-table thead th').length === 32")
    box = "const box = document.querySelector('#contingency .table-box'); "
    assert page.execute_script(f"{box} return box.scrollWidth <= box.clientWidth")
    assert not css(page, "#contingency-hint").is_displayed()


def test_a_wide_table_scrolls_with_its_first_column_in_place(phone: Chrome) -> None:
    page = phone
    css(page, "#tab-compare").click()
    settled(page, "report.contingency()")
    css(page, '#compare-second option[value="2"]').click()
    settled(page, "document.querySelectorAll('#contingency-table thead th').length === 32")
    settled(page, "!document.getElementById('contingency-hint').hidden")
    box = "const box = document.querySelector('#contingency .table-box'); "
    first = "document.querySelector('#contingency-table tbody th').getBoundingClientRect().left"
    assert page.execute_script(f"{box} const was = {first}; box.scrollLeft = 300; return was - {first}") == 0


def test_a_narrow_screen(phone: Chrome, report_path: Path) -> None:
    page = phone
    open_page(page, report_path)
    assert page.execute_script("return document.querySelector('.top').offsetHeight") <= 844 / 4
    assert not css(page, "#facts").is_displayed()
    css(page, "#about summary").click()
    assert css(page, "#facts").is_displayed()
    assert page.execute_script("const t = document.getElementById('tabs'); return t.scrollWidth > t.clientWidth")
    outside = (
        "return [...document.querySelectorAll('main dd, main .bar *, main .caption, .sheet header *, svg text')]"
        ".filter((each) => { const box = each.getBoundingClientRect(); return box.right > innerWidth + 1; })"
        ".map((each) => each.outerHTML)"
    )
    for tab in ("compare", "whatif", "figures", "models"):
        page.execute_script("document.getElementById(arguments[0]).click()", f"tab-{tab}")
        page.execute_script("return new Promise((done) => setTimeout(done, 100))")
        assert page.execute_script(outside) == []
        assert page.execute_script("const w = document.querySelector('.why'); return w.scrollWidth <= w.clientWidth")
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_without_a_finalist_that_is_said(browser: Chrome, small: Page, tmp_path: Path) -> None:
    models = [dataclasses.replace(model, is_finalist=False, why="") for model in small.models]
    (tmp_path / "report.html").write_text(page_html(dataclasses.replace(small, models=models))[0], "utf-8")
    open_page(browser, tmp_path / "report.html")
    assert css(browser, "#panel-models > :first-child").text.startswith("No model meets the constraints of best")
    assert severe_entries(browser) == []


def test_with_a_finalist_there_is_no_notice(page: Chrome) -> None:
    assert not css(page, "#no-best").is_displayed()


def test_themes(page: Chrome) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(background)
    corner = f"{DETAIL}.draw(); return [...{DETAIL}.canvas.getContext('2d').getImageData(1, 1, 1, 1).data].slice(0, 3)"
    assert min(page.execute_script(corner)) > 200
    ink = page.execute_script(f"return {DETAIL}.ink.at(-1)")
    settled(page, "document.querySelector('#clusters .bar')")
    bar = page.execute_script("return document.querySelector('#clusters .bar').style.getPropertyValue('--colour')")
    css(page, "#theme").click()
    assert page.execute_script(background) != light
    assert max(page.execute_script(corner)) < 60
    settled(page, f"{DETAIL}.ink.at(-1) !== arguments[0]", ink)
    settled(page, "document.querySelector('#clusters .bar').style.getPropertyValue('--colour') !== arguments[0]", bar)
    css(page, "#theme").click()
    assert page.execute_script(background) == light


def test_follows_the_system_theme(page: Chrome) -> None:
    for theme, dark in (("dark", True), ("light", False)):
        features = [{"name": "prefers-color-scheme", "value": theme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        background = page.execute_script(
            "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        assert (max(background) < 60) is dark


def test_scatter_chooses_a_model(page: Chrome, small: Page) -> None:
    dots = page.find_elements("css selector", "#scatter .dot")
    assert len(dots) > 50
    page.execute_script(
        "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", css(page, '.dot[data-model="7"]')
    )
    settled(
        page,
        "report.state.model === 7 && document.getElementById('detail-name').textContent === report.data.models[7].name",
    )
    assert "chosen" in css(page, '.dot[data-model="7"]').get_attribute("class")
    by_clusters = sorted(
        (n, score(model, "silhouette_score"), i)
        for i, model in enumerate(small.models)
        if (n := score(model, "n_clusters")) and score(model, "silhouette_score") is not None
    )
    order = [i for _, _, i in by_clusters]
    css(page, "#scatter-picture").send_keys("\ue014\ue014\ue007")  # right, right, Enter
    settled(page, "report.state.model === arguments[0]", order[order.index(7) + 2])
    assert page.execute_script("return document.activeElement.id") == "scatter-picture"


def test_agreement_and_figures(page: Chrome, small: Page) -> None:
    css(page, "#tab-figures").click()
    assert css(page, "#panel-figures h2").text == "Agreement of the best models"
    caption = css(page, "#panel-figures .caption").text
    assert caption.startswith("Above the diagonal: adjusted Rand index (ARI). Below it: adjusted mutual information")
    first, last = small.agreement[0], css(page, "#agreement tbody tr:nth-child(2) td")
    assert last.text == f"{first[3]:.2f}", "below the diagonal: AMI"
    settled(page, "document.querySelectorAll('#panel-figures figure').length === 3")
    cells = [td.text for td in page.find_elements("css selector", "#agreement tbody tr:nth-child(1) td")]
    assert cells == ["1"] + [f"{ari:.2f}" for _, _, ari, _ in small.agreement[:3]]
    settled(page, "[...document.querySelectorAll('figure img')].every((image) => image.naturalWidth === 640)")
    css(page, ".picture").click()
    assert css(page, "#enlarged").is_displayed()
    css(page, "#enlarged button").click()
    assert not css(page, "#enlarged").is_displayed()


def test_every_tab_with_everything_selected_runs_no_name(page: Chrome) -> None:
    page.execute_script("report.select([...Array(report.data.n_page_rows).keys()])")
    settled(page, "document.querySelectorAll('#selection .paths li').length === 1000")
    for tab in ("compare", "whatif", "figures", "models"):
        page.execute_script("document.getElementById(arguments[0]).click()", f"tab-{tab}")
        page.execute_script("document.getElementById('theme').click()")
    for width in (700, 1000, 1440):
        page.set_window_size(width, 1000)
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("with_models", [True, False])
def test_a_page_with_nearly_nothing(browser: Chrome, tmp_path: Path, with_models: bool) -> None:
    page = demo_page(1, n_models=2, n_labelled=2)
    if not with_models:
        nothing: dict[str, Any] = {"maps": [], "models": [], "what_ifs": [], "figures": [], "agreement": []}
        page = dataclasses.replace(page, **nothing, image_urls=None, thumbnails={}, notes=[], metrics={})
    (tmp_path / "report.html").write_text(page_html(page)[0], "utf-8")
    open_page(browser, tmp_path / "report.html")
    for tab in ("compare", "whatif", "figures", "models"):
        css(browser, f"#tab-{tab}").click()
    assert len(css(browser, "#panel-models").text) > 100
    assert severe_entries(browser) == []


def test_a_page_of_100_000_rows(browser: Chrome, tmp_path: Path) -> None:
    large = demo_page(100_000, n_models=870, n_labelled=40)
    text, left_out = page_html(large)
    assert len(text.encode()) <= 15_000_000
    assert left_out == []
    (tmp_path / "report.html").write_text(text, "utf-8")
    start = time.perf_counter()
    open_page(browser, tmp_path / "report.html")
    loaded = time.perf_counter() - start
    drawn = browser.execute_script(f"return [...Array(9)].map(() => {{ {DETAIL}.draw(); return {DETAIL}.drawMs; }})")
    print(
        f"\n{len(text) / 1e6:.1f} MB, loaded in {loaded:.2f} s, redraws in {json.dumps(sorted(drawn)[4])} ms (median)"
    )
    inked = (
        f"const c = {DETAIL}.canvas; const {{data}} = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        "const pixels = new Uint32Array(data.buffer); return pixels.filter((pixel) => pixel !== pixels[0]).length"
    )
    assert browser.execute_script(inked) > 20_000
    numbers = (
        f"const v = {DETAIL}; v.showNumbers = arguments[0];"
        "return [...Array(9)].map(() => { v.draw(); return v.drawMs; })"
    )
    without, with_ = (sorted(browser.execute_script(numbers, shown))[4] for shown in (False, True))
    assert with_ < 2 * without + 10, "the numbers of clusters do not slow the drawing of the points"
    click_model(browser, 39)
    settled(
        browser, f"{DETAIL}.codes.every((code, i) => code - 2 === arguments[0][i])", large.models[39].labels.tolist()
    )
    assert severe_entries(browser) == []
