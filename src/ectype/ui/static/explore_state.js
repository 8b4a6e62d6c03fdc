// Where one is in the space of codes: the present code and class, and the picture that belongs to them.

const MAX_HISTORY = 50;

/** Return a function that runs another one once before the next frame, however often it is called. */
export function eachFrame(run) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      run();
    });
  };
}

/** The present code. Whoever listens is told of each new picture, of moves, and of what the code is. */
export class Here {
  /**
   * @param {import("./backend.js").Backend} backend
   * @param {import("./backend.js").Description} model
   * @param {import("./backend.js").Space} space
   * @param {(error?: Error) => void} fail
   */
  constructor(backend, model, space, fail) {
    Object.assign(this, { backend, model, space, fail });
    this.code = Float32Array.from(space.mean);
    this.label = model.conditional ? (model.trained_classes?.[0] ?? 0) : null;
    this.history = [];
    this.listeners = [];
    this.busy = false;
    this.wanted = false;
    this.thumbnails = new Map();
  }

  listen(listener) {
    this.listeners.push(listener);
  }

  tell(what) {
    for (const listener of this.listeners) listener(what);
  }

  get directions() {
    return this.space.deviations.length;
  }

  direction(k) {
    const { length } = this.model;
    return this.space.directions.subarray(k * length, (k + 1) * length);
  }

  /** Return where a code is along a direction. */
  along(k, code = this.code) {
    const [direction, { mean }] = [this.direction(k), this.space];
    let sum = 0;
    for (let i = 0; i < direction.length; i += 1) sum += (code[i] - mean[i]) * direction[i];
    return sum;
  }

  /** Remember the present code, to come back to it. */
  mark() {
    this.history.push({ code: this.code.slice(), label: this.label });
    if (this.history.length > MAX_HISTORY) this.history.shift();
  }

  back() {
    const last = this.history.pop();
    if (last) this.go(last.code, { label: last.label, what: "", keep: false });
  }

  /** Go to a code. */
  go(code, { label = this.label, what = "", keep = true } = {}) {
    if (keep) this.mark();
    this.code = Float32Array.from(code);
    this.label = label;
    this.tell({ moved: true, jumped: true, what });
    return this.draw();
  }

  /** Move along directions, by amounts in the units of the codes. Two directions need not be orthogonal. */
  move(amounts) {
    for (const [k, amount] of amounts) {
      const direction = this.direction(k);
      for (let i = 0; i < direction.length; i += 1) this.code[i] += amount * direction[i];
    }
    this.tell({ moved: true, what: "" });
    this.draw();
  }

  /** Move so that the coordinates along two directions are these. */
  place(x, y, toX, toY) {
    const [a, b] = [toX - this.along(x), toY - this.along(y)];
    const [u, v] = [this.direction(x), this.direction(y)];
    let cosine = 0;
    for (let i = 0; i < u.length; i += 1) cosine += u[i] * v[i];
    const scale = 1 - cosine * cosine;
    if (scale < 1e-6) this.move([[x, a]]);
    else this.move([[x, (a - cosine * b) / scale], [y, (b - cosine * a) / scale]]);
  }

  labels(count = 1) {
    return this.label === null ? undefined : Array(count).fill(this.label);
  }

  reset() {
    return this.go(this.space.mean, { what: this.model.unit === "z" ? "The mean of z." : "The mean of all codes." });
  }

  async first() {
    if (this.model.canSample && this.model.unit === "z") {
      const found = await this.backend.sample({ count: 1, seed: 0, ...(this.label === null ? {} : { label: this.label }) });
      await this.go(found.codes, { keep: false });
    } else await this.go((await this.backend.codes([0])).slice(), { keep: false, what: "An image of the run, as the model sees it." });
  }

  /** Decode the present code. One request is under way at a time; when it is done, the newest code is decoded. */
  async draw() {
    this.wanted = true;
    if (this.busy) return;
    this.busy = true;
    try {
      while (this.wanted) {
        this.wanted = false;
        const pictures = await this.backend.decode(this.code.slice(), { labels: this.labels() });
        this.tell({ pictures });
      }
      this.fail();
    } catch (error) {
      this.fail(error);
    } finally {
      this.busy = false;
    }
  }

  /** Return the images of points as canvases, which are kept. */
  async images(indices) {
    const missing = indices.filter((i) => !this.thumbnails.has(i));
    if (missing.length) {
      const found = await this.backend.pictures(missing);
      missing.forEach((i, k) => {
        const canvas = document.createElement("canvas");
        canvas.width = found.width;
        canvas.height = found.height;
        const size = found.width * found.height * 4;
        canvas.getContext("2d").putImageData(new ImageData(found.data.slice(k * size, (k + 1) * size), found.width, found.height), 0, 0);
        this.thumbnails.set(i, { canvas, name: found.names?.[k] ?? "" });
      });
      while (this.thumbnails.size > 3000) this.thumbnails.delete(this.thumbnails.keys().next().value);
    }
    return indices.map((i) => this.thumbnails.get(i));
  }

  className(i) {
    const label = this.space.labels[i];
    return label === undefined || label === 65535 ? "" : this.model.classes[label] ?? "";
  }

  /** Go to a point of the map. */
  async goTo(i) {
    const code = await this.backend.codes([i]);
    const label = this.label === null || this.space.labels[i] === undefined ? this.label : this.space.labels[i];
    await this.go(code, { label, what: ["Point", this.thumbnails.get(i)?.name, this.className(i)].filter(Boolean).join(" · ") });
  }
}
