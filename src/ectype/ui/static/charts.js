// Curves over images seen, drawn by uPlot: one small chart for each value.

import { digits, el, short } from "./dom.js";

const HIDDEN = new Set(["kind", "seen", "step", "best", "time", "seconds", "verdict", "evidence", "images/s", "rate", "gradient norm"]);
const HEIGHT = 190;
const MAX_CHARTS = 8;
const NAMES = { total: "total loss", images: "images" };

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options(width) {
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
  return {
    width, height: HEIGHT, legend: { show: false }, padding: [8, 12, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { x: { time: false } },
    series: [{}, { stroke: color("--accent"), width: 2, points: { show: true, size: 4, filter: (u, s, shown) => (u.data[0].length < 60 ? undefined : shown && []) } }],
    axes: [
      { ...axis, size: 34, space: 70, values: (_, ticks) => ticks.map(short) },
      { ...axis, size: 58, space: 34, values: (_, ticks) => ticks.map(digits) },
    ],
  };
}

class Chart {
  constructor(title) {
    this.value = el("span", { className: "value" });
    this.place = el("div", { className: "plot", role: "img", "aria-label": title });
    this.figure = el("figure", {}, el("figcaption", {}, el("b", {}, title), this.value), this.place);
    this.title = title;
    this.data = [[], []];
    this.plot = null;
  }

  set(x, y) {
    this.data = [x, y];
    this.show(y.length - 1);
    this.place.setAttribute("aria-label", `${this.title}: ${y.length} values, from ${digits(y[0])} to ${digits(y.at(-1))}`);
    if (this.plot) this.plot.setData(this.data);
    else this.draw();
  }

  show(at) {
    const [x, y] = this.data;
    if (at >= 0 && at < x.length) this.value.textContent = ` ${digits(y[at])} at ${short(x[at])} images`;
  }

  draw() {
    const width = this.place.clientWidth;
    if (!width) return;
    this.plot?.destroy();
    const settings = options(width);
    settings.hooks = { setCursor: [(u) => this.show(u.cursor.idx ?? this.data[0].length - 1)] };
    this.plot = new window.uPlot(settings, this.data, this.place);
  }
}

/** Return the charts of a run in an element: `draw(lines)` shows its metrics, `end()` removes what listens. */
export function charts(place) {
  const drawn = new Map();
  const redraw = () => drawn.forEach((chart) => chart.draw());
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let width = 0;
  const sized = new ResizeObserver(() => {
    if (place.clientWidth !== width) { width = place.clientWidth; redraw(); }
  });
  dark.addEventListener("change", redraw);
  sized.observe(place);

  function draw(lines, nameOf) {
    const series = new Map();
    const put = (name, seen, value) => {
      if (typeof value !== "number" || !Number.isFinite(value)) return;
      const found = series.get(name) ?? series.set(name, [[], []]).get(name);
      if (found[0].at(-1) === seen) { found[1][found[1].length - 1] = value; return; }
      found[0].push(seen);
      found[1].push(value);
    };
    const checks = lines.filter((line) => line.kind === "check");
    const shown = Object.keys(checks.at(-1) ?? {}).filter((key) => !HIDDEN.has(key)).slice(0, 3);
    for (const line of checks) for (const key of shown) put(`Held-out ${nameOf(key)}`, line.seen, line[key]);
    for (const line of lines) {
      if (line.kind !== "train") continue;
      for (const [key, value] of Object.entries(line)) if (!HIDDEN.has(key)) put(`Training: ${NAMES[key] ?? key}`, line.seen, value);
    }
    const names = [...series.keys()].slice(0, MAX_CHARTS);
    for (const [name, chart] of drawn) if (!names.includes(name)) { chart.figure.remove(); drawn.delete(name); }
    for (const name of names) {
      let chart = drawn.get(name);
      if (!chart) {
        chart = new Chart(name);
        drawn.set(name, chart);
        place.append(chart.figure);
      }
      chart.set(...series.get(name));
    }
  }

  return {
    draw,
    end() {
      dark.removeEventListener("change", redraw);
      sized.disconnect();
      drawn.forEach((chart) => chart.plot?.destroy());
    },
  };
}
