"""The formats: how each spells a row of a version, which rows and which reasoning it can carry, and its rule.

A row of a version is `{"id", "messages"}` or `{"id", "prompt", "chosen", "rejected"}`, with `reasoning` if it has it.
To add a format is a function, a rule and an entry here, and its name in cli/export.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from distillgen.export import rules
from distillgen.export.options import Options

Row: TypeAlias = Mapping[str, Any]
Made: TypeAlias = dict[str, Any]
EVERYWHERE = ("think", "reasoning_content", "thinking", "drop")
IN_TEXT = ("think", "drop")


class Unfit(Exception):
    """A row that a format cannot carry, and why."""


@dataclass(frozen=True)
class Format:
    """One format. `render` makes one row, or several, of a row; `wrong` says why one of them may not be written.

    `reasoning`: where a trace may go; `why`: why nowhere else.
    """

    name: str
    takes: Literal["conversation", "pair", "both"]
    render: Callable[[Row, Options], Made | Sequence[Made]]
    wrong: Callable[[Made], str | None]
    reasoning: tuple[str, ...] = EVERYWHERE
    why: str = ""
    suffix: str = ".jsonl"


def messages(row: Row, options: Options) -> Made:
    """Return `{"messages": [...]}`: OpenAI's chat format, which most trainers take."""
    return {"messages": _conversation(row, options)}


def prompt_completion(row: Row, options: Options) -> Made:
    """Return `{"prompt", "completion"}`: texts, or lists of messages. Trainers train on the completion only."""
    *prompt, completion = _conversation(row, options)
    if not options.as_text:
        return {"prompt": prompt, "completion": [completion]}
    if len(prompt) != 1 or prompt[0]["role"] != "user" or completion["role"] != "assistant":
        raise Unfit("it is more than one question and one answer, which two texts cannot tell apart; try --messages")
    return {"prompt": prompt[0]["content"], "completion": completion["content"]}


_SENDERS = {"system": "system", "user": "human", "assistant": "gpt"}


def sharegpt(row: Row, options: Options) -> Made:
    """Return `{"conversations": [{"from", "value"}, ...]}` from system, human and gpt."""
    turns = _conversation(row, options)
    return {"conversations": [{"from": _sender(turn["role"]), "value": turn["content"]} for turn in turns]}


def _sender(role: str) -> str:
    if role not in _SENDERS:
        raise Unfit(f"it has a turn of the role {role[:40]!r}, for which the format has no sender")
    return _SENDERS[role]


def alpaca(row: Row, options: Options) -> Made:
    """Return `{"instruction", "input", "output", "system", "history"}`; `input` is always empty."""
    turns = _conversation(row, options)
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else ""
    if [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2) or not turns:
        raise Unfit("user and assistant do not alternate")
    texts = [turn["content"] for turn in turns]
    history = [texts[place : place + 2] for place in range(0, len(texts) - 2, 2)]
    return {"instruction": texts[-2], "input": "", "output": texts[-1], "system": system, "history": history}


def preference(row: Row, options: Options) -> Made:
    """Return `{"prompt", "chosen", "rejected"}`, each a list of messages. Reasoning is the chosen answer's."""
    chosen, rejected = row["chosen"], row["rejected"]
    trace = row.get("reasoning")
    if trace is not None and options.reasoning != "drop":
        chosen = [*chosen[:-1], _answer(chosen[-1], trace, options)]
        rejected = [*rejected[:-1], _answer(rejected[-1], "", options)]
    return {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected}


def unpaired_preference(row: Row, options: Options) -> Sequence[Made]:
    """Return two rows `{"prompt", "completion", "label"}`: the chosen answer is true, the rejected one false."""
    pair = preference(row, options)
    if why := rules.preference(pair):  # what no row alone shows: that the same text would be good and bad
        raise Unfit(why)
    return [{"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"} for name in _PAIR]


_PAIR = ("chosen", "rejected")


def text(row: Row, options: Options) -> Made:
    """Return `{"text"}`, as a chat template renders the conversation; it must not leave out answer or reasoning."""
    assert options.template is not None  # made sure of before the first row
    turns, trace = _conversation(row, options), row.get("reasoning", "")
    if why := rules.conversation(turns):
        raise Unfit(why)
    if options.reasoning not in IN_TEXT and "reasoning" in row:
        turns[-1] = {**turns[-1], "reasoning_content": trace, "thinking": trace}  # as transformers does since 5.24
    rendered = options.template.render(turns)
    if row["messages"][-1]["content"].strip() not in rendered:
        raise Unfit("the template leaves the answer out, or alters it")
    if options.reasoning != "drop" and trace.strip() not in rendered:
        raise Unfit("the template leaves the reasoning out, or alters it; --reasoning drop says so, or try another")
    return {"text": rendered}


def labels(row: Row, options: Options) -> Made:
    """Return `{"text", "label"}`: what was asked, and the answer. A system message, the same for all, is left out."""
    turns = row["messages"]
    asked = turns[1:] if turns[0]["role"] == "system" else turns
    if [turn["role"] for turn in asked] != ["user", "assistant"]:
        raise Unfit("it has more or other turns than a text and its label")
    if options.system is not None and system_of(turns) != options.system:
        raise Unfit("its system message is not that of the first row, and the format has no place for it")
    return {"text": asked[0]["content"], "label": asked[1]["content"].strip()}


def system_of(turns: Sequence[Mapping[str, Any]]) -> str:
    """Return what the system says at the beginning of a conversation, "" where it says nothing."""
    return str(turns[0]["content"]) if turns[0]["role"] == "system" else ""


def parquet(row: Row, options: Options) -> Made:
    """Return a row of the version as it is, with its id, and the reasoning where it is wanted."""
    return {"id": row["id"], **(preference if "chosen" in row else messages)(row, options)}


def csv(row: Row, options: Options) -> Made:
    """Return a flat row: id, system, prompt, and completion or chosen and rejected."""
    if "chosen" in row:
        pair = preference(row, options)
        turns, answers = pair["prompt"], {name: pair[name][-1]["content"] for name in _PAIR}
        why = rules.preference(pair)
    else:
        *turns, answer = conversation = _conversation(row, options)
        answers, why = {"completion": answer["content"]}, rules.conversation(conversation)
    asked = turns[1:] if turns and turns[0]["role"] == "system" else turns
    if why or [turn["role"] for turn in asked] != ["user"]:
        raise Unfit(why or f"it has {len(asked)} turns before the answer, and a line has one prompt")
    traces = (
        {str(options.reasoning): row["reasoning"]} if "reasoning" in row and options.reasoning not in IN_TEXT else {}
    )
    return {"id": row["id"], "system": system_of(turns), "prompt": asked[0]["content"], **answers, **traces}


FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format("messages", "conversation", messages, rules.messages),
        Format(
            "prompt-completion", "conversation", prompt_completion, rules.prompt_completion,
            why="texts have no keys; try --messages",
        ),
        Format(
            "sharegpt", "conversation", sharegpt, rules.sharegpt, IN_TEXT, "a turn has a sender and a value, and no key"
        ),
        Format("alpaca", "conversation", alpaca, rules.alpaca, IN_TEXT, "its output is one text"),
        Format("preference", "pair", preference, rules.preference),
        Format("unpaired-preference", "pair", unpaired_preference, rules.unpaired_preference),
        Format("text", "conversation", text, rules.text, why="the template reads no such key"),
        Format("labels", "conversation", labels, rules.labels, ("drop",), "a label is not how it was found"),
        Format("parquet", "both", parquet, rules.version_row, suffix=".parquet"),
        Format("csv", "both", csv, rules.table, suffix=".csv"),
    )
}  # fmt: skip


def _conversation(row: Row, options: Options) -> list[dict[str, Any]]:
    """Return the messages with the reasoning trace where it was asked for; a new list, whose turns are shared."""
    turns = list(row["messages"])
    trace = row.get("reasoning")
    if trace is not None and options.reasoning != "drop":
        turns[-1] = _answer(turns[-1], trace, options)
    return turns


def _answer(turn: Mapping[str, Any], trace: str, options: Options) -> dict[str, Any]:
    if options.reasoning != "think":
        return {**turn, options.reasoning: trace}  # empty where there is none: one schema for all rows
    if not trace:
        return dict(turn)
    for name, said in (("reasoning", trace), ("answer", turn["content"])):
        if "</think>" in said:
            raise Unfit(f"its {name} holds `</think>` itself, which would end it elsewhere; try another --reasoning")
    return {**turn, "content": f"<think>\n{trace}\n</think>\n\n{turn['content']}"}
