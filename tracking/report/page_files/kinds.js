// The kinds of charts. Each draws a specification into an SVG and gives the same numbers as a table.

function nothingLogged(svg, left) {
  write("Nothing logged.", { x: left, y: 40, class: "tick" }, svg);
  return null;
}

/** Bars of each class, levels across them, dots of single seeds. */
const BARS = {
  height: 178,
  draw(svg, spec, width) {
    const { names, order, series, low = 0, top } = spec;
    const left = 38, right = width - 4, above = 6;
    const step = (right - left) / order.length;
    const labels = classLabels(names, order, step);
    const below = classAxisHeight(labels, step);
    const bottom = BARS.height - below;
    svg.setAttribute("height", BARS.height);
    if (!series.some(({ values }) => values.some(Number.isFinite))) return nothingLogged(svg, left);
    const y = (value) => bottom - ((Math.min(Math.max(value, low), top) - low) / (top - low)) * (bottom - above);
    valueAxis(svg, ticks(low, top, 4), y, left, right);
    const bars = series.filter((one) => one.form === "bar");
    const thick = (step * (order.length > MAX_NAMED_CLASSES ? 1 : 0.78)) / Math.max(bars.length, 1);
    order.forEach((k, place) => {
      const start = left + step * place + (step - thick * bars.length) / 2;
      bars.forEach(({ colour, values, dots }, number) => {
        if (!Number.isFinite(values[k])) return;
        const x = start + thick * number, y0 = y(0), y1 = y(values[k]);
        mark("rect", { x: x.toFixed(1), width: Math.max(thick - 1, 0.6).toFixed(1), y: Math.min(y0, y1).toFixed(1), height: Math.max(Math.abs(y1 - y0), 0.5).toFixed(1), style: `fill:${colour}` }, svg);
        if (order.length > MAX_NAMED_CLASSES || !(dots?.length > 1)) return;
        for (const dot of dots) if (Number.isFinite(dot[k])) mark("circle", { cx: (x + thick / 2).toFixed(1), cy: y(dot[k]).toFixed(1), r: 1.8, class: "seed" }, svg);
      });
      for (const { form, colour, values } of series) {
        if (form === "bar" || !Number.isFinite(values[k])) continue;
        const x = left + step * place;
        mark("line", { x1: (x + step * 0.04).toFixed(1), x2: (x + step * 0.96).toFixed(1), y1: y(values[k]).toFixed(1), y2: y(values[k]).toFixed(1), style: `stroke:${colour};stroke-width:${form === "level" ? 4 : form === "line" ? 2.2 : 1.6}` }, svg);
      }
    });
    mark("line", { x1: left, x2: right, y1: y(0), y2: y(0), class: "axis" }, svg);
    classAxis(svg, labels, (place) => left + step * (place + 0.5), step, bottom);
    hover(svg, (x) => {
      const place = Math.floor((x - left) / step);
      if (place < 0 || place >= order.length) return null;
      const rows = series.map(({ name, colour, values, dots }) => {
        const seeds = dots?.length > 1 ? finite(dots.map((dot) => dot[order[place]])) : [];
        return [colour, name, short(values[order[place]]) + rangeText(Math.min(...seeds), Math.max(...seeds))];
      });
      return { heading: `class ${names[order[place]]}`, rows };
    });
  },
  table: ({ names, order, series }) => ({
    head: ["class", ...series.map(({ name }) => name)],
    rows: order.map((k) => [names[k], ...series.map(({ values }) => short(values[k]))]),
  }),
};

/** From the smallest to the largest seed, where that can be seen. */
const rangeText = (low, high) => (low < high && short(low) !== short(high) ? ` (${short(low)} to ${short(high)})` : "");

const VIRIDIS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"];
const LESS_MORE = ["b35806", "e08214", "fdb863", "fee0b6", "f7f7f7", "d8daeb", "b2abd2", "8073ac", "542788"];
const LESS_MORE_DARK = ["fdb863", "e08214", "b35806", "6b3d12", "2a2e35", "403a6b", "6a5fa8", "8f84cc", "b2abd2"];
const rgb = (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
const scheme = window.matchMedia("screen and (prefers-color-scheme: dark)");

/** Colours from no share to the largest, or from less than the truth (brown) to more (violet). */
function heatPalette(difference) {
  return (difference ? (scheme.matches ? LESS_MORE_DARK : LESS_MORE) : VIRIDIS).map(rgb);
}

/** Colour of `t` from 0 to 1 on a palette. */
function colourAt(palette, t) {
  const at = Math.min(Math.max(t, 0), 1) * (palette.length - 1);
  const low = Math.min(Math.floor(at), palette.length - 2);
  return palette[low].map((channel, c) => Math.round(channel + (palette[low + 1][c] - channel) * (at - low)));
}

/** A share's place on the palette. The square root keeps a small share apart from none. */
function heatPlace(value, { difference, top }) {
  const root = Math.sqrt(Math.min(Math.abs(value) / top, 1));
  return difference ? 0.5 + 0.5 * Math.sign(value) * root : root;
}

/** Class by epoch, coloured. */
const HEAT = {
  height: 150,
  draw(svg, spec, width) {
    const { names, order, epochs, values, pick } = spec;
    const above = 4, row = Math.max(2.4, Math.min(15, 240 / order.length));
    const labels = classLabels(names, order, row);
    const left = 8 + Math.min(80, 6.4 * Math.max(...labels.map(({ text }) => text.length)));
    const right = width - 6;
    const bottom = above + row * order.length;
    svg.setAttribute("height", bottom + 22);
    const columns = epochs.length, step = (right - left) / columns;
    const canvas = make("canvas", { width: columns, height: order.length });
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, order.length);
    const palette = heatPalette(spec.difference);
    order.forEach((k, place) => {
      for (let e = 0; e < columns; e++) {
        const value = values[k * columns + e];
        if (!Number.isFinite(value)) continue;
        image.data.set([...colourAt(palette, heatPlace(value, spec)), 255], 4 * (place * columns + e));
      }
    });
    context.putImageData(image, 0, 0);
    mark("image", { href: canvas.toDataURL(), x: left, y: above, width: right - left, height: bottom - above, preserveAspectRatio: "none", class: "pixels" }, svg);
    for (const { place, text } of labels) write(text, { x: left - 5, y: above + row * (place + 0.5) + 3.5, class: "tick end" }, svg);
    const x = (epoch) => left + step * (placeOf(epochs, epoch) + 0.5);
    for (const epoch of epochTicks(epochs, right - left)) if (epochs.includes(epoch)) write(epoch, { x: x(epoch), y: bottom + 14, class: "tick middle" }, svg);
    const line = mark("rect", { y: above - 2, height: bottom - above + 4, width: Math.max(step, 2), class: "heat-marker" }, svg);
    const cell = (px, py) => [Math.floor((px - left) / step), Math.floor((py - above) / row)];
    const inside = (e, place) => e >= 0 && e < columns && place >= 0 && place < order.length;
    hover(svg, (px, py) => {
      const [e, place] = cell(px, py);
      if (!inside(e, place)) return null;
      return { heading: `class ${names[order[place]]}, epoch ${epochs[e]}`, rows: [["", spec.difference ? "difference" : "share", signed(values[order[place] * columns + e], spec.difference)]] };
    }, (px, py) => { const [e, place] = cell(px, py); if (inside(e, place)) pick(epochs[e]); });
    return (epoch) => line.setAttribute("x", x(epoch) - Math.max(step, 2) / 2);
  },
  table: ({ names, order, epochs, values, difference }) => {
    const kept = epochs.map((_, e) => e).filter((e) => e % Math.ceil(epochs.length / 12) === 0 || e === epochs.length - 1);
    return {
      head: ["class", ...kept.map((e) => `epoch ${epochs[e]}`)],
      rows: order.map((k) => [names[k], ...kept.map((e) => signed(values[k * epochs.length + e], difference))]),
    };
  },
};

/** True class by label: where the images of each class go. */
const MATRIX = {
  height: 220,
  draw(svg, spec, width) {
    const { names, order, values } = spec;
    const count = order.length, above = 4;
    const longest = Math.max(...order.map((k) => shortened(names[k]).length));
    const left = 22 + Math.min(80, 6.4 * longest), side = Math.min(width - left - 6, 330), cell = side / count;
    const labels = classLabels(names, order, cell);
    svg.setAttribute("height", above + side + classAxisHeight(labels, cell) + 20);
    const canvas = make("canvas", { width: count, height: count });
    const context = canvas.getContext("2d"), image = context.createImageData(count, count), palette = heatPalette(false);
    order.forEach((k, y) => order.forEach((j, x) => image.data.set([...colourAt(palette, Math.sqrt(values[k * count + j])), 255], 4 * (y * count + x))));
    context.putImageData(image, 0, 0);
    mark("image", { href: canvas.toDataURL(), x: left, y: above, width: side, height: side, preserveAspectRatio: "none", class: "pixels" }, svg);
    for (const { place, text } of labels) write(text, { x: left - 5, y: above + cell * (place + 0.5) + 3.5, class: "tick end" }, svg);
    classAxis(svg, labels, (place) => left + cell * (place + 0.5), cell, above + side);
    write("label →", { x: left + side, y: above + side + classAxisHeight(labels, cell) + 13, class: "tick end" }, svg);
    write("class →", { x: 10, y: above + side, class: "tick", transform: `rotate(-90 10 ${above + side})` }, svg);
    hover(svg, (px, py) => {
      const x = Math.floor((px - left) / cell), y = Math.floor((py - above) / cell);
      if (x < 0 || y < 0 || x >= count || y >= count) return null;
      return { heading: `class ${names[order[y]]}`, rows: [["", `labelled ${names[order[x]]}`, `${short(100 * values[order[y] * count + order[x]])} %`]] };
    });
  },
  table: ({ names, order, values }) => ({
    head: ["class", ...order.map((j) => `labelled ${names[j]}`)],
    rows: order.map((k) => [names[k], ...order.map((j) => short(values[k * order.length + j]))]),
  }),
};

const signed = (value, sign) => (sign && value > 0 ? "+" : "") + short(value);

/** Position of the last epoch that is not after `epoch`, the first where there is none. */
const placeOf = (epochs, epoch) => Math.max(0, epochs.findLastIndex((one) => one <= epoch));

const TOLD_LINES = 8; // of a tooltip: those that are nearest to the pointer

/** Lines over epochs: the mean over seeds thick, a band from the smallest to the largest seed, single seeds thin. */
const LINES = {
  height: 190,
  draw(svg, spec, width) {
    const { series, log, alerts = [], pick } = spec;
    const left = 46, right = width - 8, above = alerts.length ? 18 : 8, bottom = LINES.height - 22;
    svg.setAttribute("height", LINES.height);
    const points = series.flatMap((one) => one.points).filter(({ mean, low }) => Number.isFinite(mean) && (!log || low > 0));
    if (!points.length) return nothingLogged(svg, left);
    const first = Math.min(...PAGE.epochs.slice(0, 1)), last = Math.max(PAGE.epochs[PAGE.epochs.length - 1], first + 1);
    const scale = log ? Math.log10 : (value) => value;
    const low = log ? Math.floor(scale(points.reduce((least, { low }) => Math.min(least, low), Infinity))) : points.reduce((least, { low }) => Math.min(least, low), 0);
    const most = log ? points.reduce((top, { high }) => Math.max(top, high), 0) : 0;
    const high = log ? Math.max(Math.ceil(scale(most)), low + 1) : spec.top || 1;
    const x = (epoch) => left + ((epoch - first) / (last - first)) * (right - left);
    const y = (value) => bottom - ((scale(value) - low) / (high - low)) * (bottom - above);
    if (log) valueAxis(svg, ticks(low, high, 4).filter(Number.isInteger).map((power) => 10 ** power), y, left, right, (value) => value.toExponential(0));
    else valueAxis(svg, ticks(low, high, 4), y, left, right);
    for (const epoch of epochTicks([first, last], right - left)) write(epoch, { x: x(epoch), y: bottom + 15, class: "tick middle" }, svg);
    const usable = (value) => Number.isFinite(value) && (!log || value > 0);
    const path = (pairs) => {
      let text = "", pen = "M";
      for (const [epoch, value] of pairs) {
        if (!usable(value)) { pen = "M"; continue; }
        text += `${pen}${x(epoch).toFixed(1)},${y(value).toFixed(1)}`;
        pen = "L";
      }
      return text;
    };
    for (const { colour, dash, points, singles, faint } of series) {
      if (singles) for (const { run, values } of singles) mark("path", { d: path(run.epochs.map((epoch, e) => [epoch, values[e]])), class: "thin", style: `stroke:${colour};stroke-dasharray:${dash}` }, svg);
      else if (points.some(({ low, high }) => low < high)) {
        const back = points.toReversed().map(({ epoch, low }) => [epoch, low]);
        mark("path", { d: path(points.map(({ epoch, high }) => [epoch, high])) + path(back).replace("M", "L") + "Z", class: "band", style: `fill:${colour}` }, svg);
      }
      mark("path", { d: path(points.map(({ epoch, mean }) => [epoch, mean])), class: faint ? "line faint" : "line", style: `stroke:${colour};stroke-dasharray:${dash}` }, svg);
      if (points.length <= 3) for (const { epoch, mean } of points) if (usable(mean)) mark("circle", { cx: x(epoch), cy: y(mean), r: 3.5, style: `fill:${colour}` }, svg);
    }
    for (const { epoch, colour } of alerts) mark("path", { d: `M${x(epoch)},15l-5,-9h10z`, class: "alert", style: `fill:${colour}` }, svg);
    mark("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }, svg);
    const line = mark("line", { y1: above, y2: bottom, class: "marker" }, svg);
    const epochAt = (px) => {
      const wanted = first + ((px - left) / (right - left)) * (last - first);
      return PAGE.epochs.reduce((best, epoch) => (Math.abs(epoch - wanted) < Math.abs(best - wanted) ? epoch : best));
    };
    hover(svg, (px, py) => {
      if (px < left - 4 || px > right + 4) return null;
      const told = py < above ? alerts.filter(({ epoch }) => Math.abs(x(epoch) - px) < 8) : [];
      if (told.length) return { heading: `epoch ${told[0].epoch}`, rows: told.map(({ colour, who, title, text }) => [colour, `${who}: ${title}. ${text}`, ""]) };
      const epoch = epochAt(px);
      const rows = series
        .map((one) => ({ one, point: one.points[placeOf(one.points.map((point) => point.epoch), epoch)] }))
        .filter(({ point }) => point && Number.isFinite(point.mean) && point.epoch <= epoch)
        .sort((a, b) => Math.abs(y(a.point.mean) - py) - Math.abs(y(b.point.mean) - py))
        .slice(0, TOLD_LINES)
        .sort((a, b) => b.point.mean - a.point.mean)
        .map(({ one, point }) => [one.colour, one.name, short(point.mean) + rangeText(point.low, point.high)]);
      return { heading: `epoch ${epoch}`, rows };
    }, (px) => pick(epochAt(px)));
    return (epoch) => { line.setAttribute("x1", x(epoch)); line.setAttribute("x2", x(epoch)); };
  },
  table: ({ series }) => {
    const last = shownEpoch();
    const step = Math.ceil(PAGE.epochs.length / 12);
    const kept = PAGE.epochs.filter((epoch, e) => e % step === 0 || epoch === last || e === PAGE.epochs.length - 1);
    return {
      head: ["line", ...kept.map((epoch) => `epoch ${epoch}`)],
      rows: series.map(({ name, points }) => {
        const found = new Map(points.map((point) => [point.epoch, point.mean]));
        return [name, ...kept.map((epoch) => short(found.get(epoch) ?? NaN))];
      }),
    };
  },
};

/** Precision against recall: one point a class, hollow for the raw labels, filled for the refined ones. */
const POINTS = {
  height: 250,
  draw(svg, spec, width) {
    const { names, series, order } = spec;
    const left = 38, right = Math.min(width - 10, left + 420), above = 8, bottom = POINTS.height - 36;
    svg.setAttribute("height", POINTS.height);
    if (!series.some(({ precision }) => precision?.some(Number.isFinite))) return nothingLogged(svg, left);
    const x = (value) => left + value * (right - left), y = (value) => bottom - value * (bottom - above);
    valueAxis(svg, [0, 0.25, 0.5, 0.75, 1], y, left, right);
    for (const value of [0, 0.25, 0.5, 0.75, 1]) write(value, { x: x(value), y: bottom + 14, class: "tick middle" }, svg);
    write("recall →", { x: right, y: bottom + 29, class: "tick end" }, svg);
    write("precision ↑", { x: left, y: bottom + 29, class: "tick" }, svg);
    const few = order.length <= MAX_NAMED_CLASSES;
    for (const k of order) {
      const [raw, refined] = series.map(({ recall, precision }) => [recall?.[k] ?? NaN, precision?.[k] ?? NaN]);
      if (refined && raw.every(Number.isFinite) && refined.every(Number.isFinite)) mark("line", { x1: x(raw[0]), y1: y(raw[1]), x2: x(refined[0]), y2: y(refined[1]), class: "link" }, svg);
    }
    const taken = []; // places of labels: no two on top of each other
    for (const { filled, colour, recall, precision } of series) {
      for (const k of order) {
        if (!Number.isFinite(recall?.[k]) || !Number.isFinite(precision?.[k])) continue;
        const cx = x(recall[k]), cy = y(precision[k]);
        mark("circle", { cx, cy, r: few ? 4.5 : 3, style: filled ? `fill:${colour}` : `fill:none;stroke:${colour};stroke-width:1.6` }, svg);
        if (!few || taken.some(([tx, ty]) => Math.abs(tx - cx) < 14 && Math.abs(ty - cy) < 10)) continue;
        taken.push([cx, cy]);
        write(shortened(names[k]), { x: cx > right - 40 ? cx - 8 : cx + 8, y: cy + 4, class: cx > right - 40 ? "tick end" : "tick" }, svg);
      }
    }
    hover(svg, (px, py) => {
      const near = [];
      for (const { name, colour, recall, precision } of series) {
        for (const k of order) {
          const away = Math.hypot(x(recall?.[k] ?? NaN) - px, y(precision?.[k] ?? NaN) - py);
          if (away < 12) near.push({ away, row: [colour, `class ${names[k]}, ${name}`, `recall ${short(recall[k])}, precision ${short(precision[k])}`] });
        }
      }
      near.sort((a, b) => a.away - b.away);
      return near.length ? { heading: "pseudo-labels", rows: near.slice(0, 8).map(({ row }) => row) } : null;
    });
  },
  table: ({ names, order, series }) => ({
    head: ["class", ...series.flatMap(({ name }) => [`precision, ${name}`, `recall, ${name}`])],
    rows: order.map((k) => [names[k], ...series.flatMap(({ precision, recall }) => [short(precision?.[k] ?? NaN), short(recall?.[k] ?? NaN)])]),
  }),
};

/** One bar a configuration, made of parts. */
const PARTS = {
  height: 90,
  draw(svg, spec, width) {
    const { rows, parts } = spec;
    const row = 38, left = 4, right = width - 8;
    svg.setAttribute("height", rows.length * row + 22);
    const top = largest(rows.map(({ values }) => values.reduce((sum, value) => sum + value, 0))) || 1;
    const x = (value) => left + (value / top) * (right - left);
    rows.forEach(({ name, values }, number) => {
      const y = number * row;
      write(name, { x: left, y: y + 12, class: "name" }, svg);
      let at = 0;
      values.forEach((value, part) => {
        mark("rect", { x: x(at), y: y + 17, width: Math.max(x(at + value) - x(at), 0), height: 15, style: `fill:${parts[part].colour}` }, svg);
        at += value;
      });
    });
    for (const value of ticks(0, top, Math.max(2, width / 130))) write(`${value} s`, { x: x(value), y: rows.length * row + 14, class: value ? "tick middle" : "tick" }, svg);
    hover(svg, (_, py) => {
      const found = rows[Math.floor(py / row)];
      if (!found) return null;
      return { heading: found.name, rows: parts.map(({ name, colour }, part) => [colour, name, `${short(found.values[part])} s`]) };
    });
  },
  table: ({ rows, parts }) => ({
    head: ["configuration", ...parts.map(({ name }) => `${name}, s`)],
    rows: rows.map(({ name, values }) => [name, ...values.map(short)]),
  }),
};
