// Captions that wait for a person: one at a time, by buttons or keys.

import { address, ask, make } from "./api.js";

const $ = (id) => document.getElementById(id);
const status = $("status");
const NAME = "urbancross-author";

let queue = [];
let at = 0;
let next = null;
let busy = false;
let turn = 0;
let tally = "";

function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

function where() {
  const country = $("country").value;
  return { country, why: $("why").value };
}

/** Fetches what waits, from the beginning or after what is there. */
async function fetchMore(fresh) {
  const mine = fresh ? ++turn : turn;
  const after = fresh ? "" : (next ?? "");
  const response = await ask(`/api/review?${new URLSearchParams({ ...where(), after })}`);
  const waiting = await response.json();
  if (mine !== turn) return;
  if (fresh) [queue, at] = [[], 0];
  queue.push(...waiting.captions);
  next = waiting.next;
  const parts = waiting.tally.map(([why, images]) => `${images} ${why}`);
  tally = `${parts.join(", ")}; ${waiting.pending} decided for the next run`;
}

async function begin(words = "") {
  try {
    await fetchMore(true);
    show(words);
  } catch (error) {
    $("one").hidden = true;
    say(error.message, true);
  }
}

function lines(list, texts) {
  list.replaceChildren(...texts.map((text) => make("li", { dir: "auto" }, text)));
}

function show(words = "") {
  const one = queue[at];
  $("one").hidden = !one;
  if (!one) {
    say(`${words ? words + " " : ""}Nothing waits here. ${tally}.`);
    return;
  }
  say(`${words ? words + " " : ""}${tally}.`);
  const { country } = where();
  $("picture").src = address("/review/picture", { country, id: one.id });
  $("picture").alt = one.captions.length ? `Satellite image: ${one.captions[0]}` : "Satellite image without a caption";
  $("id").textContent = one.id;
  $("reason").textContent = one.why.startsWith(one.waits) ? one.why : `${one.waits}: ${one.why}`;
  $("decided").textContent = one.decided ?? "";
  $("captioner").textContent = one.captioner ? ` by ${one.captioner === "person" ? "a person" : one.captioner}` : "";
  $("text").value = one.captions.join("\n");
  $("accept").disabled = !one.captions.length;
  lines($("tags"), one.tags);
  $("around").hidden = !one.around.length;
  $("around").querySelector("summary").textContent = `Of ${one.around.length} around it`;
  $("around").querySelector("div").replaceChildren(...one.around.map((tags) => {
    const list = make("ul", { class: "tags" });
    lines(list, tags);
    return list;
  }));
  $("back").disabled = at === 0;
}

async function step(by) {
  if (by > 0 && at >= queue.length - 2 && next) {
    await fetchMore(false).catch((error) => say(error.message, true));
  }
  at = Math.max(0, Math.min(queue.length, at + by));
  show();
}

async function decide(wish) {
  const one = queue[at];
  if (!one || busy) return;
  const author = $("author").value.trim();
  if (!author) {
    say("Say who you are first.", true);
    $("author").focus();
    return;
  }
  const texts = wish === "edit" ? $("text").value.split("\n").map((text) => text.trim()).filter(Boolean) : [];
  if (wish === "edit" && !texts.length) {
    say("Write a caption, or reject the image.", true);
    return;
  }
  busy = true;
  try {
    const body = JSON.stringify({ ...where(), why: undefined, id: one.id, wish, texts, author, seen: one.seen });
    const response = await ask("/api/review", { method: "POST", headers: { "content-type": "application/json" }, body });
    const told = await response.json();
    if (told.outcome === "changed") {
      queue[at] = told.now;
      show();
      say(told.why, true);
      return;
    }
    queue.splice(at, 1);
    if (at >= queue.length - 2 && next) await fetchMore(false);
    const done = { accept: "accepted", edit: "edited", reject: "rejected" }[wish];
    $("text").blur();
    if (queue.length) show(`${one.id} is ${done}.`);
    else await begin(`${one.id} is ${done}.`);
  } catch (error) {
    say(error.message, true);
  } finally {
    busy = false;
  }
}

try {
  $("author").value = localStorage.getItem(NAME) ?? "";
} catch {
  // a browser that keeps nothing
}
$("author").addEventListener("change", () => {
  try {
    localStorage.setItem(NAME, $("author").value.trim());
  } catch {
    // as above
  }
});
for (const id of ["country", "why"]) $(id).addEventListener("change", () => begin());
$("choose").addEventListener("submit", (event) => event.preventDefault());
$("edit").addEventListener("submit", (event) => {
  event.preventDefault();
  decide("edit");
});
$("accept").addEventListener("click", () => decide("accept"));
$("reject").addEventListener("click", () => decide("reject"));
$("skip").addEventListener("click", () => step(1));
$("back").addEventListener("click", () => step(-1));
$("picture").addEventListener("error", () => ($("picture").alt = "The picture cannot be shown"));
document.addEventListener("keydown", (event) => {
  if (event.target === $("text")) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      decide("edit");
    } else if (event.key === "Escape") {
      $("text").blur();
    }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input, select, textarea")) return;
  const keys = { a: () => decide("accept"), r: () => decide("reject"), e: () => $("text").focus(), ArrowRight: () => step(1), ArrowLeft: () => step(-1) };
  const act = keys[event.key];
  if (act && !$("one").hidden) {
    event.preventDefault();
    act();
  }
});
begin();
