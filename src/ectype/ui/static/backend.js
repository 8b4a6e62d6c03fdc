// What the explore view asks a model for. Any object with these methods will do: `server_backend.js` asks the server of
// the local page; a folder without a server can run the same view on ONNX Runtime Web.
//
// A code is what the model decodes: the code of an autoencoder, or the noise z of a GAN or a flow. Codes are passed as
// one Float32Array of count × description.length values. All methods return promises; they reject with an Error whose
// message is one sentence for the user.

/**
 * @typedef {object} Pictures     Images of one size.
 * @property {number} count
 * @property {number} width       In pixels.
 * @property {number} height
 * @property {Uint8ClampedArray} data   RGBA, count × height × width × 4.
 * @property {string[]} [names]   Names of files, if there are any.
 *
 * @typedef {object} Description
 * @property {string} name        Of the run.
 * @property {string} about       Preset and images, for people.
 * @property {number} width       Of an image, in pixels.
 * @property {number} height
 * @property {number} length      Values of a code.
 * @property {string[]} classes   Names of the classes; empty if there are none.
 * @property {boolean} conditional  Whether `decode` and `sample` need a label.
 * @property {boolean} canEncode  Whether `encode` works.
 * @property {boolean} canSample  Whether `sample` works.
 * @property {string[]} densities Names of the densities that `sample` draws codes from; empty if there is no choice.
 * @property {string} density     The one it uses by itself; "" if there is no choice.
 * @property {string} unit        What a code is called: "code" or "z".
 *
 * @typedef {object} Space        The codes of images, and directions through them.
 * @property {Float32Array} mean         [length]
 * @property {Float32Array} directions   [k × length], each of length 1.
 * @property {Float32Array} deviations   [k], standard deviations of the points along the directions.
 * @property {Float32Array} coordinates  [n × k], of the points along the directions, from the mean.
 * @property {Uint16Array} labels        [n], class indices; 65535 for none. Empty if there are no classes.
 * @property {string[]} names            [k], of the directions.
 * @property {{name: string, x: number, y: number}[]} maps  Pairs of directions that make a map.
 * @property {string} note               What the points are, for people.
 *
 * @typedef {object} Backend
 * @property {() => Promise<Description>} describe
 * @property {() => Promise<Space>} space
 * @property {(indices: number[]) => Promise<Float32Array>} codes      Codes of points.
 * @property {(indices: number[]) => Promise<Pictures>} pictures       Images of points.
 * @property {(codes: Float32Array, options?: {labels?: number[]}) => Promise<Pictures>} decode
 * @property {(options: {count: number, seed: number, truncation?: number, label?: number, density?: string}) =>
 *   Promise<{codes: Float32Array, labels: number[], pictures: Pictures}>} sample
 *   Without `label`, a conditional model draws the labels.
 * @property {(file: Blob) => Promise<{code: Float32Array, input: Pictures, output: Pictures}>} encode
 * @property {(code: Float32Array, count: number) => Promise<{indices: number[], distances: number[]}>} nearest
 *   The points whose codes are nearest.
 */

/** Return one image of several as ImageData. */
export function imageData(pictures, index = 0) {
  const size = pictures.width * pictures.height * 4;
  const part = pictures.data.subarray(index * size, (index + 1) * size);
  return new ImageData(new Uint8ClampedArray(part), pictures.width, pictures.height);
}

/** Paint one image into a canvas, at its own size in pixels; CSS enlarges it. */
export function paint(canvas, pictures, index = 0) {
  if (canvas.width !== pictures.width || canvas.height !== pictures.height) {
    canvas.width = pictures.width;
    canvas.height = pictures.height;
  }
  canvas.getContext("2d").putImageData(imageData(pictures, index), 0, 0);
}

/** Return [count, height, width, channels] bytes of gray or RGB images as RGBA. */
export function toRGBA(bytes, count, height, width, channels) {
  const data = new Uint8ClampedArray(count * height * width * 4);
  for (let from = 0, to = 0; to < data.length; from += channels, to += 4) {
    data[to] = bytes[from];
    data[to + 1] = bytes[channels > 2 ? from + 1 : from];
    data[to + 2] = bytes[channels > 2 ? from + 2 : from];
    data[to + 3] = 255;
  }
  return { count, width, height, data };
}
