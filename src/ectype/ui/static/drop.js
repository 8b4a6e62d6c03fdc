// A place where images are dropped, or chosen in the dialog of the browser.

import { el } from "./dom.js";

const TYPES = "image/*,.tif,.tiff,.ppm,.pgm,.pbm,.bmp,.jp2,.avif";
const MAX_LISTED = 2000;

/** Return all files of dropped items, also of folders; each has the property `place`, its path. */
async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const found = [];
  async function walk(entry, place) {
    if (found.length >= MAX_LISTED) return;
    if (entry.isFile) {
      const file = await new Promise((done, fail) => entry.file(done, fail));
      file.place = place + entry.name;
      found.push(file);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, fail) => reader.readEntries(done, fail));
      if (!some.length) return;
      for (const inner of some) await walk(inner, `${place}${entry.name}/`);
    }
  }
  for (const entry of entries) await walk(entry, "");
  return found;
}

/**
 * Return an area for dropping images, with a button for each way to choose them.
 * @param {{text: string, several?: boolean, folders?: boolean, chosen: (files: File[]) => void}} options
 */
export function dropArea({ text, several = false, folders = false, chosen }) {
  const take = (files) => { if (files.length) chosen(several ? files : files.slice(0, 1)); };
  const chooser = (attributes, words) => {
    const input = el("input", { type: "file", className: "hidden", tabindex: -1, "aria-hidden": "true", ...attributes, change: () => { take([...input.files]); input.value = ""; } });
    return [input, el("button", { type: "button", click: () => input.click() }, words)];
  };
  const area = el("div", { className: "drop", role: "group", "aria-label": text }, el("p", {}, text), el("p", { className: "buttons" },
    ...chooser({ accept: TYPES, multiple: several }, several ? "Choose images" : "Choose an image"),
    ...(folders ? chooser({ webkitdirectory: true }, "Choose a folder") : [])));
  acceptDrops(area, take);
  return area;
}

/** Let images be dropped on an element. */
export function acceptDrops(place, take) {
  const over = (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    place.classList.add("over");
  };
  place.addEventListener("dragenter", over);
  place.addEventListener("dragover", over);
  place.addEventListener("dragleave", (event) => { if (!place.contains(event.relatedTarget)) place.classList.remove("over"); });
  place.addEventListener("drop", async (event) => {
    event.preventDefault();
    place.classList.remove("over");
    take(await filesOf(event.dataTransfer));
  });
}
