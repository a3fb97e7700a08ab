// The page: a photo comes in, each chosen task is asked, and the answers are listed and drawn.

import { ask, models, tasks, Trouble } from "./api.js";
import { takePhoto } from "./camera.js";
import { curl, python } from "./code.js";
import { objectAt, paint } from "./draw.js";
import { census, COUNTED, toRows } from "./objects.js";
import { colour, css } from "./palette.js";

const byId = (id) => document.getElementById(id);
const canvas = byId("canvas");
const context = canvas.getContext("2d");
const percent = (score) => (score < 0.005 ? "< 1 %" : `${Math.round(100 * score)} %`);
const duration = (ms) => (ms < 9.95 ? `${ms.toFixed(1)} ms` : ms < 999.5 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
const title = (task) => task[0].toUpperCase() + task.slice(1);

/** `photo` is {blob, name, sample, bitmap, size}; `asked` has for each task {abort, rows, answer, timing, trouble}. */
const state = { photo: null, asked: new Map(), shown: null, pickedTab: false, lit: null, code: "curl", trouble: null };

// A photo comes in.

/** Show a photo and ask for it; what was asked for the one before is called off. */
async function take(blob, name, sample = null) {
  callOff();
  const photo = { blob, name, sample, bitmap: null, size: null };
  Object.assign(state, { photo, shown: null, pickedTab: false, trouble: null });
  for (const task of chosen()) start(task);
  render();
  try {
    photo.bitmap = await createImageBitmap(blob);
    photo.size = { width: photo.bitmap.width, height: photo.bitmap.height };
  } catch {
    // Not a photo, or of a kind that this browser cannot read: the server says which.
  }
  if (state.photo === photo) render();
}

function callOff() {
  for (const one of state.asked.values()) one.abort.abort();
  state.asked.clear();
  state.lit = null;
  state.photo?.bitmap?.close();
}

/** A message of what kept a photo from coming in. */
function complain(trouble) {
  state.trouble = trouble;
  render();
}

// The server is asked.

function chosen() {
  return [...byId("tasks").querySelectorAll("input:checked")].map((box) => box.value);
}

async function start(task) {
  const { photo } = state;
  const one = { abort: new AbortController(), rows: null, answer: null, timing: null, trouble: null };
  state.asked.set(task, one);
  try {
    const { answer, timing } = await ask(task, photo.blob, one.abort.signal);
    Object.assign(one, { answer, timing, rows: toRows(task, answer) });
    photo.size ??= answer.image;
  } catch (error) {
    if (error.name === "AbortError") return;
    one.trouble = error instanceof Trouble ? error : new Trouble("The answer could not be read.", String(error.message));
  }
  // The answer to a photo or a task that is no longer wanted comes too late.
  if (state.asked.get(task) === one) render();
}

function stop(task) {
  state.asked.get(task)?.abort.abort();
  state.asked.delete(task);
}

// What is shown follows from the state.

function render() {
  state.shown = whichTask();
  renderStage();
  renderTabs();
  renderRows();
  renderSummary();
  renderTiming();
  renderCode();
}

/** The task that the reader picked; until then the last in order that found something, as that says most. */
function whichTask() {
  const tasks = chosen().filter((task) => state.asked.has(task));
  if (state.pickedTab && tasks.includes(state.shown)) return state.shown;
  return tasks.findLast((task) => visible(task).length) ?? tasks.at(-1) ?? null;
}

/** The rows of a task that pass the slider. */
function visible(task) {
  const rows = state.asked.get(task)?.rows ?? [];
  return COUNTED.has(task) ? rows.filter((row) => row.score >= threshold()) : rows;
}

function threshold() {
  return Number(byId("threshold").value) / 100;
}

function placed() {
  return state.shown ? visible(state.shown).filter((row) => row.box) : [];
}

function renderStage() {
  const { photo } = state;
  const waits = [...state.asked.values()].some((one) => !one.rows && !one.trouble);
  const drawable = Boolean(photo?.bitmap);
  byId("stage").dataset.state = photo && (photo.size || waits) ? "photo" : "empty";
  byId("working").hidden = !waits;
  byId("blind").hidden = !photo || drawable || !state.asked.get(state.shown)?.rows;
  canvas.hidden = byId("save").hidden = !drawable;
  if (drawable) draw();
}

function draw() {
  const { photo } = state;
  if (!photo?.bitmap) return;
  const room = byId("stage").clientWidth;
  const scale = Math.min(room / photo.size.width, Math.max(320, 0.72 * innerHeight) / photo.size.height);
  const [width, height] = [photo.size.width * scale, photo.size.height * scale];
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  // Setting the size clears the canvas, so only where it changes.
  const [wide, high] = [Math.round(width * devicePixelRatio), Math.round(height * devicePixelRatio)];
  if (canvas.width !== wide) canvas.width = wide;
  if (canvas.height !== high) canvas.height = high;
  const objects = placed();
  const lit = objects.includes(state.lit) ? state.lit : null;
  paint(context, photo.bitmap, photo.size, objects, { unit: devicePixelRatio, lit });
  const found = objects.length ? `Photo with ${census(objects)} marked` : "Photo, nothing marked";
  if (canvas.getAttribute("aria-label") !== found) canvas.setAttribute("aria-label", found);
}

function renderTabs() {
  byId("result").hidden = !state.photo && !state.trouble;
  const tabs = byId("task-tabs");
  const tasks = chosen().filter((task) => state.asked.has(task));
  tabs.hidden = !tasks.length;
  const names = tasks.join();
  if (tabs.dataset.tasks !== names) {
    tabs.dataset.tasks = names;
    const attributes = { type: "button", role: "tab", "aria-controls": "task-panel" };
    tabs.replaceChildren(...tasks.map((task) => make("button", { ...attributes, id: `tab-${task}`, "data-task": task })));
  }
  for (const tab of tabs.children) {
    const { task } = tab.dataset;
    const one = state.asked.get(task);
    const found = COUNTED.has(task) ? String(visible(task).length) : "";
    tab.replaceChildren(title(task), make("span", { class: "count" }, one.trouble ? "!" : one.rows ? found : "…"));
    select(tab, task === state.shown);
  }
  if (state.shown) byId("task-panel").setAttribute("aria-labelledby", `tab-${state.shown}`);
}

function select(tab, selected) {
  tab.setAttribute("aria-selected", String(selected));
  tab.tabIndex = selected ? 0 : -1;
}

function renderRows() {
  const one = state.asked.get(state.shown);
  const trouble = state.trouble ?? one?.trouble;
  const box = byId("trouble");
  box.hidden = !trouble;
  // An alert is spoken when it changes: not at each step of the slider.
  if (trouble && trouble !== box.trouble) {
    box.replaceChildren(make("strong", {}, trouble.message), " ", trouble.hint ?? "");
    if (trouble.again) box.append(make("button", { type: "button", class: "button", id: "again" }, "Try again"));
  }
  box.trouble = trouble;
  byId("threshold-row").hidden = !one?.rows || !COUNTED.has(state.shown);
  const rows = state.shown ? visible(state.shown) : [];
  const listed = [...byId("rows").children].map((element) => element.firstChild.row);
  // The same rows stay, and with them the focus.
  if (rows.length === listed.length && rows.every((row, at) => row === listed[at])) return;
  byId("rows").replaceChildren(...rows.map(item));
}

function item(row) {
  const bar = make("span", { class: "bar" });
  bar.style.inlineSize = `${100 * row.score}%`;
  const parts = [make("span", { class: "name" }, row.label), make("span", { class: "score" }, percent(row.score)), bar];
  const swatch = make("span", { class: "swatch" });
  swatch.style.backgroundColor = css(colour(row.classId, row.instance));
  const element = row.box
    ? make("button", { type: "button", class: "row" }, swatch, ...parts)
    : make("div", { class: "row" }, ...parts);
  element.row = row;
  return make("li", {}, element);
}

function renderSummary() {
  const line = byId("summary");
  const text = summary();
  // Said once to who listens, not at each step of the slider that changes nothing.
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle("idle", !state.photo);
}

function summary() {
  const one = state.asked.get(state.shown);
  if (!state.photo) return "Choose a photo, and the answer is here.";
  if (one?.trouble) return "";
  if (!one) return "Choose at least one task.";
  if (!one.rows) return "Looking …";
  const rows = visible(state.shown);
  const [best] = rows;
  if (state.shown === "classify") return best ? `Most likely: ${best.label}` : "Nothing that it knows";
  if (state.shown === "localize") return best ? `The main thing: ${best.label}` : "Nothing that it knows";
  return rows.length ? census(rows) : one.rows.length ? "Nothing that it is this sure of" : "Nothing that it knows";
}

function renderTiming() {
  const box = byId("timing");
  const timing = state.asked.get(state.shown)?.timing;
  box.hidden = !timing;
  if (!timing) return;
  const { decode = 0, queue = 0, inference = 0, total = 0, trip } = timing;
  const other = Math.max(0, total - decode - queue - inference);
  const steps = { decode, queue, inference, other, network: Math.max(0, trip - total) };
  const strip = make("div", { class: "strip", "aria-hidden": "true" });
  for (const [name, ms] of Object.entries(steps)) {
    const part = make("span", { "data-step": name });
    part.style.flexGrow = String(ms);
    strip.append(part);
  }
  const times = Object.entries({ decode, queue, inference, total, "round trip": trip });
  const terms = times.map(([name, ms]) => make("div", {}, make("dt", { "data-step": name }, name), make("dd", {}, duration(ms))));
  box.replaceChildren(strip, make("dl", {}, ...terms));
}

function renderCode() {
  const tasks = chosen();
  byId("code").hidden = !state.photo || !tasks.length;
  if (byId("code").hidden) return;
  for (const tab of byId("code-tabs").children) select(tab, tab.dataset.code === state.code);
  byId("code-panel").setAttribute("aria-labelledby", `tab-${state.code}`);
  byId("code-text").textContent = code(tasks);
}

function code(tasks) {
  if (state.code === "curl") return curl(state.photo, tasks, threshold());
  if (state.code === "python") return python(state.photo, tasks, threshold());
  const answer = state.asked.get(state.shown)?.answer;
  if (!answer) return "No answer yet.";
  const least = COUNTED.has(state.shown) ? threshold() : 0;
  const shown = answer.predictions.filter(({ score }) => score >= least);
  const lines = shown.map((prediction) => `    ${JSON.stringify(prediction)}`).join(",\n");
  const { model, image } = answer;
  return `{\n  "model": ${JSON.stringify(model)},\n  "image": ${JSON.stringify(image)},\n  "predictions": [${lines ? `\n${lines}\n  ` : ""}]\n}`;
}

function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// An object is pointed at, in the photo or in the list.

function light(row) {
  if (state.lit === row) return;
  state.lit = row;
  for (const element of byId("rows").querySelectorAll("button")) element.classList.toggle("lit", element.row === row);
  canvas.classList.toggle("over", Boolean(row));
  draw();
}

function under(event) {
  const { left, top, width } = canvas.getBoundingClientRect();
  const scale = state.photo.size.width / width;
  return objectAt(context, placed(), (event.clientX - left) * scale, (event.clientY - top) * scale);
}

canvas.addEventListener("pointermove", (event) => light(under(event)));
canvas.addEventListener("pointerleave", () => light(null));
canvas.addEventListener("click", (event) => {
  const row = under(event);
  [...byId("rows").querySelectorAll("button")].find((element) => element.row === row)?.focus();
});
const rowOf = (event) => event.target.closest("button.row")?.row ?? null;
byId("rows").addEventListener("pointerover", (event) => light(rowOf(event)));
byId("rows").addEventListener("pointerleave", () => light(document.activeElement?.row ?? null));
byId("rows").addEventListener("focusin", (event) => light(rowOf(event)));
byId("rows").addEventListener("focusout", () => light(null));

// Ways for a photo to come in.

byId("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  // The same file again is a wish too.
  if (file) take(file, file.name);
  target.value = "";
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("stage").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("stage").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("stage").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) take(file, file.name);
  else complain(new Trouble("That was not a file.", "Drop a photo's file, or save the picture first."));
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) take(file, file.name || "photo.png");
});

byId("samples").addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const source = button.querySelector("img").src;
  try {
    const response = await fetch(source);
    if (!response.ok) throw new Error(response.statusText);
    await take(await response.blob(), button.dataset.sample, source);
  } catch {
    complain(new Trouble("The sample could not be fetched.", "See that the server runs."));
  }
});

byId("camera").addEventListener("click", async ({ currentTarget: button }) => {
  // The browser may take its time to ask: a second press must not open a second camera.
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  try {
    const photo = await takePhoto(byId("camera-dialog"));
    if (photo) await take(photo, "photo.jpg");
  } catch (error) {
    complain(error instanceof Trouble ? error : new Trouble("The camera gave no photo.", String(error.message)));
  } finally {
    button.ariaBusy = "false";
  }
});

// Everything else that can be pressed.

byId("tasks").addEventListener("change", ({ target }) => {
  state.trouble = null;
  if (state.photo && target.checked) {
    start(target.value);
    Object.assign(state, { shown: target.value, pickedTab: true });
  } else {
    stop(target.value);
  }
  render();
});

byId("threshold").addEventListener("input", ({ target }) => {
  byId("threshold-value").textContent = `${target.value} %`;
  target.setAttribute("aria-valuetext", `${target.value} percent`);
  render();
});

byId("trouble").addEventListener("click", (event) => {
  if (event.target.id !== "again") return;
  for (const [task, one] of [...state.asked]) if (one.trouble) start(task);
  render();
});

tabList(byId("task-tabs"), ({ task }) => Object.assign(state, { shown: task, pickedTab: true, lit: null, trouble: null }));
tabList(byId("code-tabs"), ({ code: kind }) => Object.assign(state, { code: kind }));

/** Tabs as the ARIA practices describe them: arrows move, and moving chooses. */
function tabList(list, choose) {
  const activate = (tab) => {
    choose(tab.dataset);
    render();
    tab.focus();
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) activate(tab);
  });
  list.addEventListener("keydown", (event) => {
    const tabs = [...list.children];
    const at = tabs.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    activate(tabs.at(to % tabs.length));
  });
}

byId("copy").addEventListener("click", async ({ target }) => {
  try {
    await navigator.clipboard.writeText(byId("code-text").textContent);
    target.textContent = "Copied";
  } catch {
    // Without https there is no clipboard for pages: mark the text, so that the keyboard can copy it.
    getSelection().selectAllChildren(byId("code-text"));
    target.textContent = "Press Ctrl C";
  }
  setTimeout(() => (target.textContent = "Copy"), 1800);
});

byId("save").addEventListener("click", async () => {
  const { bitmap, size, name } = state.photo;
  const picture = new OffscreenCanvas(size.width, size.height);
  const unit = Math.max(1, Math.sqrt(size.width * size.height) / 640);
  paint(picture.getContext("2d"), bitmap, size, placed(), { unit });
  const url = URL.createObjectURL(await picture.convertToBlob({ type: "image/png" }));
  make("a", { href: url, download: `${name.replace(/\.\w+$/, "")}-${state.shown ?? "photo"}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
});

new ResizeObserver(draw).observe(byId("stage"));
document.fonts.ready.then(draw);

// What this server has.

try {
  const served = await tasks();
  for (const box of byId("tasks").querySelectorAll("input")) {
    box.parentElement.hidden = !served.includes(box.value);
    box.checked &&= !box.parentElement.hidden;
  }
  if (!chosen().length) byId("tasks").querySelector("label:not([hidden]) input").click();
  byId("models").replaceChildren(...(await models()).map(card));
} catch (error) {
  byId("models").replaceChildren(make("div", {}, make("dt", {}, "Unknown"), make("dd", {}, error.message)));
}

function card({ task, name, labels, device }) {
  const count = make("strong", {}, `${labels.length.toLocaleString("en")} labels`);
  const which = labels.length <= 100 ? `: ${labels.join(", ")}.` : ` of ImageNet, from ${labels[0]} to ${labels.at(-1)}.`;
  const model = make("span", { class: "aside" }, `${name} on ${device}`);
  return make("div", {}, make("dt", {}, title(task)), make("dd", {}, count, which, model));
}
