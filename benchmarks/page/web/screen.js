// What stands on the page while students are measured. Everything a server or a person says is set through textContent.

export const $ = (id) => document.getElementById(id);

const QUIET_MS = 5000; // between two quarters read out
const RUNTIMES = { wasm: "ONNX Runtime Web, WASM", webgpu: "ONNX Runtime Web, WebGPU" };

const count = (value) => Math.round(value).toLocaleString("en");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

export function size(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  return bytes >= 1e7 ? `${(bytes / 1e6).toFixed(0)} MB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

export function ms(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

export const rate = (value) => `${value.toFixed(value < 100 ? 1 : 0)} tokens/s`;

export function seconds(value) {
  const whole = Math.max(1, Math.round(value));
  if (whole < 90) return `${whole} s`;
  return whole < 5400 ? `${Math.round(whole / 60)} min` : `${(whole / 3600).toFixed(1)} h`;
}

// Each step's name in the list, and what it is called while it runs.
const STEPS = {
  download: ["Download", ({ done, total }) => `Downloading ${ofBytes(done, total)}`],
  choice: ["Choice", ({ done, total }) => `Trying WebGPU and WASM, ${Math.min(done + 1, total)} of ${total}`],
  compile: ["", ({ done, total }) => `Compiling${total ? `, part ${Math.min(done + 1, total)} of ${total}` : ""}`],
  start: ["Cold starts", ({ done, total }) => `Cold start ${Math.min(done + 1, total)} of ${total}`],
  "warm-up": ["Warm-up", ({ done, total }) => `Warm-up ${done} of ${total}`],
  latency: ["Speed", ({ done, total }) => `Measuring ${count(done)} of ${count(total)}`],
  memory: ["", () => "Reading how much memory is used"],
  cases: ["Picture sizes", ({ done, total }) => `Picture sizes, ${Math.min(done + 1, total)} of ${total}`],
  sustained: ["Without a pause", ({ done, total }) => `Without a pause, ${Math.floor(done)} of ${Math.round(total)} s`],
  accuracy: ["All questions", (at) => `Answering ${count(at.done)} of ${count(at.total)}${scored(at)}`],
  sending: ["Sending", () => "Sending the results"],
};

function ofBytes(done, total) {
  const unit = total >= 1e9 ? 1e9 : 1e6, digits = total >= 1e7 && unit === 1e6 ? 0 : unit === 1e9 ? 2 : 1;
  return `${(done / unit).toFixed(digits)} of ${(total / unit).toFixed(digits)} ${unit === 1e9 ? "GB" : "MB"}`;
}

function scored({ right, asked }) {
  return asked ? ` (${Math.round((100 * right) / asked)}% right)` : "";
}

// The steps that this job goes through, in order.
export function stepsOf(job) {
  const skipped = {
    choice: !job.choose, cases: !job.cases.length, sustained: !(job.sustain_s > 0), accuracy: !job.scored,
  };
  return Object.keys(STEPS).filter((name) => STEPS[name][0] && !skipped[name]);
}

// Text changes only where it is another: what a screen reader follows must not be set again and again.
export function say(id, text) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
  element.hidden = !text;
}

// For those who hear the page: each step's begin, and its quarters where they don't come thick and fast.
let announced = 0;

export function announce(text) {
  if ($("announced").textContent === text) return;
  $("announced").textContent = text;
  announced = performance.now();
}

// A moment without a known end: what happens, and a sentence about it.
export function moment(title, detail = "") {
  $("moment").textContent = title;
  document.title = `${title} – masters-edge`;
  say("detail", detail);
  $("meter").hidden = true;
  $("steps").hidden = true;
  announce(detail ? `${title}. ${detail}` : title);
}

// One student's way through its steps.
export class Course {
  constructor(job) {
    this.names = stepsOf(job);
    this.at = this.place = null;
    this.began = null; // of the step now: time and `done` then
    this.quarter = 0;
    $("steps").replaceChildren(...this.names.map((name) => make("li", { text: STEPS[name][0], data: { step: name } })));
    $("steps").hidden = false;
    $("meter").hidden = false;
  }

  show(at) {
    const { phase, done, total } = at;
    const now = performance.now();
    if (phase !== this.at) this.enter(phase, done, now);
    const share = total ? Math.min(1, done / total) : 0;
    const title = STEPS[phase][1](at);
    $("moment").textContent = title;
    document.title = `${title} – masters-edge`;
    if (total) $("bar").value = 100 * share;
    else $("bar").removeAttribute("value");
    const left = this.left(done, total, now);
    $("left").textContent = total && `${Math.round(100 * share)}%${left ? ` · about ${left} left of this step` : ""}`;
    const quarter = Math.floor(4 * share);
    if (quarter !== this.quarter) {
      this.quarter = quarter;
      if (now - announced > QUIET_MS) announce(title);
    }
  }

  enter(phase, done, now) {
    this.at = phase;
    this.began = { now, done };
    this.quarter = 0;
    const place = this.names.indexOf(phase);
    if (place < 0 || place === this.place) return; // a moment within a step
    this.place = place;
    for (const [k, item] of [...$("steps").children].entries()) {
      item.className = k < place ? "done" : k === place ? "current" : "";
      if (k === place) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
      item.replaceChildren(STEPS[this.names[k]][0]);
      if (k < place) item.append(make("span", { className: "away", text: ", done" }));
    }
    announce(STEPS[phase][1]({ done, total: 0, right: 0, asked: 0 }).replace(/[ ,]*\d.*$/, ""));
  }

  left(done, total, now) {
    const passed = now - this.began.now, gone = done - this.began.done;
    if (passed < 2000 || gone <= 0 || done >= total) return "";
    return seconds(((total - done) * passed) / gone / 1000);
  }
}

export function make(tag, { text, className, data = {}, children = [] } = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
}

// [{name, state}]
export function students(list) {
  $("students").hidden = !list.length;
  $("student-list").replaceChildren(...list.map(({ name, state }) => make("li", {
    children: [make("b", { text: name }), make("span", { className: "muted", text: state })],
  })));
}

export function warnings(list) {
  const items = list.filter(Boolean);
  $("warnings").hidden = !items.length;
  const now = [...$("warnings").children].map((item) => item.textContent);
  if (now.join("\n") === items.join("\n")) return;
  $("warnings").replaceChildren(...items.map((text) => make("li", { text })));
}

export function cards(list) {
  $("results").hidden = !list.length;
  $("cards").replaceChildren(...list.map(card));
}

function card(found) {
  const { stages, accuracy, same } = found;
  const rows = [
    ["first token", stages.ttft_ms && ms(stages.ttft_ms.median)],
    ["speed", stages.decode_tokens_per_s && rate(stages.decode_tokens_per_s.median)],
    ["whole answer", stages.total_ms && ms(stages.total_ms.median)],
    ["cold start", found.cold_start_ms !== null && ms(found.cold_start_ms)],
    ["right answers", accuracy && `${accuracy.per_cent.toFixed(1)}%`,
      accuracy && `of ${plural(accuracy.asked, "question")}; ` +
        `95% interval ${accuracy.low.toFixed(1)} to ${accuracy.high.toFixed(1)}%`],
    ["as in Python", same && `${same.equal} of ${same.asked}`,
      same && `answers equal to the Python runtime's; inputs equal for ${same.inputs_equal}`],
    ["size", size(found.size_bytes)],
    ["runs on", RUNTIMES[found.runtime] ?? found.runtime, plural(found.threads, "thread")],
    ["in the background", found.hidden_s >= 1 && seconds(found.hidden_s),
      "not visible for so long while it was measured: its figures may be too slow"],
  ];
  const list = make("dl", {
    children: rows.filter(([, value]) => value).map(([name, value, more]) => make("div", {
      children: [make("dt", { text: name }), make("dd", {
        children: [make("b", { text: value }), ...(more ? [make("small", { text: more })] : [])],
      })],
    })),
  });
  const notes = make("ul", { className: "notes", children: found.notes.map((text) => make("li", { text })) });
  return make("article", {
    children: [
      make("h3", { text: found.name }),
      make("p", { className: "muted", text: `${found.target}, ${found.scheme}` }),
      list,
      ...(found.notes.length ? [notes] : []),
    ],
  });
}
