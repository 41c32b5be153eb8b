"""Rule `function`: a Python function of the recipe's author."""

import contextlib
import copy
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from distillgen.errors import nearest
from distillgen.rows import Row
from distillgen.steps.rules.verdict import Context, RuleProblem

SHOWN_REASON = 300
SHOWN_ERROR = 120
_CALL = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_EXAMPLE = 'call = "my_rules:short" is the function `short` of my_rules.py beside the recipe'


def function(
    row: Row,
    *,
    column: str,
    call: str,
    arguments: dict[str, Any] = {},  # noqa: B006  (never changed)
    context: Context = Context(),  # noqa: B008  (frozen)
) -> str | None:
    """Refuse what a Python function refuses: `call` is "module:function", of a file beside the recipe or installed.

    It gets a copy of the row's columns and the `arguments` as keywords, and returns the reason to refuse the row, or
    None. A row for which it raises, or returns anything else, is refused with what went wrong. What it prints goes to
    standard error. `column` changes nothing but which column the recipe must have.
    """
    judge = _loaded(call, context.folder.resolve())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            verdict = judge(_copied(row.columns), **arguments)
    except (Exception, SystemExit) as error:
        return f"{call} raised {_named(error)}{_place(error, judge)}"
    if verdict is None:
        return None
    if not isinstance(verdict, str):
        return f"{call} returned {type(verdict).__name__}, not a reason (text) or None"
    return _printable(verdict)[:SHOWN_REASON].strip() or f"{call} refused it without a reason"


def check_function(given: Mapping[str, Any], context: Context) -> None:
    """Raise RuleProblem for a function that cannot be had, or does not take the arguments."""
    call = given.get("call", "")
    if not _CALL.fullmatch(call):
        raise RuleProblem(f"rule 'function': {call!r} is not \"module:function\"", "call", _EXAMPLE)
    judge = _loaded(call, context.folder.resolve())
    if inspect.iscoroutinefunction(judge) or inspect.isgeneratorfunction(judge):
        raise RuleProblem(f"{call} is a generator or asynchronous, not a plain function", "call", "use def and return")
    try:
        inspect.signature(judge).bind({}, **given.get("arguments", {}))
    except TypeError as error:
        raise RuleProblem(f"{call} cannot be called so: {error}", "arguments", "it gets the columns first") from None
    except ValueError:  # some functions written in C do not tell
        return


@functools.cache
def _loaded(call: str, folder: Path) -> Callable[..., Any]:
    """Return the function; its module is imported once. Raises RuleProblem."""
    name, _, attribute = call.partition(":")
    module = _module(name, folder)
    judge = getattr(module, attribute, None)
    if judge is None:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        place = getattr(module, "__file__", None) or name
        raise RuleProblem(f"{place} has no function {attribute!r}", "call", nearest(attribute, known))
    if not callable(judge):
        raise RuleProblem(f"{call} is not a function but {type(judge).__name__}", "call", _EXAMPLE)
    return judge  # type: ignore[no-any-return]


def source_of(call: str, folder: Path) -> Path | None:
    """Return the file beside the recipe in which a function stands, None for an installed module."""
    path = folder.joinpath(*call.partition(":")[0].split("."))
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


def _module(name: str, folder: Path) -> ModuleType:
    file = source_of(name, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr), _importable(folder):
            return _from_file(file, name) if file else importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name.split(".")[0] and file is None:
            beside = [each.stem for each in folder.glob("*.py")]
            fix = nearest(name, beside) if beside else f"write {name}.py, or install the package"
            raise RuleProblem(f"no module {name!r} beside the recipe ({folder}) or installed", "call", fix) from None
        where = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else _frame(error, file)
        what = f"{name} cannot be imported: {_named(error)} at {where or file or name}"
        raise RuleProblem(what, "call", "mend the module") from None


def _from_file(file: Path, name: str) -> ModuleType:
    """Import a file under a name of our own: a `random.py` beside the recipe takes nobody's place."""
    private = f"_distillgen_own_{hashlib.sha256(bytes(file)).hexdigest()[:16]}_{name.replace('.', '_')}"
    if private in sys.modules:
        return sys.modules[private]
    inside = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(private, file, submodule_search_locations=inside)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module  # before it runs: dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[private]
        raise
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a module import others that stand beside the recipe, and leave no bytecode there: a plan writes nothing.

    What is installed comes first: a file beside the recipe that has its name is not imported by accident.
    """
    sys.path.append(str(folder))
    writes_no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_no_bytecode
        sys.path.remove(str(folder))


def _copied(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: copy.deepcopy(value) if isinstance(value, dict | list) else value for name, value in columns.items()}


def _named(error: BaseException) -> str:
    try:
        said = str(error)
    except Exception:
        said = "(it cannot say what)"
    return f"{type(error).__name__}: {_printable(said)[:SHOWN_ERROR]}" if said else type(error).__name__


def _place(error: BaseException, judge: Callable[..., Any]) -> str:
    """Say where in the function's own file an error came up."""
    code = getattr(inspect.unwrap(judge), "__code__", None)
    where = _frame(error, Path(code.co_filename) if code else None)
    return f" at {where}" if where else ""


def _frame(error: BaseException, file: Path | None) -> str:
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(file)]
    return f"{file.name}:{lines[-1]}" if file and lines else ""


def _printable(text: str) -> str:
    """Return text that no terminal takes for orders: it may come from a model."""
    return "".join(each if each.isprintable() else " " for each in text[: 2 * SHOWN_REASON])
