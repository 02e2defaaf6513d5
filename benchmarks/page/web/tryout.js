// "Try it": a picture from the camera, a file or a question, and the answer of the student that is on this device. No
// server takes part any more.

import { Picture } from "./picture.js";
import { Engine } from "./rpc.js";
import { $, announce, make, ms, rate, say } from "./screen.js";

let about = null; // what store.remembered() says: {name, bundle, threads, backend, examples, pictures}
let engine = null; // null: not loaded yet
let asking = false;
const picture = new Picture({ problem, meanwhile: ["camera", "choose"], onShow: () => press(null) });
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
  picture.close();
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
      picture.close();
      picture.show(blob, `picture ${k + 1} of the questions`);
      press(button);
      $("question").value = text;
    });
    return [make("li", { children: [button] })];
  });
  $("examples").replaceChildren(...items);
  $("examples").hidden = $("examples-title").hidden = !items.length;
}

// Which of the questions' pictures stands there, if one does.
function press(pressed) {
  for (const button of $("examples").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button === pressed));
  }
}

function problem(text) {
  say("try-problem", text);
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
  if (!picture.blob) {
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
    showAnswer(await student.answer(picture.blob, question));
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
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
});
