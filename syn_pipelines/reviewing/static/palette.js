// Choosing a label: type a part of it, or take one of the first nine by its number.

import { byId, make } from "./dom.js";

const dialog = byId("palette");
const filter = byId("palette-filter");
const list = byId("palette-list");
const recent = [];
let labels = [];
let at = 0;
let settle = () => {};

const fold = (text) => text.normalize("NFKC").toLowerCase();
const GROUPS = { target: "target", entity: "entity", pos: "word" };

// The label that the person takes, null when none. offered: [{name, group}]; current: the label now.
export function choose(title, text, offered, current) {
  const rank = (label) => (recent.includes(label.name) ? recent.indexOf(label.name) : recent.length);
  labels = offered.filter((label) => label.name !== current).sort((a, b) => rank(a) - rank(b));
  byId("palette-title").textContent = title;
  byId("palette-surface").textContent = text;
  filter.value = "";
  refresh(0);
  dialog.showModal();
  filter.focus();
  return new Promise((resolve) => { settle = resolve; });
}

function take(name) {
  const known = recent.indexOf(name);
  if (known >= 0) recent.splice(known, 1);
  if (name) recent.unshift(name);
  settle(name);
  settle = () => {};
  if (dialog.open) dialog.close();
}

const matching = () => {
  const part = fold(filter.value.trim());
  const found = labels.filter((label) => fold(label.name).includes(part));
  return part ? found.sort((a, b) => fold(b.name).startsWith(part) - fold(a.name).startsWith(part)) : found;
};

function refresh(position) {
  const found = matching();
  at = Math.max(0, Math.min(position, found.length - 1));
  list.replaceChildren(...found.map((label, i) => {
    const item = make("li", { role: "option", id: `label-${i}`, "aria-selected": String(i === at), "data-label": label.name },
      make("span", { className: "number", text: i < 9 && !filter.value ? String(i + 1) : "" }),
      make("span", { className: "name", text: label.name }), make("span", { className: "quiet", text: GROUPS[label.group] }));
    item.addEventListener("click", () => take(label.name));
    return item;
  }));
  if (!found.length) list.append(make("li", { className: "quiet", text: "no such label" }));
  filter.setAttribute("aria-activedescendant", found.length ? `label-${at}` : "");
  list.children[at]?.scrollIntoView({ block: "nearest" });
}

filter.addEventListener("input", () => refresh(0));
dialog.addEventListener("close", () => take(null));
// Not on "click": the finger that has opened the dialog sends one to where the dialog is by then.
dialog.addEventListener("pointerdown", (event) => { if (event.target === dialog) take(null); });
dialog.addEventListener("keydown", (event) => {
  event.stopPropagation();
  if (event.isComposing || event.keyCode === 229) return; // the input method is writing: its Enter is not ours
  const found = matching();
  if (event.key === "ArrowDown" || event.key === "ArrowUp") refresh((at + (event.key === "ArrowDown" ? 1 : found.length - 1)) % (found.length || 1));
  else if (event.key === "Enter") { if (found[at]) take(found[at].name); }
  else if (/^[1-9]$/.test(event.key) && !filter.value && found[event.key - 1]) take(found[event.key - 1].name);
  else return;
  event.preventDefault();
});
