// The review page: what is shown, and what keys, mouse and fingers do.

import * as api from "./api.js";
import { byId, make, surface, visible } from "./dom.js";
import { choose } from "./palette.js";
import { chooseRow, listDoubts, listSpans, showEstimate, signOf, titleOf } from "./panels.js";
import * as text from "./text.js";

const box = byId("text");
let overview = null;
let progress = null;
let view = null;
let selected = -1; // number of the chosen span
let mode = null; // null, or {what: "resize", start, end, span} or {what: "add", start, end, fixed}

// --- showing -----------------------------------------------------------------------------------------------------

const groupOf = new Map();
const hueOf = new Map();

function learnLabels(labels) {
  labels.forEach(({ name, group }, i) => {
    groupOf.set(name, group);
    hueOf.set(name, Math.round((i * 137.5 + 150) % 360)); // neighbours in the list are far apart on the wheel
  });
}

function lookOf(span) {
  const now = mode?.what === "resize" && view.spans[selected] === span ? { ...span.now, start: mode.start, end: mode.end } : span.now;
  const group = groupOf.get(now.label) ?? "entity";
  const classes = [span.kind, group === "pos" ? "pos" : "", span.decision ? "decided" : "open", span.decision === "reject" ? "rejected" : ""];
  const mark = span.decision ? signOf(span) : "";
  return { start: now.start, end: now.end, name: `${mark}${span.kind === "gold" ? "★" : ""}${mark ? " " : ""}${now.label}`,
    classes: classes.filter(Boolean).join(" "), hue: hueOf.get(now.label) ?? 0, title: titleOf(span) };
}

function draw() {
  const looks = view.spans.map(lookOf);
  text.draw(looks, selected, mode?.what === "add" ? mode : null);
  const hadFocus = document.activeElement?.classList.contains("pick");
  listSpans(view, overview.dense, looks, selected, select, (i, what) => { select(i); decide(what); });
  if (hadFocus) focusSpan();
  showMode();
  enable();
}

function enable() {
  const span = view.spans[selected];
  for (const id of ["accept", "reject", "relabel", "resize"]) byId(id).disabled = !span || Boolean(mode);
  byId("add").disabled = Boolean(mode);
  byId("undo").childNodes[1].textContent = mode ? " Leave " : " Undo "; // a finger has no Esc
  byId("undo").lastElementChild.textContent = mode ? "Esc" : "u";
  const open = view.spans.some((s) => !s.decision);
  byId("finish").firstChild.textContent = mode ? "Keep " : open ? "The rest is right " : view.spans.length ? "Next sentence " : "Nothing here ";
}

function showView(answer, choice) {
  const isOther = !view || view.text_sha256 !== answer.text_sha256 || view.index !== answer.index;
  view = answer;
  mode = null;
  if (isOther) text.show(view, overview.dense);
  selected = choice ?? Math.min(selected, view.spans.length - 1);
  byId("number").value = view.index + 1;
  byId("sentence-title").textContent = `Sentence ${visible(view.id)}`;
  byId("origin").textContent = view.synthetic ? "synthetic" : "original";
  byId("done").hidden = !view.finished;
  const source = byId("source");
  source.hidden = !view.source;
  source.textContent = view.source ? `Written from ${visible(view.source_id)}: ${surface({ tokens: view.source }, { start: 0, end: view.source.length }, overview.dense)}` : "";
  listDoubts(view, overview.dense, (doubt) => select(nearest(doubt)));
  history.replaceState(null, "", `#${view.index + 1}`);
  draw();
}

function nearest(place) {
  const away = (s) => Math.abs(s.now.start - place.start) + Math.abs(s.now.end - place.end);
  return view.spans.reduce((best, span, i) => (best < 0 || away(span) < away(view.spans[best]) ? i : best), -1);
}

function showProgress(now) {
  progress = now;
  const done = [...now.finished].filter((c) => c === "1").length;
  byId("bar").max = Math.max(now.total, 1);
  byId("bar").value = done;
  byId("count").textContent = `${done.toLocaleString("en")} of ${now.total.toLocaleString("en")} finished`;
  byId("number").max = now.total;
  showEstimate(now, overview);
}

function showMode() {
  const line = byId("mode");
  line.hidden = !mode;
  if (!mode) return;
  const chosen = surface(view, mode, overview.dense);
  line.replaceChildren(mode.what === "resize" ? "Resize: ← → move the end, with Shift the beginning. " : "Add: ← → move, with Shift widen; or press the first and the last token. ",
    make("b", { text: chosen }), " Enter keeps, Esc leaves.");
}

function say(words, isBad) {
  byId("status").textContent = words;
  byId("status").classList.toggle("bad", Boolean(isBad));
}

function complain(problem) {
  say(problem.lost ? "not saved" : problem.message, true);
  const banner = byId("banner");
  banner.hidden = false;
  const again = make("button", { type: "button", text: "Try again" });
  again.addEventListener("click", () => (overview ? go(view.index) : begin()));
  banner.replaceChildren(problem.message, " ", again);
}

// --- choosing ----------------------------------------------------------------------------------------------------

function select(i) {
  if (mode) return;
  selected = i;
  text.choose(i);
  chooseRow(i);
  enable();
  focusSpan();
  if (view.spans[i]) text.scrollTo(view.spans[i].now.start);
}

function focusSpan() {
  const button = byId("spans").querySelector(`.pick[data-span="${selected}"]`);
  button?.focus({ preventScroll: false });
}

function step(by) {
  const count = view.spans.length;
  if (count) select(selected < 0 ? (by > 0 ? 0 : count - 1) : (selected + by + count) % count);
}

// The next span that is not decided, beginning behind the chosen one.
function nextOpen(spans, from) {
  const around = spans.map((_, i) => (from + 1 + i) % spans.length);
  return around.find((i) => !spans[i].decision) ?? Math.min(Math.max(from, 0), spans.length - 1);
}

// --- deciding: each runs when all before it are answered ------------------------------------------------------------

const attempt = (work) => api.inOrder(async () => {
  try {
    await work();
    byId("banner").hidden = true;
  } catch (problem) {
    if (!(problem instanceof api.Problem)) throw problem;
    if (problem.lost || !view) complain(problem);
    else say(problem.message, true);
  }
});

async function send(action, choice) {
  say("saving…");
  const answer = await api.act(view.index, action);
  showProgress(answer.progress);
  showView(answer.view, choice(answer.view));
  if (selected >= 0) focusSpan();
  say(`saved: ${answer.said}`);
  return answer;
}

const bare = ({ start, end, label }) => ({ start, end, label });

const decide = (what) => attempt(async () => {
  const span = view.spans[selected];
  if (span && !mode) await send({ do: what, span: bare(span) }, (now) => nextOpen(now.spans, selected));
});

const change = (what, span, to) => attempt(() => send({ do: what, span: bare(span), to }, (now) => nextOpen(now.spans, selected)));

const undo = () => attempt(() => send({ do: "undo" }, (now) => Math.max(0, nextOpen(now.spans, -1))));

const finish = () => attempt(async () => {
  const { view: now } = await send({ do: "finish" }, () => -1);
  const said = byId("status").textContent;
  await arrive(following(now.index));
  say(said);
});

// The next sentence that is not finished, around the end; the one behind this when all are.
function following(index) {
  const around = [...progress.finished].map((_, i) => (index + 1 + i) % progress.total);
  return around.find((i) => progress.finished[i] === "0") ?? Math.min(index + 1, progress.total - 1);
}

async function arrive(index) {
  const answer = await api.sentence(index);
  showProgress(answer.progress);
  const isOther = !view || view.index !== answer.view.index;
  showView(answer.view, isOther ? (answer.view.spans.length ? nextOpen(answer.view.spans, -1) : -1) : undefined);
  if (isOther) { focusSpan(); scrollTo({ top: 0 }); }
}

const go = (index) => attempt(async () => {
  const wanted = typeof index === "function" ? index() : index;
  if (wanted >= 0 && wanted < progress.total) await arrive(wanted);
  say("");
});

// --- relabel, resize, add --------------------------------------------------------------------------------------------

async function relabel() {
  const span = view.spans[selected];
  if (!span || mode) return;
  const label = await choose("Relabel", surface(view, span.now, overview.dense), overview.labels.filter((l) => span.allowed.includes(l.group)), span.now.label);
  if (label) change("relabel", span, { label });
}

function beginResize() {
  const span = view.spans[selected];
  if (!span || mode) return;
  mode = { what: "resize", start: span.now.start, end: span.now.end };
  draw();
}

function beginAdd(at) {
  if (mode) return;
  const start = at ?? view.spans[selected]?.now.start ?? 0;
  mode = { what: "add", start, end: start + 1, fixed: -1 };
  draw();
}

function leave() {
  mode = null;
  draw();
  focusSpan();
}

async function keep() {
  const { what, start, end } = mode;
  const span = view.spans[selected];
  if (what === "resize") {
    leave();
    if (start !== span.now.start || end !== span.now.end) change("resize", span, { start, end });
    return;
  }
  const label = await choose("Add a span", surface(view, { start, end }, overview.dense), overview.labels, null);
  if (!label) return leave();
  mode = null;
  attempt(() => send({ do: "add", span: { start, end, label } }, (now) => {
    const place = now.spans.findIndex((s) => s.now.start === start && s.now.end === end && s.now.label === label);
    return place >= 0 ? place : selected;
  }));
}

// An arrow in resize or add mode. by: +1 to the right; wide: Shift is held.
function nudge(by, wide) {
  const last = view.tokens.length;
  const way = text.isRtl() ? -by : by;
  if (mode.what === "resize" && wide) mode.start = Math.min(Math.max(mode.start + way, 0), mode.end - 1);
  else if (mode.what === "resize" || wide) mode.end = Math.min(Math.max(mode.end + way, mode.start + 1), last);
  else {
    mode.start = Math.min(Math.max(mode.start + way, 0), last - 1);
    mode.end = mode.start + 1;
  }
  draw();
  text.scrollTo(mode.end - 1);
}

// --- keyboard ------------------------------------------------------------------------------------------------------

// The letter of a key whatever the keyboard writes: Hangul, kana and Cyrillic layouts keep the places of the letters.
function letter(event) {
  const key = event.key.normalize("NFKC"); // full width letters
  if (/^[\x21-\x7e]$/.test(key)) return key.toLowerCase();
  return event.code?.startsWith("Key") ? event.code.slice(3).toLowerCase() : event.key;
}

const KEYS = {
  a: () => decide("accept"), r: () => decide("reject"), x: () => decide("reject"), l: relabel, e: beginResize, n: () => beginAdd(),
  u: undo, j: () => step(1), k: () => step(-1), o: () => go(() => following(view.index)), "?": () => byId("help").showModal(),
  ArrowDown: () => step(1), ArrowUp: () => step(-1), ArrowRight: () => go(() => view.index + 1), ArrowLeft: () => go(() => view.index - 1),
  Enter: finish, Escape: () => {},
};
const MODE_KEYS = { ArrowRight: (e) => nudge(1, e.shiftKey), ArrowLeft: (e) => nudge(-1, e.shiftKey), Enter: keep, Escape: leave };

document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.keyCode === 229 || !view) return; // an input method is writing
  if (document.querySelector("dialog[open]") || event.altKey || event.target === byId("number")) return;
  const key = letter(event);
  if (event.ctrlKey || event.metaKey) {
    if (key !== "z" || mode) return;
    event.preventDefault();
    undo();
    return;
  }
  const target = event.target;
  if ((event.key === "Enter" || event.key === " ") && target.tagName === "BUTTON" && !target.classList.contains("pick")) return;
  const what = (mode ? MODE_KEYS : KEYS)[key];
  if (!what) return;
  event.preventDefault();
  if (event.repeat && !key.startsWith("Arrow")) return; // a key held down decides once
  if (mode) what(event);
  else if (["j", "k", "ArrowDown", "ArrowUp", "l", "e", "n"].includes(key)) api.inOrder(() => { if (!mode) what(event); });
  else what(event);
});

// --- mouse and fingers -----------------------------------------------------------------------------------------------

let drag = null; // {what: "edge" | "range", ...}

box.addEventListener("pointerdown", (event) => {
  if (event.button || !view) return;
  const grip = event.target.closest?.(".grip");
  const bar = event.target.closest?.(".bar");
  if (grip && !mode) {
    const { start, end } = view.spans[selected].now;
    mode = { what: "resize", start, end };
    drag = { what: "edge", edge: grip.dataset.edge };
  } else if (bar && !mode) {
    select(Number(bar.dataset.span));
    return;
  } else {
    const at = text.tokenAt(event.clientX, event.clientY);
    if (at < 0 || mode?.what === "resize") return;
    drag = { what: "range", from: at, x: event.clientX, y: event.clientY, moved: false, touch: event.pointerType !== "mouse" };
    if (drag.touch && !mode) { drag = null; return; } // a finger scrolls; Add makes it choose
  }
  event.preventDefault();
  box.setPointerCapture(event.pointerId);
  draw();
});

box.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const at = text.tokenAt(event.clientX, event.clientY);
  if (at < 0) return;
  if (drag.what === "edge") {
    if (drag.edge === "start") mode.start = Math.min(at, mode.end - 1);
    else mode.end = Math.max(at + 1, mode.start + 1);
  } else {
    drag.moved ||= at !== drag.from || Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 6;
    if (!drag.moved) return;
    mode = { what: "add", start: Math.min(drag.from, at), end: Math.max(drag.from, at) + 1, fixed: -1 };
  }
  draw();
});

box.addEventListener("pointerup", () => {
  const done = drag;
  drag = null;
  if (!done) return;
  if (done.what === "edge" || done.moved) keep();
  else if (mode?.what === "add") pressed(done.from);
});

box.addEventListener("pointercancel", () => { if (drag) { drag = null; leave(); } });

// A token pressed in add mode: the first one, then the last one.
function pressed(at) {
  if (mode.fixed < 0) {
    mode = { what: "add", start: at, end: at + 1, fixed: at };
    draw();
  } else {
    mode = { what: "add", start: Math.min(mode.fixed, at), end: Math.max(mode.fixed, at) + 1, fixed: -1 };
    keep();
  }
}

const buttons = { accept: () => decide("accept"), reject: () => decide("reject"), relabel, resize: beginResize, add: () => beginAdd(), undo: () => (mode ? leave() : undo()),
  finish: () => (mode ? keep() : finish()), previous: () => go(() => view.index - 1), next: () => go(() => view.index + 1),
  unfinished: () => go(() => following(view.index)), "help-button": () => byId("help").showModal() };
for (const [id, what] of Object.entries(buttons)) byId(id).addEventListener("click", () => view && what());
byId("number").addEventListener("change", (event) => go(Number(event.target.value) - 1));
byId("number").addEventListener("keydown", (event) => { if (event.key === "Escape" || event.key === "Enter") event.target.blur(); });

// Another tab may have decided meanwhile.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && view && !mode && !document.querySelector("dialog[open]")) go(view.index);
});

const begin = () => attempt(async () => {
  overview = await api.queue();
  learnLabels(overview.labels);
  byId("run").textContent = visible(`${overview.data} / ${overview.run}`);
  document.title = visible(`Review ${overview.data} / ${overview.run}`);
  const asked = Number(location.hash.slice(1)) - 1;
  showProgress(overview);
  await arrive(asked >= 0 && asked < overview.total ? asked : overview.start);
});

begin();
