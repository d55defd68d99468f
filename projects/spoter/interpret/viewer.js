const facts = JSON.parse(document.getElementById("data-facts").textContent);
const byId = (id) => document.getElementById(id);
const modules = { enc: facts.modules.filter((m) => m.startsWith("enc")), dec: facts.modules.filter((m) => m.startsWith("dec")) };
const state = { clip: 0, stack: "enc", epoch: facts.epochs.length - 1, frame: 0, layer: 0, head: 0, key: null };
const GAP = 2;
let clips = [];
let playing = null;

// The order of the bytes is that of the facts: poses, then epoch by epoch and module by module.
function readClips(buffer) {
  let at = 0;
  const take = (count, size) => buffer.slice(at, (at += count * size));
  return facts.clips.map((clip) => {
    const poses = new Uint16Array(take(clip.frames * 54 * 2, 2));
    const weights = facts.epochs.map(() =>
      facts.modules.map((name) => {
        const queries = name.startsWith("enc") ? clip.queries.length : 1;
        const largest = new Float32Array(take(facts.heads, 4));
        return { queries, largest, bytes: new Uint8Array(take(facts.heads * queries * clip.frames, 1)) };
      })
    );
    return { ...clip, poses, weights };
  });
}

const current = () => clips[state.clip];
const moduleIndex = (layer) => facts.modules.indexOf(modules[state.stack][layer]);

// The kept query nearest to a frame; the decoder has one query for all frames.
function queryRow(frame) {
  if (state.stack === "dec") return 0;
  const queries = current().queries;
  let best = 0;
  queries.forEach((query, row) => { if (Math.abs(query - frame) < Math.abs(queries[best] - frame)) best = row; });
  return best;
}

// Weights x T of one head at one query: 1 everywhere is uniform attention.
function rowOf(epoch, layer, head, row) {
  const { frames, weights } = current();
  const own = weights[epoch][moduleIndex(layer)];
  const start = (head * own.queries + row) * frames;
  const scale = (own.largest[head] / 255) * frames;
  return Array.from(own.bytes.subarray(start, start + frames), (byte) => byte * scale);
}

const cellHeight = () => (state.stack === "enc" ? current().queries.length : 1);
const cellGap = () => (state.stack === "enc" ? GAP : 1);

function gridMatrix() {
  const { frames } = current();
  const height = cellHeight(), gap = cellGap(), width = frames + GAP;
  const rows = [];
  for (let layer = 0; layer < modules[state.stack].length; layer++) {
    for (let query = 0; query < height; query++) {
      const line = new Array(facts.heads * width - GAP).fill(null);
      for (let head = 0; head < facts.heads; head++) {
        const values = rowOf(state.epoch, layer, head, query);
        for (let key = 0; key < frames; key++) line[head * width + key] = values[key];
      }
      rows.push(line);
    }
    for (let blank = 0; blank < gap; blank++) rows.push(new Array(facts.heads * width - GAP).fill(null));
  }
  rows.length -= gap;
  return rows;
}

// What lies under a point of the grid, or null in a gap.
function cellAt(x, y) {
  const height = cellHeight() + cellGap(), width = current().frames + GAP;
  const layer = Math.floor(y / height), head = Math.floor(x / width);
  const row = y - layer * height, key = x - head * width;
  if (row >= cellHeight() || key >= current().frames) return null;
  return { layer, head, row, key, query: state.stack === "enc" ? current().queries[row] : null };
}

function gridShapes() {
  const height = cellHeight() + cellGap(), width = current().frames + GAP;
  const row = queryRow(state.frame);
  const shapes = [];
  if (state.stack === "enc") {
    for (let layer = 0; layer < modules.enc.length; layer++) {
      const y = layer * height + row;
      shapes.push({ type: "line", x0: -0.5, x1: facts.heads * width - GAP - 0.5, y0: y, y1: y,
                    line: { color: "#0072b2", width: 1, dash: "dot" } });
    }
  }
  const x0 = state.head * width - 0.5, y0 = state.layer * height - 0.5;
  shapes.push({ type: "rect", x0, x1: x0 + current().frames, y0, y1: y0 + cellHeight(), line: { color: "#d55e00", width: 2 } });
  return shapes;
}

function drawGrid() {
  const z = gridMatrix();
  const seen = z.flat().filter((value) => value !== null).sort((a, b) => a - b);
  const top = Math.max(2, seen[Math.floor(seen.length * 0.995)]);
  const height = cellHeight() + cellGap(), width = current().frames + GAP;
  const layers = modules[state.stack];
  const trace = { type: "heatmap", z, zmin: 0, zmax: top, colorscale: "Viridis", hoverinfo: "none", hoverongaps: false,
                  colorbar: { title: { text: "weight x T", side: "right" }, thickness: 12 } };
  const axis = { showgrid: false, zeroline: false, ticks: "" };
  const layout = {
    margin: { l: 52, r: 8, t: 26, b: 8 }, dragmode: false, shapes: gridShapes(), plot_bgcolor: "#fff",
    xaxis: { ...axis, side: "top", tickvals: range(facts.heads).map((h) => h * width + (current().frames - 1) / 2),
             ticktext: range(facts.heads).map((h) => `head ${h}`), fixedrange: true },
    yaxis: { ...axis, autorange: "reversed", tickvals: range(layers.length).map((l) => l * height + (cellHeight() - 1) / 2),
             ticktext: layers, fixedrange: true },
  };
  Plotly.react("grid", [trace], layout, { displayModeBar: false, responsive: true });
}

const range = (count) => [...Array(count).keys()];

function drawPose() {
  const canvas = byId("pose");
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  const shown = [[state.frame, "#0072b2"]];
  if (state.key !== null && state.key !== state.frame) shown.push([state.key, "#d55e00"]);
  for (const [frame, colour] of shown) drawSkeleton(context, frame, colour, canvas.clientWidth, canvas.clientHeight);
}

function drawSkeleton(context, frame, colour, width, height) {
  const { poses, box } = current();
  const scale = Math.min((width - 20) / box[0], (height - 20) / box[1]);
  const left = (width - scale * box[0]) / 2, bottom = (height + scale * box[1]) / 2;
  const place = (joint) => {
    const at = (frame * 54 + joint) * 2;
    if (!poses[at]) return null;
    return [left + ((poses[at] - 1) / 65534) * box[0] * scale, bottom - ((poses[at + 1] - 1) / 65534) * box[1] * scale];
  };
  context.strokeStyle = context.fillStyle = colour;
  for (const [one, other] of facts.bones) {
    const a = place(one), b = place(other);
    if (!a || !b) continue;
    context.lineWidth = Math.max(one, other) < 12 ? 3 : 1.5;
    context.beginPath();
    context.moveTo(...a);
    context.lineTo(...b);
    context.stroke();
  }
}

function drawWeights() {
  const row = queryRow(state.frame);
  const traces = facts.epochs.map((epoch, index) => ({
    y: rowOf(index, state.layer, state.head, row), name: epochName(epoch),
    mode: current().frames > 1 ? "lines" : "markers",
    line: { color: index === state.epoch ? "#0072b2" : "#c9d1d9", width: index === state.epoch ? 2.5 : 1 },
    hovertemplate: `frame %{x}<br>${epochName(epoch)}: %{y:.2f}<extra></extra>`,
  }));
  const asked = state.stack === "enc" ? `from frame ${current().queries[row]}` : "from the class query";
  Plotly.react("weights", traces, chartLayout(`${modules[state.stack][state.layer]}, head ${state.head}, ${asked}`,
    { title: { text: "frame" }, range: [-0.5, current().frames - 0.5] }, { title: { text: "weight x T" }, rangemode: "tozero" },
    [{ type: "line", x0: state.frame, x1: state.frame, yref: "paper", y0: 0, y1: 1, line: { color: "#0072b2", width: 1, dash: "dot" } }]
  ), { displayModeBar: false, responsive: true });
}

function drawSpread() {
  const column = moduleIndex(state.layer);
  const series = range(facts.heads).map((head) => ({
    x: facts.epochs, y: current().entropy.map((byModule) => byModule[column][head]), mode: "lines+markers", name: `head ${head}`,
    line: { color: head === state.head ? "#d55e00" : "#c9d1d9", width: head === state.head ? 2.5 : 1 },
    hovertemplate: `head ${head}<br>epoch %{x}: %{y:.3f}<extra></extra>`,
  }));
  Plotly.react("spread", series, chartLayout(`${modules[state.stack][state.layer]}: entropy / log T of this clip`,
    { title: { text: "epoch" } }, {}, []), { displayModeBar: false, responsive: true });
}

function chartLayout(title, xaxis, yaxis, shapes) {
  return { title: { text: title, font: { size: 13 }, y: 0.96 }, margin: { l: 46, r: 8, t: 28, b: 34 }, showlegend: false, shapes,
           xaxis: { ...xaxis, fixedrange: true }, yaxis: { ...yaxis, fixedrange: true }, dragmode: false };
}

const epochName = (epoch) => (epoch === 0 ? "before training" : `epoch ${epoch}`);

function drawReading() {
  const row = queryRow(state.frame);
  const where = `${modules[state.stack][state.layer]}, head ${state.head}`;
  let text = `<span class="query">frame ${state.frame}</span> of ${current().frames}; ${where}`;
  if (state.key !== null) {
    const weight = rowOf(state.epoch, state.layer, state.head, row)[state.key];
    const asks = state.stack === "enc" ? `frame ${current().queries[row]}` : "the class query";
    text += `. <span class="key">Frame ${state.key}</span> gets ${weight.toFixed(2)} times a uniform share from ${asks}.`;
  }
  byId("reading").innerHTML = text;
}

function drawControls() {
  const clip = current();
  byId("clip").value = String(state.clip);
  byId("stack").value = state.stack;
  byId("epoch").value = String(state.epoch);
  byId("epoch-shown").textContent = epochName(facts.epochs[state.epoch]);
  byId("frame").max = String(clip.frames - 1);
  byId("frame").value = String(state.frame);
  byId("frame-shown").textContent = `${state.frame} / ${clip.frames - 1}`;
  byId("title").textContent = `${clip.sign}: predicted ${clip.predictions[state.epoch]} (${epochName(facts.epochs[state.epoch])})`;
}

function draw({ grid = true } = {}) {
  drawControls();
  if (grid) drawGrid();
  else Plotly.relayout("grid", { shapes: gridShapes() });
  drawSide();
}

function drawSide() {
  drawPose();
  drawWeights();
  drawSpread();
  drawReading();
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// Changes part of the state; the grid is computed anew only where it shows something else.
function change(part) {
  const next = { ...state, ...part };
  next.clip = clamp(next.clip, 0, clips.length - 1);
  next.epoch = clamp(next.epoch, 0, facts.epochs.length - 1);
  next.layer = clamp(next.layer, 0, modules[next.stack].length - 1);
  next.head = clamp(next.head, 0, facts.heads - 1);
  next.frame = clamp(next.frame, 0, clips[next.clip].frames - 1);
  if (next.key !== null && next.key >= clips[next.clip].frames) next.key = null;
  const grid = ["clip", "epoch", "stack"].some((name) => next[name] !== state[name]);
  Object.assign(state, next);
  draw({ grid });
}

function togglePlay() {
  byId("play").textContent = playing ? "play" : "stop";
  if (playing) {
    clearInterval(playing);
    playing = null;
  } else {
    playing = setInterval(() => change({ frame: (state.frame + 1) % current().frames, key: null }), 160);
  }
}

const KEYS = {
  ArrowLeft: () => change({ frame: state.frame - 1 }),
  ArrowRight: () => change({ frame: state.frame + 1 }),
  ArrowUp: () => change({ epoch: state.epoch + 1 }),
  ArrowDown: () => change({ epoch: state.epoch - 1 }),
  "[": () => change({ clip: state.clip - 1, key: null }),
  "]": () => change({ clip: state.clip + 1, key: null }),
  w: () => change({ layer: state.layer - 1 }),
  s: () => change({ layer: state.layer + 1 }),
  a: () => change({ head: state.head - 1 }),
  d: () => change({ head: state.head + 1 }),
  e: () => change({ stack: state.stack === "enc" ? "dec" : "enc" }),
  " ": togglePlay,
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { id, tagName } = event.target;
  if (tagName === "SELECT" || (tagName === "BUTTON" && event.key === " ")) return;
  // A slider in focus keeps its own arrow keys.
  if ((id === "epoch" || id === "frame") && event.key.startsWith("Arrow")) return;
  const action = KEYS[event.key] || (/^[0-9]$/.test(event.key) ? () => change({ head: Number(event.key) }) : null);
  if (!action) return;
  event.preventDefault();
  action();
}

function listen() {
  byId("clip").addEventListener("change", (event) => change({ clip: Number(event.target.value), key: null }));
  byId("stack").addEventListener("change", (event) => change({ stack: event.target.value }));
  // A choice made with the pointer gives the keys back to the page.
  for (const id of ["clip", "stack"]) byId(id).addEventListener("pointerup", (event) => setTimeout(() => event.target.blur(), 300));
  byId("epoch").addEventListener("input", (event) => change({ epoch: Number(event.target.value) }));
  byId("frame").addEventListener("input", (event) => change({ frame: Number(event.target.value) }));
  byId("play").addEventListener("click", togglePlay);
  document.addEventListener("keydown", onKey);
  window.addEventListener("resize", drawPose);
  byId("grid").on("plotly_hover", ({ points }) => {
    const cell = cellAt(points[0].x, points[0].y);
    if (!cell) return;
    state.key = cell.key;
    if (cell.query !== null) state.frame = cell.query;
    Object.assign(state, { layer: cell.layer, head: cell.head });
    drawControls();
    drawSide();
  });
  byId("grid").on("plotly_unhover", () => { draw({ grid: false }); });
  byId("grid").on("plotly_click", ({ points }) => {
    const cell = cellAt(points[0].x, points[0].y);
    if (cell) change({ layer: cell.layer, head: cell.head });
  });
  byId("weights").on("plotly_hover", ({ points }) => {
    state.key = points[0].x;
    drawPose();
    drawReading();
  });
}

function describe() {
  const notes = [
    `Training run ${facts.run} (${facts.name}), ${facts.split} split, ${clips.length} clips chosen by rule.`,
    facts.positions
      ? "This variant adds positions to the frames."
      : "The network has no temporal encoding: it sees a set of frames, so attention depends on what frames show, never on when.",
  ];
  if (facts.thinned) notes.push("Long clips show some of their query frames only; all key frames are there.");
  byId("facts").textContent = notes.join(" ");
  if (facts.synthetic) {
    const warning = document.createElement("p");
    warning.className = "warning";
    warning.textContent = "SYNTHETIC data: nothing here is about sign language.";
    byId("facts").after(warning);
  }
}

async function start() {
  const library = document.createElement("script");
  library.textContent = new TextDecoder().decode(await unpack("data-plotly"));
  document.head.append(library);
  clips = readClips(await unpack("data-binary"));
  clips.forEach((clip, index) => byId("clip").add(new Option(`${clip.sign} (clip ${clip.clip}, ${clip.frames} frames)`, index)));
  byId("epoch").max = String(facts.epochs.length - 1);
  describe();
  draw();
  listen();
  document.body.dataset.ready = "true";
}

start().catch((error) => { byId("title").textContent = `This page could not be drawn: ${error}`; });
