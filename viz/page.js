"use strict";
// The interactive page of a recorded graph. It reads one block of JSON and draws everything itself; no text of the
// recording ever goes through an HTML parser (textContent only), so names cannot become markup.
(() => {
const $ = (id) => document.getElementById(id);
const began = performance.now();

// ---------------------------------------------------------------------------------------------- small helpers

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) made.append(child);
  return made;
}
function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  return made;
}
function fmt(x) {
  if (x === null || x === undefined) return "—";
  if (typeof x !== "number") return String(x);               // "NaN", "Infinity": JSON has no words for them
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (Number.isInteger(x) && size < 1e6) return String(x);
  if (size >= 1e5 || size < 1e-3) return x.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(x.toPrecision(4)));
}
const number = (x) => (typeof x === "string" ? Number(x) : x);
function bytes(n) {
  if (n === null || n === undefined) return "—";
  for (const unit of ["B", "kB", "MB", "GB"]) { if (n < 1000 || unit === "GB") return `${unit === "B" ? n : n.toFixed(1)} ${unit}`; n /= 1000; }
}
function count(n) {
  if (n === null || n === undefined) return "—";
  return n < 1e4 ? String(n) : n < 1e6 ? `${(n / 1e3).toFixed(1)} k` : n < 1e9 ? `${(n / 1e6).toFixed(2)} M` : `${(n / 1e9).toFixed(2)} G`;
}
const seconds = (t) => (t === null || t === undefined ? "—" : t < 1e-3 ? `${(t * 1e6).toFixed(0)} µs` : t < 1 ? `${(t * 1e3).toFixed(2)} ms` : `${t.toFixed(2)} s`);
const shapeText = (s) => (!s ? "?" : s.length === 0 ? "scalar" : s.length === 1 ? `(${s[0]},)` : `(${s.join(", ")})`);
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function base64(text) {
  const binary = atob(text), out = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) out[i] = binary.charCodeAt(i);
  return out;
}
function floats(array) {   // {shape, b}: little-endian float32
  if (!array.values) array.values = new Float32Array(base64(array.b).buffer);
  return array.values;
}

// ---------------------------------------------------------------------------------------------- reading the data

function rowsOf(table) {
  // A column is a list, {c: one value for all}, or {d: distinct values, i: their positions}.
  const rows = Array.from({ length: table.n }, () => ({}));
  for (const [key, column] of Object.entries(table.columns)) {
    if (Array.isArray(column)) column.forEach((value, i) => { rows[i][key] = value; });
    else if ("c" in column) rows.forEach((row) => { row[key] = column.c; });
    else column.i.forEach((k, i) => { rows[i][key] = column.d[k]; });
  }
  return rows;
}
const data = JSON.parse($("data").textContent);
const nodes = rowsOf(data.nodes);
const modules = rowsOf(data.modules);
const walk = rowsOf(data.backward);      // {n, to: [[position, node, own, total], ...], freed, before, after, time}
const isLeafName = (node) => node.role !== "op";
nodes.forEach((node, i) => {
  node.i = i;
  if (typeof node.key === "number") node.id = `${node.scope >= 0 ? modules[node.scope].path + "/" : ""}${node.op}:${node.key}`;
  else node.id = node.key;
  if (!isLeafName(node)) node.name = node.name || null; else node.name ||= node.id;
  node.literals ||= []; node.args ||= []; node.rules ||= []; node.saved ||= []; node.diff ||= "same";
  node.out = [];                         // [consumer, position]
  node.arrivals = [];                    // indices into steps, filled below
  node.back = null;
});
nodes.forEach((node) => node.inputs.forEach((s, p) => { if (s !== null && s >= 0) nodes[s].out.push([node.i, p]); }));
// A summary is [min, max, mean, std, norm, share of zeros, NaN and infinities, histogram, values, maps].
const S = { min: 0, max: 1, mean: 2, std: 3, norm: 4, zeros: 5, bad: 6, hist: 7, values: 8, maps: 9 };
const norm = (s) => (s ? number(s[S.norm]) : null);
const isOp = (node) => node.role === "op";
const label = (node) => (isOp(node) ? node.op : (node.name || node.role).split(".").slice(-2).join("."));
const role = (node) => (node.role === "parameter" && !node.out.some(([t]) => nodes[t].scope >= 0) ? "leaf" : node.role);
const full = (node) => (isOp(node) ? node.id : node.name.startsWith(`${node.role}:`) ? node.name : `${role(node)} ${node.name}`);

modules.forEach((module, m) => { module.m = m; module.depth = module.parent >= 0 ? modules[module.parent].depth + 1 : 1; module.members = []; module.kids = []; });
modules.forEach((module) => { if (module.parent >= 0) modules[module.parent].kids.push(module.m); });
const homes = nodes.map((node) => (isOp(node) || !node.out.length ? node.scope : nodes[node.out[0][0]].scope));
homes.forEach((m, i) => { for (let k = m; k >= 0; k = modules[k].parent) modules[k].members.push(i); });
modules.forEach((module) => {
  module.ops = module.members.filter((i) => isOp(nodes[i]));
  module.result = module.ops.length ? module.ops[module.ops.length - 1] : module.members[0];
  module.params = module.members.reduce((sum, i) => sum + (nodes[i].role === "parameter" ? nodes[i].params || 0 : 0), 0);
});

// ---------------------------------------------------------------------------------------------- steps

const steps = [{ kind: "start" }];
const forwardAt = new Map();
for (const node of nodes) if (isOp(node) && node.diff !== "added") { forwardAt.set(node.i, steps.length); steps.push({ kind: "forward", n: node.i }); }
const firstBack = steps.length;
if (walk.length) {
  steps.push({ kind: "seed", n: walk[0].n });
  for (const record of walk) {
    const node = nodes[record.n];
    node.back = record;
    record.step = steps.length;
    record.to = (record.to || []).map(([position, target, own, total]) => ({ position, target, own, total, from: record.n, step: record.step }));
    for (const c of record.to) { nodes[c.target].arrivals.push(c); }
    steps.push({ kind: "backward", n: record.n, record });
  }
  for (const node of nodes) node.arrivals.forEach((c, k) => { c.k = k + 1; c.of = node.arrivals.length; });
  steps.push({ kind: "done" });
}
const seeds = new Set(walk.length ? data.outputs || [walk[0].n] : []);
// A gradient that equals the final one of its target was not written twice.
const contributionGrad = (c) => c.own || nodes[c.target].grad;
const sumGrad = (c) => c.total || nodes[c.target].grad;
const upstreamOf = (record) => record.g || nodes[record.n].grad;

// Bytes alive after each step: the engine keeps inputs and results of every op until its backward step.
const alive = (() => {
  const out = new Array(steps.length).fill(0);
  let held = 0;
  steps.forEach((step, s) => {
    if (step.kind === "forward") held += nodes[step.n].bytes || 0;
    if (step.kind === "backward") {
      if (step.record.after !== null && step.record.after !== undefined) held = step.record.after;
      else if (step.record.freed) held -= nodes[step.n].bytes || 0;
    }
    if (step.kind === "seed" && walk[0].before !== null && walk[0].before !== undefined) held = walk[0].before;
    out[s] = Math.max(0, held);
  });
  return out;
})();
const mostAlive = Math.max(1, ...alive);

// ---------------------------------------------------------------------------------------------- state

const state = {
  step: 0, selected: -1, collapsed: new Set(), zoom: 1, paint: "kind", pictures: null, hits: null, dim: null, path: null,
  predict: false, quiz: null, score: [0, 0], asked: new Set(), breaking: false, playing: null, speed: 900, view: "graph", frame: -1, focus: 0,
};

// ---------------------------------------------------------------------------------------------- which boxes are seen

function collapsedHome(i) {   // the outermost collapsed module this node is in, or -1
  let found = -1;
  for (let m = homes[i]; m >= 0; m = modules[m].parent) if (state.collapsed.has(m)) found = m;
  return found;
}
function collapseToDepth(depth) {
  state.collapsed.clear();
  if (depth !== null) for (const module of modules) if (module.depth >= depth && module.ops.length > 1) state.collapsed.add(module.m);
}
const deepest = modules.reduce((most, module) => (module.ops.length > 1 ? Math.max(most, module.depth) : most), 0);
function visibleCount() {
  const seen = new Set();
  for (let i = 0; i < nodes.length; i++) { const m = collapsedHome(i); seen.add(m >= 0 ? -1 - m : i); }
  return seen.size;
}
// Open as deep as stays readable: a network of a thousand ops starts as its blocks.
(function firstDepth() {
  if (data.depth !== undefined && data.depth !== null) return collapseToDepth(data.depth > deepest ? null : data.depth);
  if (nodes.length <= 150) return collapseToDepth(null);
  for (let depth = deepest; depth >= 1; depth--) { collapseToDepth(depth); if (visibleCount() <= 120) return undefined; }
  return collapseToDepth(deepest ? 1 : null);
})();

// ---------------------------------------------------------------------------------------------- layout
//
// Layered (Sugiyama, Tagawa & Toda, 1981): ranks by longest path, dummies on long edges, barycentre sweeps, and
// x by isotonic regression (pool adjacent violators) per layer. Parameters hang at the left of the op that reads
// them, so the chain of ops stays a straight line.

const SIZE = { op: [176, 76], leaf: [136, 58], input: [156, 76], group: [196, 78], gapX: 26, gapY: 44 };
const LONG = 60;             // edges over more layers than this are drawn as one curve, without dummies

function arrange() {
  const boxes = new Map(), order = [];
  const boxOf = new Array(nodes.length);
  const withPictures = showsPictures();
  nodes.forEach((node, i) => {
    const m = collapsedHome(i), key = m >= 0 ? -1 - m : i;
    let box = boxes.get(key);
    if (!box) {
      const kind = m >= 0 ? "group" : isOp(node) ? "op" : hangs(node) ? "leaf" : "input";
      const [w, h] = SIZE[kind];
      box = { key, kind, node: i, module: m, w, h: h + (withPictures && kind !== "leaf" && picturable(kind === "group" ? nodes[modules[m].result] : node) ? 60 : 0), at: order.length, attached: [], host: null, rank: 0 };
      boxes.set(key, box); order.push(box);
    }
    boxOf[i] = box;
  });
  // Parameters and constants sit beside their first reader.
  for (const box of order) {
    if (box.kind !== "leaf") continue;
    const first = nodes[box.node].out.length ? boxOf[nodes[box.node].out[0][0]] : null;
    if (first && first !== box) { box.host = first; first.attached.push(box); }
  }
  const units = order.filter((box) => !box.host);
  units.sort((a, b) => firstOp(a) - firstOp(b));
  units.forEach((unit, u) => { unit.u = u; });
  for (const box of order) if (box.host) box.u = box.host.u;
  for (const unit of units) {
    const aw = unit.attached.length ? Math.max(...unit.attached.map((a) => a.w)) + 22 : 0;
    const ah = unit.attached.reduce((sum, a) => sum + a.h + 6, -6);
    unit.left = unit.w / 2 + aw; unit.right = unit.w / 2; unit.tall = Math.max(unit.h, ah);
  }
  const pairs = new Map(), edges = [];
  nodes.forEach((node, i) => node.inputs.forEach((s, p) => {
    if (s === null || s < 0) return;
    const a = boxOf[s], b = boxOf[i];
    if (a === b) return;
    const key = a.at * order.length + b.at;
    let edge = pairs.get(key);
    if (!edge) { edge = { a, b, uses: [] }; pairs.set(key, edge); edges.push(edge); }
    edge.uses.push([s, i, p]);
  }));
  const links = edges.filter((e) => e.a.u !== e.b.u && !(e.a.host === e.b));
  const frames = framesOf(boxOf);
  place(units, links, frames);
  for (const unit of units) {
    let y = unit.y - unit.attached.reduce((sum, a) => sum + a.h + 6, -6) / 2;
    for (const a of unit.attached) { a.x = unit.x - unit.w / 2 - 22 - a.w / 2; a.y = y + a.h / 2; y += a.h + 6; }
  }
  const downwards = [...order].sort((a, b) => a.y - b.y);
  const kept = frames.map((frame) => outline(frame, downwards)).filter((frame) => frame !== null);
  let minX = Infinity, maxX = -Infinity, minY = Infinity, maxY = -Infinity;
  for (const b of [...order.map((o) => [o.x - o.w / 2, o.x + o.w / 2, o.y - o.h / 2, o.y + o.h / 2]), ...kept.map((f) => [f.x0, f.x1, f.y0, f.y1])]) {
    minX = Math.min(minX, b[0]); maxX = Math.max(maxX, b[1]); minY = Math.min(minY, b[2]); maxY = Math.max(maxY, b[3]);
  }
  for (const edge of edges) for (const p of edge.via || []) { minX = Math.min(minX, p[0] - 8); maxX = Math.max(maxX, p[0] + 8); }
  const dx = 24 - minX, dy = 20 - minY;
  for (const box of order) { box.x += dx; box.y += dy; }
  for (const frame of kept) { frame.x0 += dx; frame.x1 += dx; frame.y0 += dy; frame.y1 += dy; }
  for (const edge of edges) for (const p of edge.via || []) { p[0] += dx; p[1] += dy; }
  ports(edges);
  return { boxes, order, boxOf, edges, pairs, frames: kept, width: maxX + dx + 110, height: maxY + dy + 30 };
}
function hangs(node) {   // whether a leaf is drawn beside its reader: parameters of a layer, labels, constants
  if (node.role === "input" || !node.out.length) return false;
  const reader = nodes[node.out[0][0]];
  if (node.out.length > 1 && reader.scope < 0) return false;
  return reader.inputs.some((s) => s !== null && s >= 0 && (isOp(nodes[s]) || nodes[s].role === "input"));
}
function firstOp(box) {
  if (box.kind === "group") return modules[box.module].ops[0] ?? modules[box.module].members[0];
  const node = nodes[box.node];
  return isOp(node) || !node.out.length ? node.i : node.out[0][0] - 0.5;   // a leaf comes just before its first reader
}
function framesOf(boxOf) {   // expanded modules of two boxes and more
  const out = [];
  for (const module of modules) {
    if (module.ops.length < 2) continue;
    let m = module.m;
    while (m >= 0 && !state.collapsed.has(m)) m = modules[m].parent;
    if (m >= 0) continue;
    out.push({ module, inside: new Set(module.members.map((i) => boxOf[i])) });
  }
  return out;
}
function place(units, links, frames) {
  const n = units.length;
  const succ = units.map(() => []), pred = units.map(() => []), waiting = new Int32Array(n);
  for (const e of links) { succ[e.a.u].push(e.b.u); pred[e.b.u].push(e.a.u); waiting[e.b.u]++; }
  const rank = new Int32Array(n), done = new Uint8Array(n), topo = [];
  let queue = [], next = 0;
  for (let u = 0; u < n; u++) if (!waiting[u]) queue.push(u);
  while (topo.length < n) {
    if (!queue.length) {        // a collapsed module that is entered twice makes a circle: go on with the oldest
      while (done[next]) next++;
      queue.push(next);
    }
    const later = [];
    for (const u of queue) {
      if (done[u]) continue;
      done[u] = 1; topo.push(u);
      for (const v of succ[u]) { if (done[v]) continue; if (rank[u] + 1 > rank[v]) rank[v] = rank[u] + 1; if (--waiting[v] === 0) later.push(v); }
    }
    queue = later;
  }
  // Sources move down to their reader, and so does what is computed from parameters alone.
  const aside = new Uint8Array(n);
  for (const u of topo) aside[u] = !pred[u].length || (units[u].kind === "op" && pred[u].every((v) => aside[v] && units[v].kind !== "group" && nodes[units[v].node].role !== "input")) ? 1 : 0;
  for (let k = n - 1; k >= 0; k--) {
    const u = topo[k];
    if (aside[u] && succ[u].length) rank[u] = Math.max(rank[u], Math.min(...succ[u].map((v) => rank[v])) - 1);
  }
  const ranks = n ? Math.max(...rank) + 1 : 0;
  const left = [], right = [], tall = [], level = [], up = [], down = [];
  for (let u = 0; u < n; u++) { left.push(units[u].left); right.push(units[u].right); tall.push(units[u].tall); level.push(rank[u]); up.push([]); down.push([]); }
  for (const e of links) {
    const a = e.a.u, b = e.b.u, span = rank[b] - rank[a];
    e.path = null;
    if (span < 1 || span > LONG) continue;
    let before = a;
    e.path = [];
    for (let r = rank[a] + 1; r < rank[b]; r++) {
      const d = left.length;
      left.push(7); right.push(7); tall.push(0); level.push(r); up.push([before]); down.push([]); down[before].push(d); e.path.push(d); before = d;
    }
    down[before].push(b); up[b].push(before);
  }
  const N = left.length, layers = Array.from({ length: ranks }, () => []), seen = new Uint8Array(N), pos = new Float64Array(N);
  for (let k = n - 1; k >= 0; k--) {   // depth first from the sinks, so that a branch starts out in one piece
    const stack = [topo[k]];
    while (stack.length) {
      const u = stack.pop();
      if (seen[u]) continue;
      seen[u] = 1; layers[level[u]].push(u);
      for (let j = up[u].length - 1; j >= 0; j--) stack.push(up[u][j]);
    }
  }
  const number = () => layers.forEach((L) => L.forEach((u, i) => { pos[u] = i; }));
  number();
  let best = crossings(layers, down, pos), kept = layers.map((L) => L.slice());
  const sweeps = N > 4000 ? 2 : 6;
  for (let s = 0; s < sweeps && best > 0; s++) {
    const near = s % 2 ? down : up;
    for (let q = 0; q < ranks; q++) {
      const L = layers[s % 2 ? ranks - 1 - q : q];
      if (L.length < 2) continue;
      const key = new Map(L.map((u) => [u, near[u].length ? near[u].reduce((sum, v) => sum + pos[v], 0) / near[u].length : pos[u]]));
      L.sort((a, b) => key.get(a) - key.get(b));
      L.forEach((u, i) => { pos[u] = i; });
    }
    const now = crossings(layers, down, pos);
    if (now < best) { best = now; kept = layers.map((L) => L.slice()); }
  }
  const x = new Float64Array(N);
  for (const L of kept) {
    let c = 0;
    for (const u of L) { x[u] = c + left[u]; c += left[u] + right[u] + SIZE.gapX; }
    for (const u of L) x[u] -= c / 2;
  }
  // An op follows the ops around it rather than edges that pass by: the main path stays straight, shortcuts bend.
  const wish = (u, near) => {
    let sum = 0, total = 0;
    const chain = u < n && near.some((v) => v < n && !aside[v]);
    for (const v of near) { const w = chain ? (v < n && !aside[v] ? 1 : 0) : u >= n && v < n ? 0.3 : 1; sum += w * x[v]; total += w; }
    return total ? sum / total : x[u];
  };
  for (let s = 0; s < 8; s++) {
    for (let q = 0; q < ranks; q++) {
      const L = kept[s % 2 ? ranks - 1 - q : q], near = s % 2 ? down : up;
      straighten(L, x, left, right, (u) => wish(u, near[u]), (u) => (u >= n ? 0.001 : aside[u] ? 0.02 : 1));
    }
  }
  // Rows: room above for the labels of frames that begin there, and below for their ends.
  const above = new Float64Array(ranks + 1), below = new Float64Array(ranks + 1);
  for (const frame of frames) {
    let low = Infinity, high = -1;
    for (const box of frame.inside) { low = Math.min(low, rank[box.u]); high = Math.max(high, rank[box.u]); }
    frame.low = low; frame.high = high;
  }
  const byModule = new Map(frames.map((frame) => [frame.module.m, frame]));
  const inner = [...frames].sort((a, b) => b.module.depth - a.module.depth);
  for (const frame of inner) {
    frame.top = 0; frame.bottom = 0; frame.side = 0;
    for (const kid of frame.module.kids) {
      const other = byModule.get(kid);
      if (!other) continue;
      frame.side = Math.max(frame.side, other.side + 1);
      if (other.low === frame.low) frame.top = Math.max(frame.top, other.top + 1);
      if (other.high === frame.high) frame.bottom = Math.max(frame.bottom, other.bottom + 1);
    }
    above[frame.low] = Math.max(above[frame.low], 22 * (frame.top + 1) + 4);
    below[frame.high] = Math.max(below[frame.high], 9 * (frame.bottom + 1));
  }
  let y = 0;
  const middle = new Float64Array(ranks), half = new Float64Array(ranks);
  const gap = n > 400 ? 34 : SIZE.gapY;
  kept.forEach((L, r) => {
    const h = Math.max(0, ...L.map((u) => tall[u]));
    y += above[r];
    middle[r] = y + h / 2; half[r] = h / 2;
    y += h + gap + below[r];
  });
  for (let u = 0; u < n; u++) { units[u].x = x[u]; units[u].y = middle[rank[u]]; units[u].rank = rank[u]; }
  // An edge goes straight down through a row and bends between rows, so it stays clear of the boxes beside it.
  for (const e of links) e.via = e.path ? e.path.flatMap((d) => [[x[d], middle[level[d]] - half[level[d]]], [x[d], middle[level[d]] + half[level[d]]]]) : null;
}
function crossings(layers, down, pos) {
  let total = 0;
  for (const L of layers) {
    const ends = [];
    for (const u of L) if (down[u].length) ends.push(...down[u].map((v) => pos[v]).sort((a, b) => a - b));
    const most = ends.length ? Math.max(...ends) + 1 : 0, tree = new Int32Array(most + 1);
    ends.forEach((value, k) => {
      let smaller = 0;
      for (let i = value + 1; i > 0; i -= i & -i) smaller += tree[i];
      total += k - smaller;
      for (let i = value + 1; i <= most; i += i & -i) tree[i]++;
    });
  }
  return total;
}
function straighten(L, x, left, right, wish, weight) {
  // The nearest positions to the wishes that keep order and distance: isotonic regression after subtracting offsets.
  const blocks = [];
  let offset = 0;
  L.forEach((u, k) => {
    if (k) offset += right[L[k - 1]] + left[u] + SIZE.gapX;
    const w = weight(u);
    blocks.push([(wish(u) - offset) * w, w, 1]);
    while (blocks.length > 1 && blocks[blocks.length - 2][0] / blocks[blocks.length - 2][1] > blocks[blocks.length - 1][0] / blocks[blocks.length - 1][1]) {
      const top = blocks.pop(), last = blocks[blocks.length - 1];
      last[0] += top[0]; last[1] += top[1]; last[2] += top[2];
    }
  });
  let k = 0;
  offset = 0;
  for (const [sum, w, size] of blocks) {
    for (let j = 0; j < size; j++, k++) {
      if (k) offset += right[L[k - 1]] + left[L[k]] + SIZE.gapX;
      x[L[k]] = sum / w + offset;
    }
  }
}
function outline(frame, downwards) {
  let x0 = Infinity, x1 = -Infinity, y0 = Infinity, y1 = -Infinity;
  for (const box of frame.inside) {
    x0 = Math.min(x0, box.x - box.w / 2); x1 = Math.max(x1, box.x + box.w / 2);
    y0 = Math.min(y0, box.y - box.h / 2); y1 = Math.max(y1, box.y + box.h / 2);
  }
  x0 -= 8 + 7 * frame.side; x1 += 8 + 7 * frame.side; y0 -= 22 * (frame.top + 1) + 2; y1 += 7 + 7 * frame.bottom;
  let k = 0, end = downwards.length;   // the first box that can reach down into the frame
  while (k < end) { const half = (k + end) >> 1; if (downwards[half].y < y0 - 200) k = half + 1; else end = half; }
  for (; k < downwards.length && downwards[k].y < y1 + 200; k++) {   // a frame around strangers says something false: leave it away
    const box = downwards[k];
    if (!frame.inside.has(box) && box.x + box.w / 2 > x0 && box.x - box.w / 2 < x1 && box.y + box.h / 2 > y0 && box.y - box.h / 2 < y1) return null;
  }
  return { module: frame.module, x0, x1, y0, y1 };
}
function ports(edges) {
  const into = new Map();
  for (const e of edges) if (e.a.host !== e.b) { if (!into.has(e.b)) into.set(e.b, []); into.get(e.b).push(e); }
  for (const [box, list] of into) {
    const from = (e) => (e.via && e.via.length ? e.via[e.via.length - 1][0] : e.a.x);
    list.sort((p, q) => from(p) - from(q));
    const gap = Math.min(30, box.w / (list.length + 1));
    list.forEach((e, k) => { e.end = [box.x + (k - (list.length - 1) / 2) * gap, box.y - box.h / 2]; });
  }
  for (const e of edges) {
    if (e.a.host === e.b) { e.start = [e.a.x + e.a.w / 2, e.a.y]; e.end = [e.b.x - e.b.w / 2, Math.max(e.b.y - e.b.h / 2 + 8, Math.min(e.b.y + e.b.h / 2 - 8, e.a.y))]; } else e.start = [e.a.x, e.a.y + e.a.h / 2];
    e.d = curve(e);
  }
}
function curve(e) {
  const f = (v) => Math.round(v * 10) / 10;
  let [x, y] = e.start;
  if (e.a.host === e.b) return `M${f(x)} ${f(y)}L${f(e.end[0])} ${f(e.end[1])}`;
  let d = `M${f(x)} ${f(y)}`;
  const points = [...(e.via || []), e.end];
  if (!e.via && (e.end[1] < y || e.end[1] - y > 3000)) {   // upwards, or very long: around the side
    const side = Math.max(e.a.x + e.a.w / 2, e.b.x + e.b.w / 2) + 40;
    return `${d}C${f(side)} ${f(y + 40)} ${f(side)} ${f(e.end[1] - 40)} ${f(e.end[0])} ${f(e.end[1])}`;
  }
  for (const [px, py] of points) {
    if (Math.abs(px - x) < 0.6) d += `L${f(px)} ${f(py)}`;
    else { const half = (py - y) / 2; d += `C${f(x)} ${f(y + half)} ${f(px)} ${f(py - half)} ${f(px)} ${f(py)}`; }
    x = px; y = py;
  }
  return `${d}M${f(x - 4)} ${f(y - 6)}L${f(x)} ${f(y - 1)}L${f(x + 4)} ${f(y - 6)}`;
}

// ---------------------------------------------------------------------------------------------- drawing

// Colours after Okabe & Ito, the same as in the still pictures. The op's name always stands beside its colour.
const FAMILY = [
  ["conv", /conv/], ["pool", /pool/], ["norm", /norm/], ["loss", /loss/], ["dense", /linear|matmul|einsum/],
  ["activation", /activ|softmax/], ["elementwise", /elementwise/],
];
const FAMILY_NAMES = { conv: "convolution", pool: "pooling", norm: "normalisation", loss: "loss", dense: "matrix product", activation: "activation", elementwise: "elementwise", other: "other op", parameter: "leaf with a gradient", input: "input" };
function family(node) {
  if (!isOp(node)) return node.role === "parameter" ? "parameter" : "input";
  for (const [name, pattern] of FAMILY) if (pattern.test(node.op) || pattern.test(node.family || "")) return name;
  return "other";
}
nodes.forEach((node) => { node.color = family(node); });

const elements = new Map();   // box key -> element
let drawing = null, world = null, frameLayer = null, edgeLayer = null, nodeLayer = null, litLayer = null, chipLayer = null;

function picturable(node) { return Boolean(node.data && (node.data[S.maps] || (node.data[S.hist] && !(node.data[S.values] && node.data[S.values].length <= 8)))); }
function showsPictures() { return state.pictures === null ? nodes.some((n) => n.data && n.data[S.maps]) && nodes.length <= 120 : state.pictures; }
const boxNode = (box) => (box.kind === "group" ? nodes[modules[box.module].result] : nodes[box.node]);

function draw() {
  drawing = arrange();
  if (!world) {
    world = el("div", { id: "world" });
    edgeLayer = svg("svg", { class: "edges", "aria-hidden": "true" });
    litLayer = svg("svg", { class: "lit", "aria-hidden": "true" });
    [frameLayer, nodeLayer, chipLayer] = [0, 1, 2].map(() => el("div", { class: "layer" }));
    world.append(frameLayer, edgeLayer, nodeLayer, litLayer, chipLayer);
    $("canvas").replaceChildren(world);
  }
  const used = new Set(), fresh = document.createDocumentFragment();
  const near = (y) => y > seenTop - 1200 && y < seenTop + 2400;
  late = [];
  drawFrames();
  for (const box of drawing.order) {
    let e = elements.get(box.key);
    if (!e) { e = nodeElement(box); elements.set(box.key, e); }
    used.add(box.key);
    box.e = e;
    e.box = box;
    if (!e.isConnected) fresh.append(e);
    if (near(box.y)) put(box);
    else { if (e.at === undefined) e.hidden = true; late.push(box); }
  }
  for (const [key, e] of elements) {   // hiding is much quicker than removing
    if (used.has(key) || e.hidden) continue;
    e.box = null;
    if (e.y === undefined || near(e.y)) e.hidden = true; else late.push(e);
  }
  nodeLayer.append(fresh);
  $("canvas").setAttribute("aria-busy", String(late.length > 0));
  settleSoon();
  // Many paths in one element: a few hundred segments are quicker to paint than a few hundred elements.
  const chunks = { plain: [], thin: [] };
  for (const e of drawing.edges) chunks[e.a.host === e.b || e.a.kind === "leaf" ? "thin" : "plain"].push(e.d);
  edgeLayer.replaceChildren();
  for (const [name, list] of Object.entries(chunks)) for (let k = 0; k < list.length; k += 60) edgeLayer.append(svg("path", { d: list.slice(k, k + 60).join(""), class: name }));
  resize();
  refresh(false);
  minimapSoon();
}
// Boxes far from what is seen get their places after the frame is out, a slice at a time, or at once when they are
// about to be seen.
let late = [], seenTop = 0, settling = false;
function put(box) {
  const e = box.e, at = `translate(${Math.round(box.x - box.w / 2)}px,${Math.round(box.y - box.h / 2)}px)`, size = `${box.w}px ${box.h}px`;
  if (e.at !== at) { e.at = at; e.style.transform = at; e.y = box.y; }
  if (e.size !== size) { e.size = size; e.style.width = `${box.w}px`; e.style.height = `${box.h}px`; }
  if (e.hidden) e.hidden = false;
}
function settle(most) {
  for (const item of late.splice(0, most)) {
    if (item.e) put(item);
    else if (!item.box) item.hidden = true;
  }
  if (!late.length) $("canvas").setAttribute("aria-busy", "false");
}
function settleSoon() {
  if (settling || !late.length) return;
  settling = true;
  requestAnimationFrame(() => setTimeout(() => { settling = false; settle(250); settleSoon(); }));
}
function resize() {
  world.style.width = `${drawing.width}px`; world.style.height = `${drawing.height}px`;
  for (const layer of [edgeLayer, litLayer]) { layer.setAttribute("width", drawing.width); layer.setAttribute("height", drawing.height); }
  world.style.transform = state.zoom === 1 ? "" : `scale(${state.zoom})`;
  // A transformed child keeps its layout size; a negative margin takes the rest of the scroll area away.
  world.style.marginLeft = `${left()}px`;
  world.style.marginRight = `${drawing.width * (state.zoom - 1)}px`; world.style.marginBottom = `${drawing.height * (state.zoom - 1)}px`;
}
// A graph narrower than the stage stands in its middle.
let stageWidth = 0;   // remembered: asking for it in the middle of a change would lay the page out twice
const left = () => Math.max(0, (stageWidth - (drawing.width - 60) * state.zoom) / 2 - 10);
function nodeElement(box) {
  const node = boxNode(box);
  const e = el("button", { type: "button", tabindex: "-1", class: "node" },
    el("span", { class: "k" }), el("span", { class: "s" }), el("span", { class: "v" }), el("span", { class: "g" }));
  if (box.kind === "leaf" || box.kind === "input") e.classList.add("leaf");
  if (box.kind === "group") e.classList.add("group");
  [e.k, e.s, e.v, e.g] = e.children;
  return e;
}
const frameElements = new Map();   // module -> its frame; kept, because making their labels anew takes time
function drawFrames() {
  const used = new Set(), fresh = [];
  for (const frame of drawing.frames) {
    const module = frame.module, name = `${short(module.path)}${module.path === module.cls ? "" : ` ${module.cls}`}`;
    let f = frameElements.get(module.m);
    if (!f) {
      f = el("div", { class: "frame" }, el("button", { type: "button", text: `▾ ${name}`, title: `Collapse ${module.path}`, "data-module": module.m, "aria-label": `Collapse module ${module.path}`, tabindex: "-1" }));
      frameElements.set(module.m, f);
      fresh.push(f);
    }
    used.add(module.m);
    if (f.hidden) f.hidden = false;
    const at = `translate(${Math.round(frame.x0)}px,${Math.round(frame.y0)}px)`, size = `${Math.round(frame.x1 - frame.x0)} ${Math.round(frame.y1 - frame.y0)}`;
    if (f.at !== at) { f.at = at; f.style.transform = at; }
    if (f.size !== size) { f.size = size; [f.style.width, f.style.height] = size.split(" ").map((v) => `${v}px`); }
    f.depth = module.depth;
  }
  for (const [m, f] of frameElements) if (!used.has(m) && !f.hidden) f.hidden = true;
  if (fresh.length) frameLayer.replaceChildren(...[...frameElements.values()].sort((a, b) => a.depth - b.depth));   // inner frames on top
}
const short = (path) => { const cut = path.split("."); return cut.length > 1 ? cut.slice(1).join(".") : path; };

function valueText(s, what) {
  if (!s) return "";
  if (s[S.bad]) return `${s[S.bad]} NaN/inf!`;
  if (s[S.values] && s[S.values].length === 1) return `${what} ${fmt(s[S.values][0])}`;
  if (s[S.values] && s[S.values].length <= 3) return `${what} [${s[S.values].map(fmt).join(", ")}]`;
  return `${what ? `‖${what}‖` : "norm"} ${fmt(s[S.norm])}`;
}
const reached = (i, s) => !forwardAt.has(i) || forwardAt.get(i) <= s;
function arrivedAt(node, s) { let k = 0; for (const c of node.arrivals) if (c.step <= s) k++; return k; }
function gradientAt(node, s) {   // [summary or null, arrived, of]
  if (!walk.length || state.frame >= 0) return node.grad ? [node.grad, 1, 1] : [null, 0, 0];
  const of = node.arrivals.length;
  if (seeds.has(node.i) && s >= firstBack && !of) return [node.grad, 1, 1];
  const k = arrivedAt(node, s);
  if (!k) return [null, 0, of];
  return [sumGrad(node.arrivals[k - 1]), k, of];
}
function gradientText(node, s) {
  const [g, k, of] = gradientAt(node, s);
  if (!g) {
    if (node.role === "input" || node.role === "constant" || !node.needs) return "no gradient needed";
    if (walk.length && s >= steps.length - 1) return "no gradient reaches it";
    return walk.length || !node.grad ? "no gradient yet" : valueText(node.grad, "grad");
  }
  return k < of ? `${k} of ${of}: ${valueText(g, "grad")}` : valueText(g, "grad");
}

// What an update of the boxes depends on is put into one string per box; equal strings are not written again.
// `near`: the nodes that a single step can have changed; only their boxes are looked at.
function refresh(all, near) {
  const step = steps[state.step], s = state.step;
  const touched = new Set();
  if (step.n !== undefined) touched.add(step.n);
  const gets = new Set(step.kind === "backward" ? step.record.to.map((c) => c.target) : []);
  const held = new Set();   // whose values the rules of this step read
  if (step.kind === "backward") for (const [what, , why] of nodes[step.n].saved) if (why) held.add(what === "y" ? step.n : nodes[step.n].inputs[nodes[step.n].args.indexOf(what)]);
  const wrong = state.breaking ? verdicts() : null;
  const ramp = rampOf(state.paint);
  const looked = near ? new Set([...near].filter((i) => i >= 0).map((i) => drawing.boxOf[i])) : drawing.order;
  for (const box of looked) {
    const node = boxNode(box), e = box.e;
    // A class, not a custom property on each box: those would make every change of style several times slower.
    let cls = `node ${box.kind === "group" ? "group" : isOp(node) ? "op" : "leaf"} of-${node.color}`;
    const inside = box.kind === "group" ? modules[box.module].members : null;
    const active = inside ? inside.some((i) => touched.has(i)) : touched.has(box.node);
    if (!reached(node.i, s)) cls += " later";
    if (active) cls += step.kind === "forward" ? " now" : step.kind === "start" || step.kind === "done" ? "" : " now backward";
    else if (gets.size && (inside ? inside.some((i) => gets.has(i)) : gets.has(box.node))) cls += " gets";
    if (isOp(node) && node.back && node.back.freed && node.back.step <= s) cls += " freed";
    if (held.size && box.kind !== "group" && held.has(box.node)) cls += " saved";
    const selected = inside ? state.selected === -2 - box.module || inside.includes(state.selected) : state.selected === box.node;
    if (selected) cls += " selected";
    let hits = 0;
    if (state.hits) hits = inside ? inside.filter((i) => state.hits.has(i)).length : state.hits.has(box.node) ? 1 : 0;
    if (hits) cls += " hit";
    if (state.dim && !(inside ? inside.some((i) => state.dim.has(i)) : state.dim.has(box.node))) cls += " dim";
    if (state.path && (inside ? inside.some((i) => state.path.has(i)) : state.path.has(box.node))) cls += " path";
    if (wrong) {
      const mine = inside ? inside.filter((i) => wrong.bad.has(i)) : wrong.bad.has(box.node) ? [box.node] : [];
      if (mine.length) cls += mine.includes(wrong.first) ? " wrong first-wrong" : " wrong";
      else if (inside ? inside.some((i) => wrong.seen.has(i)) : wrong.seen.has(box.node)) cls += " right";
    }
    if (state.paint === "diff") { const kinds = new Set(inside ? inside.map((i) => nodes[i].diff) : [node.diff]); const kind = ["removed", "added", "changed"].find((k) => kinds.has(k)) || (kinds.has("numbers") ? "numbers" : null); if (kind) cls += ` ${kind}`; }
    let painted = null, metric = "";
    if (ramp) {
      const [value, bad] = ramp.of(box, node);
      if (value !== null) { metric = ramp.text(value); painted = ramp.color(value); cls += " painted"; }
      if (bad) cls += " hatched";
    } else if (node.data && node.data[S.bad] && reached(node.i, s)) cls += " hatched";
    const title = box.kind === "group" ? `▸ ${short(modules[box.module].path)}` : label(node);
    const aside = (box.kind === "leaf" ? "" : metric) || (box.kind === "group" ? modules[box.module].cls : isOp(node) ? (node.scope >= 0 ? short(modules[node.scope].path) : "") : role(node) === "parameter" && node.out.length ? "" : (node.name || "").startsWith(node.role) ? "" : role(node));
    const second = box.kind === "group" ? `${plural(modules[box.module].ops.length, "op")} → ${shapeText(node.shape)}` : `${shapeText(node.shape)}${node.dtype && !isOp(node) && box.kind !== "leaf" ? ` ${node.dtype}` : ""}${box.kind === "leaf" && metric ? `  ${metric}` : ""}`;
    const value = box.kind === "leaf" ? "" : valueText(node.data, "y").replace("y", isOp(node) ? "y" : "x");
    const grad = gradientText(node, s);
    const asked = state.quiz && state.quiz.list.some((c) => c.target === node.i) ? "gradient: ?" : grad;
    const words = [box.h, cls, title, aside, second, value, asked, hits > 1 ? hits : "", painted ? painted.join() : ""].join("\u0001");
    if (!all && e.words === words) continue;
    if (e.words !== words) {
      e.words = words;
      e.className = cls;
      e.k.textContent = title;
      if (aside) e.k.append(" ", el("small", { text: aside }));
      if (hits > 1) e.k.append(el("span", { class: "badge", text: hits, title: `${hits} matches inside` }));
      e.s.textContent = second; e.v.textContent = value; e.g.textContent = asked;
      e.g.className = /^(no grad|gradient: )/.test(asked) ? "g" : "g has";
      e.v.hidden = box.kind === "leaf";
      if (painted) { e.style.setProperty("--paint", painted[0]); e.style.setProperty("--on-paint", painted[1]); }
      e.setAttribute("aria-label", `${title}${aside ? `, ${aside}` : ""}, ${second}${reached(node.i, s) && value ? `, ${value}` : ""}, ${asked}${/ wrong/.test(cls) ? ", wrong gradient" : ""}`);
      e.title = `${full(node)}\n${second}`;
    }
    e.box = box;
    pictureIn(box, node);
  }
  lights();
  const at = state.selected >= 0 ? state.selected : step.n ?? 0;
  const stop = drawing.boxOf[at] || drawing.order[0];
  if (stop) { if (refresh.stop && refresh.stop !== stop.e) refresh.stop.tabIndex = -1; stop.e.tabIndex = 0; refresh.stop = stop.e; }
}
function pictureIn(box, node) {
  const wanted = box.h > SIZE[box.kind][1];
  let holder = box.e.pictures;
  if (!wanted) { if (holder) { holder.forEach((c) => c.remove()); box.e.pictures = null; } return; }
  const shown = reached(node.i, state.step), [g] = gradientAt(node, state.step);
  const sign = `${shown}|${g ? 1 : 0}|${state.frame}|${node.arrivals.length ? arrivedAt(node, state.step) : 0}|${document.documentElement.dataset.theme}`;
  if (holder && holder.sign === sign) return;
  if (!holder) {
    holder = [0, 1].map(() => el("canvas", { width: 300, height: 52, "aria-hidden": "true" }));
    holder.forEach((c) => { c.style.width = "150px"; box.e.append(c); });
    box.e.pictures = holder;
  }
  holder.sign = sign;
  strip(holder[0], shown ? node.data : null, false);
  strip(holder[1], state.quiz && state.quiz.list.some((c) => c.target === node.i) ? null : g, true);
}
function strip(canvas, s, gradient) {   // up to five small maps, or the histogram
  const c = canvas.getContext("2d");
  c.clearRect(0, 0, canvas.width, canvas.height);
  if (!s) return;
  const maps = s[S.maps];
  if (maps) {
    c.imageSmoothingEnabled = false;
    const w = Math.max(8, Math.min(52 * maps.w / maps.h, 150));
    for (let k = 0; k < maps.n && (k + 1) * (w + 6) <= canvas.width + 6; k++) c.drawImage(mapImage(maps, k, gradient), k * (w + 6), 0, w, 52);
  } else if (s[S.hist]) {
    const style = getComputedStyle(document.documentElement);
    c.fillStyle = style.getPropertyValue(gradient ? "--back" : "--bar");
    const list = bins(s[S.hist]);
    list.forEach((v, k) => c.fillRect(k * canvas.width / 16, 52 - 50 * v, canvas.width / 16 - 2, 50 * v + 1));
  }
}
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const bins = (text) => Array.from(text, (c) => ALPHABET.indexOf(c) / 63);

// Grey for data; for gradients brown below zero, white at zero, blue above.
function mapImage(maps, k, gradient) {
  maps.cache ||= {};
  const key = `${k}${gradient}`;
  if (maps.cache[key]) return maps.cache[key];
  maps.raw ||= base64(maps.b);
  const size = maps.h * maps.w, image = new ImageData(maps.w, maps.h), out = image.data;
  const low = number(maps.lo), high = number(maps.hi), most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  for (let i = 0; i < size; i++) {
    const byte = maps.raw[k * size + i];
    let rgb = [byte, byte, byte];
    if (gradient) rgb = diverging((low + (high - low) * byte / 255) / most);
    out[4 * i] = rgb[0]; out[4 * i + 1] = rgb[1]; out[4 * i + 2] = rgb[2]; out[4 * i + 3] = 255;
  }
  const canvas = el("canvas", { width: maps.w, height: maps.h });
  canvas.getContext("2d").putImageData(image, 0, 0);
  maps.cache[key] = canvas;
  return canvas;
}
function diverging(t) {
  const a = Math.min(1, Math.abs(t)) ** 0.45, to = t < 0 ? [150, 70, 0] : [0, 80, 160];
  return to.map((v) => Math.round(250 + (v - 250) * a));
}

// The edges that the step is about, and the numbers on them.
function lights() {
  const parts = { fw: "", back: "", walk: "" };
  chipLayer.replaceChildren();
  const step = steps[state.step], chips = [];
  const boxOf = drawing.boxOf;
  const between = (s, t) => { const a = boxOf[s], b = boxOf[t]; return a === b ? null : drawing.pairs.get(a.at * drawing.order.length + b.at); };
  if (step.kind === "forward") {
    for (const s of nodes[step.n].inputs) if (s !== null && s >= 0) { const e = between(s, step.n); if (e) { parts.fw += e.d; if (e.a.host !== e.b) chips.push([middle(e, 0.5), valueText(nodes[s].data, isOp(nodes[s]) ? "" : label(nodes[s])).trim(), "fw"]); } }
  }
  if (step.kind === "backward" || step.kind === "seed") {
    const node = nodes[step.n], out = node.out.map(([t]) => between(step.n, t)).find((e) => e);
    if (out) { parts.back += out.d; chips.push([middle(out, 0.35), `∂L/∂y ${valueText(node.grad, "").trim()}`, ""]); } else { const b = boxOf[step.n]; chips.push([[b.x, b.y + b.h / 2 + 14], `∂L/∂y ${valueText(node.grad, "").trim()}`, ""]); }
  }
  if (step.kind === "backward") {
    for (const c of step.record.to) {
      const e = between(c.target, step.n);
      if (!e) continue;
      parts.back += e.d;
      const g = contributionGrad(c);
      if (e.a.host !== e.b) chips.push([middle(e, 0.5), `${valueText(g, "").trim()}${c.of > 1 ? `  (${c.k} of ${c.of})` : ""}`, ""]);
    }
  }
  if (state.path) { const list = state.pathList; for (let k = 0; k + 1 < list.length; k++) { const e = between(list[k + 1], list[k]); if (e) parts.walk += e.d; } }
  litLayer.replaceChildren();
  for (const [name, d] of Object.entries(parts)) if (d) litLayer.append(svg("path", { d, class: name }));
  for (const [[x, y], text, cls] of chips) {
    if (!text) continue;
    const chip = el("div", { class: `chip ${cls}`, text, "aria-hidden": "true" });
    chip.style.left = `${x}px`; chip.style.top = `${y - 10}px`; chip.style.transform = "translateX(-50%)";
    chipLayer.append(chip);
  }
}
function middle(e, t) {
  const points = [e.start, ...(e.via || []), e.end], k = Math.min(points.length - 2, Math.floor(t * (points.length - 1)));
  const a = points[k], b = points[k + 1], f = t * (points.length - 1) - k;
  return [a[0] + (b[0] - a[0]) * f, a[1] + (b[1] - a[1]) * f];
}
function minimap() {
  const canvas = $("minimap"), stage = $("canvas");
  const big = drawing.height > stage.clientHeight * 1.6 && $("stage").clientWidth > 520;
  canvas.hidden = !big;
  if ($("stage").classList.contains("with-map") !== big) {
    $("stage").classList.toggle("with-map", big);
    stageWidth = stage.clientWidth;
    resize();
  }
  if (!big) return;
  const h = Math.max(120, Math.min(stage.clientHeight - 20, 460)), tall = h / drawing.height, wide = 66 / drawing.width;
  const style = getComputedStyle(document.documentElement), key = `${h} ${document.documentElement.dataset.theme}`;
  const mark = (c, box, least) => c.fillRect(3 + (box.x - box.w / 2) * wide, (box.y - box.h / 2) * tall, Math.max(2, box.w * wide), Math.max(least, box.h * tall * 0.9));
  if (minimap.drawing !== drawing || minimap.key !== key) {   // the boxes stay; only the window and the present step move
    Object.assign(minimap, { drawing, key, base: el("canvas", { width: 72, height: h }) });
    const c = minimap.base.getContext("2d"), colors = {};
    for (const box of drawing.order) {
      const name = `--${boxNode(box).color}`;
      c.fillStyle = colors[name] ||= style.getPropertyValue(name);
      mark(c, box, 1);
    }
  }
  canvas.height = h; canvas.width = 72; canvas.style.height = `${h}px`;
  const c = canvas.getContext("2d"), now = steps[state.step].n;
  c.drawImage(minimap.base, 0, 0);
  c.fillStyle = style.getPropertyValue("--ink");
  if (now !== undefined) mark(c, drawing.boxOf[now], 4);
  c.strokeStyle = style.getPropertyValue("--focus"); c.lineWidth = 2;
  c.strokeRect(1, stage.scrollTop / state.zoom * tall, 70, Math.max(4, stage.clientHeight / state.zoom * tall));
}
function show(i, center) {   // bring the box of node i into view
  const box = drawing.boxOf[i], stage = $("canvas");
  if (!box) return;
  const x = box.x * state.zoom + left(), y = box.y * state.zoom, w = stage.clientWidth, h = stage.clientHeight;
  const inX = x - box.w / 2 * state.zoom > stage.scrollLeft && x + box.w / 2 * state.zoom < stage.scrollLeft + w;
  const inY = y - 90 > stage.scrollTop && y + 90 < stage.scrollTop + h;
  if (!center && inX && inY) return;
  const far = Math.abs(stage.scrollTop + h / 2 - y) > 1200;
  settle(Infinity);
  stage.scrollTo({ left: inX && !center ? stage.scrollLeft : x - w / 2, top: inY && !center ? stage.scrollTop : y - h / 2, behavior: calm.matches || far || !state.playing ? "instant" : "smooth" });
}

// ---------------------------------------------------------------------------------------------- painting by a number

const PAINTS = {
  kind: "kind of op", grad: "gradient norm", zeros: "share of zeros", forward: "forward time", backward: "backward time", bytes: "bytes kept",
  flops: "FLOPs", gain: "gain ‖gx‖/‖g‖", update: "update ratio", dead: "dead ReLU units", error: "gradient-check error", diff: "difference",
};
const METRIC = {
  grad: (n) => (n.grad ? norm(n.grad) : null), zeros: (n) => (n.data ? number(n.data[S.zeros]) : null), forward: (n) => n.tf, backward: (n) => n.tb,
  bytes: (n) => n.bytes, flops: (n) => n.flops, gain: (n) => gainOf(n), update: (n) => n.update, dead: (n) => n.dead, error: (n) => n.error,
};
const LINEAR = new Set(["zeros", "dead"]);
function gainOf(node) {   // how much longer or shorter the gradient leaves this op than it came
  if (!node.back || !node.grad) return null;
  const up = norm(node.grad);
  const best = node.back.to.map((c) => norm(contributionGrad(c))).filter((v) => v !== null);
  return up && best.length ? Math.max(...best) / up : null;
}
function available(name) {
  if (name === "kind") return true;
  if (name === "diff") return Boolean(data.diff);
  return nodes.some((n) => { const v = METRIC[name](n); return v !== null && v !== undefined; });
}
// From pale yellow to dark blue: also ordered in grey and for every kind of colour blindness (after cividis).
const RAMP = [[255, 247, 188], [236, 211, 113], [189, 174, 105], [137, 139, 117], [93, 107, 117], [45, 76, 110], [0, 41, 92]];
function rampColor(t) {
  t = Math.max(0, Math.min(1, Number.isFinite(t) ? t : 0)) * (RAMP.length - 1);
  const k = Math.min(RAMP.length - 2, Math.floor(t)), f = t - k;
  const rgb = RAMP[k].map((v, j) => Math.round(v + (RAMP[k + 1][j] - v) * f));
  const light = rgb.map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return [`rgb(${rgb.join(",")})`, 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] > 0.179 ? "#000" : "#fff"];
}
function rampOf(name) {
  if (name === "kind" || name === "diff") return null;
  const metric = METRIC[name], linear = LINEAR.has(name);
  if (rampOf.cache && rampOf.cache.key === `${name}|${state.frame}`) return rampOf.cache;
  let low = Infinity, high = -Infinity;
  for (const node of nodes) { const v = metric(node); if (v !== null && v !== undefined && Number.isFinite(v) && (linear || v > 0)) { low = Math.min(low, v); high = Math.max(high, v); } }
  if (linear) { low = 0; high = 1; }
  const scale = linear ? (v) => v : (v) => (v > 0 ? (Math.log(v) - Math.log(low)) / (Math.log(high / low) || 1) : 0);
  const text = name === "forward" || name === "backward" ? seconds : name === "bytes" ? bytes : name === "flops" ? count : linear ? (v) => `${(v * 100).toFixed(0)} %` : fmt;
  const sum = new Set(["forward", "backward", "bytes", "flops"]).has(name);
  rampOf.cache = {
    key: `${name}|${state.frame}`, low, high, text, linear, color: (v) => rampColor(scale(v)),
    of: (box, node) => {
      const list = (box.kind === "group" ? modules[box.module].members : [box.node]).map((i) => metric(nodes[i])).filter((v) => v !== null && v !== undefined);
      const bad = list.some((v) => !Number.isFinite(v)) || Boolean(node.grad && node.grad[S.bad] && name === "grad");
      const fine = list.filter((v) => Number.isFinite(v));
      if (!fine.length) return [null, bad];
      return [sum ? fine.reduce((a, b) => a + b, 0) : name === "grad" && box.kind === "group" ? metric(node) ?? fine[0] : Math.max(...fine), bad];
    },
  };
  return rampOf.cache;
}
function legend() {
  const box = $("legend"), ramp = rampOf(state.paint), out = [];
  if (state.breaking) {
    for (const [cls, text] of [["wrong first-wrong", "first wrong gradient"], ["wrong", "wrong"], ["right", "within tolerance"]]) out.push(el("span", { class: "key" }, el("span", { class: `swatch node ${cls}`, style: null }), text));
    out.forEach((key) => { key.firstChild.style.position = "static"; });
  } else if (state.paint === "diff") {
    for (const [cls, text] of [["added", "only in the second"], ["removed", "only in the first"], ["changed", "differs in structure"], ["numbers", "other numbers only"]]) { const s = el("span", { class: `swatch node ${cls}` }); s.style.position = "static"; out.push(el("span", { class: "key" }, s, text)); }
  } else if (ramp) {
    out.push(el("span", { text: `${PAINTS[state.paint]}${ramp.linear ? "" : ", log scale"}:` }));
    for (let k = 0; k <= 4; k++) {
      const v = ramp.linear ? k / 4 : Number.isFinite(ramp.low) ? ramp.low * (ramp.high / ramp.low) ** (k / 4) : 0;
      const s = el("span", { class: "swatch" }); s.style.background = ramp.color(v)[0];
      out.push(el("span", { class: "key" }, s, ramp.text(v)));
    }
    const h = el("span", { class: "swatch" }); h.style.background = "repeating-linear-gradient(45deg, transparent 0 4px, var(--bad) 4px 5.5px)";
    out.push(el("span", { class: "key" }, h, "NaN or infinity"));
  } else {
    const used = [...new Set(nodes.map((n) => n.color))];
    for (const name of Object.keys(FAMILY_NAMES)) if (used.includes(name)) { const s = el("span", { class: "swatch" }); s.style.background = `var(--${name})`; out.push(el("span", { class: "key" }, s, FAMILY_NAMES[name])); }
  }
  box.replaceChildren(...out);
}

// ---------------------------------------------------------------------------------------------- the step player

function sentence(s) {
  const step = steps[s];
  const ops = nodes.filter(isOp).length;
  if (step.kind === "start") return `Start. ${plural(ops, "op")}, ${plural(nodes.length - ops, "leaf").replace("leafs", "leaves")}. Press → to compute forward one op at a time${walk.length ? ", then backward" : ""}.`;
  const node = nodes[step.n];
  if (step.kind === "forward") {
    const reads = node.inputs.map((i, p) => (i === null || i < 0 ? node.literals[p] || "" : named(nodes[i]))).filter(Boolean).join(" and ");
    return `Forward: ${named(node)} reads ${reads || "nothing"} and gives ${shapeText(node.shape)}${node.data ? `, ${valueText(node.data, "y")}` : ""}.`;
  }
  if (step.kind === "seed") return `Backward begins at ${named(node)}: the gradient of the loss with respect to itself is ${valueText(node.grad, "").trim() || "given"}.`;
  if (step.kind === "done") { const n = nodes.filter((x) => x.role === "parameter" && x.grad).length; return `Done. ${plural(n, "leaf").replace("leafs", "leaves")} received a gradient.`; }
  const gives = step.record.to.map((c) => `to ${argument(node, c.position)} ${valueText(contributionGrad(c), "").trim()}${c.of > 1 ? ` (${c.k} of ${c.of} arrived${c.k > 1 ? `, sum ${valueText(sumGrad(c), "").trim()}` : ""})` : ""}`);
  return `Backward: ${named(node)}. Upstream gradient ${valueText(node.grad, "").trim() || "arrives"}; it hands ${gives.join("; ") || "nothing on"}.${step.record.freed ? " Its saved arrays are freed." : ""}`;
}
const named = (node) => (isOp(node) ? `${node.op}${node.scope >= 0 ? ` in ${short(modules[node.scope].path)}` : ""}` : node.name || node.id);
const argument = (node, p) => { const s = node.inputs[p], name = node.args[p] || `input ${p}`; return s !== null && s >= 0 && !isOp(nodes[s]) && nodes[s].name && lastPart(nodes[s].name) !== name ? `${name} = ${nodes[s].name}` : name; };
const lastPart = (name) => name.split(".").pop();

const player = {};
function buildPlayer() {
  const b = (id, text, title, act) => { const made = el("button", { type: "button", id, text, title, "aria-label": title, onclick: act }); player[id] = made; return made; };
  player.slider = el("input", { type: "range", id: "slider", min: 0, max: steps.length - 1, value: 0, "aria-label": "Step", oninput: (e) => go(Number(e.target.value), { quiz: false }) });
  player.phase = el("span", { class: "phase", id: "phase" });
  player.fill = el("span", { class: "fill" });
  player.bytes = el("span", { id: "alive" });
  const speed = el("select", { "aria-label": "Speed", onchange: (e) => { state.speed = Number(e.target.value); if (state.playing) { play(); play(); } } },
    ...[["slow", 1800], ["normal", 900], ["fast", 250], ["very fast", 60]].map(([text, ms]) => el("option", { value: ms, text, selected: ms === 900 })));
  $("player").append(
    b("first", "|◀", "First step (Home)", () => go(0)), b("prev", "◀", "Step back (Left arrow)", () => go(state.step - 1)),
    b("play", "▶ Play", "Play or pause (Space)", play), b("next", "▶", "Next step (Right arrow)", forward),
    b("last", "▶|", "Last step (End)", () => go(steps.length - 1, { quiz: false })), player.slider, player.phase, speed,
    el("span", { id: "memory", title: "Bytes the graph keeps alive for the backward pass" }, "alive", el("span", { class: "track" }, player.fill), player.bytes),
    b("toback", "To the loss", "Jump to where the backward pass begins", () => go(Math.min(firstBack, steps.length - 1), { quiz: false })),
    b("predict", "Predict", "Predict mode: say the next gradient before it is shown", () => setPredict(!state.predict)),
    b("break", "Gradient check", "Break mode: paint the errors that the gradient check found", () => setBreak(!state.breaking)));
  player.predict.setAttribute("aria-pressed", "false");
  player.break.setAttribute("aria-pressed", "false");
  player.predict.disabled = !walk.length;
  player.toback.disabled = !walk.length;
  if (!data.checked) { player.break.disabled = true; player.break.title = "No gradient check came with this page: viz.html(..., errors={node: error})"; }
}
function forward() {
  if (state.quiz) { say("Answer first, or press Show the answer."); const f = $("answer"); if (f) f.focus(); return; }
  go(state.step + 1);
}
function go(to, options) {
  to = Math.max(0, Math.min(steps.length - 1, to));
  const quiz = !options || options.quiz !== false;
  if (quiz && state.predict && !state.quiz && to === state.step + 1 && steps[to].kind === "backward" && !state.asked.has(to)) { ask(to); return; }
  const moved = to !== state.step, before = state.step, near = new Set([state.selected]);
  const single = Math.abs(to - before) <= 1 && state.frame < 0 && state.selected >= -1;
  if (state.quiz) for (const c of state.quiz.list) near.add(c.target);
  state.step = to;
  state.quiz = null;
  if (moved && state.frame >= 0) chooseFrame(-1);
  const step = steps[to];
  if (step.n !== undefined) state.selected = step.n;
  else if (moved) state.selected = -1;
  for (const each of [steps[before], step]) {
    if (each.n === undefined) continue;
    near.add(each.n);
    for (const i of nodes[each.n].inputs) if (i !== null) near.add(i);
  }
  refresh(false, single && step.n !== undefined && steps[before].n !== undefined ? near : null);
  if (step.n !== undefined) show(step.n);
  controls();
  inspect();
  minimapSoon();
  say(sentence(to));
  if (to === steps.length - 1 && state.playing) play();
}
function minimapSoon() { if (!minimapSoon.asked) { minimapSoon.asked = true; requestAnimationFrame(() => { minimapSoon.asked = false; minimap(); }); } }
function controls() {
  const s = state.step, step = steps[s];
  player.slider.value = s;
  const words = `Step ${s} of ${steps.length - 1}, ${step.kind}`;
  player.slider.setAttribute("aria-valuetext", words);
  player.phase.textContent = `${s} / ${steps.length - 1}  ${step.kind}`;
  player.first.disabled = player.prev.disabled = s === 0;
  player.last.disabled = player.next.disabled = s === steps.length - 1;
  player.fill.style.width = `${100 * alive[s] / mostAlive}%`;
  player.bytes.textContent = bytes(alive[s]);
}
function say(text) { $("says").textContent = text; }
function play() {
  if (state.playing) { clearInterval(state.playing); state.playing = null; $("says").setAttribute("aria-live", "polite"); player.play.textContent = "▶ Play"; return; }
  if (state.step === steps.length - 1) go(0);
  $("says").setAttribute("aria-live", state.speed < 900 ? "off" : "polite");   // nobody can listen that fast
  state.playing = setInterval(() => { if (state.quiz) return; go(state.step + 1); }, state.speed);
  player.play.textContent = "❚❚ Pause";
}

// ---------------------------------------------------------------------------------------------- predict

function setPredict(on) {
  state.predict = on;
  state.quiz = null; state.score = [0, 0]; state.asked.clear();
  player.predict.setAttribute("aria-pressed", String(on));
  if (on && state.step < firstBack) go(firstBack, { quiz: false });
  else { refresh(false); inspect(); }
  if (on) say("Predict mode: press → and say the next gradient before you see it. First its shape, then its value.");
}
function ask(to) {
  const record = steps[to].record;
  const list = record.to.filter((c) => nodes[c.target].shape);
  if (!list.length) { state.asked.add(to); go(to); return; }
  state.quiz = { to, list, at: 0, stage: "shape", tries: 0 };
  state.selected = record.n;
  refresh(false);
  show(record.n);
  inspect();
  const f = $("answer"); if (f) f.focus({ preventScroll: innerWidth > 760 });   // on a phone the question is below
  say(`Question: ${question(state.quiz)[0]}`);
}
function question(quiz) {
  const c = quiz.list[quiz.at], node = nodes[c.from], name = argument(node, c.position), own = contributionGrad(c);
  if (quiz.stage === "shape") return [`What is the shape of the gradient that ${named(node)} hands to ${name}?`, "numbers with commas; empty for a scalar"];
  const values = own && own[S.values];
  if (values && values.length === 1) return [`What is its value?`, "two correct digits are enough"];
  if (values && values.length) return [`What is its element [${indexOf(largest(values), nodes[c.target].shape).join(", ")}]?`, "two correct digits are enough"];
  return ["Is it longer or shorter than the upstream gradient (Euclidean norm)?", "longer, shorter or same (within 5 %)"];
}
const largest = (values) => values.reduce((best, v, i) => (Math.abs(number(v)) > Math.abs(number(values[best])) ? i : best), 0);
function indexOf(flat, shape) { const out = []; for (let k = shape.length - 1; k >= 0; k--) { out.unshift(flat % shape[k]); flat = Math.floor(flat / shape[k]); } return out; }
function truth(quiz) {
  const c = quiz.list[quiz.at], own = contributionGrad(c);
  if (quiz.stage === "shape") return nodes[c.target].shape.join(", ");
  const values = own && own[S.values];
  if (values && values.length) return values[largest(values)];
  const gain = norm(own) / norm(nodes[c.from].grad);
  return gain > 1.05 ? "longer" : gain < 1 / 1.05 ? "shorter" : "same";
}
function right(quiz, answer) {
  const correct = truth(quiz);
  if (quiz.stage === "shape") { const said = (answer.match(/\d+/g) || []).map(Number); return said.join(", ") === correct && (said.length > 0 || /^\W*(scalar)?\W*$/i.test(answer)); }
  if (typeof correct === "string" && /[a-z]{4}/.test(correct)) return answer.trim().toLowerCase() === correct;
  const said = Number(answer.trim().replace(",", ".").replace("−", "-")), value = number(correct);
  return answer.trim() !== "" && Math.abs(said - value) <= 0.01 * Math.abs(value) + 1e-9;
}
function answer(text) {
  const quiz = state.quiz;
  if (right(quiz, text)) {
    if (!quiz.tries) state.score[0]++;
    state.score[1]++;
    quiz.verdict = [true, `Yes: ${quiz.stage === "shape" ? shapeText(nodes[quiz.list[quiz.at].target].shape) : fmt(truth(quiz))}.`];
    advance();
  } else {
    quiz.tries++;
    const hint = quiz.stage === "shape" ? "A gradient has the shape of the thing it is the gradient of." : `Multiply the upstream gradient with the local derivative: ${nodes[quiz.list[quiz.at].from].rules[quiz.list[quiz.at].position] || "see the formula"}.`;
    quiz.verdict = [false, `Not ${text || "empty"}. ${hint}`];
    say(quiz.verdict[1]);
    inspect();
    const f = $("answer"); if (f) { f.focus(); f.select(); }
  }
}
function reveal() {
  const quiz = state.quiz;
  quiz.verdict = [true, `It is ${quiz.stage === "shape" ? shapeText(nodes[quiz.list[quiz.at].target].shape) : fmt(truth(quiz))}.`];
  state.score[1]++;
  advance();
}
function advance() {
  const quiz = state.quiz, verdict = quiz.verdict[1];
  quiz.tries = 0;
  const c = quiz.list[quiz.at];
  if (quiz.stage === "shape" && contributionGrad(c)) quiz.stage = "value";
  else { quiz.stage = "shape"; quiz.at++; }
  if (quiz.at >= quiz.list.length) {
    state.quiz = null;
    state.asked.add(quiz.to);
    go(quiz.to);
    say(`${verdict} ${state.score[0]} of ${state.score[1]} right at the first try. ${sentence(quiz.to)}`);
    player.next.focus({ preventScroll: true });
    return;
  }
  say(`${verdict} ${question(quiz)[0]}`);
  inspect();
  const f = $("answer"); if (f) f.focus();
}

// ---------------------------------------------------------------------------------------------- break: the gradient check

function verdicts() {
  if (verdicts.cache) return verdicts.cache;
  const bad = new Set(), seen = new Set();
  let first = -1;
  const order = walk.length ? walk.map((r) => r.n) : nodes.filter(isOp).map((n) => n.i).reverse();
  const all = [...order, ...nodes.filter((n) => !order.includes(n.i)).map((n) => n.i)];
  const list = [];
  for (const i of all) {
    const error = nodes[i].error;
    if (error === null || error === undefined) continue;
    seen.add(i);
    const value = number(error), wrong = !(value <= data.tolerance);
    list.push([i, value, wrong]);
    if (wrong) { bad.add(i); if (first < 0) first = i; }
  }
  verdicts.cache = { bad, seen, first, list };
  return verdicts.cache;
}
function setBreak(on) {
  state.breaking = on && Boolean(data.checked);
  player.break.setAttribute("aria-pressed", String(state.breaking));
  if (state.breaking) {
    const { first, bad } = verdicts();
    if (first >= 0) { state.selected = first; revealNode(first); show(first, true); }
    say(first >= 0 ? `The first wrong op on the way back is ${named(nodes[first])}: relative error ${fmt(number(nodes[first].error))}, allowed ${fmt(data.tolerance)}. ${plural(bad.size, "op")} wrong in all.` : "Every checked gradient is within the tolerance.");
  }
  refresh(false); legend(); inspect();
}
function breakCard() {
  const { first, list } = verdicts();
  const rows = list.map(([i, value, wrong]) => el("tr", { class: i === first ? "on" : null }, el("td", { class: "t" }, nodeLink(i)), el("td", { text: fmt(value) }), el("td", { class: `t ${wrong ? "no" : "ok"}`, text: i === first ? "✗ first" : wrong ? "✗ wrong" : "✓" })));
  return el("section", { class: "card", id: "checkcard", "aria-label": "Gradient check" },
    el("h3", { text: "Numerical gradient check, in backward order" }),
    first >= 0 ? el("p", {}, el("span", { class: "no", text: `First wrong on the way back: ` }), nodeLink(first), `. Repair this one first: what comes after it on the way back may only have inherited the error.`)
      : el("p", { class: "ok", text: `All ${list.length} checked ops are within ${fmt(data.tolerance)}.` }),
    scroller("Errors", el("table", {}, el("thead", {}, el("tr", {}, ...["op", "relative error", `≤ ${fmt(data.tolerance)}`].map((t) => el("th", { text: t })))), el("tbody", {}, ...rows))));
}
const scroller = (name, inner) => el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, inner);
const nodeLink = (i) => el("button", { type: "button", text: nodes[i].scope >= 0 ? short(full(nodes[i])) : role(nodes[i]) === "parameter" ? short(nodes[i].name) : full(nodes[i]), title: full(nodes[i]), onclick: () => { select(i, true); } });

// ---------------------------------------------------------------------------------------------- the explanation

function select(i, center) {
  state.selected = i;
  revealNode(i);
  refresh(false);
  show(i, center);
  inspect();
}
function revealNode(i) {   // open every module that hides node i
  let hidden = false;
  for (let m = homes[i]; m >= 0; m = modules[m].parent) if (state.collapsed.delete(m)) hidden = true;
  if (hidden) draw();
}
function inspect() {
  const panel = $("inspector"), out = [];
  if (state.quiz) out.push(quizCard());
  const step = steps[state.step];
  if (state.breaking) out.push(breakCard());
  if (state.selected <= -2) out.push(...moduleCards(modules[-2 - state.selected]));
  else {
    const i = state.selected >= 0 ? state.selected : step.n;
    if (i === undefined || i < 0) out.push(...(step.kind === "done" ? finished() : welcome()));
    else out.push(...nodeCards(nodes[i], step));
  }
  panel.replaceChildren(...out);
  panel.scrollTop = 0;
  const marked = panel.querySelector("#checkcard tr.on");
  if (marked) { const box = marked.closest(".scroll"); box.scrollTop = marked.offsetTop - box.clientHeight / 2; }
}
function welcome() {
  const ops = nodes.filter(isOp).length, total = nodes.reduce((s, n) => s + (n.role === "parameter" ? n.params || 0 : 0), 0);
  return [
    el("h2", { text: data.title }),
    el("p", { text: `${plural(ops, "op")}, ${plural(nodes.length - ops, "leaf").replace("leafs", "leaves")}, ${count(total)} parameters${walk.length ? "" : "; no gradient yet: the backward pass was not recorded"}.` }),
    ...(data.notes || []).map((text) => el("p", { class: "no", text })),
    el("div", { class: "card" }, el("h3", { text: "How to read this page" }),
      el("p", { text: "Each box is an op or a leaf; arrows run from what is read to what is computed, so the loss is at the bottom. Blue is the forward pass, orange dashed the backward pass." }),
      el("p", {}, "Press ", el("b", { text: "→" }), " to go one step on. On the way back, every op takes the gradient of its output, ", el("b", { text: "g = ∂L/∂y" }), ", multiplies it with its own local derivative, and hands the product to each of its inputs. Where a value was read more than once, the products add up."),
      el("p", { text: "Click a box to see its numbers. Collapse a module with ▾ and open it again with a second click on its box." })),
    el("div", { class: "buttons" }, el("button", { type: "button", text: "Start: first step →", onclick: forward }), walk.length ? el("button", { type: "button", text: "Jump to the backward pass", onclick: () => go(firstBack, { quiz: false }) }) : null),
  ];
}
function finished() {
  const leaves = nodes.filter((n) => !isOp(n) && n.grad);
  const rows = leaves.map((n) => el("tr", {}, el("td", { class: "t" }, nodeLink(n.i)), el("td", { class: "t", text: shapeText(n.shape) }), el("td", { text: fmt(norm(n.grad)) }), el("td", { text: n.data && norm(n.data) ? fmt(norm(n.grad) / norm(n.data)) : "" })));
  return [el("h2", { text: "What the backward pass leaves behind" }),
    el("p", { text: "Every leaf that needs one now holds its gradient in .grad: how the loss changes when the leaf changes. An optimizer takes it from here, for example w ← w − η ∂L/∂w." }),
    scroller("Gradients", el("table", {}, el("thead", {}, el("tr", {}, ...["leaf", "shape", "‖g‖", "‖g‖/‖w‖"].map((t) => el("th", { text: t })))), el("tbody", {}, ...rows))),
    el("div", { class: "buttons" }, el("button", { type: "button", text: "Once more from the loss", onclick: () => go(firstBack, { quiz: false }) }), el("button", { type: "button", text: "Predict the gradients yourself", onclick: () => { setPredict(true); go(firstBack, { quiz: false }); } }))];
}
function quizCard() {
  const quiz = state.quiz, c = quiz.list[quiz.at], node = nodes[c.from], [text, help] = question(quiz);
  const field = el("input", { id: "answer", type: "text", autocomplete: "off", "aria-describedby": "quizhelp" });
  return el("form", { class: "card backward", id: "quiz", onsubmit: (e) => { e.preventDefault(); answer(field.value); } },
    el("h3", { text: `Predict: ${named(node)} → ${argument(node, c.position)}` }),
    quiz.verdict ? el("p", { class: quiz.verdict[0] ? "ok" : "no", id: "verdict", text: quiz.verdict[1] }) : null,
    el("p", {}, `Upstream gradient g has shape ${shapeText(node.shape)}${node.grad ? `, ${valueText(node.grad, "g")}` : ""}. `,
      ...node.inputs.map((s, p) => (s === null || s < 0 ? `${node.args[p]} = ${node.literals[p]}. ` : `${argument(node, p)}: ${shapeText(nodes[s].shape)}${nodes[s].data ? `, ${valueText(nodes[s].data, "")}` : ""}. `)),
      quiz.stage === "value" && quiz.tries ? `Rule: ${node.rules[c.position] || "—"}` : ""),
    el("p", {}, el("label", { for: "answer", text }), " ", el("span", { id: "quizhelp", class: "soft", text: `(${help})` })),
    el("div", { class: "buttons" }, field, el("button", { type: "submit", text: "Check" }), el("button", { type: "button", text: "Show the answer", onclick: reveal }), el("span", { class: "soft", text: `${state.score[0]} of ${state.score[1]} right` })));
}
function nodeCards(node, step) {
  const out = [el("h2", { id: "subject", text: full(node) })];
  const about = step.n === node.i && !state.quiz;
  const [g, k, of] = state.quiz && state.quiz.list.some((c) => c.target === node.i) ? [null, 0, 0] : gradientAt(node, state.step);
  if (about && step.kind === "forward") out.push(forwardCard(node));
  if (about && (step.kind === "backward" || step.kind === "seed")) out.push(step.kind === "seed" ? seedCard(node) : backwardCard(node, step.record));
  if (about && step.kind !== "seed" && isOp(node) && node.saved.length) out.push(savedCard(node, step));
  out.push(el("div", { class: "buttons" },
    el("button", { type: "button", text: "Ancestors", "aria-pressed": String(state.relation === `a${node.i}`), title: "Everything this was computed from", onclick: () => relate(node.i, "a") }),
    el("button", { type: "button", text: "Descendants", "aria-pressed": String(state.relation === `d${node.i}`), title: "Everything computed from this", onclick: () => relate(node.i, "d") }),
    walk.length ? el("button", { type: "button", text: "Gain path from the loss", "aria-pressed": String(Boolean(state.path && state.pathTo === node.i)), onclick: () => gainPath(node.i) }) : null,
    state.dim || state.path ? el("button", { type: "button", text: "Show all", onclick: clearMarks }) : null));
  if (state.path && state.pathTo === node.i) out.push(pathCard());
  if (!about || step.kind !== "forward") out.push(summaryCard(isOp(node) ? "Output" : "Value", reached(node.i, state.step) ? node.data : null, node, false, "not computed yet"));
  if (!(about && step.kind === "seed")) out.push(summaryCard(k && k < of ? `Gradient so far, ${k} of ${of} arrived` : "Gradient ∂L/∂" + (isOp(node) ? "y" : lastPart(node.name || "x")), g, node, true, gradientText(node, state.step)));
  if (node.role === "parameter" && filterable(node)) out.push(filterCard(node));
  if (isOp(node) && node.conv) out.push(microscope(node));
  out.push(facts(node));
  return out;
}
const dl = (pairs) => el("dl", { class: "rule" }, ...pairs.filter((p) => p && p[1] !== null && p[1] !== undefined && p[1] !== "").flatMap(([a, b]) => [el("dt", { text: a }), el("dd", {}, b)]));
function forwardCard(node) {
  return el("section", { class: "card forward", "aria-label": "Forward step" }, el("h3", { text: "Forward" }),
    dl([...node.inputs.map((s, p) => [node.args[p], s === null || s < 0 ? node.literals[p] : `${shapeText(nodes[s].shape)}, ${valueText(nodes[s].data, "").trim()}`]),
      ["y", `${shapeText(node.shape)}, ${valueText(node.data, "").trim()}`], ["options", node.options]]), ...picture(node.data, node, false));
}
function seedCard(node) {
  return el("section", { class: "card backward", "aria-label": "Backward begins" }, el("h3", { text: "The backward pass begins here" }),
    el("p", { text: node.shape && node.shape.length === 0 ? "How much does L change when L changes? By the same amount: ∂L/∂L = 1." : "The walk starts from the gradient that was given for this output." }), ...picture(node.grad, node, true));
}
function backwardCard(node, record) {
  const card = el("section", { class: "card backward", "aria-label": "Backward step" }, el("h3", { text: "Backward" }),
    el("p", {}, el("b", { text: "Upstream gradient " }), el("span", { class: "mono", id: "upstream", text: `g = ∂L/∂y: ${shapeText(node.shape)}, ${valueText(upstreamOf(record), "").trim()}` })));
  for (const c of record.to) {
    const own = contributionGrad(c), total = sumGrad(c), target = nodes[c.target], gain = own && upstreamOf(record) ? norm(own) / norm(upstreamOf(record)) : null;
    const name = node.args[c.position];
    const term = (letter, shape, s) => (s && s[S.values] && s[S.values].length === 1 ? `${letter} = ${fmt(s[S.values][0])}` : `${letter} ${shapeText(shape)}`);
    const read = (what) => { const kept = node.saved.find((entry) => entry[0] === what); return !kept || kept[2].split(", ").includes(name); };
    const terms = [term("g", node.shape, upstreamOf(record)), read("y") ? term("y", node.shape, node.data) : null, ...node.inputs.map((s, p) => (s !== null && s >= 0 && !read(node.args[p]) ? null : s === null || s < 0 ? (node.literals[p] && node.literals[p] !== "None" ? `${node.args[p]} = ${node.literals[p]}` : null) : term(node.args[p], nodes[s].shape, nodes[s].data)))].filter(Boolean);
    const block = el("div", { class: "contribution", "data-target": target.id },
      el("h3", { text: `→ ${argument(node, c.position)}` }),
      dl([
        [`∂L/∂${name}`, el("code", { class: "formula", text: `= ${node.rules[c.position] || "(no formula recorded)"}` })],
        ["with", terms.join(", ")],
        ["gives", `${shapeText(target.shape)}, ${valueText(own, "").trim()}`],
        ["gain", gain === null || !Number.isFinite(gain) ? null : `‖g${name}‖ / ‖g‖ = ${fmt(gain)}`],
        c.of > 1 ? ["fan-out", el("span", { class: "arrived", text: `${c.k} of ${c.of} arrived; sum so far ${valueText(total, "").trim()}` })] : null,
      ]), ...picture(own, target, true));
    card.append(block);
  }
  if (!record.to.length) card.append(el("p", { text: "No input of this op needs a gradient." }));
  return card;
}
function savedCard(node, step) {
  const gone = step.kind === "backward" && step.record.freed;
  return el("section", { class: "card", "aria-label": "Saved arrays" }, el("h3", { text: step.kind === "backward" ? (gone ? "Saved arrays: used, then freed" : "Saved arrays: used, and kept for another walk") : "Saved for the backward pass" }),
    el("ul", { class: `saved${step.kind === "backward" ? " flash" : ""}` }, ...node.saved.map(([what, size, why]) => el("li", { text: `${what === "y" ? "y, its output" : argument(node, node.args.indexOf(what))}, ${bytes(size)}${why ? `: read for ∂/∂${why}` : ": kept, its elements are not read"}` }))));
}
function summaryCard(title, s, node, gradient, missing) {
  const card = el("section", { class: "card", "aria-label": title, "data-summary": gradient ? "grad" : "data" }, el("h3", { text: title }));
  if (!s) { card.append(el("p", { class: "soft", text: missing })); return card; }
  card.append(dl([["shape", shapeText(node.shape)], ["norm", fmt(s[S.norm])], ["mean ± std", `${fmt(s[S.mean])} ± ${fmt(s[S.std])}`], ["range", `${fmt(s[S.min])} … ${fmt(s[S.max])}`],
    ["zeros", number(s[S.zeros]) ? `${(100 * number(s[S.zeros])).toFixed(1)} %` : null], ["NaN or ±inf", s[S.bad] ? el("span", { class: "no", text: String(s[S.bad]) }) : null]]), ...picture(s, node, gradient));
  return card;
}
function picture(s, node, gradient) {   // values in full, else histogram; and maps
  if (!s) return [];
  const out = [];
  if (s[S.values] && s[S.values].length) { const table = valueTable(s[S.values], node.shape, gradient); out.push(s[S.values].length > 2 ? scroller("Values", table) : table); }
  if (s[S.hist] && !(s[S.values] && s[S.values].length <= 8)) out.push(histogram(s, gradient));
  if (s[S.maps] && !(s[S.values] && s[S.maps].axis === "matrix")) {
    const maps = s[S.maps], zoom = Math.max(1, Math.min(5, Math.floor(64 / Math.max(maps.h, maps.w))));
    out.push(el("div", { class: "maps", role: "img", "aria-label": `${maps.n} of ${maps.of} ${gradient ? "gradient maps" : "maps"}, ${fmt(maps.lo)} to ${fmt(maps.hi)}` }, ...Array.from({ length: maps.n }, (_, k) => {
      const image = mapImage(maps, k, gradient), copy = el("canvas", { width: maps.w, height: maps.h, title: `${maps.axis} ${k}` });
      copy.style.width = `${maps.w * zoom}px`; copy.getContext("2d").drawImage(image, 0, 0);
      return el("figure", {}, copy);
    })), el("p", { class: "soft", text: `${maps.of === 1 ? `One ${maps.axis}` : `${maps.n} of ${plural(maps.of, maps.axis)}`}; ${gradient ? "brown −, white 0, blue +" : `black ${fmt(maps.lo)}, white ${fmt(maps.hi)}`}` }));
  }
  return out;
}
function valueTable(values, shape, gradient) {
  const most = Math.max(1, Math.floor(44 / (4 + Math.max(...values.map((v) => String(v).length)))));   // that fit side by side
  const vector = shape.filter((n) => n > 1).length < 2, flat = vector && values.length <= most;
  const width = vector ? Math.min(most, values.length) : shape[shape.length - 1], table = el("table", { class: `values ${gradient ? "gradvalues" : "datavalues"}` }), body = el("tbody");
  for (let r = 0; r * width < values.length; r++) {
    const row = el("tr");
    if (!flat) row.append(el("th", { scope: "row", text: `[${(vector ? indexOf(r * width, shape) : indexOf(r * width, shape).slice(0, -1)).join(", ")}]` }));
    for (let j = 0; j < width && r * width + j < values.length; j++) row.append(el("td", { text: String(values[r * width + j]), title: `[${indexOf(r * width + j, shape).join(", ")}]` }));
    body.append(row);
  }
  table.append(body);
  return table;
}
function histogram(s, gradient) {
  const list = bins(s[S.hist]), picture = svg("svg", { viewBox: "0 0 320 54", preserveAspectRatio: "none", class: `hist${gradient ? " grad" : ""}`, role: "img" });
  picture.setAttribute("aria-label", `Histogram in 16 bins from ${fmt(s[S.min])} to ${fmt(s[S.max])}: ${list.map((v) => Math.round(v * 100)).join(", ")} per cent of the highest bin`);
  list.forEach((v, k) => picture.append(svg("rect", { x: k * 20 + 1, width: 18, y: 53 - 52 * v, height: 52 * v + 1 })));
  return el("div", {}, picture, el("p", { class: "soft", text: `${fmt(s[S.min])} … ${fmt(s[S.max])}` }));
}
function facts(node) {
  return el("section", { class: "card", "aria-label": "Facts" }, el("h3", { text: "Facts" }), dl([
    ["id", el("code", { text: node.id })], ["role", isOp(node) ? `op${node.family ? `, ${node.family}` : ""}` : `${role(node)}${node.needs ? ", needs a gradient" : ""}`],
    ["shape", `${shapeText(node.shape)} ${node.dtype || ""} ${node.device && node.device !== "cpu" ? node.device : ""}`], ["options", node.options],
    ["inputs", isOp(node) ? el("span", {}, ...node.inputs.flatMap((s, p) => [`${node.args[p]}: `, s === null || s < 0 ? node.literals[p] : nodeLink(s), " "])) : null],
    ["read by", node.out.length ? el("span", {}, ...node.out.slice(0, 8).map(([t]) => nodeLink(t)), node.out.length > 8 ? ` and ${node.out.length - 8} more` : "") : null],
    ["module", node.scope >= 0 ? el("button", { type: "button", text: modules[node.scope].path, onclick: () => { state.selected = -2 - node.scope; refresh(false); inspect(); } }) : null],
    ["parameters", node.params ? count(node.params) : null], ["bytes", bytes(node.bytes)], ["FLOPs", node.flops ? count(node.flops) : null],
    ["time", node.tf !== null && node.tf !== undefined ? `forward ${seconds(node.tf)}${node.tb !== null && node.tb !== undefined ? `, backward ${seconds(node.tb)}` : ""}` : null],
    ["dead units", node.dead !== null && node.dead !== undefined ? `${(100 * node.dead).toFixed(0)} % gave 0 for the whole batch` : null],
    ["update ratio", node.update !== null && node.update !== undefined ? fmt(node.update) : null],
    ["check error", node.error !== null && node.error !== undefined ? fmt(number(node.error)) : null],
    ["difference", node.diff && node.diff !== "same" ? `${node.diff}: ${node.difftext}` : null],
    ["source", node.source ? el("code", { text: node.source }) : null],
  ]));
}
function moduleCards(module) {
  const open = !state.collapsed.has(module.m), result = nodes[module.result];
  const out = [el("h2", { text: `${module.path}` }), el("p", { class: "soft", text: `${module.cls}: ${plural(module.ops.length, "op")}, ${count(module.params)} parameters` }),
    el("div", { class: "buttons" }, el("button", { type: "button", text: open ? "Collapse ▾" : "Expand ▸", id: "toggle-module", onclick: () => toggle(module.m) }))];
  if (result) out.push(summaryCard("Output", reached(result.i, state.step) ? result.data : null, result, false, "not computed yet"), summaryCard("Gradient of the output", gradientAt(result, state.step)[0], result, true, gradientText(result, state.step)));
  out.push(el("section", { class: "card" }, el("h3", { text: "Inside" }), el("div", { class: "buttons" }, ...module.kids.slice(0, 60).map((m) => el("button", { type: "button", text: short(modules[m].path), onclick: () => { state.selected = -2 - m; refresh(false); inspect(); } })), ...(module.kids.length ? [] : module.members.slice(0, 40).map(nodeLink)))));
  return out;
}
function toggle(m) {
  const start = performance.now();
  if (state.collapsed.has(m)) { for (let k = m; k >= 0; k = modules[k].parent) state.collapsed.delete(k); } else { state.collapsed.add(m); state.selected = -2 - m; }
  draw();
  const box = drawing.boxOf[modules[m].result];
  if (box) { show(modules[m].result); if (box.kind === "group") box.e.focus({ preventScroll: true }); }
  inspect();
  timings.collapse = performance.now() - start;
  say(`${modules[m].path} ${state.collapsed.has(m) ? "collapsed" : "expanded"}: ${drawing.order.length} boxes.`);
}

// ---------------------------------------------------------------------------------------------- relations and paths

function reachable(i, backwards) {
  const found = new Set([i]), pending = [i];
  while (pending.length) {
    const node = nodes[pending.pop()];
    for (const t of backwards ? node.inputs : node.out.map((o) => o[0])) if (t !== null && t >= 0 && !found.has(t)) { found.add(t); pending.push(t); }
  }
  return found;
}
function relate(i, way) {
  const same = state.relation === way + i;
  state.dim = same ? null : reachable(i, way === "a");
  state.relation = same ? null : way + i;
  refresh(false); inspect();
  if (!same) say(`${state.dim.size - 1} ${way === "a" ? "ancestors" : "descendants"} of ${named(nodes[i])}.`);
}
function clearMarks() { state.dim = null; state.relation = null; state.path = null; state.hits = null; $("query").value = ""; $("found").textContent = ""; refresh(false); inspect(); }

// Of all ways from the loss to a node, the one with the largest product of local gains ‖gx‖ / ‖g‖.
function gains() {
  if (gains.cache) return gains.cache;
  const best = new Map(), from = new Map();
  for (const s of seeds) best.set(s, 0);
  if (walk.length) best.set(walk[0].n, 0);
  for (const record of walk) {
    const here = best.get(record.n), up = norm(nodes[record.n].grad);
    if (here === undefined) continue;
    for (const c of record.to) {
      const own = norm(contributionGrad(c));
      const gain = own !== null && up ? own / up : 0, value = here + Math.log(gain);
      if (!best.has(c.target) || value > best.get(c.target)) { best.set(c.target, value); from.set(c.target, [record.n, gain]); }
    }
  }
  gains.cache = { best, from };
  return gains.cache;
}
function gainPath(i) {
  if (state.path && state.pathTo === i) { clearMarks(); return; }
  const { from } = gains(), list = [i], steps_ = [];
  while (from.has(list[list.length - 1])) { const [up, gain] = from.get(list[list.length - 1]); steps_.push(gain); list.push(up); }
  state.pathList = list.reverse(); state.pathGains = steps_.reverse();
  state.path = new Set(list); state.pathTo = i; state.dim = null; state.relation = null;
  refresh(false); inspect();
  say(list.length < 2 ? `No gradient flows from the loss to ${named(nodes[i])}.` : `Path from the loss to ${named(nodes[i])} over ${plural(list.length - 1, "op")}; product of gains ${fmt(steps_.reduce((a, b) => a * b, 1))}.`);
}
function pathCard() {
  const list = state.pathList, rows = [];
  if (list.length < 2) return el("section", { class: "card", id: "pathcard" }, el("p", { class: "no", text: "No gradient flows from the loss to here." }));
  let product = 1, weakest = 0;
  state.pathGains.forEach((gain, k) => { if (gain < state.pathGains[weakest]) weakest = k; });
  state.pathGains.forEach((gain, k) => {
    product *= gain;
    const bar = el("span", { class: "gainbar" });
    bar.style.width = `${Math.max(1, Math.min(90, 90 + 9 * Math.log10(product || 1e-30)))}px`;
    rows.push(el("tr", { class: k === weakest && gain < 0.5 ? "on" : null }, el("td", { class: "t" }, nodeLink(list[k])), el("td", { text: fmt(gain) }), el("td", { text: fmt(product) }), el("td", { class: "t" }, bar)));
  });
  rows.push(el("tr", {}, el("td", { class: "t" }, nodeLink(list[list.length - 1])), el("td", { text: "" }), el("td", { text: fmt(product) }), el("td")));
  return el("section", { class: "card backward", id: "pathcard", "aria-label": "Gain path" }, el("h3", { text: "Gain path from the loss" }),
    el("p", {}, `Product of local gains ‖gx‖/‖g‖ = `, el("b", { id: "product", text: fmt(product) }), `. Smallest single gain: ${fmt(state.pathGains[weakest])} at `, nodeLink(list[weakest]), product < 1e-3 ? ". The gradient vanishes on this way." : product > 1e3 ? ". The gradient explodes on this way." : "."),
    el("p", { class: "soft", text: "Of several ways, the one that carries most." }),
    scroller("Gains", el("table", {}, el("thead", {}, el("tr", {}, ...["op", "gain", "product", ""].map((t) => el("th", { text: t })))), el("tbody", {}, ...rows))));
}

// ---------------------------------------------------------------------------------------------- search

const FIELDS = {
  grad: (n) => norm(n.grad), norm: (n) => norm(n.data), mean: (n) => n.data && number(n.data[S.mean]), std: (n) => n.data && number(n.data[S.std]),
  max: (n) => n.data && number(n.data[S.max]), min: (n) => n.data && number(n.data[S.min]), zeros: (n) => n.data && number(n.data[S.zeros]),
  nan: (n) => (n.data ? n.data[S.bad] : 0) + (n.grad ? n.grad[S.bad] : 0), params: (n) => n.params || 0, bytes: (n) => n.bytes, flops: (n) => n.flops, time: (n) => (n.tf || 0) + (n.tb || 0),
  error: (n) => (n.error === null || n.error === undefined ? null : number(n.error)), gain: (n) => gainOf(n), size: (n) => (n.shape || []).reduce((a, b) => a * b, 1), readers: (n) => n.out.length,
};
function matcher(query) {   // words and conditions, all of which must hold
  const tests = query.trim().toLowerCase().split(/\s+(?![^()]*\))/).filter(Boolean).map((word) => {
    const cond = /^([a-z]+)(<=|>=|<|>|=)([-+0-9.e]+)$/.exec(word);
    if (cond && FIELDS[cond[1]]) {
      const get = FIELDS[cond[1]], limit = Number(cond[3]);
      const holds = { "<": (v) => v < limit, ">": (v) => v > limit, "<=": (v) => v <= limit, ">=": (v) => v >= limit, "=": (v) => v === limit }[cond[2]];
      return (n) => { const v = get(n); return v !== null && v !== undefined && holds(v); };
    }
    const dims = /^(?:shape:)?\(?(\d+(?:[,x×]\s*\d+)+,?)\)?$/.exec(word);
    if (dims) { const wanted = dims[1].split(/[,x×]\s*/).filter(Boolean).join(","); return (n) => `,${(n.shape || []).join(",")},`.includes(`,${wanted},`); }
    const kind = /^(kind|op|role|name|module):(.+)$/.exec(word);
    if (kind) { const get = { kind: (n) => n.op || n.role, op: (n) => n.op || "", role: (n) => n.role, name: (n) => n.name || n.id, module: (n) => (n.scope >= 0 ? modules[n.scope].path : "") }[kind[1]]; return (n) => get(n).toLowerCase().includes(kind[2]); }
    return (n) => (n.haystack ||= [n.id, n.op, n.name, n.role, n.family, shapeText(n.shape), n.options, n.scope >= 0 ? `${modules[n.scope].path} ${modules[n.scope].cls}` : "", n.source].join(" ").toLowerCase()).includes(word);
  });
  return tests.length ? (n) => tests.every((test) => test(n)) : null;
}
let found = [], foundAt = -1;
function search() {
  const test = matcher($("query").value);
  found = test ? nodes.filter(test).map((n) => n.i) : [];
  foundAt = -1;
  state.hits = test ? new Set(found) : null;
  $("found").textContent = test ? (found.length ? `${plural(found.length, "match").replace("matchs", "matches")}${found.length > 1 ? ", Enter: next" : ""}` : "no match") : "";
  refresh(false);
  if (state.view === "table") buildTable();
}
function nextMatch(back) {
  if (!found.length) return;
  foundAt = (foundAt + (back ? found.length - 1 : 1)) % found.length;
  select(found[foundAt], true);
  $("found").textContent = `${foundAt + 1} of ${found.length}`;
}

// ---------------------------------------------------------------------------------------------- filters and the conv microscope

function filterable(node) {
  if (!node.shape || node.shape.length !== 4 || node.shape[2] < 2) return false;
  return Boolean(node.array || (node.data && node.data[S.maps] && node.data[S.maps].h === node.shape[2]));
}
function pixels(array, summary, shape, o, c) {   // one filter as numbers, from the array or from its small image
  const h = shape[2], w = shape[3];
  if (array) return floats(array).subarray((o * shape[1] + c) * h * w, (o * shape[1] + c + 1) * h * w);
  const maps = summary && summary[S.maps];
  if (!maps || o >= maps.n || c) return null;
  maps.raw ||= base64(maps.b);
  return Float32Array.from(maps.raw.subarray(o * h * w, (o + 1) * h * w), (v) => number(maps.lo) + (number(maps.hi) - number(maps.lo)) * v / 255);
}
function paintPixels(values, h, w, low, high, size, gradient) {
  const canvas = el("canvas", { width: w * size, height: h * size }), c = canvas.getContext("2d");
  const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) {
    const v = values[i * w + j], grey = Math.round(255 * (v - low) / ((high - low) || 1));
    c.fillStyle = gradient ? `rgb(${diverging(v / most)})` : `rgb(${grey},${grey},${grey})`;
    c.fillRect(j * size, i * size, size, size);
  }
  return canvas;
}
const filterState = { rate: data.rate || 0.1, channel: 0 };
function filterCard(node) {
  const card = el("section", { class: "card", "aria-label": "Filters", id: "filters" }), h = node.shape[2], w = node.shape[3];
  const fill = () => {
    card.replaceChildren(el("h3", { text: "Filters, their gradient, and the filters after the step" }),
      el("p", {}, el("label", {}, "learning rate η ", el("input", { type: "number", step: "any", min: 0, value: filterState.rate, id: "rate", onchange: (e) => { filterState.rate = Number(e.target.value); fill(); } })),
        node.array && node.shape[1] > 1 ? el("label", {}, " input channel ", el("input", { type: "number", min: 0, max: node.shape[1] - 1, value: Math.min(filterState.channel, node.shape[1] - 1), onchange: (e) => { filterState.channel = Math.max(0, Math.min(node.shape[1] - 1, Number(e.target.value))); fill(); } })) : null));
    const channel = node.array ? Math.min(filterState.channel, node.shape[1] - 1) : 0, shown = Math.min(node.shape[0], 16);
    const known = gradientAt(node, state.step)[0] !== null;
    const all = [];
    for (let o = 0; o < shown; o++) {
      const v = pixels(node.array, node.data, node.shape, o, channel), g = known ? pixels(node.garray, node.grad, node.shape, o, channel) : null;
      if (v) all.push([v, g, g ? Float32Array.from(v, (x, i) => x - filterState.rate * g[i]) : null]);
    }
    const span = (k) => { let low = Infinity, high = -Infinity; for (const f of all) for (const x of (k === 1 ? f[1] : f[0]) || []) { low = Math.min(low, x); high = Math.max(high, x); } return [low, high]; };
    const [lw, hw] = span(0), [lg, hg] = span(1), size = Math.max(2, Math.floor(34 / Math.max(h, w)));
    const body = el("tbody");
    [["filter", 0, lw, hw, false], ["gradient", 1, lg, hg, true], ["after w − ηg", 2, lw, hw, false]].forEach(([title, k, low, high, gradient]) => {
      body.append(el("tr", {}, el("th", { scope: "row", text: title }), ...(all.some((f) => f[k]) ? all.map((f, o) => { const c = paintPixels(f[k], h, w, low, high, size, gradient); c.setAttribute("role", "img"); c.setAttribute("aria-label", `${title} ${o}`); c.title = Array.from(f[k], fmt).join(" "); return el("td", {}, c); }) : [el("td", { class: "t soft", colspan: Math.max(1, all.length), text: "no gradient yet" })])));
    });
    card.append(scroller("Filters", el("table", {}, body)), el("p", { class: "soft", text: `Filters: black ${fmt(lw)}, white ${fmt(hw)}. Gradient: brown −, white 0, blue +. ${shown < node.shape[0] ? `${shown} of ${node.shape[0]} filters.` : ""}` }));
  };
  fill();
  return card;
}

const micro = { mode: "output", n: 0, o: 0, c: 0, i: 0, j: 0, r: 0, s: 0, a: 0, b: 0, of: -1 };
function microscope(node) {
  const conv = { ...node.conv, b: node.inputs[2] ?? null }, X = nodes[node.inputs[0]], W = nodes[node.inputs[1]];
  const [N, C, H, Wd] = X.shape, [O, cg, kh, kw] = W.shape, [, , oh, ow] = node.shape, og = O / conv.groups;
  const [sh, sw] = conv.stride, [pt, pl] = conv.pad, [dh, dw] = conv.dilation;
  if (micro.of !== node.i) Object.assign(micro, { of: node.i, n: 0, o: 0, c: 0, i: oh >> 1, j: ow >> 1, r: H >> 1, s: Wd >> 1, a: kh >> 1, b: kw >> 1 });
  const has = (n, which) => (n && n[which] ? floats(n[which]) : null);
  const x = has(X, "array"), w = has(W, "array"), y = has(node, "array"), g = has(node, "garray"), bias = conv.b === null ? null : has(nodes[conv.b], "array");
  const gx = has(X, "garray"), gw = has(W, "garray");
  const card = el("section", { class: "card micro", id: "microscope", "aria-label": "Conv microscope" });
  const at = (n, c, r, s) => (r < 0 || s < 0 || r >= H || s >= Wd ? 0 : x[((n * C + c) * H + r) * Wd + s]);
  const weight = (o, cc, a, b) => w[((o * cg + cc) * kh + a) * kw + b];
  const grad = (n, o, i, j) => g[((n * O + o) * oh + i) * ow + j];
  const knownBack = state.frame < 0 && node.back && node.back.step <= state.step;
  const field = (name, text, most) => el("label", {}, text, el("input", { type: "number", min: 0, max: most - 1, value: micro[name], "data-field": name, onchange: (e) => { micro[name] = Math.max(0, Math.min(most - 1, Math.round(Number(e.target.value)) || 0)); fill(); } }));
  const fill = () => {
    const m = micro;
    const firstC = Math.floor(m.o / og) * cg;
    if (m.mode === "input") { const q = Math.floor(m.c / cg); if (Math.floor(m.o / og) !== q) m.o = q * og; } else if (m.c < firstC || m.c >= firstC + cg) m.c = firstC;
    const cc = m.c - Math.floor(m.c / cg) * cg;
    const sums = [], marksIn = [], marksOut = [], marksW = [];
    let total = 0, terms = 0, formula = "", check = null, missing = false;
    if (m.mode === "output") {
      marksOut.push([m.i, m.j]);
      missing = !x || !w;
      for (let c = 0; c < cg; c++) for (let a = 0; a < kh; a++) for (let b = 0; b < kw; b++) {
        const r = m.i * sh - pt + a * dh, s = m.j * sw - pl + b * dw;
        if (c === cc) { marksIn.push([r, s]); marksW.push([a, b]); }
        if (missing) continue;
        const p = at(m.n, firstC + c, r, s) * weight(m.o, c, a, b);
        total += p; terms++;
        if (c === cc) sums.push([`x[${r},${s}]·w[${a},${b}]`, at(m.n, firstC + c, r, s), weight(m.o, c, a, b), p]);
      }
      if (bias && !missing) total += bias[m.o];
      formula = `y[${m.o},${m.i},${m.j}] = Σ x·w${bias ? " + b" : ""}`;
      if (y && !missing) check = y[((m.n * O + m.o) * oh + m.i) * ow + m.j];
    } else if (m.mode === "weight") {
      marksW.push([m.a, m.b]);
      missing = !x || !g || !knownBack;
      for (let n = 0; n < N; n++) for (let i = 0; i < oh; i++) for (let j = 0; j < ow; j++) {
        const r = i * sh - pt + m.a * dh, s = j * sw - pl + m.b * dw;
        if (r < 0 || s < 0 || r >= H || s >= Wd) continue;
        if (n === m.n) { marksOut.push([i, j]); marksIn.push([r, s]); }
        if (missing) continue;
        const p = grad(n, m.o, i, j) * at(n, m.c, r, s);
        total += p; terms++;
        if (n === m.n && p && sums.length < 200) sums.push([`g[${i},${j}]·x[${r},${s}]`, grad(n, m.o, i, j), at(n, m.c, r, s), p]);
      }
      sums.sort((p, q) => Math.abs(q[3]) - Math.abs(p[3]));
      formula = `∂L/∂w[${m.o},${cc},${m.a},${m.b}] = Σ g·x over every place the weight was used${N > 1 ? ` in ${N} samples` : ""}`;
      if (gw && !missing) check = gw[((m.o * cg + cc) * kh + m.a) * kw + m.b];
    } else {
      marksIn.push([m.r, m.s]);
      missing = !w || !g || !knownBack;
      const q = Math.floor(m.c / cg);
      for (let o = q * og; o < (q + 1) * og; o++) for (let a = 0; a < kh; a++) for (let b = 0; b < kw; b++) {
        const i = (m.r + pt - a * dh) / sh, j = (m.s + pl - b * dw) / sw;
        if (!Number.isInteger(i) || !Number.isInteger(j) || i < 0 || j < 0 || i >= oh || j >= ow) continue;
        if (o === m.o) { marksOut.push([i, j]); marksW.push([a, b]); }
        if (missing) continue;
        const p = grad(m.n, o, i, j) * weight(o, cc, a, b);
        total += p; terms++;
        if (o === m.o) sums.push([`g[${i},${j}]·w[${a},${b}]`, grad(m.n, o, i, j), weight(o, cc, a, b), p]);
      }
      formula = `∂L/∂x[${m.c},${m.r},${m.s}] = Σ g·w over the outputs that read this pixel`;
      if (gx && !missing && X.arrivals.length <= 1) check = gx[((m.n * C + m.c) * H + m.r) * Wd + m.s];
    }
    const modes = [["output", "Output pixel → its receptive field"], ["weight", "Weight → which output gradients reach it"], ["input", "Input pixel → which output gradients reach it"]];
    const back = m.mode !== "output";
    const plane = (array, index, h, wd) => (array ? array.subarray(index * h * wd, (index + 1) * h * wd) : null);
    card.replaceChildren(el("h3", { text: "Conv microscope" }),
      el("div", { class: "buttons" }, ...modes.map(([name, text]) => el("button", { type: "button", text, "aria-pressed": String(m.mode === name), onclick: () => { m.mode = name; fill(); } }))),
      el("div", {}, N > 1 ? field("n", "sample ", N) : null, O > 1 ? field("o", "output channel ", O) : null, C > 1 ? field("c", "input channel ", C) : null,
        ...(m.mode === "output" ? [field("i", "row ", oh), field("j", "column ", ow)] : m.mode === "weight" ? [field("a", "row ", kh), field("b", "column ", kw)] : [field("r", "row ", H), field("s", "column ", Wd)])),
      el("div", { class: "row" },
        lens(`input x[${m.c}] ${H}×${Wd}`, plane(x, m.n * C + m.c, H, Wd), H, Wd, marksIn, false, (r, s) => { m.mode = "input"; m.r = r; m.s = s; fill(); }, Math.max(1, Math.floor(168 / Math.max(H, Wd)))),
        lens(`weight w[${m.o},${cc}] ${kh}×${kw}`, w ? plane(w, m.o * cg + cc, kh, kw) : null, kh, kw, marksW, false, (a, b) => { m.mode = "weight"; m.a = a; m.b = b; fill(); }, Math.max(6, Math.floor(90 / Math.max(kh, kw)))),
        lens(back ? `gradient g[${m.o}] ${oh}×${ow}` : `output y[${m.o}] ${oh}×${ow}`, back ? (knownBack ? plane(g, m.n * O + m.o, oh, ow) : null) : plane(y, m.n * O + m.o, oh, ow), oh, ow, marksOut, back, (i, j) => { m.mode = "output"; m.i = i; m.j = j; fill(); }, Math.max(1, Math.floor(150 / Math.max(oh, ow))))),
      el("p", { class: "mono", id: "microformula", text: formula }),
      missing ? el("p", { class: "soft", text: back && g && !knownBack ? "No gradient yet: step through this op's backward step first." : "The arrays of this convolution are not in the page; only the geometry is shown." })
        : el("p", { id: "microresult" }, `${plural(terms, "product")}, sum ${fmt(total)}`, check === null ? "" : el("span", { class: Math.abs(check - total) <= 1e-3 * Math.max(Math.abs(check), 1e-3) ? "ok" : "no", text: `  recorded ${fmt(check)} ${Math.abs(check - total) <= 1e-3 * Math.max(Math.abs(check), 1e-3) ? "✓" : "✗"}` })),
      missing || !sums.length ? null : scroller("Products", el("table", {}, el("thead", {}, el("tr", {}, ...[back ? (m.mode === "weight" ? "g·x" : "g·w") : "x·w", "first", "second", "product"].map((t) => el("th", { text: t })))),
        el("tbody", {}, ...sums.slice(0, 200).map((row) => el("tr", {}, el("td", { class: "t mono", text: row[0] }), ...row.slice(1).map((v) => el("td", { text: fmt(v) }))))))));
  };
  fill();
  return card;
}
function lens(title, values, h, w, marks, gradient, picked, size) {
  let low = 0, high = 1;
  if (values) { low = Infinity; high = -Infinity; for (const v of values) { low = Math.min(low, v); high = Math.max(high, v); } }
  // A margin holds marks that fall into the zero padding.
  const over = Math.min(4, Math.max(0, ...marks.map(([r, s]) => Math.max(-r, -s, r - h + 1, s - w + 1))));
  const canvas = el("canvas", { width: (w + 2 * over) * size, height: (h + 2 * over) * size, role: "img", "aria-label": `${title}, ${plural(marks.length, "place")} marked` }), c = canvas.getContext("2d");
  if (values) c.drawImage(paintPixels(values, h, w, low, high, size, gradient), over * size, over * size);
  else { c.fillStyle = "#999"; c.fillRect(over * size, over * size, w * size, h * size); }
  c.strokeStyle = "#d55e00"; c.fillStyle = "rgba(240, 228, 66, .35)"; c.lineWidth = Math.max(1, Math.min(2, size / 3));
  const all = marks.length > h * w / 2;   // then only outlines: a veil over everything says nothing
  for (const [r, s] of marks) { if (!all) c.fillRect((s + over) * size, (r + over) * size, size, size); if (marks.length <= 120) c.strokeRect((s + over) * size + 0.5, (r + over) * size + 0.5, size - 1, size - 1); }
  canvas.addEventListener("click", (e) => {
    const box = canvas.getBoundingClientRect(), s = Math.floor((e.clientX - box.left) / box.width * (w + 2 * over)) - over, r = Math.floor((e.clientY - box.top) / box.height * (h + 2 * over)) - over;
    if (r >= 0 && s >= 0 && r < h && s < w) picked(r, s);
  });
  return el("figure", {}, el("figcaption", { text: title }), canvas);
}

// ---------------------------------------------------------------------------------------------- table

const COLUMNS = [
  ["#", (n) => n.i], ["id", (n) => full(n), true], ["kind", (n) => (isOp(n) ? n.op : n.role), true], ["module", (n) => (n.scope >= 0 ? modules[n.scope].path : ""), true], ["shape", (n) => shapeText(n.shape), true],
  ["parameters", (n) => n.params || null], ["bytes", (n) => n.bytes],
  ["mean", (n) => n.data && n.data[S.mean]], ["std", (n) => n.data && n.data[S.std]], ["norm", (n) => n.data && n.data[S.norm]], ["gradient norm", (n) => { const g = gradientAt(n, state.step)[0]; return g && g[S.norm]; }],
  ["gain", (n) => gainOf(n)], ["forward step", (n) => forwardAt.get(n.i) ?? null], ["backward step", (n) => (n.back ? n.back.step : null)], ["check error", (n) => n.error], ["difference", (n) => (n.diff && n.diff !== "same" ? `${n.diff}: ${n.difftext}` : null), true],
  ["reads", (n) => n.inputs.map((s, p) => (s === null || s < 0 ? n.literals[p] : named(nodes[s]))).join(", "), true],
];
const tableState = { by: 0, down: false };
function buildTable() {
  const columns = COLUMNS.filter(([name, get]) => (name === "check error" ? data.checked : name === "difference" ? data.diff : true) && (nodes.length < 3000 || get));
  let list = nodes.filter((n) => !state.hits || state.hits.has(n.i));
  const [, get, text] = columns[Math.min(tableState.by, columns.length - 1)];
  list = list.map((n) => [get(n), n]).sort(([a], [b]) => (a === null || a === undefined ? 1 : b === null || b === undefined ? -1 : text ? String(a).localeCompare(String(b), "en") : number(a) - number(b))).map((p) => p[1]);
  if (tableState.down) list.reverse();
  const head = el("tr", {}, ...columns.map(([name], k) => el("th", { scope: "col", "aria-sort": tableState.by === k ? (tableState.down ? "descending" : "ascending") : "none" }, el("button", { type: "button", text: name + (tableState.by === k ? (tableState.down ? " ▾" : " ▴") : ""), onclick: () => { tableState.down = tableState.by === k && !tableState.down; tableState.by = k; buildTable(); } }))));
  const body = el("tbody", {}, ...list.map((n) => el("tr", { class: n.i === state.selected ? "on" : null }, ...columns.map(([name, value, isText]) => {
    const v = value(n);
    if (name === "id") return el("th", { scope: "row" }, el("button", { type: "button", text: v, onclick: () => { state.selected = n.i; inspect(); body.querySelectorAll(".on").forEach((r) => r.classList.remove("on")); } }));
    return el("td", { class: isText ? "t" : null, text: v === null || v === undefined || v === "" ? "" : isText ? v : fmt(v) });
  }))));
  $("view-table").replaceChildren(el("p", { class: "pad", text: `${plural(list.length, "row")}${state.hits ? " that match the search" : ""}, at step ${state.step} of ${steps.length - 1}. Headings sort.` }), el("table", { id: "table" }, el("caption", { class: "visually-hidden", text: "All ops and leaves of the graph" }), el("thead", {}, head), body));
}

// ---------------------------------------------------------------------------------------------- tape

const tape = data.tape || null;    // {labels, loss, rows: [node], norms: [[per frame] per row], frames: [{data, grad}] or null}
const own = nodes.map((n) => [n.data, n.grad]);
function chooseFrame(k) {
  state.frame = k;
  if (k < 0) nodes.forEach((n, i) => { [n.data, n.grad] = own[i]; });
  else if (tape.frames) {
    const frame = tape.frames[k];
    frame.rows ||= { data: rowsOf({ n: nodes.length, columns: { v: frame.data } }), grad: rowsOf({ n: nodes.length, columns: { v: frame.grad } }) };
    nodes.forEach((n, i) => { n.data = frame.rows.data[i].v; n.grad = frame.rows.grad[i].v; });
  }
  rampOf.cache = null; gains.cache = null;
  if ($("frame")) { $("frame").value = k < 0 ? tape.labels.length - 1 : k; frameText(); }
}
function frameText() {
  const k = state.frame < 0 ? tape.labels.length - 1 : state.frame;
  $("frametext").textContent = `${tape.labels[k]} of ${tape.labels[tape.labels.length - 1]}${tape.loss[k] === null ? "" : `, loss ${fmt(tape.loss[k])}`}`;
  $("frame").setAttribute("aria-valuetext", $("frametext").textContent);
}
function buildTape() {
  const view = $("view-tape"), frames = tape.labels.length, cell = Math.max(6, Math.min(40, Math.floor(640 / frames))), tall = 20, left = innerWidth < 760 ? 104 : 190, top = 54;
  const canvas = el("canvas", { id: "strip", width: left + frames * cell + 10, height: top + tape.rows.length * tall + 4, role: "img", "aria-label": `Gradient norm of ${tape.rows.length} parameters over ${frames} recorded iterations; the same numbers are in the table below` });
  const readout = el("p", { id: "stripread", class: "soft", text: "Point at a cell, or read the table below." });
  const pick = (e) => { const box = canvas.getBoundingClientRect(); return [Math.floor((e.clientY - box.top - top) / tall), Math.floor((e.clientX - box.left - left) / cell)]; };
  canvas.addEventListener("mousemove", (e) => { const [r, k] = pick(e); if (tape.norms[r] && k >= 0 && k < frames) readout.textContent = `${nodes[tape.rows[r]].name}, iteration ${tape.labels[k]}: ‖g‖ ${fmt(tape.norms[r][k])}`; });
  canvas.addEventListener("click", (e) => { const [r, k] = pick(e); if (tape.norms[r] && k >= 0 && k < frames) { setFrame(k); state.selected = tape.rows[r]; refresh(false); inspect(); } });
  const table = el("table", {}, el("thead", {}, el("tr", {}, el("th", { text: "parameter" }), ...tape.labels.map((t) => el("th", { text: t })))), el("tbody", {}, el("tr", {}, el("th", { scope: "row", text: "loss" }), ...tape.loss.map((v) => el("td", { text: fmt(v) }))), ...tape.rows.map((i, r) => el("tr", {}, el("th", { scope: "row", text: nodes[i].name }), ...tape.norms[r].map((v) => el("td", { text: fmt(v) }))))));
  view.replaceChildren(el("div", { class: "pad" }, el("h2", { text: "Training tape" }), el("p", { text: `${frames} recorded iterations. Rows: parameters from the first layer to the last. Colour: norm of the gradient, log scale.` }),
    el("p", {}, el("label", {}, "Iteration ", el("input", { type: "range", id: "frame", min: 0, max: frames - 1, value: frames - 1, oninput: (e) => setFrame(Number(e.target.value)) })), " ", el("output", { id: "frametext" })),
    el("div", { class: "strip" }, canvas), el("div", { id: "striplegend" }), readout,
    tape.frames ? el("p", { class: "soft", text: "The graph and the explanation show the numbers of the chosen iteration; a step of the player goes back to the last one." }) : null,
    el("h3", { text: "The same numbers" }), scroller("Gradient norms", table)));
  paintTape();
  frameText();
}
function setFrame(k) {
  chooseFrame(k);
  refresh(false); inspect(); paintTape(); legend();
  say(`Iteration ${$("frametext").textContent}.`);
}
function paintTape() {
  const canvas = $("strip");
  if (!canvas) return;
  const c = canvas.getContext("2d"), style = getComputedStyle(document.documentElement), frames = tape.labels.length, cell = Math.max(6, Math.min(40, Math.floor(640 / frames))), tall = 20, left = innerWidth < 760 ? 104 : 190, top = 54;
  const flat = tape.norms.flat().map(number).filter((v) => v > 0 && Number.isFinite(v)), low = Math.min(...flat), high = Math.max(...flat);
  c.clearRect(0, 0, canvas.width, canvas.height);
  c.font = "12px system-ui, sans-serif"; c.textBaseline = "middle";
  const ink = style.getPropertyValue("--ink");
  tape.norms.forEach((row, r) => {
    c.fillStyle = ink; c.textAlign = "right";
    let name = short(nodes[tape.rows[r]].name);
    while (c.measureText(name).width > left - 12) name = `…${name.slice(2)}`;
    c.fillText(name, left - 8, top + r * tall + tall / 2);
    row.forEach((v, k) => {
      const x = left + k * cell, y = top + r * tall;
      v = number(v);
      if (v === null || v === undefined) return;
      if (!Number.isFinite(v)) { c.strokeStyle = style.getPropertyValue("--bad"); c.beginPath(); c.moveTo(x, y); c.lineTo(x + cell, y + tall); c.moveTo(x + cell, y); c.lineTo(x, y + tall); c.stroke(); return; }
      c.fillStyle = v > 0 ? rampColor(Math.log(v / low) / (Math.log(high / low) || 1))[0] : style.getPropertyValue("--bg");
      c.fillRect(x, y, cell - (cell > 8 ? 1 : 0), tall - 1);
    });
  });
  const known = tape.loss.map(number).filter((v) => Number.isFinite(v) && v !== null);
  if (known.length > 1) {
    const lo = Math.min(...known), hi = Math.max(...known);
    c.strokeStyle = style.getPropertyValue("--back"); c.lineWidth = 2; c.beginPath();
    tape.loss.forEach((v, k) => { const x = left + (k + 0.5) * cell, y = 44 - 36 * (number(v) - lo) / ((hi - lo) || 1); if (k) c.lineTo(x, y); else c.moveTo(x, y); });
    c.stroke();
    c.fillStyle = ink; c.textAlign = "right"; c.fillText(`loss ${fmt(hi)}`, left - 8, 10); c.fillText(fmt(lo), left - 8, 44);
  }
  const k = state.frame < 0 ? frames - 1 : state.frame;
  c.strokeStyle = style.getPropertyValue("--focus"); c.lineWidth = 2; c.strokeRect(left + k * cell - 0.5, 3, cell, top + tape.rows.length * tall - 3);
  const keys = [0, 0.25, 0.5, 0.75, 1].map((t) => { const s = el("span", { class: "swatch" }); s.style.background = rampColor(t)[0]; return el("span", { class: "key" }, s, fmt(low * (high / low) ** t), " "); });
  $("striplegend").replaceChildren("‖g‖ ", ...keys);
}

// ---------------------------------------------------------------------------------------------- difference of two graphs

function buildDiff() {
  const kinds = { removed: 0, added: 0, changed: 0, numbers: 0, same: 0 };
  for (const n of nodes) kinds[n.diff]++;
  const order = ["removed", "added", "changed", "numbers"];
  const rows = nodes.filter((n) => n.diff !== "same").sort((a, b) => order.indexOf(a.diff) - order.indexOf(b.diff) || a.i - b.i).map((n) => el("tr", {}, el("td", { class: "t" }, nodeLink(n.i)), el("td", { class: "t", text: n.diff === "added" ? "+ only in the second" : n.diff === "removed" ? "− only in the first" : n.diff === "changed" ? "≠ structure" : "≈ numbers" }), el("td", { class: "t", text: n.difftext })));
  $("view-diff").replaceChildren(el("div", { class: "pad" }, el("h2", { text: "Difference of two graphs" }), el("p", { text: `First: ${data.diff[0]}. Second: ${data.diff[1]}. Same ${kinds.same}, other numbers ${kinds.numbers}, other structure ${kinds.changed}, only in the first ${kinds.removed}, only in the second ${kinds.added}.` }),
    el("div", { class: "buttons" }, el("button", { type: "button", text: "Show on the graph", onclick: () => { setPaint("diff"); setView("graph"); } })),
    rows.length ? scroller("Differences", el("table", {}, el("thead", {}, el("tr", {}, ...["node", "", "what"].map((t) => el("th", { text: t })))), el("tbody", {}, ...rows))) : el("p", { class: "ok", text: "The graphs are equal in structure, options, shapes and numbers." })));
}

// ---------------------------------------------------------------------------------------------- the surroundings

function setPaint(name) { state.paint = name; $("paint").value = name; refresh(false); legend(); }
function setView(name) {
  state.view = name;
  for (const tab of $("tabs").children) { const on = tab.id === `tab-${name}`; tab.setAttribute("aria-selected", String(on)); tab.tabIndex = on ? 0 : -1; }
  for (const v of ["graph", "table", "tape", "diff"]) $(`view-${v}`).hidden = v !== name;
  if (name === "table") buildTable();
  if (name === "tape") buildTape();
  if (name === "diff") buildDiff();
  if (name === "graph") { minimap(); if (state.selected >= 0) show(state.selected); }
}
function setZoom(z) {
  const stage = $("canvas"), old = state.zoom, cx = (stage.scrollLeft + stage.clientWidth / 2) / old, cy = (stage.scrollTop + stage.clientHeight / 2) / old;
  state.zoom = Math.max(0.1, Math.min(3, z));
  settle(Infinity);
  resize();
  stage.scrollTo({ left: cx * state.zoom - stage.clientWidth / 2, top: cy * state.zoom - stage.clientHeight / 2, behavior: "instant" });
  minimap();
}
function setTheme(choice) {
  setTheme.choice = choice;
  const dark = choice === "dark" || (choice === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").textContent = `Theme: ${choice}`;
  if (drawing) { refresh(true); minimap(); if (state.view === "tape") paintTape(); }
}
function buildTools() {
  const tools = $("tools");
  const depth = el("select", { id: "depth", onchange: (e) => { const start = performance.now(); collapseToDepth(e.target.value === "all" ? null : Number(e.target.value)); draw(); fitStart(); timings.collapse = performance.now() - start; say(`${drawing.order.length} boxes.`); } });
  for (let d = 1; d <= deepest; d++) depth.append(el("option", { value: d, text: `depth ${d}` }));
  depth.append(el("option", { value: "all", text: "all ops" }));
  const start = state.collapsed.size ? Math.min(...[...state.collapsed].map((m) => modules[m].depth)) : "all";
  depth.value = String(start);
  const paint = el("select", { id: "paint", onchange: (e) => setPaint(e.target.value) });
  for (const [name, text] of Object.entries(PAINTS)) if (available(name)) paint.append(el("option", { value: name, text }));
  const pictures = el("input", { type: "checkbox", id: "pictures", onchange: (e) => { state.pictures = e.target.checked; draw(); refresh(true); } });
  pictures.checked = showsPictures();
  tools.append(deepest ? el("label", {}, "Modules ", depth) : "", el("label", {}, "Colour ", paint), el("label", {}, pictures, " pictures in boxes"),
    el("button", { type: "button", text: "−", "aria-label": "Zoom out", onclick: () => setZoom(state.zoom / 1.25) }), el("button", { type: "button", text: "+", "aria-label": "Zoom in", onclick: () => setZoom(state.zoom * 1.25) }),
    el("button", { type: "button", text: "Fit", onclick: () => { const s = $("canvas"); setZoom(Math.min(1, s.clientWidth / drawing.width, s.clientHeight / drawing.height)); s.scrollTo(0, 0); } }),
    el("button", { type: "button", text: "1:1", onclick: () => { setZoom(1); fitStart(); } }));
}
function fitStart() {   // centre on the chain
  const stage = $("canvas"), at = steps[state.step].n, i = state.selected >= 0 ? state.selected : at ?? -1;
  if (i >= 0) { show(i, true); return; }
  const first = drawing.order.find((b) => b.kind !== "leaf") || drawing.order[0];
  stage.scrollTo({ left: first ? first.x * state.zoom + left() - stage.clientWidth / 2 : 0, top: 0, behavior: "instant" });
}
function buildHelp() {
  const keys = [["→ or ←", "one step on, or back"], ["Space", "play or pause"], ["Home, End", "first and last step"], ["Tab, then ↑ ↓", "into the graph, and from node to node"], ["Enter", "explain the node; open or close a module"], ["/ or f", "search"], ["n, N", "next and previous match"], ["p, c", "predict mode, gradient check"], ["g, t", "graph, table"], ["+, −, 0", "zoom"], ["Esc", "clear marks and search"]];
  $("helptext").append(el("b", { text: "Keys" }), el("dl", {}, ...keys.flatMap(([a, b]) => [el("dt", { text: a }), el("dd", { text: b })])),
    el("p", { text: "Search: words that must all occur (conv2d, fc1, relu), a shape (6×5×5), kind:conv2d, role:parameter, or a condition: grad>1, grad<1e-3, norm, mean, std, zeros>0.5, nan>0, params>1000, bytes, flops, time, gain, size, readers>1, error." }));
}
const timings = { collapse: null, step: null, first: null };
function wire() {
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const target = e.target, typing = target.matches("input:not([type=range]):not([type=checkbox]), select, textarea");
    if (e.key === "Escape") { if (state.quiz) { state.quiz = null; refresh(false); inspect(); } clearMarks(); return; }
    if (typing) { if (e.key === "Enter" && target.id === "query") { e.preventDefault(); nextMatch(e.shiftKey); } return; }
    if (target.matches("[role='region']") && /^(Arrow|Home|End|Page| )/.test(e.key)) return;   // these scroll it
    const inGraph = target.closest("#canvas"), onButton = target.matches("button, a") && !inGraph;
    switch (e.key) {
      case "ArrowRight": if (target.id === "frame" || target.closest("#tabs")) return; forward(); break;
      case "ArrowLeft": if (target.id === "frame" || target.closest("#tabs")) return; go(state.step - 1); break;
      case "Home": if (target.id === "frame") return; go(0); break;
      case "End": if (target.id === "frame") return; go(steps.length - 1, { quiz: false }); break;
      case " ": if (onButton || target.type === "checkbox" || target.closest(".frame")) return; play(); break;
      case "ArrowDown": case "ArrowUp":
        if (!inGraph) return;
        moveFocus(e.key === "ArrowDown" ? 1 : -1); break;
      case "/": case "f": $("query").focus(); $("query").select(); break;
      case "n": nextMatch(false); break;
      case "N": nextMatch(true); break;
      case "p": if (walk.length) setPredict(!state.predict); break;
      case "c": if (data.checked) setBreak(!state.breaking); break;
      case "g": setView("graph"); break;
      case "t": setView("table"); break;
      case "+": setZoom(state.zoom * 1.25); break;
      case "-": setZoom(state.zoom / 1.25); break;
      case "0": setZoom(1); break;
      default: return;
    }
    e.preventDefault();
  });
  $("canvas").addEventListener("click", (e) => {
    const frame = e.target.closest("[data-module]");
    if (frame) { toggle(Number(frame.dataset.module)); return; }
    const node = e.target.closest(".node");
    if (!node) return;
    const box = node.box;
    if (box.kind === "group") {
      if (state.selected === -2 - box.module) { toggle(box.module); return; }
      state.selected = -2 - box.module;
    } else state.selected = box.node;
    refresh(false); inspect();
    if (box.kind !== "group") say(`${full(nodes[box.node])}: ${shapeText(nodes[box.node].shape)}, ${gradientText(nodes[box.node], state.step)}.`);
    else say(`Module ${modules[box.module].path}, ${plural(modules[box.module].ops.length, "op")}. Press again to open it.`);
  });
  $("canvas").addEventListener("focusin", (e) => { const node = e.target.closest(".node"); if (node && node.box) show(node.box.node); });
  $("canvas").addEventListener("scroll", () => { seenTop = $("canvas").scrollTop / state.zoom; if (late.length) settle(Infinity); minimapSoon(); }, { passive: true });
  $("canvas").addEventListener("wheel", (e) => { if (e.ctrlKey) { e.preventDefault(); setZoom(state.zoom * (e.deltaY < 0 ? 1.1 : 1 / 1.1)); } }, { passive: false });
  $("minimap").addEventListener("click", (e) => { const box = $("minimap").getBoundingClientRect(); $("canvas").scrollTo({ top: (e.clientY - box.top) / box.height * drawing.height * state.zoom - $("canvas").clientHeight / 2, behavior: "instant" }); });
  $("query").addEventListener("input", search);
  $("search").addEventListener("submit", (e) => { e.preventDefault(); });
  $("theme").addEventListener("click", () => setTheme({ auto: "dark", dark: "light", light: "auto" }[setTheme.choice]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(setTheme.choice));
  $("help").addEventListener("click", () => { const h = $("helptext"); h.hidden = !h.hidden; $("help").setAttribute("aria-expanded", String(!h.hidden)); });
  addEventListener("resize", () => { stageWidth = $("canvas").clientWidth; resize(); minimapSoon(); });
  for (const [name, text, there] of [["graph", "Graph", true], ["table", "Table", true], ["tape", "Tape", tape], ["diff", "Diff", data.diff]]) {
    if (there) $("tabs").append(el("button", { type: "button", role: "tab", id: `tab-${name}`, text, "aria-controls": `view-${name}`, onclick: () => setView(name) }));
  }
  $("tabs").addEventListener("keydown", (e) => {
    const list = [...$("tabs").children], k = list.indexOf(document.activeElement), to = { ArrowRight: k + 1, ArrowLeft: k - 1 }[e.key];
    if (to !== undefined) { const tab = list[(to + list.length) % list.length]; tab.focus(); tab.click(); e.preventDefault(); }
  });
}
function moveFocus(by) {   // in order of creation
  const list = drawing.order, at = list.findIndex((box) => box.e === document.activeElement);
  const box = list[Math.max(0, Math.min(list.length - 1, at + by))];
  settle(Infinity);
  if (refresh.stop) refresh.stop.tabIndex = -1;
  box.e.tabIndex = 0; refresh.stop = box.e;
  box.e.focus({ preventScroll: true });
  show(box.node);
}

$("title").textContent = data.title;
setTheme("auto");
wire();
buildTools();
buildHelp();
buildPlayer();
stageWidth = $("canvas").clientWidth;
draw();
setView("graph");
fitStart();
legend();
controls();
inspect();
say(sentence(0));
requestAnimationFrame(() => { timings.first = performance.now() - began; minimap(); });
})();
