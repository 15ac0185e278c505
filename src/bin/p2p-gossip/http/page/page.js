"use strict";
// The page reads /status and /peers once a second and /events as they happen. Text that comes from
// peers only ever becomes text: nothing here makes markup out of a string.

const POLL_MS = 1000;
const EVENTS_SHOWN = 150;
const PULSES_MAX = 40;
const NAMES_MAX = 60;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const still = matchMedia("(prefers-reduced-motion: reduce)");
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
// Touching only what has changed leaves selections and screen readers alone.
function say(element, text) { if (element.textContent !== text) element.textContent = text; }
function set(element, name, value) { if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value); }
const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

const short = (id) => id.slice(0, 10);
// Characters that reorder or hide what is around them are shown as what they are.
const UNSAFE = /[\p{Cc}\p{Cf}\u2028\u2029]/gu;
const visible = (text) => text.replace(UNSAFE, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
const called = (peer) => visible(peer.name) || short(peer.id);
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

const MARKS = { up: "●", dead: "✕", left: "◌", rumour: "◇" };
const ORDER = { dead: 0, up: 1, rumour: 2, left: 3 };
const COLUMNS = [
  { key: "name", label: "Name", of: (p) => visible(p.name) || "–", by: (p) => p.name.toLowerCase() || "\uffff" },
  { key: "short", label: "Id", cls: "id short", of: (p) => short(p.id), by: (p) => p.id },
  { key: "addr", label: "Address", cls: "mono addr", of: (p) => p.addr, by: (p) => p.addr },
  { key: "state", label: "State", by: (p) => ORDER[p.state] },
  { key: "since", label: "Since", cls: "number", of: (p) => duration(p.since_s), by: (p) => p.since_s },
  { key: "rtt", label: "RTT ms", cls: "number", of: (p) => millis(p.rtt_ms), by: (p) => p.rtt_ms ?? Infinity },
  { key: "min", label: "RTT min", cls: "number", of: (p) => millis(p.rtt_min_ms), by: (p) => p.rtt_min_ms ?? Infinity },
  { key: "mean", label: "RTT avg", cls: "number", of: (p) => millis(p.rtt_mean_ms), by: (p) => p.rtt_mean_ms ?? Infinity },
  { key: "in", label: "Pings in", cls: "number", of: (p) => String(p.pings_received), by: (p) => p.pings_received },
  { key: "out", label: "Pings out", cls: "number", of: (p) => String(p.pings_sent), by: (p) => p.pings_sent },
  { key: "back", label: "Reconnects", cls: "number", of: (p) => String(p.reconnects), by: (p) => p.reconnects },
  { key: "silence", label: "Silence", cls: "number silence", of: (p) => duration(p.silence_s), by: (p) => p.silence_s ?? Infinity },
];

let status = null;
let peers = [];
let sort = { key: "name", up: true };
let last = null;
// Round-trip times as the drawing shows them: the last one alone would make it tremble.
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
  row.addEventListener("pointerenter", () => point(id, true));
  row.addEventListener("pointerleave", () => point(id, false));
  return { row, cells };
}

// The row and the node of one peer belong together.
function point(id, on) {
  rows.get(id)?.row.classList.toggle("seen", on);
  nodes.get(id)?.group.classList.toggle("seen", on);
}

function showTable() {
  const wanted = $("filter").value.trim().toLowerCase();
  const matches = (p) => !wanted || `${p.name} ${p.id} ${p.addr} ${p.state}`.toLowerCase().includes(wanted);
  const by = COLUMNS.find((column) => column.key === sort.key).by;
  const compare = (a, b) => (by(a) < by(b) ? -1 : by(a) > by(b) ? 1 : a.id < b.id ? -1 : 1) * (sort.up ? 1 : -1);
  const shown = peers.filter(matches).sort(compare);
  const ids = new Set(shown.map((p) => p.id));
  for (const [id, { row }] of rows) if (!ids.has(id)) { row.remove(); rows.delete(id); }
  shown.forEach((peer, n) => {
    if (!rows.has(peer.id)) rows.set(peer.id, makeRow(peer.id));
    const { row, cells } = rows.get(peer.id);
    row.dataset.id = peer.id;
    row.dataset.state = peer.state;
    COLUMNS.forEach((column, i) => {
      if (column.key !== "state") return say(cells[i], column.of(peer));
      const [mark, word] = cells[i].children;
      say(mark, MARKS[peer.state] ?? "");
      say(word, peer.state);
      mark.className = `mark word ${peer.state}`;
      word.className = `word ${peer.state}`;
    });
    row.classList.toggle("late", peer.silence_s > status.node.timeout_s / 2);
    if ($("rows").children[n] !== row) $("rows").insertBefore(row, $("rows").children[n] ?? null);
  });
  for (const column of COLUMNS) {
    if (column.key === sort.key) set(column.head, "aria-sort", sort.up ? "ascending" : "descending");
    else column.head.removeAttribute("aria-sort");
  }
  $("nobody").hidden = shown.length > 0;
  say($("nobody"), peers.length ? "Nobody matches." : "Nobody else is here yet.");
}
$("filter").addEventListener("input", () => status && showTable());

// ---- the drawing: distance is the round-trip time, on a logarithmic scale

const INNER = 70, OUTER = 190, RIM = 216;
// An angle at the top where nobody is, for the names of the rings.
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
  group.addEventListener("pointerenter", () => point(peer.id, true));
  group.addEventListener("pointerleave", () => point(peer.id, false));
  const link = draw("line", { class: "link" });
  return { group, label, title, link, x: 0, y: 0 };
}

function smoothen() {
  const next = ({ id, rtt_ms }) => [id, (smooth.get(id) ?? rtt_ms) * 0.75 + rtt_ms * 0.25];
  smooth = new Map(peers.filter((p) => p.rtt_ms !== null).map(next));
}

function showMesh() {
  const { radius, ...range } = scale(smooth.size ? [...smooth.values()] : [1]);
  showRings({ radius, ...range });
  // Everybody keeps a place for as long as the set of peers stays the same.
  const placed = [...peers].sort((a, b) => (called(a) + a.id < called(b) + b.id ? -1 : 1));
  const size = placed.length > 60 ? 4 : placed.length > 24 ? 5.5 : 8;
  const isCrowd = placed.length > 14;
  const [width, height] = narrow.matches ? [270, 250] : [330, isCrowd ? 280 : 250];
  set($("mesh"), "viewBox", `${-width} ${-height} ${2 * width} ${2 * height}`);
  $("mesh").classList.toggle("crowd", placed.length > 24);
  const known = new Set(placed.map((p) => p.id));
  for (const [id, node] of nodes) if (!known.has(id)) { node.group.remove(); node.link.remove(); nodes.delete(id); }
  placed.forEach((peer, n) => {
    if (!nodes.has(peer.id)) {
      const node = makeNode(peer);
      nodes.set(peer.id, node);
      $("nodes").append(node.group);
      $("links").append(node.link);
    }
    const node = nodes.get(peer.id);
    const turn = (GAP - Math.PI) / 2 + (n + 0.5) / placed.length * (2 * Math.PI - GAP);
    const isUp = peer.state === "up";
    const r = isUp ? radius(smooth.get(peer.id) ?? 10 ** range.low) : RIM;
    node.x = Math.cos(turn) * r;
    node.y = Math.sin(turn) * r;
    set(node.group, "transform", `translate(${node.x.toFixed(1)} ${node.y.toFixed(1)})`);
    for (const word of ["up", "dead", "left", "rumour"]) node.group.classList.toggle(word, word === peer.state);
    node.group.classList.toggle("unnamed", isUp && placed.length > (narrow.matches ? 24 : NAMES_MAX));
    node.group.dataset.state = peer.state;
    const shape = peer.state === "rumour" ? `M0 ${-size}L${size} 0L0 ${size}L${-size} 0z` : `M${-size} 0a${size} ${size} 0 1 1 0 .01z`;
    set(node.group.querySelector(".shape"), "d", shape);
    set(node.group.querySelector(".back"), "r", size + 1);
    set(node.group.querySelector(".halo"), "r", size + 8);
    const half = size * 0.5;
    set(node.group.querySelector(".cross"), "d", peer.state === "dead" ? `M${-half} ${-half}L${half} ${half}M${half} ${-half}L${-half} ${half}` : "");
    showLabel(node, peer, turn, isCrowd, size);
    say(node.title, `${called(peer)}, ${peer.state}${peer.rtt_ms === null ? "" : `, ${millis(peer.rtt_ms)} ms`}`);
    set(node.link, "x2", node.x.toFixed(1));
    set(node.link, "y2", node.y.toFixed(1));
    set(node.link, "class", isUp ? `link rtt${speed(smooth.get(peer.id) ?? 0)}` : "link");
  });
  showAsymmetry();
}

// A few names stand upright beside their nodes; many stand along the rays.
function showLabel(node, peer, turn, isCrowd, size) {
  const name = called(peer);
  const room = narrow.matches ? 8 : isCrowd ? 14 : 18;
  say(node.label, name.length > room ? `${name.slice(0, room - 1)}…` : name);
  const isLeft = Math.cos(turn) < -0.01;
  if (isCrowd) {
    const degrees = turn * 180 / Math.PI + (isLeft ? 180 : 0);
    set(node.label, "transform", `rotate(${degrees.toFixed(1)})`);
    set(node.label, "x", isLeft ? -size - 5 : size + 5);
    set(node.label, "y", 3.5);
    set(node.label, "text-anchor", isLeft ? "end" : "start");
  } else {
    node.label.removeAttribute("transform");
    const isSide = Math.abs(Math.cos(turn)) > 0.5;
    set(node.label, "x", isSide ? (isLeft ? -size - 6 : size + 6) : 0);
    set(node.label, "y", isSide ? 4 : Math.sin(turn) < 0 ? -size - 6 : size + 15);
    set(node.label, "text-anchor", isSide ? (isLeft ? "end" : "start") : "middle");
  }
}

function showAsymmetry() {
  const byId = new Map(peers.map((p) => [p.id, p]));
  const apart = peers.filter((p) => p.reached_by.length);
  $("asymmetry").hidden = apart.length === 0;
  const lines = [], items = [];
  for (const peer of apart) {
    const names = peer.reached_by.map((id) => byId.has(id) ? called(byId.get(id)) : short(id));
    items.push(`${called(peer)} is connected to ${names.join(", ")}, but not to this node.`);
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

// A ping runs along its link.
function pulse(id) {
  const node = nodes.get(id);
  if (!node || still.matches || document.hidden || $("pulses").childElementCount >= PULSES_MAX) return;
  const dot = draw("circle", { class: "pulse", r: 3 });
  $("pulses").append(dot);
  const at = (x, y) => ({ transform: `translate(${x}px, ${y}px)` });
  dot.animate([at(node.x, node.y), at(node.x * 0.12, node.y * 0.12)], { duration: 700, easing: "ease-in-out" }).onfinish = () => dot.remove();
}

// ---- numbers and words

function showNumbers() {
  const times = peers.map((p) => p.rtt_ms).filter((ms) => ms !== null).sort((a, b) => a - b);
  const now = { at: performance.now(), in: status.totals.bytes_received, out: status.totals.bytes_sent };
  const gap = last ? (now.at - last.at) / 1000 : 0;
  const rate = (way) => gap > 0 && now[way] >= last[way] ? bytes((now[way] - last[way]) / gap) : ["–", ""];
  const failed = status.totals.handshakes_dialled_failed + status.totals.handshakes_accepted_failed;
  const median = times.length ? times[Math.floor((times.length - 1) / 2)] : null;
  const numbers = [
    ["Up", status.peers.up], ["Dead", status.peers.dead, "", status.peers.dead > 0], ["Left", status.peers.left],
    ["Heard of", status.peers.rumour], ["Median RTT", millis(median), median === null ? "" : "ms"],
    ["Received", ...rate("in")], ["Sent", ...rate("out")], ["Handshakes failed", failed],
    ["Dials open", status.dials_in_flight],
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
    say(dt, name);
    say(dd.children[0], String(value));
    say(dd.children[1], unit);
    list.children[n].classList.toggle("bad", isBad);
  });
}

function summary() {
  const { dead, up, rumour } = status.peers;
  if (!status.joined) return "Not joined yet: no --connect address answers";
  if (!up) return dead ? `Alone: ${count(dead, "peer")} dead` : "Alone so far";
  const trouble = [dead && `${dead} dead`, rumour && `${rumour} not met yet`].filter(Boolean);
  return [count(status.members, "member"), ...(trouble.length ? trouble : ["all links up"])].join(", ");
}

function show() {
  const { node } = status;
  const name = visible(node.name) || short(node.id);
  say($("name"), name);
  say($("hub-name"), name.length > 24 ? `${name.slice(0, 23)}…` : name);
  document.title = `${status.members} · ${name} – p2p-gossip`;
  const uptime = Math.max(0, (Date.parse(status.time) - Date.parse(node.started)) / 1000);
  say($("self"), `${short(node.id)} · ${node.addr} · up ${duration(uptime)} · ${node.program}`);
  $("self").title = node.id;
  say($("summary"), summary());
  say($("mesh-text"), `${name} in the middle; ${summary()}. The nearer a peer, the shorter its round-trip time. The table of members says the same in words.`);
  say($("clock"), clock(new Date(status.time)));
  showNumbers();
  showTable();
  smoothen();
  showMesh();
}

// ---- events

function describe(event) {
  const who = event.peer ? `${visible(event.name) || short(event.peer)} ${event.addr}` : "";
  switch (event.event) {
    case "listening": return `at ${event.addr}`;
    case "down": return `${who}, ${event.reason}`;
    case "ping": return `${who} #${event.seq}${event.rtt_ms === null ? "" : `, ${millis(event.rtt_ms)} ms`} ${visible(event.text)}`;
    case "message": return `${who}: ${visible(event.text)}`;
    default: return who;
  }
}

function tell(event) {
  if (event.event === "ping") pulse(event.peer);
  if (event.event === "ping" && !$("pings").checked) return;
  const item = make("li"), time = make("time", "", clock(new Date(event.time)));
  time.dateTime = event.time;
  item.append(time, make("span", `word ${event.event.replace(/[^a-z]/g, "")}`, event.event), make("span", "what", describe(event)));
  $("events").prepend(item);
  while ($("events").childElementCount > EVENTS_SHOWN) $("events").lastChild.remove();
  $("quiet").hidden = true;
}

let source = null;
function listen() {
  source?.close();
  source = new EventSource(`/events?recent=50`);
  let isFirst = true;
  source.onopen = () => { if (isFirst) { $("events").replaceChildren(); isFirst = false; } };
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    tell(event);
    if (event.event !== "ping" && event.event !== "message") look();
  };
  // The browser itself comes back after a broken connection, but not after a refusal.
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5 * POLL_MS); };
}

// ---- looking, and knowing when there is nothing to see

let lostAt = null;
function lost() {
  lostAt ??= new Date();
  document.body.classList.add("stale");
  const since = status ? ` Below is what it said at ${clock(new Date(status.time))}.` : "";
  say($("banner"), `No answer from the node at ${location.host} since ${clock(lostAt)}.${since} Trying again every second…`);
  $("banner").hidden = false;
}
function found() {
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

let timer = 0, isLooking = false, isWanted = false;
async function look() {
  if (isLooking) { isWanted = true; return; }
  isLooking = true;
  clearTimeout(timer);
  let seen = null;
  try {
    seen = await Promise.all([get("/status"), get("/peers")]);
  } catch (error) {
    lost();
  }
  isLooking = false;
  // A snapshot may be 200 ms old: what an event announced is in the next one.
  timer = setTimeout(look, isWanted ? 250 : POLL_MS);
  isWanted = false;
  if (!seen) return;
  status = seen[0];
  peers = seen[1].peers;
  found();
  show();
}
// A page that nobody sees does not look.
document.addEventListener("visibilitychange", () => { if (document.hidden) clearTimeout(timer); else look(); });

narrow.addEventListener("change", () => status && showMesh());

listen();
look();
