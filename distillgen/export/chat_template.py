"""Chat templates: Jinja files, or a tokenizer_config.json that holds one, rendered as transformers does.

Source: `transformers/utils/chat_template_utils.py`, `_compile_jinja_template` (transformers 5).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from distillgen.errors import UsageError
from distillgen.export.formats import Unfit


class _Generation(Extension):
    """`{% generation %}` marks what an assistant wrote; here it only stands for what is in it."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 wants a set)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Return the body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled chat template. `source` is its text, `tokens` the special tokens that it may name."""

    def __init__(self, source: str, tokens: Mapping[str, str], where: str) -> None:
        self.source, self._tokens = source, dict(tokens)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise UsageError(
                f"the chat template is not valid: {error.message}",
                where=f"{where}, line {error.lineno} of the template",
                fix="take the model's own chat_template.jinja or tokenizer_config.json",
            ) from None  # fmt: skip

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return a conversation as text. Raises Unfit with what the template says against it."""
        try:
            return self._template.render(messages=messages, add_generation_prompt=False, **self._tokens)
        except (
            TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            raise Unfit(f"the chat template refuses it: {repr(str(error))[:120]}") from None


def read_template(path: Path) -> ChatTemplate:
    """Read a template file. Raises UsageError when there is none in it."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read the template: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise UsageError("the template is not UTF-8 text", where=str(path)) from None
    if path.suffix != ".json":
        return ChatTemplate(content, {}, str(path))
    try:
        table = orjson.loads(content)
        source = table["chat_template"]
        if isinstance(source, list):  # several, by name
            source = next(each["template"] for each in source if each["name"] == "default")
        if not isinstance(source, str):
            raise TypeError
    except (orjson.JSONDecodeError, KeyError, TypeError, StopIteration):
        raise UsageError(
            "no chat template in this file", where=str(path),
            fix="give a Jinja file, or a tokenizer_config.json with the key `chat_template`",
        ) from None  # fmt: skip
    return ChatTemplate(source, dict(_tokens(table)), str(path))


def _tokens(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(name, value) for name, value in table.items() if name.endswith("_token")]
    texts = [(name, value.get("content") if isinstance(value, dict) else value) for name, value in found]
    return [(name, value) for name, value in texts if isinstance(value, str)]


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _raise(message: str) -> None:
    raise TemplateError(message)
