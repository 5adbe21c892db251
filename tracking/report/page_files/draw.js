// What all charts share: elements, axes, colours, the tooltip, and drawing them when they come into view.

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element; texts are set as text, never as markup. */
function mark(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

function write(text, attributes, parent) {
  const element = mark("text", attributes, parent);
  element.textContent = text;
  return element;
}

/** An HTML element with properties and children. */
function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-")) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

const GROUP_COLOURS = 8;
const groupColour = (number) => `var(--g${number % GROUP_COLOURS})`;
const groupDash = (number) => ["", "7 3", "2 2"][Math.floor(number / GROUP_COLOURS) % 3];
const TABLE_COLOURS = { raw: "var(--orig)", refined: "var(--refined)", target: "var(--target)", truth: "var(--true)" };

/** A number as a reader would write it: three digits, or a power of ten. */
function short(value) {
  if (!Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1).replace("e+", "e");
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toFixed(3);
}

/** Round numbers from `low` to `high`, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function epochTicks(epochs, width) {
  const low = epochs[0], high = epochs[epochs.length - 1];
  const found = ticks(low, high, Math.max(2, Math.min(10, width / 45))).filter(Number.isInteger);
  return found.length ? found : [high];
}

/** Left axis with grid lines. */
function valueAxis(svg, values, y, left, right, format = (value) => String(Number(value.toPrecision(6)))) {
  for (const value of values) {
    mark("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }, svg);
    write(format(value), { x: left - 5, y: y(value) + 3.5, class: "tick end" }, svg);
  }
}

const MAX_NAMED_CLASSES = 20; // with more, refined is a line, seeds have no dots, and classes are named by tens
const CLASS_GAP = 13; // pixels from one name to the next

/** Which places of the class axis are named, and how; `width` is that of one class. */
function classLabels(names, order, width) {
  const steps = order.length > MAX_NAMED_CLASSES ? [10, 20, 50, 100] : [1, 2, 5, 10];
  const step = steps.find((step) => step * width >= CLASS_GAP * (step > 1 ? 2 : 1)) ?? steps[3];
  return order.map((k, place) => (place % step === 0 ? { place, text: shortened(names[k]) } : null)).filter(Boolean);
}

const shortened = (name) => (name.length > 12 ? `${name.slice(0, 11)}…` : name);

/** Names below a class axis: level where there is room, else slanted. Gives the height they take. */
function classAxis(svg, labels, x, width, bottom) {
  const longest = Math.max(...labels.map(({ text }) => text.length));
  const slanted = longest * 6.2 > width * (labels.length > 1 ? labels[1].place - labels[0].place : 1);
  for (const { place, text } of labels) {
    const at = x(place);
    if (slanted) write(text, { x: 0, y: 0, class: "tick end", transform: `translate(${at + 4} ${bottom + 11}) rotate(-38)` }, svg);
    else write(text, { x: at, y: bottom + 13, class: "tick middle" }, svg);
  }
}

const classAxisHeight = (labels, width) => {
  const longest = Math.max(...labels.map(({ text }) => text.length));
  const gap = labels.length > 1 ? labels[1].place - labels[0].place : 1;
  return longest * 6.2 > width * gap ? 14 + longest * 4.1 : 17;
};

// --- the tooltip ---

const tip = () => document.getElementById("tip");

/** Lines of the tooltip: a heading, then rows of [colour or "", name, value]. */
function showTip(event, heading, rows) {
  const box = tip();
  box.replaceChildren(make("strong", { textContent: heading }));
  for (const [colour, name, value] of rows) {
    const swatch = make("i");
    if (colour) swatch.style.background = colour;
    box.append(make("span", { className: "row" }, swatch, make("span", { textContent: name }), make("b", { textContent: value })));
  }
  box.hidden = false;
  const { innerWidth, innerHeight } = window;
  const left = event.clientX + 14 + box.offsetWidth > innerWidth ? event.clientX - 14 - box.offsetWidth : event.clientX + 14;
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - box.offsetHeight - 4))}px`;
}

const hideTip = () => { tip().hidden = true; };

/** Shows what `at(x, y)` says of the pointer's place in the chart, and calls `pick(x, y)` on a click. */
function hover(svg, at, pick) {
  const place = (event) => {
    const box = svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  svg.addEventListener("pointermove", (event) => {
    const found = at(...place(event));
    if (found) showTip(event, found.heading, found.rows);
    else hideTip();
  });
  svg.addEventListener("pointerleave", hideTip);
  if (pick) svg.addEventListener("click", (event) => pick(...place(event)));
}

// --- charts ---

const charts = new Map(); // place in the page -> chart
const queue = new Set();

/** A chart draws itself when it is seen. `moves`: all of it depends on the epoch, not its marker alone. */
class Chart {
  constructor(kind, describe, { moves = false } = {}) {
    Object.assign(this, { kind, describe, moves, dirty: true, seen: false });
    this.host = make("div", { className: "chart" });
    this.host.style.minHeight = `${kind.height}px`;
    this.caption = make("figcaption");
    this.data = make("details", { className: "data" }, make("summary", { textContent: "Table" }));
    this.data.addEventListener("toggle", () => this.data.open && this.fillTable());
    this.box = make("figure", {}, this.caption, this.host, this.data);
    charts.set(this.host, this);
    inView.observe(this.host);
  }

  draw() {
    this.dirty = false;
    const spec = this.describe();
    this.caption.replaceChildren(...(spec.caption ?? []));
    const svg = mark("svg", { role: "img", "aria-label": spec.label, width: "100%" });
    const width = Math.max(200, this.host.clientWidth);
    this.marker = this.kind.draw(svg, spec, width) ?? null;
    svg.setAttribute("viewBox", `0 0 ${width} ${svg.getAttribute("height")}`); // paper is narrower than the screen
    this.host.replaceChildren(svg);
    this.data.querySelector("summary").setAttribute("aria-label", `Table: ${spec.label}`);
    this.spec = spec;
    this.moveMarker();
    if (this.data.open) this.fillTable();
  }

  /** The slider moved. */
  move() {
    if (this.moves) this.renew();
    else this.moveMarker();
  }

  moveMarker() {
    if (this.marker) this.marker(shownEpoch());
  }

  renew() {
    this.dirty = true;
    if (this.seen) enqueue(this);
  }

  fillTable() {
    const { head, rows } = this.kind.table(this.spec ?? this.describe());
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { textContent: text, scope: "col" })))));
    table.append(make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((text, place) => make(place ? "td" : "th", { textContent: text }))))));
    this.data.querySelector(".scroll")?.remove();
    this.data.append(make("div", { className: "scroll", tabIndex: 0, "aria-label": "Numbers of the chart", role: "region" }, table));
  }
}

const inView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const chart = charts.get(target);
    if (!chart) continue;
    chart.seen = isIntersecting;
    if (isIntersecting && chart.dirty) enqueue(chart);
  }
}, { rootMargin: "300px 0px" });

const FRAME_MS = 10; // drawing in one frame; the rest waits for the next one

function enqueue(chart) {
  if (queue.size === 0) requestAnimationFrame(drawQueue);
  queue.add(chart);
}

function drawQueue() {
  const start = performance.now();
  for (const chart of queue) {
    if (performance.now() - start > FRAME_MS) break;
    queue.delete(chart);
    if (chart.dirty && chart.host.isConnected) chart.draw();
  }
  if (queue.size) requestAnimationFrame(drawQueue);
}

function drawAll() {
  for (const chart of charts.values()) if (chart.dirty) chart.draw();
  queue.clear();
}
