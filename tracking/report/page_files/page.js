// Controls, what follows from them, and the start.

const at = (id) => document.getElementById(id);
const REBUILDS = new Set(["regime", "method", "refine", "seed", "text", "more", "hide"]);

/** Change what is chosen; the page and the address follow. */
function setState(changes) {
  Object.assign(state, changes);
  writeFragment();
  follow(Object.keys(changes));
}

function follow(changed) {
  hideTip();
  showControls();
  if (changed.some((name) => REBUILDS.has(name))) build();
  else if (changed.some((name) => name !== "epoch" && name !== "sort")) renewAll();
  else if (changed.includes("epoch")) for (const chart of charts.values()) chart.move();
  if (changed.includes("sort")) sortTables();
}

function renewAll() {
  for (const chart of charts.values()) chart.renew();
  showHeatScale();
}

// --- building the sections ---

function build() {
  for (const chart of charts.values()) inView.unobserve(chart.host);
  charts.clear();
  queue.clear();
  const groups = chosenGroups();
  for (const [id, { many, charts: draw }] of Object.entries(SECTIONS)) {
    const section = at(id);
    if (section === null) continue;
    PAGE.regimes.forEach((regime, number) => {
      const column = columnOf(section, regime, number);
      const members = groups.filter((group) => group.regime === number);
      const shown = many && state.more !== "all" ? members.slice(0, FIRST) : members;
      column.hidden = members.length === 0;
      const body = column.querySelector(".charts");
      body.replaceChildren(...(shown.length ? draw(shown).map(({ box }) => box) : []));
      if (many && members.length > FIRST) body.append(moreButton(members.length));
    });
    section.querySelector(".nothing").hidden = groups.length > 0;
  }
  for (const row of document.querySelectorAll("tr[data-group]")) row.hidden = !groups.some((group) => group.number === Number(row.dataset.group));
  for (const row of document.querySelectorAll("tr[data-run]")) row.hidden = !groups.some((group) => group.runs.some((run) => run.number === Number(row.dataset.run)));
  const runs = groups.reduce((sum, group) => sum + group.runs.length, 0);
  at("count").textContent = `${runs} of ${PAGE.runs.length} runs`;
  showLegends();
  showHeatScale();
}

function columnOf(section, regime, number) {
  const found = section.querySelector(`[data-regime="${number}"]`);
  if (found) return found;
  const column = make("div", { className: "regime", "data-regime": number }, make("h3", { textContent: regime.name }), make("div", { className: "charts" }));
  section.querySelector(".regimes").append(column);
  return column;
}

function moreButton(count) {
  const all = state.more === "all";
  const button = make("button", { type: "button", className: "more", textContent: all ? `Show the first ${FIRST} configurations` : `Show all ${count} configurations` });
  button.addEventListener("click", () => setState({ more: all ? "" : "all" }));
  return button;
}

// --- legends ---

function showLegends() {
  const tables = [["raw", "bar"], ["refined", "bar"], ["target", "level"], ["truth", "level"]].map(([name, form]) => [`table ${name}`, name, TABLE_COLOURS[name], form]);
  const groups = labels().map((label) => {
    const { colour, dash } = styleOf(label);
    return [label, label, dash ? `repeating-linear-gradient(90deg, ${colour} 0 4px, transparent 4px 6px)` : colour, "bar"];
  });
  const legends = { tables, labels: tables.slice(0, 2), groups };
  for (const place of document.querySelectorAll(".legend")) place.replaceChildren(...legends[place.dataset.legend].map(legendButton));
}

function legendButton([key, name, colour, form]) {
  const sign = make("i", { className: `swatch ${form} ${name}` });
  sign.style.background = colour;
  const shown = !state.hide.has(key);
  const button = make("button", { type: "button", "aria-pressed": String(shown), title: "Shows or hides it" }, sign, name);
  button.addEventListener("click", () => {
    const hide = new Set(state.hide);
    if (shown) hide.add(key);
    else hide.delete(key);
    const place = [...button.parentElement.children].indexOf(button), legend = button.parentElement;
    setState({ hide });
    legend.children[place].focus(); // the buttons are new ones
  });
  return button;
}

// --- tables that sort ---

function sortTables() {
  const column = Math.abs(Number(state.sort.replace("-", ""))), down = state.sort.startsWith("-");
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((cell, place) => cell.setAttribute("aria-sort", state.sort !== "" && place === column ? (down ? "descending" : "ascending") : "none"));
    const rows = [...body.rows].sort((a, b) => {
      if (state.sort === "") return a.dataset.place - b.dataset.place;
      const [one, other] = [a, b].map((row) => row.cells[column].dataset.sort ?? row.cells[column].textContent);
      if (one === "" || other === "") return (one === "") - (other === ""); // what is missing stands last
      const order = Number.isFinite(Number(one)) && Number.isFinite(Number(other)) ? one - other : one.localeCompare(other);
      return (down ? -order : order) || a.dataset.place - b.dataset.place;
    });
    body.append(...rows);
  }
}

function makeSortable() {
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
    [...table.tHead.rows[0].cells].forEach((cell, place) => {
      const button = make("button", { type: "button", title: cell.title || "Sort" }, ...cell.childNodes);
      button.addEventListener("click", () => setState({ sort: state.sort === String(place) ? `-${place}` : state.sort === `-${place}` ? "" : String(place) }));
      cell.replaceChildren(button);
    });
  }
}

// --- controls ---

let playing = 0;
const STEPS_MS = 8000; // how long all epochs take to play, within bounds for each

function play(start) {
  clearInterval(playing);
  playing = 0;
  if (start) {
    const last = PAGE.epochs.length - 1;
    let place = PAGE.epochs.indexOf(shownEpoch());
    if (place === last) place = -1;
    playing = setInterval(() => {
      place++;
      pickEpoch(PAGE.epochs[place]);
      if (place >= last) play(false);
    }, Math.min(700, Math.max(60, STEPS_MS / PAGE.epochs.length)));
  }
  showControls();
}

function showControls() {
  const epoch = shownEpoch(), last = PAGE.epochs[PAGE.epochs.length - 1];
  const slider = at("epoch");
  slider.value = PAGE.epochs.indexOf(epoch);
  slider.setAttribute("aria-valuetext", `epoch ${epoch} of ${last}`);
  at("epoch-text").textContent = `epoch ${epoch} of ${last}`;
  at("play").setAttribute("aria-label", playing ? "Pause" : "Play the epochs");
  at("play").classList.toggle("playing", playing !== 0);
  for (const name of ["regime", "method", "refine", "seed", "order", "heat", "seeds"]) at(name).value = state[name];
  if (document.activeElement !== at("text")) at("text").value = state.text;
  const active = ["regime", "method", "refine", "seed", "text"].filter((name) => state[name] !== "").length + state.hide.size;
  at("reset").hidden = active === 0;
}

function fill(id, values, words = (value) => value) {
  at(id).length = 1; // "all" stays
  for (const value of [...new Set(values)].sort()) at(id).append(make("option", { value, textContent: words(value) }));
  at(id).closest("label").hidden = new Set(values).size < 2;
}

/** What can be chosen follows from the runs. */
function fillControls() {
  at("epoch").max = PAGE.epochs.length - 1;
  fill("regime", PAGE.regimes.map(({ name }) => name));
  fill("method", PAGE.groups.map(({ method }) => method));
  fill("refine", PAGE.groups.map(({ refine }) => refine), (name) => PAGE.groups.find(({ refine }) => refine === name).refinement);
  fill("seed", PAGE.runs.map(({ seed }) => seed), (seed) => `seed ${seed}`);
}

function makeControls() {
  const slider = at("epoch");
  slider.addEventListener("input", () => {
    const wanted = PAGE.epochs[slider.value];
    play(false); // puts the slider back to where the state is
    pickEpoch(wanted);
  });
  at("play").addEventListener("click", () => play(playing === 0));
  for (const name of ["regime", "method", "refine", "seed", "order", "heat", "seeds"]) at(name).addEventListener("change", () => setState({ [name]: at(name).value }));
  let waiting = 0;
  at("text").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => setState({ text: at("text").value.trim() }), 150);
  });
  at("reset").addEventListener("click", () => setState({ regime: "", method: "", refine: "", seed: "", text: "", hide: new Set() }));
  window.addEventListener("hashchange", () => {
    readState();
    follow(Object.keys(state));
  });
  const choose = at("choose");
  document.addEventListener("pointerdown", (event) => { if (!choose.contains(event.target)) choose.open = false; });
  window.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    hideTip();
    if (choose.open) {
      choose.open = false;
      choose.querySelector("summary").focus();
    }
  });
}

/** What the address says, without what this page cannot show. */
function readState() {
  readFragment();
  for (const select of document.querySelectorAll("#choose select")) {
    if (![...select.options].some(({ value }) => value === state[select.id])) state[select.id] = DEFAULTS[select.id];
  }
  const columns = document.querySelector("table.sortable").tHead.rows[0].cells.length;
  if (!/^-?\d+$/.test(state.sort) || Math.abs(Number(state.sort)) >= columns) state.sort = "";
}

/** Words of the glossary explain themselves under the pointer and when they have the focus. */
function makeTerms() {
  const meanings = new Map([...document.querySelectorAll("#glossary dt")].map((term) => [term.textContent, term.nextElementSibling.textContent]));
  for (const term of document.querySelectorAll(".term")) {
    const meaning = meanings.get(term.dataset.term ?? term.textContent);
    if (!meaning) continue;
    term.tabIndex = 0;
    term.setAttribute("aria-label", `${term.textContent}: ${meaning}`);
    const box = () => term.getBoundingClientRect();
    const show = () => showTip({ clientX: box().left, clientY: box().bottom }, term.textContent, [["", meaning, ""]]);
    for (const event of ["pointerenter", "focus"]) term.addEventListener(event, show);
    for (const event of ["pointerleave", "blur"]) term.addEventListener(event, hideTip);
  }
}

/** Draws every chart at the width that it has on paper, and afterwards what is seen at its own again. */
function forPaper(begins) {
  document.documentElement.classList.toggle("printing", begins);
  renewAll();
  if (begins) drawAll();
}

/** Everything that is made of the data and of what is chosen. */
function show() {
  fillControls();
  readState();
  makeSortable();
  makeTerms();
  showControls();
  build();
  sortTables();
}

async function start() {
  await load(document);
  makeControls();
  show();
  document.body.classList.add("ready");
  let width = window.innerWidth;
  new ResizeObserver(() => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    renewAll();
  }).observe(document.body);
  scheme.addEventListener("change", renewAll);
  watch();
  window.addEventListener("beforeprint", () => forPaper(true));
  window.addEventListener("afterprint", () => forPaper(false));
}

start().catch((error) => {
  at("count").textContent = `The charts could not be drawn: ${error.message}`;
  throw error;
});
