// InternVL3 and InternVL3.5: a picture cut into square tiles with a thumbnail, as in
// masters_edge/runtime/families/internvl.py. transformers.js takes such a bundle for a LLaVA; that one's own
// preprocessing makes one tile, this one all of them.

import { BICUBIC, crop, resize } from "../resize.js";
import { float32, normalise, specialTokens } from "./common.js";

export class InternVl {
  constructor({ config, preprocessor, processor, tokenizer }) {
    const special = specialTokens(tokenizer);
    this.settings = preprocessor;
    this.imageTokenId = config.image_token_id;
    this.placeholder = special.context_image_token ?? "<IMG_CONTEXT>";
    this.start = special.start_image_token ?? "<img>";
    this.end = special.end_image_token ?? "</img>";
    this.features = processor.image_seq_length;
  }

  look(picture) {
    const { settings } = this;
    const { resample = BICUBIC, min_patches: fewest = 1, max_patches: most = 12 } = settings;
    const { width, height } = settings.size;
    const [columns, rows] = most > 1 ? canvasFor(picture, width, height, fewest, most) : [1, 1];
    const canvas = resize(picture, width * columns, height * rows, resample);
    const tiles = [];
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        tiles.push(crop(canvas, column * width, row * height, width, height));
      }
    }
    if (tiles.length > 1) tiles.push(resize(picture, width, height, resample));
    const values = new Float32Array(tiles.length * 3 * height * width);
    tiles.forEach((tile, index) => normalise(tile, settings, values, index * 3 * height * width));
    return { inputs: { pixel_values: float32(values, [tiles.length, 3, height, width]) }, count: tiles.length };
  }

  imageText({ count }) {
    return `${this.start}${this.placeholder.repeat(this.features * count)}${this.end}`;
  }
}

/** [columns, rows] nearest the picture's shape; among equals the larger, while the picture fills half of it. */
function canvasFor({ width, height }, tileWidth, tileHeight, fewest, most) {
  const canvases = [];
  for (let columns = 1; columns <= most; columns++) {
    for (let rows = 1; rows <= most; rows++) {
      if (fewest <= columns * rows && columns * rows <= most) canvases.push([columns, rows]);
    }
  }
  canvases.sort((one, other) => one[0] * one[1] - other[0] * other[1]);
  let best = [1, 1];
  let nearest = Infinity;
  for (const [columns, rows] of canvases) {
    const distance = Math.abs(width / height - columns / rows);
    const fills = width * height > 0.5 * tileWidth * tileHeight * columns * rows;
    if (distance < nearest || (distance === nearest && fills)) {
      best = [columns, rows];
      nearest = distance;
    }
  }
  return best;
}
