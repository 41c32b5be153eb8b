"""Rule `repetition`: answers that loop, or say the same again and again."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import regex

from distillgen.rows import Row
from distillgen.steps.rules.fences import part
from distillgen.steps.rules.verdict import Context, RuleProblem
from distillgen.steps.text import text_of

MIN_WORDS = 50  # Gopher's shortest document: in less, one phrase said twice is a large share
LOOP_WORDS = 12  # a stretch shorter than this is no loop, however often its unit stands there: "no, no, no, no, no"
LOOP_CHARS = 60  # the same for one word without end: "hahaha"
LOOP_PERIOD = 200  # words of the longest unit that is looked for at the end
BARE_FACTOR = 8  # a unit without a letter is no loop before it stands there so many times as often: rows of numbers
JUDGED_CHARS = 200_000  # of a longer text, the first and the last half of this
TOP_NGRAMS = (0.5, 0.5, 0.5)
DUPLICATE_NGRAMS = (0.6, 0.55, 0.5, 0.45, 0.4, 0.35)

_MARKER = regex.compile(r"(?:[-*+•>#]+|\(?\p{N}{1,4}[.):])\s+")
_LETTER = regex.compile(r"\p{L}")
# Scripts that write no spaces are taken character by character, and two characters count as a word.
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_PIECE = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
    r"|[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+"
)
_SENTENCE_END = regex.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|\n+")
_PARAGRAPH_END = regex.compile(r"\n\s*\n")


class Words(NamedTuple):
    """The words of a text, lower-cased; `per_word` of them count as one."""

    words: list[str]
    per_word: int
    chars: int


def repetition(
    row: Row,
    *,
    column: str,
    loop: int = 5,
    lines: float = 0.5,
    paragraphs: float = 0.5,
    sentences: float = 0.5,
    top_ngrams: list[float] = list(TOP_NGRAMS),  # noqa: B006  (never changed)
    duplicate_ngrams: list[float] = list(DUPLICATE_NGRAMS),  # noqa: B006
    min_words: int = MIN_WORDS,
) -> str | None:
    """Refuse texts that end in a loop, or in which too large a share of the characters is said again.

    `loop`: the text ends in a unit of up to 200 words that stands there at least so many times in a row, and over at
    least 12 words (0: off). The shares need `min_words` words, and 1 turns each off: `lines`, `paragraphs` and
    `sentences` that stood there before; words within the most frequent 2-, 3- or 4-gram (`top_ngrams`), and within
    5- to 10-grams that occurred before (`duplicate_ngrams`). Fenced code, tables, and lines without a letter count in
    no share, list markers nowhere.

    Source: Gopher's repetition rules (Rae et al. 2021, https://arxiv.org/abs/2112.11446, table A1), as in datatrove's
    GopherRepetitionFilter. Their limits (0.2 to 0.3 of lines and paragraphs, 0.2 to 0.16, 0.15 to 0.10) are for web
    pages and refuse songs and lists; these are for chat. Loops are our own.
    """
    text = text_of(row, column)
    if len(text) > JUDGED_CHARS:
        text = f"{text[: JUDGED_CHARS // 2]}\n{text[-JUDGED_CHARS // 2 :]}"
    text, prose = _judged(text)
    said = _words(text)
    if loop and (found := _loop(said, loop)):
        return f"{column} {found}"
    if prose != text:
        said = _words(prose)
    if len(said.words) < min_words * said.per_word:
        return None
    # Of a phrase that is there three times, two thirds are said again.
    phrases = [share * 2 / 3 for share in top_ngrams if share < 1]
    least = min(lines, paragraphs, sentences, *duplicate_ngrams, *phrases)
    # What is said again consists of words, and of pairs of words, that are said again; few texts have so many.
    if said.chars - sum(map(len, set(said.words))) <= said.chars * least or _said_again(said, 2)[0] <= least:
        return None
    found = _repeated_parts(prose, lines, paragraphs, sentences)
    found = found or _repeated_ngrams(_words(_fresh(prose)), top_ngrams, duplicate_ngrams)
    return f"{column} {found}" if found else None


def check_repetition(given: Mapping[str, Any], context: Context) -> None:
    """Raise RuleProblem for shares that are none, and for a loop of once."""
    for name, size in (("lines", 1), ("paragraphs", 1), ("sentences", 1), ("top_ngrams", 3), ("duplicate_ngrams", 6)):
        value = given.get(name)
        shares = value if isinstance(value, list) else [] if value is None else [value]
        if any(not 0 < share <= 1 for share in shares):
            raise RuleProblem(f"rule 'repetition': {name!r} must be above 0 and at most 1", name, "1 turns it off")
        if value is not None and len(shares) != size:
            of = "2-, 3- and 4-grams" if size == 3 else "5- to 10-grams"
            raise RuleProblem(f"rule 'repetition': {name!r} must be {size} shares", name, f"one each for {of}")
    if given.get("loop", 0) < 0 or given.get("loop") == 1:
        raise RuleProblem("rule 'repetition': a loop is at least 2 times the same", "loop", "0 turns it off")
    if given.get("min_words", 1) < 1:
        raise RuleProblem("rule 'repetition': 'min_words' must be above 0", "min_words")


def _judged(text: str) -> tuple[str, str]:
    """Return the text without closed code blocks and list markers, and its prose: no code, table or bare line."""
    prose, blocks = part(text)
    lines = [_unmarked(line) for line in prose.split("\n")] if "\n" in prose else [prose]
    kept = [line for line in lines if not line or line[0].isalpha() or (line[0] != "|" and _LETTER.search(line))]
    text = prose = "\n".join(lines)
    if len(kept) < len(lines):
        prose = "\n".join(kept)
    if blocks and not blocks[-1].is_closed:
        text = f"{text}\n{blocks[-1].code}"
    return text, prose


def _unmarked(line: str) -> str:
    line = line.strip()
    marker = None if line[:1].isalpha() else _MARKER.match(line)
    return line[marker.end() :] if marker else line


def _words(text: str) -> Words:
    text = text.lower()
    if text.isascii() or not _UNSPACED.search(text):
        words, per_word = text.split(), 1
    else:
        words = _PIECE.findall(text)
        per_word = 2 if sum(len(word) == 1 for word in words) * 2 > len(words) else 1
    return Words(words, per_word, sum(map(len, words)))


def _loop(said: Words, least: int) -> str | None:
    """Say what a text ends in again and again; its last word may be cut off."""
    words = said.words
    for end in (len(words), len(words) - 1):
        for period in _periods(words, end, least):
            times = _times(words, end, period)
            if times < least or period * times < LOOP_WORDS * said.per_word:
                continue
            unit = words[end - period : end]
            if times >= least * BARE_FACTOR or any(map(_LETTER.search, unit)):
                return f"ends in {_shown(unit, said)} {times} times over"
    return _endless_word(words[-1], least) if words and len(words[-1]) >= LOOP_CHARS else None


def _periods(words: Sequence[str], end: int, times: int) -> Iterator[int]:
    """Yield the lengths of units that may stand `times` times before `end`: so far back the last word is there too."""
    last = words[end - 1] if end > 0 else ""
    for period in range(1, min(LOOP_PERIOD, end // times) + 1):
        if words[end - 1 - period] == last:
            yield period


def _times(words: Sequence[str], end: int, period: int) -> int:
    """Return how often the last `period` words stand there in a row, before `end`."""
    at = end - 1
    while at >= period and words[at] == words[at - period]:
        at -= 1
    return (end - 1 - at) // period + 1


def _endless_word(word: str, least: int) -> str | None:
    """Say what a word repeats at its end: a unit of up to 20 characters."""
    for period in range(1, 21):
        unit = word[-period:]
        times = _times(word, len(word), period)
        needed = LOOP_CHARS if _LETTER.search(unit) else LOOP_CHARS * BARE_FACTOR
        if times >= least and times * period >= needed:
            return f"ends in {unit!r} {times} times over"
    return None


def _repeated_parts(prose: str, lines: float, paragraphs: float, sentences: float) -> str | None:
    parts: tuple[tuple[str, float, Callable[[str], Iterable[str]]], ...] = (
        ("lines", lines, str.splitlines),
        ("paragraphs", paragraphs, _PARAGRAPH_END.split),
        ("sentences", sentences, _SENTENCE_END.split),
    )
    for name, limit, split in parts:
        if limit >= 1:
            continue
        seen: set[str] = set()
        again: Counter[str] = Counter()
        total = 0
        for words in map(str.split, split(prose.lower())):
            each, chars = " ".join(words), sum(map(len, words))
            total += chars
            if each in seen and _has_words(each):
                again[each] += chars
            seen.add(each)
        share = sum(again.values()) / total if total else 0.0
        if share > limit:
            shown = again.most_common(1)[0][0]
            return f"repeats {name}: {share:.0%} of it was there before, such as {shown[:80]!r}"
    return None


def _has_words(part: str) -> bool:
    """Whether a part is more than a word: lists of `yes` and `no` repeat nothing."""
    return " " in part or (len(part) > 1 and not part.isascii() and _UNSPACED.search(part) is not None)


def _fresh(prose: str) -> str:
    """Return the prose without lines that were there before: a refrain is no phrase, `lines` judges it."""
    seen: set[str] = set()
    fresh = []
    for line in prose.split("\n"):
        if line not in seen or not _has_words(line):
            fresh.append(line)
        seen.add(line)
    return "\n".join(fresh)


def _repeated_ngrams(said: Words, top: Sequence[float], duplicate: Sequence[float]) -> str | None:
    for size, limit in enumerate(top, 2):
        if limit < 1 and (found := _top_ngram(said, size, limit)):
            return found
    least = min(duplicate)
    for size, limit in enumerate(duplicate, 5):
        share, shown = _said_again(said, size) if least < 1 else (0.0, "")
        if share <= least:
            break  # what a longer n-gram covers, a shorter one covers too
        if share > limit:
            return f"repeats {size}-word phrases: {share:.0%} of it was there before, such as {shown}"
    return None


def _ngrams(words: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)


def _top_ngram(said: Words, size: int, limit: float) -> str | None:
    """Say which n-gram the text is made of. Only one that occurs three times or more counts."""
    span = size * said.per_word
    counts = Counter(_ngrams(said.words, span))
    most = max(counts.values(), default=0)
    if most < 3:
        return None
    for gram in [gram for gram, times in counts.items() if times == most]:
        if most * sum(map(len, gram)) <= limit * said.chars:
            continue
        share = _share([at for at, each in enumerate(_ngrams(said.words, span)) if each == gram], span, said)
        if share > limit:
            return f"is made of one phrase: {share:.0%} of it is {_shown(gram, said)}"
    return None


def _said_again(said: Words, size: int) -> tuple[float, str]:
    """Return the share of characters within n-grams that occurred before, and the first of these."""
    span = size * said.per_word
    seen: set[tuple[str, ...]] = set()
    add = seen.add  # it returns None
    places = [at for at, gram in enumerate(_ngrams(said.words, span)) if gram in seen or add(gram)]
    return (_share(places, span, said), _shown(said.words[places[0] :][:span], said)) if places else (0.0, "")


def _share(places: Iterable[int], span: int, said: Words) -> float:
    """Return the share of characters that n-grams at these places, in rising order, cover together."""
    covered = reached = 0
    for at in places:
        covered += sum(map(len, said.words[max(at, reached) : at + span]))
        reached = at + span
    return covered / said.chars


def _shown(words: Sequence[str], said: Words) -> str:
    return repr(("" if said.per_word > 1 else " ").join(words)[:80])
