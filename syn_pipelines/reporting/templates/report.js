"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const PAGE = 10, DEEPEST = 8;
  const joiner = data.dense ? "" : " ";
  const STEPS = { "s1 entity": "entity labels (s1)", "s1 pos": "parts of speech (s1)", "s3 entity": "entity labels (s3)",
    "s3 pos": "parts of speech (s3)", s2: "the explanation it is a part of (s2)" };
  let found = [], page = 0, current = -1;

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // --- colours of the page ---
  const root = document.documentElement, buttons = [...document.querySelectorAll(".theme button")];
  function setTheme(name) {
    if (name === "light" || name === "dark") root.dataset.theme = name; else delete root.dataset.theme;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.theme === name));
  }
  let remembered = "auto";
  try { remembered = localStorage.getItem("report-theme") || "auto"; } catch { /* not allowed here */ }
  setTheme(["light", "dark"].includes(remembered) ? remembered : "auto");
  document.querySelector(".theme").hidden = false;
  for (const button of buttons) button.addEventListener("click", () => {
    setTheme(button.dataset.theme);
    try { localStorage.setItem("report-theme", button.dataset.theme); } catch { /* not remembered then */ }
  });
  let opened = [];  // paper has no way to open what is closed
  addEventListener("beforeprint", () => { opened = [...document.querySelectorAll("details.box:not([open])")]; for (const box of opened) box.open = true; });
  addEventListener("afterprint", () => { for (const box of opened) box.open = false; });

  // --- spans ---
  // Labels take the colours of a wheel in the order of their numbers, neighbours far apart.
  const hue = (label) => Math.round((label * 137.508 + 205) % 360);

  function drawText(sentence) {
    const kinds = ["target", "entity", "pos"].filter((kind) => byId("show-" + kind).checked);
    const rank = (span) => ["target", "entity", "pos"].indexOf(data.labels[span[2]][1]);
    const spans = sentence.spans.filter((span) => kinds.includes(data.labels[span[2]][1]))
      .map(([start, end, label]) => ({ start, end, label, left: false, right: false, rank: rank([start, end, label]) }));
    const text = element("p", "text");
    text.dir = "auto";
    fill(text, sentence.tokens, 0, sentence.tokens.length, spans, 0);
    if (sentence.cut) text.append(element("span", "why", " … " + sentence.cut.toLocaleString("en") + " tokens more"));
    return text;
  }

  // Boxes within boxes. Of spans that cross, the one that begins first stays whole; the other is drawn in two pieces.
  function fill(parent, tokens, low, high, spans, depth) {
    const outer = (a, b) => a.start - b.start || b.end - a.end || a.rank - b.rank || a.label - b.label;
    const queue = spans.slice().sort(outer);
    let at = low;
    while (queue.length) {
      const span = queue.shift();
      if (span.start > at) plain(parent, tokens, at, span.start, low);
      const inner = [];
      while (queue.length && queue[0].start < span.end) {
        const next = queue.shift();
        if (next.end <= span.end) { inner.push(next); continue; }
        inner.push({ ...next, end: span.end, right: true });
        const rest = { ...next, start: span.end, left: true };
        const place = queue.findIndex((other) => outer(rest, other) < 0);
        queue.splice(place < 0 ? queue.length : place, 0, rest);
      }
      if (span.start > low && parent.lastChild) separate(parent);
      parent.append(box(tokens, span, inner, depth));
      at = span.end;
    }
    if (at < high) plain(parent, tokens, at, high, low);
  }

  function separate(parent) { if (joiner) parent.append(joiner); }

  function plain(parent, tokens, start, end, low) {
    if (start > low) separate(parent);
    parent.append(tokens.slice(start, end).join(joiner));
  }

  function box(tokens, span, inner, depth) {
    const [name, kind] = data.labels[span.label];
    const node = element("span", "span " + kind + (span.left ? " more-left" : "") + (span.right ? " more-right" : ""));
    if (byId("by-label").value === String(span.label)) node.classList.add("on");
    // A short mention stays on one line with its name, as long as both fit the narrowest screen.
    const written = tokens.slice(span.start, span.end).join(joiner).length;
    const named = [span, ...inner].reduce((sum, one) => sum + data.labels[one.label][0].length, 0);
    if (written <= 6 && named <= 22) node.classList.add("short");
    node.style.setProperty("--h", String(hue(span.label)));
    node.title = name + " (" + kind + "), tokens " + span.start + " to " + span.end;
    if (depth < DEEPEST) fill(node, tokens, span.start, span.end, inner, depth + 1);
    else node.append(tokens.slice(span.start, span.end).join(joiner), inner.length ? " (+" + inner.length + ")" : "");
    if (!span.right) node.append(element("bdi", "name", name));
    return node;
  }

  // --- sentences ---
  function card(number, place) {
    const sentence = data.sentences[number], source = sentence.source === undefined ? null : data.sentences[sentence.source];
    const article = element("article");
    article.tabIndex = -1;
    article.dataset.place = String(place);
    article.setAttribute("aria-label", (sentence.synthetic ? "Synthetic" : "Original") + " sentence " + sentence.id);
    const pair = element("div", source ? "pair two" : "pair");
    pair.append(side(sentence, sentence.synthetic ? "synthetic" : "original"));
    if (source) pair.append(side(source, "written from"));
    else if (sentence.synthetic) pair.append(element("p", "why", "Its source is not in this run."));
    article.append(pair);
    if (sentence.asked.length) article.append(asked(sentence));
    return article;
  }

  function side(sentence, what) {
    const node = element("div", "side"), head = element("h4");
    head.append(element("span", "badge", sentence.id), " " + what);
    node.append(head, drawText(sentence));
    return node;
  }

  function asked(sentence) {
    const details = element("details", "asked"), names = sentence.asked.map((one) => one.step);
    details.append(element("summary", "", "Prompts and replies (" + names.join(", ") + ")"));
    details.addEventListener("toggle", () => {  // written when first looked at
      if (!details.open || details.dataset.done) return;
      details.dataset.done = "1";
      for (const one of sentence.asked) details.append(...question(one));
    });
    return details;
  }

  function question(one) {
    const [beginning, end] = data.prompts[one.step] || ["", ""];
    const nodes = [element("h5", "", "Asked for " + (STEPS[one.step] || one.step))];
    nodes.push(one.prompt === null ? element("p", "why", "The prompt is not stored, and what is asked now is another text.")
      : block(beginning + one.prompt + end));
    nodes.push(element("h5", "", "Answered: " + one.status + (one.reason ? " (" + one.reason + ")" : "")), block(one.reply));
    return nodes;
  }

  function block(text) {
    const node = element("pre", "", text);
    node.dir = "auto";
    node.tabIndex = 0;
    return node;
  }

  // --- search ---
  const haystack = data.sentences.map((sentence) => [sentence.id, sentence.tokens.join(joiner),
    ...sentence.asked.map((one) => one.reply)].join("\n").toLowerCase());

  function fits(number) {
    const sentence = data.sentences[number], label = byId("by-label").value, half = byId("by-half").value;
    if (half && (half === "synthetic") !== sentence.synthetic) return false;
    if (label && !sentence.spans.some((span) => String(span[2]) === label)) return false;
    return haystack[number].includes(byId("by-text").value.toLowerCase());
  }

  function search() {
    const chosen = byId("by-label").value;
    if (chosen) byId("show-" + data.labels[chosen][1]).checked = true;
    found = data.shown.filter(fits);
    page = 0;
    draw();
  }

  function draw() {
    const pages = Math.max(Math.ceil(found.length / PAGE), 1), from = page * PAGE;
    current = -1;
    byId("sentences").replaceChildren(...found.slice(from, from + PAGE).map((number, k) => card(number, from + k)));
    if (!found.length) byId("sentences").append(element("p", "missing", data.shown.length ? "No sentence of the sample is like that." : "No sentence was drawn."));
    byId("count").textContent = found.length.toLocaleString("en") + " of " + data.shown.length.toLocaleString("en") + " sentences";
    byId("page").textContent = "Page " + (page + 1) + " of " + pages;
    byId("pages").hidden = pages < 2;
    byId("back").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
  }

  function turn(by) {
    const last = Math.max(Math.ceil(found.length / PAGE) - 1, 0), wanted = Math.min(Math.max(page + by, 0), last);
    if (wanted === page) return false;
    page = wanted;
    draw();
    return true;
  }

  function go(by) {
    const cards = [...byId("sentences").querySelectorAll("article")];
    let wanted = current + by;
    if (wanted >= cards.length) { if (!turn(1)) return; return go(1); }
    if (wanted < 0) { if (!turn(-1)) return; wanted = PAGE - 1; }
    current = wanted;
    byId("sentences").querySelectorAll("article")[current].focus();
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const acts = { j: () => go(1), k: () => go(-1), n: () => turn(1), p: () => turn(-1), "/": () => byId("by-text").focus(),
      o: () => { const box = document.activeElement.querySelector && document.activeElement.querySelector("details"); if (document.activeElement.tagName === "ARTICLE" && box) box.open = !box.open; } };
    if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
  });
  byId("sentences").addEventListener("focusin", (event) => {
    const card = event.target.closest("article");
    if (card) current = Number(card.dataset.place) - page * PAGE;
  });
  for (const id of ["by-label", "by-half", "show-target", "show-entity", "show-pos"]) byId(id).addEventListener("change", search);
  byId("by-text").addEventListener("input", search);
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  byId("back").addEventListener("click", () => { turn(-1); byId("sample").scrollIntoView(); });
  byId("next").addEventListener("click", () => { turn(1); byId("sample").scrollIntoView(); });

  // --- begin ---
  const counts = data.labels.map(() => 0);
  for (const number of data.shown) for (const label of new Set(data.sentences[number].spans.map((span) => span[2]))) counts[label] += 1;
  const groups = { target: "Target labels", entity: "Entity labels", pos: "Parts of speech" };
  for (const [kind, title] of Object.entries(groups)) {
    const group = element("optgroup");
    group.label = title;
    data.labels.forEach(([name, of], number) => { if (of === kind && counts[number]) { const one = element("option", "", name + " (" + counts[number] + ")"); one.value = String(number); group.append(one); } });
    if (group.children.length) byId("by-label").append(group);
  }
  search();
})();
