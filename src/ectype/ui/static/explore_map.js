// The map of the explore view: hovering shows an image, dragging decodes along the way.

import { el, number, setText } from "./dom.js";
import { eachFrame } from "./explore_state.js";
import { CodeMap, colourOf } from "./map.js";

const HOVER_PX = 14;
const MOVED_PX = 4;

/** Return the part, with `start` and `end`. */
export function mapPart(here) {
  const { space, model } = here;
  const frame = el("div", { className: "map" });
  const tip = el("div", { className: "map-tip", hidden: true, "aria-hidden": "true" });
  const tipPicture = el("canvas", { className: model.width < 48 ? "pixels" : "" });
  const tipText = el("span");
  tip.append(tipPicture, tipText);
  const map = new CodeMap(frame, space, async (indices) => (await here.images(indices)).map((found) => found.canvas));
  frame.append(tip);
  const surface = map.above;
  surface.tabIndex = 0;
  surface.setAttribute("role", "application");
  surface.setAttribute("aria-label", `Map of ${number.format(map.count)} points`);
  surface.setAttribute("aria-describedby", "map-keys");
  const axis = (name, place) => {
    const choice = el("select", { "aria-label": `${name} axis`, change: axesChosen }, ...space.names.map((text, k) => el("option", { value: k }, text)));
    return { choice, label: el("label", { className: "axis" }, place, choice) };
  };
  const [across, up] = [axis("Horizontal", "→"), axis("Vertical", "↑")];
  const kind = el("select", { "aria-label": "Map", change: kindChosen }, ...space.maps.map(({ name }, k) => el("option", { value: k }, name)), el("option", { value: -1 }, "Other axes"));
  const images = el("input", { type: "checkbox", checked: true, change: () => { map.showsImages = images.checked; map.draw(); } });
  const legend = el("div", { className: "legend", role: "group", "aria-label": "Classes" });
  if (space.labels.length) {
    model.classes.forEach((name, label) => {
      const mark = el("span", { className: "mark" });
      mark.style.background = colourOf(label);
      const button = el("button", { type: "button", "aria-pressed": "false", click: () => only(label, button) }, mark, name);
      legend.append(button);
    });
  }
  const element = el("section", { className: "explore-map", "aria-label": "Map of codes" },
    el("div", { className: "map-bar" }, kind, el("span", { className: "axes" }, across.label, up.label),
      el("label", { className: "check" }, images, "Images")),
    el("div", { className: "map-frame" }, frame, el("div", { className: "map-zoom" },
      ...[["+", 1.5, "Enlarge"], ["−", 1 / 1.5, "Reduce"]].map(([text, factor, label]) =>
        el("button", { type: "button", "aria-label": label, click: () => map.zoom(factor) }, text)),
      el("button", { type: "button", "aria-label": "Show all points", click: () => map.fit() }, "All"))),
    legend,
    el("p", { className: "hint", id: "map-keys" }, `${space.note}. Point at one to see it; drag to decode along the way; turn the wheel or pinch to enlarge. Keys: arrows move, + and − enlarge, Enter takes the nearest point.`));

  function only(label, button) {
    const on = map.only === label ? null : label;
    map.only = on;
    for (const other of legend.children) other.setAttribute("aria-pressed", String(other === button && on !== null));
    map.draw();
  }

  function axesChosen() {
    const [x, y] = [Number(across.choice.value), Number(up.choice.value)];
    kind.value = String(space.maps.findIndex((each) => each.x === x && each.y === y));
    map.trail = [];
    map.setAxes(x, y);
    follow();
  }

  function kindChosen() {
    const chosen = space.maps[Number(kind.value)];
    if (!chosen) return;
    across.choice.value = String(chosen.x);
    up.choice.value = String(chosen.y);
    axesChosen();
  }

  const drawSoon = eachFrame(() => map.drawAbove());

  function follow() {
    if (map.axes) map.marker = map.axes.map((k) => here.along(k));
    drawSoon();
  }

  // ── Pointers ──
  const pointers = new Map();
  let drag = null;
  let hovered = -1;
  let spread = 0;

  const at = (event) => {
    const box = surface.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  async function hover(left, top) {
    const i = map.near(left, top, HOVER_PX);
    if (i === hovered) return;
    hovered = i;
    tip.hidden = i < 0;
    if (i < 0) return;
    setText(tipText, here.className(i));
    try {
      const [found] = await here.images([i]);
      if (hovered !== i) return;
      tipPicture.width = found.canvas.width;
      tipPicture.height = found.canvas.height;
      tipPicture.getContext("2d").drawImage(found.canvas, 0, 0);
      tip.dataset.point = String(i);
      setText(tipText, [here.className(i), found.name].filter(Boolean).join(" · "));
      const [x, y] = map.toCanvas(map.x[i], map.y[i]).map((value) => value / map.ratio);
      tip.style.left = `${Math.min(Math.max(70, x), frame.clientWidth - 70)}px`;
      tip.style.top = `${y}px`;
      tip.classList.toggle("under", y < 150);
    } catch {
      tip.hidden = true;
    }
  }

  function put(left, top) {
    const [x, y] = map.toData(left, top);
    map.trail.push([x, y]);
    if (map.trail.length > 400) map.trail.shift();
    here.place(...map.axes, x, y);
  }

  surface.addEventListener("pointerdown", async (event) => {
    surface.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    if (pointers.size > 1) { drag = null; spread = 0; return; }
    const [left, top] = at(event);
    tip.hidden = true;
    hovered = -1;
    const started = (drag = { left, top, moved: false, ready: false });
    const i = map.near(left, top, HOVER_PX);
    map.trail = [];
    try {
      if (i >= 0) await here.goTo(i);
      else here.mark();
      started.ready = true;
      if (i < 0 || started.moved) put(...(started.last ?? [left, top]));
    } catch (problem) {
      here.fail(problem);
    }
  });

  surface.addEventListener("pointermove", (event) => {
    const [left, top] = at(event);
    if (pointers.size > 1 && pointers.has(event.pointerId)) {
      const [before, now] = [[...pointers.values()], pointers.set(event.pointerId, [left, top])];
      const [one, two] = [...now.values()];
      const size = Math.hypot(one[0] - two[0], one[1] - two[1]);
      const middle = [(one[0] + two[0]) / 2, (one[1] + two[1]) / 2];
      const old = [(before[0][0] + before[1][0]) / 2, (before[0][1] + before[1][1]) / 2];
      map.pan(middle[0] - old[0], middle[1] - old[1]);
      if (spread) map.zoom(size / spread, ...middle);
      spread = size;
      return;
    }
    if (!drag) { if (event.pointerType === "mouse") hover(left, top); return; }
    if (!drag.moved && Math.hypot(left - drag.left, top - drag.top) < MOVED_PX) return;
    drag.moved = true;
    drag.last = [left, top];
    if (drag.ready) put(left, top);
  });

  for (const name of ["pointerup", "pointercancel"]) {
    surface.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      spread = 0;
      drag = null;
    });
  }
  surface.addEventListener("pointerleave", () => { tip.hidden = true; hovered = -1; });
  surface.addEventListener("wheel", (event) => {
    event.preventDefault();
    map.zoom(Math.exp(-event.deltaY / 400), ...at(event));
  }, { passive: false });
  surface.addEventListener("keydown", (event) => {
    const step = (16 * map.ratio) / map.scale * (event.shiftKey ? 4 : 1);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (event.key in moves) {
      const [x, y] = map.marker;
      map.trail.push([x + moves[event.key][0], y + moves[event.key][1]]);
      here.place(...map.axes, x + moves[event.key][0], y + moves[event.key][1]);
    } else if (event.key === "+" || event.key === "=") map.zoom(1.5);
    else if (event.key === "-") map.zoom(1 / 1.5);
    else if (event.key === "Enter") {
      const [left, top] = map.toCanvas(...map.marker).map((value) => value / map.ratio);
      const i = map.near(left, top, 1e4);
      if (i >= 0) here.goTo(i).catch(here.fail);
    } else return;
    event.preventDefault();
  });

  here.listen(({ moved, jumped }) => {
    if (!moved) return;
    if (jumped && !drag) map.trail = [];
    follow();
  });
  return {
    element,
    start() {
      if (space.maps.length) kindChosen();
      else axesChosen();
    },
    end: () => map.end(),
  };
}
