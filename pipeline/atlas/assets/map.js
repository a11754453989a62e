// The map: borders, all images as dots, what was found as larger ones, and an area that is chosen by dragging.

import { colour, eachFrame, onModeChange } from "./api.js";
import { Tiles } from "./tiles.js";
import { Cells, View, pointer, sized } from "./view.js";

const DEGREES = Math.PI / 180;
/** Web Mercator ends here. */
const MOST_NORTH = 85.0511;
const REACH = 9;

/** Degrees to a square of side 1, and back. */
export function project(east, north) {
  const clamped = Math.max(-MOST_NORTH, Math.min(MOST_NORTH, north)) * DEGREES;
  return [(east + 180) / 360, 0.5 - Math.log(Math.tan(Math.PI / 4 + clamped / 2)) / (2 * Math.PI)];
}

export function unproject(x, y) {
  return [x * 360 - 180, (2 * Math.atan(Math.exp((0.5 - y) * 2 * Math.PI)) - Math.PI / 2) / DEGREES];
}

export class WorldMap {
  /** `on.area` hears a chosen area, `on.point` the image under the pointer, `on.open` the one that is clicked. */
  constructor(canvas, on) {
    this.canvas = canvas;
    this.on = on;
    this.mode = "select";
    this.area = null;
    this.found = [];
    this.lit = null;
    this.points = null;
    this.borders = null;
    this.redraw = eachFrame(() => this.draw());
    ({ context: this.context, size: this.size } = sized(canvas, () => {
      if (!this.placed) this.showAll();
      this.redraw();
    }));
    this.view = new View(this.size, 1e-7);
    this.tiles = canvas.dataset.tiles ? new Tiles(canvas.dataset.tiles, this.redraw) : null;
    this.listen();
    onModeChange(this.redraw);
  }

  setBorders(buffer) {
    const numbers = new Float32Array(buffer);
    const path = new Path2D();
    for (let at = 0; at < numbers.length; ) {
      const count = numbers[at++];
      for (let i = 0; i < count; i++, at += 2) {
        const [x, y] = project(numbers[at], numbers[at + 1]);
        if (i === 0) path.moveTo(x, y);
        else path.lineTo(x, y);
      }
    }
    this.borders = path;
    this.redraw();
  }

  setPoints(points) {
    const count = points.id.length;
    const [xs, ys] = [new Float64Array(count), new Float64Array(count)];
    for (let i = 0; i < count; i++) [xs[i], ys[i]] = project(points.x[i], points.y[i]);
    this.points = { ...points, xs, ys };
    this.cells = new Cells(xs, ys);
    this.showAll();
  }

  setFound(found) {
    const placed = found.filter((image) => image.latitude !== null && image.longitude !== null);
    this.found = placed.map((image) => ({ image, place: project(image.longitude, image.latitude) }));
    this.redraw();
  }

  light(image) {
    this.lit = image;
    this.redraw();
  }

  setArea(area) {
    this.area = area;
    this.redraw();
  }

  showAll() {
    this.placed = Boolean(this.points);
    this.view.fit(this.points?.id.length ? this.cells.box : [0, 0.15, 1, 0.75]);
    // not closer than a town
    this.view.scale = Math.min(this.view.scale, 3e5);
    this.redraw();
  }

  /** The area that is shown, in degrees. */
  shown() {
    const [west, north] = unproject(...this.view.toPlane(0, 0));
    const [east, south] = unproject(...this.view.toPlane(this.size.width, this.size.height));
    const within = (degrees, most) => Math.max(-most, Math.min(most, degrees));
    return { west: within(west, 180), south: within(south, 90), east: within(east, 180), north: within(north, 90) };
  }

  draw() {
    const { context, view, size } = this;
    context.clearRect(0, 0, size.width, size.height);
    this.tiles?.draw(context, view, size);
    if (this.borders) {
      context.save();
      const [left, top] = view.toScreen(0, 0);
      context.translate(left, top);
      context.scale(view.scale, view.scale);
      context.lineWidth = 1 / view.scale;
      context.strokeStyle = colour("--border");
      context.stroke(this.borders);
      context.restore();
    }
    this.drawPoints();
    this.drawFound();
    if (this.area) this.drawArea(this.area, false);
    if (this.dragged) this.drawArea(this.dragged, true);
  }

  drawPoints() {
    if (!this.points) return;
    const { context, view, size } = this;
    const { xs, ys } = this.points;
    const side = xs.length > 20000 ? 2 : 3.5;
    context.fillStyle = colour("--dot");
    context.globalAlpha = this.found.length ? 0.45 : 0.8;
    for (let i = 0; i < xs.length; i++) {
      const x = (xs[i] - view.x) * view.scale + size.width / 2;
      const y = (ys[i] - view.y) * view.scale + size.height / 2;
      if (x >= -4 && y >= -4 && x <= size.width + 4 && y <= size.height + 4) context.fillRect(x - side / 2, y - side / 2, side, side);
    }
    context.globalAlpha = 1;
  }

  drawFound() {
    const { context, view } = this;
    const isLit = ({ image }) => this.lit && image.id === this.lit.id && image.country === this.lit.country;
    const dot = ({ place }, radius) => {
      const [x, y] = view.toScreen(...place);
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    };
    context.lineWidth = 1.5;
    context.strokeStyle = colour("--page");
    context.fillStyle = colour("--found");
    // the best one on top
    for (let i = this.found.length - 1; i >= 0; i--) dot(this.found[i], 5);
    for (const lit of this.found.filter(isLit).slice(0, 1)) {
      context.strokeStyle = colour("--ink");
      context.lineWidth = 3;
      dot(lit, 9);
    }
  }

  drawArea({ west, south, east, north }, isDragged) {
    const { context, view } = this;
    const [left, top] = view.toScreen(...project(west, north));
    const [right, bottom] = view.toScreen(...project(east, south));
    context.save();
    context.strokeStyle = context.fillStyle = colour("--area");
    context.lineWidth = 2;
    if (isDragged) context.setLineDash([6, 4]);
    context.globalAlpha = 0.12;
    context.fillRect(left, top, right - left, bottom - top);
    context.globalAlpha = 1;
    context.strokeRect(left, top, right - left, bottom - top);
    context.restore();
  }

  /** The image under a pixel: one that was found before any other. */
  under(x, y) {
    let best = null;
    let least = REACH * REACH;
    for (const { image, place } of this.found) {
      const [left, top] = this.view.toScreen(...place);
      const distance = (left - x) ** 2 + (top - y) ** 2;
      if (distance <= least) [best, least] = [image, distance];
    }
    if (best || !this.points) return best;
    const i = this.cells.closest(...this.view.toPlane(x, y), REACH / this.view.scale);
    return i < 0 ? null : { country: this.points.countries[this.points.country[i]], id: this.points.id[i] };
  }

  listen() {
    const { canvas } = this;
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      from = { at: pointer(canvas, event), last: pointer(canvas, event), moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = pointer(canvas, event);
      if (!from) {
        const image = this.under(x, y);
        canvas.style.cursor = image ? "pointer" : this.mode === "move" ? "grab" : "crosshair";
        this.on.point(image);
        return;
      }
      from.moved ||= Math.hypot(x - from.at[0], y - from.at[1]) > 4;
      if (!from.moved) return;
      if (this.mode === "move") this.view.move(from.last[0] - x, from.last[1] - y);
      else this.dragged = this.between(from.at, [x, y]);
      from.last = [x, y];
      this.redraw();
    });
    canvas.addEventListener("pointerup", (event) => {
      const began = from;
      from = null;
      if (!began) return;
      const area = this.dragged;
      this.dragged = null;
      this.redraw();
      if (area) this.on.area(area);
      else if (!began.moved) {
        const image = this.under(...pointer(canvas, event));
        if (image) this.on.open(image);
      }
    });
    canvas.addEventListener("pointercancel", () => {
      from = this.dragged = null;
      this.redraw();
    });
    canvas.addEventListener("pointerleave", () => from || this.on.point(null));
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.view.zoom(Math.exp(-event.deltaY / 400), ...pointer(canvas, event));
        this.redraw();
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 60;
    const keys = {
      ArrowLeft: () => this.view.move(-step, 0),
      ArrowRight: () => this.view.move(step, 0),
      ArrowUp: () => this.view.move(0, -step),
      ArrowDown: () => this.view.move(0, step),
      "+": () => this.view.zoom(1.5),
      "=": () => this.view.zoom(1.5),
      "-": () => this.view.zoom(1 / 1.5),
      Escape: () => this.showAll(),
      Enter: () => this.on.area(this.shown()),
    };
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
    this.redraw();
  }

  between([x1, y1], [x2, y2]) {
    const within = (pixels, most) => Math.max(0, Math.min(most, pixels));
    const corner = (x, y) => unproject(...this.view.toPlane(within(x, this.size.width), within(y, this.size.height)));
    const [west, north] = corner(Math.min(x1, x2), Math.min(y1, y2));
    const [east, south] = corner(Math.max(x1, x2), Math.max(y1, y2));
    return { west: Math.max(west, -180), south, east: Math.min(east, 180), north };
  }
}
