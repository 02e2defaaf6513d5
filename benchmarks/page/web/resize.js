// Resizing as Pillow 13 does it, to the last bit: antialiased, in 22-bit fixed point, one pass across and one down.
//
// In and out: a picture {width, height, data}, data a Uint8Array of RGB, row by row. What it follows: Pillow's
// src/libImaging/Resample.c. A browser's own resizing, and transformers.js's, give other pixels, and a student's answer
// can depend on them.

const PRECISION_BITS = 32 - 8 - 2;

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function hamming(x) {
  x = Math.abs(x);
  if (x === 0) return 1;
  if (x >= 1) return 0;
  x *= Math.PI;
  return (Math.sin(x) / x) * (0.54 + 0.46 * Math.cos(x));
}

// By the number that `resample` has in a bundle's preprocessor_config.json: how far a filter reaches, and its curve.
const FILTERS = {
  1: { support: 3, at: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) }, // Lanczos
  2: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) }, // bilinear
  3: { support: 2, at: bicubic },
  4: { support: 0.5, at: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) }, // box
  5: { support: 1, at: hamming },
};
export const LANCZOS = 1;
export const BICUBIC = 3;

/** The picture at another size; a picture that has it already is given back as it is. Throws for an unknown filter. */
export function resize(picture, width, height, resample) {
  const filter = FILTERS[resample];
  if (!filter) throw new Error(`the page doesn't know how to resize with filter ${resample}`);
  // Bytes lie between the passes, so their order shows. Before Pillow 13, across always came first.
  const less = picture.height - height;
  const downFirst = less > 0 && less > (picture.width - width) * 2;
  for (const pass of downFirst ? [down, across] : [across, down]) picture = pass(picture, width, height, filter);
  return picture;
}

/** The part of a picture that begins at (left, top). */
export function crop(picture, left, top, width, height) {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * picture.width + left) * 3;
    data.set(picture.data.subarray(from, from + width * 3), y * width * 3);
  }
  return { width, height, data };
}

/** For each pixel out: the first pixel in, how many, and their weights (fixed point, `most` places each). */
function weights(sizeIn, sizeOut, filter) {
  const scale = sizeIn / sizeOut;
  const filterScale = Math.max(scale, 1);
  const support = filter.support * filterScale;
  const most = Math.ceil(support) * 2 + 1;
  const step = 1 / filterScale;
  const firsts = new Int32Array(sizeOut);
  const counts = new Int32Array(sizeOut);
  const fixed = new Int32Array(sizeOut * most);
  const exact = new Float64Array(most);
  for (let out = 0; out < sizeOut; out++) {
    const centre = (out + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const count = Math.min(sizeIn, Math.trunc(centre + support + 0.5)) - first;
    let sum = 0;
    for (let i = 0; i < count; i++) {
      exact[i] = filter.at((i + first - centre + 0.5) * step);
      sum += exact[i];
    }
    for (let i = 0; i < count; i++) {
      const weight = (sum === 0 ? exact[i] : exact[i] / sum) * (1 << PRECISION_BITS);
      fixed[out * most + i] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    firsts[out] = first;
    counts[out] = count;
  }
  return { firsts, counts, fixed, most };
}

const HALF = 1 << (PRECISION_BITS - 1);

function across({ width: widthIn, height, data }, width, _, filter) {
  if (width === widthIn) return { width, height, data };
  const { firsts, counts, fixed, most } = weights(widthIn, width, filter);
  const result = new Uint8ClampedArray(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let from = (y * widthIn + firsts[x]) * 3;
      let red = HALF, green = HALF, blue = HALF;
      for (let i = x * most, end = i + counts[x]; i < end; i++, from += 3) {
        const weight = fixed[i];
        red += data[from] * weight;
        green += data[from + 1] * weight;
        blue += data[from + 2] * weight;
      }
      const to = (y * width + x) * 3;
      result[to] = red >> PRECISION_BITS;
      result[to + 1] = green >> PRECISION_BITS;
      result[to + 2] = blue >> PRECISION_BITS;
    }
  }
  return { width, height, data: new Uint8Array(result.buffer) };
}

function down({ width, height: heightIn, data }, _, height, filter) {
  if (height === heightIn) return { width, height, data };
  const { firsts, counts, fixed, most } = weights(heightIn, height, filter);
  const result = new Uint8ClampedArray(width * height * 3);
  const row = width * 3;
  const sums = new Int32Array(row);
  for (let y = 0; y < height; y++) {
    sums.fill(HALF);
    for (let i = 0; i < counts[y]; i++) {
      const weight = fixed[y * most + i];
      const from = (firsts[y] + i) * row;
      for (let x = 0; x < row; x++) sums[x] += data[from + x] * weight;
    }
    for (let x = 0; x < row; x++) result[y * row + x] = sums[x] >> PRECISION_BITS;
  }
  return { width, height, data: new Uint8Array(result.buffer) };
}
