"use strict";
// The page polls /status and /peers once a second and receives /events as they happen. A peer's text is only
// inserted as text: no code here makes markup from a string.

const POLL_MS = 1000;
const EVENTS_SHOWN = 150;
const PULSES_MAX = 40;
const NAMES_MAX = 60;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const narrow = matchMedia("(max-width: 640px)");

function make(tag, cls, text) {
  const element = document.createElement(tag);
  if (cls) element.className = cls;
  if (text !== undefined) element.textContent = text;
  return element;
}
function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  return element;
}
// Only changed values are written, so that selections and screen readers are not disturbed.
function setText(element, text) { if (element.textContent !== text) element.textContent = text; }
function setAttr(element, name, value) { if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value); }
const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

const short = (id) => id.slice(0, 10);
// Characters that reorder or hide other text are shown as escapes.
const UNSAFE = /[\p{Cc}\p{Cf}\u2028\u2029]/gu;
const visible = (text) => text.replace(UNSAFE, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
const nameOf = (peer) => visible(peer.name) || short(peer.id);
function duration(s) {
  if (s === null) return "–";
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}
function clock(date) {
  const two = (n) => String(n).padStart(2, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
const millis = (ms) => ms === null ? "–" : ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : ms.toFixed(0);
function bytes(n) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (n < 1000 || unit === "GB") return [n < 10 && unit !== "B" ? n.toFixed(1) : n.toFixed(0), `${unit}/s`];
    n /= 1000;
  }
}

// How a peer is shown: its state, but a peer that other members still hear is "cut": the link to it has failed.
const look = (p) => p.state === "dead" && p.verdict?.verdict === "link" ? "cut" : p.state;
const LOOKS = ["up", "unstable", "dead", "cut", "left", "rumour"];
const MARKS = { up: "●", unstable: "◐", dead: "✕", cut: "≠", left: "◌", rumour: "◇" };
const WORDS = { cut: "link cut" };
const word = (p) => WORDS[look(p)] ?? p.state;
const ORDER = { dead: 0, cut: 1, unstable: 2, up: 3, rumour: 4, left: 5 };
function verdictOf(p) {
  if (!p.verdict) return "–";
  const { verdict, asked, seen_by } = p.verdict;
  if (verdict === "self") return "this node is cut off";
  if (verdict === "unknown") return "unknown";
  return asked ? `${verdict}: ${seen_by} of ${asked} hear it` : verdict;
}
const COLUMNS = [
  { key: "name", label: "Name", text: (p) => visible(p.name) || "–", sortBy: (p) => p.name.toLowerCase() || "\uffff" },
  { key: "short", label: "Id", cls: "id short", text: (p) => short(p.id), sortBy: (p) => p.id },
  { key: "addr", label: "Address", cls: "mono addr", text: (p) => p.via ? `${p.addr} via ${nameById(p.via)}` : p.addr, sortBy: (p) => p.addr },
  { key: "state", label: "State", sortBy: (p) => ORDER[look(p)] },
  { key: "since", label: "Since", cls: "number", text: (p) => duration(p.since_s), sortBy: (p) => p.since_s },
  { key: "rtt", label: "RTT ms", cls: "number", text: (p) => millis(p.rtt_ms), sortBy: (p) => p.rtt_ms ?? Infinity },
  { key: "min", label: "RTT min", cls: "number", text: (p) => millis(p.rtt_min_ms), sortBy: (p) => p.rtt_min_ms ?? Infinity },
  { key: "mean", label: "RTT avg", cls: "number", text: (p) => millis(p.rtt_mean_ms), sortBy: (p) => p.rtt_mean_ms ?? Infinity },
  { key: "in", label: "Pings in", cls: "number", text: (p) => String(p.pings_received), sortBy: (p) => p.pings_received },
  { key: "out", label: "Pings out", cls: "number", text: (p) => String(p.pings_sent), sortBy: (p) => p.pings_sent },
  { key: "back", label: "Reconnects", cls: "number", text: (p) => String(p.reconnects), sortBy: (p) => p.reconnects },
  { key: "verdict", label: "Verdict", cls: "verdict", text: verdictOf, sortBy: (p) => p.verdict?.verdict ?? "\uffff" },
  { key: "silence", label: "Silence", cls: "number silence", text: (p) => duration(p.silence_s), sortBy: (p) => p.silence_s ?? Infinity },
];

let status = null;
let peers = [];
const nameById = (id) => { const peer = peers.find((p) => p.id === id); return peer ? nameOf(peer) : short(id); };
let sort = { key: "name", up: true };
let last = null;
// Smoothed round-trip times for the drawing; the last measured ones alone would make it jitter.
let smooth = new Map();
const rows = new Map();
const nodes = new Map();

// ---- the table

for (const column of COLUMNS) {
  const cell = make("th", column.cls?.includes("number") ? "number" : "");
  const button = make("button", "", column.label);
  cell.setAttribute("role", "columnheader");
  cell.scope = "col";
  button.type = "button";
  button.addEventListener("click", () => {
    sort = { key: column.key, up: sort.key === column.key ? !sort.up : true };
    showTable();
  });
  cell.append(button);
  $("head").append(cell);
  column.head = cell;
}

function makeRow(id) {
  const row = make("tr");
  row.setAttribute("role", "row");
  const cells = COLUMNS.map((column, n) => {
    const cell = make(n ? "td" : "th", column.cls ?? column.key);
    cell.setAttribute("role", n ? "cell" : "rowheader");
    if (!n) cell.scope = "row";
    cell.dataset.label = column.label;
    if (column.key === "short") cell.title = id;
    if (column.key === "state") cell.append(make("span", "mark"), make("span"));
    row.append(cell);
    return cell;
  });
  row.addEventListener("pointerenter", () => highlight(id, true));
  row.addEventListener("pointerleave", () => highlight(id, false));
  return { row, cells };
}

// Highlights the row and the node of a peer together.
function highlight(id, on) {
  rows.get(id)?.row.classList.toggle("seen", on);
  nodes.get(id)?.group.classList.toggle("seen", on);
}

function showTable() {
  const wanted = $("filter").value.trim().toLowerCase();
  const matches = (p) => !wanted || `${p.name} ${p.id} ${p.addr} ${p.state} ${word(p)}`.toLowerCase().includes(wanted);
  const sortBy = COLUMNS.find((column) => column.key === sort.key).sortBy;
  const compare = (a, b) => (sortBy(a) < sortBy(b) ? -1 : sortBy(a) > sortBy(b) ? 1 : a.id < b.id ? -1 : 1) * (sort.up ? 1 : -1);
  const shown = peers.filter(matches).sort(compare);
  const ids = new Set(shown.map((p) => p.id));
  for (const [id, { row }] of rows) if (!ids.has(id)) { row.remove(); rows.delete(id); }
  shown.forEach((peer, n) => {
    if (!rows.has(peer.id)) rows.set(peer.id, makeRow(peer.id));
    const { row, cells } = rows.get(peer.id);
    row.dataset.id = peer.id;
    row.dataset.state = peer.state;
    COLUMNS.forEach((column, i) => {
      if (column.key !== "state") return setText(cells[i], column.text(peer));
      const [mark, text] = cells[i].children;
      setText(mark, MARKS[look(peer)] ?? "");
      setText(text, word(peer));
      mark.className = `mark word ${look(peer)}`;
      text.className = `word ${look(peer)}`;
    });
    row.classList.toggle("late", peer.silence_s > status.node.timeout_s / 2);
    if ($("rows").children[n] !== row) $("rows").insertBefore(row, $("rows").children[n] ?? null);
  });
  for (const column of COLUMNS) {
    if (column.key === sort.key) setAttr(column.head, "aria-sort", sort.up ? "ascending" : "descending");
    else column.head.removeAttribute("aria-sort");
  }
  $("no-members").hidden = shown.length > 0;
  setText($("no-members"), peers.length ? "No member matches." : "No other members yet.");
}
$("filter").addEventListener("input", () => status && showTable());

// ---- the drawing: the distance is the round-trip time on a logarithmic scale

const INNER = 70, OUTER = 190, RIM = 216;
// The angle at the top, in radians, that stays free for the labels of the rings.
const GAP = 0.4;
const speed = (ms) => ms < 1 ? 0 : ms < 10 ? 1 : ms < 100 ? 2 : 3;

function scale(times) {
  const low = Math.floor(Math.log10(Math.max(0.05, Math.min(...times))));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...times, 0.1))));
  const radius = (ms) => {
    const at = (Math.log10(Math.max(ms, 0.01)) - low) / (high - low);
    return INNER + Math.min(1, Math.max(0, at)) * (OUTER - INNER);
  };
  return { low, high, radius };
}

function showRings({ low, high, radius }) {
  const rings = $("rings");
  if (rings.dataset.scale === `${low} ${high}`) return;
  rings.dataset.scale = `${low} ${high}`;
  rings.replaceChildren();
  for (let decade = low; decade <= high; decade++) {
    const ms = 10 ** decade, r = radius(ms);
    const name = draw("text", { class: "ring-name", y: 3 - r });
    name.textContent = ms < 1000 ? `${Number(ms.toPrecision(1))} ms` : `${ms / 1000} s`;
    rings.append(draw("circle", { class: "ring", r }), name);
  }
}

function makeNode(peer) {
  const group = draw("g", { class: "node" });
  const title = draw("title", {});
  const label = draw("text", {});
  group.append(title, draw("circle", { class: "halo", r: 15 }), draw("circle", { class: "back", r: 8 }),
    draw("path", { class: "shape" }), draw("path", { class: "cross", d: "" }), label);
  group.addEventListener("pointerenter", () => highlight(peer.id, true));
  group.addEventListener("pointerleave", () => highlight(peer.id, false));
  const link = draw("line", { class: "link" });
  const gap = draw("path", { class: "gap", d: "" });
  return { group, label, title, link, gap, x: 0, y: 0 };
}

function smoothRtts() {
  const next = ({ id, rtt_ms }) => [id, (smooth.get(id) ?? rtt_ms) * 0.75 + rtt_ms * 0.25];
  smooth = new Map(peers.filter((p) => p.rtt_ms !== null).map(next));
}

function showMesh() {
  const { radius, ...range } = scale(smooth.size ? [...smooth.values()] : [1]);
  showRings({ radius, ...range });
  // Each peer keeps its place while the set of peers stays the same.
  const placed = [...peers].sort((a, b) => (nameOf(a) + a.id < nameOf(b) + b.id ? -1 : 1));
  const size = placed.length > 60 ? 4 : placed.length > 24 ? 5.5 : 8;
  const isCrowd = placed.length > 14;
  const [width, height] = narrow.matches ? [270, 250] : [330, isCrowd ? 280 : 250];
  setAttr($("mesh"), "viewBox", `${-width} ${-height} ${2 * width} ${2 * height}`);
  $("mesh").classList.toggle("crowd", placed.length > 24);
  const known = new Set(placed.map((p) => p.id));
  for (const [id, node] of nodes) if (!known.has(id)) { node.group.remove(); node.link.remove(); node.gap.remove(); nodes.delete(id); }
  placed.forEach((peer, n) => {
    if (!nodes.has(peer.id)) {
      const node = makeNode(peer);
      nodes.set(peer.id, node);
      $("nodes").append(node.group);
      $("links").append(node.link, node.gap);
    }
    const node = nodes.get(peer.id);
    const turn = (GAP - Math.PI) / 2 + (n + 0.5) / placed.length * (2 * Math.PI - GAP);
    const isUp = peer.state === "up" || peer.state === "unstable";
    const isCut = look(peer) === "cut";
    const r = isUp ? radius(smooth.get(peer.id) ?? 10 ** range.low) : RIM;
    node.x = Math.cos(turn) * r;
    node.y = Math.sin(turn) * r;
    setAttr(node.group, "transform", `translate(${node.x.toFixed(1)} ${node.y.toFixed(1)})`);
    for (const name of LOOKS) node.group.classList.toggle(name, name === look(peer));
    node.group.classList.toggle("unnamed", isUp && placed.length > (narrow.matches ? 24 : NAMES_MAX));
    node.group.dataset.state = peer.state;
    node.group.dataset.look = look(peer);
    const shape = peer.state === "rumour" ? `M0 ${-size}L${size} 0L0 ${size}L${-size} 0z` : `M${-size} 0a${size} ${size} 0 1 1 0 .01z`;
    setAttr(node.group.querySelector(".shape"), "d", shape);
    setAttr(node.group.querySelector(".back"), "r", size + 1);
    setAttr(node.group.querySelector(".halo"), "r", size + 8);
    const half = size * 0.5;
    setAttr(node.group.querySelector(".cross"), "d", peer.state === "dead" ? `M${-half} ${-half}L${half} ${half}M${half} ${-half}L${-half} ${half}` : "");
    showLabel(node, peer, turn, isCrowd, size);
    setText(node.title, `${nameOf(peer)}, ${word(peer)}${peer.rtt_ms === null ? "" : `, ${millis(peer.rtt_ms)} ms`}`);
    setAttr(node.link, "x2", node.x.toFixed(1));
    setAttr(node.link, "y2", node.y.toFixed(1));
    setAttr(node.link, "class", isUp ? `link rtt${speed(smooth.get(peer.id) ?? 0)}${peer.state === "unstable" ? " shaky" : ""}` : isCut ? "link broken" : "link");
    showBreak(node, isCut, turn, r);
  });
  showAsymmetry();
}

// A broken link has two strokes across its middle: the peer lives, and the way to it does not work.
function showBreak(node, isCut, turn, r) {
  if (!isCut) return setAttr(node.gap, "d", "");
  const across = [-Math.sin(turn) * 9, Math.cos(turn) * 9];
  const stroke = (at) => {
    const [x, y] = [Math.cos(turn) * at, Math.sin(turn) * at];
    return `M${(x - across[0]).toFixed(1)} ${(y - across[1]).toFixed(1)}L${(x + across[0]).toFixed(1)} ${(y + across[1]).toFixed(1)}`;
  };
  setAttr(node.gap, "d", stroke(r / 2 - 4) + stroke(r / 2 + 4));
}

// A few labels are horizontal beside their nodes; many are rotated along the rays.
function showLabel(node, peer, turn, isCrowd, size) {
  const name = nameOf(peer);
  const room = narrow.matches ? 8 : isCrowd ? 14 : 18;
  setText(node.label, name.length > room ? `${name.slice(0, room - 1)}…` : name);
  const isLeft = Math.cos(turn) < -0.01;
  if (isCrowd) {
    const degrees = turn * 180 / Math.PI + (isLeft ? 180 : 0);
    setAttr(node.label, "transform", `rotate(${degrees.toFixed(1)})`);
    setAttr(node.label, "x", isLeft ? -size - 5 : size + 5);
    setAttr(node.label, "y", 3.5);
    setAttr(node.label, "text-anchor", isLeft ? "end" : "start");
  } else {
    node.label.removeAttribute("transform");
    const isSide = Math.abs(Math.cos(turn)) > 0.5;
    setAttr(node.label, "x", isSide ? (isLeft ? -size - 6 : size + 6) : 0);
    setAttr(node.label, "y", isSide ? 4 : Math.sin(turn) < 0 ? -size - 6 : size + 15);
    setAttr(node.label, "text-anchor", isSide ? (isLeft ? "end" : "start") : "middle");
  }
}

function showAsymmetry() {
  const byId = new Map(peers.map((p) => [p.id, p]));
  const apart = peers.filter((p) => p.reached_by.length);
  $("asymmetry").hidden = apart.length === 0;
  const lines = [], items = [];
  for (const peer of apart) {
    const names = peer.reached_by.map((id) => byId.has(id) ? nameOf(byId.get(id)) : short(id));
    items.push(`${nameOf(peer)} is connected to ${names.join(", ")}, but not to this node.`);
    for (const id of peer.reached_by) if (nodes.has(id)) lines.push([nodes.get(id), nodes.get(peer.id)]);
  }
  const list = $("asymmetric");
  if ([...list.children].map((item) => item.textContent).join("\n") !== items.join("\n")) {
    list.replaceChildren(...items.map((text) => make("li", "", text)));
  }
  $("others").replaceChildren(...lines.map(([a, b]) => draw("path", {
    class: "other",
    d: `M${a.x.toFixed(1)} ${a.y.toFixed(1)}Q${((a.x + b.x) * 0.6).toFixed(1)} ${((a.y + b.y) * 0.6).toFixed(1)} ${b.x.toFixed(1)} ${b.y.toFixed(1)}`,
  })));
}

// Animates a ping along its link.
function pulse(id) {
  const node = nodes.get(id);
  if (!node || reducedMotion.matches || document.hidden || $("pulses").childElementCount >= PULSES_MAX) return;
  const dot = draw("circle", { class: "pulse", r: 3 });
  $("pulses").append(dot);
  const at = (x, y) => ({ transform: `translate(${x}px, ${y}px)` });
  dot.animate([at(node.x, node.y), at(node.x * 0.12, node.y * 0.12)], { duration: 700, easing: "ease-in-out" }).onfinish = () => dot.remove();
}

// ---- figures and texts

function showNumbers() {
  const times = peers.map((p) => p.rtt_ms).filter((ms) => ms !== null).sort((a, b) => a - b);
  const now = { at: performance.now(), in: status.totals.bytes_received, out: status.totals.bytes_sent };
  const gap = last ? (now.at - last.at) / 1000 : 0;
  const rate = (way) => gap > 0 && now[way] >= last[way] ? bytes((now[way] - last[way]) / gap) : ["–", ""];
  const failed = status.totals.handshakes_dialled_failed + status.totals.handshakes_accepted_failed;
  const { dead, cut } = losses();
  const median = times.length ? times[Math.floor((times.length - 1) / 2)] : null;
  const numbers = [
    ["Up", status.peers.up], ["Dead", dead, "", dead > 0], ["Links cut", cut, "", cut > 0], ["Left", status.peers.left],
    ["Heard of", status.peers.rumour], ["Median RTT", millis(median), median === null ? "" : "ms"],
    ["Received", ...rate("in")], ["Sent", ...rate("out")], ["Handshakes failed", failed],
    ["Dials open", status.dials_in_flight],
    ["Circuits carried", status.circuits_carried],
  ];
  last = now;
  const list = $("numbers");
  while (list.childElementCount < numbers.length) {
    const pair = make("div"), value = make("dd");
    value.append(make("span"), make("small"));
    pair.append(make("dt"), value);
    list.append(pair);
  }
  numbers.forEach(([name, value, unit = "", isBad = false], n) => {
    const [dt, dd] = list.children[n].children;
    setText(dt, name);
    setText(dd.children[0], String(value));
    setText(dd.children[1], unit);
    list.children[n].classList.toggle("bad", isBad);
  });
}

function losses() {
  const cut = peers.filter((p) => look(p) === "cut").length;
  return { cut, dead: status.peers.dead - cut };
}

function summary() {
  const { up, unstable, rumour } = status.peers;
  const { dead, cut } = losses();
  if (status.isolated) return `Isolated: this node has lost more than half of its peers, ${count(status.members, "member")} left`;
  if (!status.joined) return "Not joined yet: no --connect address answers";
  if (!up && !unstable && !cut) return dead ? `Alone: ${count(dead, "peer")} dead` : "Alone so far";
  const trouble = [dead && `${dead} dead`, cut && `${count(cut, "link")} cut`, unstable && `${unstable} unstable`, rumour && `${rumour} not connected yet`].filter(Boolean);
  return [count(status.members, "member"), ...(trouble.length ? trouble : ["all links up"])].join(", ");
}

function show() {
  const { node } = status;
  const name = visible(node.name) || short(node.id);
  setText($("name"), name);
  setText($("hub-name"), name.length > 24 ? `${name.slice(0, 23)}…` : name);
  document.title = `${status.members} · ${name} – p2p-gossip`;
  const uptime = Math.max(0, (Date.parse(status.time) - Date.parse(node.started)) / 1000);
  setText($("self"), `${short(node.id)} · ${node.addr} · up ${duration(uptime)} · ${node.program}`);
  $("self").title = node.id;
  setText($("summary"), summary());
  setText($("mesh-text"), `${name} in the middle; ${summary()}. A shorter distance means a shorter round-trip time. The table of members has the same values.`);
  setText($("clock"), clock(new Date(status.time)));
  showNumbers();
  showTable();
  smoothRtts();
  showMesh();
}

// ---- events

function describe(event) {
  const peer = event.peer ? `${visible(event.name) || short(event.peer)} ${event.addr}` : "";
  switch (event.event) {
    case "listening": return `at ${event.addr}`;
    case "up": return event.via ? `${peer} via ${nameById(event.via)}` : peer;
    case "path": return `${peer} ${event.via ? `via ${nameById(event.via)}` : "direct"}`;
    case "down": return `${peer}, ${event.reason}`;
    case "verdict": return `${peer}, ${verdictOf({ verdict: event })}`;
    case "unstable": return `${peer}, lost ${event.losses} times`;
    case "isolated": return `this node has lost ${event.lost} of ${count(event.members, "member")}`;
    case "rejoined": return count(event.members, "member");
    case "alert": return `${event.phase}, ${visible(event.text)}`;
    case "ping": return `${peer} #${event.seq}${event.rtt_ms === null ? "" : `, ${millis(event.rtt_ms)} ms`} ${visible(event.text)}`;
    case "message": return `${peer}: ${visible(event.text)}`;
    default: return peer;
  }
}

function showEvent(event) {
  if (event.event === "ping") pulse(event.peer);
  if (event.event === "ping" && !$("pings").checked) return;
  // Its losses are a part of the event `isolated`.
  if (event.quiet || event.verdict === "self") return;
  const item = make("li"), time = make("time", "", clock(new Date(event.time)));
  time.dateTime = event.time;
  item.append(time, make("span", `word ${event.event.replace(/[^a-z]/g, "")}`, event.event), make("span", "what", describe(event)));
  $("events").prepend(item);
  while ($("events").childElementCount > EVENTS_SHOWN) $("events").lastChild.remove();
  $("no-events").hidden = true;
}

let source = null;
function listen() {
  source?.close();
  source = new EventSource("events?recent=50");
  let isFirst = true;
  source.onopen = () => { if (isFirst) { $("events").replaceChildren(); isFirst = false; } };
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    showEvent(event);
    if (event.event !== "ping" && event.event !== "message") poll();
  };
  // The browser reconnects after a broken connection, but not after an error response.
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5 * POLL_MS); };
}

// ---- polling, and the banner when the node does not answer

let lostAt = null;
function showLost() {
  lostAt ??= new Date();
  document.body.classList.add("stale");
  const since = status ? ` The state below is from ${clock(new Date(status.time))}.` : "";
  setText($("banner"), `No answer from the node at ${location.host} since ${clock(lostAt)}.${since} Retrying every second…`);
  $("banner").hidden = false;
}
function hideLost() {
  if (!lostAt) return;
  lostAt = null;
  last = null;
  document.body.classList.remove("stale");
  $("banner").hidden = true;
}

async function get(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(4 * POLL_MS), cache: "no-store" });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

let timer = 0, isPolling = false, isPollWanted = false;
async function poll() {
  if (isPolling) { isPollWanted = true; return; }
  isPolling = true;
  clearTimeout(timer);
  let seen = null;
  try {
    seen = await Promise.all([get("status"), get("peers")]);
  } catch (error) {
    showLost();
  }
  isPolling = false;
  // A snapshot may be 200 ms old, so the change that an event announced may be in the next one only.
  timer = setTimeout(poll, isPollWanted ? 250 : POLL_MS);
  isPollWanted = false;
  if (!seen) return;
  status = seen[0];
  peers = seen[1].peers;
  hideLost();
  show();
}
// A hidden page does not poll.
document.addEventListener("visibilitychange", () => { if (document.hidden) clearTimeout(timer); else poll(); });

narrow.addEventListener("change", () => status && showMesh());

listen();
poll();
