// Requests to the server of this page.

const offline = () => document.getElementById("offline");

/** Say that the server cannot be reached, or that it wants its new address; an empty text hides it. */
export function setOffline(text) {
  const place = offline();
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}

/** Return what the server answers; its errors are thrown as they are to be shown. */
export async function ask(path, body = undefined) {
  let response;
  try {
    response = await fetch(path, body === undefined ? {} : {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
  } catch {
    setOffline("The server of this page does not answer. Trainings go on; the page tries again.");
    throw new Error("the server does not answer");
  }
  const found = await response.json().catch(() => ({}));
  if (response.status === 401) setOffline(found.error);
  else setOffline("");
  if (!response.ok) throw new Error(found.error ?? `the server answers ${response.status}`);
  return found;
}
