// What the page asks its server, and what happens when the network is lost: each call is made again, further and
// further apart, for five minutes. Nothing is counted twice by that: the server drops what it has already (see `raw`).

const PATIENCE_MS = 5 * 60 * 1000;
const PAUSES_MS = [500, 1000, 2000, 3000, 5000];
const CALL_MS = 30 * 1000; // of one try; the long poll takes ten seconds of it

// The server's no, in its own sentence; `body` is what else it said.
export class Refusal extends Error {
  constructor(status, message, body = {}) {
    super(message);
    this.name = "Refusal";
    this.status = status;
    this.body = body;
  }
}

// Nobody answered for PATIENCE_MS.
export class OutOfReach extends Error {
  constructor() {
    super("The computer that measures has not been in reach for five minutes. Look whether it still waits there, " +
      "and whether this device is still in its network; then go on.");
    this.name = "OutOfReach";
  }
}

let lost = 0; // how many calls are being made again
let listener = () => {};

// `onLost(true)` when a first call fails, `onLost(false)` when none is failing any more.
export function watchConnection(onLost) {
  listener = onLost;
}

export const stopped = (signal) => signal?.aborted ?? false;

export function throwIfStopped(signal) {
  if (stopped(signal)) throw new DOMException("stopped", "AbortError");
}

export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    throwIfStopped(signal);
    const done = () => {
      clearTimeout(timer);
      globalThis.removeEventListener("online", done);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const end = () => {
      clearTimeout(timer);
      globalThis.removeEventListener("online", done);
      reject(new DOMException("stopped", "AbortError"));
    };
    const timer = setTimeout(done, ms);
    globalThis.addEventListener("online", done);
    signal?.addEventListener("abort", end, { once: true });
  });
}

// `attempt(signal)` until it comes through. Its signal fires when `signal` does, or when `alive()` was not called for
// CALL_MS. A refusal, and whatever else is not the network's doing, is thrown at once.
export async function patiently(attempt, { signal, patience = PATIENCE_MS } = {}) {
  let failing = null; // for how long, in ms that the page was running: a phone may sleep for hours in between
  try {
    for (let tries = 0; ; tries += 1) {
      throwIfStopped(signal);
      const began = Date.now();
      const mine = new AbortController();
      const end = () => mine.abort();
      let silence;
      const alive = () => {
        clearTimeout(silence);
        silence = setTimeout(end, CALL_MS);
      };
      signal?.addEventListener("abort", end, { once: true });
      alive();
      try {
        return await attempt(mine.signal, alive);
      } catch (error) {
        throwIfStopped(signal);
        if (!networkFailed(error)) throw error;
        if (failing === null && patience > 0) {
          lost += 1;
          if (lost === 1) listener(true);
        }
        failing = (failing ?? 0) + Math.min(Date.now() - began, CALL_MS);
        if (failing >= patience) throw new OutOfReach();
        const wait = PAUSES_MS[Math.min(tries, PAUSES_MS.length - 1)];
        await pause(wait, signal);
        failing += wait;
      } finally {
        clearTimeout(silence);
        signal?.removeEventListener("abort", end);
      }
    }
  } finally {
    if (failing !== null && patience > 0) {
      lost -= 1;
      if (lost === 0) listener(false);
    }
  }
}

// Whether the server can't be reached right now.
export async function outOfReach(signal) {
  try {
    await state(-1, { signal, patience: 0 });
    return false;
  } catch (error) {
    if (error instanceof OutOfReach) return true;
    throw error;
  }
}

function networkFailed(error) {
  if (error instanceof Refusal) return [502, 503, 504].includes(error.status);
  // NotReadableError: what was downloaded was lost again before it could be kept.
  return ["TypeError", "AbortError", "NetworkError", "NotReadableError"].includes(error.name);
}

// The response where the server agrees; its refusal as an error where it doesn't.
export async function agreed(response) {
  if (response.ok) return response;
  let body = {};
  try {
    body = await response.json();
  } catch {
    // not the page's own server, or one that fell over: its status has to do
  }
  const said = typeof body.error === "string" ? body.error : `the server said ${response.status} and nothing else`;
  throw new Refusal(response.status, said, body);
}

function get(url, options) {
  return patiently(async (signal) => (await agreed(await fetch(url, { signal, cache: "no-store" }))).json(), options);
}

function post(url, body, options) {
  const init = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return patiently(async (signal) => (await agreed(await fetch(url, { ...init, signal }))).json(), options);
}

export const claim = (token, facts, options) => post("/api/claim", { token, facts }, options);
export const state = (after, options) => get(`/api/state?after=${after}`, options);
export const stop = (job, options) => post("/api/stop", { job }, options);
export const failed = (job, message, options) => post("/api/failed", { job, message }, options);
export const raw = (job, kind, index, value, options) => post("/api/raw", { job, kind, index, value }, options);

export async function questions(job, from, count, options) {
  return (await get(`/api/questions?job=${encodeURIComponent(job)}&from=${from}&count=${count}`, options)).questions;
}

export function picture(url, options) {
  return patiently(async (signal) => (await agreed(await fetch(url, { signal }))).blob(), options);
}

// How far it is, for the person at the other end. Not worth a second try: the next one says more.
export async function progress(said) {
  try {
    await post("/api/progress", said, { patience: 0 });
  } catch {
    // the calls that matter say what is wrong
  }
}
