// The list of runs: a table that can be sorted, asked for again every two seconds while it is looked at.

import { ask } from "./api.js";
import { ago, el, pictureAddress, progress, setText, stateOf } from "./dom.js";
import { MAX_RUNS } from "./compare.js";
import { openStart } from "./start.js";

const EVERY_MS = 2000;
const COLUMNS = [
  ["", null],
  ["Run", (run) => run.name],
  ["State", (run) => `${stateOf(run)[0]} ${(1 - (run.share ?? 0)).toFixed(4)}`],
  ["Main figure", (run) => run.figure_value ?? (run.figure ? -1e300 : -Infinity)],
  ["Verdict", (run) => run.verdict || "\uffff"],
  ["Changed", (run) => -run.changed],
  ["", null],
];
const GOOD = new Set(["healthy"]);
const BAD = new Set(["collapsed", "memorising", "spoiled"]);
let sorted = { column: 5, down: false };

function order(a, b) {
  return typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function thumbnail(run) {
  if (!run.thumbnail) return el("span", { className: "thumbnail empty", "aria-hidden": "true" });
  const { kind, step } = run.thumbnail;
  return el("img", {
    className: "thumbnail", loading: "lazy", width: 96, height: 96, alt: `${kind} of ${run.name}`,
    src: pictureAddress(run.key, kind, step, true),
  });
}

/** Return the cells of a run as [column, content], each made again only if what it shows has changed. */
function cells(run) {
  if (run.refused) {
    return [thumbnail(run), el("span", { className: "name" }, run.name), el("span", { className: "state bad" }, "refused"),
      el("small", { className: "problem" }, run.refused), "", "", ""];
  }
  const address = `#/run/${encodeURIComponent(run.key)}`;
  const problem = run.error || run.problems.join("; ");
  return [
    el("a", { href: address, tabindex: -1, "aria-hidden": "true" }, thumbnail(run)),
    el("span", {}, el("a", { className: "name", href: address }, run.name), el("small", {}, run.preset)),
    el("span", { className: "progress" }, ...progress(run, `Progress of ${run.name}`), problem ? el("small", { className: "problem" }, problem) : ""),
    el("span", { className: "figure" }, run.figure),
    el("span", { className: `verdict ${GOOD.has(run.verdict) ? "good" : BAD.has(run.verdict) ? "bad" : ""}` }, run.verdict),
    el("small", {}, ago(run.changed)),
    run.model ? el("label", { className: "check" }, el("input", { type: "checkbox", value: run.key, "data-choose": "" }), el("span", { className: "words" }, `Compare ${run.name}`)) : "",
  ];
}

/** Show the list in an element, and return the function that ends it. */
export function showRuns(main) {
  document.title = "Runs · Ectype";
  const rows = new Map();
  const body = el("tbody", { role: "rowgroup" });
  const heads = COLUMNS.map(([title, value], column) => el("th", { scope: "col", role: "columnheader" }, value
    ? el("button", { type: "button", click: () => sortBy(column) }, title) : el("span", { className: "hidden" }, column ? "Compare" : "Picture")));
  const table = el("table", { className: "runs", role: "table" }, el("caption", { className: "hidden" }, "Runs"),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)), body);
  const queue = el("ul", { className: "queue", "aria-label": "Trainings without a run yet" });
  const empty = el("div", { className: "empty-list", hidden: true },
    el("p", {}, "There are no runs here yet."),
    el("p", { className: "soft" }, "A run is one training: choose a model and a folder of images, and watch what it learns."),
    el("button", { type: "button", className: "primary", click: () => openStart() }, "Start the first run"));
  const chosen = new Set();
  const words = el("span", { role: "status" });
  const compare = el("a", { className: "button", href: "#/" }, "Compare side by side");
  const bar = el("div", { className: "chosen-bar", hidden: true }, words, compare, el("button", { type: "button", click: () => choose([]) }, "Clear"));
  main.append(el("h1", {}, "Runs"), queue, table, empty, bar);
  body.addEventListener("change", ({ target }) => {
    if (target.dataset.choose === undefined) return;
    if (target.checked) chosen.add(target.value);
    else chosen.delete(target.value);
    choose([...chosen]);
  });
  let found = [];
  let timer = 0;
  let ended = false;
  let before = new Map();

  function choose(keys) {
    chosen.clear();
    for (const key of keys.slice(0, MAX_RUNS)) chosen.add(key);
    for (const box of body.querySelectorAll("[data-choose]")) {
      box.checked = chosen.has(box.value);
      box.disabled = !box.checked && chosen.size >= MAX_RUNS;
    }
    bar.hidden = !chosen.size;
    compare.href = `#/compare/${[...chosen].map(encodeURIComponent).join("|")}`;
    compare.classList.toggle("primary", chosen.size > 1);
    setText(words, chosen.size === 1 ? "1 run is chosen: choose another one to compare it with." : `${chosen.size} runs are chosen.`);
  }

  function sortBy(column) {
    sorted = { column, down: sorted.column === column ? !sorted.down : false };
    draw();
  }

  function draw() {
    heads.forEach((head, column) => {
      if (COLUMNS[column][1]) head.setAttribute("aria-sort", sorted.column !== column ? "none" : sorted.down ? "descending" : "ascending");
    });
    const value = COLUMNS[sorted.column][1];
    // Values that are better or newer come first.
    const sign = (sorted.down ? -1 : 1) * (sorted.column === 3 ? -1 : 1);
    const rowsInOrder = [...found].sort((a, b) => sign * order(value(a), value(b)));
    for (const [key, row] of rows) if (!found.some((run) => run.key === key)) { row.remove(); rows.delete(key); }
    rowsInOrder.forEach((run, place) => {
      let row = rows.get(run.key);
      if (!row) {
        row = el("tr", { role: "row" }, ...COLUMNS.map((_, column) => column === 1
          ? el("th", { scope: "row", role: "rowheader" }) : el("td", { role: "cell", className: column === COLUMNS.length - 1 ? "choose" : "" })));
        rows.set(run.key, row);
      }
      cells(run).forEach((content, column) => {
        const shown = typeof content === "string" ? content : content.outerHTML;
        if (row.cells[column].shown !== shown) {
          row.cells[column].shown = shown;
          row.cells[column].replaceChildren(content);
        }
      });
      if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null);
    });
    table.hidden = !found.length;
  }

  function announce() {
    const now = new Map(found.map((run) => [run.key, stateOf(run)[0]]));
    const changed = [...now].filter(([key, state]) => before.size && before.get(key) !== state && !state.endsWith("…"));
    if (changed.length) {
      setText(document.getElementById("status"), changed.map(([key, state]) => `${found.find((run) => run.key === key).name}: ${state}`).join(". "));
    }
    before = now;
  }

  async function refresh() {
    clearTimeout(timer);
    try {
      const answer = await ask("/api/runs");
      if (ended) return;
      found = answer.runs;
      setText(document.getElementById("folder"), answer.folder);
      queue.replaceChildren(...answer.queue.filter((item) => item.error || !found.some((run) => run.key === item.key)).map((item) => el("li", {},
        el("b", {}, item.name), el("span", { className: item.error ? "problem" : "soft" }, item.error || (item.state === "training" ? "starting: the images are prepared …" : item.state)),
        item.state === "ended" ? "" : el("button", { type: "button", click: () => ask(`/api/runs/${encodeURIComponent(item.key)}/stop`, {}).then(refresh, refresh) },
          item.state === "waiting" ? "Remove" : "Stop"))));
      queue.hidden = !queue.children.length;
      empty.hidden = Boolean(found.length || queue.children.length);
      announce();
      draw();
    } catch {
      // It has been said that the server does not answer.
    }
    if (!ended && !document.hidden) timer = setTimeout(refresh, EVERY_MS);
  }

  const seen = () => { if (!document.hidden) refresh(); };
  document.addEventListener("visibilitychange", seen);
  addEventListener("runs-changed", refresh);
  refresh();
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", seen);
    removeEventListener("runs-changed", refresh);
  };
}
