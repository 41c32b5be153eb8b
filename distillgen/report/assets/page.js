"use strict";
// The browser of rows. Text of rows reaches the page through textContent only.
(() => {
  const ON_A_PAGE = 50;
  const MOST_MARKED = 200;
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
  const byId = (id) => document.getElementById(id);
  const ui = Object.fromEntries(["kind", "of", "search", "list", "said", "more", "browser"].map((id) => [id, byId(id)]));
  const meta = JSON.parse(byId("meta").textContent);
  const rows = [];
  let found = [], drawn = 0, timer = 0;

  async function unpack(block) {
    const packed = Uint8Array.from(atob(block.textContent.trim()), (letter) => letter.charCodeAt(0));
    block.textContent = "";
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return JSON.parse(await new Response(stream).text());
  }

  const lines = (value) => (typeof value === "string" ? value : JSON.stringify(value));

  function conversationOf(row) {
    return ["messages", "prompt", "chosen", "rejected", "before"].flatMap((part) => row[part] || []);
  }

  function textsOf(row) {
    const turns = conversationOf(row);
    return turns.length ? turns.map((turn) => turn.content) : Object.values(row.columns || {}).map(lines);
  }

  function searched(row) {
    return [row.id, row.detail || "", row.reasoning || "", ...textsOf(row)].join("\n").toLowerCase();
  }

  async function load() {
    for (const block of document.querySelectorAll("script[data-rows]")) {
      for (const row of await unpack(block)) rows.push({ row, text: searched(row) });
      await new Promise((next) => setTimeout(next));
      ui.said.textContent = `reading ${rows.length.toLocaleString("en")} rows`;
    }
    fillGroups();
    choose();
    ui.browser.dataset.ready = "yes";
  }

  const groupOf = (row) => row.split || row.why || "";

  function fillGroups() {
    const names = new Map();
    for (const { row } of rows) if (row.kind === ui.kind.value) names.set(groupOf(row), (names.get(groupOf(row)) || 0) + 1);
    const all = new Option("all", "");
    const each = [...names].filter(([name]) => name).map(([name, count]) => new Option(`${plain(name)} (${count.toLocaleString("en")})`, name));
    ui.of.replaceChildren(all, ...each);
  }

  function choose() {
    const kind = ui.kind.value, group = ui.of.value, wanted = ui.search.value.toLowerCase();
    found = rows.filter((each) => each.row.kind === kind && (!group || groupOf(each.row) === group) && (!wanted || each.text.includes(wanted)));
    ui.list.replaceChildren();
    drawn = 0;
    draw();
    const part = meta.shown.find((each) => each.kind === kind);
    const sample = part && part.shown < part.of ? `; a sample of ${part.shown.toLocaleString("en")} of ${part.of.toLocaleString("en")}` : "";
    ui.said.textContent = `${found.length.toLocaleString("en")} ${found.length === 1 ? "row" : "rows"}${sample}`;
  }

  function draw() {
    const part = found.slice(drawn, drawn + ON_A_PAGE).map(lineOf);
    ui.list.append(...part);
    drawn += part.length;
    ui.more.hidden = drawn >= found.length;
    return part[0];
  }

  const plain = (text) => text.replace(HIDDEN, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);

  function element(name, kind, ...inside) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    made.append(...inside);
    return made;
  }

  // Text as it is: signs that nobody sees, or that turn writing round, become visible; what was searched for is marked.
  function shown(text) {
    const made = document.createDocumentFragment(), wanted = ui.search.value.toLowerCase();
    const lower = text.toLowerCase();
    let place = 0, marks = 0;
    const next = () => (wanted && lower.length === text.length && marks < MOST_MARKED ? lower.indexOf(wanted, place) : -1);
    for (let at = next(); at >= 0; at = next()) {
      made.append(...visible(text.slice(place, at)), element("mark", "", ...visible(text.slice(at, at + wanted.length))));
      place = at + wanted.length;
      marks += 1;
    }
    made.append(...visible(text.slice(place)));
    return made;
  }

  function visible(text) {
    const parts = [];
    let place = 0;
    for (const sign of text.matchAll(HIDDEN)) {
      parts.push(text.slice(place, sign.index), element("span", "hidden-character", plain(sign[0])));
      place = sign.index + sign[0].length;
    }
    parts.push(text.slice(place));
    return parts;
  }

  function beginning(row) {
    const turns = conversationOf(row), texts = textsOf(row), wanted = ui.search.value.toLowerCase();
    const hit = wanted ? texts.find((text) => text.toLowerCase().includes(wanted)) : undefined;
    const text = hit || (turns.find((turn) => turn.role === "user") || { content: texts[0] || "" }).content;
    const from = hit ? Math.max(hit.toLowerCase().indexOf(wanted) - 40, 0) : 0;
    return (from ? "…" : "") + text.slice(from, from + 240);
  }

  function lineOf({ row }) {
    const start = element("span", "start", shown(beginning(row)));
    const button = element("button", "row", element("span", "id", plain(row.id)));
    if (groupOf(row)) button.append(element("span", row.why ? "why" : "id", plain(groupOf(row))));
    button.append(start);
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    const item = element("li", "", button);
    button.addEventListener("click", () => toggle(item, button, row));
    return item;
  }

  function toggle(item, button, row) {
    const open = item.querySelector(".open");
    button.setAttribute("aria-expanded", String(!open));
    if (open) open.remove();
    else item.append(whole(row));
  }

  function whole(row) {
    const made = element("div", "open");
    if (row.detail) made.append(element("p", "why", shown(row.detail)));
    for (const part of ["before", "messages", "prompt", "chosen", "rejected"]) {
      for (const turn of row[part] || []) {
        if (turn.role === "assistant" && row.reasoning && part !== "before") made.append(folded("reasoning", row.reasoning));
        made.append(turnOf(turn, part));
      }
    }
    const columns = Object.entries(row.columns || {});
    if (!conversationOf(row).length) for (const [name, value] of columns) made.append(turnOf({ role: name, content: lines(value) }, "columns"));
    else if (columns.length) made.append(folded("columns", columns.map(([name, value]) => `${name}: ${lines(value)}`).join("\n\n")));
    if (row.steps) made.append(folded("provenance", provenance(row)));
    return made;
  }

  function provenance(row) {
    const from = row.parent ? `, made from ${row.parent}` : "";
    const steps = row.steps.map((step) => `${step.step}: ` + (Object.entries(step).filter(([name, value]) => name !== "step" && value !== null && value !== false).map(([name, value]) => `${name} ${lines(value)}`).join("; ") || "passed"));
    return [`seed ${row.origin}${from}`, ...steps].join("\n");
  }

  function folded(name, text) {
    return element("details", name, element("summary", "", name), element("pre", "", shown(text)));
  }

  function turnOf(turn, part) {
    const known = ["user", "assistant", "system"].includes(turn.role) ? turn.role : "";
    const ending = part === "messages" || part === "prompt" || part === "columns" ? "" : ` (${part})`;
    return element("div", `turn ${known}`, element("div", "role", plain(turn.role) + ending), element("div", "text", shown(turn.content || "")));
  }

  function move(by) {
    const buttons = [...ui.list.querySelectorAll("button.row")];
    const at = buttons.indexOf(document.activeElement);
    if (by > 0 && at === buttons.length - 1) buttons.push(...[draw()].filter(Boolean).map((item) => item.querySelector("button.row")));
    const next = buttons[Math.min(Math.max(at + by, 0), buttons.length - 1)];
    if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
  }

  document.addEventListener("keydown", (key) => {
    if (key.ctrlKey || key.metaKey || key.altKey) return;
    const writes = ["INPUT", "SELECT"].includes(document.activeElement.tagName);
    if (key.key === "Escape" && writes) { ui.search.value = ""; choose(); document.activeElement.blur(); }
    if (writes) return;
    const does = { "/": () => ui.search.focus(), j: () => move(1), k: () => move(-1) }[key.key];
    if (does) { key.preventDefault(); does(); }
  });
  ui.kind.addEventListener("change", () => { fillGroups(); choose(); });
  ui.of.addEventListener("change", choose);
  ui.search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(choose, 80); });
  ui.browser.addEventListener("submit", (event) => { event.preventDefault(); choose(); });
  ui.more.addEventListener("click", () => draw());
  byId("rows").hidden = false;
  requestAnimationFrame(() => setTimeout(load));
})();
