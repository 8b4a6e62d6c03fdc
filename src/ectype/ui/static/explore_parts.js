// The parts of the explore view beside the map: sliders, samples, a path between two images, and more like this.

import { dropArea } from "./drop.js";
import { el, setText } from "./dom.js";
import { eachFrame } from "./explore_state.js";
import { picture } from "./picture.js";

const SLIDER_STEP = 0.02;
const RANGE = 4; // standard deviations
const PATH_STEPS = 9;
const SAMPLES = 12;
const LIKE = 10;

/** Return pictures as buttons in a row, each of which does something. */
function row(pictures, labels, pressed) {
  return Array.from({ length: pictures.count }, (_, i) => el("button", { type: "button", className: "tile", "aria-label": labels(i), click: () => pressed(i) }, picture(pictures, i, labels(i))));
}

/** Return the listeners of a slider: each gesture, or key, is one step to come back from. */
function gesture(here, moved) {
  let going = false;
  return {
    input: () => {
      if (!going) here.mark();
      going = true;
      moved();
    },
    change: () => { going = false; },
  };
}

function part(here, title, hint, ...children) {
  return el("section", { className: "explore-part" }, el("h2", {}, title), hint ? el("p", { className: "hint" }, hint) : "", ...children);
}

/** Return sliders along the directions. */
export function sliderPart(here) {
  const { space } = here;
  const rows = space.names.map((name, k) => {
    const deviation = space.deviations[k] || 1;
    const slider = el("input", { type: "range", min: -RANGE, max: RANGE, step: SLIDER_STEP, value: 0, "aria-label": name, ...gesture(here, () => {
      here.move([[k, Number(slider.value) * deviation - here.along(k)]]);
    }) });
    const text = el("output", { className: "soft" });
    return { k, deviation, slider, text, element: el("div", { className: "direction" }, el("span", {}, name), slider, text) };
  });
  const follow = eachFrame(() => {
    for (const { k, deviation, slider, text } of rows) {
      const value = here.along(k) / deviation;
      if (document.activeElement !== slider || Math.abs(Number(slider.value) - value) > SLIDER_STEP) slider.value = value;
      setText(text, `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(1)}`);
    }
  });
  here.listen(({ moved }) => { if (moved) follow(); });
  const [first, rest] = [rows.slice(0, 6), rows.slice(6)];
  return el("div", { className: "sliders" }, el("h2", {}, "Directions"),
    el("p", { className: "hint" }, "In standard deviations of the points."), ...first.map((each) => each.element),
    rest.length ? el("details", {}, el("summary", {}, `${rest.length} more`), ...rest.map((each) => each.element)) : "");
}

/** Return samples of a seed, with truncation, density and class where the model has them. */
export function samplePart(here) {
  const { model, backend } = here;
  if (!model.canSample) return "";
  const seed = el("input", { type: "number", min: 0, max: 999999, value: 0, "aria-label": "Seed", change: draw });
  const truncation = el("input", { type: "range", min: 0.1, max: 3, step: 0.1, value: 3, "aria-label": "Truncation", input: () => { said(); draw(); } });
  const truncationText = el("output", { className: "soft" });
  const density = el("select", { "aria-label": "Density", change: draw }, ...model.densities.map((name) => el("option", { value: name, selected: name === model.density }, name)));
  const drawn = el("select", { "aria-label": "Class of the samples", change: draw }, el("option", { value: "" }, "any class"),
    ...(model.trained_classes ?? model.classes.map((_, i) => i)).map((i) => el("option", { value: i }, model.classes[i])));
  const tiles = el("div", { className: "tiles" });
  const classes = el("div", { className: "tiles named" });
  let busy = false;
  let again = false;
  const said = () => setText(truncationText, Number(truncation.value) >= 3 ? "off" : `±${Number(truncation.value).toFixed(1)}`);
  said();

  async function draw() {
    again = true;
    if (busy) return;
    busy = true;
    try {
      while (again) {
        again = false;
        const asked = { count: SAMPLES, seed: Math.max(0, Math.floor(Number(seed.value) || 0)) };
        if (model.canTruncate && Number(truncation.value) < 3) asked.truncation = Number(truncation.value);
        if (model.densities.length > 1) asked.density = density.value;
        if (model.conditional && drawn.value !== "") asked.label = Number(drawn.value);
        const found = await backend.sample(asked);
        const name = (i) => `Sample ${i + 1}${found.labels[i] === undefined ? "" : `, ${model.classes[found.labels[i]]}`}`;
        tiles.replaceChildren(...row(found.pictures, name, (i) => here.go(found.codes.subarray(i * model.length, (i + 1) * model.length), { label: found.labels[i] ?? null, what: `${name(i)} of seed ${asked.seed}` })));
      }
      here.fail();
    } catch (error) {
      here.fail(error);
    } finally {
      busy = false;
    }
  }

  let timer = 0;
  if (model.conditional) {
    // The same z in every class, after it has come to rest.
    here.listen(({ moved }) => {
      if (!moved) return;
      clearTimeout(timer);
      timer = setTimeout(async () => {
        const shown = (model.trained_classes ?? model.classes.map((_, i) => i)).slice(0, 40);
        const codes = new Float32Array(shown.length * model.length);
        shown.forEach((_, i) => codes.set(here.code, i * model.length));
        try {
          const found = await backend.decode(codes, { labels: shown });
          classes.replaceChildren(...row(found, (i) => model.classes[shown[i]], (i) => here.go(here.code, { label: shown[i], what: model.classes[shown[i]] })));
          [...classes.children].forEach((tile, i) => tile.append(el("span", { "aria-hidden": "true" }, model.classes[shown[i]])));
        } catch (error) {
          here.fail(error);
        }
      }, 200);
    });
  }
  draw();
  const next = el("button", { type: "button", className: "primary", click: () => { seed.value = Number(seed.value) + 1; draw(); } }, "Next seed");
  return part(here, "Samples", "The samples of the command ectype sample with this seed. Press one to go there.",
    el("div", { className: "controls" }, el("label", {}, "Seed", seed), next,
      model.canTruncate ? el("label", {}, "Truncation", truncation, truncationText) : "",
      model.densities.length > 1 ? el("label", {}, "Drawn from", density) : "",
      model.conditional ? el("label", {}, "Class", drawn) : ""),
    tiles, model.conditional ? el("h3", {}, "This z in every class") : "", model.conditional ? classes : "");
}

/** Return a point between two codes: on the sphere for noise, where draws are, and straight between codes. */
export function between(one, two, share, sphere) {
  const found = new Float32Array(one.length);
  let [weights, lengths] = [[1 - share, share], [0, 0]];
  if (sphere) {
    let product = 0;
    for (let i = 0; i < one.length; i += 1) { product += one[i] * two[i]; lengths[0] += one[i] ** 2; lengths[1] += two[i] ** 2; }
    lengths = lengths.map(Math.sqrt);
    const angle = Math.acos(Math.min(1, Math.max(-1, product / Math.max(1e-9, lengths[0] * lengths[1]))));
    if (Math.sin(angle) > 1e-4) {
      const length = (1 - share) * lengths[0] + share * lengths[1];
      weights = [Math.sin((1 - share) * angle), Math.sin(share * angle)].map((value, k) => (value / Math.sin(angle)) * length / Math.max(1e-9, lengths[k]));
    }
  }
  for (let i = 0; i < found.length; i += 1) found[i] = weights[0] * one[i] + weights[1] * two[i];
  return found;
}

/** Return the path between two images. */
export function pathPart(here) {
  const { model, backend } = here;
  const ends = [null, null];
  const share = el("input", { type: "range", min: 0, max: 1, step: 0.01, value: 0, disabled: true, "aria-label": "Place on the path", ...gesture(here, () => {
    here.code = between(...ends.map((end) => end.code), Number(share.value), model.unit === "z");
    here.tell({ moved: true, what: "On the path." });
    here.draw();
  }) });
  const strip = el("div", { className: "tiles strip" });

  async function show() {
    share.disabled = !ends.every(Boolean);
    if (share.disabled) return;
    const codes = new Float32Array(PATH_STEPS * model.length);
    for (let i = 0; i < PATH_STEPS; i += 1) codes.set(between(...ends.map((end) => end.code), i / (PATH_STEPS - 1), model.unit === "z"), i * model.length);
    const found = await backend.decode(codes, { labels: here.labels(PATH_STEPS) });
    strip.replaceChildren(...row(found, (i) => `Step ${i + 1} of ${PATH_STEPS}`, (i) => {
      share.value = i / (PATH_STEPS - 1);
      here.go(codes.subarray(i * model.length, (i + 1) * model.length), { what: `Step ${i + 1} of ${PATH_STEPS} of the path` });
    }));
  }

  function slot(k) {
    const shown = el("div", { className: "end-picture" }, el("span", { className: "soft", "aria-hidden": "true" }, k ? "to" : "from"));
    const name = k ? "second" : "first";
    const set = async (end, pictures) => {
      ends[k] = end;
      shown.replaceChildren(...pictures.map((each) => picture(each)));
      await show();
    };
    const take = async () => {
      const code = here.code.slice();
      await set({ code }, [await backend.decode(code, { labels: here.labels() })]);
    };
    const own = el("button", { type: "button", "aria-label": `Take the present image as the ${name} end`, click: () => take().catch(here.fail) }, "Take the present one");
    const area = model.canEncode ? dropArea({ text: `Drop the ${name} image`, chosen: async ([file]) => {
      try {
        const found = await backend.encode(file);
        await set({ code: found.code.slice() }, [found.input, found.output]);
        await here.go(found.code, { what: `${file.name}, encoded and decoded` });
      } catch (error) {
        here.fail(error);
      }
    } }) : "";
    return el("div", { className: "end", role: "group", "aria-label": `The ${name} end of the path` }, shown, el("div", {}, area, own));
  }

  const hint = model.canEncode ? "Drop two images, or take the present one as an end; the path lies between their codes." : "Take the present image as one end, go elsewhere, and take the other end.";
  return part(here, "A path between two images", hint,
    el("div", { className: "ends" }, slot(0), slot(1)), share, strip);
}

/** Return the images nearest to the present one, and variations of it, made when asked for. */
export function likePart(here) {
  const { model, space, backend } = here;
  const nearest = el("div", { className: "tiles" });
  const variations = el("div", { className: "tiles" });
  const nearestTitle = el("h3", { hidden: true }, model.unit === "z" ? "Samples with the nearest z" : "Images of the run with the nearest codes");
  const variationsTitle = el("h3", { hidden: true }, "Variations: a step of half a standard deviation in random directions");
  const amount = 0.5;

  async function find() {
    const near = await backend.nearest(here.code.slice(), LIKE);
    const found = await here.images(near.indices);
    nearestTitle.hidden = variationsTitle.hidden = false;
    nearest.replaceChildren(...near.indices.map((i, k) => {
      const canvas = el("canvas", { role: "img", "aria-label": found[k].name || "image", className: found[k].canvas.width < 48 ? "pixels" : "", width: found[k].canvas.width, height: found[k].canvas.height });
      canvas.getContext("2d").drawImage(found[k].canvas, 0, 0);
      return el("button", { type: "button", className: "tile", "aria-label": [found[k].name || "Sample", here.className(i)].filter(Boolean).join(", "), click: () => here.goTo(i).catch(here.fail) }, canvas);
    }));
    const codes = new Float32Array(LIKE * model.length);
    for (let n = 0; n < LIKE; n += 1) {
      codes.set(here.code, n * model.length);
      for (let k = 0; k < here.directions; k += 1) {
        const normal = Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
        const direction = here.direction(k);
        for (let i = 0; i < model.length; i += 1) codes[n * model.length + i] += amount * normal * space.deviations[k] * direction[i];
      }
    }
    const varied = await backend.decode(codes, { labels: here.labels(LIKE) });
    variations.replaceChildren(...row(varied, (i) => `Variation ${i + 1}`, (i) => {
      here.go(codes.subarray(i * model.length, (i + 1) * model.length), { what: `Variation ${i + 1}` }).then(find).catch(here.fail);
    }));
  }

  return part(here, "More like this", "", el("button", { type: "button", click: () => find().catch(here.fail) }, "Show more like the present image"),
    nearestTitle, nearest, variationsTitle, variations);
}
