// Which view is shown: the list of runs, or one run.

import { openStart, prepareStart } from "./start.js";
import { showRuns } from "./runs.js";
import { showRun } from "./run.js";

const main = document.getElementById("main");
let leave = () => {};
let first = true;

function route() {
  const match = location.hash.match(/^#\/run\/(.+)$/);
  if (location.hash === "#main") return; // the link that skips to the content
  leave();
  main.replaceChildren();
  scrollTo(0, 0);
  leave = match ? showRun(main, decodeURIComponent(match[1])) : showRuns(main);
  if (!first) main.focus({ preventScroll: true });
  first = false;
}

prepareStart();
document.getElementById("open-start").addEventListener("click", () => openStart());
addEventListener("hashchange", route);
route();
