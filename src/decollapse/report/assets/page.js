"use strict";

const CONFIG = {
  responsive: true,
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  toImageButtonOptions: { format: "svg", scale: 1 },
};

/** Unpack plotly.js, which travels compressed, and run it. */
async function loadPlotly() {
  const packed = document.getElementById("plotly").textContent.trim();
  const bytes = Uint8Array.from(atob(packed), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

/** Draw every chart; the page has one legend, so the charts have none. */
async function draw() {
  const figures = JSON.parse(document.getElementById("charts").textContent);
  for (const element of document.querySelectorAll("[data-chart]")) {
    const { data, layout } = figures[element.dataset.chart];
    const options = { ...CONFIG, toImageButtonOptions: { ...CONFIG.toImageButtonOptions, filename: element.dataset.chart } };
    await Plotly.newPlot(element, data, { ...layout, showlegend: false, autosize: true }, options);
  }
}

/** Hide or show the curves, and the charts, of one group. */
function toggle(group, shown) {
  for (const figure of document.querySelectorAll("figure[data-group]")) {
    if (figure.dataset.group === group) figure.hidden = !shown;
  }
  for (const element of document.querySelectorAll("[data-chart]")) {
    const traces = element.data.flatMap((trace, index) => (trace.legendgroup === group ? [index] : []));
    if (traces.length) Plotly.restyle(element, { visible: shown }, traces);
  }
}

function resizeAll() {
  for (const element of document.querySelectorAll("[data-chart]")) {
    if (element.offsetParent) Plotly.Plots.resize(element);
  }
}

/** Paper is narrower than the screen, and the page is not laid out for it before it is drawn: A4 holds these widths. */
function fitToPaper() {
  for (const element of document.querySelectorAll("[data-chart]")) {
    Plotly.relayout(element, { autosize: false, width: element.closest(".wide") ? 640 : 306 });
  }
}

function fitToScreen() {
  for (const element of document.querySelectorAll("[data-chart]")) {
    Plotly.relayout(element, { autosize: true, width: null });
  }
}

async function main() {
  try {
    await loadPlotly();
    await draw();
  } catch (error) {
    for (const element of document.querySelectorAll("[data-chart]")) {
      element.textContent = "This browser could not draw the chart; one of 2023 or later can. The tables are complete.";
      element.classList.add("failed");
    }
    throw error;
  }
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      toggle(button.dataset.group, shown);
      resizeAll();
    });
  }
  addEventListener("beforeprint", fitToPaper);
  addEventListener("afterprint", fitToScreen);
  document.documentElement.dataset.drawn = "true";
}

main();
