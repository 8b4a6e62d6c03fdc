// Images as elements of the page.

import { paint } from "./backend.js";
import { el } from "./dom.js";

/** Return a canvas with one of several images; tiny ones are enlarged without smoothing. */
export function picture(pictures, index = 0, label = "") {
  const canvas = el("canvas", { role: "img", "aria-label": label || "image", className: pictures.width < 48 ? "pixels" : "" });
  paint(canvas, pictures, index);
  return canvas;
}
