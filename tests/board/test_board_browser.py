"""The board in a real browser: rows, sorting, filters, columns, details, themes, and no error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_records import FLOORS, HOSTILE, write_runs
from PIL import Image

from uss_bench.board import compute, files
from uss_bench.results.collection import gather, read_entries
from uss_bench.statistics.intervals import Interval

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The browser that playwright brought, or one of the system."""
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        path = own if Path(own).exists() else next(filter(None, map(shutil.which, BROWSERS)), None)
        if path is None:
            pytest.skip("there is no browser: playwright install chromium, or apt-get install chromium")
        found = driver.chromium.launch(executable_path=path)
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of three tables, opened from disk."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compute, "_sampling", lambda *_: None)
        patch.setattr(compute, "interval_of", lambda *_: Interval(12.0, 34.0))
        patch.setattr(compute, "tiers_of", lambda settings, *_: [1] * len(settings))
        for tau in (0.05, 0.1, 0.2):
            write_runs(folder / "records", "alpha", 0.3 + tau, params={"tau": tau})
        write_runs(folder / "records", "beta", 0.6, notes=[HOSTILE], command=HOSTILE)
        write_runs(folder / "records", "constant", 0.2, backbone="none", sha256="")
        write_runs(folder / "records", "beta", 0.4, backbone="resnet")
        write_runs(folder / "records", "beta", 0.4, dataset="harbour")
        entries, _ = read_entries([folder / "records"])
        boards = compute.boards(gather(entries), floors=FLOORS)
    for entry in entries:
        Image.fromarray(np.zeros((3, 4, 3), dtype=np.uint8)).save(entry.path.with_suffix(".png"))
    files.write(files.contents(boards, folder / "boards"), folder / "boards")
    return (folder / "boards" / "board.html").as_uri()


@pytest.fixture
def open_page(browser, address):
    """Open the page; afterwards nothing may have gone wrong in it, nor been asked of the network."""
    contexts, wrong = [], []

    def open_page(width: int = 1400, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on(
            "request", lambda one: None if one.url.startswith(("file:", "data:")) else wrong.append(one.url)
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def names_of(board) -> list[str]:
    """The visible rows of a table, from above."""
    names = "rows => rows.map((row) => row.querySelector('.name').textContent)"
    return board.locator("tbody.row:visible").evaluate_all(names)


def methods(page) -> list[str]:
    """The visible rows of the first visible table."""
    return names_of(page.locator("section.board:visible").first)


def all_visible(cells) -> set[bool]:
    """Whether the cells take up space: {True}, {False}, or both."""
    return set(cells.evaluate_all("cells => cells.map((cell) => cell.offsetWidth > 0)"))


def test_rows_are_there_best_first_and_floors_last(open_page):
    page = open_page()
    assert page.locator("section.board:visible").count() == 3
    town = page.locator("section.board[data-dataset=town][data-backbone=vit]")
    rows = names_of(town)
    assert rows[0] == "beta"
    assert rows[-1] == "constant"
    assert rows == ["beta", "alpha", "constant"]
    assert page.locator("#count").inner_text() == "3 tables, 6 rows"


def test_a_click_on_a_header_sorts_by_its_column_and_another_turns_it(open_page):
    page = open_page()
    town = page.locator("section.board[data-dataset=town][data-backbone=vit]")

    def values(column: int) -> list[float]:
        cells = town.locator(f"tbody.row > tr:first-child > :nth-child({column})")
        return cells.evaluate_all("cells => cells.map((cell) => Number(cell.dataset.sort))")

    for name, column in (("Acc", 2), ("mIoU", 3)):
        header = town.locator("thead tr").nth(1).locator("th.c-raw", has_text=name)
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == "descending"
        assert values(column) == sorted(values(column), reverse=True)
        header.locator("button").click()
        assert values(column) == sorted(values(column))
    assert town.locator("th[aria-sort]").count() == 1
    town.locator("thead button", has_text="method").click()
    names = names_of(town)
    assert names == sorted(names)


def test_filters_leave_the_tables_and_rows_that_fit(open_page):
    page = open_page()
    page.select_option("[data-filter=backbone]", "resnet")
    assert page.locator("section.board:visible").count() == 1
    assert page.locator(".overview tbody tr[data-table]:visible").count() == 1
    assert methods(page) == ["beta", "constant"]
    page.select_option("[data-filter=backbone]", "")
    page.select_option("[data-filter=dataset]", "town")
    assert page.locator("section.board:visible").count() == 2
    page.fill("[data-filter=method]", "ALPHA")
    assert page.locator("section.board:visible").count() == 1
    assert methods(page) == ["alpha"]
    page.fill("[data-filter=method]", "nobody")
    assert page.locator("section.board:visible").count() == 0
    assert page.locator("#nothing").is_visible()


def test_columns_are_hidden_and_shown(open_page):
    page = open_page()
    cells = page.locator("section.board:visible").first.locator("td.c-raw, th.c-raw")
    assert all_visible(cells) == {True}
    page.click(".columns summary")
    page.uncheck("[data-column=raw]")
    assert all_visible(cells) == {False}
    page.check("[data-column=raw]")
    assert all_visible(cells) == {True}


def test_a_row_opens_and_shows_its_runs_and_command(open_page):
    page = open_page()
    row = page.locator("section.board[data-dataset=town][data-backbone=vit] tbody.row").first
    detail = row.locator(".detail")
    assert not detail.is_visible()
    row.locator(".expand").click()
    assert detail.is_visible()
    assert detail.locator("pre").inner_text() == HOSTILE
    assert detail.locator(".runs a").count() == 3
    detail.locator(".panel summary").click()
    picture = detail.locator(".panel img")
    picture.scroll_into_view_if_needed()
    page.wait_for_function("image => image.complete", arg=picture.element_handle())
    assert picture.evaluate("image => image.naturalWidth") == 4
    row.locator(".expand").click()
    assert not detail.is_visible()


def test_a_phone_sees_the_main_columns_and_no_page_is_wider_than_it(open_page):
    page = open_page(width=390)
    board = page.locator("section.board:visible").first
    assert board.locator("td.c-crf").first.is_visible()
    assert not board.locator("td.c-cost").first.is_visible()
    page.locator(".expand:visible").first.click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_theme_follows_the_system_and_the_button(open_page):
    def background(page) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = open_page(color_scheme="light"), open_page(color_scheme="dark")
    assert background(light) != background(dark)
    before = background(dark)
    light.click("#theme")
    assert background(light) == before


def test_details_are_as_wide_as_their_table(open_page):
    page = open_page()
    page.locator(".expand:visible").first.click()
    right = "one => one.getBoundingClientRect().right"
    detail = page.locator(".detail:visible").first
    assert detail.evaluate(right) == pytest.approx(
        detail.locator("xpath=ancestor::table").evaluate(right), abs=1
    )


def test_on_paper_there_are_no_buttons_and_it_is_light(open_page):
    page = open_page(color_scheme="dark")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    assert page.locator("button.expand:visible, button.fold:visible, .controls:visible").count() == 0
    assert page.locator("tr.line:visible").count() == 6
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background


def test_the_page_is_whole_without_scripts(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator("section.board:visible").count() == 3
    assert page.locator("tbody.row:visible").count() == 6
    assert page.locator("tr.variant:visible").count() == 2
    assert page.locator(".detail:visible").count() == 8


def test_other_settings_are_folded_below_their_method(open_page):
    page = open_page()
    alpha = page.locator("section.board[data-dataset=town][data-backbone=vit] tbody.row", has_text="alpha")
    assert alpha.locator(".variant:visible").count() == 0
    alpha.locator(".fold").click()
    assert alpha.locator(".variant .name:visible").all_inner_texts() == ["tau=0.2", "tau=0.05"]
    assert alpha.locator(".detail:visible").count() == 0
    alpha.locator(".variant .expand").first.click()
    assert alpha.locator(".detail:visible").count() == 1
    alpha.locator(".fold").click()
    assert alpha.locator(".variant:visible, .detail:visible").count() == 0


@pytest.mark.parametrize("width", [1400, 390])
def test_no_page_is_wider_than_its_window(open_page, width):
    page = open_page(width=width)
    page.locator(".expand:visible").first.click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    cut = "tables => tables.filter((one) => one.scrollWidth > one.clientWidth).length"
    if width == 1400:
        assert page.locator("section.board .scroll").evaluate_all(cut) == 0


def test_the_headline_has_a_row_per_method_and_a_column_per_table(open_page):
    headline = open_page().locator(".headline")
    assert headline.locator("tbody .name").all_inner_texts() == ["beta", "alpha", "constant"]
    assert headline.locator("thead a").all_inner_texts() == ["town", "town"]
