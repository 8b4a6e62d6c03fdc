// Several runs side by side: the same inputs, and samples of the same seed.

import { ask, askRaw } from "./api.js";
import { toRGBA } from "./backend.js";
import { acceptDrops, dropArea } from "./drop.js";
import { el, setText, stateOf } from "./dom.js";
import { pack, unpack } from "./frames.js";
import { picture } from "./picture.js";
import { serverBackend } from "./server_backend.js";

const INPUTS = 8;
const SAMPLES = 16;
export const MAX_RUNS = 6;

/** Return what a run's model makes of a file. */
async function apply(key, file) {
  const body = pack({}, { file: new Uint8Array(await file.arrayBuffer()) });
  const { head, arrays } = unpack(await askRaw(`/api/raw/explore/${encodeURIComponent(key)}/apply`, body));
  const pictures = (bytes) => toRGBA(bytes, ...bytes.shape);
  return { names: [file.name], input: pictures(arrays.input), output: pictures(arrays.output), what: head.what };
}

/** Show the view, and return the function that ends it. */
export function showCompare(main, keys, back) {
  const shown = keys.slice(0, MAX_RUNS);
  const runs = shown.map((key) => ({ key, backend: serverBackend(key), model: null, error: "" }));
  const error = el("p", { className: "error", role: "alert" });
  const waiting = el("p", { className: "soft waiting", role: "status" }, "Loading the models …");
  const seed = el("input", { type: "number", min: 0, max: 999999, value: 0, "aria-label": "Seed", change: sample });
  const next = el("button", { type: "button", className: "primary", click: () => { seed.value = Number(seed.value) + 1; sample(); } }, "Next seed");
  const held = el("button", { type: "button", hidden: true, click: () => examples() }, "Held-out images again");
  const table = el("table", {});
  const heads = runs.map((run) => el("th", { scope: "col" }, el("a", { className: "name", href: `#/run/${encodeURIComponent(run.key)}` }, run.key)));
  const samples = el("tbody");
  const outputs = el("tbody");
  table.style.minWidth = `${6 + 9 * runs.length}rem`;
  table.append(el("caption", { className: "hidden" }, "Runs side by side"), el("colgroup", {}, el("col", { className: "inputs" })), el("thead", {}, el("tr", {}, el("td"), ...heads)), outputs, samples);
  const area = dropArea({ text: "Drop images to compare the models on", several: true, chosen: own });
  const sides = el("div", { className: "sides", tabindex: 0, role: "region", "aria-label": "Runs side by side" }, table);
  const body = el("div", { hidden: true }, el("div", { className: "controls" }, el("label", {}, "Seed of the samples", seed), next, held), area, sides);
  acceptDrops(sides, own);
  main.append(back, el("h1", {}, "Side by side"), error, waiting, body);
  document.title = "Side by side · Ectype";
  let ended = false;
  let turn = 0;
  const fail = (problem) => { if (!ended) setText(error, problem?.message ?? ""); };

  async function start() {
    const list = (await ask("/api/runs")).runs;
    for (const run of runs) {
      run.row = list.find((row) => row.key === run.key);
      try {
        run.model = await run.backend.describe();
      } catch (problem) {
        run.error = problem.message;
      }
      if (ended) return;
    }
    runs.forEach((run, i) => {
      const row = run.row ?? {};
      heads[i].replaceChildren(el("a", { className: "name", href: `#/run/${encodeURIComponent(run.key)}` }, row.name ?? run.key),
        el("small", {}, [row.preset, row.source].filter(Boolean).join(" on ")),
        row.state ? el("span", { className: `state ${stateOf(row)[1]}` }, stateOf(row)[0]) : "",
        el("small", {}, row.figure ?? ""), row.verdict ? el("small", {}, `verdict: ${row.verdict}`) : "",
        run.error ? el("small", { className: "problem" }, run.error) : "");
    });
    waiting.hidden = true;
    body.hidden = false;
    await examples();
    await sample();
  }

  /** Draw rows of inputs and outputs; a run has one result for each input, or a reason why it has none. */
  function drawOutputs(names, inputs, results) {
    const what = [...new Set(results.map((each) => each.what).filter(Boolean))].join(", ");
    outputs.replaceChildren(el("tr", {}, el("th", { colspan: runs.length + 1, scope: "rowgroup" }, el("h2", {}, `The same inputs: ${what || "outputs"}`))),
      ...names.map((name, i) => el("tr", {}, el("th", { scope: "row" }, inputs[i] ? picture(inputs[i].pictures, inputs[i].index, `Input ${name}`) : "", name),
        ...results.map((each) => {
          const found = each.at?.(i);
          if (!found) return el("td", { className: "soft" }, i === 0 || each.at ? each.reason ?? "not one of its images" : "");
          const output = picture(found.output, found.index, `${name}: ${each.what} of ${each.name}`);
          // Restoration gets a degraded image, which differs from the input that is shown.
          return el("td", {}, each.what === "restored images" ? el("div", { className: "degraded" }, picture(found.input, found.index, `${name}, degraded`), output) : output);
        }))));
  }

  async function examples() {
    const mine = (turn += 1);
    held.hidden = true;
    fail();
    let names = null;
    let inputs = [];
    const results = [];
    for (const run of runs) {
      const name = run.model?.name ?? run.key;
      if (!run.model || !run.model.output) {
        results.push({ name, reason: run.error || "makes images from noise: compare its samples below" });
        continue;
      }
      try {
        const found = await run.backend.examples(names, INPUTS);
        if (ended || mine !== turn) return;
        if (!names) {
          names = found.names;
          inputs = names.map((_, index) => ({ pictures: found.input, index }));
        }
        const place = new Map(found.names.map((each, k) => [each, k]));
        results.push({ name, what: found.what, at: (i) => place.has(names[i]) ? { input: found.input, output: found.output, index: place.get(names[i]) } : null });
      } catch (problem) {
        results.push({ name, reason: problem.message });
      }
    }
    drawOutputs(names ?? [], inputs, results);
  }

  async function own(files) {
    const mine = (turn += 1);
    const chosen = files.slice(0, INPUTS);
    fail();
    held.hidden = false;
    const inputs = [];
    const results = [];
    for (const run of runs) {
      const name = run.model?.name ?? run.key;
      const found = [];
      let reason = run.error || "makes images from noise";
      let what = "";
      if (run.model?.output) {
        for (const [i, file] of chosen.entries()) {
          try {
            found[i] = await apply(run.key, file);
            what = found[i].what;
            inputs[i] ??= { pictures: found[i].input, index: 0 };
          } catch (problem) {
            reason = problem.message;
          }
          if (ended || mine !== turn) return;
        }
      }
      results.push(found.length ? { name, what, reason, at: (i) => found[i] ? { input: found[i].input, output: found[i].output, index: 0 } : null } : { name, reason });
    }
    drawOutputs(chosen.map((file) => file.name), inputs, results);
  }

  async function sample() {
    const asked = { count: SAMPLES, seed: Math.max(0, Math.floor(Number(seed.value) || 0)) };
    const cells = [];
    for (const run of runs) {
      if (!run.model?.canSample) {
        cells.push(el("td", { className: "soft" }, run.error || "draws no samples"));
        continue;
      }
      try {
        const found = await run.backend.sample(asked);
        cells.push(el("td", {}, el("div", { className: "mosaic", role: "img", "aria-label": `${SAMPLES} samples of ${run.model.name}, seed ${asked.seed}` },
          ...Array.from({ length: SAMPLES }, (_, i) => { const tile = picture(found.pictures, i); tile.setAttribute("aria-hidden", "true"); tile.removeAttribute("role"); tile.removeAttribute("aria-label"); return tile; }))));
      } catch (problem) {
        cells.push(el("td", { className: "problem" }, problem.message));
      }
      if (ended) return;
    }
    samples.replaceChildren(el("tr", {}, el("th", { colspan: runs.length + 1, scope: "rowgroup" }, el("h2", {}, `Samples of seed ${asked.seed}`))),
      el("tr", {}, el("th", { scope: "row" }, "the same noise, where codes are equally long"), ...cells));
  }

  start().catch((problem) => { waiting.hidden = true; fail(problem); });
  return () => { ended = true; };
}
