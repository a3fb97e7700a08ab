// Converts the answer of a task to the rows that the page lists and draws.

import { outline } from "./outline.js";
import { decode } from "./rle.js";

/**
 * Return the rows of an answer, best first: `{label, classId, score, instance, box, path}`. `box` is null if a
 * prediction has no box to draw; `path`, the outline of its mask or null, is computed on first access.
 */
export function toRows({ finds }, answer) {
  const seen = new Map();
  const ranked = [...answer.predictions].sort((one, other) => other.score - one.score);
  return ranked.map((prediction, rank) => {
    const instance = seen.get(prediction.class_id) ?? 0;
    seen.set(prediction.class_id, instance + 1);
    // All labels of the one main object have the same box: it is drawn once.
    const placed = finds !== "object" || rank === 0;
    return row(prediction, instance, placed ? (prediction.box ?? null) : null);
  });
}

function row({ label, class_id: classId, score, mask }, instance, box) {
  let path = null;
  return {
    label,
    classId,
    score,
    instance,
    box,
    get path() {
      path ??= mask ? outline(decode(mask)) : null;
      return path;
    },
  };
}
