// The student's files on this device. `download` brings a bundle here piece by piece and goes on where it was ended;
// `open` reads a file of it, in the page and in its workers. Pieces are kept in the browser's Cache API under the
// bundle's sha256; where there is none (the link is no https) or no room is left, the page keeps them in memory, and a
// worker asks the page for them. The runtime's own files are kept likewise (`fetchRuntime`).

import { agreed, patiently, throwIfStopped } from "./calls.js";

export const PIECE_BYTES = 4 * 1024 * 1024;
const PREFIX = "masters-edge-student-";
const RUNTIME = "masters-edge-runtime";
const ASK_MS = 2000; // that a worker waits for the page's answer
const KEPT = "/kept/"; // keys of the cache are URLs, which nobody ever fetches

export const kept = { inMemory: !("caches" in globalThis), why: null };
if (kept.inMemory) {
  kept.why = "This link is not HTTPS, so the browser keeps nothing: the student stays until this page is closed.";
}

const memory = new Map(); // key -> Blob
const inPage = typeof document !== "undefined";
const between = "BroadcastChannel" in globalThis ? new BroadcastChannel(`${PREFIX}pieces`) : null;
if (between && inPage) {
  between.onmessage = ({ data }) => {
    if (data.want && memory.has(data.want)) between.postMessage({ key: data.want, blob: memory.get(data.want) });
  };
}

// Bring all files of `bundle` ({sha256, url, files: [{path, bytes, sha256}]}) here, each checked against its sha256.
// `onBytes(here, of all)` hears how far it is. Throws where a file is not what the manifest says, twice over.
export async function download(bundle, { onBytes = () => {}, signal, pieceBytes = PIECE_BYTES } = {}) {
  await forget(bundle.sha256);
  const total = bundle.files.reduce((sum, file) => sum + file.bytes, 0);
  let here = 0;
  for (const file of bundle.files) {
    if (await whole(bundle.sha256, file.path, file.sha256)) {
      here += file.bytes;
      onBytes(here, total);
      continue;
    }
    const before = here;
    for (let tries = 1; ; tries += 1) {
      for (let from = 0; from < file.bytes; from += pieceBytes) {
        const bytes = Math.min(pieceBytes, file.bytes - from);
        const key = pieceKey(bundle.sha256, file.path, from);
        if ((await read(bundle.sha256, key))?.size !== bytes) {
          const hear = (arrived) => onBytes(here + arrived, total);
          await keep(bundle.sha256, key, await fetchPiece(bundle, file, from, bytes, signal, hear));
        }
        throwIfStopped(signal);
        here += bytes;
        onBytes(here, total);
      }
      const about = { bytes: file.bytes, pieceBytes, sha256: file.sha256 };
      if (await isAsSaid(await gather(bundle.sha256, file.path, about), file)) {
        await keep(bundle.sha256, wholeKey(bundle.sha256, file.path), new Blob([JSON.stringify(about)]));
        break;
      }
      for (let from = 0; from < file.bytes; from += pieceBytes) {
        await drop(bundle.sha256, pieceKey(bundle.sha256, file.path, from));
      }
      here = before;
      if (tries === 2) {
        throw new Error(`${file.path} arrived damaged twice: its sha256 is not the one in the bundle's manifest. ` +
          "Export the student again.");
      }
    }
  }
}

// A downloaded file. Where this device has not got it, it is fetched.
export async function open(sha256, path) {
  const about = await whole(sha256, path);
  const blob = about && (await gather(sha256, path, about));
  if (!blob) return agreed(await fetch(`/bundle/${sha256}/${inUrl(path)}`));
  const headers = { "Content-Type": "application/octet-stream", "Content-Length": String(blob.size) };
  return new Response(blob, { headers });
}

// What "Try it" wants to know of a student, and a few pictures, beside its files.
export async function remember(sha256, about, pictures = []) {
  for (const [k, picture] of pictures.entries()) await keep(sha256, `${KEPT}${sha256}/picture/${k}`, picture);
  const note = { ...about, pictures: pictures.length };
  await keep(sha256, `${KEPT}${sha256}/about`, new Blob([JSON.stringify(note)]));
}

// What was remembered, its `pictures` as Blobs; null where no student is here.
export async function remembered() {
  const inCache = kept.inMemory ? [] : (await caches.keys()).filter((name) => name.startsWith(PREFIX));
  const inMemory = [...memory.keys()].filter((key) => key.endsWith("/about")).map((key) => key.split("/")[2]);
  for (const sha256 of [...inMemory, ...inCache.map((name) => name.slice(PREFIX.length))]) {
    const about = await read(sha256, `${KEPT}${sha256}/about`);
    if (!about) continue;
    const note = JSON.parse(await about.text());
    const pictures = [];
    for (let k = 0; k < note.pictures; k += 1) pictures.push(await read(sha256, `${KEPT}${sha256}/picture/${k}`));
    return { ...note, pictures };
  }
  return null;
}

// Have the runtime's files here before a start is timed. Browsers keep what comes over plain HTTP by themselves; of a
// server whose certificate they don't know they keep nothing, and each start would fetch 14 MB anew.
export async function fetchRuntime(urls, signal) {
  for (const url of urls) {
    if (await runtimeBinary(url)) continue;
    const blob = await patiently(async (mine) => (await agreed(await fetch(url, { signal: mine }))).blob(), { signal });
    if (location.protocol !== "https:" || kept.inMemory) continue;
    const cache = await caches.open(RUNTIME);
    const lock = url.slice(0, url.lastIndexOf("/") + 1);
    for (const old of await cache.keys()) {
      if (!new URL(old.url).pathname.startsWith(lock)) await cache.delete(old);
    }
    await cache.put(url, new Response(blob)).catch(() => {}); // no room: the network has to do
  }
}

// A file that `fetchRuntime` kept, for onnxruntime's `wasmBinary`; null where the browser keeps it by itself.
export async function runtimeBinary(url) {
  if (!("caches" in globalThis) || !(await caches.has(RUNTIME))) return null;
  const found = await (await caches.open(RUNTIME)).match(url);
  return found ? found.arrayBuffer() : null;
}

// Remove every student from this device, or all but one.
export async function forget(butSha256 = null) {
  for (const key of memory.keys()) {
    if (butSha256 === null || !key.startsWith(`${KEPT}${butSha256}/`)) memory.delete(key);
  }
  if (!("caches" in globalThis)) return;
  for (const name of await caches.keys()) {
    const old = butSha256 === null ? name === RUNTIME || name.startsWith(PREFIX) : name.startsWith(PREFIX);
    if (old && name !== PREFIX + butSha256) await caches.delete(name);
  }
}

const inUrl = (path) => path.split("/").map(encodeURIComponent).join("/");
const pieceKey = (sha256, path, from) => `${KEPT}${sha256}/piece/${inUrl(path)}?from=${from}`;
const wholeKey = (sha256, path) => `${KEPT}${sha256}/whole/${inUrl(path)}`;

// What is known of a file that arrived whole, was checked, and has not changed since; else null.
async function whole(sha256, path, itsSha256 = null) {
  const note = await read(sha256, wholeKey(sha256, path));
  const about = note && JSON.parse(await note.text());
  return about && (itsSha256 === null || about.sha256 === itsSha256) ? about : null;
}

// The pieces as one; null where one is missing.
async function gather(sha256, path, { bytes, pieceBytes }) {
  const pieces = [];
  for (let from = 0; from < bytes; from += pieceBytes) {
    const piece = await read(sha256, pieceKey(sha256, path, from));
    if (!piece) return null;
    pieces.push(piece);
  }
  const blob = new Blob(pieces);
  return blob.size === bytes ? blob : null;
}

async function isAsSaid(blob, file) {
  if (!blob) return false;
  if (!globalThis.crypto?.subtle) return blob.size === file.bytes; // no https: `kept.why` says what that means
  const digest = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("") === file.sha256;
}

function fetchPiece(bundle, file, from, bytes, signal, onBytes) {
  return patiently(async (mine, alive) => {
    const headers = { Range: `bytes=${from}-${from + bytes - 1}` };
    const asked = { headers, signal: mine, cache: "no-store" };
    const response = await agreed(await fetch(bundle.url + inUrl(file.path), asked));
    const parts = [];
    let here = 0;
    const reader = response.body.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      alive();
      parts.push(value);
      here += value.length;
      onBytes(Math.min(here, bytes));
    }
    const blob = new Blob(parts);
    if (response.status === 206 && blob.size === bytes) return blob;
    if (response.status === 200 && blob.size === file.bytes) return blob.slice(from, from + bytes);
    throw new TypeError("the connection was closed before the whole piece was here");
  }, { signal });
}

async function read(sha256, key) {
  if (memory.has(key)) return memory.get(key);
  if ("caches" in globalThis && (await caches.has(PREFIX + sha256))) {
    const found = await (await caches.open(PREFIX + sha256)).match(key);
    if (found) return found.blob();
  }
  return inPage || !between ? null : ask(key);
}

// A worker's question to its page, which may hold the piece in memory.
function ask(key) {
  return new Promise((resolve) => {
    const end = (blob) => {
      clearTimeout(timer);
      between.removeEventListener("message", hear);
      resolve(blob);
    };
    const hear = ({ data }) => data.key === key && end(data.blob);
    const timer = setTimeout(() => end(null), ASK_MS);
    between.addEventListener("message", hear);
    between.postMessage({ want: key });
  });
}

async function keep(sha256, key, blob) {
  if (!kept.inMemory) {
    try {
      await (await caches.open(PREFIX + sha256)).put(key, new Response(blob));
      return;
    } catch (error) {
      kept.inMemory = true;
      kept.why = error.name === "QuotaExceededError"
        ? "This device's storage for pages is full, so the student stays only until this page is closed."
        : `The browser keeps nothing here (${error.message || error.name}), so the student stays only until this ` +
          "page is closed.";
    }
  }
  memory.set(key, blob);
}

async function drop(sha256, key) {
  memory.delete(key);
  if ("caches" in globalThis) await (await caches.open(PREFIX + sha256)).delete(key);
}
