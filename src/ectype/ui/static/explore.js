// Exploring a model: a map of its codes, sliders along directions, samples, paths, and images like the present one.
// The model is asked through a backend (`backend.js`); nothing here knows where it runs.

import { paint } from "./backend.js";
import { picture } from "./picture.js";
import { el, setText } from "./dom.js";
import { Here } from "./explore_state.js";
import { mapPart } from "./explore_map.js";
import { likePart, pathPart, samplePart, sliderPart } from "./explore_parts.js";

function save(canvas, name) {
  canvas.toBlob((blob) => {
    const address = URL.createObjectURL(blob);
    el("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }, "image/png");
}

/**
 * Show the view in an element, and return the function that ends it.
 * @param {HTMLElement} main
 * @param {import("./backend.js").Backend} backend
 * @param {{back?: Node}} options
 */
export function showExplore(main, backend, { back = null } = {}) {
  const title = el("h1", {}, "Explore");
  const about = el("p", { className: "soft about" });
  const error = el("p", { className: "error", role: "alert" });
  const waiting = el("p", { className: "soft waiting", role: "status" }, "Loading the model …");
  const body = el("div", { hidden: true });
  main.append(...(back ? [back] : []), title, about, error, waiting, body);
  let ended = false;
  let map = null;
  const fail = (problem) => { if (!ended) setText(error, problem?.message ?? ""); };

  async function start() {
    const model = await backend.describe();
    if (ended) return;
    setText(title, `Explore ${model.name}`);
    document.title = `Explore ${model.name} · Ectype`;
    if (!model.length) {
      waiting.hidden = true;
      setText(error, "This model has no codes to explore: it turns images into images. Use it on images of your own instead.");
      return;
    }
    setText(about, `${model.about} · ${model.width}×${model.height} px · ${model.unit} of ${model.length} values`);
    setText(waiting, model.unit === "z" ? "Drawing samples for the map …" : "Encoding images for the map …");
    const space = await backend.space();
    if (ended) return;
    waiting.hidden = true;
    body.hidden = false;
    const here = new Here(backend, model, space, fail);
    const view = el("canvas", { className: `now ${model.width < 48 ? "pixels" : ""}`, role: "img", "aria-label": "Image of the present code", width: model.width, height: model.height });
    const caption = el("figcaption", { className: "soft" });
    const trail = el("div", { className: "trail", "aria-hidden": "true" });
    const undo = el("button", { type: "button", disabled: true, click: () => here.back() }, "Back");
    const now = el("figure", { className: "present" }, view, caption, trail,
      el("div", { className: "buttons" }, undo, el("button", { type: "button", click: () => here.reset() }, "Average"),
        el("button", { type: "button", click: () => save(view, `${model.name}.png`) }, "Save PNG")));
    let shownTrail = 0;
    here.listen(({ pictures, what }) => {
      undo.disabled = !here.history.length;
      if (what !== undefined) setText(caption, what);
      if (!pictures) return;
      paint(view, pictures);
      view.dataset.decoded = String(Number(view.dataset.decoded ?? 0) + 1);
      // The way that was gone: a picture each eighth of a second at most.
      if (performance.now() - shownTrail > 125) {
        shownTrail = performance.now();
        trail.append(picture(pictures));
        while (trail.children.length > 8) trail.firstChild.remove();
      }
    });
    map = mapPart(here);
    body.append(el("div", { className: "explore" },
      map.element,
      el("div", { className: "explore-side" }, now, sliderPart(here))),
    samplePart(here), pathPart(here), likePart(here));
    map.start();
    await here.first();
  }

  start().catch((problem) => { waiting.hidden = true; fail(problem); });
  return () => {
    ended = true;
    map?.end();
  };
}
