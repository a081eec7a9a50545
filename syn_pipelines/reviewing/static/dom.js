// Small helpers. Text from data goes into text nodes and attributes only, never into markup.

export const byId = (id) => document.getElementById(id);

export function make(tag, { className = "", text = "", ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

// Characters that act instead of being seen: controls, marks of direction, invisible separators.
const ACTING = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;
const CODE = (char) => `⟨${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;

// A token as it is shown; the data keep it as it is. Joined emoji stay joined, marks without a letter get a circle to stand on.
export function visible(token) {
  if (/^\s+$/u.test(token)) return "␣".repeat([...token].length);
  if (/^[\u200c\u200d\ufe00-\ufe0f]+$/u.test(token)) return [...token].map(CODE).join("");
  const shown = token.replace(ACTING, CODE);
  return /^\p{M}/u.test(shown) ? "◌" + shown : shown;
}

export const surface = (view, span, dense) => view.tokens.slice(span.start, span.end).map(visible).join(dense ? "" : " ");
