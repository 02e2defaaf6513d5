// What the families share: rescaling and normalising as numpy does it in float32, and the tokenizer's special tokens.
//
// A family is made from a bundle's settings {config, preprocessor, processor, tokenizer} (its JSON files) and has
//   placeholder           what the chat template writes where the picture stands
//   imageTokenId          the id repeated for each of the picture's features
//   look(picture)         {inputs: {name: {type, data, dims}}, ...}, bit for bit what the Python runtime makes of it
//   imageText(seen)       what stands in the placeholder's place once expanded
// A picture is {width, height, data}, data a Uint8Array of RGB. It follows masters_edge/runtime/families/.

/** Something a person can do something about, said in one sentence; masters_edge.common.errors.UserError of the page. */
export class UserError extends Error {}

const { fround } = Math;

/** RGB bytes, row by row, to float32 [3, height, width] at `offset` of `target`; its rows are `stride` values apart. */
export function normalise(frame, settings, target, offset = 0, stride = frame.width, plane = frame.height * stride) {
  const { width, height, data } = frame;
  for (let channel = 0; channel < 3; channel++) {
    const values = table(settings, channel);
    for (let y = 0; y < height; y++) {
      let from = y * width * 3 + channel;
      const to = offset + channel * plane + y * stride;
      for (let x = 0; x < width; x++, from += 3) target[to + x] = values[data[from]];
    }
  }
}

/** The float32 that each byte becomes. The order of the roundings is numpy's. */
function table(settings, channel) {
  const { do_rescale = true, do_normalize = true, rescale_factor = 1 / 255 } = settings;
  const mean = fround((settings.image_mean ?? [0.5, 0.5, 0.5])[channel]);
  const std = fround((settings.image_std ?? [0.5, 0.5, 0.5])[channel]);
  return Float32Array.from({ length: 256 }, (_, byte) => {
    const value = fround(do_rescale ? byte * rescale_factor : byte);
    return do_normalize ? fround(fround(value - mean) / std) : value;
  });
}

/** `bos_token`, `image_token` and the like with their text, as templates and placeholders name them. */
export function specialTokens(tokenizer) {
  const found = { ...tokenizer.model_specific_special_tokens };
  for (const [name, token] of Object.entries(tokenizer)) if (name.endsWith("_token")) found[name] = token;
  const texts = Object.entries(found).map(([name, token]) => [name, token?.content ?? token]);
  return Object.fromEntries(texts.filter(([, text]) => typeof text === "string"));
}

export const float32 = (data, dims) => ({ type: "float32", data, dims });
