// The form that starts a run. The server makes the checks of the command, and its hints are shown as they are.

import { ask } from "./api.js";
import { el } from "./dom.js";

const by = (id) => document.getElementById(id);
let presets = null;

function describe() {
  const chosen = presets?.find((preset) => preset.name === by("preset").value);
  by("summary").textContent = chosen ? `${chosen.summary}.` : "";
}

function fail(text) {
  by("start-error").textContent = text;
  by("start-error").hidden = !text;
}

async function submit(event) {
  event.preventDefault();
  fail("");
  const minutes = by("minutes").value.trim().replace(",", ".");
  if (minutes && !(Number(minutes) > 0)) {
    fail(`minutes: '${minutes}' is not a number above 0.`);
    by("minutes").focus();
    return;
  }
  if (!by("data").value.trim()) {
    fail("images: name a folder, an archive, or 'digits'.");
    by("data").focus();
    return;
  }
  const button = by("start-submit");
  button.disabled = true;
  try {
    const started = await ask("/api/start", {
      preset: by("preset").value,
      data: by("data").value.trim(),
      minutes: minutes ? Number(minutes) : null,
      overrides: by("overrides").value.split("\n").map((line) => line.trim()).filter(Boolean),
    });
    by("start").close();
    by("status").textContent = `${started.name} is started.`;
    location.hash = "#/";
    dispatchEvent(new Event("runs-changed"));
  } catch (error) {
    fail(error.message);
  } finally {
    button.disabled = false;
  }
}

/** Connect the form with its actions, once. */
export function prepareStart() {
  by("start-form").addEventListener("submit", submit);
  by("start-cancel").addEventListener("click", () => by("start").close());
  by("preset").addEventListener("change", describe);
}

/** Open the form, with what was typed before. */
export async function openStart() {
  fail("");
  by("start").showModal();
  if (presets === null) {
    try {
      presets = await ask("/api/presets");
    } catch (error) {
      fail(error.message);
      return;
    }
    const families = [...new Set(presets.map((preset) => preset.family))];
    by("preset").replaceChildren(...families.map((family) =>
      el("optgroup", { label: family }, ...presets.filter((preset) => preset.family === family).map((preset) =>
        el("option", { value: preset.name, selected: preset.name === "vae" }, preset.name)))));
  }
  describe();
  by("data").focus();
}
