// Using a model on images of one's own: they are dropped, sent one by one, and shown next to what the model makes of them.

import { ask, askRaw } from "./api.js";
import { dropArea } from "./drop.js";
import { el, number, setText, digits } from "./dom.js";
import { serverBackend } from "./server_backend.js";

const TASKS = {
  reconstruct: ["Reconstruct", "Encode and decode each image, as `ectype reconstruct` does. Larger images are processed in tiles."],
  restore: ["Restore", "Restore each image at its own size, as `ectype translate` does."],
  translate: ["Translate", "Predict the mask or image that belongs to each image, as `ectype translate` does."],
  score: ["Find odd ones", "Compare how badly each image is reconstructed with held-out images, as `ectype score` does. The oddest come first."],
  nearest: ["Find similar ones", "The eight images of the run whose codes are nearest, as `ectype nearest` finds them."],
  encode: ["Encode", "The code of each image, as a table."],
};
const LOOK_MS = 500;
const SHOWN = 60;

/** Show the view of a run, and return the function that ends it. */
export function showUse(main, key, back) {
  const backend = serverBackend(key);
  const title = el("h1", {}, "Use");
  const error = el("p", { className: "error", role: "alert" });
  const waiting = el("p", { className: "soft waiting", role: "status" }, "Loading the model …");
  const choices = el("fieldset", { className: "choices" }, el("legend", { className: "hidden" }, "What to do"));
  const hint = el("p", { className: "hint" });
  const status = el("p", { className: "soft", role: "status" });
  const bar = el("progress", { hidden: true, max: 1, value: 0, "aria-label": "Progress" });
  const stop = el("button", { type: "button", hidden: true, click: cancel }, "Cancel");
  const area = dropArea({ text: "Drop images or a folder here", several: true, folders: true, chosen: send });
  area.classList.add("large");
  const body = el("div", { hidden: true }, choices, hint, area, el("div", { className: "controls" }, status, bar, stop));
  const summary = el("p", { className: "sentence" });
  const skipped = el("ul", { className: "soft" });
  const downloads = el("p", { className: "buttons" });
  const results = el("ul", { className: "results" });
  const shown = el("section", { hidden: true, "aria-label": "Results" }, summary, downloads, skipped, results);
  main.append(back, title, error, waiting, body, shown);
  let ended = false;
  let batch = null;
  let timer = 0;
  let run = 0;

  const fail = (problem) => { if (!ended) setText(error, problem?.message ?? ""); };
  const task = () => choices.querySelector("input:checked")?.value;

  function describe() {
    setText(hint, TASKS[task()]?.[1].replaceAll("`", "") ?? "");
  }

  async function start() {
    const model = await backend.describe();
    if (ended) return;
    waiting.hidden = true;
    setText(title, `Use ${model.name}`);
    document.title = `Use ${model.name} · Ectype`;
    if (!model.tasks.length) {
      setText(error, "This model makes images from noise: it takes no images. Explore it instead.");
      return;
    }
    choices.append(...model.tasks.map((name, i) => el("label", {}, el("input", { type: "radio", name: "task", value: name, checked: i === 0, change: () => { describe(); if (batch) begin(); } }), TASKS[name][0])));
    describe();
    body.hidden = false;
  }

  async function send(files) {
    const mine = (run += 1);
    fail();
    shown.hidden = true;
    clearTimeout(timer);
    bar.hidden = false;
    stop.hidden = true;
    const refused = [];
    try {
      const made = (await ask("/api/batches", {})).id;
      batch = null;
      for (const [i, file] of files.entries()) {
        if (ended || mine !== run) return;
        bar.max = files.length;
        bar.value = i;
        setText(status, `Sending ${number.format(i + 1)} of ${number.format(files.length)} …`);
        const name = file.place || file.webkitRelativePath || file.name;
        try {
          await askRaw(`/api/raw/files/${made}?name=${encodeURIComponent(name)}`, file);
        } catch (problem) {
          refused.push(`${name}: ${problem.message}`);
          if (refused.length > 20) break;
        }
      }
      if (refused.length) fail(new Error(refused.slice(0, 3).join(" · ") + (refused.length > 3 ? ` · and ${refused.length - 3} more` : "")));
      if (refused.length === files.length) throw new Error(refused[0]);
      batch = made;
      await begin();
    } catch (problem) {
      bar.hidden = true;
      setText(status, "");
      fail(problem);
    }
  }

  async function begin() {
    const mine = (run += 1);
    shown.hidden = true;
    try {
      await ask(`/api/batches/${batch}/start`, { key, task: task() });
      look(mine);
    } catch (problem) {
      bar.hidden = true;
      setText(status, "");
      fail(problem);
    }
  }

  async function look(mine) {
    clearTimeout(timer);
    if (ended || mine !== run) return;
    try {
      const found = await ask(`/api/batches/${batch}`);
      if (ended || mine !== run) return;
      const going = found.state === "waiting" || found.state === "working";
      bar.hidden = !going;
      bar.removeAttribute("value");
      stop.hidden = !going;
      setText(status, found.state === "working" ? `Working on ${number.format(found.count)} ${found.count === 1 ? "image" : "images"} …`
        : found.state === "waiting" ? `Waiting: ${found.before} before this …` : found.state === "cancelled" ? "Cancelled." : "");
      if (found.state === "failed") fail(new Error(found.error));
      else if (found.state === "done") draw(found);
      else if (going) timer = setTimeout(() => look(mine), LOOK_MS);
    } catch (problem) {
      fail(problem);
      timer = setTimeout(() => look(mine), 4 * LOOK_MS);
    }
  }

  async function cancel() {
    try {
      await ask(`/api/batches/${batch}/cancel`, {});
      look(run);
    } catch (problem) {
      fail(problem);
    }
  }

  function draw(found) {
    const address = (name, download = false) => `/api/batches/${found.id}/${found.job}/${name.split("/").map(encodeURIComponent).join("/")}${download ? "?download=true" : ""}`;
    setText(summary, `${found.summary[0].toUpperCase()}${found.summary.slice(1)}.`);
    skipped.replaceChildren(...found.skipped.map((line) => el("li", {}, line)));
    downloads.replaceChildren(...found.downloads.map((name) => el("a", { className: "button", href: address(name, true), download: name }, `Download ${name}`)));
    results.className = `results ${found.items.some((item) => item.wide) ? "wide-items" : ""}`;
    results.replaceChildren(...found.items.slice(0, SHOWN).map((item) => el("li", {}, el("figure", { className: "result" },
      el("div", { className: `pair ${item.wide ? "row" : ""} ${item.outputs.length ? "" : "alone"}` },
        item.input ? el("img", { src: address(item.input), alt: `Input ${item.name}`, loading: "lazy" }) : el("span"),
        ...item.outputs.map((name) => el("img", { src: address(name), alt: `${item.name}: ${found.what}`, loading: "lazy", load: (event) => event.target.classList.toggle("pixels", event.target.naturalWidth < 48) }))),
      el("figcaption", {}, el("b", {}, item.name),
        Object.keys(item.values).length ? el("dl", {}, ...Object.entries(item.values).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, typeof value === "number" ? digits(value) : value)])) : "",
        ...item.outputs.slice(0, 1).map((name) => el("a", { className: "links", href: address(name, true), download: item.name.replace(/\.[^.]+$/, ".png") }, "Save PNG")))))));
    if (found.items.length > SHOWN) skipped.append(el("li", {}, `${number.format(found.items.length - SHOWN)} more are in results.zip.`));
    shown.hidden = false;
  }

  start().catch((problem) => { waiting.hidden = true; fail(problem); });
  return () => {
    ended = true;
    clearTimeout(timer);
  };
}
