"""What every command shares: an error is one block and an exit status, a signal drains, a closed pipe is no bug."""

import asyncio
import contextlib
import dataclasses
import errno
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeAlias, TypeVar

import typer

from distillgen import __version__
from distillgen.errors import FULL, DiskFull, DistillgenError, Interrupted, MemoryFull, NotFound, UsageError

P = ParamSpec("P")
T = TypeVar("T")
NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PANEL = "Options of every command"
Given: TypeAlias = Mapping[str, tuple[Any, Any]]  # options: name -> kind and default
SHARED: Given = {
    "quiet": (Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", rich_help_panel=PANEL,
            help="Say nothing when all goes well, and at most ten lines when it does not.",
        ),
    ], False),
    "color": (Annotated[
        Literal["auto", "always", "never"],
        typer.Option("--color", metavar="WHEN", rich_help_panel=PANEL, help="Use colour: auto, always or never."),
    ], "auto"),
    "log_file": (Annotated[
        Path | None,
        typer.Option(
            "--log-file", metavar="FILE", rich_help_panel=PANEL, show_default=False,
            help="Add what is said to a file, with the time of each line.",
        ),
    ], None),
    "log_format": (Annotated[
        Literal["text", "json"],
        typer.Option(
            "--log-format", metavar="FORMAT", rich_help_panel=PANEL,
            help="text, or json: one event a line, in the log file or else on standard error.",
        ),
    ], "text"),
}  # fmt: skip


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command so that whatever ends it, people get one clear block and programs the right exit status.

    It gets the options that all commands share: who hears what it says.
    """
    name = command.__name__.strip("_")

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from distillgen.report.journal import Listeners, heard

        shared: dict[str, Any] = {option: kwargs.pop(option) for option in SHARED}
        listeners = Listeners(**shared)
        try:
            with heard(name, listeners) as journal:
                journal.begin(__version__)
                status = _exit_status(command, *args, **kwargs)
                journal.end(status)
        except DistillgenError as error:  # the log file cannot be opened
            with heard(name, dataclasses.replace(listeners, log_file=None)) as journal:
                status = _said(error)
                journal.end(status)
        _let_go_of_stderr()
        if status:
            raise typer.Exit(status)

    return with_options(run, command, SHARED)


def with_options(run: Callable[P, None], command: Callable[P, None], given: Given) -> Callable[P, None]:
    """Have what stands for a command take further options beside the command's own; Typer reads its signature."""
    own = inspect.signature(command)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in given.items()
    ]
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *options])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, **{name: kind for name, (kind, _) in given.items()}}
    return run


def _exit_status(command: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> int:
    """Run a command; say what ended it, if anything did, and return its exit status."""
    try:
        command(*args, **kwargs)
        sys.stdout.flush()
    except DistillgenError as error:
        return _said(error)
    except SystemExit:  # rich's answer when nobody reads its tables; no command of ours raises it
        return 128 + signal.SIGPIPE
    except BrokenPipeError:
        _quiet_stdout()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except MemoryError as error:
        return _said(as_ours(error))
    except typer.Exit as ended:
        return ended.exit_code
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            _quiet_stdout()
        told = as_ours(error)
        status = _said(told)
        if told.code == DistillgenError.code and os.environ.get("DISTILLGEN_TRACEBACK"):
            raise
        return status
    return 0


def as_ours(error: Exception) -> DistillgenError:
    """Return what people are told of an error that nobody expected."""
    if isinstance(error, DistillgenError):
        return error
    if isinstance(error, MemoryError):
        return MemoryFull("not enough memory", fix="close other programs, or lower max_in_flight")
    if isinstance(error, OSError) and error.errno in FULL:  # what writes files of ours says so by itself
        return DiskFull(f"no room to write to standard output: {error.strerror}", fix="free some space")
    if isinstance(error, PermissionError) and error.filename:
        return UsageError(f"may not be read or written: {error.strerror}", where=os.fsdecode(error.filename))
    if isinstance(error, OSError) and error.errno in NO_NAME:
        return UsageError(f"no file can be called so: {error.strerror}", where=os.fsdecode(error.filename or "")[:200])
    if isinstance(error, FileNotFoundError) and here() is None:
        return UsageError("the current folder is no longer there", fix="go to a folder that is, with cd")
    return DistillgenError(
        f"this is a bug in distillgen: {type(error).__name__} at {_where(error)}",
        fix="what was decided is kept; please report it, with DISTILLGEN_TRACEBACK=1 set for the details",
    )


def here() -> Path | None:
    """Return the current folder; None when it was removed while we are in it."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def _said(error: DistillgenError) -> int:
    from distillgen.report.journal import say_error

    say_error(error)
    return error.exit_status


def _quiet_stdout() -> None:
    """Let the interpreter's own flush of what could not be written be quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _let_go_of_stderr() -> None:
    """Drop what standard error did not take, for which the interpreter would end with a status of its own."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _where(error: Exception) -> str:
    """Return file and line of the innermost frame; never the message, which may hold a key or a prompt."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "an unknown place"


def run_until_stopped(
    work: Coroutine[Any, Any, T], on_stop: Callable[[], None],
    left: str = "what was decided is kept, and the same command goes on from here",
) -> T:  # fmt: skip
    """Run async work. The first signal cancels it, so that it drains; the second leaves at once.

    `left` says what remains of work that was stopped.
    """

    from distillgen.report.screen import restore_terminal

    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        received: list[signal.Signals] = []

        def stop(number: signal.Signals) -> None:
            received.append(number)
            if len(received) > 1:
                restore_terminal()
                os._exit(128 + number)
            on_stop()
            task.cancel()

        heeded = _heeded()
        for number in heeded:
            loop.add_signal_handler(number, stop, number)
        try:
            return await work
        except asyncio.CancelledError:
            if not received:
                raise
            raise Interrupted(f"stopped; {left}", signal_number=received[0]) from None
        finally:
            for number in heeded:
                loop.remove_signal_handler(number)

    return asyncio.run(main())


def _heeded() -> list[signal.Signals]:
    """Return the signals that stop us: all, but that a terminal was closed where `nohup` says to go on all the same."""
    is_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOPS if not (is_nohup and number == signal.SIGHUP)]


@contextlib.contextmanager
def stoppable(left: str) -> Iterator[None]:
    """Let a signal end a block that is not async. Raises Interrupted; `left` says what remains."""
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _heeded()}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {left}", signal_number=(received or [signal.SIGINT])[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def project_recipe(recipe: Path | None) -> Path:
    """Return the recipe that a command means: the one named, else recipe.toml here."""
    return recipe if recipe is not None else Path("recipe.toml")


def find_in_project(reference: str, project: Path) -> Any:
    """Return the version that a name means in a project. Raises NotFound."""
    from distillgen.dataset.versions import find_version

    if not project.is_dir():
        raise NotFound(f"no folder {str(project)!r}")
    return find_version(reference, project / "datasets")
