// Which view is shown: the list of runs, one run, its model to explore or to use, or several runs side by side.

import { showCompare } from "./compare.js";
import { el } from "./dom.js";
import { showExplore } from "./explore.js";
import { openStart, prepareStart } from "./start.js";
import { showRuns } from "./runs.js";
import { showRun } from "./run.js";
import { serverBackend } from "./server_backend.js";
import { showUse } from "./use.js";

const main = document.getElementById("main");
let leave = () => {};
let first = true;

const toRun = (key) => el("a", { className: "back", href: `#/run/${encodeURIComponent(key)}` }, `← ${key.startsWith("~") ? "The run" : key}`);

/** Show the view of an address such as #/run/KEY/explore, and return the function that ends it. */
function show(parts) {
  const [kind, keys, view] = parts;
  if (kind === "run" && view === "explore") return showExplore(main, serverBackend(keys), { back: toRun(keys) });
  if (kind === "run" && view === "use") return showUse(main, keys, toRun(keys));
  if (kind === "run") return showRun(main, keys);
  if (kind === "compare") return showCompare(main, keys.split("|"), el("a", { className: "back", href: "#/" }, "← All runs"));
  return showRuns(main);
}

function route() {
  if (location.hash === "#main") return; // the link that skips to the content
  leave();
  main.replaceChildren();
  scrollTo(0, 0);
  leave = show(location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent));
  if (!first) main.focus({ preventScroll: true });
  first = false;
}

// An image that is dropped beside its place must not replace the page.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
prepareStart();
document.getElementById("open-start").addEventListener("click", () => openStart());
addEventListener("hashchange", route);
route();
