// The page of an image: its segments over the picture, and what is most like it.

import { ask } from "./api.js";
import { cards } from "./cards.js";

const overlay = document.querySelector("#overlay");
const segments = document.querySelector("#segments");

/** Hues a golden angle apart, as in the report: neighbours in the list are far from each other. */
function hue(index) {
  return ((index * 0.381966011250105) % 1) * 360;
}

function rgb(index) {
  const sixth = hue(index) / 60;
  return [0, 2, 4].map((peak) => {
    const distance = Math.abs(sixth - peak);
    return Math.round(255 * Math.max(0, Math.min(1, 2 - Math.min(distance, 6 - distance))));
  });
}

/** Masks are run lengths down the columns, beginning with what is outside. */
function draw() {
  const { width, height } = document.querySelector("#picture").dataset;
  const [columns, rows] = [Number(width), Number(height)];
  overlay.width = columns;
  overlay.height = rows;
  const context = overlay.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (const box of boxes().filter((box) => box.checked)) {
    const [red, green, blue] = rgb(Number(box.value));
    const mask = new Uint8Array(columns * rows);
    let at = 0;
    box.dataset.runs.split(" ").forEach((run, index) => {
      if (index % 2) mask.fill(1, at, at + Number(run));
      at += Number(run);
    });
    const inside = (x, y) => x >= 0 && y >= 0 && x < columns && y < rows && mask[x * rows + y];
    for (let x = 0; x < columns; x++) {
      for (let y = 0; y < rows; y++) {
        if (!mask[x * rows + y]) continue;
        const isEdge = !inside(x - 1, y) || !inside(x + 1, y) || !inside(x, y - 1) || !inside(x, y + 1);
        image.data.set([red, green, blue, isEdge ? 255 : 110], 4 * (y * columns + x));
      }
    }
  }
  context.putImageData(image, 0, 0);
}

function boxes() {
  return [...segments.querySelectorAll("input")];
}

function choose(wanted) {
  const all = boxes();
  const checked = all.findIndex((box) => box.checked);
  const step = { next: 1, previous: -1 }[wanted];
  const one = step && (checked < 0 ? (step > 0 ? 0 : all.length - 1) : (checked + step + all.length) % all.length);
  all.forEach((box, at) => {
    box.checked = step ? at === one : wanted === "all" || (wanted === "selected" && box.dataset.selected === "yes");
  });
  if (step) all[one].scrollIntoView({ block: "nearest" });
  draw();
}

if (segments) {
  for (const box of boxes()) box.nextElementSibling.style.background = `rgb(${rgb(Number(box.value)).join(" ")})`;
  segments.addEventListener("change", draw);
  for (const button of segments.querySelectorAll("[data-show]")) button.addEventListener("click", () => choose(button.dataset.show));
  choose("selected");
}

const neighbours = document.querySelector("#neighbours");
const status = document.querySelector("#status");
const model = document.querySelector("#model");

async function findNeighbours() {
  const { id, country } = neighbours.dataset;
  const asked = new URLSearchParams({ like: id, like_country: country, most: 8, model: model?.value ?? "" });
  status.textContent = "Searching…";
  status.classList.remove("bad");
  try {
    const answer = await (await ask(`/api/search?${asked}`)).json();
    neighbours.replaceChildren(cards(answer.found, {}));
    status.textContent = answer.note ?? "";
  } catch (error) {
    neighbours.replaceChildren();
    status.textContent = error.message;
    status.classList.add("bad");
  }
}

model?.addEventListener("change", findNeighbours);
findNeighbours();
