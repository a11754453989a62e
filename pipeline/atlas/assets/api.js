// Questions to the server, and small helpers that all pages share.

/** Asks the server; its own words become the error. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer; is it still running?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error ?? (response.status === 401 ? "The token is no longer valid." : `The server answers ${response.status}.`));
}

/** An element with attributes and children; strings become text, never markup. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Address of an image, or of its picture. */
export function address(path, { country, id }) {
  return `${path}?${new URLSearchParams({ country, id })}`;
}

/** Runs at most once in a frame. */
export function eachFrame(draw) {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      draw();
    });
  };
}

/** A colour of the style sheet, as it is in the reader's mode. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Calls back when the reader's mode changes: canvases do not repaint themselves. */
export function onModeChange(callback) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", callback);
}
