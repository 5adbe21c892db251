// The data of the page: names out of one JSON object, numbers out of one packed block (tracking/report/page_data.py).

let PAGE = null;
const LOGARITHMIC = "darp/residual";

/** Bytes of the packed block: first the low byte of every step, then the high one of every step. */
async function unpack(text) {
  const letters = atob(text);
  const packed = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) packed[at] = letters.charCodeAt(at);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

class Run {
  constructor(given, number) {
    Object.assign(this, given, { number, series: new Map(), cache: new Map() });
    if (typeof given.epochs === "number") this.epochs = Array.from({ length: given.epochs }, (_, epoch) => epoch);
  }

  /** Values of a key, class after class, each over the epochs; null where the run has none. */
  table(key) {
    const block = this.series.get(key);
    if (block === undefined) return null;
    if (!this.cache.has(key)) this.cache.set(key, decode(block));
    return this.cache.get(key);
  }

  /** Position of the last epoch that is not after `epoch`; -1 before the first. */
  place(epoch) {
    let low = 0, high = this.epochs.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.epochs[middle] <= epoch) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** One number for each class at an epoch, or null. */
  shares(key, epoch) {
    const values = this.table(key);
    if (values === null) return null;
    const { classes, epochs } = this.series.get(key);
    const place = epochs === 1 ? 0 : this.place(epoch);
    if (place < 0) return null;
    const taken = Array.from({ length: classes }, (_, k) => values[k * epochs + place]);
    return taken.some(Number.isFinite) ? taken : null;
  }

  /** One number at an epoch; NaN where there is none. */
  figure(key, epoch) {
    const values = this.line(key);
    const place = this.place(epoch);
    return values === null || place < 0 ? NaN : values[place];
  }

  /** One number an epoch: logged, or the effective number of classes of a table. */
  line(key) {
    if (!key.startsWith("effective/")) return this.table(key);
    if (!this.cache.has(key)) this.cache.set(key, this.effective(`pseudo/${key.slice(10)}`));
    return this.cache.get(key);
  }

  effective(key) {
    const values = this.table(key);
    if (values === null) return null;
    const { classes, epochs } = this.series.get(key);
    return Float32Array.from({ length: epochs }, (_, e) => {
      let entropy = 0;
      for (let k = 0; k < classes; k++) {
        const share = values[k * epochs + e];
        if (share > 0) entropy -= share * Math.log(share);
      }
      return Math.exp(entropy);
    });
  }

  /** What shares are compared with: the truth, or the target where no truth is logged. */
  get reference() {
    return this.series.has("pseudo/true") ? "true" : "target";
  }
}

function decode({ key, classes, epochs, low, high, offset }) {
  const values = new Float32Array(classes * epochs);
  const { levels, lowBytes, highBytes } = PAGE;
  const span = high - low || 1; // as where it was packed
  for (let k = 0, at = 0; k < classes; k++) {
    let level = 0;
    for (let e = 0; e < epochs; e++, at++) {
      level = (level + lowBytes[offset + at] + 256 * highBytes[offset + at]) & 0xffff;
      const value = level > levels ? NaN : low + (level / levels) * span;
      values[at] = key === LOGARITHMIC ? 10 ** value : value;
    }
  }
  return values;
}

/** Reads the data out of a document: this one, or a newer version of it. */
async function load(source) {
  const given = JSON.parse(source.getElementById("data").textContent);
  const packed = source.getElementById("packed");
  const bytes = await unpack(packed.textContent);
  packed.remove(); // its text is the larger part of the page
  PAGE = given;
  PAGE.lowBytes = bytes.subarray(0, bytes.length / 2);
  PAGE.highBytes = bytes.subarray(bytes.length / 2);
  PAGE.runs = PAGE.runs.map((given, number) => new Run(given, number));
  PAGE.groups.forEach((group, number) => Object.assign(group, { number, runs: [] }));
  for (const run of PAGE.runs) {
    run.group = PAGE.groups[run.group];
    run.group.runs.push(run);
  }
  let offset = 0;
  for (const [number, key, classes, epochs, low, high] of PAGE.blocks) {
    PAGE.runs[number].series.set(key, { key, classes, epochs, low, high, offset });
    offset += classes * epochs;
  }
  PAGE.epochs = [...new Set(PAGE.runs.flatMap((run) => run.epochs))].sort((a, b) => a - b);
}

const finite = (values) => values.filter(Number.isFinite);
const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : NaN);
const largest = (values) => values.reduce((top, value) => (value > top ? value : top), -Infinity);

/** Mean share of each class over runs, and each run's own; null where no run has any. */
function meanShares(runs, key, epoch) {
  const each = runs.map((run) => run.shares(key, epoch)).filter((shares) => shares !== null);
  if (!each.length) return null;
  return { mean: each[0].map((_, k) => mean(finite(each.map((shares) => shares[k])))), each };
}

/** Mean, smallest and largest over runs at each epoch that one of them has, and each run's own line. */
function meanLine(runs, key) {
  const each = runs.map((run) => ({ run, values: run.line(key) })).filter((line) => line.values !== null);
  const byEpoch = new Map();
  for (const { run, values } of each) {
    for (let e = 0; e < values.length; e++) {
      if (!Number.isFinite(values[e])) continue;
      const found = byEpoch.get(run.epochs[e]);
      if (found === undefined) byEpoch.set(run.epochs[e], { sum: values[e], n: 1, low: values[e], high: values[e] });
      else {
        found.sum += values[e];
        found.n++;
        found.low = Math.min(found.low, values[e]);
        found.high = Math.max(found.high, values[e]);
      }
    }
  }
  const epochs = [...byEpoch.keys()].sort((a, b) => a - b);
  const points = epochs.map((epoch) => {
    const { sum, n, low, high } = byEpoch.get(epoch);
    return { epoch, mean: sum / n, low, high };
  });
  return { points, each };
}
