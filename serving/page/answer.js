// The answers beside the photo: a tab for each task, its rows, a summary line, and the time of each step.

import { byId, make, select } from "./dom.js";
import { colour, css } from "./palette.js";
import { counted, requested, state, visible } from "./state.js";
import { headline, title } from "./tasks.js";

const percent = (score) => (score < 0.005 ? "< 1 %" : `${Math.round(100 * score)} %`);
const duration = (ms) => (ms < 9.95 ? `${ms.toFixed(1)} ms` : ms < 999.5 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** Render everything about the answers. */
export function renderAnswer() {
  renderTabs();
  renderTrouble();
  renderRows();
  renderSummary();
  renderTiming();
}

function renderTabs() {
  byId("result").hidden = !state.photo && !state.trouble;
  const tabs = byId("task-tabs");
  const names = requested();
  tabs.hidden = !names.length;
  if (tabs.dataset.tasks !== names.join()) {
    tabs.dataset.tasks = names.join();
    const attributes = { type: "button", role: "tab", "aria-controls": "task-panel" };
    tabs.replaceChildren(...names.map((task) => make("button", { ...attributes, id: `tab-${task}`, "data-task": task })));
  }
  for (const tab of tabs.children) {
    const { task } = tab.dataset;
    const one = state.asked.get(task);
    const found = counted(task) ? String(visible(task).length) : "";
    tab.replaceChildren(title(task), make("span", { class: "count" }, one.trouble ? "!" : one.rows ? found : "…"));
    select(tab, task === state.shown);
  }
  if (state.shown) byId("task-panel").setAttribute("aria-labelledby", `tab-${state.shown}`);
}

function renderTrouble() {
  const trouble = state.trouble ?? state.asked.get(state.shown)?.trouble;
  const box = byId("trouble");
  box.hidden = !trouble;
  // Screen readers speak an alert when it changes: it must not change at each step of the slider.
  if (trouble && trouble !== box.trouble) {
    box.replaceChildren(make("strong", {}, trouble.message), " ", trouble.hint ?? "");
    if (trouble.again) box.append(make("button", { type: "button", class: "button", id: "again" }, "Try again"));
  }
  box.trouble = trouble;
}

function renderRows() {
  byId("threshold-row").hidden = !state.asked.get(state.shown)?.rows || !counted(state.shown);
  const rows = state.shown ? visible(state.shown) : [];
  const listed = [...byId("rows").children].map((element) => element.firstChild.row);
  // Replacing the same rows would lose the focus.
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
  // Screen readers speak each change.
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle("idle", !state.photo);
}

function summary() {
  const one = state.asked.get(state.shown);
  if (!state.photo) return "Choose a photo to see the answer here.";
  if (one?.trouble) return "";
  if (!one) return "Choose at least one task.";
  if (!one.rows) return "Looking …";
  return headline(state.served.get(state.shown), one.rows, visible(state.shown));
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
