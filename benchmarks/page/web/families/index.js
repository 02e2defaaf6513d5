// The families that the browser's runtime knows, by `model_type`: one file each. A new one is one more line here.

import { UserError } from "./common.js";
import { InternVl } from "./internvl.js";
import { QwenVl } from "./qwen_vl.js";
import { SmolVlm } from "./smolvlm.js";

const FAMILIES = { smolvlm: SmolVlm, idefics3: SmolVlm, qwen2_5_vl: QwenVl, qwen3_vl: QwenVl, internvl: InternVl };

/** The family of a bundle's settings; throws a UserError that names those known. */
export function openFamily(settings) {
  // A bundle may bear the name of what transformers.js takes it for; its own comes first.
  const name = settings.config.masters_edge_model_type ?? settings.config.model_type;
  if (!Object.hasOwn(FAMILIES, name)) {
    const known = Object.keys(FAMILIES).join(", ");
    throw new UserError(
      `the browser's runtime does not know ${name}; it knows ${known}; measure it with --device local`,
    );
  }
  return new FAMILIES[name](settings);
}
