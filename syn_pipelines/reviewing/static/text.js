// The sentence: tokens in lines, and under them the spans as bars, short ones near the text and those around them below.

import { byId, make, visible } from "./dom.js";

const box = byId("text");
const LANE = 19; // px, as --lane in the style sheet
const RTL = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/u;
const NO_BEGIN = /^[\p{Pe}\p{Pf}、。，．！？：；…‥・ー,.!?:;%]/u; // what begins no line in dense scripts
const TIED = 4; // tokens held together at most: a hundred exclamation marks must wrap
const PEN = document.createElement("canvas").getContext("2d");
let tokens = [];
let drawn = null;

// Each span in the first lane that is free on all its tokens. Rejected ones keep theirs: nothing moves while a person decides.
export function lanes(spans) {
  const order = spans.map((_, i) => i).sort((a, b) => (spans[a].end - spans[a].start) - (spans[b].end - spans[b].start) || a - b);
  const taken = [];
  const result = [];
  for (const i of order) {
    const { start, end } = spans[i];
    let lane = 0;
    while (taken[lane]?.slice(start, end).some(Boolean)) lane++;
    taken[lane] ??= [];
    for (let t = start; t < end; t++) taken[lane][t] = true;
    result[i] = lane;
  }
  return { of: result, count: taken.length };
}

// Put the tokens of another sentence there.
export function show(view, dense) {
  tokens = view.tokens.map((token, i) => make("span", { className: "token", "data-i": i, text: visible(token) }));
  const letters = view.tokens.join("");
  box.dir = [...letters].filter((c) => RTL.test(c)).length > letters.length / 3 ? "rtl" : "ltr";
  const pieces = dense ? tied(view.tokens) : tokens.flatMap((token, i) => (i ? [" ", token] : [token]));
  box.replaceChildren(...pieces, make("div", { className: "bars" }));
}

// Tokens of a dense script, those that begin no line held to the one before.
function tied(words) {
  const groups = [];
  tokens.forEach((token, i) => {
    const last = groups.at(-1);
    if (last && last.length < TIED && NO_BEGIN.test(words[i])) last.push(token);
    else groups.push([token]);
  });
  return groups.map((group) => (group.length > 1 ? make("span", { className: "tie" }, ...group) : group[0]));
}

// Draw the bars. spans: {start, end, name, classes, hue, title}; selected: number of one, or -1; range: tokens marked now.
export function draw(spans, selected, range) {
  const lane = lanes(spans);
  box.style.setProperty("--lanes", Math.max(lane.count, 1));
  const places = tokens.map((t) => ({ left: t.offsetLeft, top: t.offsetTop, right: t.offsetLeft + t.offsetWidth,
    bottom: t.offsetTop + t.offsetHeight }));
  drawn = { spans, selected, range, lane, places };
  mark();
  box.querySelector(".bars").replaceChildren(...spans.flatMap((span, i) => barsOf(span, i, lane, places, i === selected)));
}

// Choose another span; nothing else has changed.
export function choose(selected) {
  const { spans, lane, places } = drawn;
  const layer = box.querySelector(".bars");
  for (const i of new Set([drawn.selected, selected])) {
    layer.querySelectorAll(`[data-span="${i}"]`).forEach((bar) => bar.remove());
    if (spans[i]) layer.append(...barsOf(spans[i], i, lane, places, i === selected));
  }
  drawn.selected = selected;
  mark();
}

function mark() {
  const { spans, selected, range } = drawn;
  const marked = range ?? spans[selected];
  box.querySelectorAll(".marked").forEach((token) => token.classList.remove("marked", "ranged"));
  if (marked) tokens.slice(marked.start, marked.end).forEach((token) => token.classList.add("marked", ...(range ? ["ranged"] : [])));
}

function barsOf(span, number, lane, places, chosen) {
  const result = [];
  const rtl = box.dir === "rtl";
  for (let t = span.start; t < span.end;) {
    let last = t;
    let { left, right } = places[t];
    while (last + 1 < span.end && Math.abs(places[last + 1].bottom - places[t].bottom) < 4) {
      last++;
      left = Math.min(left, places[last].left);
      right = Math.max(right, places[last].right);
    }
    const first = t === span.start;
    const bar = make("div", { className: `bar ${span.classes}${chosen ? " chosen" : ""}${first ? " first" : ""}`,
      "data-span": number, title: span.title, "aria-hidden": "true" });
    bar.append(make("span", { className: "name", text: fitting(span.name, right - left - 9) }));
    bar.style.left = `${left + 1}px`;
    bar.style.width = `${right - left - 2}px`;
    bar.style.top = `${places[t].bottom - (lane.count - lane.of[number]) * LANE}px`;
    bar.style.setProperty("--hue", span.hue);
    if (chosen && first) bar.append(make("i", { className: rtl ? "grip end" : "grip", "data-edge": "start" }));
    if (chosen && last === span.end - 1) bar.append(make("i", { className: rtl ? "grip" : "grip end", "data-edge": "end" }));
    result.push(bar);
    t = last + 1;
  }
  return result;
}

// As much of a name as has room: whole letters tell more than cut ones.
const cut = new Map();
function fitting(name, width) {
  const key = `${Math.round(width)} ${name}`;
  if (!cut.has(key)) {
    PEN.font = "600 10.5px system-ui, sans-serif";
    const letters = [...name];
    while (letters.length > 1 && PEN.measureText(letters.join("")).width > width) letters.pop();
    cut.set(key, letters.join(""));
  }
  return cut.get(key);
}

export const isRtl = () => box.dir === "rtl";

// The token under a point, the nearest one of its line where the point lies beside the tokens; -1 far away from all.
export function tokenAt(x, y) {
  const hit = document.elementsFromPoint(x, y).find((e) => e.classList?.contains("token"));
  if (hit) return Number(hit.dataset.i);
  let best = -1;
  let distance = 60;
  tokens.forEach((token, i) => {
    const r = token.getBoundingClientRect();
    const away = Math.hypot(Math.max(r.left - x, 0, x - r.right), Math.max(r.top - y, 0, y - r.bottom));
    if (away < distance) [best, distance] = [i, away];
  });
  return best;
}

export const scrollTo = (i) => tokens[i]?.scrollIntoView({ block: "nearest" });

new ResizeObserver(() => drawn && draw(drawn.spans, drawn.selected, drawn.range)).observe(box);
document.fonts?.ready.then(() => drawn && draw(drawn.spans, drawn.selected, drawn.range));
