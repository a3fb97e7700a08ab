// The state of the page. Everything is rendered from it and from the controls.

import { byId } from "./dom.js";
import { isCounted } from "./tasks.js";

/**
 * `photo` is {blob, name, sample, bitmap, size}. Maps have names of tasks as keys: `served` has the tasks of the server,
 * `models` the fine-tuned models chosen, and `asked` {abort, rows, answer, timing, trouble} for each request.
 */
export const state = {
  served: new Map(),
  cards: [],
  models: new Map(),
  photo: null,
  asked: new Map(),
  shown: null,
  pickedTab: false,
  lit: null,
  code: "curl",
  trouble: null,
};

/** Return the names of the tasks whose boxes are checked. */
export function chosen() {
  return [...byId("tasks").querySelectorAll("input:checked")].map((box) => box.value);
}

/** Return the names of the chosen tasks that have been requested. */
export function requested() {
  return chosen().filter((name) => state.asked.has(name));
}

/** Return whether the slider applies to a task. */
export function counted(name) {
  return state.served.has(name) && isCounted(state.served.get(name));
}

/** Return the position of the slider, 0..1. */
export function threshold() {
  return Number(byId("threshold").value) / 100;
}

/** Return the rows of a task at or above the slider's threshold. */
export function visible(name) {
  const rows = state.asked.get(name)?.rows ?? [];
  return counted(name) ? rows.filter((row) => row.score >= threshold()) : rows;
}

/** Return the rows that are drawn on the photo. */
export function placed() {
  return state.shown ? visible(state.shown).filter((row) => row.box) : [];
}
