// One student measured by the protocol of benchmarks/phases.py, in its order: download, choice of the backend, cold
// starts, warm-up, latency one question at a time, picture sizes, without a pause, all other questions.
// In goes the server's job; each result is posted as it is there, and what `job.done` names is not done again.

import * as calls from "./calls.js";
import { Questions } from "./questions.js";
import { Engine, urlsOf } from "./rpc.js";
import * as store from "./store.js";

const STAGES = ["preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "decode_tokens_per_s", "total_ms"];
const CASE_LIMIT_S = 20; // as in phases.py, like the next two
const STRETCH_S = 5;
const STRETCH_ANSWERS = 10;
const CHOICE_QUESTIONS = 5; // each backend answers these after a first one that doesn't count
const GROUP = 50, GROUP_MS = 2000; // answers are sent when so many are there, or so long after the last group
const EXAMPLES = 5, EXAMPLE_BYTES = 4e6;
const PROGRESS_MS = 1000;
const MEMORY_MS = 30000; // browsers answer after their next garbage collection

export class Measuring {
  // `tell({phase, done, total, right, asked})` paints; `hidden()` says the seconds that the page was not visible so
  // far; `webgpu`: whether there is an adapter.
  constructor(job, { tell, hidden, webgpu, signal }) {
    Object.assign(this, { job, tell, hidden, webgpu, signal });
    this.hiddenBefore = hidden();
    this.engine = null;
    this.questions = new Questions(job, signal);
    this.told = 0;
    this.score = {};
    signal.addEventListener("abort", () => this.close(), { once: true });
  }

  // The engine stays open for whoever wants to try the student out; null where all had been measured before.
  async run() {
    try {
      if (this.todo()) await this.measure();
      await this.finish();
      return this.engine;
    } catch (error) {
      this.close();
      calls.throwIfStopped(this.signal); // what an ended worker says is no news then
      throw error;
    }
  }

  async measure() {
    const { job } = this;
    await this.download();
    const backend = await this.backend();
    await this.coldStarts(backend);
    if (!job.done.facts) {
      const { threads, versions } = this.engine.facts;
      await this.raw("facts", 0, { backend: this.engine.facts.backend, threads, versions });
    }
    await this.keepForLater();
    if (!job.done.latency || job.done.cases < job.cases.length || this.sustain()) await this.warmUp();
    if (!job.done.latency) await this.latency();
    await this.cases();
    if (this.sustain()) await this.sustained();
    if (job.scored) await this.accuracy();
  }

  todo() {
    const { done, cold_starts, cases, scored, questions } = this.job;
    return done.cold < cold_starts || !done.facts || !done.latency || done.cases < cases.length || this.sustain() ||
      (scored && done.answers < questions);
  }

  sustain() {
    return this.job.sustain_s > 0 && !this.job.done.sustained;
  }

  say(phase, done, total) {
    this.tell({ phase, done, total, ...this.score });
    const now = Date.now();
    if (phase === this.phase && now - this.told < PROGRESS_MS && done !== total) return;
    this.phase = phase;
    this.told = now;
    if (phase === "memory") return; // a moment of the page alone
    calls.progress({ job: this.job.id, phase, done, total, hidden_s: this.hidden() - this.hiddenBefore });
  }

  raw(kind, index, value) {
    return calls.raw(this.job.id, kind, index, value, { signal: this.signal });
  }

  async download() {
    const { bundle } = this.job;
    this.say("download", 0, bundle.bytes);
    await store.download(bundle, { onBytes: (done, total) => this.say("download", done, total), signal: this.signal });
  }

  fetchRuntime(backend) {
    const { transformers, wasm } = urlsOf(backend);
    return store.fetchRuntime([transformers, ...wasm], this.signal);
  }

  async backend() {
    const { job } = this;
    const backend = job.done.choice?.backend ?? (job.choose ? await this.choose() : job.backend);
    await this.fetchRuntime(backend);
    return backend;
  }

  // Which backend answers faster here, and why in a sentence.
  async choose() {
    const found = {};
    const why = [];
    const backends = this.webgpu ? ["webgpu", "wasm"] : ["wasm"];
    if (backends.length === 1) why.push("this browser has no WebGPU");
    for (const backend of backends.length > 1 ? backends : []) {
      try {
        this.say("choice", backends.indexOf(backend), backends.length);
        found[backend] = await this.trial(backend);
      } catch (error) {
        calls.throwIfStopped(this.signal);
        if (error instanceof calls.Refusal || error instanceof calls.OutOfReach) throw error;
        why.push(`${NAMES[backend]} failed (${clip(error.message, 200)})`);
      }
    }
    const [first, second] = Object.keys(found).sort((a, b) => found[a] - found[b]);
    const backend = first ?? "wasm";
    const reason = second
      ? `${NAMES[first]} answers in ${ms(found[first])} ms here, ${NAMES[second]} in ${ms(found[second])} ms`
      : `${why.join("; ")}: ${NAMES[backend]} is left`;
    await this.raw("choice", 0, { backend, reason });
    return backend;
  }

  // The median of a few answers, in a worker of its own, in ms.
  async trial(backend) {
    await this.fetchRuntime(backend);
    await this.open(backend);
    const taken = [];
    const count = Math.min(CHOICE_QUESTIONS, this.job.questions);
    for (let k = -1; k < count; k += 1) {
      const answer = await this.answer(Math.max(k, 0));
      if (k >= 0) taken.push(answer.total_ms);
    }
    this.close();
    return median(taken);
  }

  async open(backend) {
    await this.start(backend, (done, total) => this.say("compile", done, total));
  }

  // A worker of its own with the student in it, and its first answer where a question is given; the ms from its making
  // on. A worker fetches its scripts: where the network was lost meanwhile, another one is made when it is back.
  start(backend, onCompile, first = null) {
    const { bundle, threads, exactly } = this.job;
    let again = 1; // the network may be back before it is looked for
    return calls.patiently(async () => {
      this.close();
      const began = performance.now();
      this.engine = new Engine({ onCompile });
      try {
        await this.engine.load(bundle, backend, threads);
        if (first) await this.engine.answer(first.picture, first.text, { exactly });
      } catch (error) {
        calls.throwIfStopped(this.signal);
        const scriptless = error.name === "WorkerLost" && !error.begun && again-- > 0;
        if (scriptless || (await calls.outOfReach(this.signal))) throw new TypeError("the network was lost");
        throw error;
      }
      return performance.now() - began;
    }, { signal: this.signal });
  }

  close() {
    this.engine?.close();
    this.engine = null;
  }

  // Each in a worker of its own, from its making to the end of its first answer; the last one stays.
  async coldStarts(backend) {
    const { job } = this;
    const first = await this.questions.get(0);
    let done = job.done.cold;
    do {
      this.say("start", Math.min(done, job.cold_starts - 1), job.cold_starts);
      const onCompile = (n, of) => this.tell({ phase: "compile", done: n, total: of });
      const cold_start_ms = await this.start(backend, onCompile, first);
      calls.throwIfStopped(this.signal);
      if (done < job.cold_starts) await this.raw("cold", done, { cold_start_ms });
      done += 1;
    } while (done < job.cold_starts);
  }

  // `sent`: its text goes to the server, with hashes of picture and inputs where it is to be compared there.
  async answer(number, sent = false) {
    const { text, picture } = await this.questions.get(number);
    calls.throwIfStopped(this.signal);
    const hashes = sent && number < this.job.compared;
    return this.engine.answer(picture, text, { exactly: this.job.exactly, hashes });
  }

  async warmUp() {
    const total = this.job.warm_up;
    this.say("warm-up", 0, total);
    for (let k = 0; k < total; k += 1) {
      await this.answer(k);
      this.say("warm-up", k + 1, total);
    }
  }

  async latency() {
    const { job } = this;
    const stages = Object.fromEntries(STAGES.map((name) => [name, []]));
    const rows = [];
    this.say("latency", 0, job.latency_count);
    await this.questions.ahead(0, job.latency_count);
    const hiddenBefore = this.hidden();
    for (let k = 0; k < job.latency_count; k += 1) {
      const answer = await this.answer(k, job.scored);
      collect(stages, answer);
      rows.push(asRow(answer));
      this.say("latency", k + 1, job.latency_count);
    }
    const hidden_s = this.hidden() - hiddenBefore;
    await this.raw("latency", 0, { stages, page_memory_mib: await this.pageMemoryMib(), hidden_s });
    if (job.scored) await this.send(rows, 0);
  }

  // Of the page and its workers together; null where the browser doesn't tell. It asks every thread, and those of a
  // WASM pool sleep where they can't hear: with more than one there is no answer to wait for.
  async pageMemoryMib() {
    if (!performance.measureUserAgentSpecificMemory || this.engine.facts.threads > 1) return null;
    this.say("memory", 0, 0);
    try {
      const late = calls.pause(MEMORY_MS, this.signal).then(() => null);
      const found = await Promise.race([performance.measureUserAgentSpecificMemory(), late]);
      return found && found.bytes / 2 ** 20;
    } catch {
      calls.throwIfStopped(this.signal);
      return null; // the page is not isolated
    }
  }

  // Rows of answers, the first of which has number `from`; returns how many the server has then.
  async send(rows, from) {
    let said = null;
    for (let k = 0; k < rows.length; k += GROUP) {
      said = await this.raw("answers", from + k, rows.slice(k, k + GROUP));
    }
    if (said?.asked) this.score = { right: said.right, asked: said.asked };
    this.job.done.answers = Math.max(this.job.done.answers, from + rows.length);
  }

  async cases() {
    const { cases, done } = this.job;
    for (let k = done.cases; k < cases.length; k += 1) {
      this.say("cases", k, cases.length);
      await this.raw("case", k, { name: cases[k].name, ...(await this.case(cases[k])) });
    }
    if (done.cases < cases.length) this.say("cases", cases.length, cases.length);
  }

  async case({ image, text, new_tokens, repeats }) {
    const row = { prompt_tokens: null, image_tokens: null, stages: null, skipped: null };
    const picture = await calls.picture(image, { signal: this.signal });
    const { backend } = this.engine.facts;
    try {
      Object.assign(row, await this.engine.promptSize(picture, text));
      const wanted = row.prompt_tokens + new_tokens, { context } = this.engine.facts;
      if (wanted > context) {
        return { ...row, skipped: `prompt and answer take ${wanted} tokens, the student has room for ${context}` };
      }
      return { ...row, stages: await this.repeat(picture, text, new_tokens, repeats) };
    } catch (error) {
      calls.throwIfStopped(this.signal);
      if (error.name === "WorkerLost") await this.open(backend); // a picture too large for this device ends here alone
      return { ...row, skipped: clip(error.message, 500) };
    }
  }

  async repeat(picture, text, exactly, repeats) {
    const stages = Object.fromEntries(STAGES.map((name) => [name, []]));
    const started = performance.now();
    await this.engine.answer(picture, text, { exactly }); // warm-up: the first of a new shape
    for (let k = 0; k < repeats; k += 1) {
      calls.throwIfStopped(this.signal);
      if (k >= 2 && performance.now() - started > CASE_LIMIT_S * 1000) break;
      collect(stages, await this.engine.answer(picture, text, { exactly }));
    }
    return stages;
  }

  // The same few questions round and round; a stretch is whole rounds, so that stretches can be compared.
  async sustained() {
    const { sustain_s: total, latency_count } = this.job;
    const around = Math.min(STRETCH_ANSWERS, latency_count);
    for (let k = 0; k < around; k += 1) await this.questions.get(k);
    const rows = [];
    const started = performance.now();
    const seconds = () => (performance.now() - started) / 1000;
    let now = 0, stretch = 0, taken = [], last = [];
    while (now < total) {
      for (let k = 0; k < around; k += 1) taken.push((await this.answer(k)).total_ms);
      now = seconds();
      this.say("sustained", Math.min(now, total), total);
      const over = now >= total;
      if (over && rows.length && now - stretch < STRETCH_S / 2) { // too short to stand alone: part of the one before
        rows.pop();
        taken = [...last, ...taken];
      }
      if (over || (now - stretch >= STRETCH_S && taken.length >= STRETCH_ANSWERS)) {
        rows.push({ at_s: now, answers: taken.length, total_ms: median(taken) });
        [stretch, last, taken] = [now, taken, []];
      }
    }
    await this.raw("sustained", 0, rows);
  }

  async accuracy() {
    const { job } = this;
    const total = job.questions;
    let rows = [], sent = Date.now();
    this.say("accuracy", job.done.answers, total);
    for (let k = job.done.answers; k < total; k += 1) {
      if (rows.length === 0) await this.questions.ahead(k, GROUP);
      rows.push(asRow(await this.answer(k, true)));
      if (rows.length === GROUP || Date.now() - sent > GROUP_MS || k === total - 1) {
        await this.send(rows, k + 1 - rows.length);
        [rows, sent] = [[], Date.now()];
      }
      this.say("accuracy", k + 1, total);
    }
  }

  async finish() {
    this.say("sending", 0, 1);
    await this.raw("done", 0, { hidden_s: this.hidden() - this.hiddenBefore });
    this.say("sending", 1, 1);
  }

  // For "Try it": what the student is called and runs on, and a few of the questions.
  async keepForLater() {
    const { name, bundle, threads } = this.job;
    const examples = [], pictures = [];
    const seen = new Set();
    for (let k = 0; k < Math.min(this.job.latency_count, 40) && examples.length < EXAMPLES; k += 1) {
      const { text, picture, image } = await this.questions.get(k);
      if (seen.has(image) || picture.size > EXAMPLE_BYTES) continue;
      seen.add(image);
      examples.push({ text });
      pictures.push(picture);
    }
    const { backend } = this.engine.facts;
    await store.remember(bundle.sha256, { name, bundle, threads, backend, examples }, pictures);
  }
}

const NAMES = { wasm: "WASM", webgpu: "WebGPU" };

function collect(stages, answer) {
  for (const name of STAGES) {
    if (answer[name] !== null && answer[name] !== undefined) stages[name].push(answer[name]);
  }
}

function asRow({ text, pixels_hash, inputs_hash }) {
  return pixels_hash === undefined ? { text } : { text, pixels_hash, inputs_hash };
}

function median(values) {
  const ordered = [...values].sort((a, b) => a - b), middle = ordered.length >> 1;
  return ordered.length % 2 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2;
}

const ms = (value) => value.toFixed(value < 10 ? 1 : 0);

const clip = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
