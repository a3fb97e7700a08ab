// Helpers for the document.

export const byId = (id) => document.getElementById(id);

/** Return a new element with attributes and children. */
export function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Mark a tab as selected or not. */
export function select(tab, selected) {
  tab.setAttribute("aria-selected", String(selected));
  tab.tabIndex = selected ? 0 : -1;
}

/** Make tabs work as the ARIA practices describe: arrow keys move the focus and choose. `choose` gets a tab's dataset. */
export function tabList(list, choose) {
  const activate = (tab) => {
    choose(tab.dataset);
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
