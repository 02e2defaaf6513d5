// "Try it": a picture from the camera, a file or a question, and the answer of the student that is on this device. No
// server takes part any more.

import { Engine } from "./rpc.js";
import { $, announce, make, ms, rate, say } from "./screen.js";

let about = null; // what store.remembered() says: {name, bundle, threads, backend, examples, pictures}
let engine = null; // null: not loaded yet
let picture = null, pictureUrl = "", camera = null, asking = false;
const urls = []; // of the examples' pictures

// Show the section for this student; `loaded` is its engine where it runs already.
export function openTryout(student, loaded) {
  if (about?.bundle.sha256 !== student.bundle.sha256) engine = null;
  about = student;
  engine = loaded?.worker ? loaded : engine;
  $("tryout-says").textContent = `${student.name} answers here, without the computer.`;
  examples();
  $("tryout").hidden = false;
}

export function closeTryout() {
  closeCamera();
  engine?.close();
  engine = null;
  about = null;
  $("tryout").hidden = true;
}

function examples() {
  while (urls.length) URL.revokeObjectURL(urls.pop());
  const items = about.examples.flatMap(({ text }, k) => {
    const blob = about.pictures[k];
    if (!blob) return [];
    const image = document.createElement("img"), button = make("button");
    urls.push(URL.createObjectURL(blob));
    image.src = urls.at(-1);
    image.alt = "";
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", `Picture ${k + 1}, asked about: ${text}`);
    button.append(image);
    button.addEventListener("click", () => {
      closeCamera();
      show(blob, `picture ${k + 1} of the questions`, button);
      $("question").value = text;
    });
    return [make("li", { children: [button] })];
  });
  $("examples").replaceChildren(...items);
  $("examples").hidden = $("examples-title").hidden = !items.length;
}

function problem(text) {
  say("try-problem", text);
}

function show(blob, name, pressed = null) {
  problem("");
  if (pictureUrl) URL.revokeObjectURL(pictureUrl);
  picture = blob;
  pictureUrl = URL.createObjectURL(blob);
  for (const button of $("examples").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button === pressed));
  }
  const preview = $("preview");
  preview.onload = () => {
    $("picture-facts").textContent = `${name}, ${preview.naturalWidth} × ${preview.naturalHeight}`;
  };
  preview.onerror = () => {
    picture = null;
    preview.hidden = true;
    $("empty").hidden = false;
    $("picture-facts").textContent = "";
    problem(`${name} is no picture that can be read here; choose a PNG, JPEG or WebP.`);
  };
  preview.alt = `The picture to ask about: ${name}`;
  preview.src = pictureUrl;
  preview.hidden = false;
  $("empty").hidden = true;
}

function take(files) {
  const file = [...(files || [])].find((one) => one.type.startsWith("image/"));
  if (file) {
    closeCamera();
    show(file, file.name || "picture");
    $("question").focus({ preventScroll: true });
  } else if (files && files.length) {
    problem("That is no picture; choose a PNG, JPEG or WebP.");
  }
}

async function openCamera() {
  problem("");
  // Browsers give the camera's stream to pages over HTTPS or on this machine alone; elsewhere a phone's camera app
  // helps.
  if (!window.isSecureContext || !navigator.mediaDevices) {
    $("shot").click();
    return;
  }
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    problem(`The camera can't be used (${error.message || error.name}); choose a picture instead.`);
    return;
  }
  $("video").srcObject = camera;
  $("video").hidden = $("take").hidden = $("close-camera").hidden = false;
  $("preview").hidden = $("empty").hidden = $("camera").hidden = $("choose").hidden = true;
  await $("video").play();
  $("take").focus();
}

function closeCamera() {
  if (!camera) return;
  for (const track of camera.getTracks()) track.stop();
  camera = null;
  $("video").srcObject = null;
  $("video").hidden = $("take").hidden = $("close-camera").hidden = true;
  $("camera").hidden = $("choose").hidden = false;
  $("preview").hidden = !picture;
  $("empty").hidden = Boolean(picture);
}

function photograph() {
  const video = $("video"), canvas = document.createElement("canvas");
  if (!video.videoWidth) return;
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    closeCamera();
    show(blob, "photo");
    $("question").focus();
  }, "image/png");
}

function busy(on, what = "") {
  asking = on;
  $("answer").setAttribute("aria-busy", String(on));
  $("ask").setAttribute("aria-disabled", String(on));
  $("ask").textContent = what || "Ask";
}

// The student in its worker, loaded where it isn't yet.
async function loaded() {
  if (!engine?.worker) {
    engine = new Engine();
    announce("Loading the student");
    await engine.load(about.bundle, about.backend, about.threads);
  }
  return engine;
}

async function ask() {
  if (asking || !about) return;
  problem("");
  const question = $("question").value.trim();
  if (!picture) {
    problem("Take or choose a picture first.");
    return;
  }
  if (!question) {
    problem("Type a question first.");
    $("question").focus();
    return;
  }
  $("answer").textContent = "";
  $("figures").hidden = true;
  busy(true, engine?.worker ? "Answering …" : "Loading …");
  try {
    const student = await loaded();
    busy(true, "Answering …");
    showAnswer(await student.answer(picture, question));
  } catch (error) {
    if (about) problem(error.message);
  } finally {
    busy(false);
  }
}

function showAnswer({ text, ttft_ms, decode_tokens_per_s, total_ms, prompt_tokens, token_ids }) {
  $("answer").textContent = text || "(nothing: the student ended its answer at once)";
  $("ttft").textContent = ms(ttft_ms);
  $("rate").textContent = decode_tokens_per_s ? rate(decode_tokens_per_s) : "one token";
  $("total").textContent = ms(total_ms);
  $("tokens").textContent = `${prompt_tokens} read, ${token_ids.length} said`;
  $("figures").hidden = false;
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
$("choose").addEventListener("click", () => $("file").click());
$("camera").addEventListener("click", openCamera);
$("take").addEventListener("click", photograph);
$("close-camera").addEventListener("click", () => { closeCamera(); $("camera").focus(); });
for (const id of ["file", "shot"]) {
  $(id).addEventListener("change", () => { take($(id).files); $(id).value = ""; });
}
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
});
