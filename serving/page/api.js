// The parts of the server's HTTP interface that the page uses. Errors are `Trouble`, with words for a person.

import { apiKey, askForKey } from "./key.js";
import { queryOf } from "./tasks.js";

/** Address of the server. A proxy may serve the page below a path. */
export const BASE = new URL(".", document.baseURI);

/** What went wrong (`message`), what would be right (`hint`), and whether retrying the request may help (`again`). */
export class Trouble extends Error {
  constructor(message, hint, again = false) {
    super(message);
    this.hint = hint;
    this.again = again;
  }
}

/**
 * Return a task's answer for a photo (a Blob): `{answer, timing}`. `timing` has milliseconds of decode, queue,
 * inference and total (on the server), and of trip (the round trip). `model` is the name of a fine-tuned model, or
 * null. Throws Trouble, or AbortError if `signal` ends the request.
 */
export async function ask(task, photo, model, signal) {
  const url = new URL(`v1/${task.name}?${queryOf(task, model)}`, BASE);
  const start = performance.now();
  const response = await send(url, {
    method: "POST",
    body: photo,
    headers: { "Content-Type": "application/octet-stream", Accept: "application/json" },
    signal,
  });
  const answer = await response.json();
  return { answer, timing: { ...serverTiming(response), trip: performance.now() - start } };
}

/** Return the models of this server, built-in and fine-tuned. Throws Trouble. */
export async function models() {
  return (await (await send(new URL("v1/models", BASE), {})).json()).models;
}

/**
 * Return the tasks of this server, from its OpenAPI document: `{name, summary, finds, options}`. `finds` is "labels",
 * "object", "objects" or "masks"; `options` has the JSON schema of each option by its name. Throws Trouble.
 */
export async function tasks() {
  const { paths } = await (await send(new URL("openapi.json", BASE), {})).json();
  return Object.entries(paths)
    .filter(([, { post }]) => post?.["x-finds"])
    .map(([path, { post }]) => ({
      name: path.replace("/v1/", ""),
      summary: post.summary.replace(/\.$/, ""),
      finds: post["x-finds"],
      options: Object.fromEntries(
        post.parameters.filter((parameter) => parameter.in === "query").map(({ name, schema }) => [name, schema]),
      ),
    }));
}

async function send(url, request) {
  const key = apiKey();
  const headers = { ...request.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(url, { ...request, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const hint = "Check that it runs (foursight serve starts it) and that you are online.";
    throw new Trouble(`The server at ${BASE.host} does not respond.`, hint, true);
  }
  if (response.ok) return response;
  const trouble = await toTrouble(response);
  if (response.status === 401 && (await askForKey(key, trouble.message))) return send(url, request);
  throw trouble;
}

async function toTrouble(response) {
  const again = response.status >= 500 || response.status === 429;
  try {
    const { detail, hint } = await response.json();
    return new Trouble(detail, hint, again);
  } catch {
    return new Trouble(`The server responded ${response.status} ${response.statusText}`.trim() + ".", "", again);
  }
}

function serverTiming(response) {
  const header = response.headers.get("Server-Timing") ?? "";
  return Object.fromEntries([...header.matchAll(/([a-z]+);dur=([\d.]+)/g)].map(([, step, ms]) => [step, Number(ms)]));
}
