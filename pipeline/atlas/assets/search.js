// The search page. What is asked stands in the address, so that going back and sharing work; a picture cannot, and is gone.

import { address, ask, make } from "./api.js";
import { cards, light } from "./cards.js";
import { WorldMap } from "./map.js";

const form = document.querySelector("#search");
const status = document.querySelector("#status");
const answers = document.querySelector("#answers");
const here = document.querySelector("#here");
const picture = document.querySelector("#picture");
const FIELDS = ["text", "country", "split", "from_year", "to_year", "least_gsd", "most_gsd", "tags", "model", "beside"];

/** What is asked but by fields. */
let like = null;
let area = null;
let running = null;

const map = new WorldMap(document.querySelector("#map"), {
  area: (chosen) => {
    setArea(chosen);
    search();
  },
  point: (image) => {
    here.hidden = !image;
    here.textContent = image ? `${image.id}, ${image.country}` : "";
    map.light(image);
    light(image, answers);
  },
  open: (image) => location.assign(address("/image", image)),
});

function field(name) {
  return form.elements.namedItem(name);
}

function setArea(chosen) {
  area = chosen;
  map.setArea(chosen);
  const degrees = (value) => value.toFixed(2);
  document.querySelector("#area").textContent = chosen
    ? `${degrees(chosen.south)} to ${degrees(chosen.north)} north, ${degrees(chosen.west)} to ${degrees(chosen.east)} east`
    : "anywhere";
  document.querySelector("#anywhere").hidden = !chosen;
}

function setLike(image) {
  like = image;
  const line = document.querySelector("#like");
  line.hidden = !image;
  line.querySelector("span").textContent = image ? `Images like ${image.id}.` : "";
}

function within() {
  return area ? [area.west, area.south, area.east, area.north].map((edge) => edge.toFixed(5)).join(",") : "";
}

/** What the server is asked, for one model. */
function parameters(model) {
  const asked = new URLSearchParams();
  for (const name of FIELDS) {
    const value = field(name)?.value.trim();
    if (value && name !== "model" && name !== "beside") asked.set(name, value);
  }
  if (area) asked.set("within", within());
  if (model) asked.set("model", model);
  if (like) {
    asked.delete("text");
    asked.set("like", like.id);
    asked.set("like_country", like.country);
  }
  return asked;
}

function keepInAddress() {
  const asked = parameters(field("model")?.selectedIndex > 0 ? field("model").value : "");
  if (field("beside")?.value) asked.set("beside", field("beside").value);
  const path = asked.size ? `/?${asked}` : "/";
  if (path !== location.pathname + location.search) history.pushState(null, "", path);
}

function readAddress() {
  const asked = new URLSearchParams(location.search);
  for (const name of FIELDS) {
    const element = field(name);
    if (!element) continue;
    const value = asked.get(name);
    if (element.tagName === "SELECT" && value === null) element.selectedIndex = 0;
    else element.value = value ?? "";
  }
  setLike(asked.has("like") ? { id: asked.get("like"), country: asked.get("like_country") ?? "" } : null);
  const edges = (asked.get("within") ?? "").split(",").map(Number);
  setArea(edges.length === 4 && edges.every(Number.isFinite) ? { west: edges[0], south: edges[1], east: edges[2], north: edges[3] } : null);
}

function say(text, isBad = false) {
  status.textContent = text;
  status.classList.toggle("bad", isBad);
}

async function search({ remember = true } = {}) {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  if (remember) keepInAddress();
  const file = picture.files[0];
  if (!like && !file && !field("text").value.trim()) {
    answers.replaceChildren();
    map.setFound([]);
    say(area ? "Now say what the pictures show." : "");
    return;
  }
  say("Searching…");
  const models = [field("model")?.value ?? "", field("beside")?.value].filter((model, at) => at === 0 || model);
  const one = async (model) => {
    const asked = parameters(model);
    const options = file && !like ? { method: "POST", body: file, headers: { "content-type": "application/octet-stream" }, signal } : { signal };
    return (await ask(`/api/search?${asked}`, options)).json();
  };
  try {
    show(await Promise.all(models.map(one)), models);
  } catch (error) {
    if (error.name === "AbortError") return;
    answers.replaceChildren();
    map.setFound([]);
    say(error.message, true);
  }
}

function show(found, models) {
  const sides = make("div", { class: found.length > 1 ? "sides two" : "sides" });
  found.forEach((answer, at) => {
    const list = cards(answer.found, {
      model: models[at],
      lit: (image) => {
        map.light(image);
        light(image, answers);
      },
      like: (image) => {
        picture.value = "";
        setLike(image);
        search();
        window.scrollTo({ top: 0 });
      },
    });
    const heading = make("h2", {}, found.length > 1 ? `By ${answer.model}` : "What was found");
    sides.append(make("section", { class: "side", "aria-label": `By the model of ${answer.model}` }, heading, list));
  });
  answers.replaceChildren(sides);
  map.setFound(found[0].found);
  const [first] = found;
  const notes = found.map((answer) => answer.note).filter(Boolean);
  const compared = `${first.compared.toLocaleString("en")} images compared by ${found.map((answer) => answer.model).join(" and by ")}.`;
  say([first.found.length ? compared : "Nothing was found: no image passes the filters.", ...notes].join(" "));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
// words that are typed are meant, not what was searched for before
field("text").addEventListener("input", () => {
  setLike(null);
  picture.value = "";
});
for (const name of FIELDS.slice(1)) field(name)?.addEventListener("change", () => search());
picture.addEventListener("change", () => {
  if (!picture.files[0]) return;
  setLike(null);
  // the server would hang up in the middle, without a word
  const most = Number(picture.dataset.mostMib);
  if (picture.files[0].size > most * 2 ** 20) {
    say(`This picture has more than ${most} MiB: make it smaller.`, true);
    picture.value = "";
    return;
  }
  field("text").value = "";
  search();
});
document.querySelector("#unlike").addEventListener("click", () => {
  setLike(null);
  search();
  field("text").focus();
});
document.querySelector("#anywhere").addEventListener("click", () => {
  setArea(null);
  search();
  map.canvas.focus();
});
for (const button of document.querySelectorAll("[data-map]")) {
  button.addEventListener("click", () => {
    const action = button.dataset.map;
    if (action === "in") map.view.zoom(1.6);
    else if (action === "out") map.view.zoom(1 / 1.6);
    else if (action === "all") map.showAll();
    else if (action === "view") map.on.area(map.shown());
    else {
      map.mode = action;
      for (const other of document.querySelectorAll("[data-map][aria-pressed]")) other.setAttribute("aria-pressed", other === button);
    }
    map.redraw();
  });
}
addEventListener("popstate", () => {
  readAddress();
  search({ remember: false });
});

readAddress();
search({ remember: false });
ask("/api/points")
  .then((response) => response.json())
  .then((points) => {
    map.setPoints(points);
    const shown = points.id.length.toLocaleString("en");
    const all = points.of.toLocaleString("en");
    document.querySelector("#points").textContent = points.id.length < points.of ? `${shown} of ${all} images.` : `${shown} images.`;
  })
  .catch((error) => say(error.message, true));
ask("/api/borders")
  .then((response) => response.arrayBuffer())
  .then((buffer) => map.setBorders(buffer))
  .catch((error) => say(error.message, true));
