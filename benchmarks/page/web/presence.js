// Whether the page is in sight, and whether its browser ended it: both spoil a measurement, so both are told.

// Seconds that the page was not visible since it was opened; `onChange` hears of each change.
export class Hidden {
  constructor(onChange) {
    this.before = 0;
    this.since = document.hidden ? Date.now() : null;
    document.addEventListener("visibilitychange", () => {
      this.before = this.seconds();
      this.since = document.hidden ? Date.now() : null;
      onChange();
    });
  }

  seconds() {
    return this.before + (this.since === null ? 0 : (Date.now() - this.since) / 1000);
  }
}

// Keeps the screen on while `wanted` is true, where the browser lets a page do that.
export class Awake {
  constructor() {
    this.wanted = false;
    this.lock = null;
    document.addEventListener("visibilitychange", () => this.hold()); // a hidden page loses it
  }

  async want(wanted) {
    this.wanted = wanted;
    if (wanted) return this.hold();
    await this.lock?.release().catch(() => {});
    this.lock = null;
  }

  async hold() {
    if (!this.wanted || document.hidden || (this.lock && !this.lock.released)) return;
    try {
      this.lock = (await navigator.wakeLock?.request("screen")) ?? null;
    } catch {
      this.lock = null; // a low battery forbids it; the screen then dims as always, and hidden time is counted
    }
  }
}

// A browser without memory left for a student ends the page, and phones open it again by themselves: the same place
// would be reached, and the same end, for ever. So the place stands in localStorage while it is worked on.
const KEY = "masters-edge-place";
const MOST = 3;

// How often in a row the page was ended at this place, this time included: over MOST is too often.
export function comeTo(place) {
  const before = read();
  const times = before?.place === place ? before.times + 1 : 1;
  write({ place, times });
  return times;
}

export const tooOften = (times) => times > MOST;

export function leavePlace() {
  write(null);
}

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEY));
  } catch {
    return null;
  }
}

function write(value) {
  try {
    if (value === null) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, JSON.stringify(value));
  } catch {
    // without storage nothing is known after an end, and a person has to see the loop
  }
}

window.addEventListener("pagehide", leavePlace); // a person's doing: closed, or reloaded
