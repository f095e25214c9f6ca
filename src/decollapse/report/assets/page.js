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

const FIGURES = JSON.parse(document.getElementById("charts").textContent);

/** Draw every chart; the page has one legend and one control for many, so the charts have none unless they ask. */
async function draw() {
  for (const element of document.querySelectorAll("[data-chart]")) {
    const { data, layout: asked, frames } = FIGURES[element.dataset.chart];
    const layout = { showlegend: false, ...asked, sliders: [], autosize: true };
    const options = { ...CONFIG, toImageButtonOptions: { ...CONFIG.toImageButtonOptions, filename: element.dataset.chart } };
    await Plotly.newPlot(element, { data, layout, frames, config: options });
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

/** Show one frame on every chart of a control's block; a chart that has no such round keeps the last one before it. */
function show(control, name) {
  for (const element of control.closest(".block").querySelectorAll("[data-chart]")) {
    const names = FIGURES[element.dataset.chart].frames.map((frame) => frame.name);
    const before = names.filter((own) => Number(own) <= Number(name));
    const chosen = names.includes(name) ? name : (before.at(-1) ?? names[0]);
    const now = { mode: "immediate", frame: { duration: 0, redraw: true }, transition: { duration: 0 } };
    // A hand that moves on before the frame is drawn interrupts it, which plotly tells as a rejection without a reason.
    Plotly.animate(element, [chosen], now).catch((reason) => { if (reason) throw reason; });
  }
}

function wireControls() {
  for (const input of document.querySelectorAll("input[data-frames]")) {
    input.addEventListener("input", () => {
      const name = input.dataset.frames.split(" ")[input.value];
      input.setAttribute("aria-valuetext", name);
      input.parentElement.querySelector("output").textContent = name;
      show(input, name);
    });
  }
  for (const button of document.querySelectorAll("button[data-frame]")) {
    button.addEventListener("click", () => {
      for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
      show(button, button.dataset.frame);
    });
  }
}

/** Order the rows of a table by one of its columns, the largest first and then the smallest; dashes stay last. */
function sortBy(heading) {
  const table = heading.closest("table");
  const descending = heading.getAttribute("aria-sort") !== "descending";
  const number = (row) => parseFloat(row.cells[heading.cellIndex].textContent);
  const order = (one, other) => {
    const [a, b] = [number(one), number(other)];
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return descending ? b - a : a - b;
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

function wireTables() {
  for (const heading of document.querySelectorAll(".sortable thead th")) {
    heading.tabIndex = 0;
    heading.addEventListener("click", () => sortBy(heading));
    heading.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sortBy(heading);
    });
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
  wireTables();
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
      const group = button.dataset.group;
      for (const other of document.querySelectorAll(".legend button")) {
        if (other.dataset.group === group) other.setAttribute("aria-pressed", String(shown));
      }
      toggle(group, shown);
      resizeAll();
    });
  }
  wireControls();
  addEventListener("beforeprint", fitToPaper);
  addEventListener("afterprint", fitToScreen);
  document.documentElement.dataset.drawn = "true";
}

main();
