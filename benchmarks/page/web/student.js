// A student in the browser: the bundle's graphs run by transformers.js, everything around them by us, so that a picture
// and a question become the same numbers as in the Python runtime.
//
// Greedy decoding, one question at a time. Times are those of masters_edge/runtime/student.py's `Answer`, in
// milliseconds: preprocessing takes the picture and the prompt, `ttft_ms` runs from the question being asked to its
// first token being known, prefill is what of it neither preprocessing nor the vision graph took. Decoding the
// picture's file is not timed.

import { crc32 } from "./crc32.js";
import { UserError } from "./families/common.js";
import { openFamily } from "./families/index.js";
import { Prompt } from "./prompt.js";
import { runtimeBinary } from "./store.js";

// WASM has no kernels for weights of 4 or 8 bits: it would unpack them at every token. Where they stand in a graph as
// DequantizeLinear (`onnx_portable`), they are unpacked once instead, when the graph is loaded. MatMulNBits can't be.
const SESSIONS = { wasm: { extra: { session: { disable_quant_qdq: "1" } } }, webgpu: {} };
const MAX_NEW_TOKENS = 128; // where the student's generation settings don't say
const SETTINGS = ["config", "preprocessor_config", "processor_config", "tokenizer_config", "generation_config"];
// Where a graphics processor works in smaller groups, onnxruntime's attention over a prompt of more than 32 tokens is
// wrong (seen with SwiftShader, whose groups are of 4).
const LEAST_SUBGROUP = 8;
// What a checkpoint's generation settings may ask of transformers.js and the Python runtime doesn't do.
const PLAIN_GREEDY = {
  do_sample: false,
  num_beams: 1,
  repetition_penalty: 1,
  no_repeat_ngram_size: 0,
  bad_words_ids: null,
  min_length: 0,
  min_new_tokens: null,
  forced_bos_token_id: null,
  forced_eos_token_id: null,
  begin_suppress_tokens: null,
  guidance_scale: null,
};

/** Load a bundle. `open(path)` gives a file of it as a Response; `onCompile(done, total)` hears how far it is. */
export async function loadStudent({ bundle, backend, threads, urls, open, onCompile }) {
  const read = async (path) => {
    if (!bundle.files.some((file) => file.path === path)) {
      throw new UserError(`the bundle has no ${path}; export it again`);
    }
    return open(path);
  };
  const texts = await Promise.all(SETTINGS.map(async (name) => (await read(`${name}.json`)).text()));
  const [config, preprocessor, processor, tokenizer, generation] = texts.map((text) => JSON.parse(text));
  const template = await (await read("chat_template.jinja")).text();
  const family = openFamily({ config, preprocessor, processor, tokenizer });
  await needBackend(backend);
  const library = await import(urls.transformers);
  const used = await prepare(library, { backend, threads, urls });

  const graphs = bundle.files.filter((file) => file.path.startsWith("onnx/"));
  let here = 0;
  onCompile?.(here, graphs.length + 1);
  const broken = deferred(); // transformers.js waits for ever for a file of weights that fails
  library.env.fetch = async (url) => {
    const path = String(url).slice(library.env.localModelPath.length).split("/").slice(1).join("/");
    try {
      const weights = path.startsWith("onnx/");
      if (!weights && !bundle.files.some((file) => file.path === path)) return new Response(null, { status: 404 });
      const response = await read(path);
      if (weights) onCompile?.(++here, graphs.length + 1);
      return response;
    } catch (error) {
      broken.reject(error);
      throw error;
    }
  };
  const name = bundle.sha256; // what transformers.js remembers of files is filed under it
  const device = { device: backend, session_options: SESSIONS[backend] };
  const loaded = Promise.all([
    library.AutoTokenizer.from_pretrained(name),
    library.AutoModelForImageTextToText.from_pretrained(name, device),
  ]);
  let words, model;
  try {
    [words, model] = await Promise.race([loaded, broken.promise]);
  } catch (error) {
    throw understood(error, `the browser's runtime can't load this student with ${backend}`);
  }
  onCompile?.(graphs.length + 1, graphs.length + 1);
  const prompt = new Prompt(words, tokenizer, template);
  return new Student({ library, model, family, prompt, config, generation, backend, threads: used });
}

async function needBackend(backend) {
  if (!["wasm", "webgpu"].includes(backend)) {
    throw new UserError(`there is no backend ${backend} in a browser; it has wasm and webgpu`);
  }
  if (backend !== "webgpu") return;
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new UserError("this browser has no WebGPU, or no graphics processor for it; use wasm");
  if ((adapter.info.subgroupMinSize ?? 0) < LEAST_SUBGROUP) withoutSubgroups(Object.getPrototypeOf(adapter));
}

/** Devices asked for from now on have no subgroups; onnxruntime takes its other kernels there. */
function withoutSubgroups(adapters) {
  const { requestDevice } = adapters;
  adapters.requestDevice = function (wanted = {}) {
    const requiredFeatures = [...(wanted.requiredFeatures ?? [])].filter((name) => !name.startsWith("subgroup"));
    return requestDevice.call(this, { ...wanted, requiredFeatures });
  };
}

/** Tell the library where its files are and that there is nothing else in the world; how many threads it will use. */
async function prepare({ env }, { backend, threads, urls }) {
  env.allowRemoteModels = false;
  env.allowLocalModels = true; // through env.fetch alone
  env.useBrowserCache = false; // the page keeps the student's files itself
  env.useWasmCache = false; // it would run onnxruntime from a blob:, which the page's policy forbids
  const { wasm } = env.backends.onnx;
  // The plain build is half as large to load and has all of WASM; only the other one has WebGPU.
  const build = backend === "webgpu" ? "ort-wasm-simd-threaded.asyncify" : "ort-wasm-simd-threaded";
  const find = (file) => new URL(urls.wasm.find((url) => url.endsWith(`/${file}`)), self.location.href).href;
  wasm.wasmPaths = { mjs: find(`${build}.mjs`), wasm: find(`${build}.wasm`) };
  wasm.wasmBinary = (await runtimeBinary(wasm.wasmPaths.wasm)) ?? undefined; // where the browser wouldn't keep it
  const used = self.crossOriginIsolated ? Math.max(1, threads ?? navigator.hardwareConcurrency ?? 1) : 1;
  wasm.numThreads = used;
  return used;
}

class Student {
  constructor({ library, model, family, prompt, config, generation, backend, threads }) {
    this.library = library;
    this.model = model;
    this.family = family;
    this.prompt = prompt;
    this.backend = backend;
    this.threads = threads;
    this.context = config.text_config.max_position_embeddings;
    this.maxNewTokens = generation.max_new_tokens || MAX_NEW_TOKENS;
    const stop = generation.eos_token_id ?? [];
    this.stopIds = Array.isArray(stop) ? stop : [stop];
    this.visionMs = 0;
    const session = model.sessions.vision_encoder;
    const run = session.run.bind(session);
    session.run = async (...given) => {
      const from = performance.now();
      const features = await run(...given);
      this.visionMs += performance.now() - from;
      return features;
    };
  }

  get versions() {
    const { env } = this.library;
    return { "@huggingface/transformers": env.version, "onnxruntime-web": env.backends.onnx.versions.web };
  }

  /** `picture`: {width, height, data} of `decode`. Throws a UserError where the student can't answer. */
  async answer(picture, question, { exactly = null, hashes = false } = {}) {
    const started = performance.now();
    const { seen, ids } = this.ask(picture, question);
    const room = this.context - ids.length;
    if (room < 1) {
      throw new UserError(
        `the prompt has ${ids.length} tokens, the student reads ${this.context}; ask a shorter question`,
      );
    }
    if (exactly !== null && !(exactly >= 1 && exactly <= room)) {
      throw new UserError(`exactly ${exactly} tokens are asked for; the student has room for 1 to ${room}`);
    }
    const seenAt = performance.now();
    const moments = [];
    const tokens = [];
    const streamer = {
      put: ([[token, ...more]]) => {
        if (more.length === 0 && moments.push(performance.now())) tokens.push(Number(token));
      },
      end: () => {},
    };
    this.visionMs = 0;
    await this.generate(seen, ids, {
      ...PLAIN_GREEDY,
      suppress_tokens: [this.family.imageTokenId],
      max_new_tokens: exactly ?? Math.min(this.maxNewTokens, room),
      eos_token_id: exactly === null && this.stopIds.length ? this.stopIds : null,
      streamer,
    });
    const steps = tokens.length - 1;
    const [firstAt, lastAt] = [moments[0], moments.at(-1)];
    const preprocessMs = seenAt - started;
    const ttftMs = firstAt - started;
    const answer = {
      text: this.prompt.decode(tokens),
      token_ids: tokens,
      prompt_tokens: ids.length,
      preprocess_ms: preprocessMs,
      vision_ms: this.visionMs,
      prefill_ms: ttftMs - preprocessMs - this.visionMs,
      ttft_ms: ttftMs,
      decode_tokens_per_s: steps ? (1000 * steps) / (lastAt - firstAt) : null,
      total_ms: lastAt - started,
    };
    if (hashes) {
      answer.pixels_hash = crc32(picture.data);
      answer.inputs_hash = crc32(seen.inputs.pixel_values.data);
    }
    return answer;
  }

  promptSize(picture, question) {
    const { ids } = this.ask(picture, question);
    const image = this.family.imageTokenId;
    return { prompt_tokens: ids.length, image_tokens: ids.filter((id) => id === image).length };
  }

  /** The picture preprocessed and the prompt tokenized. */
  ask(picture, question) {
    const seen = this.family.look(picture);
    return { seen, ids: this.prompt.ids(question, this.family.placeholder, this.family.imageText(seen)) };
  }

  async generate(seen, ids, options) {
    if (this.failed) throw this.failed;
    const { Tensor } = this.library;
    const tensor = ({ type, data, dims }) => new Tensor(type, data, dims);
    const inputs = Object.entries(seen.inputs).map(([name, input]) => [name, tensor(input)]);
    const dims = [1, ids.length];
    try {
      await this.model.generate({
        ...Object.fromEntries(inputs),
        input_ids: new Tensor("int64", BigInt64Array.from(ids, BigInt), dims),
        attention_mask: new Tensor("int64", new BigInt64Array(ids.length).fill(1n), dims),
        ...options,
      });
    } catch (error) {
      // After a failed run, transformers.js fails every later one: it strings them together.
      this.failed = understood(error, `the browser's runtime failed on this student with ${this.backend}`);
      throw this.failed;
    }
  }
}

/** What the runtime said, as a sentence for people. */
function understood(error, what) {
  if (error instanceof UserError || ["Refusal", "OutOfReach"].includes(error?.name)) return error;
  const said = String(error?.message ?? error);
  if (/out of memory|bad_alloc|allocation failed|memory access out of bounds/i.test(said)) {
    return new UserError(`${what}: this device's browser has too little memory for it; take a smaller one, or int4`);
  }
  return new UserError(`${what} (${said.split("\n")[0].slice(0, 300)})`);
}

function deferred() {
  const made = {};
  made.promise = new Promise((_, reject) => (made.reject = reject));
  made.promise.catch(() => {}); // nobody may be waiting any more
  return made;
}
