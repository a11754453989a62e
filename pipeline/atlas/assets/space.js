// All images in the space of a model, as points.

import { address, ask, colour, eachFrame, make, onModeChange } from "./api.js";
import { Cells, View, pointer, sized } from "./view.js";

const canvas = document.querySelector("#plot");
const status = document.querySelector("#status");
const legend = document.querySelector("#legend");
const chosen = document.querySelector("#chosen");
const model = document.querySelector("#model");
const layout = document.querySelector("#layout");
const by = document.querySelector("#by");
const REACH = 12;

let plot = null;
let cells = null;
let at = -1;
let asked = 0;

const redraw = eachFrame(draw);
const { context, size } = sized(canvas, () => {
  if (plot) view.fit(cells.box);
  redraw();
});
const view = new View(size, 1e-6);

/** Names of what is coloured, and for each point the place of its name. */
function colouring() {
  const { points } = plot;
  return {
    class: [points.classes, points.class],
    country: [points.countries, points.country],
    split: [points.splits.map((name) => name || "none"), points.split],
    error: [plot.errors, plot.error],
  }[by.value];
}

/** Name of the colour of a place: errors go from good to bad, and what is not measured, the last one, is faint. */
function ink(index) {
  return by.value === "error" ? `--e${index + 1}` : `--s${(index % 8) + 1}`;
}

function draw() {
  context.clearRect(0, 0, size.width, size.height);
  if (!plot) return;
  const [names, of] = colouring();
  const count = plot.points.id.length;
  const radius = count > 5000 ? 2 : 3.5;
  const inks = names.map((_, index) => colour(ink(index)));
  context.globalAlpha = 0.75;
  // one colour after the other: changing it costs more than a point
  const order = inks.map((_, index) => index);
  // what is not measured lies below what is
  if (by.value === "error") order.unshift(order.pop());
  order.forEach((index) => {
    context.fillStyle = inks[index];
    for (let i = 0; i < count; i++) {
      if (of[i] !== index) continue;
      const [x, y] = view.toScreen(cells.xs[i], cells.ys[i]);
      if (x < -5 || y < -5 || x > size.width + 5 || y > size.height + 5) continue;
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    }
  });
  context.globalAlpha = 1;
  if (at >= 0) {
    const [x, y] = view.toScreen(cells.xs[at], cells.ys[at]);
    context.beginPath();
    context.arc(x, y, 9, 0, 2 * Math.PI);
    context.strokeStyle = colour("--ink");
    context.lineWidth = 3;
    context.stroke();
  }
}

function showLegend() {
  const [names, of] = colouring();
  const counts = names.map(() => 0);
  for (const index of of) counts[index] += 1;
  legend.replaceChildren(
    ...names.flatMap((name, index) => {
      if (!counts[index]) return [];
      const swatch = make("span", { class: "swatch" });
      swatch.style.background = `var(${ink(index)})`;
      return [make("li", {}, swatch, `${name} (${counts[index].toLocaleString("en")})`)];
    }),
  );
}

function named(i) {
  const { points } = plot;
  return { id: points.id[i], country: points.countries[points.country[i]] };
}

function choose(i) {
  if (i === at) return;
  at = i;
  redraw();
  if (i < 0) return;
  const { points } = plot;
  const image = named(i);
  const facts = [image.country, points.splits[points.split[i]], points.classes[points.class[i]], ...found(i)].filter(Boolean);
  chosen.replaceChildren(
    make("a", { href: address("/image", image) }, make("img", { src: address("/thumbnail", image), alt: `Image ${image.id}`, width: 168, height: 168 })),
    make("p", {}, make("a", { href: address("/image", image), dir: "auto" }, image.id)),
    make("p", { class: "muted" }, facts.join(" · ")),
  );
}

/** At which place the image finds its own caption, if that is measured. */
function found(i) {
  const measured = plot.error[i] < plot.errors.length - 1;
  return measured ? [`own caption: ${plot.errors[plot.error[i]]}`] : [];
}

/** What distances and colours mean. */
function explain() {
  for (const text of document.querySelectorAll("#meaning [data-layout]")) text.hidden = text.dataset.layout !== layout.value;
  document.querySelector("#error").hidden = by.value !== "error";
  document.querySelector("#unmeasured").textContent = (plot?.unmeasured ?? []).map((why) => `${why}.`).join(" ");
}

async function load() {
  const turn = ++asked;
  explain();
  status.textContent = layout.value === "neighbours" ? "Laying out; the first time this takes some seconds…" : "Laying out…";
  status.classList.remove("bad");
  try {
    const answer = await (await ask(`/api/plot?${new URLSearchParams({ model: model.value, layout: layout.value })}`)).json();
    // something else was chosen meanwhile
    if (turn !== asked) return;
    plot = answer;
  } catch (error) {
    if (turn !== asked) return;
    status.textContent = error.message;
    status.classList.add("bad");
    return;
  }
  const { points, shares } = plot;
  const percent = (share) => `${Math.round(100 * share)} %`;
  const count = points.id.length.toLocaleString("en");
  const sampled = points.id.length < points.of ? ` of ${points.of.toLocaleString("en")}` : "";
  const drawn = shares ? `across ${percent(shares[0])} of the variance, upwards ${percent(shares[1])}` : "each beside its neighbours";
  status.textContent = `${count}${sampled} images; ${drawn}.`;
  explain();
  // upwards on the screen is downwards in the plane
  cells = new Cells(Float64Array.from(points.x), Float64Array.from(points.y, (y) => -y));
  at = -1;
  view.fit(cells.box);
  showLegend();
  redraw();
}

/** The next point in a direction: near, and not far off to the side. */
function step(dx, dy) {
  if (!plot?.points.id.length) return;
  const from = at >= 0 ? [cells.xs[at], cells.ys[at]] : [view.x, view.y];
  let best = -1;
  let least = Infinity;
  for (let i = 0; i < cells.xs.length; i++) {
    const [x, y] = [cells.xs[i] - from[0], cells.ys[i] - from[1]];
    const along = x * dx + y * dy;
    const aside = Math.abs(x * dy - y * dx);
    const cost = along + 2 * aside;
    if (i !== at && along > 0 && along >= aside && cost < least) [best, least] = [i, cost];
  }
  if (best < 0) return;
  choose(best);
  const [x, y] = view.toScreen(cells.xs[best], cells.ys[best]);
  if (x < 20 || y < 20 || x > size.width - 20 || y > size.height - 20) [view.x, view.y] = [cells.xs[best], cells.ys[best]];
}

let from = null;
canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  from = { last: pointer(canvas, event), moved: 0 };
});
canvas.addEventListener("pointermove", (event) => {
  if (!plot) return;
  const [x, y] = pointer(canvas, event);
  if (from) {
    view.move(from.last[0] - x, from.last[1] - y);
    from.moved += Math.abs(from.last[0] - x) + Math.abs(from.last[1] - y);
    from.last = [x, y];
    redraw();
    return;
  }
  const near = cells.closest(...view.toPlane(x, y), REACH / view.scale);
  if (near >= 0) choose(near);
});
canvas.addEventListener("pointerup", (event) => {
  const moved = from?.moved ?? Infinity;
  from = null;
  if (!plot || moved > 4) return;
  const near = cells.closest(...view.toPlane(...pointer(canvas, event)), REACH / view.scale);
  if (near >= 0) location.assign(address("/image", named(near)));
});
canvas.addEventListener("pointercancel", () => (from = null));
canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    view.zoom(Math.exp(-event.deltaY / 400), ...pointer(canvas, event));
    redraw();
  },
  { passive: false },
);
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    ArrowLeft: () => step(-1, 0),
    ArrowRight: () => step(1, 0),
    ArrowUp: () => step(0, -1),
    ArrowDown: () => step(0, 1),
    "+": () => view.zoom(1.5),
    "=": () => view.zoom(1.5),
    "-": () => view.zoom(1 / 1.5),
    Escape: () => plot && view.fit(cells.box),
    Enter: () => at >= 0 && location.assign(address("/image", named(at))),
  };
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
  redraw();
});
/** The address holds what is chosen, so that it can be passed on. */
function keep() {
  const chosen = [model, layout, by].map((select) => [select.id, select.value]);
  history.replaceState(null, "", `?${new URLSearchParams(chosen)}`);
}

for (const select of [model, layout, by]) {
  const wanted = new URLSearchParams(location.search).get(select.id);
  if ([...select.options].some((option) => option.value === wanted)) select.value = wanted;
  select.addEventListener("change", keep);
}
model.addEventListener("change", load);
layout.addEventListener("change", load);
by.addEventListener("change", () => {
  explain();
  if (!plot) return;
  showLegend();
  redraw();
});
document.querySelector("#choose").addEventListener("submit", (event) => event.preventDefault());
onModeChange(redraw);
load();
