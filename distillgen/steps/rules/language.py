"""Rules `language` and `reasoning_language`: in which language a text is, by its script and by py3langid's model."""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import regex

from distillgen.errors import ExtraMissing, nearest
from distillgen.rows import Row
from distillgen.steps.rules.fences import part
from distillgen.steps.rules.verdict import Context, RuleProblem
from distillgen.steps.text import text_of

MIN_CHARS = 40
BLOCK = 100  # characters that are judged together, at least 60 and at most 160: the model is sure from 60 on
READ = 110  # of them the model reads so many: reading costs most of the time
BLOCKS = 48  # of a long text, so many are looked at, evenly spread
NAMED = 32  # letters of a block whose script is looked up, evenly spread
SUBSTANTIAL = 0.2  # share of a text in another language that makes it mixed
CERTAIN = 10  # times as likely as the wanted language must another be: near relatives stay below
NOT_LANGUAGE = "zxx"  # the model's class for numbers, markup and the like
_ALIASES = {"nb": "no"}

# What is not language, each with what its text must hold.
_SKIPPED = (
    ("`", re.compile(r"`[^`\n]+`")),  # code
    ("$", re.compile(r"\$\$[^$]+\$\$|\$(?=\S)[^$\n]{1,200}(?<=\S)\$(?!\d)")),  # formulas, and not "$5 or $6"
    ("\\", re.compile(r"\\\([^\n]{1,400}?\\\)|\\\[[^\]]{1,400}\\\]|\\[A-Za-z]+")),
    ("://", re.compile(r"https?://\S+")),
    ("@", re.compile(r"\S{1,64}@\S+")),
    ("<", re.compile(r"</?[A-Za-z][^<>\n]{0,100}>")),
)
_NOISE = {ord(each): " " for each in '0123456789#*_=+|<>~^{}[]()/\\"%&$@`•→—–…“”«»„×÷°'} | {ord("’"): "'"}
_NOT_LATIN = regex.compile(r"[\p{L}\p{M}--\p{Latin}--\p{Inherited}]", regex.VERSION1)
_LATIN = regex.compile(r"\p{Latin}+")
# Of the words in English prose, a third are these; where a fifth are, the model need not be asked. (Of 7,244 blocks in
# 90 other languages 3 had as many.) Other languages share too many such words with their relatives.
_FUNCTION_WORDS = (
    "the and of is that with for was this are you it from have has by not be as at or his her he she they their which "
    "what how will would can there each if your we my been had then than them its when more who"
)
_ENGLISH = frozenset(_FUNCTION_WORDS.split())

# By the first word of their characters' names. Scripts that are not here are the model's.
_DENSE = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"}  # one character says as much as two letters
_SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "CJK": ("zh", "yue", "wuu"), "HIRAGANA": ("ja",), "KATAKANA": ("ja",), "HANGUL": ("ko",), "GREEK": ("el", "grc"),
    "HEBREW": ("he", "hbo"), "THAI": ("th",), "GEORGIAN": ("ka",), "ARMENIAN": ("hy",), "TAMIL": ("ta",),
    "TELUGU": ("te",), "KANNADA": ("kn",), "MALAYALAM": ("ml",), "GUJARATI": ("gu",), "GURMUKHI": ("pa",),
    "SINHALA": ("si",), "KHMER": ("km",), "LAO": ("lo",), "MYANMAR": ("my",), "ORIYA": ("or",), "ETHIOPIC": ("am",),
    "TIBETAN": ("dz",),
}  # fmt: skip


class Piece(NamedTuple):
    """Text of one script: its size in letters, and the languages of the script, the likeliest first, if it tells."""

    text: str
    size: int
    languages: tuple[str, ...]

    @property
    def best(self) -> str:
        """The language it is most likely in."""
        if self.languages:
            return self.languages[0]
        if self._is_plain_english:
            return "en"
        return _identifier().classify(self.text[:READ])[0]  # type: ignore[no-any-return]

    @property
    def _is_plain_english(self) -> bool:
        """Whether a look at its function words is enough."""
        words = self.text.lower().split()
        return sum(map(_ENGLISH.__contains__, words)) * 5 >= len(words) and self.text.isascii()

    def may_be(self, languages: frozenset[str]) -> bool:
        """Whether one of the languages is at least a tenth as likely as the likeliest."""
        return not languages.isdisjoint(self._likely())

    def _likely(self) -> Iterable[str]:
        if self.languages:
            return self.languages
        ranked = _identifier().rank(self.text[:READ])
        return [code for code, chance in ranked if chance * CERTAIN >= ranked[0][1]]


def language(row: Row, *, column: str, wanted: list[str], mixed: bool = True, min_chars: int = MIN_CHARS) -> str | None:
    """Refuse texts in another language than those `wanted` (ISO 639-1), or with a fifth or more of it in another.

    `mixed = false` lets parts in other languages be, as long as half of the text is wanted. Code, formulas, addresses
    and numbers are not judged; of less than `min_chars` characters nothing can be said, and they pass. Scripts decide
    where they can, else py3langid (https://github.com/adbar/py3langid), offline. Another language must be ten times as
    likely as a wanted one, so that Danish passes for Norwegian, and a list of foreign names in doubt.
    """
    accepted = frozenset(_ALIASES.get(code, code) for code in wanted)
    total = unwanted = 0
    found: Counter[str] = Counter()
    shown = ""
    for piece in _pieces(text_of(row, column), min_chars):
        best = piece.best
        if best == NOT_LANGUAGE:
            continue
        total += piece.size
        if best not in accepted and not piece.may_be(accepted):
            unwanted += piece.size
            found[best] += piece.size
            shown = shown or piece.text
    if unwanted < min_chars or unwanted < total * (SUBSTANTIAL if mixed else 0.5):
        return None
    share = "" if unwanted == total else f"{unwanted / total:.0%} of "
    return f"{share}{column} is in {found.most_common(1)[0][0]}, not in {' or '.join(wanted)}: {shown[:80]!r}"


def check_language(given: Mapping[str, Any], context: Context) -> None:
    """Raise RuleProblem for no language and for one that the model does not know; ExtraMissing without py3langid."""
    known = {*_identifier().labels, *_ALIASES} - {NOT_LANGUAGE}
    if not given.get("wanted"):
        raise RuleProblem("rule 'language' without `wanted`", "wanted", 'wanted = ["en"], ISO 639-1 codes')
    for code in given["wanted"]:
        if code not in known:
            short = code.lower().replace("_", "-").partition("-")[0]
            close = next((each for each in (short, short[:2]) if each in known), None)
            fix = f"did you mean {close!r}?" if close else nearest(short, known)
            raise RuleProblem(f"rule 'language' knows no language {code!r}", "wanted", fix)
    _check_min_chars("language", given)


def reasoning_language(
    row: Row, *, column: str, reasoning: str = "reasoning", min_chars: int = MIN_CHARS
) -> str | None:
    """Refuse rows whose reasoning trace, the column `reasoning`, is in another language than the answer.

    Passes when either is missing or shorter than `min_chars` characters, and when no language holds half of it. Judges
    as rule `language` does.
    """
    said = _main_language(text_of(row, column), min_chars)
    thought = _main_language(text_of(row, reasoning), min_chars) if said else None
    if said is None or thought is None or said.best == thought.best:
        return None
    if said.may_be(frozenset({thought.best})) or thought.may_be(frozenset({said.best})):
        return None
    return f"{reasoning} is in {thought.best}, {column} in {said.best}: {thought.text[:80]!r}"


def check_reasoning_language(given: Mapping[str, Any], context: Context) -> None:
    """Raise ExtraMissing without py3langid."""
    _identifier()
    _check_min_chars("reasoning_language", given)


def _check_min_chars(rule: str, given: Mapping[str, Any]) -> None:
    if given.get("min_chars", MIN_CHARS) < 20:
        raise RuleProblem(f"rule {rule!r}: fewer than 20 characters are in any language", "min_chars")


@functools.cache
def _identifier() -> Any:
    """Return the model with all its languages: half a second to load. Its own object: the package's is global state."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise ExtraMissing("the rules of language need py3langid", fix="pip install 'distillgen[language]'") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _main_language(text: str, min_chars: int) -> Piece | None:
    """Return the largest piece in the language that holds half of a text, None when none does."""
    pieces = [(piece.best, piece) for piece in _pieces(text, min_chars)]
    sizes: Counter[str] = Counter()
    for best, piece in pieces:
        if best != NOT_LANGUAGE:
            sizes[best] += piece.size
    for best, size in sizes.most_common(1):
        if size * 2 >= sizes.total():
            return max((piece for each, piece in pieces if each == best), key=lambda piece: piece.size)
    return None


def _pieces(text: str, min_chars: int) -> Iterator[Piece]:
    """Yield what is judged of a text, in pieces of one script each."""
    blocks = _blocks(text, min_chars)
    for number in range(min(len(blocks), BLOCKS)):
        yield from _of_one_script(blocks[number * len(blocks) // BLOCKS if len(blocks) > BLOCKS else number])


def _blocks(text: str, min_chars: int) -> Sequence[str]:
    """Return a text's words in blocks that keep to its lines where these are long enough."""
    text = part(text).prose
    for needle, skipped in _SKIPPED:
        if needle in text:
            text = skipped.sub(" ", text)
    blocks: list[str] = []
    block = ""
    for line in text.translate(_NOISE).split("\n"):
        if not (words := " ".join(line.split())):
            continue
        block = f"{block} {words}" if block else words
        start = 0
        while len(block) - start > BLOCK * 1.6:
            end = block.find(" ", start + BLOCK, start + 2 * BLOCK)
            end = end if end > 0 else start + BLOCK
            blocks.append(block[start:end])
            start = end
        block = block[start:].strip()
        if len(block) >= BLOCK * 0.6:
            blocks.append(block)
            block = ""
    if block and blocks:
        blocks[-1] += f" {block}"
    elif len(block) >= min_chars // 2:
        blocks.append(block)
    return blocks


def _of_one_script(block: str) -> Iterator[Piece]:
    if block.isascii() or not (others := _NOT_LATIN.findall(block)):
        yield Piece(block, len(block), ())
        return
    step = 1 + len(others) // NAMED
    scripts = Counter(unicodedata.name(each, "?").split()[0] for each in others[::step])
    sizes = {script: count * step * (2 if script in _DENSE else 1) for script, count in scripts.items()}
    kana = sizes.get("HIRAGANA", 0) + sizes.get("KATAKANA", 0)
    if kana and kana * 10 >= kana + sizes.get("CJK", 0):  # Japanese writes Chinese characters too
        sizes["HIRAGANA"] = kana + sizes.pop("CJK", 0)
        sizes.pop("KATAKANA", None)
    latin = " ".join(_LATIN.findall(block))
    foreign = {script: size for script, size in sizes.items() if size * 10 >= len(block)}  # less is a name, or an alpha
    if len(latin) >= MIN_CHARS or not foreign:
        yield Piece(latin, len(latin), ())
    for script, size in foreign.items():
        yield Piece(block, size, _SCRIPTS.get(script, ()))
