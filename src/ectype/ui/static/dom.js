// Elements and texts. Nothing is ever parsed as HTML: names and logs come from anyone.

/** Return a new element. Attributes that are functions are listeners; null and false are left out. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else if (name === "className") made.className = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** Replace what an element holds, unless it holds the same: then focus and selection stay. */
export function fill(place, ...children) {
  const next = el(place.tagName, {}, ...children);
  if (next.innerHTML !== place.innerHTML) place.replaceChildren(...next.childNodes);
}

/** Set the text of an element if it differs, so that a screen reader speaks only of what is new. */
export function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

export const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
export const short = (value) => (value === null || value === undefined ? "" : compact.format(value));

/** Return a value with four significant digits. */
export function digits(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

/** Return a duration in words: 40 s, 12 min, 3 h 5 min. */
export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Return how long ago a time was, in words. */
export function ago(time) {
  const seconds = Date.now() / 1000 - time;
  if (seconds < 90) return "now";
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

export const pictureAddress = (key, kind, step, small = false) =>
  `/api/runs/${encodeURIComponent(key)}/pictures/${kind}/${step}${small ? "?small=true" : ""}`;

const STATES = {
  training: ["training", "going"],
  stopped: ["stopped, saved", "held"],
  waiting: ["waiting", "held"],
  stopping: ["stopping …", "held"],
  finished: ["finished", "good"],
  "stopped early": ["stopped early", "good"],
  refused: ["refused", "bad"],
  finishing: ["finishing …", "going"],
};

/** Return the state of a run in words, and its class: going, held, good or bad. */
export function stateOf(run) {
  if (run.queue === "waiting" || run.queue === "stopping") return STATES[run.queue];
  if (run.queue === "training" && run.state !== "training") return run.share === 1 ? STATES.finishing : ["starting …", "going"];
  return STATES[run.state] ?? [run.state, "bad"];
}

/** Return the progress of a run: a bar, the share, and the time left. */
export function progress(run, label) {
  const [words, kind] = stateOf(run);
  const parts = [el("span", { className: `state ${kind}` }, words)];
  if (run.state === "training" || run.state === "stopped") {
    if (run.share !== null && run.share !== undefined) {
      const percent = Math.floor(run.share * 100);
      parts.push(el("progress", { max: 100, value: percent, "aria-label": label }, `${percent}%`));
      const left = run.left === null || run.left === undefined ? "" : `, ${duration(run.left)} left`;
      parts.push(el("small", {}, `${percent}%${left}`));
    } else parts.push(el("small", {}, `${short(run.seen)} images`));
  }
  return parts;
}
