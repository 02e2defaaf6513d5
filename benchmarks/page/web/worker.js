// The student's own thread. The page asks {id, call, ...} and gets {id, result} or {id, error: a sentence}; what has no
// id is an event: {event: "compile", done, total}. Calls are answered one after another.
//
//   load({bundle: {sha256, files, url}, backend: "wasm" | "webgpu", threads, urls: {transformers, wasm: [...]}})
//                                           -> {backend, threads, versions, context, image_token_id}
//   answer({picture, question, exactly, hashes}) -> the text, its tokens and what each stage took (see student.js)
//   promptSize({picture, question})         -> {prompt_tokens, image_tokens}
//   memory()                                -> MiB of this page and its workers; null where the browser won't say
//
// A worker holds one student for its whole life: its threads can't be set again.

import { decode } from "./decode.js";
import { UserError } from "./families/common.js";
import { open } from "./store.js";
import { loadStudent } from "./student.js";

let student = null;

const CALLS = {
  async load({ bundle, backend, threads, urls }) {
    if (student !== null) throw new UserError("this worker has a student already; start another one");
    const onCompile = (done, total) => self.postMessage({ event: "compile", done, total });
    const opener = (path) => open(bundle.sha256, path);
    student = await loadStudent({ bundle, backend, threads, urls, onCompile, open: opener });
    const { versions, context, family } = student;
    return { backend, threads: student.threads, versions, context, image_token_id: family.imageTokenId };
  },
  async answer({ picture, question, exactly = null, hashes = false }) {
    return loaded().answer(await decode(picture), question, { exactly, hashes });
  },
  async promptSize({ picture, question }) {
    return loaded().promptSize(await decode(picture), question);
  },
  async memory() {
    try {
      return (await performance.measureUserAgentSpecificMemory()).bytes / 2 ** 20;
    } catch {
      return null; // most browsers don't tell, and none does where the page isn't isolated
    }
  },
};

function loaded() {
  if (student === null) throw new UserError("no student is loaded yet");
  return student;
}

async function reply({ id, call, ...given }) {
  try {
    if (!Object.hasOwn(CALLS, call)) throw new UserError(`the worker has no call ${call}`);
    self.postMessage({ id, result: await CALLS[call](given) });
  } catch (error) {
    const said = error instanceof UserError || ["Refusal", "OutOfReach"].includes(error?.name);
    const message = error?.message ?? String(error);
    self.postMessage({ id, error: said ? message : `the page failed (${message}); load it again` });
  }
}

let before = Promise.resolve();
self.onmessage = ({ data }) => {
  before = before.then(() => reply(data));
};
