// A map of points: hundreds of thousands are drawn into one typed array, and found by a grid. No backend is known here.

export const COLOURS = ["#3b7dd8", "#e8743b", "#19a979", "#d5425f", "#8d6fd1", "#b0872c", "#2aa5b8", "#d563a8", "#7f8c3a", "#8a5a44"];
const NO_LABEL = 65535;
const CELLS = 160;
const THUMBNAIL_PX = 46;
const MAX_THUMBNAILS = 140;

/** Return the colour of a class. */
export const colourOf = (label) => COLOURS[label % COLOURS.length];

const packed = (colour) => {
  const value = parseInt(colour.slice(1), 16);
  return (255 << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16);
};

/** A scatter plot on two canvases: the points below, and what moves above. */
export class CodeMap {
  /**
   * @param {HTMLElement} frame  Holds the canvases.
   * @param {import("./backend.js").Space} space
   * @param {(indices: number[]) => Promise<HTMLCanvasElement[]>} thumbnails  Returns the images of points.
   */
  constructor(frame, space, thumbnails) {
    this.frame = frame;
    this.space = space;
    this.count = space.coordinates.length / space.deviations.length;
    this.below = document.createElement("canvas");
    this.above = document.createElement("canvas");
    this.below.setAttribute("aria-hidden", "true");
    frame.append(this.below, this.above);
    this.thumbnails = thumbnails;
    this.showsImages = true;
    this.only = null;
    this.trail = [];
    this.marker = null;
    this.settle = 0;
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(frame);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.redraw = () => this.draw();
    this.scheme.addEventListener("change", this.redraw);
  }

  end() {
    this.observer.disconnect();
    this.scheme.removeEventListener("change", this.redraw);
    clearTimeout(this.settle);
  }

  /** Show other axes, and all points. */
  setAxes(x, y) {
    const k = this.space.deviations.length;
    this.axes = [x, y];
    this.x = new Float32Array(this.count);
    this.y = new Float32Array(this.count);
    for (let i = 0; i < this.count; i += 1) {
      this.x[i] = this.space.coordinates[i * k + x];
      this.y[i] = this.space.coordinates[i * k + y];
    }
    this.index();
    this.fit();
  }

  /** Sort the points into the cells of a grid. */
  index() {
    const [x, y] = [this.x, this.y];
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < this.count; i += 1) {
      if (x[i] < left) left = x[i];
      if (x[i] > right) right = x[i];
      if (y[i] < low) low = y[i];
      if (y[i] > high) high = y[i];
    }
    this.bounds = { left, low, width: Math.max(right - left, 1e-9), height: Math.max(high - low, 1e-9) };
    const cell = new Uint32Array(this.count);
    const starts = new Uint32Array(CELLS * CELLS + 1);
    for (let i = 0; i < this.count; i += 1) {
      cell[i] = this.cellAt(y[i], low, this.bounds.height) * CELLS + this.cellAt(x[i], left, this.bounds.width);
      starts[cell[i] + 1] += 1;
    }
    for (let i = 0; i < CELLS * CELLS; i += 1) starts[i + 1] += starts[i];
    const next = starts.slice();
    const order = new Uint32Array(this.count);
    for (let i = 0; i < this.count; i += 1) { order[next[cell[i]]] = i; next[cell[i]] += 1; }
    this.starts = starts;
    this.order = order;
  }

  cellAt(value, start, length) {
    return Math.min(CELLS - 1, Math.max(0, Math.floor(((value - start) / length) * CELLS)));
  }

  /** Show all points but the outermost ones. */
  fit() {
    const sorted = (values) => Float32Array.from({ length: Math.min(4000, this.count) }, (_, i) => values[Math.floor((i * this.count) / Math.min(4000, this.count))]).sort();
    const [x, y] = [sorted(this.x), sorted(this.y)];
    const at = (values, share) => values[Math.min(values.length - 1, Math.floor(share * values.length))];
    const [left, right, low, high] = [at(x, 0.002), at(x, 0.998), at(y, 0.002), at(y, 0.998)];
    this.view = { x: (left + right) / 2, y: (low + high) / 2, width: Math.max(right - left, 1e-9), height: Math.max(high - low, 1e-9) };
    this.resize();
  }

  resize() {
    const { clientWidth, clientHeight } = this.frame;
    if (!clientWidth || !clientHeight || !this.view) return;
    this.ratio = Math.min(2, devicePixelRatio || 1);
    for (const canvas of [this.below, this.above]) {
      canvas.width = Math.round(clientWidth * this.ratio);
      canvas.height = Math.round(clientHeight * this.ratio);
    }
    this.scale = 0.92 * Math.min(this.below.width / this.view.width, this.below.height / this.view.height);
    this.draw();
  }

  /** Enlarge around a point of the canvas, in CSS pixels. */
  zoom(factor, left = this.frame.clientWidth / 2, top = this.frame.clientHeight / 2) {
    const [x, y] = this.toData(left, top);
    this.scale *= factor;
    this.view.width /= factor;
    this.view.height /= factor;
    this.view.x = x - ((left * this.ratio) - this.below.width / 2) / this.scale;
    this.view.y = y + ((top * this.ratio) - this.below.height / 2) / this.scale;
    this.draw();
  }

  pan(right, down) {
    this.view.x -= (right * this.ratio) / this.scale;
    this.view.y += (down * this.ratio) / this.scale;
    this.draw();
  }

  /** Return the data coordinates of a point in CSS pixels. */
  toData(left, top) {
    return [this.view.x + (left * this.ratio - this.below.width / 2) / this.scale, this.view.y - (top * this.ratio - this.below.height / 2) / this.scale];
  }

  /** Return the point in canvas pixels. */
  toCanvas(x, y) {
    return [(x - this.view.x) * this.scale + this.below.width / 2, (this.view.y - y) * this.scale + this.below.height / 2];
  }

  /** Return the nearest point within a distance in CSS pixels; -1 if there is none. */
  near(left, top, within) {
    const [x, y] = this.toData(left, top);
    const reach = (within * this.ratio) / this.scale;
    const { left: start, low, width, height } = this.bounds;
    const columns = [this.cellAt(x - reach, start, width), this.cellAt(x + reach, start, width)];
    const rows = [this.cellAt(y - reach, low, height), this.cellAt(y + reach, low, height)];
    let [best, found] = [reach * reach, -1];
    for (let row = rows[0]; row <= rows[1]; row += 1) {
      for (let k = this.starts[row * CELLS + columns[0]]; k < this.starts[row * CELLS + columns[1] + 1]; k += 1) {
        const i = this.order[k];
        const distance = (this.x[i] - x) ** 2 + (this.y[i] - y) ** 2;
        if (distance < best && this.isShown(i)) { best = distance; found = i; }
      }
    }
    return found;
  }

  isShown(i) {
    return this.only === null || this.space.labels[i] === this.only;
  }

  /** Return the colour of each point, which is kept until the scheme or the chosen class changes. */
  colours() {
    const key = `${this.scheme.matches} ${this.only}`;
    if (this.coloured === key) return this.kept;
    const plain = packed(this.scheme.matches ? "#8fb8dd" : "#4b7ba6");
    const palette = COLOURS.map(packed);
    this.faded = new Uint32Array([packed(this.scheme.matches ? "#31383e" : "#dde2e6")])[0];
    const { labels } = this.space;
    this.kept = Uint32Array.from({ length: this.count }, (_, i) => !this.isShown(i) ? this.faded
      : labels.length && labels[i] !== NO_LABEL ? palette[labels[i] % palette.length] : plain);
    this.coloured = key;
    return this.kept;
  }

  draw() {
    if (!this.scale || !this.x) return;
    const started = performance.now();
    const { width, height } = this.below;
    const context = this.below.getContext("2d");
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const { x: xs, y: ys, scale } = this;
    const colours = this.colours();
    const dot = Math.max(1, Math.round(this.ratio * (this.count > 100000 ? 1 : this.count > 20000 ? 1.5 : this.count > 3000 ? 3 : 4.5)));
    const half = dot / 2;
    const [dx, dy] = [width / 2 - this.view.x * scale - half, height / 2 + this.view.y * scale - half];
    const [right, bottom] = [width - dot, height - dot];
    // Points of other classes are drawn first, so that the chosen one is on top.
    for (const pass of this.only === null ? [1] : [0, 1]) {
      for (let i = 0; i < xs.length; i += 1) {
        const colour = colours[i];
        if (pass === 0 ? colour !== this.faded : this.only !== null && colour === this.faded) continue;
        const left = (xs[i] * scale + dx) | 0;
        const top = (dy - ys[i] * scale) | 0;
        if (left < 0 || top < 0 || left > right || top > bottom) continue;
        let at = top * width + left;
        if (dot === 1) {
          pixels[at] = colour;
          continue;
        }
        for (let row = 0; row < dot; row += 1, at += width) {
          for (let column = 0; column < dot; column += 1) pixels[at + column] = colour;
        }
      }
    }
    context.putImageData(image, 0, 0);
    this.drawn = performance.now() - started;
    this.frame.dataset.drawnMs = this.drawn.toFixed(1);
    this.drawAbove();
    clearTimeout(this.settle);
    if (this.showsImages) this.settle = setTimeout(() => this.placeThumbnails(), 220);
  }

  /** Show the images of points that are spread over the view. */
  async placeThumbnails() {
    const step = THUMBNAIL_PX + 8;
    const chosen = [];
    const centres = [];
    const { clientWidth, clientHeight } = this.frame;
    const gap = Math.max(step, Math.sqrt((clientWidth * clientHeight) / MAX_THUMBNAILS));
    for (let top = gap / 2; top < clientHeight; top += gap) {
      for (let left = gap / 2; left < clientWidth; left += gap) {
        const i = this.near(left, top, gap / 2 - 2);
        if (i < 0) continue;
        const centre = this.toCanvas(this.x[i], this.y[i]).map((value) => value / this.ratio);
        const edge = THUMBNAIL_PX / 2;
        if (centre[0] < edge || centre[1] < edge || centre[0] > clientWidth - edge || centre[1] > clientHeight - edge) continue;
        if (centres.some(([x, y]) => Math.max(Math.abs(x - centre[0]), Math.abs(y - centre[1])) < THUMBNAIL_PX + 5)) continue;
        chosen.push(i);
        centres.push(centre);
      }
    }
    if (!chosen.length) return;
    const [view, scale] = [{ ...this.view }, this.scale];
    let images;
    try {
      images = await this.thumbnails(chosen);
    } catch {
      return; // the map can be read without them
    }
    if (view.x !== this.view.x || view.y !== this.view.y || scale !== this.scale || !this.showsImages) return;
    // Below, so that a drag draws only its trail and the marker.
    const context = this.below.getContext("2d");
    const side = THUMBNAIL_PX * this.ratio;
    const edge = 2 * this.ratio;
    context.imageSmoothingQuality = "high";
    for (const [k, i] of chosen.entries()) {
      const image = images[k];
      const [left, top] = this.toCanvas(this.x[i], this.y[i]).map((value) => Math.round(value - side / 2));
      const label = this.space.labels[i];
      context.imageSmoothingEnabled = image.width >= THUMBNAIL_PX;
      context.fillStyle = label === undefined || label === NO_LABEL ? "#8b98a2" : colourOf(label);
      context.fillRect(left - edge, top - edge, side + 2 * edge, side + 2 * edge);
      context.drawImage(image, left, top, side, side);
    }
    this.frame.dataset.images = String(chosen.length);
  }

  drawAbove() {
    const context = this.above.getContext("2d");
    context.clearRect(0, 0, this.above.width, this.above.height);
    const ink = this.scheme.matches ? "#ffffff" : "#101417";
    const paper = this.scheme.matches ? "#101417" : "#ffffff";
    if (this.trail.length > 1) {
      for (const [colour, thick] of [[paper, 6], [ink, 2.5]]) {
        context.beginPath();
        context.strokeStyle = colour;
        context.lineWidth = thick * this.ratio;
        context.lineJoin = "round";
        for (const [x, y] of this.trail) context.lineTo(...this.toCanvas(x, y));
        context.stroke();
      }
    }
    if (this.marker) {
      const [left, top] = this.toCanvas(...this.marker);
      for (const [colour, radius, thick] of [[paper, 12, 7], [ink, 12, 3]]) {
        context.beginPath();
        context.strokeStyle = colour;
        context.lineWidth = thick * this.ratio;
        context.arc(left, top, radius * this.ratio, 0, 7);
        context.stroke();
      }
    }
  }
}
