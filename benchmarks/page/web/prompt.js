// From a question to token ids, as masters_edge/runtime/prompt.py: the chat template, the picture's placeholders, the
// tokenizer (transformers.js's own).

import { UserError, specialTokens } from "./families/common.js";

export class Prompt {
  /** `tokenizer`: transformers.js's; `settings`: tokenizer_config.json; `template`: chat_template.jinja. */
  constructor(tokenizer, settings, template) {
    this.tokenizer = tokenizer;
    this.special = specialTokens(settings);
    this.template = template;
  }

  /** Token ids of the whole prompt, with `imageText` in place of the template's `placeholder`. */
  ids(question, placeholder, imageText) {
    if (question.includes(placeholder)) {
      throw new UserError(`the question contains ${placeholder}, which stands for the image; leave it out`);
    }
    const expanded = this.text(question).split(placeholder).join(imageText);
    const bos = this.special.bos_token;
    const startsWithBos = bos !== undefined && expanded.startsWith(bos);
    return this.tokenizer.encode(expanded, { add_special_tokens: !startsWithBos });
  }

  /** The chat template's text for one image and one question, the image still a single placeholder. */
  text(question) {
    const content = [{ type: "image" }, { type: "text", text: question }];
    const options = { ...this.special, chat_template: this.template, add_generation_prompt: true, tokenize: false };
    try {
      return this.tokenizer.apply_chat_template([{ role: "user", content }], options);
    } catch (error) {
      throw new UserError(`the bundle's chat template refuses the question (${error.message})`);
    }
  }

  /** What the ids say, without blanks at either end. */
  decode(ids) {
    const options = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
    return this.tokenizer.decode(ids, options).trim();
  }
}
