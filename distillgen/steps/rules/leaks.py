"""Rules `prompt_leak` and `special_tokens`: what belongs to the asking and not to the answer."""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillgen.rows import Row
from distillgen.steps.rules.fences import part
from distillgen.steps.rules.verdict import Context, RuleProblem
from distillgen.steps.text import text_of
from distillgen.steps.written import record_of

# Scripts without spaces are taken character by character; two of their characters count as one word.
_SPACELESS = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai, Lao, kana, Han
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W_{_SPACELESS}]+")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_CHARACTER = re.compile(rf"[{_SPACELESS}]")
_SCAFFOLD = re.compile(
    r"^[ \t]*(?:#{2,4} ?(?:Instruction|Response|Human|Assistant|User|System Prompt)s? ?:"
    r"|<</?SYS>>|\[/?INST\]|(?:BEGINNING|END) OF CONVERSATION:)",
    re.MULTILINE,
)
_ASKS = r"(?:User|Human|Usuario|Usuário|Utente|Utilisateur|Benutzer|Nutzer|Пользователь|用户|人类|ユーザー|사용자)"
_ANSWERS = (
    r"(?:Assistant|AI|Chatbot|Bot|Asistente|Assistente|Assistent|Ассистент|Помощник|助手|助理|アシスタント|어시스턴트)"
)
_TURNS = re.compile(rf"^[ \t*]{{0,8}}(?:(?P<asks>{_ASKS})|(?P<answers>{_ANSWERS}))[ *]{{0,4}}[:：]", re.MULTILINE)
_DIALOGUE = re.compile(
    r"dialog|conversation|chat|transcript|script|interview|role.?play|gespräch|unterhaltung|conversa|diálogo|conversación"
    r"|entretien|intervist|dialogo|диалог|разговор|对话|聊天|会話|対話|대화",
    re.IGNORECASE,
)
_QUESTION = re.compile(r"[?？؟]")
_INLINE = re.compile(r"`[^`\n]*`")
_TAG = re.compile(r"\{\{[^{}\n]{1,200}\}\}|\{%[^{}\n]{1,200}%\}")
_NAME = re.compile(r"[^\W\d]\w*")


def prompt_leak(
    row: Row,
    *,
    column: str,
    texts: list[str] = [],  # noqa: B006  (never changed)
    words: int = 8,
    context: Context = Context(),  # noqa: B008  (frozen)
) -> str | None:
    """Refuse answers that repeat their instructions or carry the scaffold of a prompt.

    Refused are: a run of `words` words (twice as many characters in scripts without spaces) that stands in the fixed
    texts of the template that wrote the column, in `texts`, or in a `system` turn of the row's `messages`, unless the
    run also stands in the row's other columns, where the seed brought it; `{{ name }}` or `{% ... name ... %}` left
    over, `name` a column of the row; lines such as `### Response:` or `[INST]`; and a dialogue that goes on (`User:`
    and `Assistant:` at line starts after the answer, with a question or more than once) when none was asked for. Tags
    and scaffold inside code survive. Own rule; runs of words are what n-gram decontamination uses (datatrove, NeMo
    Curator), here against the prompt.
    """
    text = text_of(row, column)
    if "{" in text and (tag := _left_over(row, column, text)):
        return f"{column} holds template text left over: {tag[:80]!r}"
    if ("#" in text or "[" in text or "<<" in text or "OF CONV" in text) and (found := _outside(_SCAFFOLD, text)):
        return f"{column} holds a prompt's scaffold: {found.strip()[:80]!r}"
    if (":" in text or "：" in text) and (turn := _plays_both_sides(row, column, text)):
        return f"{column} goes on as a dialogue: {turn[:80]!r}"
    told = (*context.told.get(column, ()), *texts)
    turns = _system_turns(row)
    run = _leaked_run(row, column, text, told, turns, words) if told or turns else None
    return f"{column} repeats its instructions: {run[:100]!r}" if run else None


def check_prompt_leak(given: Mapping[str, Any], context: Context) -> None:
    """Raise RuleProblem for runs so short that ordinary language holds them, and for texts without words."""
    if given.get("words", 8) < 4:
        raise RuleProblem("rule 'prompt_leak': runs of fewer than 4 words stand in any text", "words")
    if any(not _WORD.search(text) for text in given.get("texts", [])):
        raise RuleProblem("rule 'prompt_leak': a text holds no words", "texts")


def _turns(row: Row) -> list[dict[str, Any]]:
    turns = row.columns.get("messages")
    return [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []


def _system_turns(row: Row) -> tuple[str, ...]:
    return tuple(str(turn.get("content")) for turn in _turns(row) if turn.get("role") == "system")


def _others(row: Row, column: str) -> str:
    """Return the text that the seed or earlier steps brought: neither what this step wrote, nor system turns."""
    own = {column}
    if (step := _writer_of(row, column)) is not None:
        own |= {"reasoning", *(name for name in row.columns if _writer_of(row, name) == step)}
    parts = [text_of(row, name) for name in row.columns if name not in own and name != "messages"]
    said = (
        [] if "messages" in own else [str(turn.get("content")) for turn in _turns(row) if turn.get("role") != "system"]
    )
    return "\n".join([*parts, *said])


def _writer_of(row: Row, column: str) -> str | None:
    """Return the step that wrote a column, None for one of the seed's."""
    record = record_of(row.trail, column)
    return None if record is None else str(record["step"])


# -- runs of words ----------------------------------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text.lower())


def _leaked_run(
    row: Row, column: str, text: str, told: tuple[str, ...], turns: tuple[str, ...], words: int
) -> str | None:
    """Return the first run of words that stands in `told` or in system turns, and not in the row's other columns."""
    tokens = _words(text)
    for size, (known, runs) in (*_fixed_runs(told, words).items(), *_turns_runs(turns, words).items()):
        if not any(token in known for token in tokens[size - 1 :: size]):
            continue  # a run of `size` words holds exactly one word whose position is the last of `size`
        others: set[tuple[str, ...]] | None = None
        for start in _candidates(tokens, known, size):
            run = tuple(tokens[start : start + size])
            if run not in runs:
                continue
            if others is None:
                others = {*_runs(_words(_others(row, column)), size)}
            if run not in others:
                return (" " if size == words else "").join(run)
    return None


def _candidates(tokens: Sequence[str], known: frozenset[str], size: int) -> Iterator[int]:
    """Yield where `size` known words in a row begin. Linear: every token is looked at twice at most."""
    unbroken = 0
    for position, token in enumerate(tokens):
        unbroken = unbroken + 1 if token in known else 0
        if unbroken >= size:
            yield position - size + 1


def _runs(tokens: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    return (tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1))


def _runs_of(told: tuple[str, ...], words: int) -> dict[int, tuple[frozenset[str], frozenset[tuple[str, ...]]]]:
    """Return, for each length of run in tokens, the words that runs hold and the runs themselves."""
    sizes: dict[int, set[tuple[str, ...]]] = {}
    for text in told:
        tokens = _words(text)
        size = 2 * words if 3 * len(_CHARACTER.findall(text)) > len(tokens) else words
        sizes.setdefault(size, set()).update(_runs(tokens, size))
    return {
        size: (frozenset(word for run in runs for word in run), frozenset(runs)) for size, runs in sizes.items() if runs
    }


# A row's own system turn may be long, and another in every row: few of those are kept.
_fixed_runs = functools.lru_cache(maxsize=64)(_runs_of)
_turns_runs = functools.lru_cache(maxsize=8)(_runs_of)


# -- special tokens ---------------------------------------------------------------------------------------------------

# Never part of an answer, inside code neither: a student's tokenizer may read them as what they are.
_HARD = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|startoftext|begin_of_text|end_of_text|eot_id|eom_id|eot|start_header_id"
    r"|end_header_id|python_tag|assistant|user|system|end|tool|observation|function|ipython|endofprompt|fim_\w{1,12}"
    r"|[A-Za-z]{1,24}(?:_[A-Za-z0-9]{1,24}){1,4})\|>"
    r"|<｜[^｜\n]{1,40}｜>"
    r"|◁/?(?:think|im_\w{1,12})▷"
)
# Those that documentation and code write too: `<s>` strikes through, `[INST]` stands in texts about templates.
_SOFT = re.compile(
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK)\]|<</?SYS>>"
    r"|</?(?:start|end)_of_(?:turn|image|utterance)>|<(?:bos|eos|pad|unk|sep|cls|mask)>|\[(?:PAD|UNK|CLS|SEP|BOS|EOS)\]"
    r"|<extra_id_\d{1,3}>|<0x[0-9A-F]{2}>|<\|(?:start|message|channel|return|call|constrain)\|>"
    r"|<(?:human|bot|assistant|user)>:"
)
_MAYBE_SOFT = re.compile(r"<[/<|]{0,2}[A-Za-z0]|\[/?[A-Z]{3}")  # how each of them begins
_STRIKE = re.compile(r"<(/?)s>")
_THOUGHT = re.compile(r"<(/?)(think|thinking|thought|reasoning)>")


def special_tokens(row: Row, *, column: str) -> str | None:
    """Refuse answers with tokens of a chat template, or with a thinking tag that is not closed or was not opened.

    Known are the templates of ChatML and Qwen, GPT-OSS, Llama 2 to 4, Mistral, Gemma, Phi, GLM, DeepSeek, Kimi,
    StarCoder, Falcon and T5, as their makers publish them. `<|im_start|>` and its like are refused
    wherever they stand; `[INST]`, `<start_of_turn>`, `<eos>`, `<s>`, `<think>` and theirs survive in code, where
    the row's other columns hold them too, and, for `<s>`, as a pair that strikes words through.
    """
    text = text_of(row, column)
    if "<" not in text and "[" not in text and "◁" not in text:
        return None
    token = _special_token(row, column, text)
    return f"{column} holds the special token {token!r}" if token else None


def _special_token(row: Row, column: str, text: str) -> str | None:
    if ("|>" in text or "｜>" in text or "▷" in text) and (found := _HARD.search(text)):
        return found[0]
    if not _MAYBE_SOFT.search(text):
        return None
    plain = without_code(text)
    soft = [found[0] for found in _SOFT.finditer(plain)]
    loose = [tag for tag in (_loose_strike(plain), _loose_thought(plain)) if tag]
    if not soft and not loose:
        return None
    others = _others(row, column)
    return next((token for token in (*loose, *dict.fromkeys(soft)) if token not in others), None)


def _loose_strike(text: str) -> str | None:
    """Return `<s>` or `</s>` that does not strike through words within an answer."""
    if "<s>" not in text and "</s>" not in text:
        return None
    stripped = text.strip()
    tags = [found[0] for found in _STRIKE.finditer(stripped)]
    paired = tags == ["<s>", "</s>"] * (len(tags) // 2)
    wraps = stripped.startswith("<s>") and stripped.endswith("</s>")
    return None if paired and not wraps else tags[0] if tags[0] == "</s>" or wraps or len(tags) % 2 else tags[-1]


def _loose_thought(text: str) -> str | None:
    """Return a thinking tag without its other half."""
    if "<think" not in text and "</t" not in text and "<thought" not in text and "reasoning>" not in text:
        return None
    opened: str | None = None
    for found in _THOUGHT.finditer(text):
        closes = bool(found[1])
        if closes != (opened is not None):
            return found[0] if closes else opened
        opened = None if closes else found[0]
    return opened


# -- scaffold ---------------------------------------------------------------------------------------------------------


def without_code(text: str) -> str:
    """Return a text without its fenced blocks and inline code."""
    return _INLINE.sub(" ", part(text).prose) if "`" in text or "~~~" in text else text


def _outside(pattern: re.Pattern[str], text: str) -> str | None:
    if not pattern.search(text):
        return None
    found = pattern.search(without_code(text))
    return found[0] if found else None


def _left_over(row: Row, column: str, text: str) -> str | None:
    """Return an unrendered tag that names a column of the row and does not stand in its other columns."""
    if "{{" not in text and "{%" not in text:
        return None
    names = row.columns.keys() - {column}
    tags = [tag for tag in _TAG.findall(without_code(text)) if names & {*_NAME.findall(tag)}]
    brought = {*_TAG.findall(_others(row, column))} if tags else ()
    return next((tag for tag in tags if tag not in brought), None)


def _plays_both_sides(row: Row, column: str, text: str) -> str | None:
    """Return the line at which an answer goes on as a dialogue that nobody asked for."""
    if not _TURNS.search(text):
        return None
    plain = without_code(text)
    turns = list(_TURNS.finditer(plain))
    asks = next((turn for turn in turns if turn["asks"]), None)
    opens = bool(turns) and not plain[: turns[0].start()].strip()
    if asks is None:
        alone = len(turns) == 1 and opens  # "Assistant: ..." and nothing else
        leaks = alone and turns[0]["answers"] not in ("AI", "Bot", "Chatbot")
        return turns[0][0].strip() if leaks and not _wanted(row, column, turns[0]["answers"]) else None
    introduced = plain[: asks.start()].rstrip().endswith((":", "：", "**", "---"))
    if not _goes_on(plain, turns) or introduced or (opens and turns[0]["asks"]) or _wanted(row, column, asks["asks"]):
        return None
    return plain[asks.start() : asks.start() + 80].split("\n", 1)[0].strip()


def _goes_on(text: str, turns: Sequence[re.Match[str]]) -> bool:
    """Say whether somebody asks and is answered, and either asks a question or does so twice.

    "User: can read posts. Assistant: helps the editor." is a list of roles.
    """
    pairs = [(one, next_) for one, next_ in itertools.pairwise(turns) if one["asks"] and next_["answers"]]
    return len(pairs) > 1 or any(_QUESTION.search(text, one.end(), next_.start()) for one, next_ in pairs)


def _wanted(row: Row, column: str, label: str) -> bool:
    """Say whether the row's other columns speak of dialogues or use the label themselves."""
    others = _others(row, column)
    return f"{label}:" in others or bool(_DIALOGUE.search(others))
