// The browser of rows: reads them, finds, filters, opens, and follows links to a row or to all rows of a kind.

const ON_A_PAGE = 50;
const MOST_OF_A_NAME = 70;
const byId = (id) => document.getElementById(id);
const ui = Object.fromEntries(["kind", "of", "label", "search", "list", "said", "more", "browser", "listens"].map((id) => [id, byId(id)]));
const meta = JSON.parse(byId("meta").textContent);
const rows = [];
const known = new Map(), alike = new Map(), counts = new Map();
let found = [], drawn = 0, timer = 0, last = null;

const wanted = () => ui.search.value.toLowerCase();

async function unpack(block) {
  const packed = Uint8Array.from(atob(block.textContent.trim()), (letter) => letter.charCodeAt(0));
  block.textContent = "";
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}

async function load() {
  for (const block of document.querySelectorAll("script[data-rows]")) {
    for (const row of await unpack(block)) takeIn(row);
    await new Promise((next) => setTimeout(next));
    ui.said.textContent = `reading ${count(rows.length)} rows`;
  }
  for (const { row } of rows) {
    const kept = known.get(row.like);
    if (kept && !alike.has(kept.id)) alike.set(kept.id, []);
    if (kept) alike.get(kept.id).push(row);
  }
  makeLinks();
  fill();
  choose();
  follow();
  ui.browser.dataset.ready = "yes";
}

// A row of a mix has also the name that it has in its part.
function takeIn(row) {
  rows.push({ row, text: searched(row) });
  counts.set(row.kind, (counts.get(row.kind) || 0) + 1);
  const names = (row.steps || []).filter((step) => step.from).map((step) => `${step.id || row.id} of ${step.from}`);
  for (const name of [row.id, ...names]) if (!known.has(name)) known.set(name, row);
}

function makeLinks() {
  for (const each of document.querySelectorAll("[data-row], [data-kind]")) {
    const { row, kind, group } = each.dataset;
    if (row ? !known.has(row) : !rows.some((one) => one.row.kind === kind)) continue;
    const link = element("a", "", ...each.childNodes);
    link.href = row ? `#row=${encodeURIComponent(row)}` : `#rows=${encodeURIComponent(kind)}&of=${encodeURIComponent(group)}`;
    each.append(link);
  }
}

function fill() {
  const kind = ui.kind.value, mine = rows.filter(({ row }) => row.kind === kind);
  fillWith(ui.of, mine.map(({ row }) => groupOf(row)));
  fillWith(ui.label, mine.map(({ row }) => labelOf(row)));
  ui.label.parentElement.hidden = ui.label.options.length < 3;
  byId("group-name").textContent = ["rejected", "failed"].includes(kind) ? "reason" : "split";
}

function fillWith(select, names) {
  const counts = new Map();
  for (const name of names) if (name) counts.set(name, (counts.get(name) || 0) + 1);
  const each = [...counts].sort((a, b) => b[1] - a[1]).map(([name, number]) => {
    const said = plain(name);
    return new Option(`${said.length > MOST_OF_A_NAME ? `${said.slice(0, MOST_OF_A_NAME)}…` : said} (${count(number)})`, name);
  });
  select.replaceChildren(new Option("all", ""), ...each);
}

// A search that goes on from the last one looks only at what that found.
function choose() {
  const kind = ui.kind.value, group = ui.of.value, label = ui.label.value, text = wanted();
  const goesOn = last && last.kind === kind && last.group === group && last.label === label && text.startsWith(last.text);
  found = (goesOn ? found : rows).filter((each) => each.row.kind === kind && (!group || groupOf(each.row) === group)
    && (!label || labelOf(each.row) === label) && (!text || each.text.includes(text)));
  last = { kind, group, label, text };
  ui.list.replaceChildren();
  drawn = 0;
  draw();
  const part = meta.shown.find((each) => each.kind === kind), there = counts.get(kind) || 0;
  const sample = part && there < part.of ? `; a sample of ${count(there)} of ${count(part.of)}` : "";
  ui.said.textContent = `${count(found.length)} ${found.length === 1 ? "row" : "rows"}${sample}`;
}

function draw() {
  const part = found.slice(drawn, drawn + ON_A_PAGE).map(lineOf);
  ui.list.append(...part);
  drawn += part.length;
  ui.more.hidden = drawn >= found.length;
  return part[0];
}

function lineOf({ row }) {
  const button = element("button", "row", element("span", "id", plain(row.id)), " ");
  const group = groupOf(row), label = labelOf(row);
  if (group) button.append(element("span", row.why ? "why" : "id", plain(group)), " ");
  if (label) button.append(element("bdi", "label", plain(label.slice(0, MOST_OF_A_NAME))), " ");
  button.append(written("span", "start", beginning(row, wanted()), wanted()));
  if (answer(row)) button.append(written("span", "start quiet", answer(row), ""));
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  const item = element("li", "", button);
  button.addEventListener("click", () => toggle(item, row));
  return item;
}

function toggle(item, row) {
  const open = item.querySelector(".open");
  item.firstChild.setAttribute("aria-expanded", String(!open));
  if (open) { open.remove(); return; }
  item.append(whole(row, wanted(), known, alike));
  bringIn(item);
}

// Have as much of a part seen as fits, its first line in any case.
function bringIn(part) {
  part.scrollIntoView({ block: "nearest" });
  part.firstChild.scrollIntoView({ block: "nearest" });
}

// Go where the address points: `#row=ID`, or `#rows=KIND&of=GROUP`.
function follow() {
  const asked = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B"));
  const name = asked.get("row"), kind = asked.get("rows");
  if (name !== null) {
    const row = known.get(name);
    if (!row) { ui.said.textContent = `row ${plain(name)} is not in this page`; return; }
    show(row.kind, "", row.id);
    const place = found.findIndex((each) => each.row === row);
    while (drawn <= place) draw();
    const item = ui.list.children[place];
    if (!item.querySelector(".open")) toggle(item, row);
    goTo(item.firstChild);
  } else if (kind !== null) {
    show(kind, asked.get("of") || "", "");
    goTo(ui.list.querySelector("button.row"));
  }
}

function show(kind, group, text) {
  ui.kind.value = kind;
  fill();
  ui.of.value = group;
  ui.search.value = text;
  choose();
}

function goTo(button) {
  if (!button) return;
  button.focus({ preventScroll: true });
  button.scrollIntoView({ block: "nearest" });
}

const current = () => document.activeElement.closest("#list > li");

function move(by) {
  const buttons = [...ui.list.querySelectorAll("button.row")];
  const at = buttons.indexOf(current()?.firstChild);
  if (by > 0 && at === buttons.length - 1) buttons.push(...[draw()].filter(Boolean).map((item) => item.firstChild));
  goTo(buttons[Math.min(Math.max(at + by, 0), buttons.length - 1)]);
}

function openProvenance() {
  const item = current();
  if (!item) return;
  if (!item.querySelector(".open")) item.firstChild.click();
  const part = item.querySelector("details.provenance");
  if (part) {
    part.open = !part.open;
    part.firstChild.focus({ preventScroll: true });
    bringIn(part);
  }
}

function escape(writes) {
  const item = current();
  if (writes) { ui.search.value = ""; choose(); document.activeElement.blur(); }
  else if (item?.querySelector(".open")) { item.firstChild.click(); goTo(item.firstChild); }
}

document.addEventListener("keydown", (key) => {
  if (key.ctrlKey || key.metaKey || key.altKey) return;
  const at = document.activeElement, writes = at === ui.search || at.tagName === "SELECT";
  if (key.key === "Escape") escape(writes);
  const arrows = { ArrowDown: () => move(1), ArrowUp: () => move(-1) };
  const letters = { "/": () => ui.search.focus(), j: () => move(1), k: () => move(-1), p: openProvenance };
  const walks = current() || (at === ui.search && key.key === "ArrowDown");
  const does = (walks && arrows[key.key]) || (!writes && ui.listens.checked && letters[key.key]);
  if (does) { key.preventDefault(); does(); }
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#row']");
  if (link && link.hash === location.hash) follow();
});
window.addEventListener("hashchange", follow);
ui.kind.addEventListener("change", () => { fill(); choose(); });
ui.of.addEventListener("change", choose);
ui.label.addEventListener("change", choose);
ui.search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(choose, 80); });
ui.browser.addEventListener("submit", (event) => { event.preventDefault(); choose(); });
ui.more.addEventListener("click", () => goTo(draw()?.firstChild));

// What is wider than the page can be moved with the keyboard.
function reachable() {
  for (const each of document.querySelectorAll(".wide")) {
    const is_wider = each.scrollWidth > each.clientWidth;
    each.toggleAttribute("tabindex", is_wider);
    if (is_wider) each.tabIndex = 0;
  }
}
window.addEventListener("resize", reachable);
document.addEventListener("toggle", reachable, true);

byId("rows").hidden = false;
requestAnimationFrame(() => setTimeout(() => {
  reachable();
  load().catch((error) => {
    ui.said.textContent = `The rows cannot be read here (${error.message}). The figures above are whole; a newer browser, or the report written anew, may help. \`distillgen show\` prints rows in a terminal.`;
  });
}));
