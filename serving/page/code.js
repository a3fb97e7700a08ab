// The lines that ask the same of the server from a shell and from Python.

import { BASE } from "./api.js";

const SERVER = BASE.href.replace(/\/$/, "");

/** A line for a shell. `photo` is `{name, sample}`; several tasks go to the server with one upload. */
export function curl(photo, tasks, threshold) {
  const upload = photo.sample
    ? `curl -s ${quote(photo.sample)} | curl --data-binary @- `
    : `curl --data-binary ${quote(`@${photo.name}`)} `;
  return upload + quote(`${SERVER}/v1/${route(tasks)}${query(tasks, threshold)}`);
}

/** The same in Python. */
export function python(photo, tasks, threshold) {
  const source = JSON.stringify(photo.sample ?? photo.name);
  const call =
    tasks.length === 1
      ? `${tasks[0]}(${source}${options(tasks, threshold)})`
      : `analyze(${source}, tasks=${JSON.stringify(tasks)})`;
  return `from foursight import Client\n\nwith Client(${JSON.stringify(SERVER)}) as client:\n    print(client.${call})`;
}

function route(tasks) {
  return tasks.length === 1 ? tasks[0] : "analyze";
}

function query(tasks, threshold) {
  if (tasks.length > 1) return `?tasks=${tasks.join(",")}`;
  return isCounted(tasks) ? `?score_threshold=${threshold}` : "";
}

function options(tasks, threshold) {
  return isCounted(tasks) ? `, score_threshold=${threshold}` : "";
}

function isCounted([task]) {
  return task === "detect" || task === "segment";
}

/** As one word of a POSIX shell. */
function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
