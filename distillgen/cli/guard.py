"""What every command shares: an error is one block and an exit status, a signal drains, a closed pipe is no bug."""

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer

from distillgen.errors import FULL, DiskFull, DistillgenError, Interrupted, NotFound

P = ParamSpec("P")
T = TypeVar("T")
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command so that whatever ends it, people get one clear block and programs the right exit status."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except DistillgenError as error:
            _block(str(error))
            raise typer.Exit(error.exit_status) from None
        except SystemExit:  # rich's answer when nobody reads its tables; no command of ours raises it
            raise typer.Exit(128 + signal.SIGPIPE) from None
        except BrokenPipeError:
            _quiet_stdout()
            raise typer.Exit(128 + signal.SIGPIPE) from None
        except KeyboardInterrupt:
            raise typer.Exit(128 + signal.SIGINT) from None
        except MemoryError:
            _block(
                "DG704 not enough memory\n      close other programs, or lower max_in_flight; what was decided is kept"
            )
            raise typer.Exit(12) from None
        except typer.Exit:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:  # what writes files of ours says so by itself
                _quiet_stdout()
                full = DiskFull(f"no room to write to standard output: {error.strerror}", fix="free some space")
                _block(str(full))
                raise typer.Exit(full.exit_status) from None
            _block(
                f"DG000 this is a bug in distillgen: {type(error).__name__} at {_where(error)}\n"
                "      what was decided is kept; please report it, with DISTILLGEN_TRACEBACK=1 set for the details"
            )
            if os.environ.get("DISTILLGEN_TRACEBACK"):
                raise
            raise typer.Exit(1) from None

    return run


def _quiet_stdout() -> None:
    """Let the interpreter's own flush of what could not be written be quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _block(text: str) -> None:
    from distillgen.report.console import say

    say(text, style="red")


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

    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        received: list[signal.Signals] = []

        def stop(number: signal.Signals) -> None:
            received.append(number)
            if len(received) > 1:
                os._exit(128 + number)
            on_stop()
            task.cancel()

        for number in STOPS:
            loop.add_signal_handler(number, stop, number)
        try:
            return await work
        except asyncio.CancelledError:
            if not received:
                raise
            raise Interrupted(f"stopped; {left}", signal_number=received[0]) from None
        finally:
            for number in STOPS:
                loop.remove_signal_handler(number)

    return asyncio.run(main())


def project_recipe(recipe: Path | None) -> Path:
    """Return the recipe that a command means: the one named, else recipe.toml here."""
    return recipe if recipe is not None else Path("recipe.toml")


def find_in_project(reference: str, project: Path) -> Any:
    """Return the version that a name means in a project. Raises NotFound."""
    from distillgen.dataset.versions import find_version

    if not project.is_dir():
        raise NotFound(f"no folder {str(project)!r}")
    return find_version(reference, project / "datasets")
