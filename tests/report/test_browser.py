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


@pytest.mark.parametrize("width", [1280, pytest.param(400, marks=pytest.mark.slow)])
def test_six_settings_are_drawn_without_errors_requests_or_overflow(
    visit, six_groups, tmp_path: Path, width: int
) -> None:
    path = write_report(six_groups, tmp_path / "report.html")
    found = visit(path, width)
    curves = {"accuracy", "loss", "rank-covariance", "rank-correlation", "dead", "rank-local"}
    expected = dict.fromkeys(curves, 12) | {"spectrum-covariance": 24, "spectrum-correlation": 24, "per-class": 1}
    expected |= {f"local-{index}": 11 for index in range(6)} | {f"labels-{index}": 1 for index in range(2)}
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


@pytest.fixture
def diagnosed(write_run, diagnose, tmp_path: Path) -> Path:
    """A report of FedAvg, collapsed, and FedAvg + FedDecorr 0.1, two seeds each."""
    bad = diagnose(rank=3.0, cause="local_training", sentence="Local training collapses the features.")
    changes = {None: bad, 0.1: diagnose()}
    folders = [
        write_run(f"{beta}-{seed}", beta=beta, seed=seed, change=change)
        for beta, change in changes.items()
        for seed in range(2)
    ]
    return write_report(folders, tmp_path / "report.html")


def averaged_line(found: Visit, index: int) -> str:
    """The path of an averaged model's spectrum as it is in the picture: the last one, over those of local models."""
    script = "n => [...document.querySelectorAll(`#chart-evolution-${n} .trace path.js-line`)].at(-1).getAttribute('d')"
    return found.page.evaluate(script, index)


@pytest.mark.parametrize("width", [1280, pytest.param(400, marks=pytest.mark.slow)])
def test_a_diagnosis_is_drawn_without_errors_requests_or_overflow(
    visit, diagnosed: Path, tmp_path: Path, width: int
) -> None:
    found = visit(diagnosed, width)
    part = found.page.locator("#diagnosis")
    assert part.locator(".verdict.bad .finding").text_content() == "Local training collapses the features."
    assert part.locator(".verdict.good").is_visible()
    expected = {"evolution-0": 2, "evolution-1": 2, "attribution-0": 5, "attribution-1": 5, "classes-rank": 2}
    traces = found.traces()
    assert {key: traces[key] for key in expected} == expected
    assert found.console == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    for details in part.locator("summary").all():
        details.click()
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    part.screenshot(path=str(tmp_path / f"diagnosis-{width}.png"))


@pytest.mark.parametrize("width", [1280, pytest.param(400, marks=pytest.mark.slow)])
def test_the_slider_moves_the_spectra_of_all_settings_and_says_the_round(visit, diagnosed: Path, width: int) -> None:
    found = visit(diagnosed, width)
    slider = found.page.get_by_label("Round")
    charts = [found.page.locator(f"#chart-evolution-{index}") for index in range(2)]
    last = [averaged_line(found, index) for index in range(2)]
    for press, round_ in (("ArrowLeft", "3"), ("ArrowLeft", "0"), ("End", "6")):
        slider.press(press)
        for chart in charts:
            chart.locator(".annotation-text", has_text=f"round {round_}").wait_for()
        assert found.page.locator("#diagnosis output").text_content() == round_
        assert slider.get_attribute("aria-valuetext") == round_
        assert [averaged_line(found, index) == last[index] for index in range(2)] == [round_ == "6"] * 2
        assert found.traces()["evolution-0"] == (1 if round_ == "0" else 2)
    assert found.console == []


def test_a_slider_that_is_dragged_fast_ends_where_it_was_left(visit, diagnosed: Path) -> None:
    found = visit(diagnosed)
    found.page.get_by_label("Round").evaluate(
        "e => { for (const at of [0, 1, 2, 1, 0, 2, 1]) { e.value = at; e.dispatchEvent(new Event('input')); } }"
    )
    for index in range(2):
        found.page.locator(f"#chart-evolution-{index} .annotation-text", has_text="round 3").wait_for()
    found.page.wait_for_timeout(200)
    assert found.console == []


def test_the_switch_shows_ranks_of_the_correlation_and_back(visit, diagnosed: Path) -> None:
    found = visit(diagnosed)
    title, enough = found.page.locator("#chart-attribution-1 .ytitle"), "#chart-attribution-1 .annotation-text"
    assert found.page.locator(enough).text_content() == "enough: 6.3"
    for kind, marks in (("correlation", 0), ("covariance", 1)):
        button = found.page.get_by_role("button", name=kind)
        button.click()
        found.page.wait_for_function(
            "kind => document.querySelector('#chart-attribution-1 .ytitle').textContent.endsWith(kind)", arg=kind
        )
        assert title.text_content() == f"effective rank of the {kind}"
        assert found.page.locator(enough).count() == marks
        assert button.get_attribute("aria-pressed") == "true"
        assert found.page.locator("#diagnosis [data-frame][aria-pressed=true]").count() == 1
    assert found.console == []


def test_a_setting_hidden_in_one_legend_is_hidden_everywhere_also_after_the_slider_moved(
    visit, diagnosed: Path
) -> None:
    found = visit(diagnosed)
    button = found.page.locator("#diagnosis .legend button", has_text="FedDecorr")
    button.click()
    found.page.get_by_label("Round").press("ArrowLeft")
    found.page.locator("#chart-evolution-0 .annotation-text", has_text="round 3").wait_for()
    assert not found.page.locator("#chart-evolution-1").is_visible()
    assert found.traces()["classes-rank"] == 1
    other = found.page.locator("#curves .legend button", has_text="FedDecorr")
    assert other.get_attribute("aria-pressed") == "false"
    other.click()
    assert button.get_attribute("aria-pressed") == "true"
    found.page.locator("#chart-evolution-1 .annotation-text", has_text="round 3").wait_for()
    sizes = [found.page.locator(f"#chart-evolution-{index} svg.main-svg").first.bounding_box() for index in range(2)]
    assert sizes[0]["width"] == sizes[1]["width"]
    assert found.console == []


def test_a_click_on_a_heading_sorts_the_clients_and_another_turns_them_round(visit, diagnosed: Path) -> None:
    found = visit(diagnosed)
    found.page.locator("#diagnosis summary", has_text="FedDecorr").click()
    table = found.page.locator("#diagnosis details[open] table").first
    heading = table.locator("thead th", has_text="examples")

    def column() -> list[float]:
        return [float(cell) for cell in table.locator("tbody td:nth-child(3)").all_text_contents()]

    heading.click()
    assert column() == sorted(column(), reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    heading.press("Enter")
    assert column() == sorted(column())
    assert table.locator("[aria-sort]").count() == 1
    assert found.console == []


@pytest.mark.parametrize("finished", [None, 0])
def test_a_run_that_has_hardly_begun_makes_a_sound_page(visit, write_run, tmp_path: Path, finished: int | None) -> None:
    found = visit(write_report([write_run("a", finished=finished)], tmp_path / "report.html"), 400)
    assert found.console == []
    assert all(found.traces().values())
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 400
