"""The page in a real browser: four figures, drawn, without errors or requests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from tiny_study import Drawn

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--enable-unsafe-swiftshader",
]  # fmt: skip

if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("chromium is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM is not None, "CI needs chromium: the page is checked in a real browser there"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, pytest.param(400, marks=pytest.mark.slow)])
def test_four_figures_are_drawn_without_errors_requests_or_overflow(browser: Any, drawn: Drawn, width: int) -> None:
    errors, requests = [], []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(120_000)  # a busy machine is slow, not wrong
    # Drivers warn that reading pixels back is slow, which is no error of the page's.
    page.on("console", lambda message: errors.append(message.text) if message.type != "warning" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((drawn.folder / "figures.html").as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached")
    curves = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll("section")].map(section => [
            section.id, [...section.querySelectorAll("[data-chart]")].map(
                chart => chart.querySelectorAll(".scatterlayer .trace").length)]))"""
    )
    assert curves == {"global": [4, 4], "local": [4, 4], "significant": [2, 4, 4], "sphere": [0, 0, 0]}
    page.locator("#sphere").scroll_into_view_if_needed()
    inked = page.evaluate(
        """async () => Promise.all([...document.querySelectorAll("#sphere [data-chart]")].map(async e => {
            const url = await Plotly.toImage(e, {format: "png", width: 200, height: 200});
            const image = await createImageBitmap(await (new Promise(done => {
                const i = new Image(); i.onload = () => done(i); i.src = url; })));
            const canvas = new OffscreenCanvas(200, 200);
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const pixels = context.getImageData(0, 0, 200, 160).data;
            const colours = new Set();
            for (let at = 0; at < pixels.length; at += 4) colours.add(pixels.slice(at, at + 3).join());
            return colours.size; }))"""
    )
    assert len(inked) == 3
    assert min(inked) > 10  # classes have colours, and a lost WebGL would leave white
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()


def test_the_legend_hides_a_label_skew_in_every_figure(browser: Any, drawn: Drawn) -> None:
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto((drawn.folder / "figures.html").as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached")
    page.locator("#global .legend button", has_text="IID").click()
    hidden = page.evaluate(
        """() => ["global-0", "local-1", "threshold-0"].map(key =>
            document.getElementById("chart-" + key).data.filter(trace => trace.visible === false).map(t => t.name))"""
    )
    assert hidden == [["IID"]] * 3
    page.close()
