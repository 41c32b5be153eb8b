"""How help is laid out: plain text by panels, at most 80 columns wide, and its parts for the generated reference.

And what is said of a word that an option does not know.

Typer's own layout with boxes needs 80 ms more to load, breaks lines within examples, and takes `[terms]` for markup.
"""

import contextlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

if TYPE_CHECKING:
    from typer._click.formatting import HelpFormatter

SHARED = "Options of every command"  # the panel of the options that `guarded` gives every command
WORD = "help"  # `distillgen help build` is `distillgen build --help`
_NO_CHOICE = re.compile(r"(?P<word>.+) is not one of (?P<choices>'[^']*'(?:, '[^']*')*)\.", re.DOTALL)
_PLAINLY = {  # what pydantic says of a number, and what is meant
    "Input should be a valid integer.*": "must be a whole number",
    "Input should be a valid number.*": "must be a number",
    "Input should be greater than or equal to (.+)": r"must be \1 or more",
}
_STATUS = re.compile(r"(?P<numbers>\d+(?:, \d+)*) (?P<meaning>\S.*)")


def dress(app: typer.Typer) -> typer.Typer:
    """Have a program and everything below it lay out its help as this module does; returns the same program."""
    app.rich_markup_mode = None
    app.info.cls = Group
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        group.cls = Group
        if group.typer_instance is not None:
            dress(group.typer_instance)
    return app


class Command(TyperCommand):
    """A command whose help has its options by panels; for a word that an option does not know it has the nearest."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read arguments and options."""
        with nearest_choice_told():
            return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return what follows the command's name in its usage line."""
        return usage_of(self)

    def format_options(self, ctx: typer.Context, formatter: "HelpFormatter") -> None:  # type: ignore[override]
        """Write arguments and options."""
        _write_parameters(self, ctx, formatter)


class Group(TyperGroup):
    """A command with commands below it, listed by panels; it knows the word `help`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read the options before a command's name; `help NAME...` is `NAME... --help`."""
        for param in self.get_params(ctx):
            if getattr(param, "is_flag", False) and param.default is None:
                param.default = False  # to read None as a flag, Typer would load pydantic on every start
        if args[:1] == [WORD] and WORD not in self.commands:
            args = [*args[1:], "--help"]
        with nearest_choice_told():
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """Find the command that is named; what the group does by itself, to list, is not done then."""
        if self.invoke_without_command:
            self.callback = None
        return super().resolve_command(ctx, args)

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return what follows the command's name in its usage line."""
        return usage_of(self)

    def format_options(self, ctx: typer.Context, formatter: "HelpFormatter") -> None:  # type: ignore[override]
        """Write the commands by panel, then the options."""
        width = max(map(len, self.commands))
        for panel, commands in panels_of(self).items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(width), help_of(command).summary) for name, command in commands])
        _write_parameters(self, ctx, formatter)


@contextlib.contextmanager
def nearest_choice_told() -> Iterator[None]:
    """Have what Typer says of a wrong word in a block name the nearest right one, in the words of our own errors."""
    from distillgen.errors import nearest

    try:
        yield
    except typer.BadParameter as error:
        error.message = error.message.removeprefix("Value error, ")  # pydantic's, which is no matter of the user's
        for theirs, ours in _PLAINLY.items():
            error.message = re.sub(theirs, ours, error.message)
        if found := _NO_CHOICE.fullmatch(error.message):
            choices = re.findall("'([^']*)'", found["choices"])
            hint = nearest(found["word"].strip("'\""), choices)
            near = f"; {hint}" if hint.startswith("did you mean") else ""
            error.message = f"{found['word'][:80]} is none of {', '.join(choices)}{near}"
        raise


def _write_parameters(command: Any, ctx: typer.Context, formatter: "HelpFormatter") -> None:
    """Write arguments and options by panel, those of every command last."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            name = argument_name(param) if param.param_type_name == "argument" else record[0]
            panels.setdefault(panel_of(param), []).append((name, record[1]))
    shared = panels.pop(SHARED, None)
    if shared:
        own = panels.get("Options", [])
        shared += [record for record in own if record[0].endswith("--help")]
        panels["Options"] = [record for record in own if not record[0].endswith("--help")]
        panels[SHARED] = shared
    for panel, records in panels.items():
        if records:
            with formatter.section(panel):
                formatter.write_dl(records)


def panel_of(param: Any) -> str:
    """Return the heading under which an argument or option stands."""
    return param.rich_help_panel or ("Arguments" if param.param_type_name == "argument" else "Options")


def panels_of(group: TyperGroup) -> dict[str, list[tuple[str, Any]]]:
    """Return the commands of a group by panel, in the order in which they were put together."""
    panels: dict[str, list[tuple[str, Any]]] = {}
    for name, command in group.commands.items():
        if not command.hidden:
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            panels.setdefault(panel if isinstance(panel, str) else "Commands", []).append((name, command))
    return panels


def usage_of(command: Any) -> list[str]:
    """Return what follows a command's name: `[OPTIONS]`, `NAME` where it is needed, `[NAME]` where it is not."""
    pieces = ["[OPTIONS]"]
    for param in command.params:
        if param.param_type_name == "argument":
            name = argument_name(param)
            pieces.append(name if param.required else f"[{name}]")
    if isinstance(command, TyperGroup):
        pieces.append("[COMMAND]" if command.invoke_without_command else "COMMAND")
    return pieces


def argument_name(param: Any) -> str:
    """Return what stands for an argument: its metavar, with dots where several may be given."""
    name = str(param.metavar or param.name.upper())
    return name if param.nargs == 1 or name.endswith("...") else f"{name}..."


@dataclass(frozen=True, slots=True)
class HelpText:
    """A command's help in parts: its first sentence, further paragraphs, examples, and exit statuses."""

    summary: str
    paragraphs: tuple[str, ...]
    examples: tuple[str, ...]
    status_lines: tuple[str, ...]

    def statuses(self) -> Iterator[tuple[str, str]]:
        """Yield numbers and meaning of the exit statuses: `("129, 130, 143", "stopped by a signal")`.

        One or several stand on a line, three spaces between them. Raises ValueError for a line that is not so.
        """
        for line in self.status_lines:
            for part in re.split(r" {3,}", line):
                found = _STATUS.fullmatch(part)
                if found is None:
                    raise ValueError(f"not a number and its meaning: {part!r}")
                yield found["numbers"], found["meaning"]


def help_of(command: Any) -> HelpText:
    """Return the parts of a command's help, which is its docstring."""
    paragraphs: list[str] = []
    blocks: dict[str, tuple[str, ...]] = {}
    for text in inspect.cleandoc(command.help or "").split("\n\n"):
        if text.startswith("\b\n"):
            heading, *lines = text.removeprefix("\b\n").split("\n")
            blocks[heading.rstrip(":")] = tuple(line.strip() for line in lines)
        elif text.strip():
            paragraphs.append(" ".join(text.split()))
    summary, *others = paragraphs or [""]
    return HelpText(summary, tuple(others), blocks.get("Examples", ()), blocks.get("Exit status", ()))


def commands_of(program: typer.Typer) -> Iterator[tuple[list[str], Any]]:
    """Yield every command of a program with the words that name it, the program itself first as no words at all."""
    yield from _below([], get_command(dress(program)))


def _below(words: list[str], command: Any) -> Iterator[tuple[list[str], Any]]:
    yield words, command
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from _below([*words, name], inner)


def context_of(program: typer.Typer, words: list[str]) -> Any:
    """Return the context of a command, in which its help can be laid out or its arguments read."""
    command: Any = get_command(dress(program))
    context = command.context_class(command, info_name="distillgen", **command.context_settings)
    for word in words:
        command = command.commands[word]
        context = command.context_class(command, info_name=word, parent=context, **command.context_settings)
    return context
