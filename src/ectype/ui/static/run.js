// One run: its pictures, curves, verdict, findings and log, shown as its files are written.

import { ask, setOffline } from "./api.js";
import { charts } from "./charts.js";
import { el, fill, number, pictureAddress, progress, setText, stateOf } from "./dom.js";

const SILENT_MS = 25000; // the server gives a sign of life every ten seconds
const TITLES = { samples: "Samples", reconstructions: "Images and their reconstructions", translations: "Inputs, outputs and targets" };
const HINTS = {
  samples: "The same seed after each check.",
  reconstructions: "Held-out images, each with its reconstruction to its right.",
  translations: "Held-out images: input, output, target.",
};

/** A picture of a check, and a slider through those of all checks. */
class Pictures {
  constructor(key, kind) {
    this.key = key;
    this.kind = kind;
    this.steps = [];
    this.follows = true;
    this.image = el("img", { alt: TITLES[kind], className: "grid" });
    this.slider = el("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": `Check whose ${kind} are shown`, input: () => this.moved() });
    this.text = el("output", { className: "soft" });
    this.figure = el("figure", { className: "pictures" }, el("figcaption", {}, el("b", {}, TITLES[kind]), ` ${HINTS[kind]}`),
      el("div", { className: "frame" }, this.image), el("div", { className: "slider" }, this.slider, this.text));
  }

  set(steps) {
    this.steps = steps;
    this.slider.max = steps.length - 1;
    this.slider.disabled = steps.length < 2;
    if (this.follows) this.slider.value = steps.length - 1;
    this.show();
  }

  moved() {
    this.follows = Number(this.slider.value) === this.steps.length - 1;
    this.show();
  }

  show() {
    const at = Number(this.slider.value);
    const step = this.steps[at];
    if (step === undefined) return;
    const address = pictureAddress(this.key, this.kind, step);
    if (this.image.getAttribute("src") !== address) this.image.src = address;
    const text = `Check ${at + 1} of ${this.steps.length}, after ${number.format(step)} updates`;
    this.image.alt = `${TITLES[this.kind]} at ${text.toLowerCase()}`;
    this.slider.setAttribute("aria-valuetext", text);
    setText(this.text, text);
  }
}

function copyButton(text) {
  const button = el("button", { type: "button", click: async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it and copy";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  } }, "Copy");
  return button;
}

function findings(details) {
  return details.findings.map((finding) => el("li", { className: `finding ${finding.severity}` },
    el("h3", {}, finding.name, el("span", { className: "severity" }, finding.severity)),
    el("p", {}, finding.message.charAt(0).toUpperCase() + finding.message.slice(1), "."),
    finding.evidence.length ? el("p", { className: "soft" }, finding.evidence.join("; ")) : "",
    ...finding.advice.map((advice) => el("div", { className: "advice" }, el("p", {}, `Try ${advice.title}: `, el("span", { className: "soft" }, advice.why)),
      advice.override ? el("div", { className: "override" }, el("code", {}, advice.override), copyButton(advice.override)) : ""))));
}

function figures(details) {
  return details.figures.map((figure) => el("tr", {}, el("th", { scope: "row" }, figure.name), el("td", { className: "value" }, figure.value),
    el("td", {}, figure.interval), el("td", {}, ...figure.baselines.map((text) => el("small", {}, text))), el("td", {}, figure.better)));
}

/** Show a run in an element, and return the function that ends it. */
export function showRun(main, key) {
  document.title = "Run · Ectype";
  const path = `/api/runs/${encodeURIComponent(key)}`;
  const title = el("h1", {}, key.startsWith("~") ? "Run" : key);
  const about = el("p", { className: "soft about" });
  const state = el("div", { className: "run-state" });
  const act = (what) => ask(`${path}/${what}`, {}).then(() => fill(error), (failed) => fill(error, failed.message));
  const stop = el("button", { type: "button", hidden: true, click: () => act("stop") }, "Stop and save");
  const resume = el("button", { type: "button", className: "primary", hidden: true, click: () => act("resume") }, "Resume");
  const report = el("a", { className: "button", href: `${path}/report`, target: "_blank", rel: "noreferrer", hidden: true }, "Report");
  const explore = el("a", { className: "button", href: `#/run/${encodeURIComponent(key)}/explore`, hidden: true }, "Explore");
  const use = el("a", { className: "button", href: `#/run/${encodeURIComponent(key)}/use`, hidden: true }, "Use on images");
  const error = el("p", { className: "error", role: "alert" });
  const sentence = el("p", { className: "sentence" });
  const grids = el("div", { className: "grids" });
  const verdict = el("section", { className: "verdict-box", hidden: true });
  const found = el("ul", { className: "findings" });
  const rows = el("tbody");
  const figureTable = el("section", { hidden: true }, el("h2", {}, "Figures on test images"), el("div", { className: "wide", tabindex: 0, role: "region", "aria-label": "Figures" }, el("table", {},
    el("thead", {}, el("tr", {}, ...["Figure", "Value", "95% interval", "Baselines", "Better"].map((text) => el("th", { scope: "col" }, text)))), rows)));
  const curves = el("div", { className: "curves" });
  const curvesSection = el("section", { hidden: true }, el("h2", {}, "Curves"), curves);
  const foundSection = el("section", { hidden: true }, el("h2", {}, "Findings"), found);
  const log = el("pre", { className: "log", tabindex: 0, role: "region", "aria-label": "Log" });
  const logPart = el("details", { hidden: true }, el("summary", {}, "Log"), log);
  const recipe = el("pre", { tabindex: 0, role: "region", "aria-label": "Recipe" });
  const waiting = el("p", { className: "soft" }, "Pictures and curves appear here after the first check.");
  main.append(el("a", { className: "back", href: "#/" }, "← All runs"),
    el("div", { className: "run-head" }, el("div", {}, title, about), el("div", { className: "buttons" }, explore, use, stop, resume, report)),
    state, error, sentence, waiting, grids, verdict, foundSection, figureTable, curvesSection, logPart,
    el("details", {}, el("summary", {}, "Recipe"), recipe));
  const plots = charts(curves);
  const shown = new Map();
  let run = null;
  let details = null;
  let lines = [];
  let source = null;
  let watchdog = 0;
  let spoken = "";

  const hear = {
    state(value) {
      run = value;
      title.textContent = value.name;
      document.title = `${value.name} · Ectype`;
      setText(about, [value.preset, value.source].filter(Boolean).join(" on "));
      fill(state, ...progress(value, `Progress of ${value.name}`), value.seen ? el("small", {}, `${number.format(value.seen)}${value.budget ? ` of ${number.format(value.budget)}` : ""} images`) : "");
      stop.hidden = !(value.own && value.queue !== "stopping");
      resume.hidden = value.own || value.state !== "stopped";
      report.hidden = !value.report;
      explore.hidden = use.hidden = !value.model;
      const words = stateOf(value)[0];
      if (words !== spoken) { spoken = words; setText(document.getElementById("status"), `${value.name}: ${words}`); }
      if (value.error) fill(error, value.error);
      showVerdict();
    },
    details(value) {
      details = value;
      setText(sentence, value.sentence || (value.reason && value.reason[0].toUpperCase() + value.reason.slice(1) + "."));
      found.replaceChildren(...findings(value));
      foundSection.hidden = !value.findings.length;
      rows.replaceChildren(...figures(value));
      figureTable.hidden = !value.figures.length;
      setText(recipe, value.recipe);
      showVerdict();
    },
    pictures(value) {
      for (const [kind, steps] of Object.entries(value)) {
        if (!shown.has(kind)) {
          const made = new Pictures(key, kind);
          shown.set(kind, made);
          grids.append(made.figure);
        }
        shown.get(kind).set(steps);
      }
      waiting.hidden = shown.size > 0;
    },
    metrics(value) {
      lines = value.reset ? value.lines : [...lines, ...value.lines];
      curvesSection.hidden = !lines.length;
      plots.draw(lines, (name) => name.replaceAll("_", " "));
    },
    log({ text }) {
      logPart.hidden = !text;
      const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20;
      setText(log, text);
      if (atEnd) log.scrollTop = log.scrollHeight;
    },
    gone(value) {
      fill(error, value.error);
      close();
    },
    beat() {},
  };

  function showVerdict() {
    verdict.hidden = !run?.verdict;
    if (run?.verdict) fill(verdict, el("h2", {}, "Verdict: ", run.verdict), el("p", {}, details?.evidence ?? ""));
  }

  function close() {
    clearTimeout(watchdog);
    source?.close();
    source = null;
  }

  function watch() {
    clearTimeout(watchdog);
    watchdog = setTimeout(open, SILENT_MS); // the connection has died, such as while the machine slept
  }

  function open() {
    close();
    if (document.hidden) return;
    source = new EventSource(`${path}/live`);
    source.onopen = () => setOffline("");
    source.onerror = () => {
      // EventSource tries again by itself, unless the server has refused it: then the reason is asked for.
      if (source?.readyState === EventSource.CLOSED) {
        close();
        ask("/api/runs").then(() => { watchdog = setTimeout(open, 3000); }, () => { watchdog = setTimeout(open, 5000); });
      } else setOffline("The server of this page does not answer. Trainings go on; the page tries again.");
    };
    for (const [name, listener] of Object.entries(hear)) {
      source.addEventListener(name, (event) => {
        watch();
        listener(JSON.parse(event.data));
      });
    }
    watch();
  }

  document.addEventListener("visibilitychange", open);
  open();
  return () => {
    document.removeEventListener("visibilitychange", open);
    close();
    plots.end();
    setOffline("");
  };
}
