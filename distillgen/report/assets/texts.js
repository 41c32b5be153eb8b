"use strict";
// Texts of rows: they reach the page through textContent only, with what nobody sees, or turns writing round, visible.

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff\u{e0000}-\u{e01ef}]/gu;
const MOST_MARKED = 200;

const lines = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const plain = (text) => text.replace(HIDDEN, escaped);
const count = (number) => number.toLocaleString("en");

function escaped(sign) {
  return `\\u${sign.codePointAt(0).toString(16).padStart(4, "0")}`;
}

function element(name, kind, ...inside) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...inside);
  return made;
}

// A text with what was searched for marked.
function shown(text, wanted) {
  const made = document.createDocumentFragment(), lower = text.toLowerCase();
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
    parts.push(text.slice(place, sign.index), element("bdi", "hidden-character", escaped(sign[0])));
    place = sign.index + sign[0].length;
  }
  parts.push(text.slice(place));
  return parts;
}

// A paragraph of anybody's text, written in the direction of its first letter.
function written(name, kind, text, wanted) {
  const made = element(name, kind, shown(text, wanted));
  made.dir = "auto";
  return made;
}
