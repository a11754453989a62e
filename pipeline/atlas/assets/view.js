// A window onto a plane, for canvases that are moved and zoomed. Coordinates of the plane grow to the right and downwards.

/** Sizes a canvas to its place on the page, sharp on every screen; calls back when it has another size. */
export function sized(canvas, redraw) {
  const context = canvas.getContext("2d");
  const size = { width: 1, height: 1 };
  new ResizeObserver(() => {
    const ratio = devicePixelRatio || 1;
    size.width = canvas.clientWidth || 1;
    size.height = canvas.clientHeight || 1;
    canvas.width = Math.round(size.width * ratio);
    canvas.height = Math.round(size.height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    redraw();
  }).observe(canvas);
  return { context, size };
}

export class View {
  constructor(size, least = 1e-9) {
    this.size = size;
    this.least = least;
    this.x = 0.5;
    this.y = 0.5;
    /** Pixels of one unit. */
    this.scale = 1;
  }

  /** Shows a box of the plane whole. */
  fit([left, top, right, bottom], margin = 24) {
    this.x = (left + right) / 2;
    this.y = (top + bottom) / 2;
    const room = (length, pixels) => Math.max(pixels - 2 * margin, 10) / Math.max(length, this.least);
    this.scale = Math.min(room(right - left, this.size.width), room(bottom - top, this.size.height));
  }

  toScreen(x, y) {
    return [(x - this.x) * this.scale + this.size.width / 2, (y - this.y) * this.scale + this.size.height / 2];
  }

  toPlane(x, y) {
    return [(x - this.size.width / 2) / this.scale + this.x, (y - this.size.height / 2) / this.scale + this.y];
  }

  /** Moves by pixels. */
  move(x, y) {
    this.x += x / this.scale;
    this.y += y / this.scale;
  }

  /** Zooms; what lies below a pixel stays there. */
  zoom(by, x = this.size.width / 2, y = this.size.height / 2) {
    const [left, top] = this.toPlane(x, y);
    this.scale = Math.min(this.scale * by, 1 / this.least);
    const [newLeft, newTop] = this.toPlane(x, y);
    this.x += left - newLeft;
    this.y += top - newTop;
  }
}

/** Place of a pointer within a canvas. */
export function pointer(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left - canvas.clientLeft, event.clientY - box.top - canvas.clientTop];
}

/** Points in cells, to find the one closest to a pixel without looking at all of them. */
export class Cells {
  constructor(xs, ys, count = xs.length) {
    this.xs = xs;
    this.ys = ys;
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < count; i++) {
      left = Math.min(left, xs[i]);
      right = Math.max(right, xs[i]);
      top = Math.min(top, ys[i]);
      bottom = Math.max(bottom, ys[i]);
    }
    this.box = count ? [left, top, right, bottom] : [0, 0, 1, 1];
    this.side = Math.max(1, Math.ceil(Math.sqrt(count / 4)));
    this.cells = new Map();
    for (let i = 0; i < count; i++) {
      const cell = this.cell(xs[i], ys[i]);
      const known = this.cells.get(cell);
      if (known) known.push(i);
      else this.cells.set(cell, [i]);
    }
  }

  at(value, from, to) {
    return to > from ? Math.min(this.side - 1, Math.max(0, Math.floor(((value - from) / (to - from)) * this.side))) : 0;
  }

  cell(x, y) {
    const [left, top, right, bottom] = this.box;
    return this.at(y, top, bottom) * this.side + this.at(x, left, right);
  }

  /** The closest point within a distance, or -1. */
  closest(x, y, reach) {
    const [left, top, right, bottom] = this.box;
    let best = -1;
    let least = reach * reach;
    const rows = [this.at(y - reach, top, bottom), this.at(y + reach, top, bottom)];
    const columns = [this.at(x - reach, left, right), this.at(x + reach, left, right)];
    for (let row = rows[0]; row <= rows[1]; row++) {
      for (let column = columns[0]; column <= columns[1]; column++) {
        for (const i of this.cells.get(row * this.side + column) ?? []) {
          const distance = (this.xs[i] - x) ** 2 + (this.ys[i] - y) ** 2;
          if (distance <= least) [best, least] = [i, distance];
        }
      }
    }
    return best;
  }
}
