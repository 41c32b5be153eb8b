"""Finds, checks and renders prompt templates: TOML files with sandboxed Jinja2, strict about undefined names."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.meta
import jinja2.sandbox
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from pydantic import Field, ValidationError, model_validator

from distillgen.errors import Problem, PromptInvalid, PromptMissing, RowFailed, nearest
from distillgen.files import dumps
from distillgen.recipe import spell
from distillgen.settings import Settings
from distillgen.step_settings import RuleSetting
from distillgen.structured import wrong_schema
from distillgen.toml_lines import line_of

MAX_RENDERED_CHARS = 10_000_000
ROLES = ("system", "user", "assistant", "tool")
Messages = list[dict[str, Any]]


class TurnSettings(Settings):
    """One message of a template with several turns."""

    role: Literal["system", "user", "assistant"]
    content: str


class TriedSettings(Settings):
    """What came of the prompt when it was tried: shown by `distillgen prompts show` and in the docs."""

    model: str
    date: str
    seeds: int
    kept: int
    good: str
    bad: str


class PromptSettings(Settings):
    """A prompt template as its TOML file states it."""

    description: str
    system: str | None = None
    user: str | None = None
    messages: list[TurnSettings] = Field(default=[])
    turns: str | None = Field(default=None, description="column with messages of the seed's own, sent as they are")
    examples: list[dict[str, Any]] = Field(default=[], description="worked examples: columns and the `reply` to them")
    output: Literal["text", "labels", "json"] = "text"
    labels: list[str] = Field(default=[])
    json_schema: dict[str, Any] = Field(default={}, alias="schema")
    reads: dict[str, str] = Field(default={}, description="column -> what it is")
    writes: list[str] = Field(default=[])
    values: dict[str, Any] = Field(default={}, description="defaults for template variables that no column provides")
    checks: list[RuleSetting] = Field(default=[], description="filter rules for what this prompt writes")
    sample: dict[str, Any] = Field(default={}, description="a seed to render it with")
    tried: TriedSettings | None = None

    @model_validator(mode="after")
    def _whole(self) -> "PromptSettings":
        if sum([self.user is not None, bool(self.messages), self.turns is not None]) != 1:
            raise ValueError("a prompt has exactly one of `user`, `messages` and `turns`")
        if self.output == "json" and self.json_schema.get("type") != "object":
            raise ValueError('output = "json" needs a [schema] with type = "object"')
        if wrong := self._unfit_columns():
            raise ValueError(wrong)
        if self.examples and self.user is None:
            raise ValueError("`examples` go with `user`")
        if any(not isinstance(example.get("reply"), str) for example in self.examples):
            raise ValueError("every example needs a `reply`")
        return self

    def _unfit_columns(self) -> str | None:
        """Say which of the columns that it promises no reply can fill, None when all can be filled."""
        if self.output != "json":
            return "`writes` has one column for a text or a label" if len(self.writes) > 1 else None
        if wrong := wrong_schema(self.json_schema):
            return f"[schema] is not a JSON schema: {wrong}"
        properties = self.json_schema.get("properties", {})
        if odd := next((name for name, schema in properties.items() if not isinstance(schema, dict)), None):
            return f"[schema] says nothing about the property {odd!r}: write a table"
        missing = [name for name in self.writes if name not in properties]
        return f"`writes` has {missing[0]!r}, which is no property of [schema]" if missing else None

    @property
    def columns(self) -> list[str]:
        """The columns it writes: as stated, else by kind of output."""
        if self.writes:
            return self.writes
        if self.output == "json":
            return list(self.json_schema.get("properties", {}))
        return ["label"] if self.output == "labels" else ["answer"]


_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The immutable sandbox, which also refuses to make giant strings by `*`, `**` and `%`."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*" and all(isinstance(side, int | float) for side in (left, right)):
            return left * right
        if operator == "%" and not isinstance(left, str | bytes):
            return left % right
        raise SecurityError(f"operator {operator!r} is for numbers only in a template")


_ENVIRONMENT = _Sandbox(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters["tojson"] = dumps  # Jinja's own escapes for HTML
_ENVIRONMENT.globals.clear()
_ENVIRONMENT.globals["range"] = jinja2.sandbox.safe_range


@dataclass(frozen=True)
class Template:
    """One Jinja2 text: what it needs, what it may use, and how to render it. Seed text is never rendered again."""

    text: str
    needs: frozenset[str] = frozenset()
    _lines: Mapping[str, int] = field(default_factory=dict)
    _compiled: Any = None
    _constant: str | None = None  # what it renders to, when it holds nothing but text
    _variable: str | None = None  # the one name that it holds, when it holds nothing else

    @staticmethod
    def parse(text: str) -> "Template":
        """Compile a text. Raises jinja2.TemplateSyntaxError with the line inside the text."""
        tree = _ENVIRONMENT.parse(text)
        optional = set(_optional(tree))
        undeclared = jinja2.meta.find_undeclared_variables(tree) - set(_ENVIRONMENT.globals)
        lines = {node.name: node.lineno for node in reversed(list(tree.find_all(nodes.Name)))}
        compiled = _ENVIRONMENT.from_string(text)
        compiled.globals = dict(compiled.globals)  # a chain of maps is copied three times as slowly, for every row
        inside = [node for node in tree.find_all(nodes.Node) if not isinstance(node, nodes.Output)]
        constant = compiled.render().strip() if all(isinstance(node, nodes.TemplateData) for node in inside) else None
        variable = inside[0].name if len(inside) == 1 and isinstance(inside[0], nodes.Name) else None
        return Template(text, frozenset(undeclared - optional), lines, compiled, constant, variable)

    def line(self, name: str) -> int:
        """Return the line inside the text, from 1, where a variable first stands."""
        return self._lines.get(name, 1)

    def render(self, columns: Mapping[str, Any]) -> str:
        """Return the text for one row. Raises RowFailed when the row does not fit the template."""
        if self._constant is not None:
            return self._constant
        if self._variable is not None and isinstance(value := columns.get(self._variable), str):
            return value.strip()  # what Jinja would do, ten times as fast: `{{ question }}` is the commonest template
        try:
            text: str = self._compiled.render(columns).strip()
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError, AttributeError, LookupError) as error:
            raise RowFailed("template", f"the template cannot be rendered: {error}", lasting=True) from None
        if len(text) > MAX_RENDERED_CHARS:
            raise RowFailed("template", f"rendered to more than {MAX_RENDERED_CHARS:,} characters", lasting=True)
        return text


def _optional(tree: nodes.Template) -> Iterator[str]:
    """Yield the names that a template tests with `is defined` or gives a `default`."""
    for node in tree.find_all((nodes.Test, nodes.Filter)):
        if node.name in ("defined", "undefined", "default", "d") and isinstance(node.node, nodes.Name):
            yield node.node.name


@dataclass(frozen=True)
class Prompt:
    """A checked prompt template."""

    name: str
    path: Path
    settings: PromptSettings
    turns: tuple[tuple[str, Template], ...]
    examples: tuple[tuple[str, str], ...]
    source: str

    @property
    def needs(self) -> frozenset[str]:
        """The columns that a row must have, unless `values` of the step provide them."""
        own = frozenset(self.settings.values)
        asked = frozenset().union(*(template.needs for _, template in self.turns))
        return (asked | ({self.settings.turns} if self.settings.turns else frozenset())) - own

    @property
    def fixed_texts(self) -> tuple[str, ...]:
        """What it says to every row: its turns without what is filled in."""
        return tuple(part for _, template in self.turns for part in _EXPRESSION.split(template.text) if part.strip())

    def where(self, name: str) -> str:
        """Return `file:line` of a variable's first use."""
        for key, (_, template) in zip(self._keys(), self.turns, strict=True):
            if name in template.needs:
                return f"{self.path}:{_text_line(self.source, key) + template.line(name) - 1}"
        return str(self.path)

    def _keys(self) -> list[tuple[str | int, ...]]:
        return _turn_keys(self.settings)

    def bind(self, values: Mapping[str, Any]) -> "Prompt":
        """Return this prompt with fixed values for some of its variables, its examples rendered with them."""
        settings = self.settings.model_copy(update={"values": {**self.settings.values, **values}})
        try:
            examples = tuple(
                (self.turns[-1][1].render({**settings.values, **example}), example["reply"])
                for example in settings.examples
            )
        except RowFailed as error:
            raise PromptInvalid(f"an example does not fit the template: {error.detail}", where=str(self.path)) from None
        return replace(self, settings=settings, examples=examples)

    def render(self, columns: Mapping[str, Any]) -> Messages:
        """Return the messages for one row. Raises RowFailed when the row does not fit."""
        columns = {**self.settings.values, **columns}
        messages: Messages = []
        for number, (role, template) in enumerate(self.turns, 1):
            if number == len(self.turns):
                for user, reply in self.examples:
                    messages += [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
            messages.append({"role": role, "content": template.render(columns)})
        if self.settings.turns:
            turns = columns.get(self.settings.turns)
            if wrong := wrong_messages(turns):
                raise RowFailed("messages", wrong, lasting=True)
            messages += turns or []
        return messages


def wrong_messages(turns: Any) -> str | None:
    """Say why `turns` is not a conversation that ends with the user; None when it is one."""
    if not isinstance(turns, list) or not turns:
        return "`messages` is not a list of messages"
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            return f"a message needs `role` ({', '.join(ROLES)}) and `content` (text)"
    if turns[-1]["role"] != "user":
        return f"`messages` end with the turn of {turns[-1]['role']!r}, not of 'user'"
    return None


def library_folder(kind: str) -> Path:
    """Return the folder of `prompts`, `recipes` or `docs` that come along: in the wheel, else beside the package."""
    package = Path(__file__).resolve().parent
    inside = package / "library" / kind
    return inside if inside.is_dir() else package.parent / kind


def library() -> dict[str, Path]:
    """Return the prompts of the library: name -> file."""
    return {path.stem: path for path in sorted(library_folder("prompts").glob("*.toml"))}


def load_prompt(name: str, folder: Path | None = None) -> Prompt:
    """Read one prompt: `prompts/NAME.toml` below `folder`, else the library's.

    Raises PromptMissing with the nearest name, or PromptInvalid with file and line.
    """
    own = {path.stem: path for path in (folder / "prompts").glob("*.toml")} if folder else {}
    path = own.get(name) or library().get(name)
    if path is None:
        raise PromptMissing(f"unknown prompt {name!r}", fix=nearest(name, {*own, *library()}))
    return _read(name, path)


def _read(name: str, path: Path) -> Prompt:
    try:
        source = path.read_text(encoding="utf-8-sig")
        settings = PromptSettings.model_validate(tomllib.loads(source))
    except ValidationError as error:
        problems = [_problem(entry, path, source) for entry in error.errors()]
        raise PromptInvalid(problems[0].what, problems=problems) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PromptInvalid(f"not valid TOML: {error}", where=str(path)) from None
    except OSError as error:
        raise PromptMissing(f"cannot read the prompt: {error.strerror}", where=str(path)) from None
    turns = []
    for key, (role, text) in zip(_turn_keys(settings), _turn_texts(settings), strict=True):
        turns.append((role, parse_at(text, path, source, key)))
    return Prompt(name, path, settings, tuple(turns), (), source).bind(
        {"labels": settings.labels} if settings.labels else {}
    )


def _turn_texts(settings: PromptSettings) -> list[tuple[str, str]]:
    texts = [("system", settings.system)] if settings.system is not None else []
    texts += [("user", settings.user)] if settings.user is not None else []
    return texts + [(turn.role, turn.content) for turn in settings.messages]


def _turn_keys(settings: PromptSettings) -> list[tuple[str | int, ...]]:
    keys: list[tuple[str | int, ...]] = [(name,) for name in ("system", "user") if getattr(settings, name) is not None]
    return keys + [("messages", index, "content") for index in range(len(settings.messages))]


def parse_at(text: str, path: Path, source: str, key: Sequence[str | int]) -> Template:
    """Compile a template that stands at `key` of a TOML file. Raises PromptInvalid with its file and line."""
    try:
        return Template.parse(text)
    except jinja2.TemplateSyntaxError as error:
        line = _text_line(source, key) + error.lineno - 1
        raise PromptInvalid(
            f"template syntax: {error.message}",
            where=f"{path}:{line} ({spell(key)})",
            fix="see https://jinja.palletsprojects.com/templates/",
        ) from None


def _text_line(source: str, key: Sequence[str | int]) -> int:
    """Return the line where the text of a key begins: the next one after an opening triple quote."""
    line = line_of(source, key)
    opens = source.split("\n")[line - 1].rstrip().endswith(('"""', "'''"))
    return line + opens


def _problem(entry: Any, path: Path, source: str) -> Problem:
    key = tuple(part for part in entry["loc"] if part != "function-after[_whole(), PromptSettings]")
    where = f"{path}:{line_of(source, key)} ({spell(key)})" if key else str(path)
    if entry["type"] == "extra_forbidden":
        known = {field.alias or name for name, field in PromptSettings.model_fields.items()}
        return Problem(f"unknown key {key[-1]!r}", where, nearest(str(key[-1]), known))
    message = entry["msg"].removeprefix("Value error, ")
    return Problem(message[0].lower() + message[1:], where)
