// What the page does beyond its static pictures: another axis, filters, tooltips, arrow keys, sorted tables.
// Figures come from the page's JSON block and only ever become text.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const entries = new Map(data.entries.map((entry) => [entry.id, entry]));
  const SVG = "http://www.w3.org/2000/svg";
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

  // --- axis ---
  const axis = document.getElementById("axis");
  const showAxis = () => {
    for (const picture of all("[data-axis]")) picture.hidden = picture.dataset.axis !== axis.value;
    hideTip();
  };

  // --- filters ---
  const controls = document.getElementById("controls");
  const status = document.getElementById("status");
  const shown = (id) => {
    const entry = entries.get(id);
    return entry !== undefined && ["device", "runtime", "scheme"].every((kind) => !off[kind].has(entry[kind]));
  };
  let off = { device: new Set(), runtime: new Set(), scheme: new Set() };
  const filter = () => {
    off = { device: new Set(), runtime: new Set(), scheme: new Set() };
    for (const box of all("input[data-kind]", controls)) if (!box.checked) off[box.dataset.kind].add(box.value);
    for (const item of all("[data-id]")) item.classList.toggle("off", !shown(item.dataset.id));
    for (const panel of all("[data-device]")) panel.classList.toggle("off", off.device.has(panel.dataset.device));
    for (const picture of all("svg.tradeoff")) drawFront(picture);
    const count = data.entries.filter((entry) => shown(entry.id)).length;
    status.textContent = `${count} of ${data.entries.length} measurements shown`;
    hideTip();
  };

  // The Pareto front of the marks that are left, as a staircase in the picture's own pixels.
  const drawFront = (picture) => {
    const down = picture.dataset.better === "down";
    const marks = all(".mark:not(.off)", picture)
      .map((mark) => [Number(mark.dataset.x), Number(mark.dataset.y) * (down ? -1 : 1)])
      .sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    const steps = [];
    let best = Infinity;
    for (const [x, y] of marks) {
      if (y >= best) continue;
      if (steps.length) steps.push([x, best]);
      steps.push([x, y]);
      best = y;
    }
    let front = picture.querySelector("path.front");
    if (!front) {
      front = document.createElementNS(SVG, "path");
      for (const [key, value] of Object.entries({
        class: "front s-muted", fill: "none", "stroke-width": "1.4", "stroke-dasharray": "6 4",
      })) front.setAttribute(key, value);
      picture.prepend(front);
    }
    front.setAttribute("d", steps.length > 1 ? "M" + steps.map(([x, y]) => `${x} ${down ? -y : y}`).join("L") : "M0 0");
  };

  // --- tooltips ---
  const tip = document.getElementById("tip");
  let current = null;
  const hideTip = () => {
    tip.hidden = true;
    current = null;
  };
  const line = (parent, tag, text, name) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (name) made.className = name;
    parent.append(made);
  };
  const showTip = (mark) => {
    const entry = entries.get(mark.dataset.id);
    if (!entry) return;
    current = mark;
    tip.replaceChildren();
    line(tip, "strong", `${entry.number} ${entry.name}`);
    line(tip, "p", entry.device, "muted");
    const list = document.createElement("dl");
    for (const [what, value] of entry.figures) {
      line(list, "dt", what);
      line(list, "dd", value);
    }
    tip.append(list);
    tip.hidden = false;
    const place = mark.getBoundingClientRect();
    if (getComputedStyle(tip).position === "fixed") { // a phone: the figures are a sheet at the lower edge
      const hidden = place.bottom + 24 - tip.getBoundingClientRect().top;
      if (hidden > 0) window.scrollBy(0, hidden);
      return;
    }
    const width = tip.offsetWidth, height = tip.offsetHeight, room = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(place.right + 10, room - width - 8));
    const over = left < place.right + 6; // beside the mark there is no room: go above or below it
    let top = over ? place.bottom + 10 : Math.min(place.top - 10, window.innerHeight - height - 8);
    if (over && top + height > window.innerHeight - 8 && place.top - height - 10 > 0) top = place.top - height - 10;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${Math.max(8, top) + window.scrollY}px`;
  };
  for (const mark of all(".mark")) {
    const title = mark.querySelector("title");
    if (title) title.remove(); // the browser's own tooltip would cover ours
    mark.addEventListener("pointerenter", () => showTip(mark));
    mark.addEventListener("pointerleave", () => { if (document.activeElement !== mark) hideTip(); });
    mark.addEventListener("click", () => { mark.focus(); showTip(mark); });
    mark.addEventListener("focus", () => showTip(mark));
    mark.addEventListener("blur", hideTip);
    mark.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const marks = all(".mark:not(.off)", mark.ownerSVGElement)
        .sort((a, b) => Number(a.dataset.x) - Number(b.dataset.x) || Number(a.dataset.y) - Number(b.dataset.y));
      marks[(marks.indexOf(mark) + step + marks.length) % marks.length].focus();
    });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  window.addEventListener("resize", () => { if (current) showTip(current); });

  // --- sorted tables ---
  const sort = (head) => {
    const table = head.closest("table"), body = table.tBodies[0];
    const column = head.cellIndex, up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of all("th", table.tHead)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what wasn't measured stays last
      const numeric = !Number.isNaN(Number(x)) && !Number.isNaN(Number(y));
      return (numeric ? Number(x) - Number(y) : x.localeCompare(y)) * (up ? 1 : -1);
    };
    body.append(...Array.from(body.rows).sort(compare));
  };
  for (const head of all("table.sortable thead th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head));
    head.append(button);
  }

  axis.addEventListener("change", showAxis);
  controls.addEventListener("change", (event) => { if (event.target !== axis) filter(); });
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.hidden = false;
  axis.value = axis.options[0].value;
  showAxis();
  filter();
})();
