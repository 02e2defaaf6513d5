// SmolVLM and Idefics3: a picture resized, split into frames with a small copy of the whole as the last one.
// As masters_edge/runtime/families/smolvlm.py, function by function.

import { LANCZOS, crop, resize } from "../resize.js";
import { float32, normalise, specialTokens } from "./common.js";

const LONGEST_SIDE = 4096; // pixels; transformers' own bound on the resized picture

export class SmolVlm {
  constructor({ config, preprocessor, processor, tokenizer }) {
    const special = specialTokens(tokenizer);
    this.settings = preprocessor;
    this.imageTokenId = config.image_token_id;
    this.placeholder = special.image_token ?? "<image>";
    this.features = processor.image_seq_len;
    this.fake = special.fake_image_token ?? "<fake_token_around_image>";
    this.whole = special.global_image_token ?? "<global-img>";
  }

  /** `rows` and `columns` say how the picture was split; both are 0 where it wasn't. */
  look(picture) {
    const { settings } = this;
    const { do_resize = true, do_image_splitting = true, resample = LANCZOS } = settings;
    const side = settings.max_image_size.longest_edge;
    if (do_resize) picture = resize(picture, ...firstSize(picture, settings.size), resample);
    let frames = [];
    let [rows, columns] = [0, 0];
    if (do_image_splitting) {
      picture = resize(picture, ...tiledSize(picture, side), resample);
      [frames, rows, columns] = split(picture, side, resample);
    } else {
      frames = [resize(picture, side, side, resample)];
    }
    const height = Math.max(...frames.map((frame) => frame.height));
    const width = Math.max(...frames.map((frame) => frame.width));
    const values = new Float32Array(frames.length * 3 * height * width);
    const mask = new Uint8Array(frames.length * height * width);
    frames.forEach((frame, index) => {
      normalise(frame, settings, values, index * 3 * height * width, width, height * width);
      for (let y = 0; y < frame.height; y++) {
        const from = (index * height + y) * width;
        mask.fill(1, from, from + frame.width);
      }
    });
    const inputs = {
      pixel_values: float32(values, [1, frames.length, 3, height, width]),
      pixel_attention_mask: { type: "bool", data: mask, dims: [1, frames.length, height, width] },
    };
    return { inputs, rows, columns };
  }

  imageText({ rows, columns }) {
    const frame = this.placeholder.repeat(this.features);
    const whole = `${this.fake}${this.whole}${frame}${this.fake}`;
    if (rows === 0 && columns === 0) return whole;
    let text = "";
    for (let row = 1; row <= rows; row++) {
      for (let column = 1; column <= columns; column++) text += `${this.fake}<row_${row}_col_${column}>${frame}`;
      text += "\n";
    }
    return `${text}\n${whole}`;
  }
}

/** [width, height] after the first resize: longest side as wanted, the other one rounded up to even. */
function firstSize({ width, height }, wanted) {
  const longest = wanted.longest_edge;
  if (!longest) return [wanted.width, wanted.height];
  let ratio = width / height;
  if (width >= height) {
    [width, height] = [longest, Math.trunc(longest / ratio)];
    height += height % 2;
  } else {
    [width, height] = [Math.trunc(longest * ratio), longest];
    width += width % 2;
  }
  [width, height] = [Math.max(width, 1), Math.max(height, 1)];
  ratio = width / height;
  if (width >= height && width > LONGEST_SIDE) {
    [width, height] = [LONGEST_SIDE, Math.trunc(LONGEST_SIDE / ratio)];
  } else if (height > width && height > LONGEST_SIDE) {
    [width, height] = [Math.trunc(LONGEST_SIDE * ratio), LONGEST_SIDE];
  }
  return [Math.max(width, 1), Math.max(height, 1)];
}

/** [width, height] rounded up to whole frames of `side` pixels. */
function tiledSize({ width, height }, side) {
  const whole = (length) => Math.ceil(length / side) * side;
  const ratio = width / height;
  if (width >= height) {
    width = whole(width);
    return [width, whole(Math.trunc(width / ratio))];
  }
  height = whole(height);
  return [whole(Math.trunc(height * ratio)), height];
}

/** Frames of `side` pixels row by row, then the whole picture at that size; or the picture alone if it is small. */
function split(picture, side, resample) {
  if (picture.width <= side && picture.height <= side) return [[picture], 0, 0];
  const rows = Math.floor(picture.height / side);
  const columns = Math.floor(picture.width / side);
  const frames = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) frames.push(crop(picture, column * side, row * side, side, side));
  }
  frames.push(resize(picture, side, side, resample));
  return [frames, rows, columns];
}
