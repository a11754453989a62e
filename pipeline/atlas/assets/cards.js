// What was found, as cards.

import { address, make } from "./api.js";

const SHOWN_TAGS = 5;

/** A list of cards; `lit` hears which image the reader points at, `like` which one to search with. */
export function cards(found, { lit, like, model }) {
  const list = make("ol", { class: "cards" });
  for (const image of found) list.append(card(image, { lit, like, model }));
  return list;
}

function card(image, { lit, like, model }) {
  const words = image.captions[0] ?? "no caption";
  const link = make(
    "a",
    { href: address("/image", image) },
    make("img", { src: address("/thumbnail", image), alt: `Picture ${image.rank}`, width: 168, height: 168, loading: "lazy", decoding: "async" }),
    make("p", { class: "words", dir: "auto" }, words),
  );
  const facts = [image.country, image.split, image.year, image.gsd_meters && `${image.gsd_meters.toFixed(2)} m`];
  const item = make(
    "li",
    { class: "card", "data-key": key(image) },
    make(
      "p",
      { class: "place" },
      make("span", { class: "rank" }, `#${image.rank}`),
      make("span", { title: "similarity to the query, between -1 and 1" }, image.score.toFixed(3)),
    ),
    link,
    make("p", { class: "elsewhere" }, facts.filter(Boolean).join(" · ")),
    make("ul", { class: "tags" }, ...image.tags.slice(0, SHOWN_TAGS).map((tag) => make("li", { dir: "auto" }, tag))),
  );
  if (like) {
    const button = make("button", { type: "button", "aria-label": `Search for images like number ${image.rank}` }, "Like this one");
    button.addEventListener("click", () => like(image, model));
    item.append(button);
  }
  for (const event of ["mouseenter", "focusin"]) item.addEventListener(event, () => lit?.(image));
  for (const event of ["mouseleave", "focusout"]) item.addEventListener(event, () => lit?.(null));
  return item;
}

/** What tells an image from all others. */
export function key({ country, id }) {
  return `${country}/${id}`;
}

/** Lights the cards of an image, in every column. */
export function light(image, root, scroll = false) {
  const wanted = image && key(image);
  for (const card of root.querySelectorAll(".card")) {
    const is = card.dataset.key === wanted;
    card.classList.toggle("lit", is);
    if (is && scroll) card.scrollIntoView({ block: "nearest" });
  }
}
