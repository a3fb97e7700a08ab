// From a task's answer to what the page lists and draws.

import { outline } from "./outline.js";
import { decode } from "./rle.js";

/** Tasks whose predictions are things side by side, each with a score of its own for the slider to filter by. */
export const COUNTED = new Set(["detect", "segment"]);

/**
 * The rows of an answer, best first: `{label, classId, score, instance, box, path}`. `box` is null where a prediction has
 * no place of its own; `path`, the outline of its mask or null, is made when first asked for.
 */
export function toRows(task, answer) {
  const seen = new Map();
  const ranked = [...answer.predictions].sort((one, other) => other.score - one.score);
  return ranked.map((prediction, rank) => {
    const instance = seen.get(prediction.class_id) ?? 0;
    seen.set(prediction.class_id, instance + 1);
    // The labels of localization are several names for one object: the box is the first one's.
    const placed = COUNTED.has(task) || rank === 0;
    return row(prediction, instance, placed ? (prediction.box ?? null) : null);
  });
}

/** "2 × horse, 1 × person", most first. */
export function census(rows) {
  const counts = new Map();
  for (const { label } of rows) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].sort((one, other) => other[1] - one[1]).map(([label, count]) => `${count} × ${label}`).join(", ");
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
