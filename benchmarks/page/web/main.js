// The page: opens the link, asks the server what there is to do, measures one student after the other, and says at
// every moment what happens. At the end each student has a card, and the one that is still here can be tried.

import * as calls from "./calls.js";
import { facts, inWords } from "./facts.js";
import { Measuring } from "./measure.js";
import { Awake, Hidden, comeTo, leavePlace, tooOften } from "./presence.js";
import * as screen from "./screen.js";
import { $ } from "./screen.js";
import * as store from "./store.js";
import { closeTryout, openTryout } from "./tryout.js";

const IDLE_PATIENCE_MS = 60 * 1000; // without a student at hand nothing is lost when the computer is gone
const SETTLE_MS = 5000; // for a run's last answer to come in when the server says that it is over
const MOST_RESTARTS = 5;

const awake = new Awake();
const hidden = new Hidden(warn);
const states = new Map(); // a student's name -> what became of it, in words
let device = null; // facts()
let run = null; // the student being measured: {job, controller, over: Promise, course, outcome}
let engine = null; // of the student that was measured last, for trying it

async function begin() {
  $("again").hidden = true;
  screen.say("problem", "");
  screen.moment("Opening the link");
  device ??= await facts();
  screen.say("facts", inWords(device));
  warn();
  const token = new URLSearchParams(location.hash.slice(1)).get("t");
  try {
    await calls.claim(token, device);
    history.replaceState(null, "", location.pathname); // the token has done its work
    await follow();
  } catch (error) {
    await brokenOff(error);
  }
}

// What the server wants, until there is nothing more.
async function follow() {
  for (let n = -1; ;) {
    const found = await calls.state(n, { patience: running() ? undefined : IDLE_PATIENCE_MS });
    n = found.n;
    screen.cards(found.cards);
    for (const { name } of found.cards) states.set(name, "measured");
    if (found.phase === "measuring" && found.job.id !== run?.job.id) {
      await halt();
      start(found.job);
    } else if (found.phase !== "measuring") {
      await settled();
      await halt();
    }
    list();
    if (found.phase === "ended") return ended(found.message);
    if (!running() && !stoppedHere()) waiting(found);
  }
}

const running = () => run !== null && run.outcome === null;
const stoppedHere = () => ["stopped", "failed"].includes(run?.outcome);

function start(job) {
  closeTryout();
  engine?.close();
  engine = null;
  run = { job, controller: new AbortController(), course: new screen.Course(job), outcome: null };
  screen.say("problem", "");
  screen.say("detail", `${job.name}, ${screen.size(job.bundle.bytes)}`);
  stopButton(true);
  awake.want(true);
  run.over = measure(run).finally(() => {
    stopButton(false);
    awake.want(false);
    leavePlace();
    list();
  });
  list();
}

async function measure(mine) {
  for (let tries = 1; ; tries += 1) {
    try {
      if (tooOften(comeTo(`${mine.job.id} ${JSON.stringify(mine.job.done)}`))) {
        throw new Error("the browser ended the page three times at the same place: most likely this device has too " +
          "little memory for this student; take a smaller one, or int4");
      }
      engine = await new Measuring(mine.job, {
        tell: (at) => mine.course.show(at),
        hidden: () => hidden.seconds(),
        webgpu: device.webgpu !== null,
        signal: mine.controller.signal,
      }).run();
      mine.outcome = "measured";
      screen.moment("Sent", `${mine.job.name} is measured; the computer looks at its answers.`);
      return;
    } catch (error) {
      if (mine.controller.signal.aborted) {
        mine.outcome ??= "ended";
        return;
      }
      if (error.status === 409 && tries < MOST_RESTARTS && (await refreshed(mine))) continue;
      await failed(mine, error);
      return;
    }
  }
}

// The server has other rows than the page believed: take its word for it. False where the job is over.
async function refreshed(mine) {
  const found = await calls.state(-1).catch(() => ({}));
  if (found.job?.id !== mine.job.id) return false;
  mine.job = found.job;
  return true;
}

async function failed(mine, error) {
  if (error.status === 401 || error.status === 409 || error.name === "OutOfReach") {
    mine.outcome = "ended"; // `follow` hears of it too, and says what it means
    return;
  }
  mine.outcome = "failed";
  states.set(mine.job.name, "not measured");
  screen.moment("Stopped", `${mine.job.name} could not be measured here. What was measured so far is kept.`);
  screen.say("problem", sentence(error));
  await calls.failed(mine.job.id, sentence(error)).catch(() => {});
}

async function stop() {
  if (!running()) return;
  const { job, controller } = run;
  run.outcome = "stopped";
  controller.abort();
  stopButton(false);
  states.set(job.name, "stopped");
  const how = "To go on, run the same command at the computer again.";
  screen.moment("Stopped", `What was measured of ${job.name} is kept. ${how}`);
  await calls.stop(job.id).catch(() => {}); // a job that is over just now can't be stopped any more
}

async function settled() {
  if (running()) await Promise.race([run.over, calls.pause(SETTLE_MS)]);
}

async function halt() {
  if (!running()) return;
  run.controller.abort();
  await run.over;
}

function waiting({ phase, message, cards }) {
  if (phase === "waiting") {
    screen.moment("Waiting for work", message || "The link is open. The computer will give this device a student.");
  } else {
    const compared = cards.some(({ same }) => same !== null);
    screen.moment("Waiting", message || (compared
      ? "The computer may have another student."
      : "The computer compares the answers with those of the Python runtime, and may have another student."));
  }
}

async function ended(message) {
  if (run?.outcome === "stopped" || run?.outcome === "failed") {
    await over($("moment").textContent, $("detail").textContent);
  } else if (run?.outcome === "ended" || (message && states.size === 0)) {
    await over("Stopped", message || "The computer ended the measurement. What was measured so far is kept there.");
  } else {
    await over("Finished", message || "All results are with the computer. This page may be closed.");
  }
}

async function brokenOff(error) {
  await halt();
  if (error.status === 403) return over("Link not known", sentence(error));
  if (error.status === 409) return over("Link already used", sentence(error));
  if (error.status === 401) return over("Link not open", sentence(error));
  await over(error.name === "OutOfReach" ? "Connection lost" : "Stopped", sentence(error));
  $("again").hidden = false;
}

// Nothing more will be measured: say why, and offer the student that is here.
async function over(title, detail) {
  screen.moment(title, detail);
  list();
  const about = await store.remembered().catch(() => null);
  kept(about);
  if (about) openTryout(about, engine);
}

function kept(about) {
  const stays = store.kept.inMemory ? "is here until this page is closed" : "is kept on this device";
  screen.say("kept", about ? `${about.name} (${screen.size(about.bundle.bytes)}) ${stays}.` : "");
  $("remove").hidden = !about;
}

async function remove() {
  closeTryout();
  engine?.close();
  engine = null;
  await store.forget();
  kept(null);
  screen.say("kept", "No student is kept on this device any more.");
  screen.announce($("kept").textContent);
}

function list() {
  const names = new Map(states);
  if (running()) names.set(run.job.name, "being measured");
  screen.students([...names].map(([name, state]) => ({ name, state })));
  warn();
}

function stopButton(on) {
  $("stop").hidden = $("stop-says").hidden = !on;
  if (on) $("remove").hidden = true;
}

function warn() {
  const seconds = hidden.seconds();
  screen.warnings([
    seconds >= 1 && (running() || states.size) &&
      `This page was in the background for ${screen.seconds(seconds)}. Browsers slow such pages down, so the figures ` +
        "may be too slow: keep it in front, with the screen on.",
    device && !device.secure_context &&
      "This link is not HTTPS, so the browser gives the page one thread, no WebGPU and no live camera, checks no " +
        "sha256 of the student's files, and keeps none of them once the page is closed.",
    device && device.secure_context && !device.isolated && "This browser gives the page one thread only.",
    device && device.secure_context && store.kept.why,
  ]);
}

function sentence(error) {
  const text = String(error.message || error).trim();
  return text ? text[0].toUpperCase() + text.slice(1) : "Something went wrong that the browser doesn't name.";
}

$("stop").addEventListener("click", stop);
$("again").addEventListener("click", begin);
$("remove").addEventListener("click", remove);
setInterval(() => document.hidden || (running() && warn()), 5000);
calls.watchConnection((lost) => {
  screen.say("lost", lost ? "Connection lost, trying again. Nothing that was measured is lost." : "");
});
begin();
