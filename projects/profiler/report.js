const facts = JSON.parse(document.getElementById("data-facts").textContent);
const byId = (id) => document.getElementById(id);
const ROWS = 400;
const MARGIN = { left: 74, right: 12, top: 20, bottom: 26 };
const state = { step: facts.batch_sizes.length - 1, node: 0, low: 0, high: 0, sort: "run_time_s", down: true, drag: null };
let steps = [];

const COLUMNS = {
  nodes: ["id", "op", "phase", "role", "run_time_s", "peak_memory_bytes", "created_bytes", "workspace_bytes", "module", "source"],
  activations: ["name", "memory_bytes", "inactive_time_s", "swap_time_s", "recomp_time_s", "recomp_memory_bytes",
    "random", "created_rank", "last_forward_rank", "first_backward_rank", "module"],
  modules: ["module", "activation_bytes", "run_time_s", "nodes"],
};

const current = () => steps[state.step];
const totals = () => current().totals;

function size(bytes) {
  let value = bytes, unit = 0;
  while (Math.abs(value) >= 1024 && unit < 4) { value /= 1024; unit += 1; }
  return `${unit ? value.toFixed(1) : value} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

function duration(seconds) {
  if (seconds >= 1) return `${seconds.toFixed(2)} s`;
  return seconds >= 1e-3 ? `${(seconds * 1e3).toFixed(2)} ms` : `${(seconds * 1e6).toFixed(1)} µs`;
}

function shown(column, value) {
  if (column.endsWith("bytes")) return size(value);
  if (column.endsWith("time_s")) return duration(value);
  return String(value);
}

// Columns to rows; the totals and the modules are sums that need not be stored.
function prepare(step) {
  const names = Object.keys(step.parts);
  step.totals = step.parts[names[0]].map((_, i) => names.reduce((sum, name) => sum + step.parts[name][i], 0));
  step.rows = { nodes: rows(step.nodes), activations: rows(step.activations) };
  step.rows.nodes.forEach((row) => { row.rank = row.id; });
  step.rows.activations.forEach((row) => { row.rank = row.created_rank; });
  const modules = new Map();
  const own = (name, rank) => {
    if (!modules.has(name)) modules.set(name, { module: name, activation_bytes: 0, run_time_s: 0, nodes: 0, rank });
    return modules.get(name);
  };
  step.rows.nodes.filter((row) => row.op !== "placeholder").forEach((row) => {
    const module = own(row.module, row.id);
    module.run_time_s += row.run_time_s;
    module.nodes += 1;
  });
  step.rows.activations.forEach((row) => { own(row.module, row.created_rank).activation_bytes += row.memory_bytes; });
  step.rows.modules = [...modules.values()];
  return step;
}

function rows(columns) {
  const names = Object.keys(columns);
  return columns[names[0]].map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
}

function frame() {
  const canvas = byId("timeline");
  const width = canvas.clientWidth - MARGIN.left - MARGIN.right;
  const height = canvas.clientHeight - MARGIN.top - MARGIN.bottom;
  const most = totals().reduce((a, b) => Math.max(a, b), facts.limit_bytes || 0) * 1.06;
  const x = (rank) => MARGIN.left + ((rank - state.low) / Math.max(1, state.high - state.low)) * width;
  const y = (bytes) => MARGIN.top + height * (1 - bytes / most);
  return { canvas, width, height, most, x, y };
}

function draw() {
  const { canvas, width, height, most, x, y } = frame();
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "11px system-ui, sans-serif";
  drawParts(pen, x, y);
  drawAxes(pen, width, height, most, y);
  Object.entries(current().starts).forEach(([phase, rank]) => {
    if (rank < state.low || rank > state.high) return;
    line(pen, x(rank), MARGIN.top, x(rank), MARGIN.top + height, "#555", [4, 3]);
    pen.fillStyle = "#333";
    pen.fillText(phase, x(rank) + 3, MARGIN.top - 6);
  });
  if (facts.limit_bytes) {
    line(pen, MARGIN.left, y(facts.limit_bytes), MARGIN.left + width, y(facts.limit_bytes), "#d55e00", []);
    pen.fillStyle = "#d55e00";
    pen.fillText("memory limit", MARGIN.left + 4, y(facts.limit_bytes) - 3);
  }
  line(pen, x(state.node), MARGIN.top, x(state.node), MARGIN.top + height, "#000", []);
  if (state.drag) {
    pen.fillStyle = "rgba(0, 114, 178, 0.15)";
    pen.fillRect(state.drag.from, MARGIN.top, state.drag.to - state.drag.from, height);
  }
  read();
}

// Each part lies on the ones before it; a column of pixels shows the largest of its nodes.
function drawParts(pen, x, y) {
  const bases = new Float64Array(totals().length);
  Object.entries(current().parts).forEach(([name, bytes]) => {
    pen.fillStyle = facts.colours[name];
    pen.beginPath();
    pen.moveTo(x(state.low), y(bases[state.low]));
    for (let rank = state.low; rank <= state.high; rank += 1) pen.lineTo(x(rank), y(bases[rank] + bytes[rank]));
    for (let rank = state.high; rank >= state.low; rank -= 1) pen.lineTo(x(rank), y(bases[rank]));
    pen.fill();
    for (let rank = 0; rank < bytes.length; rank += 1) bases[rank] += bytes[rank];
  });
}

function drawAxes(pen, width, height, most, y) {
  pen.fillStyle = "#656d76";
  for (let tick = 0; tick <= 4; tick += 1) {
    const bytes = (most * tick) / 4;
    line(pen, MARGIN.left, y(bytes), MARGIN.left + width, y(bytes), "rgba(0,0,0,0.12)", []);
    pen.textAlign = "right";
    pen.fillText(size(bytes), MARGIN.left - 6, y(bytes) + 4);
  }
  pen.textAlign = "left";
  pen.fillText(`node ${state.low}`, MARGIN.left, MARGIN.top + height + 16);
  pen.textAlign = "right";
  pen.fillText(`node ${state.high}`, MARGIN.left + width, MARGIN.top + height + 16);
  pen.textAlign = "left";
}

function line(pen, x1, y1, x2, y2, colour, dashes) {
  pen.strokeStyle = colour;
  pen.setLineDash(dashes);
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
  pen.setLineDash([]);
}

function read() {
  const row = current().rows.nodes[state.node];
  const parts = Object.entries(current().parts).map(([name, bytes]) => `${name.replace("_", " ")} ${size(bytes[state.node])}`);
  byId("reading").textContent =
    `node ${row.id}: ${row.op}, ${row.phase}${row.module ? `, ${row.module}` : ""}${row.source ? `, ${row.source}` : ""}\n` +
    `${size(totals()[state.node])} = ${parts.join(" + ")}\n` +
    `runs ${duration(row.run_time_s)}, makes ${size(row.created_bytes)}, ${current().measured ? "measured" : "predicted"} peak ${size(row.peak_memory_bytes)}`;
}

function table() {
  const which = byId("which").value;
  const wanted = byId("filter").value.trim().toLowerCase();
  let found = current().rows[which];
  if (wanted) found = found.filter((row) => COLUMNS[which].some((name) => String(row[name]).toLowerCase().includes(wanted)));
  if (state.sort) {
    const sign = state.down ? -1 : 1;
    found = [...found].sort((a, b) => sign * (a[state.sort] < b[state.sort] ? -1 : a[state.sort] > b[state.sort] ? 1 : 0));
  }
  byId("count").textContent = `${found.length} ${which}${found.length > ROWS ? `, the first ${ROWS} are shown` : ""}`;
  byId("head").replaceChildren(headings(which));
  byId("body").replaceChildren(...found.slice(0, ROWS).map((row) => tableRow(which, row)));
}

function headings(which) {
  const row = document.createElement("tr");
  COLUMNS[which].forEach((name) => {
    const cell = document.createElement("th"), button = document.createElement("button");
    const arrow = state.sort === name ? (state.down ? " ▾" : " ▴") : "";
    button.textContent = name.replace(/_(s|bytes)$/, "").replaceAll("_", " ") + arrow;
    button.addEventListener("click", () => {
      state.down = state.sort === name ? !state.down : true;
      state.sort = name;
      table();
    });
    cell.setAttribute("aria-sort", state.sort === name ? (state.down ? "descending" : "ascending") : "none");
    cell.append(button);
    row.append(cell);
  });
  return row;
}

function tableRow(which, row) {
  const element = document.createElement("tr");
  if (which === "nodes" && row.id === state.node) element.className = "chosen";
  COLUMNS[which].forEach((name) => {
    const cell = document.createElement("td");
    cell.textContent = shown(name, row[name]);
    if (typeof row[name] === "number") cell.className = "number";
    element.append(cell);
  });
  element.addEventListener("click", () => { go(row.rank); table(); });
  return element;
}

function go(rank) {
  const last = totals().length - 1;
  state.node = Math.min(last, Math.max(current().first, rank));
  const span = state.high - state.low;
  if (state.node < state.low || state.node > state.high) {
    state.low = Math.max(current().first, Math.min(last - span, state.node - Math.floor(span / 2)));
    state.high = state.low + span;
  }
  draw();
}

function peak() {
  const own = totals();
  let best = current().first;
  for (let rank = best; rank < own.length; rank += 1) if (own[rank] > own[best]) best = rank;
  return best;
}

function whole() {
  state.low = current().first;
  state.high = totals().length - 1;
}

function choose(index) {
  state.step = index;
  whole();
  state.node = peak();
  const own = current();
  byId("facts").textContent = `${facts.about}; ${own.summary}`;
  draw();
  table();
}

function rankAt(event) {
  const { canvas, width } = frame();
  const share = (event.clientX - canvas.getBoundingClientRect().left - MARGIN.left) / width;
  return Math.round(state.low + Math.min(1, Math.max(0, share)) * (state.high - state.low));
}

function listen() {
  const canvas = byId("timeline");
  const place = (event) => event.clientX - canvas.getBoundingClientRect().left;
  canvas.addEventListener("pointerdown", (event) => {
    state.drag = { from: place(event), to: place(event), rank: rankAt(event) };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (state.drag) state.drag.to = place(event);
    go(rankAt(event));
  });
  canvas.addEventListener("pointerup", (event) => {
    const from = state.drag ? state.drag.rank : 0, to = rankAt(event);
    const dragged = state.drag && Math.abs(state.drag.to - state.drag.from) > 6;
    state.drag = null;
    if (dragged && Math.abs(to - from) > 2) [state.low, state.high] = [Math.min(from, to), Math.max(from, to)];
    go(to);
  });
  canvas.addEventListener("pointercancel", () => { state.drag = null; draw(); });
  canvas.addEventListener("dblclick", () => { whole(); draw(); });
  canvas.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 50 : 1;
    const moves = { ArrowLeft: state.node - step, ArrowRight: state.node + step, p: peak() };
    if (event.key in moves) { event.preventDefault(); go(moves[event.key]); }
  });
  byId("whole").addEventListener("click", () => { whole(); draw(); });
  byId("batch").addEventListener("change", (event) => choose(Number(event.target.value)));
  byId("which").addEventListener("change", (event) => {
    state.sort = event.target.value === "activations" ? "memory_bytes" : "run_time_s";
    state.down = true;
    table();
  });
  byId("filter").addEventListener("input", table);
  window.addEventListener("resize", draw);
}

async function start() {
  steps = JSON.parse(new TextDecoder().decode(await unpack("data-steps"))).map(prepare);
  byId("title").textContent = facts.title;
  facts.batch_sizes.forEach((batch, index) => byId("batch").add(new Option(String(batch), String(index))));
  byId("batch").value = String(state.step);
  Object.keys(current().parts).forEach((name) => {
    const item = document.createElement("span");
    item.style.setProperty("--swatch", facts.colours[name]);
    item.textContent = name.replace("_", " ");
    byId("legend").append(item);
  });
  listen();
  choose(state.step);
  document.body.dataset.ready = "true";
}

start();
