"""What a shell may offer for a word that is not finished: names from folders and data files, nothing heavy loaded.

A completion runs at every press of TAB: it reads a folder or a small file, never fails, and prints nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import typer

# The names in steps/rules/ and its presets, whose modules take half a second to load; a test compares them.
RULES = (
    "not_empty", "not_truncated", "not_refusal", "teacher_identity", "prompt_leak", "special_tokens", "repetition",
    "length", "format", "language", "reasoning_language", "pii", "function",
)  # fmt: skip
PRESETS = ("chat", "reasoning", "labels", "strict")
PURPOSES = ("evaluation", "research", "internal", "product", "open-weights")
COMPETING = ("yes", "no", "unknown")
EMBEDDED = "embedded"

Offer = Callable[[typer.Context, str], list[str]]


def _offer(names: Callable[[typer.Context], Iterable[str]]) -> Offer:
    """Return what Typer calls: the names that begin as the word does; none where they cannot be found out."""

    def offer(context: typer.Context, incomplete: str) -> list[str]:
        try:
            return [name for name in names(context) if name.startswith(incomplete)]
        except Exception:  # a shell's prompt is no place for an error
            return []

    return offer


def one_of(*names: str) -> Offer:
    """Return what offers names that are known beforehand."""
    return _offer(lambda _: names)


def _project(context: typer.Context) -> Path:
    return Path(context.params.get("project") or "")


def _datasets(context: typer.Context) -> Iterator[str]:
    """Yield the project's datasets that have a version."""
    for home in sorted((_project(context) / "datasets").iterdir()):
        if home.name.isprintable() and not home.name.startswith(".") and any(home.glob("v[0-9]*")):
            yield home.name


def _splits(context: typer.Context) -> Iterator[str]:
    """Yield the splits of the dataset that is named before."""
    name = context.params.get("name") or context.args[0]  # where an option lacks its value, nothing is read yet
    home = _project(context) / "datasets" / str(name).partition("@")[0]
    newest = max(home.glob("v[0-9]*"), key=lambda folder: int(folder.name.removeprefix("v")))
    yield from sorted({path.name.rsplit("-", 3)[0] for path in (newest / "data").glob("*.jsonl")})


def _library(kind: str) -> Path:
    """Return the folder of `prompts` or `recipes`: prompts.library_folder, which needs Jinja2."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "library" / kind
    return inside if inside.is_dir() else package.parent / kind


def _prompts(context: typer.Context) -> list[str]:
    folders = _project(context) / "prompts", _library("prompts")
    return sorted({path.stem for folder in folders for path in folder.glob("*.toml")})


def _table(name: str) -> list[str]:
    """Return the names in a data file of the teachers."""
    import tomllib

    path = Path(__file__).resolve().parents[1] / "teacher" / name
    return list(tomllib.loads(path.read_text(encoding="utf-8")))


def _recipe_teachers() -> list[str]:
    import tomllib

    try:
        return list(tomllib.loads(Path("recipe.toml").read_text(encoding="utf-8"))["teachers"])
    except Exception:  # no recipe here, or one that is being written
        return []


def _teachers(context: typer.Context) -> list[str]:
    """Return PROVIDER/MODEL of what is embedded, and PROVIDER/ of the rest."""
    return [*(f"{EMBEDDED}/{name}" for name in _table("models.toml")), *(f"{n}/" for n in _table("providers.toml"))]


def _codes(context: typer.Context) -> list[str]:
    from distillgen import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")]
    return sorted({str(kind.code) for kind in kinds})


datasets = _offer(_datasets)
splits = _offer(_splits)
prompts = _offer(_prompts)
models = _offer(lambda _: _table("models.toml"))
providers = _offer(lambda _: [EMBEDDED, *_table("providers.toml")])
teachers = _offer(_teachers)
asked = _offer(lambda context: [*_recipe_teachers(), *_teachers(context)])
recipes = _offer(lambda _: sorted(path.stem for path in _library("recipes").glob("*.toml")))
codes = _offer(_codes)
rules = one_of(*RULES)
presets = one_of(*PRESETS)
