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
from report_demo import HOSTILE, demo_page, write_images
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
        values = {i: value for i, model in enumerate(small.models) if (value := score(model, key)) is not None}
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
    assert css(page, '#clusters .bar[data-code="2"] .bar-name').text == "people <i>walking</i>"
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
    assert css(page, "#tooltip .cluster-name").text in ("people <i>walking</i>", f"cluster {label}")


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
    names = {-1: "noise", 0: "people <i>walking</i>", 3: "night"}
    name_of = {int(label): names.get(int(label), f"cluster {label}") for label in [*place_of, *labels]}
    head, *rows = page.execute_script(
        "return [...document.querySelectorAll('#contingency-table tr')].map("
        "  (row) => [...row.cells].map((cell) => cell.textContent))"
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
    for keys, eps, min_samples in [("", 5, 2), (Keys.HOME, 0, 2), (Keys.ARROW_RIGHT * 3, 3, 2), (Keys.END, 11, 2)]:
        css(page, "#slider-0").send_keys(keys)
        cut = what_if.cuts[eps * 5 + min_samples]
        assert (cut.settings["eps"], cut.settings["min_samples"]) == (what_if.sliders["eps"][eps], 16)
        numbers = [dd.text for dd in page.find_elements("css selector", "#whatif-numbers dd")]
        assert numbers[0] == str(cut.n_clusters)
        assert float(numbers[1].split()[0]) == pytest.approx(100 * cut.coverage, abs=0.051)
        settled(
            page, "report.views().whatif.codes.every((code, i) => code - 2 === arguments[0][i])", cut.labels.tolist()
        )
        seen.add(numbers[0])
    assert len(seen) == 4
    css(page, "#slider-1").send_keys(Keys.HOME)
    assert page.execute_script("return report.cut().coverage") == what_if.cuts[11 * 5].coverage


def test_what_if_without_labels_shows_numbers(browser: Chrome, small: Page, tmp_path: Path) -> None:
    text, _ = page_html(small, max_bytes=len(page_html(small)[0]) - 150_000)
    (tmp_path / "report.html").write_text(text, "utf-8")
    open_page(browser, tmp_path / "report.html")
    assert "what-if cuts" in css(browser, "#notes").get_attribute("textContent")
    css(browser, "#tab-whatif").click()
    settled(browser, "!document.getElementById('whatif-missing').hidden")
    assert css(browser, "#whatif-numbers dd").text == str(small.what_ifs[0].cuts[5 * 5 + 2].n_clusters)
    assert severe_entries(browser) == []


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
    click_model(browser, 39)
    settled(
        browser, f"{DETAIL}.codes.every((code, i) => code - 2 === arguments[0][i])", large.models[39].labels.tolist()
    )
    assert severe_entries(browser) == []
