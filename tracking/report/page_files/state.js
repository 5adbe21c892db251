// What the reader has chosen. It stands in the address's fragment, so that a view can be sent.

const DEFAULTS = {
  epoch: "", // the last one
  regime: "", method: "", refine: "", seed: "", text: "", // filters; empty for all
  order: "share", // of the classes: by true share, or as in the data set
  heat: "share", // what heatmaps show: share, or difference to the truth
  seeds: "", // "each" draws single seeds
  more: "", // "all" shows every configuration where only two are shown at first
  sort: "", // of the tables: number of the column, with - before it for downwards
};
const state = { ...DEFAULTS, hide: new Set() }; // hide: names in legends that are switched off

function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULTS)) state[name] = given.get(name) ?? DEFAULTS[name];
  state.hide = new Set(given.getAll("hide"));
}

function writeFragment() {
  const wanted = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) if (state[name] !== value) wanted.set(name, state[name]);
  for (const name of state.hide) wanted.append("hide", name);
  const address = wanted.size ? `#${wanted}` : location.pathname + location.search;
  try {
    history.replaceState(null, "", address);
  } catch {
    // some browsers refuse more than a hundred changes in half a minute, as a playing slider makes; the next one holds
  }
}

/** The epoch that is shown: one that some run has. */
function shownEpoch() {
  const last = PAGE.epochs[PAGE.epochs.length - 1];
  const wanted = state.epoch === "" ? last : Number(state.epoch);
  if (!Number.isFinite(wanted)) return last;
  return PAGE.epochs.findLast((epoch) => epoch <= wanted) ?? PAGE.epochs[0];
}

function passes(run) {
  const group = run.group;
  const regime = PAGE.regimes[group.regime];
  if (state.regime && regime.name !== state.regime) return false;
  if (state.method && group.method !== state.method) return false;
  if (state.refine && group.refine !== state.refine) return false;
  if (state.seed && run.seed !== state.seed) return false;
  const words = `${regime.name} ${group.label} ${run.name} seed ${run.seed}`.toLowerCase();
  return state.text.toLowerCase().split(/\s+/).every((word) => words.includes(word));
}

/** The groups that filters and legends leave, each with the runs that they leave. */
function chosenGroups() {
  return PAGE.groups
    .filter((group) => !state.hide.has(group.label))
    .map((group) => ({ ...group, runs: group.runs.filter(passes) }))
    .filter((group) => group.runs.length > 0);
}

/** Positions of the classes in the order in which they are shown. */
function classOrder(run) {
  const places = Array.from({ length: run.group.classes.length }, (_, k) => k);
  const shares = run.shares(`pseudo/${run.reference}`, Infinity);
  if (state.order !== "share" || shares === null) return places;
  return places.sort((a, b) => shares[b] - shares[a] || a - b); // equal ones stay in their order
}
