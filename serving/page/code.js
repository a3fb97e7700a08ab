// Commands that send the same request from a shell and from Python.

import { BASE } from "./api.js";
import { apiKey } from "./key.js";
import { isCounted } from "./tasks.js";

const SERVER = BASE.href.replace(/\/$/, "");
// The Python client has a method for each of these; other tasks go through its method `run`.
const METHODS = ["classify", "localize", "detect", "segment"];

/**
 * Return a command for a shell. `photo` is `{name, sample}`; `chosen` has, for each task, `{task, model}`. Several
 * tasks share one upload, unless two of them use fine-tuned models or the threshold is not for all of them.
 */
export function curl(photo, chosen, threshold) {
  const key = apiKey() ? '-H "Authorization: Bearer $FOURSIGHT_API_KEY" ' : "";
  const upload = photo.sample
    ? `curl -s ${quote(photo.sample)} | curl ${key}--data-binary @- `
    : `curl ${key}--data-binary ${quote(`@${photo.name}`)} `;
  return requests(chosen, threshold)
    .map(({ path, options }) => {
      const query = Object.entries(options).map(([name, value]) => `${name}=${value}`).join("&");
      return upload + quote(`${SERVER}/v1/${path}${query && "?"}${query}`);
    })
    .join("\n");
}

/** Return the same request in Python. */
export function python(photo, chosen, threshold) {
  const source = JSON.stringify(photo.sample ?? photo.name);
  const lines = requests(chosen, threshold).map(({ path, options }) => {
    const keywords = Object.entries(options).map(([name, value]) => `, ${name}=${JSON.stringify(value)}`).join("");
    const known = METHODS.includes(path) || path === "analyze";
    return `    print(client.${known ? `${path}(` : `run(${JSON.stringify(path)}, `}${source}${keywords}))`;
  });
  const key = apiKey() ? ', os.environ["FOURSIGHT_API_KEY"]' : "";
  const imports = [...(key ? ["import os", ""] : []), "from foursight import Client", ""];
  return [...imports, `with Client(${JSON.stringify(SERVER)}${key}) as client:`, ...lines].join("\n");
}

function requests(chosen, threshold) {
  const models = chosen.filter(({ model }) => model);
  const tasks = chosen.map(({ task }) => task);
  const score = sharedScore(tasks, threshold);
  if (chosen.length > 1 && models.length < 2 && score) {
    return [{ path: "analyze", options: { tasks: tasks.map(({ name }) => name), ...score, ...modelOf(models[0]) } }];
  }
  return chosen.map(({ task, model }) => {
    const own = isCounted(task) && task.options.score_threshold ? { score_threshold: threshold } : {};
    return { path: task.name, options: { ...own, ...modelOf({ model }) } };
  });
}

/** Return the option for the slider's threshold in one request for all tasks; null if it would change other tasks. */
function sharedScore(tasks, threshold) {
  const scored = tasks.filter(({ options }) => options.score_threshold);
  const counted = scored.filter(isCounted);
  if (counted.every(({ options }) => options.score_threshold.default === threshold)) return {};
  return counted.length === scored.length ? { score_threshold: threshold } : null;
}

function modelOf(choice) {
  return choice?.model ? { model: choice.model } : {};
}

/** Quote text as one word of a POSIX shell. */
function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
