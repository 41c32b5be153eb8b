"""Chat templates: a model's Jinja file or tokenizer_config.json, rendered as transformers does.

Source: `transformers/utils/chat_template_utils.py`, `_cached_compile_jinja_template` and `render_jinja_template`, and
`tokenization_utils_base.py` for the files (5.24.0).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from distillgen.errors import UsageError
from distillgen.export.formats import Unfit

JINJA_FILE, TABLE_FILE = "chat_template.jinja", "tokenizer_config.json"
REASONING_KEYS = {"reasoning_content", "thinking"}
TOKENS = {f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}
_REFUSALS = (
    TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, AssertionError, RecursionError
)  # fmt: skip


class _Generation(Extension):
    """`{% generation %}` marks what an assistant wrote; here it only stands for what is in it."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 wants a set)

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the body, with a scope of its own as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(Namespace):
    """A namespace of a template, without names that mean something to Python."""

    def __init__(*args: Any, **named: Any) -> None:
        self, *rest = args
        for name in (values := dict(*rest, **named)):
            _Namespace._allow(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._allow(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _allow(name: Any) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace may not hold {name!r}")


class ChatTemplate:
    """A compiled chat template. `tokens`: the special tokens that it may name, None where nobody knows them.

    Raises UsageError when it is not valid, or names special tokens that nobody knows.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None, where: str) -> None:
        self._tokens = dict(tokens or {})
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        environment.globals["namespace"] = _Namespace
        try:
            tree = environment.parse(source)
            unknown = meta.find_undeclared_variables(tree) & TOKENS
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise _invalid(error.message or "", f"{where}, line {error.lineno} of the template") from None
        except RecursionError:
            raise _invalid("it is nested too deeply", where) from None
        if unknown and tokens is None:
            raise UsageError(
                f"the chat template writes {', '.join(sorted(unknown))}, and this file does not say what that is",
                where=where, fix=f"put the model's {TABLE_FILE} beside it",
            )  # fmt: skip
        named = {each.attr for each in tree.find_all(nodes.Getattr)}
        named |= {each.value for each in tree.find_all(nodes.Const) if isinstance(each.value, str)}
        self.reads_reasoning = bool(named & REASONING_KEYS)  # `thinking` is told from `enable_thinking`, say

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return a conversation as text. Raises Unfit with what the template says against it."""
        try:
            return self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=False, **self._tokens
            )
        except _REFUSALS as error:
            raise Unfit(f"the chat template refuses it: {repr(str(error))[:120]}") from None


def read_template(path: Path) -> ChatTemplate:
    """Read a Jinja file, a tokenizer_config.json, or a model's folder with either; of both, the Jinja file counts.

    Special tokens are those of the tokenizer_config.json in the same folder. Raises UsageError when there is none.
    """
    if path.is_dir():
        path = path / (JINJA_FILE if (path / JINJA_FILE).exists() else TABLE_FILE)
    if path.suffix != ".json":
        beside = path.with_name(TABLE_FILE)
        return ChatTemplate(_read(path), _tokens(_table(beside)) if beside.is_file() else None, str(path))
    table = _table(path)
    if "chat_template" not in table and (beside := path.with_name(JINJA_FILE)).is_file():
        return ChatTemplate(_read(beside), _tokens(table), str(beside))
    source = table.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next(
            (each.get("template") for each in source if isinstance(each, dict) and each.get("name") == "default"), None
        )
    if not isinstance(source, str):
        raise _no_template(path)
    return ChatTemplate(source, _tokens(table), str(path))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read the template: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise UsageError("the template is not UTF-8 text", where=str(path)) from None


def _table(path: Path) -> Mapping[str, Any]:
    try:
        table = orjson.loads(_read(path))
    except orjson.JSONDecodeError:
        raise _no_template(path) from None
    if not isinstance(table, dict):
        raise _no_template(path)
    return table


def _no_template(path: Path) -> UsageError:
    return UsageError(
        "no chat template in this file", where=str(path),
        fix=f"give the model's {JINJA_FILE}, or a {TABLE_FILE} with the key `chat_template`",
    )  # fmt: skip


def _invalid(why: str, where: str) -> UsageError:
    return UsageError(
        f"the chat template is not valid: {why[:200]}", where=where, fix=f"take the model's own {JINJA_FILE}"
    )


def _tokens(table: Mapping[str, Any]) -> dict[str, str]:
    found = [(name, value) for name, value in table.items() if name.endswith("_token")]
    texts = [(name, value.get("content") if isinstance(value, dict) else value) for name, value in found]
    return {name: value for name, value in texts if isinstance(value, str)}


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)
