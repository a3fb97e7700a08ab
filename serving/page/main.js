// The page: for each photo, requests every chosen task, then lists and draws the answers.

import { renderAnswer } from "./answer.js";
import { ask, models, tasks, Trouble } from "./api.js";
import { renderModelChoices, renderModels, renderTasks } from "./choices.js";
import { curl, python } from "./code.js";
import { byId, make, select, tabList } from "./dom.js";
import { listen } from "./intake.js";
import { toRows } from "./objects.js";
import { renderStage } from "./stage.js";
import { chosen, counted, requested, state, threshold, visible } from "./state.js";

/** Show a photo and request the chosen tasks; requests for the previous photo are aborted. */
async function take(blob, name, sample = null) {
  abortAll();
  const photo = { blob, name, sample, bitmap: null, size: null };
  Object.assign(state, { photo, shown: null, pickedTab: false, trouble: null });
  for (const task of chosen()) start(task);
  render();
  try {
    photo.bitmap = await createImageBitmap(blob);
    photo.size = { width: photo.bitmap.width, height: photo.bitmap.height };
  } catch {
    // Not a photo, or a format that this browser cannot read: the server's answer says which.
  }
  if (state.photo === photo) render();
}

function abortAll() {
  for (const one of state.asked.values()) one.abort.abort();
  state.asked.clear();
  state.lit = null;
  state.photo?.bitmap?.close();
}

/** Show why a photo could not be added. */
function complain(trouble) {
  state.trouble = trouble;
  render();
}

async function start(name) {
  const { photo } = state;
  const task = state.served.get(name);
  const one = { abort: new AbortController(), rows: null, answer: null, timing: null, trouble: null };
  state.asked.set(name, one);
  try {
    const { answer, timing } = await ask(task, photo.blob, state.models.get(name), one.abort.signal);
    Object.assign(one, { answer, timing, rows: toRows(task, answer) });
    photo.size ??= answer.image;
  } catch (error) {
    if (error.name === "AbortError") return;
    one.trouble = error instanceof Trouble ? error : new Trouble("The answer could not be read.", String(error.message));
  }
  // The photo, or the choice of tasks, may have changed meanwhile.
  if (state.asked.get(name) === one) render();
}

function stop(name) {
  state.asked.get(name)?.abort.abort();
  state.asked.delete(name);
}

/** Request a task now and show its tab. */
function startAndShow(name) {
  start(name);
  Object.assign(state, { shown: name, pickedTab: true });
}

function render() {
  state.shown = whichTask();
  renderStage();
  renderAnswer();
  renderCode();
}

/** Return the task of the selected tab or, without one, the last task that found something. */
function whichTask() {
  const names = requested();
  if (state.pickedTab && names.includes(state.shown)) return state.shown;
  return names.findLast((name) => visible(name).length) ?? names.at(-1) ?? null;
}

function renderCode() {
  byId("code").hidden = !state.photo || !chosen().length;
  if (byId("code").hidden) return;
  for (const tab of byId("code-tabs").children) select(tab, tab.dataset.code === state.code);
  byId("code-panel").setAttribute("aria-labelledby", `tab-${state.code}`);
  byId("code-text").textContent = code();
}

function code() {
  const wanted = chosen().map((name) => ({ task: state.served.get(name), model: state.models.get(name) }));
  if (state.code === "curl") return curl(state.photo, wanted, threshold());
  if (state.code === "python") return python(state.photo, wanted, threshold());
  const answer = state.asked.get(state.shown)?.answer;
  if (!answer) return "No answer yet.";
  const least = counted(state.shown) ? threshold() : 0;
  const shown = answer.predictions.filter(({ score }) => score >= least);
  const lines = shown.map((prediction) => `    ${JSON.stringify(prediction)}`).join(",\n");
  const { model, image } = answer;
  return `{\n  "model": ${JSON.stringify(model)},\n  "image": ${JSON.stringify(image)},\n  "predictions": [${lines ? `\n${lines}\n  ` : ""}]\n}`;
}

listen(take, complain);

byId("tasks").addEventListener("change", ({ target }) => {
  state.trouble = null;
  if (state.photo && target.checked) startAndShow(target.value);
  else stop(target.value);
  renderModelChoices();
  render();
});

byId("model-choices").addEventListener("change", ({ target }) => {
  const { task } = target.dataset;
  state.models.set(task, target.value || null);
  stop(task);
  if (state.photo) startAndShow(task);
  render();
});

byId("threshold").addEventListener("input", ({ target }) => {
  byId("threshold-value").textContent = `${target.value} %`;
  target.setAttribute("aria-valuetext", `${target.value} percent`);
  render();
});

byId("trouble").addEventListener("click", (event) => {
  if (event.target.id !== "again") return;
  for (const [name, one] of [...state.asked]) if (one.trouble) start(name);
  render();
});

tabList(byId("task-tabs"), ({ task }) => {
  Object.assign(state, { shown: task, pickedTab: true, lit: null, trouble: null });
  render();
});

tabList(byId("code-tabs"), ({ code: kind }) => {
  state.code = kind;
  render();
});

byId("copy").addEventListener("click", async ({ target }) => {
  try {
    await navigator.clipboard.writeText(byId("code-text").textContent);
    target.textContent = "Copied";
  } catch {
    // Pages without https have no clipboard: select the text, so that it can be copied with the keyboard.
    getSelection().selectAllChildren(byId("code-text"));
    target.textContent = "Press Ctrl C";
  }
  setTimeout(() => (target.textContent = "Copy"), 1800);
});

try {
  for (const task of await tasks()) state.served.set(task.name, task);
  renderTasks();
  // A photo may have been added meanwhile.
  if (state.photo) for (const name of chosen()) start(name);
  render();
  state.cards = await models();
  renderModelChoices();
  renderModels();
} catch (error) {
  byId("models").replaceChildren(make("div", {}, make("dt", {}, "Unknown"), make("dd", {}, error.message)));
  if (!state.served.size) complain(error);
}
