// Qwen2.5-VL and Qwen3-VL: a picture of any size as flat patches. As masters_edge/runtime/families/qwen_vl.py;
// positions on three axes are transformers.js's own.

import { BICUBIC, resize } from "../resize.js";
import { UserError, float32, normalise, specialTokens } from "./common.js";

const LONGEST_TO_SHORTEST = 200; // transformers' own bound on a picture's shape

export class QwenVl {
  constructor({ config, preprocessor, tokenizer }) {
    this.settings = preprocessor;
    this.imageTokenId = config.image_token_id;
    this.placeholder = specialTokens(tokenizer).image_token ?? "<|image_pad|>";
  }

  look(picture) {
    const { settings } = this;
    const { patch_size: patch, merge_size: merge, temporal_patch_size: frames } = settings;
    const { do_resize = true, resample = BICUBIC } = settings;
    if (do_resize) {
      const [width, height] = fittingSize(picture, patch * merge, settings.size);
      picture = resize(picture, width, height, resample);
    }
    const { width, height } = picture;
    const pixels = new Float32Array(3 * height * width);
    normalise(picture, settings, pixels);
    const [rows, columns] = [Math.floor(height / patch), Math.floor(width / patch)];
    const values = new Float32Array(rows * columns * 3 * frames * patch * patch);
    let to = 0;
    // Blocks of merge x merge patches, the patches in each, its channels; a still picture is shown for as many frames
    // as a patch is long.
    for (let blockRow = 0; blockRow < rows; blockRow += merge) {
      for (let blockColumn = 0; blockColumn < columns; blockColumn += merge) {
        for (let row = blockRow; row < blockRow + merge; row++) {
          for (let column = blockColumn; column < blockColumn + merge; column++) {
            for (let channel = 0; channel < 3; channel++) {
              for (let frame = 0; frame < frames; frame++) {
                for (let y = 0; y < patch; y++, to += patch) {
                  const from = (channel * height + row * patch + y) * width + column * patch;
                  values.set(pixels.subarray(from, from + patch), to);
                }
              }
            }
          }
        }
      }
    }
    const grid = BigInt64Array.of(1n, BigInt(rows), BigInt(columns));
    const inputs = {
      pixel_values: float32(values, [rows * columns, values.length / (rows * columns)]),
      image_grid_thw: { type: "int64", data: grid, dims: [1, 3] },
    };
    return { inputs, tokens: Math.floor(rows / merge) * Math.floor(columns / merge) };
  }

  imageText({ tokens }) {
    return this.placeholder.repeat(tokens);
  }
}

/** [width, height] in whole blocks of `factor` pixels, near the picture's shape, its area between the two bounds. */
function fittingSize({ width, height }, factor, area) {
  if (Math.max(width, height) / Math.min(width, height) > LONGEST_TO_SHORTEST) {
    throw new UserError(
      `the image is ${width} x ${height} pixels; crop it until no side is over ${LONGEST_TO_SHORTEST} times the other`,
    );
  }
  const fitted = (length) => roundHalfEven(length / factor) * factor;
  const [across, along] = [fitted(width), fitted(height)];
  if (across * along > area.longest_edge) {
    const shrink = Math.sqrt((height * width) / area.longest_edge);
    const less = (length) => Math.max(factor, Math.floor(length / shrink / factor) * factor);
    return [less(width), less(height)];
  }
  if (across * along < area.shortest_edge) {
    const grow = Math.sqrt(area.shortest_edge / (height * width));
    const more = (length) => Math.ceil((length * grow) / factor) * factor;
    return [more(width), more(height)];
  }
  return [across, along];
}

/** As Python's `round`: a half goes to the even neighbour. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
