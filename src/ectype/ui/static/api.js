// Requests to the server of this page.

const offline = () => document.getElementById("offline");

/** Say that the server cannot be reached, or that it wants its new address; an empty text hides it. */
export function setOffline(text) {
  const place = offline();
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    setOffline("The server of this page does not answer. Trainings go on; the page tries again.");
    throw new Error("the server does not answer");
  }
  if (response.ok) {
    setOffline("");
    return response;
  }
  const found = await response.json().catch(() => ({}));
  setOffline(response.status === 401 ? found.error : "");
  throw new Error(found.error ?? `the server answers ${response.status}`);
}

/** Return what the server answers; its errors are thrown as they are to be shown. */
export async function ask(path, body = undefined) {
  const response = await request(path, body === undefined ? {} : {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  return response.json().catch(() => ({}));
}

/** Send bytes, and return the bytes of the answer. */
export async function askRaw(path, body, signal = undefined) {
  const response = await request(path, { method: "POST", headers: { "content-type": "application/octet-stream" }, body, signal });
  return response.arrayBuffer();
}
