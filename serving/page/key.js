// The API key, for a server that requires one: asked for in a dialog, and kept until the tab is closed.

import { byId } from "./dom.js";

const NAME = "foursight-api-key";
let question = null;

/** Return the key, or null. */
export function apiKey() {
  return sessionStorage.getItem(NAME);
}

/**
 * Ask for another key than `refused` (null: there was none). Resolves to whether there is one. `reason` is shown.
 * Callers that ask at the same time share one dialog.
 */
export async function askForKey(refused, reason) {
  if (apiKey() !== refused) return true;
  question ??= ask(reason).finally(() => (question = null));
  return question;
}

async function ask(reason) {
  const dialog = byId("key-dialog");
  const [field] = dialog.querySelectorAll("input");
  field.value = "";
  byId("key-reason").textContent = reason;
  dialog.showModal();
  const given = await new Promise((resolve) => {
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      resolve(field.value.trim());
    };
    byId("key-cancel").onclick = dialog.onclose = () => resolve("");
  });
  dialog.close();
  if (given) sessionStorage.setItem(NAME, given);
  else sessionStorage.removeItem(NAME);
  return Boolean(given);
}
