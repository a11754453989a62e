// Builds at work, told by the server as it happens.

import { address, ask, make } from "./api.js";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const WORDS = { waits: "waits", runs: "runs", stopped: "stopped", done: "done" };

let states = [];
let shown = "";
const opened = new Set();

function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });

function span(seconds) {
  if (seconds < 90) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${number(seconds / 60)} min`;
  return `${number(seconds / 3600, 1)} h`;
}

function when(seconds) {
  return new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");
}

/** Column of each step: behind everything that it reads. */
function columns(steps, edges) {
  const column = new Map(steps.map((step) => [step.name, 0]));
  // steps are in an order in which each follows what it reads
  for (const step of steps) {
    for (const [from, to] of edges) {
      if (to === step.name) column.set(to, Math.max(column.get(to), (column.get(from) ?? 0) + 1));
    }
  }
  return column;
}

const WIDE = 168;
const HIGH = 66;
const GAP = 44;
const ROW = 18;

function graph(state) {
  const column = columns(state.steps, state.edges);
  const rows = new Map();
  const place = new Map();
  for (const step of state.steps) {
    const x = column.get(step.name);
    const y = rows.get(x) ?? 0;
    rows.set(x, y + 1);
    place.set(step.name, { x: 4 + x * (WIDE + GAP), y: 4 + y * (HIGH + ROW) });
  }
  const width = 8 + rows.size * (WIDE + GAP) - GAP;
  const height = 8 + Math.max(...rows.values()) * (HIGH + ROW) - ROW;
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", class: "flow", "aria-label": "Steps and what they read; the table below says the same" });
  for (const [from, to] of state.edges) {
    const [a, b] = [place.get(from), place.get(to)];
    if (!a || !b) continue;
    const [x1, y1, x2, y2] = [a.x + WIDE, a.y + HIGH / 2, b.x, b.y + HIGH / 2];
    const bend = Math.max(GAP / 2, (x2 - x1) / 2);
    drawn.append(svg("path", { d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`, class: "edge" }));
  }
  for (const step of state.steps) {
    const { x, y } = place.get(step.name);
    const box = svg("g", { class: `step ${step.doing}` });
    box.append(svg("rect", { x, y, width: WIDE, height: HIGH, rx: 9, class: "box" }));
    const share = step.shards ? step.shards[0] / Math.max(1, step.shards[1]) : step.doing === "done" ? 1 : 0;
    box.append(svg("rect", { x: x + 10, y: y + HIGH - 13, width: WIDE - 20, height: 5, rx: 2.5, class: "track" }));
    if (share > 0) box.append(svg("rect", { x: x + 10, y: y + HIGH - 13, width: (WIDE - 20) * share, height: 5, rx: 2.5, class: "bar" }));
    box.append(svg("text", { x: x + 10, y: y + 21, class: "name" }, step.name));
    box.append(svg("text", { x: x + 10, y: y + 41, class: "said" }, said(step)));
    drawn.append(box);
  }
  return drawn;
}

function said(step) {
  if (step.doing === "runs") {
    const shards = step.shards ? `${step.shards[0]}/${step.shards[1]} shards` : "runs";
    return step.seconds_left ? `${shards}, ${span(step.seconds_left)} left` : shards;
  }
  if (step.rows !== null) return `${number(step.rows)} rows${step.errors ? `, ${number(step.errors)} failed` : ""}`;
  return WORDS[step.doing];
}

function row(step) {
  const cell = (text, numeric = false) => make("td", { class: numeric ? "number" : null }, text ?? "");
  const optional = (value, words) => (value === null ? "" : words(value));
  return make(
    "tr",
    { class: step.doing },
    make("th", { scope: "row" }, step.name),
    cell(step.note ? `${WORDS[step.doing]}: ${step.note}` : WORDS[step.doing]),
    cell(optional(step.shards, ([done, all]) => `${done}/${all}`), true),
    cell(optional(step.rows_per_second, (rate) => number(rate, rate < 10 ? 1 : 0)), true),
    cell(optional(step.seconds_left, span), true),
    cell(optional(step.rows, number), true),
    cell(step.errors ? number(step.errors) : "", true),
    cell(step.excluded ? number(step.excluded) : "", true),
    cell(optional(step.version, String), true),
    cell(optional(step.seconds, span), true),
    cell(optional(step.ended, when)),
    cell(step.moved.join(", ")),
  );
}

const epochs = (count) => `${number(count, 2)} ${count === 1 ? "epoch" : "epochs"}`;

/** One curve in a picture of its own; the last value is written out. */
function curve(title, points, unit) {
  const [w, h, left, bottom] = [340, 190, 46, 26];
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const most = Math.max(...xs, 1e-9);
  const [low, high] = [Math.min(...ys, unit === "%" ? 0 : Infinity), Math.max(...ys)];
  const x = (value) => left + (value / most) * (w - left - 10);
  const y = (value) => h - bottom - ((value - low) / Math.max(high - low, 1e-9)) * (h - bottom - 12);
  const text = (value) => `${number(value, 2)}${unit ? ` ${unit}` : ""}`;
  const last = points.at(-1);
  const drawn = svg("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", class: "curve", "aria-label": `${title}: ${text(last[1])} after ${epochs(last[0])}` });
  for (const value of [low, high]) {
    drawn.append(svg("line", { x1: left, x2: w - 10, y1: y(value), y2: y(value), class: "rule" }));
    drawn.append(svg("text", { x: left - 6, y: y(value) + 4, class: "tick end" }, number(value, 2)));
  }
  drawn.append(svg("text", { x: left, y: h - 6, class: "tick" }, "0"));
  drawn.append(svg("text", { x: w - 10, y: h - 6, class: "tick end" }, epochs(most)));
  drawn.append(svg("polyline", { points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "), class: "drawn" }));
  drawn.append(svg("circle", { cx: x(last[0]), cy: y(last[1]), r: 3.5, class: "last" }));
  return make("figure", {}, drawn, make("figcaption", {}, `${title}: ${text(last[1])}`));
}

function curves(state) {
  const figures = [];
  for (const of of state.curves) {
    const name = `${of.step}${of.finished ? "" : " (unfinished)"}`;
    if (of.loss.length) figures.push(curve(`Loss of ${name}`, of.loss, ""));
    if (of.recall.length) figures.push(curve(`Validation recall of ${name}`, of.recall, "%"));
  }
  return figures.length ? [make("h2", {}, "How models learn"), make("div", { class: "curves" }, ...figures)] : [];
}

/** Failed rows of a step, with their pictures where there are some. */
async function failures(country, step, into) {
  try {
    const rows = await (await ask(`/api/failures?${new URLSearchParams({ country, step })}`)).json();
    into.replaceChildren(
      ...rows.map(({ what, why, pictured }) => {
        const picture = pictured ? make("img", { src: address("/review/picture", { country, id: what }), alt: "", loading: "lazy", width: 96, height: 96 }) : null;
        picture?.addEventListener("error", () => picture.remove());
        return make("li", {}, picture, make("div", {}, make("strong", { dir: "auto" }, what), make("p", { dir: "auto" }, why)));
      }),
    );
  } catch (error) {
    into.replaceChildren(make("li", { class: "flag" }, error.message));
  }
}

function quarantine(state) {
  const failed = state.steps.filter((step) => step.errors);
  if (!failed.length) return [];
  const details = failed.map((step) => {
    const key = `${state.country} ${step.name}`;
    const list = make("ul", { class: "failed" });
    const all = make("details", { open: opened.has(key) }, make("summary", {}, `${step.name}: ${number(step.errors)}`), list);
    const load = () => failures(state.country, step.name, list);
    all.addEventListener("toggle", () => {
      if (all.open === opened.has(key)) return;
      if (all.open) opened.add(key);
      else opened.delete(key);
      if (all.open) load();
    });
    if (all.open) load();
    return all;
  });
  return [make("h2", {}, "Quarantine"), make("p", { class: "muted" }, "Rows that could not be made; the rest of the build goes on without them."), ...details];
}

function render() {
  const chosen = $("country")?.value ?? states[0]?.country;
  const state = states.find((state) => state.country === chosen);
  $("build").hidden = !state;
  if (!state) return;
  const text = JSON.stringify(state);
  if (text === shown) return;
  const before = shown ? JSON.parse(shown) : null;
  shown = text;
  $("graph").replaceChildren(graph(state));
  $("steps").replaceChildren(...state.steps.map(row));
  $("runs").replaceChildren(...state.runs.map((lines) => make("pre", {}, lines.join("\n"))));
  if (state.runs.length) $("runs").prepend(make("h2", {}, "On clusters"));
  if (JSON.stringify(before?.curves) !== JSON.stringify(state.curves)) $("curves").replaceChildren(...curves(state));
  const failed = (of) => JSON.stringify([of?.country, of?.steps.map((step) => [step.name, step.errors, step.version])]);
  if (failed(before) !== failed(state)) $("quarantine").replaceChildren(...quarantine(state));
  const runs = state.steps.find((step) => step.doing === "runs");
  say(runs ? `${runs.name}: ${said(runs)}` : state.at_work ? "At work." : "Nobody works on it just now.");
}

function say(text, bad = false) {
  const status = $("status");
  if (status.textContent !== text) status.textContent = text;
  status.classList.toggle("bad", bad);
}

const events = new EventSource("/api/build");
events.addEventListener("states", (event) => {
  states = JSON.parse(event.data);
  render();
});
events.addEventListener("trouble", (event) => say(JSON.parse(event.data).error, true));
events.addEventListener("error", () => say("The server does not answer; trying again …", true));
$("country")?.addEventListener("change", () => {
  shown = "";
  render();
});
