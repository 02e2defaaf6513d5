// A picture file to RGB, as masters_edge/common/pictures.py makes it: upright as its EXIF data say, laid on white.
//
// In: a Blob. Out: {width, height, data}, data a Uint8Array of RGB, row by row. The browser decodes, so equality with
// Pillow ends where their decoders do: JPEG pixels may be off by one step in a browser with another decoder than
// libjpeg-turbo, half-transparent pixels by one or two (a canvas keeps them premultiplied), and pictures with more than
// 8 bits a channel or in CMYK are converted by other rules. `pixels_hash` of an answer shows it. Pictures with values of
// 32 bits a channel, which Pillow's side refuses, are none that browsers read.

import { UserError } from "./families/common.js";

// Upright is what browsers do unasked with JPEG and PNG, and older ones know no word for it. With WebP they differ: there
// the file is handed over as one that says nothing, and turned here.
const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

/** Throws a UserError for what is no picture. */
export async function decode(blob) {
  if (!("OffscreenCanvas" in globalThis)) {
    throw new UserError("this browser can't read pictures beside the page (no OffscreenCanvas); use a newer one");
  }
  const { stored, orientation } = await withoutWebpOrientation(blob);
  let bitmap;
  try {
    bitmap = await createImageBitmap(stored, AS_STORED);
  } catch {
    throw new UserError("the picture can't be read by this browser; give a whole PNG or JPEG");
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return turned({ width, height, data: onWhite(context.getImageData(0, 0, width, height).data) }, orientation);
}

/** A WebP file whose EXIF data ask for nothing, and what they asked for (1 to 8, 1: as stored); others as they are. */
async function withoutWebpOrientation(blob) {
  const head = new Uint8Array(await blob.slice(0, 16).arrayBuffer());
  const said = String.fromCharCode(...head);
  if (!said.startsWith("RIFF") || said.slice(8, 16) !== "WEBPVP8X") return { stored: blob, orientation: 1 };
  const bytes = new DataView(await blob.arrayBuffer());
  const found = webpOrientation(bytes);
  if (!found) return { stored: blob, orientation: 1 };
  bytes.setUint16(found.at, 1, found.little);
  return { stored: new Blob([bytes], { type: blob.type }), orientation: found.orientation };
}

/** Where a WebP file's EXIF data hold the orientation, and what it is; null where they hold none of 2 to 8. */
export function webpOrientation(bytes) {
  const word = (at) => String.fromCharCode(...[0, 1, 2, 3].map((n) => bytes.getUint8(at + n)));
  try {
    for (let at = 12; at + 8 <= bytes.byteLength; ) {
      const length = bytes.getUint32(at + 4, true);
      if (word(at) === "EXIF") {
        const tiff = at + 8 + (word(at + 8) === "Exif" ? 6 : 0);
        const little = word(tiff).startsWith("II");
        const first = tiff + bytes.getUint32(tiff + 4, little);
        for (let entry = 0; entry < bytes.getUint16(first, little); entry++) {
          const place = first + 2 + 12 * entry;
          if (bytes.getUint16(place, little) !== 0x0112) continue;
          const orientation = bytes.getUint16(place + 8, little);
          return orientation >= 2 && orientation <= 8 ? { at: place + 8, little, orientation } : null;
        }
        return null;
      }
      at += 8 + length + (length % 2);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // damaged EXIF data are none
  }
  return null;
}

/** A picture turned as an EXIF orientation of 1 to 8 says, as Pillow's `exif_transpose` does it. */
export function turned({ width, height, data }, orientation) {
  if (orientation === 1) return { width, height, data };
  const across = orientation >= 5;
  const out = { width: across ? height : width, height: across ? width : height, data: new Uint8Array(data.length) };
  const fromRight = [2, 3, 7, 8].includes(orientation);
  const fromBelow = [3, 4, 6, 7].includes(orientation);
  for (let y = 0, to = 0; y < out.height; y++) {
    for (let x = 0; x < out.width; x++, to += 3) {
      const [column, row] = across ? [y, x] : [x, y];
      const from = 3 * ((fromBelow ? height - 1 - row : row) * width + (fromRight ? width - 1 - column : column));
      out.data[to] = data[from];
      out.data[to + 1] = data[from + 1];
      out.data[to + 2] = data[from + 2];
    }
  }
  return out;
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
