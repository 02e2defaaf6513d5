// The worker that runs a student, seen from the page: calls that come back as promises. A worker that dies, or that is
// silent for too long, is an error with a sentence.

const SILENCE_MS = 10 * 60 * 1000; // of a call; compiling a large student on a phone takes minutes
const TICK_MS = 2000;

const assets = () => document.querySelector('meta[name="assets"]').content;

// Where the runtime's files lie: transformers.js, and onnxruntime's build for this backend.
export function urlsOf(backend) {
  const build = backend === "webgpu" ? "ort-wasm-simd-threaded.asyncify" : "ort-wasm-simd-threaded";
  return {
    transformers: `${assets()}transformers.min.js`,
    wasm: [`${assets()}${build}.mjs`, `${assets()}${build}.wasm`],
  };
}

// The worker ended or fell silent: nothing more comes from it. `begun`: whether it had said anything before.
export class WorkerLost extends Error {
  constructor(message, begun) {
    super(message);
    this.name = "WorkerLost";
    this.begun = begun;
  }
}

export class Engine {
  // `onCompile(done, total)` hears of graphs being compiled while `load` runs.
  constructor({ onCompile = () => {} } = {}) {
    this.onCompile = onCompile;
    this.waiting = new Map(); // id -> {resolve, reject, awake: ms that the page was running since the last sign}
    this.next = 1;
    this.facts = null; // what `load` says
    this.begun = false;
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module", name: "student" });
    this.worker.onmessage = ({ data }) => this.hear(data);
    this.worker.onerror = (event) => {
      event.preventDefault?.();
      this.lose(`The student's process ended (${event.message || "its script can't be loaded"}): most often this ` +
        "device has no memory left for it. Close other pages, or measure a smaller student.");
    };
    this.worker.onmessageerror = () => this.lose("The student's process sent something that can't be read.");
    this.ticked = Date.now();
    this.timer = setInterval(() => this.tick(), TICK_MS);
  }

  async load(bundle, backend, threads) {
    const { sha256, files, url } = bundle;
    this.facts = await this.call("load", { bundle: { sha256, files, url }, backend, threads, urls: urlsOf(backend) });
    return this.facts;
  }

  answer(picture, question, { exactly = null, hashes = false } = {}) {
    return this.call("answer", { picture, question, exactly, hashes });
  }

  promptSize(picture, question) {
    return this.call("promptSize", { picture, question });
  }

  call(name, args) {
    return new Promise((resolve, reject) => {
      if (!this.worker) {
        reject(new WorkerLost("The student's process has ended.", this.begun));
        return;
      }
      const id = this.next++;
      this.waiting.set(id, { resolve, reject, awake: 0 });
      this.worker.postMessage({ id, call: name, ...args });
    });
  }

  close() {
    this.lose("The student's process was ended.");
  }

  hear(data) {
    this.begun = true;
    if (data.id === undefined) {
      for (const call of this.waiting.values()) call.awake = 0;
      if (data.event === "compile") this.onCompile(data.done, data.total);
      return;
    }
    const call = this.waiting.get(data.id);
    this.waiting.delete(data.id);
    if (data.error !== undefined) call?.reject(new Error(data.error));
    else call?.resolve(data.result);
  }

  // A page in the background may stand still for hours, and its worker with it: only time that ticks is counted.
  tick() {
    const now = Date.now(), passed = Math.min(now - this.ticked, 2 * TICK_MS);
    this.ticked = now;
    for (const call of this.waiting.values()) {
      call.awake += passed;
      if (call.awake > SILENCE_MS) {
        this.lose("The student's process has said nothing for ten minutes; it hangs, or is too slow to be measured.");
        return;
      }
    }
  }

  lose(sentence) {
    clearInterval(this.timer);
    this.worker?.terminate();
    this.worker = null;
    for (const { reject } of this.waiting.values()) reject(new WorkerLost(sentence, this.begun));
    this.waiting.clear();
  }
}
