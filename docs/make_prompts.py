"""Makes docs/prompts.md from the prompt library, so that the page stays true."""

from distillgen.prompts import Prompt, library, load_prompt

INTRO = """# Prompts

A prompt template says what a teacher is asked about a row, and which columns its reply gives. `distillgen prompts` lists
the library and your own, `distillgen prompts show NAME` prints a template, `distillgen prompts render NAME --seed '{...}'` shows the
messages that a teacher would get. To change one, copy it beside your recipe, where it comes first:

```sh
distillgen prompts show explain > prompts/explain.toml
```

A new name is a new prompt. This one writes two columns ([first dataset](first-dataset.md#a-prompt-of-your-own) has one
that writes a text):

```toml
# prompts/quiz.toml, beside the recipe; a step takes it with prompt = "quiz"
description = "Write a quiz question about a topic, with its answer"
system = "You write quiz questions for a pub evening. The answer is one word or a short name."
user = "Topic: {{ topic }}"
output = "json"
writes = ["question", "answer"]
checks = ["not_empty", { rule = "length", column = "answer", max_words = 6 }]

[schema]
type = "object"
required = ["question", "answer"]
additionalProperties = false
properties = { question = { type = "string" }, answer = { type = "string" } }
```

`distillgen prompts render quiz --seed '{"topic": "tides"}'` shows it as the teacher would see it, and
`distillgen build --limit 3 --no-publish` what comes of it. A template is a TOML file:

| key | meaning |
|---|---|
| `description` | one line |
| `system`, `user` | Jinja2 templates over the row's columns; or `messages`, any number of turns; or `turns`, the column whose messages are sent as they are |
| `examples` | worked examples: a table of columns each, with the `reply` to them |
| `output` | `text` (default), `labels`, or `json` with a `[schema]` |
| `writes` | the columns that the reply gives, the main one first; default: `answer`, `label`, or the schema's properties |
| `values` | defaults for variables that no column provides |
| `checks` | rules for what it writes ([quality](quality.md)); for prompts that write a list, for its elements |
| `reads`, `sample`, `tried` | documentation: the columns, a seed to render, what came of it |

Templates run in a sandbox and are strict: a variable that a row does not have is an error, unless the template tests it
with `is defined` or gives a `default`. The line break behind a tag (`{% if ... %}`) is dropped, as Jinja2's
`trim_blocks` does; that behind `{{ ... }}` stays. Text of seeds is data and is never rendered again.

Each prompt below was run with the small embedded teacher on at least twenty seeds of everyday content
(`bench/prompts.py` runs them again). The results shown are unedited, a good one and a bad one: a larger teacher does
better, and the bad ones show what to filter for. "Kept" counts what passed the prompt's own checks, right or wrong.
"""


def section(prompt: Prompt) -> str:
    """Return one prompt's part of the page."""
    settings = prompt.settings
    reads = ", ".join(f"`{name}` ({what})" for name, what in settings.reads.items())
    is_list = settings.output == "json" and any(
        p.get("type") == "array" for p in settings.json_schema["properties"].values()
    )
    labels = '\nlabels = ["positive", "negative"]' if "labels" in settings.values else ""
    lines = [
        f"## {prompt.name}",
        f"{settings.description}. Reads {reads}. Writes {', '.join(f'`{name}`' for name in settings.columns)}"
        + (", a list: with `each = true` its elements become rows with `question`." if is_list else "."),
        f'```toml\n[[steps]]\nuse = "generate"\nprompt = "{prompt.name}"{labels}'
        + ("\neach = true" if is_list else "")
        + "\n```",
    ]
    if tried := settings.tried:
        share = tried.kept / tried.seeds
        lines.append(
            f"Tried with `{tried.model}` on {tried.date}: {tried.kept} of {tried.seeds} rows kept ({share:.0%})."
        )
        lines += [f"Good:\n{fenced(tried.good)}", f"Bad:\n{fenced(tried.bad)}"]
    return "\n\n".join(lines)


def fenced(text: str) -> str:
    """Return text in a block that it cannot end."""
    return "\n".join(["~~~~text", text.strip("\n"), "~~~~"])


def page() -> str:
    """Return docs/prompts.md."""
    return "\n\n".join([INTRO.rstrip(), *(section(load_prompt(name)) for name in library())]) + "\n"
