"""The page in a real browser: what a reader sees, at a desk and on a phone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from decollapse.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip

if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("chromium is not installed", allow_module_level=True)


@dataclass
class Visit:
    """A page that was opened, and what it said and asked for on the way."""

    page: Any
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def traces(self) -> dict[str, int]:
        """Curves drawn, by chart: what is in the picture, not what was asked for."""
        script = """() => Object.fromEntries([...document.querySelectorAll("[data-chart]")].map(e =>
            [e.dataset.chart, e.querySelectorAll(".scatterlayer .trace, .heatmaplayer .hm").length]))"""
        return self.page.evaluate(script)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM is not None, "CI needs chromium: the report is checked in a real browser there"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    pages = []

    def open_(path: Path, width: int = 1280) -> Visit:
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        found = Visit(page)
        page.on("console", lambda message: found.console.append(message.text))
        page.on("pageerror", lambda error: found.console.append(str(error)))
        page.on("request", lambda request: found.requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached")
        return found

    yield open_
    for page in pages:
        page.close()


@pytest.mark.parametrize("width", [1280, 400])
def test_six_settings_are_drawn_without_errors_requests_or_overflow(
    visit, six_groups, tmp_path: Path, width: int
) -> None:
    path = write_report(six_groups, tmp_path / "report.html")
    found = visit(path, width)
    curves = {"accuracy", "loss", "rank-covariance", "rank-correlation", "dead", "rank-local"}
    expected = dict.fromkeys(curves, 12) | {"spectrum-covariance": 24, "spectrum-correlation": 24, "per-class": 1}
    expected |= {f"local-{index}": 11 for index in range(6)} | {f"labels-{index}": 1 for index in range(6)}
    assert found.traces() == expected
    assert found.console == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = found.page.evaluate(
        "[...document.querySelectorAll('[data-chart] svg.main-svg')].map(e => e.getBoundingClientRect().width)"
    )
    assert min(sizes) > 250
    assert max(sizes) <= width
    found.page.screenshot(path=str(tmp_path / f"report-{width}.png"), full_page=True)


def test_the_legend_hides_and_shows_a_setting_on_every_chart(visit, two_groups, tmp_path: Path) -> None:
    found = visit(write_report(two_groups, tmp_path / "report.html"))
    button = found.page.locator(".legend button", has_text="FedDecorr")
    before = found.traces()
    button.click()
    hidden = found.traces()
    assert hidden["accuracy"] == before["accuracy"] / 2
    assert hidden["spectrum-covariance"] == before["spectrum-covariance"] / 2
    assert not found.page.locator("#chart-local-1").is_visible()
    assert found.page.locator("#chart-local-0").is_visible()
    button.click()
    assert found.traces() == before
    assert found.page.locator("#chart-local-1").is_visible()
    assert found.console == []


def test_hovering_names_the_setting_and_its_value(visit, two_groups, tmp_path: Path) -> None:
    found = visit(write_report(two_groups, tmp_path / "report.html"))
    chart = found.page.locator("#chart-accuracy")
    chart.scroll_into_view_if_needed()
    chart.hover(position={"x": 300, "y": 120})
    found.page.wait_for_selector("#chart-accuracy .hoverlayer .legend text", state="attached")
    hover = chart.locator(".hoverlayer").text_content()
    assert "FedAvg + FedDecorr 0.1 : " in hover
    assert "±" in hover


def test_markup_in_names_is_shown_as_it_is_written(visit, write_run, tmp_path: Path) -> None:
    name = "<b>bold</b></script><script>document.title='broken'</script>"
    recipes = [{"rounds": 6, "seed": 0, "model": {"name": model}} for model in (name, "plain")]
    folders = [
        write_run(str(index), recipe=recipe, classes=[f"{name}{index}" for index in range(10)])
        for index, recipe in enumerate(recipes)
    ]
    found = visit(write_report(folders, tmp_path / "report.html"))
    assert found.page.title().startswith("<b>bold</b></script>")
    assert name in found.page.locator("h1").text_content()
    assert name in found.page.locator("#chart-per-class .yaxislayer-above").text_content()
    assert found.console == []


@pytest.mark.parametrize("finished", [None, 0])
def test_a_run_that_has_hardly_begun_makes_a_sound_page(visit, write_run, tmp_path: Path, finished: int | None) -> None:
    found = visit(write_report([write_run("a", finished=finished)], tmp_path / "report.html"), 400)
    assert found.console == []
    assert all(found.traces().values())
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 400
