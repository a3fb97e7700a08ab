// Everything that depends on the kind of task follows from its description (see `tasks` in api.js), never from its
// name.

const DETAIL = ["labels", "object", "objects", "masks"];
// The slider's lowest position. Objects above it are requested at once, so that the slider needs no new request.
const LOWEST_SCORE = 0.1;
const FEWEST_LABELS = 3;

/** "detect" as a title: "Detect". */
export function title(name) {
  return name[0].toUpperCase() + name.slice(1);
}

/** Return whether a task finds separate objects, each with its own score for the slider. */
export function isCounted({ finds }) {
  return finds === "objects" || finds === "masks";
}

/** Return the query that the page sends for a task; `model` is the name of a fine-tuned model, or null. */
export function queryOf(task, model) {
  const query = new URLSearchParams();
  const { score_threshold: score, top_k: count } = task.options;
  if (score && isCounted(task)) query.set("score_threshold", Math.max(score.minimum ?? 0, LOWEST_SCORE));
  if (count) query.set("top_k", Math.max(count.default ?? 0, FEWEST_LABELS));
  if (model) query.set("model", model);
  return query;
}

/** Return the names of the tasks that are chosen at first: one for labels, and the one with the most detailed objects. */
export function firstChoice(tasks) {
  const labels = tasks.find(({ finds }) => finds === "labels");
  const detailed = DETAIL.slice(1).map((detail) => tasks.find(({ finds }) => finds === detail)).findLast(Boolean);
  return [labels, detailed].filter(Boolean).map(({ name }) => name);
}

/** Return one line about the rows of a task's answer, of which `visible` pass the slider. */
export function headline({ finds }, rows, visible) {
  if (!rows.length) return "Nothing found.";
  if (finds === "labels") return `Most likely: ${visible[0].label}`;
  if (finds === "object") return `Main object: ${visible[0].label}`;
  return visible.length ? census(visible) : "No object has a score this high.";
}

/** "2 × horse, 1 × person", the most frequent first. */
export function census(rows) {
  const counts = new Map();
  for (const { label } of rows) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].sort((one, other) => other[1] - one[1]).map(([label, count]) => `${count} × ${label}`).join(", ");
}
