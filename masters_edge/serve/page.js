// Everything a server or a person says is set through textContent; nothing here makes HTML of text.
const $ = (id) => document.getElementById(id);
const MOST_BYTES = 23e6; // of a picture: the server reads bodies of 32 MiB, base64 makes 4 of 3 bytes
let model = null, key = "", asking = null;
const picture = new Picture({ problem, refuse: tooLarge }); // of picture.js, which stands before this script

const headers = (more) => (key ? { ...more, Authorization: `Bearer ${key}` } : more);

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

function tooLarge(blob, name) {
  if (blob.size <= MOST_BYTES) return "";
  return `${name} has ${size(blob.size)}; the server reads pictures of up to ${size(MOST_BYTES)}.`;
}

async function refusal(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server said ${response.status} and nothing else`;
  }
}

function size(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

async function load() {
  let response;
  try {
    response = await fetch("v1/models", { headers: headers({}) });
  } catch {
    $("facts").textContent = "The server can't be reached; start it again, then reload this page.";
    return;
  }
  $("key-form").hidden = response.status !== 401;
  if (response.status === 401) {
    $("facts").textContent = key ? "That is not this server's key." : "";
    $("key").focus();
    return;
  }
  if (!response.ok) {
    $("facts").textContent = await refusal(response);
    return;
  }
  model = (await response.json()).data[0];
  const facts = model.masters_edge;
  $("title").textContent = `Ask ${model.id}`;
  document.title = `Ask ${model.id} – masters-edge`;
  $("facts").textContent = `${facts.model_type} as ${facts.target}, ${facts.scheme}, ${size(facts.bytes)}; ` +
    `runs on ${facts.backend}, ${facts.threads} ${facts.threads === 1 ? "thread" : "threads"}`;
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("the picture can't be read any more; choose it again"));
    reader.readAsDataURL(blob);
  });
}

// The events of a stream, one parsed object each.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ") && block !== "data: [DONE]") yield JSON.parse(block.slice(6));
    }
  }
}

function figures(timings, usage) {
  const ms = (value) => (value >= 1000 ? `${(value / 1000).toFixed(2)} s` : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
  $("ttft").textContent = ms(timings.ttft_ms);
  $("rate").textContent = timings.decode_tokens_per_s ? `${timings.decode_tokens_per_s.toFixed(0)} tokens/s` : "one token";
  $("total").textContent = ms(timings.total_ms);
  $("tokens").textContent = `${usage.prompt_tokens} read, ${usage.completion_tokens} said`;
  $("figures").hidden = false;
}

function remember(question, answer) {
  const item = document.createElement("li"), asked = document.createElement("b"), said = document.createElement("span");
  asked.textContent = question;
  said.textContent = answer;
  item.append(asked, said);
  $("list").prepend(item);
  while ($("list").children.length > 20) $("list").lastChild.remove();
  $("past").hidden = false;
}

function busy(on) {
  $("answer").setAttribute("aria-busy", String(on));
  $("ask").setAttribute("aria-disabled", String(on));
  $("stop").hidden = !on;
}

async function ask() {
  if (asking) return;
  problem("");
  const question = $("question").value.trim();
  if (!model) return problem($("key-form").hidden ? "The server does not answer; reload this page." : "Type the key first.");
  if (!picture.blob) return problem("Choose a picture first.");
  if (!question) {
    problem("Type a question first.");
    return $("question").focus();
  }
  const mine = (asking = new AbortController());
  let text = "", timings = null, usage = null;
  $("answer").textContent = "";
  $("figures").hidden = true;
  busy(true);
  try {
    const content = [
      { type: "image_url", image_url: { url: await dataUrl(picture.blob) } },
      { type: "text", text: question },
    ];
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers({ "Content-Type": "application/json" }),
      body: JSON.stringify({
        model: model.id, messages: [{ role: "user", content }], stream: true, stream_options: { include_usage: true },
      }),
      signal: mine.signal,
    });
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      text += event.choices[0]?.delta.content ?? "";
      $("answer").textContent = text;
      timings = event.timings ?? timings;
      usage = event.usage ?? usage;
    }
    if (!timings || !usage) throw new Error("the answer broke off; ask again");
    figures(timings, usage);
    remember(question, text);
  } catch (error) {
    if (error.name !== "AbortError") problem(error.message);
  } finally {
    asking = null;
    busy(false);
  }
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
$("stop").addEventListener("click", () => { asking?.abort(); $("question").focus(); });
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
});
$("key-form").addEventListener("submit", (event) => { event.preventDefault(); key = $("key").value.trim(); load(); });
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) { event.preventDefault(); picture.take(event.clipboardData.files); }
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("frame").classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("frame").classList.remove("over"); });
}
document.addEventListener("drop", (event) => picture.take(event.dataTransfer.files));
load();
