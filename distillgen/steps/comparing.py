"""How an answer is compared with a reference: alike but for spelling, the choice, the number, or the JSON it states.

Pure functions of text. The end of an answer, where its result is stated, is its last TAIL characters.
"""

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import regex

from distillgen.steps.text import normalise

TAIL = 20_000
FENCED = 1_000_000  # characters at the end of an answer in which fenced blocks are looked for
SHOWN = 80


class Judged(NamedTuple):
    """A verdict: what was found in the answer and in the reference, and the reason where these do not say it."""

    is_right: bool
    got: str = ""
    want: str = ""
    why: str = ""


class NoReference(ValueError):
    """There is nothing to compare with, and why."""


Way: TypeAlias = Callable[[str, str, float], Judged]  # answer, reference, tolerance. Raises NoReference


def short(text: str) -> str:
    """Return a text as it is shown in a reason."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


# -- exact ----------------------------------------------------------------------------------------------------------

_AROUND = " \t\r\n\"'“”‘’«»„`*_"
_AFTER = ".,;:!?。！？"


def _exact(answer: str, reference: str, _: float) -> Judged:
    got, want = _bared(answer), _bared(reference)
    return Judged(got == want, got, want, "" if got else "is empty")


def _bared(text: str) -> str:
    """Return a text without what does not count: case, white space, quotes, emphasis, punctuation at its end."""
    text = normalise(text)
    return text.lstrip(_AROUND).rstrip(_AROUND + _AFTER) or text


# -- where an answer states its result ------------------------------------------------------------------------------

_BOX = regex.compile(r"\\f?boxed\s*\{")
_HASHES = regex.compile(r"(?m)^[ \t]*####[ \t]*(?P<said>[-−+$€£¥₹\\(]*[\d.][^\n]*)$")
_PHRASE = regex.compile(
    r"(?i)\banswer\b(?:[^.\n:=]{0,60}?\s(?:is|are|was|equals|would\ be)\b|\s*(?=[:=\n]))\s*[:=]?\s*(?P<said>[^\n]+)"
)
_EMPHASIS = regex.compile(r"\*\*|__|`")


class Statement(NamedTuple):
    """Where an answer states its result: the text, whether it is in a box, and where it begins (-1: all of the end)."""

    text: str
    is_boxed: bool
    start: int


def stated(answer: str) -> Statement:
    r"""Return what an answer states last: in `\boxed{}`, after `####` (GSM8K), after "answer is" or "answer:" on that
    line; all of its end when it states nothing so."""
    text = _EMPHASIS.sub("", answer[-TAIL:])
    found = [
        Statement(match["said"], False, match.start())
        for pattern in (_HASHES, _PHRASE)
        if (match := _last(pattern, text)) is not None
    ]
    if (box := _last(_BOX, text)) is not None and (inside := _braced(text, box.end())) is not None:
        found.append(Statement(inside, True, box.start()))
    return max(found, key=lambda each: each.start, default=Statement(text, False, -1))


def _last(pattern: Any, text: str) -> Any:
    """Return the last match, None when there is none."""
    match = None
    for match in pattern.finditer(text):  # noqa: B007  (the last one is wanted)
        pass
    return match


def _braced(text: str, start: int) -> str | None:
    """Return the text from `start` to the brace that closes the one before it, None when it stays open."""
    depth = 1
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
            if not depth:
                return text[start:place]
    return None


# -- choice ---------------------------------------------------------------------------------------------------------

_LETTER = (
    r"(?:(?P<label>[A-Z])(?![\w'’])(?!(?<=\b[AI])\ +(?!(?:and|as|because|due|since)\b)[a-z])|\((?P<label>[A-Za-z])\))"
)
_DIGIT = r"\(?(?P<label>\d{1,2})\)?(?![\w.]*\d)"
_LABEL = regex.compile(r"^\W*(?:(?:option|choice|answer)\b\W*)?(?P<label>[A-Za-z]|\d{1,2})(?!\w)", regex.IGNORECASE)


def _choice_patterns(label: str) -> Sequence[Any]:
    """Return the ways to state a choice; the last one stated counts, whichever way."""
    word = r"(?:(?i:\w{2,12}ly|therefore|thus)\W+)?(?:(?i:option|choice|letter|answer)\W*)?"
    return [
        regex.compile(
            r"(?i:\b(?:answer|choice)\b(?!\ choices)[^.\n]{0,40}?(?:\s(?:is|would\ be|should\ be)\b|[:=]))\W{0,9}?"
            rf"{word}{label}"
        ),
        regex.compile(rf"(?i:\b(?:choose|chose|select|pick|go\ with)\b)\W{{1,9}}{word}{label}"),
        regex.compile(rf"{label}\W{{0,9}}?\s(?i:is\ (?:the\ )?(?:correct|right|best|true|answer))\b"),
    ]


_CHOICES = {False: _choice_patterns(_LETTER), True: _choice_patterns(_DIGIT)}
_OPENING = regex.compile(r"^\W{0,4}(?P<label>[A-Za-z]|\d{1,2})(?:\W{0,3}$|\W{0,2}[).:\]]\W)")
_IN_BRACKETS = regex.compile(r"[(\[](?P<label>[A-Za-z]|\d{1,2})[)\]]")


def _choice(answer: str, reference: str, _: float) -> Judged:
    want = _LABEL.match(_EMPHASIS.sub("", stated(reference).text.strip()))
    if want is None:
        raise NoReference(f"no choice found in the reference {short(reference)!r}")
    label = want["label"].upper()
    got = choice_in(answer, are_digits=label.isdigit())
    return Judged(got == label, got, label, "" if got else f"no choice found in {short(answer[-SHOWN:])!r}")


def choice_in(answer: str, *, are_digits: bool = False) -> str:
    r"""Return the label of the choice that an answer states last, upper case; "" when it states none.

    Read are `\boxed{B}`, "the answer is (B)", "Option B is correct", "I choose B"; else an answer of one line that
    begins with a label ("B. Paris"), a last line of nothing else, or the last label in brackets on the last line.
    """
    text = _EMPHASIS.sub("", answer[-TAIL:]).strip()
    found = [(match.start(), match["label"]) for pattern in _CHOICES[are_digits] for match in pattern.finditer(text)]
    box = stated(text)
    if box.is_boxed and (label := _LABEL.match(regex.sub(r"\\[a-z]+\b", "", box.text))):
        found.append((box.start, label["label"]))
    if found:
        return str(max(found)[1]).upper()
    return _unstated_choice(text, are_digits)


def _unstated_choice(text: str, are_digits: bool) -> str:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        return ""
    opening = _OPENING.match(lines[-1])
    is_alone = opening is not None and (len(lines) == 1 or opening.end() == len(lines[-1]))
    match = opening if is_alone else _last(_IN_BRACKETS, lines[-1])
    return str(match["label"]).upper() if match and match["label"].isdigit() == are_digits else ""


# -- number ---------------------------------------------------------------------------------------------------------

# The point is the decimal mark. A comma before exactly three digits groups thousands, as do spaces and apostrophes;
# any other comma within a number is a decimal mark. Not read: what stands in braces, an exponent, 2x, 3π, 2^10.
_NUMBER = regex.compile(
    r"""
    (?<![\w^{/]) (?<!\d\.)
    (?>
      (?P<sign>(?<![\w)\]}]\ ?)[-+](?=[\d.$€£¥₹]))? [$€£¥₹]?\ ? (?P<sign>(?<![\w)\]}]\ ?)[-+](?=[\d.]))?
      (?: (?P<whole>\d{1,9})\ (?P<over>\d{1,9})/(?P<under>\d{1,9})(?![\d/])
        | (?P<dots>[1-9]\d{0,2}(?:\.\d{3}){2,})(?!\d)
        | (?P<comma>[1-9]\d{0,2}(?:\.\d{3})+,\d+ | [1-9]\d{0,2}(?:[\ '’]\d{3})+,\d+)
        | (?P<point>[1-9]\d{0,2}(?:,\d{3})+(?!\d)(?:\.\d+)?)
        | (?P<point>[1-9]\d{0,2}(?P<gap>[\ '’])\d{3}(?:(?P=gap)\d{3})*(?!\d)(?:\.\d+)?)
        | (?<!\d,)(?P<comma>\d+,\d+)(?!,?\d)
        | (?P<point>\d+(?:\.\d+)? | \.\d+)
      )
      (?: [eE](?P<power>[-+]?\d{1,3})(?!\w) | \ ?[×*x]\ ?10\ ?\^\ ?\{?(?P<power>[-+]?\d{1,3})\}? )?
      (?: \ ?/\ ?(?P<under>\d+(?:\.\d+)?)(?![\d/]) )?
    )
    (?!\ ?(?:\\(?:pi|sqrt|infty|log|ln)\b|[π√∞^]) | [xyzn](?![A-Za-z]) | [eE][-+]?\d)
    """,
    regex.VERBOSE,
)
_SPELLINGS = [
    (regex.compile(r"\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))"), None),  # see _as_fraction
    (regex.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (regex.compile(r"\\left|\\right|\\[,!;:]|\\(?=[$%\s])"), ""),
    (regex.compile(r"\{,\}"), ","),
    (regex.compile(r"\^\s*\{?\\circ\}?"), "°"),
    (regex.compile(r"\\times\b|\\cdot\b"), "×"),
]
_SUPERSCRIPTS = regex.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_FROM_SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_LIKE = {
    **dict.fromkeys("−–﹣－", "-"), **dict.fromkeys("\u00a0\u2007\u2009\u202f", " "), "⁄": "/",
    **{chr(0xFF01 + place): chr(0x21 + place) for place in range(94)},
}  # fmt: skip


class Number(NamedTuple):
    """A number as it is written, and its value."""

    text: str
    value: Fraction


def _number(answer: str, reference: str, tolerance: float) -> Judged:
    want = number_in(reference)
    if want is None:
        raise NoReference(f"no number found in the reference {short(reference)!r}")
    got = number_in(answer)
    if got is None:
        return Judged(False, "", want.text, f"no number found in {short(answer[-SHOWN:])!r}")
    is_right = abs(got.value - want.value) <= Fraction(tolerance) * abs(want.value)
    return Judged(is_right, got.text, want.text)


def number_in(text: str) -> Number | None:
    """Return the number that a text states as its result, else the last number in it; None when there is none.

    A statement with an equals sign is read after the last one. A box that holds several numbers holds none.
    """
    said = stated(text)
    if said.start < 0:
        return next(reversed(_numbers(said.text)), None)
    if said.is_boxed:
        found = _numbers(said.text.rpartition("=")[2])
        return found[0] if len(found) == 1 else None
    sentence = regex.split(r"[.!?;](?=\s+\p{Lu}|\s*$)", said.text, maxsplit=1)[0]
    return next(iter(_numbers(sentence.rpartition("=")[2])), None)


def _numbers(text: str) -> list[Number]:
    found = ((match[0].strip(), _value(match)) for match in _NUMBER.finditer(_plain(text)))
    return [Number(spelling, value) for spelling, value in found if value is not None]


def _plain(text: str) -> str:
    """Return a text with one spelling for each thing: LaTeX and typography taken back to plain characters."""
    if "\\" in text or "{,}" in text:
        for pattern, spelling in _SPELLINGS:
            text = pattern.sub(_as_fraction if spelling is None else spelling, text)
    if text.isascii():
        return text
    text = _SUPERSCRIPTS.sub(lambda match: "^" + match[0].translate(_FROM_SUPERSCRIPT), text)
    return "".join(_like(character) for character in text)


def _as_fraction(match: Any) -> str:
    follows_a_digit = match.start() > 0 and match.string[match.start() - 1].isdigit()
    return f"{' ' if follows_a_digit else ''}{match[1] or match[3]}/{match[2] or match[4]}"


def _like(character: str) -> str:
    if character.isascii():
        return character
    if (like := _LIKE.get(character)) is not None:
        return like
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if unicodedata.decomposition(character).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", character).replace("⁄", "/")
    return character


def _value(match: Any) -> Fraction | None:
    try:
        digits = (
            (match["dots"] or "").replace(".", "")
            or _without(match["comma"], ". '’").replace(",", ".")
            or _without(match["point"], ", '’")
        )
        value = Fraction(match["whole"] or digits)
        if match["over"]:
            value += Fraction(int(match["over"]), int(match["under"]))
        elif match["under"]:
            value /= Fraction(match["under"])
        value *= Fraction(10) ** int(match["power"] or 0)
    except (ValueError, ZeroDivisionError):  # thousands of digits, or a division by nothing
        return None
    return -value if match["sign"] == "-" else value


def _without(text: str | None, characters: str) -> str:
    return "".join(character for character in text or "" if character not in characters)


# -- json -----------------------------------------------------------------------------------------------------------

_FENCE = regex.compile(
    r"(?m)^[ \t]{0,12}```[ \t]{0,9}(?P<language>[\w+-]{0,30})[^\n]{0,99}\n(?P<text>(?s:.*?))(?:^[ \t]{0,12}```|\Z)"
)


class Block(NamedTuple):
    """A block of text between code fences; `language` is lower case, "" when none is named."""

    language: str
    text: str


def fenced(answer: str) -> list[Block]:
    """Return the blocks of an answer that stand between code fences; one that is never closed ends with the answer."""
    if "```" not in answer:
        return []
    return [Block(match["language"].lower(), match["text"]) for match in _FENCE.finditer(answer[-FENCED:])]


def _json(answer: str, reference: str, _: float) -> Judged:
    try:
        want = _loaded(reference)
    except ValueError as error:
        raise NoReference(f"the reference is not JSON: {error}") from None
    try:
        got = _loaded(answer)
    except ValueError as error:
        return Judged(False, short(answer), short(reference), f"is not JSON: {error}")
    difference = _difference(got, want)
    return Judged(difference is None, " ".join(answer.split()), " ".join(reference.split()), difference or "")


def _loaded(text: str) -> Any:
    """Return the JSON in a text or in its last code fence, numbers as they are written. Raises ValueError."""
    blocks = fenced(text)
    try:
        return json.loads(blocks[-1].text if blocks else text, parse_float=Decimal, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ArithmeticError:
        raise ValueError("a number whose exponent nothing can hold") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _difference(got: Any, want: Any) -> str | None:
    """Return the first place where two JSON values differ, None when they are equal."""
    todo = [("", got, want)]
    while todo:
        place, got, want = todo.pop()
        at = f" at {place}" if place else ""
        if isinstance(got, dict) and isinstance(want, dict):
            if unlike := sorted(got.keys() ^ want.keys()):
                which = "has" if unlike[0] in got else "lacks"
                return f"{which} the key {short(unlike[0])!r}{at}"
            todo += [(f"{place}[{short(key)!r}]", got[key], want[key]) for key in sorted(want, reverse=True)]
        elif isinstance(got, list) and isinstance(want, list):
            if len(got) != len(want):
                return f"got {len(got)} elements, want {len(want)}{at}"
            todo += [(f"{place}[{n}]", got[n], want[n]) for n in reversed(range(len(want)))]
        elif isinstance(got, bool) != isinstance(want, bool) or got != want:
            return f"got {short(_shown(got))}, want {short(_shown(want))}{at}"
    return None


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


WAYS: Mapping[str, Way] = {"exact": _exact, "choice": _choice, "number": _number, "json": _json}
