"use strict";
// Draws every chart of the page from the specifications in it, in the colours of the reader's scheme.
const specs = JSON.parse(document.getElementById("specs").textContent);
const darkColours = JSON.parse(document.getElementById("dark-colours").textContent);
const scheme = window.matchMedia("(prefers-color-scheme: dark)");
const views = new Map();

function recolour(part, key) {
  if (key === "datasets" || key === "values") return part; // names out of files are never colours
  if (typeof part === "string") return darkColours[part] ?? part;
  if (Array.isArray(part)) return part.map((item) => recolour(item));
  if (part === null || typeof part !== "object") return part;
  return Object.fromEntries(Object.entries(part).map(([name, value]) => [name, recolour(value, name)]));
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const text = { labelColor: colour("soft"), titleColor: colour("soft"), labelFontSize: 11, titleFontSize: 11.5 };
  const axis = { gridColor: colour("grid"), domainColor: colour("target"), tickColor: colour("target") };
  return {
    font: getComputedStyle(document.body).fontFamily,
    background: "transparent",
    padding: { left: 0, right: 8, top: 6, bottom: 2 },
    autosize: { type: "fit-x", contains: "padding" },
    view: { stroke: null },
    axis: { ...text, ...axis, titleFontWeight: "normal", titlePadding: 6 },
    legend: { ...text, labelFontSize: 12, symbolStrokeWidth: 2.5 },
  };
}

async function draw(box) {
  views.get(box)?.finalize();
  const spec = specs[box.dataset.spec];
  const options = {
    mode: "vega-lite",
    ast: true, // expressions are interpreted, so the page needs no right to evaluate code
    renderer: box.dataset.renderer ?? "svg",
    config: theme(),
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: box.dataset.spec,
    tooltip: { theme: scheme.matches ? "dark" : "light" },
  };
  try {
    views.set(box, await vegaEmbed(box, scheme.matches ? recolour(spec) : structuredClone(spec), options));
  } catch (error) {
    box.textContent = `This chart could not be drawn: ${error.message}`;
  }
}

async function drawAll(boxes) {
  for (const box of boxes) await draw(box);
}

const boxesIn = (root) => [...root.querySelectorAll(".chart")];
const hidden = (box) => box.closest("details:not([open])") !== null;
drawAll(boxesIn(document).filter((box) => !hidden(box)));
scheme.addEventListener("change", () => drawAll([...views.keys()]));
for (const details of document.querySelectorAll("details")) {
  details.addEventListener("toggle", () => {
    if (details.open) drawAll(boxesIn(details).filter((box) => !views.has(box) && !hidden(box)));
  });
}
