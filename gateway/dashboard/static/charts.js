/* Two charts of the last ten minutes, fed by /dashboard/series. Colours come from the style sheet. */

const POLL_MS = 2000;
const SPAN_S = 600;
const SPAN_MIN_S = 60;
const HUES = 6;
const FONT = '11.5px "Inter", system-ui';
const AXIS_MIN_PX = 40;
const AXIS_GAP_PX = 10; // between the labels and the chart, and before them

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const charts = new Map();
const held = { at: [], inter: new Map(), first: [] };

function axis(extra) {
  return { stroke: css("--quiet"), font: FONT, grid: { stroke: css("--line"), width: 1 },
    ticks: { show: false }, ...extra };
}

/* As wide as the longest label: of "20,000" a fixed width cut the first digits off. */
function labelsWide(plot, labels) {
  plot.ctx.save();
  plot.ctx.font = FONT;
  const widest = Math.max(0, ...(labels ?? []).map((label) => plot.ctx.measureText(label).width));
  plot.ctx.restore();
  return Math.max(AXIS_MIN_PX, Math.ceil(widest) + AXIS_GAP_PX);
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

function draw(name, series, data) {
  const box = document.querySelector(`[data-chart="${name}"]`);
  const known = charts.get(name);
  if (!data.slice(1).some((values) => values.some((value) => value !== null))) {
    known?.plot.destroy();
    charts.delete(name);
    document.querySelector(`[data-keys="${name}"]`).replaceChildren();
    return blank(box, "No chats in the last ten minutes.");
  }
  const shape = series.map((one) => one.label).join("|") + matchMedia("(prefers-color-scheme: dark)").matches;
  if (known?.shape === shape) {
    known.plot.setData(data);
    known.plot.setScale("x", window_());
  } else {
    known?.plot.destroy();
    box.replaceChildren();
    const plot = new uPlot({
      width: box.clientWidth, height: box.clientHeight, padding: [8, 4, 0, 0], legend: { show: false },
      cursor: { y: false, points: { size: 7 } },
      scales: { x: { time: true, range: () => [window_().min, window_().max] }, y: { range: (_, low, high) => [0, Math.max(1, high * 1.15)] } },
      series: [{}, ...series],
      axes: [
        axis({ values: (_, ticks) => ticks.map(clock), size: 28, space: 90, incrs: [60, 120, 300], grid: { show: false } }),
        axis({ size: labelsWide, space: 44 }),
      ],
      hooks: { setCursor: [(plot) => keys(name, series, data_(plot), plot.cursor.idx)] },
    }, data, box);
    charts.set(name, { plot, shape });
  }
  keys(name, series, data, null);
}

const data_ = (plot) => plot.data;

/* Samples have the host's time, and this machine's clock may be off by more than the charts show. */
let skewMs = 0;
const hostNow = () => (Date.now() + skewMs) / 1000;

/* The last ten minutes, or what there is of them. */
function window_() {
  const now = hostNow();
  return { min: Math.min(now - SPAN_MIN_S, Math.max(now - SPAN_S, held.at[0] ?? 0)), max: now };
}

function keys(name, series, data, at) {
  const place = document.querySelector(`[data-keys="${name}"]`);
  place.replaceChildren(...series.map((one, index) => {
    const values = data[index + 1];
    let value = at === null || at === undefined ? null : values[at];
    if (at === null || at === undefined) value = values.findLast((v) => v !== null && v !== undefined);
    const key = document.createElement("span");
    const swatch = document.createElement("i");
    swatch.className = `swatch hue${one.hue}`;
    const figure = document.createElement("b");
    figure.textContent = value === null || value === undefined ? "–" : value >= 1000 ? `${(value / 1000).toFixed(1)} s` : `${value < 100 ? value.toFixed(1) : value.toFixed(0)} ms`;
    key.append(swatch, one.label, figure);
    return key;
  }));
}

function blank(box, text) {
  const words = document.createElement("p");
  words.className = "chart-empty";
  words.textContent = text;
  box.replaceChildren(words);
}

function line(label, hue) {
  const colour = css(`--hue${hue}`);
  return { label, hue, stroke: colour, width: 2, points: { show: false }, spanGaps: false, paths: uPlot.paths.spline() };
}

function trim() {
  while (held.at.length && held.at[0] < hostNow() - SPAN_S - 10) {
    held.at.shift();
    held.first.shift();
    for (const values of held.inter.values()) values.shift();
  }
}

function take(news) {
  const before = held.at.length;
  held.at.push(...news.at_s);
  held.first.push(...news.first_token_ms);
  for (const [model, values] of Object.entries(news.inter_token_ms)) {
    if (!held.inter.has(model)) held.inter.set(model, new Array(before).fill(null));
    held.inter.get(model).push(...values);
  }
  for (const values of held.inter.values()) while (values.length < held.at.length) values.push(null);
  trim();
}

/* A model has the colour that it has on the rest of the page. */
function hues() {
  const found = new Map();
  document.querySelectorAll(".models li").forEach((row, place) => found.set(row.id.replace(/^model-/, ""), place % HUES));
  return found;
}

function show() {
  if (held.at.length < 2) {
    for (const box of document.querySelectorAll("[data-chart]")) blank(box, "Measuring. The first minutes appear here.");
    return;
  }
  const colours = hues();
  const models = [...held.inter.keys()].sort((a, b) => (colours.get(a) ?? 99) - (colours.get(b) ?? 99));
  draw("inter", models.map((model, place) => line(model, colours.get(model) ?? place % HUES)),
    [held.at, ...models.map((model) => held.inter.get(model))]);
  draw("first", [line("all bots", 0)], [held.at, held.first]);
}

async function poll() {
  if (!document.hidden) {
    try {
      const answer = await fetch(`/dashboard/series?after=${held.at.at(-1) ?? 0}`);
      skewMs = Date.parse(answer.headers.get("date")) - Date.now() || 0;
      if (answer.ok) { take(await answer.json()); show(); }
    } catch { /* the live part says that the host is lost */ }
  }
  setTimeout(poll, POLL_MS);
}

new ResizeObserver(() => {
  for (const [name, { plot }] of charts) {
    const box = document.querySelector(`[data-chart="${name}"]`);
    plot.setSize({ width: box.clientWidth, height: box.clientHeight });
  }
}).observe(document.getElementById("main"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
poll();
