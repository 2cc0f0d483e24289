"""The page in a browser, narrow and wide, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from klbench import report

CHROMIUM = next(
    (
        found
        for name in ("/usr/bin/chromium", "chromium", "chromium-browser")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs chromium in /usr/bin or on PATH (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1600])
def test_the_page_fits_and_is_quiet(browser: Any, rendered: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url))
    page.on("dialog", lambda dialog: heard.append(dialog.message))
    url = (rendered / "index.html").as_uri()
    page.goto(url)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert heard == [url]
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    # Text, lines and paper change together, so that nothing is drawn dark on dark.
    paper, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    text = page.evaluate("getComputedStyle(document.querySelector('.panel svg text')).fill")
    assert text == ink
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    page.close()


def test_on_paper_nothing_is_folded_and_no_number_is_broken(browser: Any, rendered: Path) -> None:
    page = browser.new_page(viewport={"width": 717, "height": 900})  # A4 without its margins
    page.goto((rendered / "index.html").as_uri())
    page.emulate_media(media="print")
    assert page.evaluate(
        "[...document.querySelectorAll('details')].every(each =>"
        " each.lastElementChild.checkVisibility() &&"
        " each.lastElementChild.getBoundingClientRect().height > 0)"
    )
    widths = (
        "[...document.querySelectorAll('table')].map(each => each.getBoundingClientRect().width)"
    )
    assert max(page.evaluate(widths)) <= 717
    broken = """[...document.querySelectorAll('td.n')].filter(cell => {
        const text = cell.firstChild, range = document.createRange();
        if (!text || text.nodeType !== Node.TEXT_NODE || /\\s/.test(text.data.trim())) return false;
        range.selectNodeContents(text);
        return new Set([...range.getClientRects()].map(each => each.top)).size > 1;
    }).map(cell => cell.textContent)"""
    assert page.evaluate(broken) == []
    page.evaluate("dispatchEvent(new Event('beforeprint'))")  # what older browsers go by
    assert page.evaluate("[...document.querySelectorAll('details')].every(each => each.open)")
    page.close()


def test_a_table_sorts_by_number_and_back(browser: Any, rendered: Path) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto((rendered / "index.html").as_uri())
    table = page.locator(
        "table", has=page.locator("caption", has_text="Claims beside measurements")
    )
    column = [head.strip() for head in table.locator("thead th").all_inner_texts()].index(
        "Worst |z|"
    )
    button = table.locator("thead th button").nth(column)

    def values() -> list[float]:
        return [
            float(cell)
            for cell in table.locator(f"tbody td:nth-child({column + 1})").evaluate_all(
                "c => c.map(x => x.dataset.v)"
            )
        ]

    button.click()
    assert values() == sorted(values())
    button.click()
    assert values() == sorted(values(), reverse=True)
    page.close()


def test_the_page_can_be_read_without_a_script(browser: Any, rendered: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((rendered / "index.html").as_uri())
    assert (
        page.locator("h1").inner_text()
        == "Which estimator of KL(q‖p) has the least error on Gaussian pairs?"
    )
    assert page.locator("table").first.is_visible()
    context.close()


def test_a_table_of_an_audit_shows_every_column_at_any_width(browser: Any, tmp_path: Path) -> None:
    published = Path(__file__).parents[2] / "reports" / "published" / "audit"
    shutil.copytree(published, tmp_path / "audit")
    address = report.render(tmp_path / "audit").as_uri()
    for width in (390, 1400):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(address)
        hidden = page.evaluate(
            "[...document.querySelectorAll('.scroll:has(.stacked)')]"
            ".map(each => each.scrollWidth - each.clientWidth)"
        )
        assert len(hidden) > 9
        assert max(hidden) <= 0
        page.close()
