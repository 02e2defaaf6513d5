// A picture file to RGB, as masters_edge/common/pictures.py makes it: upright as its EXIF data say, laid on white.
//
// In: a Blob. Out: {width, height, data}, data a Uint8Array of RGB, row by row. The browser decodes, so equality with
// Pillow ends where their decoders do: JPEG pixels may be off by one step in a browser with another decoder than
// libjpeg-turbo, half-transparent pixels by one or two (a canvas keeps them premultiplied), and pictures with more than
// 8 bits a channel or in CMYK are converted by other rules. `pixels_hash` of an answer shows it.

import { UserError } from "./families/common.js";

// Upright is what browsers do unasked, and older ones know no word for it.
const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

/** Throws a UserError for what is no picture. */
export async function decode(blob) {
  if (!("OffscreenCanvas" in globalThis)) {
    throw new UserError("this browser can't read pictures beside the page (no OffscreenCanvas); use a newer one");
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, AS_STORED);
  } catch {
    throw new UserError("the picture can't be read by this browser; give a whole PNG or JPEG");
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, data: onWhite(context.getImageData(0, 0, width, height).data) };
}

/** RGBA to RGB, by the arithmetic of Pillow's `alpha_composite`. */
export function onWhite(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    const alpha = rgba[from + 3];
    for (let channel = 0; channel < 3; channel++) {
      const sum = (rgba[from + channel] * alpha + 255 * (255 - alpha) + 0x80) << 7;
      rgb[to + channel] = alpha === 255 ? rgba[from + channel] : ((sum >> 8) + sum) >> 15;
    }
  }
  return rgb;
}
