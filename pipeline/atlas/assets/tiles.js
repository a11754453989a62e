// Tiles below the map, where the server was started with an address of some.

const SIDE = 256;
const MOST_ZOOM = 19;
const KEPT = 256;

export class Tiles {
  constructor(template, redraw) {
    this.template = template;
    this.redraw = redraw;
    this.images = new Map();
  }

  draw(context, view, size) {
    const zoom = Math.max(0, Math.min(MOST_ZOOM, Math.round(Math.log2(view.scale / SIDE))));
    const count = 2 ** zoom;
    const [left, top] = view.toPlane(0, 0).map((edge) => Math.max(0, Math.floor(edge * count)));
    const [right, bottom] = view.toPlane(size.width, size.height).map((edge) => Math.min(count - 1, Math.floor(edge * count)));
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const image = this.image(zoom, x, y);
        if (!image.complete || !image.naturalWidth) continue;
        const [screenX, screenY] = view.toScreen(x / count, y / count);
        const side = view.scale / count;
        context.drawImage(image, screenX, screenY, side, side);
      }
    }
  }

  image(zoom, x, y) {
    const address = this.template.replace("{z}", zoom).replace("{x}", x).replace("{y}", y);
    let image = this.images.get(address);
    if (!image) {
      image = new Image();
      image.referrerPolicy = "no-referrer";
      image.onload = this.redraw;
      image.src = address;
      this.images.set(address, image);
      if (this.images.size > KEPT) this.images.delete(this.images.keys().next().value);
    }
    return image;
  }
}
