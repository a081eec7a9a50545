// What stands beside the sentence: the list of its spans, the reasons for doubt, the figures.

import { byId, make, surface, visible } from "./dom.js";

const SIGNS = { "": "", accept: "✓", reject: "✗", relabel: "✎", resize: "↔", add: "＋" };
const WORDS = { "": "not decided", accept: "accepted", reject: "rejected", relabel: "relabelled", resize: "resized", add: "added" };
const KINDS = { gold: "★ gold", target: "predicted", extension: "LLM" };

export const signOf = (span) => SIGNS[span.decision];

export function titleOf(span) {
  const { label, now } = span;
  const change = now.label === label ? "" : ` → ${now.label}`;
  return `${label}${change} · ${KINDS[span.kind]} · ${WORDS[span.decision]}`;
}

// A label that may be broken behind its underscores.
const broken = (label) => label.split(/(?<=_)/).flatMap((part, i) => (i ? [make("wbr", {}), part] : [part]));

// The list. press(number), decide(number, what): what to do when one is pressed, or its small buttons.
export function listSpans(view, dense, looks, selected, press, decide) {
  const rows = view.spans.map((span, i) => {
    const was = span.decision === "resize" ? make("s", { className: "quiet", text: surface(view, span, dense) }) : "";
    const label = span.now.label === span.label ? make("span", { className: "label" }, ...broken(span.label))
      : make("span", { className: "label" }, make("s", {}, ...broken(span.label)), " → ", ...broken(span.now.label));
    const pick = make("button", { type: "button", className: "pick", "data-span": i, "aria-pressed": String(i === selected),
      tabindex: i === selected || (selected < 0 && i === 0) ? "0" : "-1" },
    make("span", { className: "sign", text: signOf(span), "aria-hidden": "true" }),
    make("span", { className: "surface" }, surface(view, span.now, dense), " ", was), label,
    make("span", { className: "kind", text: KINDS[span.kind] }), make("span", { className: "hidden", text: WORDS[span.decision] }));
    pick.addEventListener("click", () => press(i));
    const small = [["accept", "✓"], ["reject", "✗"]].map(([what, sign]) => {
      const button = make("button", { type: "button", className: `small ${what}`, tabindex: "-1", text: sign,
        "aria-label": `${what} ${span.label} ${surface(view, span, dense)}`, title: what });
      button.addEventListener("click", () => decide(i, what));
      return button;
    });
    const row = make("li", { className: `${looks[i].classes}${i === selected ? " chosen" : ""}` }, pick, ...small);
    row.style.setProperty("--hue", looks[i].hue);
    return row;
  });
  byId("spans").replaceChildren(...(rows.length ? rows : [make("li", { className: "none", text: "No span here. Is that right? Enter says so." })]));
  const open = view.spans.filter((span) => !span.decision).length;
  byId("open-count").textContent = view.spans.length ? `${view.spans.length}, ${open} not decided` : "";
}

// Choose another row; nothing else has changed.
export function chooseRow(selected) {
  for (const old of byId("spans").querySelectorAll(".chosen")) old.classList.remove("chosen");
  for (const pick of byId("spans").querySelectorAll('.pick[tabindex="0"]')) setAttributes(pick, "false", "-1");
  const pick = byId("spans").querySelector(`.pick[data-span="${selected}"]`);
  if (!pick) return;
  setAttributes(pick, "true", "0");
  pick.parentElement.classList.add("chosen");
}

function setAttributes(pick, pressed, tabindex) {
  pick.setAttribute("aria-pressed", pressed);
  pick.setAttribute("tabindex", tabindex);
}

export function listDoubts(view, dense, press) {
  byId("doubts").replaceChildren(...view.doubts.map((doubt) => {
    const button = make("button", { type: "button", className: "link" }, make("b", { text: surface(view, doubt, dense) }), ` ${visible(doubt.text)}`);
    button.addEventListener("click", () => press(doubt));
    return make("li", {}, button);
  }));
}

const percent = (share) => `${Math.round(100 * share)}`;

// The table of figures. With a queue by doubt, or with sentences skipped, it says what they are not.
export function showEstimate(progress, overview) {
  const random = overview.order === "random";
  const done = [...progress.finished].filter((c) => c === "1").length;
  const rows = progress.estimate.filter((row) => row.total || row.added);
  const note = !random ? "The most doubtful sentences come first here: what is right among them is no estimate for the others."
    : !done ? `From a random sample of ${overview.pool.toLocaleString("en")} sentences: finish some to see how many labels are right.`
      : `Share of labels that were right, with 95 % intervals: ${done} finished of a random sample from ${overview.pool.toLocaleString("en")} sentences.`
        + (progress.skipped ? ` ${progress.skipped} passed over: finish those too, or the figures speak only for what was easy.` : "");
  byId("estimate-note").textContent = note;
  byId("estimate").replaceChildren(...(rows.length ? [make("thead", {}, make("tr", {}, ...["label", random ? "precision" : "right", "", "missed"].map(
    (text) => make("th", { scope: "col", text })))), make("tbody", {}, ...rows.map((row) => estimateRow(row, random)))] : []));
}

function estimateRow(row, random) {
  const share = row.total ? row.right / row.total : 0;
  const chart = make("span", { className: "interval", "aria-hidden": "true" });
  if (row.total && random) {
    const range = make("i", { className: "range" });
    range.style.left = `${100 * row.low}%`;
    range.style.width = `${100 * (row.high - row.low)}%`;
    const point = make("i", { className: "point" });
    point.style.left = `${100 * share}%`;
    chart.append(range, point);
  }
  const figure = !row.total ? "–" : random ? `${percent(share)} % [${percent(row.low)}, ${percent(row.high)}]` : "";
  return make("tr", {}, make("th", { scope: "row" }, row.label, " ", make("span", { className: "quiet", text: KINDS[row.kind] })),
    make("td", {}, random ? chart : `${row.right} of ${row.total}`), make("td", { className: "figure", text: figure }, 
      random && row.total ? make("span", { className: "quiet", text: ` ${row.right}/${row.total}` }) : ""),
    make("td", { className: "figure", text: row.added ? String(row.added) : "" }));
}
