// The choice of tasks and models.

import { byId, make } from "./dom.js";
import { chosen, state } from "./state.js";
import { firstChoice, title } from "./tasks.js";

/** Show a checkbox for each task. */
export function renderTasks() {
  const tasks = [...state.served.values()];
  const checked = firstChoice(tasks);
  byId("tasks").append(...tasks.map((task) => chip(task, checked.includes(task.name))));
}

function chip({ name, summary }, checked) {
  const box = make("input", { type: "checkbox", value: name, "aria-describedby": `about-${name}` });
  box.checked = checked;
  const about = make("small", { id: `about-${name}` }, summary);
  return make("label", { class: "chip" }, box, make("span", {}, make("strong", {}, title(name)), about));
}

/** Show a list of models for each chosen task that has fine-tuned ones. */
export function renderModelChoices() {
  const choices = chosen().flatMap((name) => {
    const own = state.cards.filter(({ task }) => task === name);
    return own.some(({ finetuned }) => finetuned) ? [modelChoice(name, own)] : [];
  });
  byId("model-choices").replaceChildren(...choices);
}

function modelChoice(task, own) {
  const list = make("select", { id: `model-${task}`, "data-task": task });
  for (const { name, finetuned } of own) {
    const option = make("option", { value: finetuned ? name : "" }, finetuned ? name : `${name} (built-in)`);
    option.selected = option.value === (state.models.get(task) ?? "");
    list.append(option);
  }
  return make("div", {}, make("label", { for: `model-${task}` }, `${title(task)} with`), list);
}

/** Show all models with their labels, at the end of the page. */
export function renderModels() {
  byId("models").replaceChildren(...state.cards.map(described));
}

function described({ task, name, labels, device, finetuned }) {
  const count = make("strong", {}, labels.length === 1 ? "1 label" : `${labels.length.toLocaleString("en")} labels`);
  const which = labels.length <= 100 ? `: ${labels.join(", ")}.` : `, from ${labels[0]} to ${labels.at(-1)}.`;
  const model = make("span", { class: "aside" }, `${name}${finetuned ? " (fine-tuned)" : ""} on ${device}`);
  return make("div", {}, make("dt", {}, title(task)), make("dd", {}, count, which, model));
}
