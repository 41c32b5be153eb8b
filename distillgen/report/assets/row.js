// A row: its beginning in the list, and all of it once it is opened.

const ENDINGS = ["chosen", "rejected"];
const KNOWN_ROLES = ["user", "assistant", "system", "tool"];
const MOST_ALIKE = 20;

const conversationOf = (row) => ["messages", "prompt", "chosen", "rejected", "before"].flatMap((part) => row[part] || []);
const groupOf = (row) => row.split || (row.step ? `${row.step}: ${row.why}` : row.why || "");
const labelOf = (row) => (typeof row.columns?.label === "string" ? row.columns.label : "");

function textsOf(row) {
  const turns = conversationOf(row);
  return turns.length ? turns.map((turn) => turn.content) : Object.values(row.columns || {}).map(lines);
}

function searched(row) {
  return [row.id, row.detail || "", row.reasoning || "", ...textsOf(row)].join("\n").toLowerCase();
}

function beginning(row, wanted) {
  const turns = conversationOf(row), texts = textsOf(row);
  const hit = wanted ? texts.find((text) => text.toLowerCase().includes(wanted)) : undefined;
  const text = hit || (turns.find((turn) => turn.role === "user") || { content: texts[0] || "" }).content;
  const from = hit ? Math.max(hit.toLowerCase().indexOf(wanted) - 40, 0) : 0;
  return (from ? "…" : "") + text.slice(from, from + 240);
}

// What the answer begins with: rows of one prompt look alike without it.
function answer(row) {
  const turns = row.messages || row.chosen || [];
  return turns.length ? turns[turns.length - 1].content.slice(0, 240) : "";
}

// `known` is a row's name -> that row, `alike` a row's id -> the rows that were left out because they are like it.
function whole(row, wanted, known, alike) {
  const made = element("div", "open");
  if (row.detail) made.append(reason(row, wanted, known));
  for (const part of ["before", "messages", "prompt"]) for (const turn of row[part] || []) made.append(...turnsOf(turn, part, row, wanted));
  const endings = ENDINGS.filter((part) => row[part]).map((part) => element("div", `ending ${part}`, ...row[part].flatMap((turn) => turnsOf(turn, part, row, wanted))));
  if (endings.length) made.append(element("div", "pair", ...endings));
  const columns = Object.entries(row.columns || {});
  if (!conversationOf(row).length) for (const [name, value] of columns) made.append(turnOf(name, "", lines(value), wanted));
  const like = alike.get(row.id) || [];
  if (like.length) made.append(likeIt(like, known));
  if (conversationOf(row).length && columns.length) made.append(folded("columns", table(columns, wanted)));
  if (row.steps) made.append(folded("provenance", provenance(row, wanted, known)));
  made.append(element("p", "quiet", linkTo(row.id, known, "link to this row")));
  return made;
}

function turnsOf(turn, part, row, wanted) {
  const ending = part === "messages" || part === "prompt" ? "" : ` (${part})`;
  const said = turnOf(turn.role, ending, turn.content || "", wanted);
  const thinks = turn.role === "assistant" && row.reasoning && part !== "before" && part !== "rejected";
  return thinks ? [folded("reasoning", written("pre", "", row.reasoning, wanted)), said] : [said];
}

function turnOf(role, ending, text, wanted) {
  const kind = KNOWN_ROLES.includes(role) ? role : "";
  return element("div", `turn ${kind}`, element("div", "role", plain(role) + ending), written("div", "text", text, wanted));
}

function folded(name, ...inside) {
  return element("details", name, element("summary", "", name), ...inside);
}

function table(pairs, wanted) {
  return element("dl", "", ...pairs.flatMap(([name, value]) => [element("dt", "", plain(name)), written("dd", "", lines(value), wanted)]));
}

function linkTo(id, known, said) {
  if (!known.has(id)) return element("bdi", "id", plain(said || id));
  const made = element("a", "id", plain(said || id));
  made.href = `#row=${encodeURIComponent(id)}`;
  return made;
}

// Why a row was left out; the row that it is like is a link.
function reason(row, wanted, known) {
  const made = written("p", "why", `${row.step ? `${row.step}: ` : ""}${row.detail}`, wanted);
  if (row.like) made.append(" ", known.has(row.like) ? linkTo(row.like, known, "see that row") : element("span", "quiet", "(that row is not in this page)"));
  return made;
}

function likeIt(like, known) {
  const made = element("p", "alike", `${count(like.length)} ${like.length === 1 ? "row" : "rows"} like it ${like.length === 1 ? "was" : "were"} left out: `);
  for (const each of like.slice(0, MOST_ALIKE)) made.append(linkTo(each.id, known), ` (${each.similarity === 1 ? "equal" : each.similarity.toFixed(2)}) `);
  if (like.length > MOST_ALIKE) made.append(`and ${count(like.length - MOST_ALIKE)} more`);
  return made;
}

function provenance(row, wanted, known) {
  const from = element("li", "", "seed ", row.origin === row.id ? plain(row.id) : linkTo(row.origin, known));
  if (row.parent) from.append(", made from ", linkTo(row.parent, known));
  const steps = row.steps.map((step) => element("li", "", element("b", "", plain(step.step)), ": ", ...factsOf(step, wanted)));
  const end = element("li", "", row.split ? `published in split ${plain(row.split)}` : `${row.kind} by ${plain(groupOf(row))}`);
  return element("ol", "steps", from, ...steps, end);
}

// What a step noted: who answered first, then the rest as it stands on record; lists of notes as lists.
function factsOf(step, wanted) {
  const { step: _, teacher, model, prompt, tokens, ...rest } = step;
  const told = [];
  if (teacher) told.push(`${teacher}${model ? ` as ${model}` : ""}${prompt ? ` to prompt ${prompt}` : ""}`);
  if (tokens) told.push(`${count(tokens.prompt)} tokens in, ${count(tokens.completion)} out`);
  const lists = [];
  for (const [name, value] of Object.entries(rest)) {
    if (value === null || value === false || (Array.isArray(value) && !value.length)) continue;
    if (Array.isArray(value) && value.every((each) => each && typeof each === "object")) lists.push(listOf(name, value, wanted));
    else told.push(`${name} ${Array.isArray(value) ? value.map(lines).join(", ") : lines(value)}`);
  }
  return [shown(told.join("; ") || (lists.length ? "" : "passed"), wanted), ...lists];
}

function listOf(name, notes, wanted) {
  const each = notes.map((note) => element("li", "", shown(Object.entries(note).filter(([, value]) => value !== null).map(([key, value]) => `${key} ${lines(value)}`).join("; "), wanted)));
  return element("ul", "", ...each.map((item) => { item.prepend(`${plain(name)}: `); return item; }));
}
