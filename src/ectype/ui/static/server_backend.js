// The explore view's backend that asks the server of this page; the model runs in a process of the server.

import { askRaw } from "./api.js";
import { toRGBA } from "./backend.js";
import { pack, unpack } from "./frames.js";

/** Return n images of a reply. */
function pictures(bytes, names) {
  const [count, height, width, channels] = bytes.shape;
  return { ...toRGBA(bytes, count, height, width, channels), names };
}

/** Return the backend of a run; see `backend.js`. */
export function serverBackend(key) {
  async function ask(operation, head = {}, arrays = {}) {
    const body = await askRaw(`/api/raw/explore/${encodeURIComponent(key)}/${operation}`, pack(head, arrays));
    return unpack(body);
  }
  return {
    async describe() {
      return (await ask("describe")).head;
    },
    async space() {
      const { head, arrays } = await ask("space");
      return { ...head, ...arrays };
    },
    async codes(indices) {
      return (await ask("codes", { indices })).arrays.codes;
    },
    async pictures(indices) {
      const { head, arrays } = await ask("pictures", { indices });
      return pictures(arrays.images, head.names);
    },
    async decode(codes, { labels } = {}) {
      return pictures((await ask("decode", { labels: labels ?? null }, { codes })).arrays.images);
    },
    async sample(options) {
      const { head, arrays } = await ask("sample", options);
      return { codes: arrays.codes, labels: head.labels, pictures: pictures(arrays.images) };
    },
    async encode(file) {
      const { arrays } = await ask("encode", {}, { file: new Uint8Array(await file.arrayBuffer()) });
      return { code: arrays.codes, input: pictures(arrays.input), output: pictures(arrays.output) };
    },
    async nearest(code, count) {
      const { head } = await ask("nearest", { count }, { codes: code });
      return { indices: head.indices, distances: head.distances };
    },
    /** Held-out images by name with the model's outputs; only the server has them. */
    async examples(names, count) {
      const { head, arrays } = await ask("examples", { names, count });
      return { names: head.names, input: pictures(arrays.input), output: pictures(arrays.output), what: head.what };
    },
  };
}
