// The sections of the page: for each regime that is chosen, which charts stand in its column and what they show.

const FIRST = 2; // configurations of a regime that are shown in sections with a chart each, until all are asked for
const labels = () => [...new Set(PAGE.groups.map((group) => group.label))];
const styleOf = (label) => {
  const number = labels().indexOf(label);
  return { colour: groupColour(number), dash: groupDash(number) };
};
const hasRefined = (group) => group.refine !== "none";
const tablesOf = (group) => (hasRefined(group) ? [["raw", "orig"], ["refined", "refined"]] : [["raw", "orig"]]);
const tableShown = (name) => !state.hide.has(`table ${name}`);
const pickEpoch = (epoch) => setState({ epoch: epoch === PAGE.epochs[PAGE.epochs.length - 1] ? "" : String(epoch) });
const seedsText = (runs) => (runs.length > 1 ? `mean of ${runs.length} seeds` : `seed ${runs[0].seed}`);

/** The run that stands for a group where only one can be shown. */
const typical = (group) => group.runs.find((run) => run.seed === group.seed) ?? group.runs[0];

function caption(group, ...facts) {
  const parts = [make("strong", { textContent: group.label })];
  for (const fact of facts) if (fact) parts.push(make("span", { textContent: fact }));
  return parts;
}

const SHARE_TABLES = ["pseudo/orig", "pseudo/refined", "pseudo/true", "pseudo/target"];

/** Largest share of any class at any epoch among the runs of a data set: one scale for its charts. */
function shareTop(group) {
  const dataset = PAGE.regimes[group.regime].dataset;
  const top = (run) => largest(SHARE_TABLES.map((key) => run.series.get(key)?.high ?? 0));
  const tops = PAGE.groups.filter((other) => PAGE.regimes[other.regime].dataset === dataset).map(({ runs }) => runs.map(top));
  const alone = group.classes.length <= MAX_NAMED_CLASSES; // else only means are drawn, which are no larger than this
  return largest(tops.map((each) => (alone ? largest(each) : mean(each)))) || 1;
}

const meanFigure = (runs, key, epoch) => mean(finite(runs.map((run) => run.figure(key, epoch))));

function shareBars(group) {
  const run = group.runs[0], epoch = shownEpoch();
  const many = group.classes.length > MAX_NAMED_CLASSES;
  const series = [];
  const add = (name, key, form) => {
    const found = tableShown(name) ? meanShares(group.runs, key, epoch) : null;
    if (found) series.push({ name, form, colour: TABLE_COLOURS[name], values: found.mean, dots: found.each });
  };
  add("raw", "pseudo/orig", "bar");
  if (hasRefined(group)) add("refined", "pseudo/refined", many ? "line" : "bar");
  add("target", "pseudo/target", "level");
  add("truth", "pseudo/true", "thin");
  const distance = meanFigure(group.runs, `pseudo/orig/tv_${run.reference}`, epoch);
  const spread = meanFigure(group.runs, "effective/orig", epoch);
  const accuracy = meanFigure(group.runs, "test/acc", epoch);
  const last = run.epochs[run.epochs.length - 1];
  return {
    names: group.classes, order: classOrder(run), series, top: shareTop(group),
    label: `${group.label}: share of each class in the pseudo-labels at epoch ${Math.min(epoch, last)}, ${seedsText(group.runs)}`,
    caption: caption(group, `TV raw ${short(distance)}`, `${spread.toFixed(1)} of ${group.classes.length} classes`, `accuracy ${short(accuracy)}`, group.runs.length > 1 ? seedsText(group.runs) : "", last < epoch ? `ended at ${last}` : ""),
  };
}

/** Largest share in any heatmap: they have one scale. */
const heatTop = () => largest(PAGE.runs.map((run) => Math.max(run.series.get("pseudo/orig")?.high ?? 0, run.series.get("pseudo/refined")?.high ?? 0))) || 1;

function heatmap(group, [name, table]) {
  const run = typical(group), key = `pseudo/${table}`;
  const difference = state.heat === "difference";
  const reference = difference ? run.shares(`pseudo/${run.reference}`, Infinity) : null;
  const logged = run.table(key) ?? new Float32Array();
  const columns = run.epochs.length;
  const values = reference ? logged.map((share, at) => share - reference[Math.floor(at / columns)]) : logged;
  return {
    names: group.classes, order: classOrder(run), epochs: run.epochs, values, difference: difference && reference !== null,
    top: heatTop(), pick: pickEpoch,
    label: `${group.label}: ${name} share of each class over the epochs, seed ${run.seed}`,
    caption: caption(group, name, `seed ${run.seed}`),
  };
}

/** Largest value of these keys among all runs of a data set: one scale for the charts that are compared. */
function lineTop(group, keys) {
  const dataset = PAGE.regimes[group.regime].dataset;
  const runs = PAGE.runs.filter((run) => PAGE.regimes[run.group.regime].dataset === dataset);
  return largest(runs.flatMap((run) => keys(run).map((key) => (key.startsWith("effective/") ? run.group.classes.length : run.series.get(key)?.high ?? 0))));
}

/** Lines of a key for every group; where the key depends on the table, refined labels are dotted. */
function linesOf(groups, keyOf, { log = false, top = undefined, factor = 1, alerts = false, label }) {
  if (top === undefined && groups.length) top = 1.05 * factor * lineTop(groups[0], (run) => tablesOf(run.group).map(([, table]) => keyOf(run, table)));
  const series = [];
  for (const group of groups) {
    const { colour, dash } = styleOf(group.label);
    for (const [name, table] of keyOf.length > 1 ? tablesOf(group) : [["", ""]]) {
      const { points, each } = meanLine(group.runs, keyOf(group.runs[0], table));
      if (!points.length || (name && !tableShown(name))) continue;
      const scaled = points.map(({ epoch, mean, low, high }) => ({ epoch, mean: factor * mean, low: factor * low, high: factor * high }));
      const singles = state.seeds === "each" && each.length > 1 ? each.map(({ run, values }) => ({ run, values: values.map((value) => factor * value) })) : null;
      series.push({ name: name ? `${group.label}, ${name}` : group.label, colour, dash: name === "refined" ? "2 3" : dash, faint: name === "refined", points: scaled, singles });
    }
  }
  const told = alerts ? groups.flatMap((group) => group.runs.flatMap((run) => run.alerts.map(([epoch, title, text]) => ({ epoch, title, text, who: `${group.label}, seed ${run.seed}`, colour: styleOf(group.label).colour })))) : [];
  return { series, log, top, alerts: told, pick: pickEpoch, label, caption: [make("strong", { textContent: label })] };
}

function recallDots(groups) {
  const order = classOrder(groups[0].runs[0]), epoch = shownEpoch();
  const series = groups.filter((group) => group.classes.length === order.length).map((group) => ({
    name: group.label, colour: styleOf(group.label).colour, form: "line", values: meanShares(group.runs, "test/recall", epoch)?.mean ?? order.map(() => NaN),
  }));
  return { names: groups[0].classes, order, series, top: 1, label: `Recall of each class on the test set at epoch ${epoch}`, caption: [make("strong", { textContent: "Recall of each class on the test set" })] };
}

/** Lines of the balanced accuracy of the groups whose refinery shifts test logits: with the shift, and dotted without. */
function shiftLines(groups) {
  const keys = { "with the shift": "test/bacc", "without it": "test_raw/bacc" };
  const series = groups.filter(shiftsTest).flatMap((group) => Object.entries(keys).map(([name, key]) => ({
    name: `${group.label}, ${name}`, colour: styleOf(group.label).colour, dash: key === "test/bacc" ? styleOf(group.label).dash : "2 3", faint: key !== "test/bacc",
    points: meanLine(group.runs, key).points,
  })));
  const label = "Balanced accuracy with the shift of test logits, and without it (dotted)";
  return { series, log: false, top: 1, pick: pickEpoch, label, caption: [make("strong", { textContent: label })] };
}

/** What the shift of test logits adds to the recall of each class. */
function shiftBars(groups) {
  const order = classOrder(groups[0].runs[0]), epoch = shownEpoch();
  const series = groups.filter((group) => shiftsTest(group) && group.classes.length === order.length).map((group) => {
    const [shifted, raw] = ["test/recall", "test_raw/recall"].map((key) => meanShares(group.runs, key, epoch)?.mean);
    return { name: group.label, colour: styleOf(group.label).colour, form: "bar", values: order.map((_, k) => (shifted?.[k] ?? NaN) - (raw?.[k] ?? NaN)) };
  });
  const top = largest(series.flatMap(({ values }) => finite(values).map(Math.abs))) || 1;
  return { names: groups[0].classes, order, series, low: -top, top, label: `What the shift of test logits adds to each class's recall at epoch ${epoch}`, caption: [make("strong", { textContent: "What the shift of test logits adds to each class's recall" })] };
}

function agreement(group) {
  const epoch = shownEpoch();
  const series = tablesOf(group).filter(([name]) => tableShown(name)).map(([name, table]) => ({
    name, filled: name === "refined", colour: TABLE_COLOURS[name],
    precision: meanShares(group.runs, `pseudo/${table}/precision`, epoch)?.mean, recall: meanShares(group.runs, `pseudo/${table}/recall`, epoch)?.mean,
  }));
  return { names: group.classes, order: classOrder(group.runs[0]), series, label: `${group.label}: precision against recall of the pseudo-labels of each class at epoch ${epoch}`, caption: caption(group, seedsText(group.runs)) };
}

/** Share of all pseudo-labels that a class takes from others (up) and that it loses to others (down), as argmax. */
function takenAndLost(group) {
  const epoch = shownEpoch(), truth = group.runs[0].shares("pseudo/true", Infinity);
  const series = [];
  for (const [name, table] of tablesOf(group)) {
    const hard = meanShares(group.runs, `pseudo/${table}_hard`, epoch)?.mean;
    const precision = meanShares(group.runs, `pseudo/${table}/precision`, epoch)?.mean;
    const recall = meanShares(group.runs, `pseudo/${table}/recall`, epoch)?.mean;
    if (!truth || !hard || !recall || !tableShown(name)) continue;
    const colour = TABLE_COLOURS[name];
    series.push({ name: `${name}: taken from others`, form: "bar", colour, values: hard.map((share, k) => (share > 0 ? share * (1 - (precision?.[k] ?? NaN)) : 0)) });
    series.push({ name: `${name}: lost to others`, form: "bar", colour: `color-mix(in srgb, ${colour} 45%, var(--paper))`, values: truth.map((share, k) => -share * (1 - recall[k])) });
  }
  const top = shareTop(group);
  return { names: group.classes, order: classOrder(group.runs[0]), series, low: -top, top, label: `${group.label}: images that each class takes from others and loses to them, as share of all, at epoch ${epoch}`, caption: caption(group, seedsText(group.runs)) };
}

function confusion(group, [name, table]) {
  const run = typical(group);
  return {
    names: group.classes, order: classOrder(run), values: run.table(`confusion/${table}`),
    label: `${group.label}: ${name} labels that the images of each class carry, seed ${run.seed}`, caption: caption(group, `${name}, share of each class`, `seed ${run.seed}`),
  };
}

/** Bars of what is taken and lost, and where a run kept it, the whole matrix. */
function takenCharts(groups) {
  return groups.flatMap((group) => {
    const bars = new Chart(BARS, () => takenAndLost(group), { moves: true });
    const kept = tablesOf(group).filter(([name, table]) => tableShown(name) && typical(group).series.has(`confusion/${table}`));
    const matrices = kept.map((table) => new Chart(MATRIX, () => confusion(group, table)).box);
    return matrices.length ? [bars, { box: make("div", { className: "pair" }, ...matrices) }] : [bars];
  });
}

const TIME_PARTS = [["data", "waiting for batches"], ["step", "steps"], ["refine", "refinement"], ["eval", "evaluation"], ["log", "logging"], ["checkpoint", "checkpoints"]];

function timeParts(groups) {
  const epoch = shownEpoch();
  const parts = TIME_PARTS.map(([, name], number) => ({ name, colour: groupColour(number) }));
  const rows = groups.map((group) => ({ name: group.label, values: TIME_PARTS.map(([part]) => meanFigure(group.runs, `time/${part}`, epoch) || 0) }))
    .filter(({ values }) => values.some((value) => value > 0));
  return { rows, parts, label: `Where epoch ${epoch} goes, in seconds`, caption: [make("strong", { textContent: `Where epoch ${epoch} goes` }), ...parts.map(({ name, colour }) => swatch(name, colour))] };
}

const swatch = (name, colour) => {
  const sign = make("i", { className: "swatch" });
  sign.style.background = colour;
  return make("span", {}, sign, name);
};

const eachGroup = (kind, describe, options) => (groups) => groups.map((group) => new Chart(kind, () => describe(group), options));
const lines = (keyOf, given) => (groups) => new Chart(LINES, () => linesOf(groups, keyOf, given));
const referenceWord = () => (PAGE.runs.some((run) => run.reference === "true") ? "truth" : "target");
/** What methods and refineries say of themselves, one number an epoch. */
const ownKeys = () => [...new Set(PAGE.runs.flatMap((run) => [...run.series.keys()]))].filter((key) => /^(method|refine)\/\w+$/.test(key)).sort();
const shiftsTest = (group) => group.runs.some((run) => run.series.has("test_raw/bacc"));
const logged = (key) => PAGE.runs.some((run) => run.series.has(key));

/** The scale of the heatmaps, drawn once above them. */
function showHeatScale() {
  const place = document.getElementById("heat-scale");
  const difference = state.heat === "difference";
  const top = heatTop();
  const canvas = make("canvas", { width: 140, height: 1 });
  const context = canvas.getContext("2d");
  for (let x = 0; x < 140; x++) {
    context.fillStyle = `rgb(${colourAt(heatPalette(difference), x / 139)})`;
    context.fillRect(x, 0, 1, 1);
  }
  const toggle = make("button", { type: "button", "aria-pressed": String(difference), textContent: "difference to the truth" });
  toggle.addEventListener("click", () => {
    setState({ heat: difference ? DEFAULTS.heat : "difference" });
    document.querySelector("#heat-scale button").focus(); // the button is a new one
  });
  const scale = make("span", { className: "scale" }, difference ? `less, -${short(top)}` : "0", canvas, difference ? `+${short(top)}, more` : short(top));
  place.replaceChildren(toggle, scale);
}

/** Section -> what makes the charts of one regime's column. `many`: a chart a configuration, the first two at first. */
const SECTIONS = {
  shares: { many: true, charts: eachGroup(BARS, shareBars, { moves: true }) },
  heatmaps: { many: true, charts: (groups) => groups.flatMap((group) => {
    const pair = make("div", { className: "pair" });
    for (const table of tablesOf(group)) if (tableShown(table[0]) && typical(group).series.has(`pseudo/${table[1]}`)) pair.append(new Chart(HEAT, () => heatmap(group, table)).box);
    return [{ box: pair }];
  }) },
  distance: { charts: (groups) => [
    lines((run, table) => `pseudo/${table}/tv_${run.reference}`, { label: `Distance to the ${referenceWord()} (total variation)`, alerts: true })(groups),
    lines((run, table) => `effective/${table}`, { label: "Effective classes", alerts: true })(groups),
  ] },
  accuracy: { charts: (groups) => [
    lines(() => "test/acc", { label: "Test accuracy", top: 1 })(groups),
    ...(logged("test/recall") ? [new Chart(BARS, () => recallDots(groups), { moves: true })] : []),
    ...(groups.some(shiftsTest) ? [new Chart(LINES, () => shiftLines(groups)), new Chart(BARS, () => shiftBars(groups), { moves: true })] : []),
  ] },
  agreement: { many: true, charts: (groups) => [{ box: make("div", { className: "pair" }, ...eachGroup(POINTS, agreement, { moves: true })(groups).map(({ box }) => box)) }] },
  taken: { many: true, charts: takenCharts },
  times: { charts: (groups) => [
    lines(() => "data_time", { label: "data_time, ms a step", factor: 1000 })(groups),
    new Chart(PARTS, () => timeParts(groups), { moves: true }),
  ] },
  solver: { charts: (groups) => [
    lines(() => LOGARITHMIC, { label: "Worst residual of an epoch", log: true })(groups.filter(hasRefined)),
    lines(() => "darp/iterations", { label: "Passes a solve" })(groups.filter(hasRefined)),
    lines(() => "darp/unconverged", { label: "Solves that did not converge" })(groups.filter(hasRefined)),
    ...ownKeys().map((key) => lines(() => key, { label: key })(groups)),
  ] },
};
