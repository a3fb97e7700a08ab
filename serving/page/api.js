// The server's HTTP interface, as far as the page needs it. Its errors are `Trouble`: words for a person.

/** Where the server is: the page may lie under a path of its own. */
export const BASE = new URL(".", document.baseURI);

/** What is asked for with each task. Objects of low score come too, so that the slider needs no new request. */
export const OPTIONS = {
  classify: { top_k: 5 },
  localize: { top_k: 3 },
  detect: { score_threshold: 0.1 },
  segment: { score_threshold: 0.1 },
};

/** What went wrong (`message`), what would be right (`hint`), and whether the same request may work later (`again`). */
export class Trouble extends Error {
  constructor(message, hint, again = false) {
    super(message);
    this.hint = hint;
    this.again = again;
  }
}

/**
 * A task's answer for a photo (a Blob): `{answer, timing}`, where `timing` has milliseconds of decode, queue, inference,
 * total (on the server) and trip (there and back). Throws Trouble, and AbortError where `signal` ends it.
 */
export async function ask(task, photo, signal) {
  const url = new URL(`v1/${task}?${new URLSearchParams(OPTIONS[task])}`, BASE);
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

/** The models that this server runs. Throws Trouble. */
export async function models() {
  return (await (await send(new URL("v1/models", BASE), {})).json()).models;
}

/** The tasks that this server has, whether they answer yet or not. Throws Trouble. */
export async function tasks() {
  const response = await fetch(new URL("readyz", BASE)).catch(() => null);
  if (!response) throw unreachable();
  return Object.keys((await response.json()).tasks);
}

function unreachable() {
  return new Trouble(
    `The server at ${BASE.host} does not answer.`,
    "See that it runs (foursight serve starts it) and that the network is there.",
    true,
  );
}

async function send(url, request) {
  let response;
  try {
    response = await fetch(url, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const again = response.status >= 500 || response.status === 429;
  try {
    const { detail, hint } = await response.json();
    return new Trouble(detail, hint, again);
  } catch {
    return new Trouble(`The server answered ${response.status} ${response.statusText}`.trim() + ".", "", again);
  }
}

function serverTiming(response) {
  const header = response.headers.get("Server-Timing") ?? "";
  return Object.fromEntries([...header.matchAll(/([a-z]+);dur=([\d.]+)/g)].map(([, step, ms]) => [step, Number(ms)]));
}
