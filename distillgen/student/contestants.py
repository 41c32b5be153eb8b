"""Who is asked when a student is measured: teacher, base and student, each as a recipe in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from distillgen.dataset.training_rows import StudentTemplates
from distillgen.errors import UsageError, nearest
from distillgen.state import EVALUATION
from distillgen.student.asked_steps import Table, asking_steps, columns_read, columns_written
from distillgen.student.label_tokens import grammar_of
from distillgen.student.questions import shown_needs
from distillgen.student.scratch import prompt_folder
from distillgen.teacher import providers
from distillgen.teacher.models import DEFAULT, models

LONGEST = 4096  # tokens of an answer, of a teacher of whom the recipe says nothing
BATCH = 16  # questions that transformers answers together
ASKED = "asked"  # the key in [teachers] of a model that the recipe does not name
NOBODY = "none"  # the word for no teacher at all
ASK = 'description = "What the student is shown"\nturns = "messages"\nwrites = ["answer"]\n'  # see prompts/chat.toml
PATHS = ("gguf", "api_key_file")  # keys of a teacher that may be relative to the recipe


@dataclass(frozen=True)
class Contestant:
    """Somebody who is asked, as a recipe in memory: `table`, with the sources of its prompts by name.

    `completion` makes the answer of a row that has passed the steps, spelt as the student's; None: its column `answer`.
    With `prompt` "teacher" questions are asked by their own columns, else by the messages that the student is shown.
    """

    name: str
    model: str
    prompt: Literal["teacher", "student"]
    table: Table
    prompts: Mapping[str, str]
    completion: StudentTemplates | None = None
    how: str = ""
    runtime: str = "llama.cpp"
    parameters: int | None = None
    bytes: int | None = None
    folder: Path | None = None  # of a model that transformers asks; there is no table then
    max_tokens: int = 0
    labels: Sequence[str] = ()
    may_be_unpriced: bool = False  # whether a budget may be held to though nobody knows all prices

    @property
    def teachers(self) -> Table:
        """The recipe's table of teachers."""
        found: Table = self.table["teachers"]
        return found

    @property
    def main(self) -> Table:
        """Who writes its answer: the teacher of the last step that asks for one."""
        named = [step.get("teacher", "") for step in self.table["steps"] if step["use"] == "generate"]
        name = next(iter(named[-1]), "") if isinstance(named[-1], list | dict) else named[-1]
        found: Table = self.teachers[name or next(iter(self.teachers))]
        return found

    @property
    def is_free(self) -> bool:
        """Whether it can be asked as often as one likes: everybody who is asked is in this machine."""
        return self.folder is not None or all(
            teacher.get("provider") == providers.EMBEDDED for teacher in self.teachers.values()
        )

    @property
    def at_once(self) -> int:
        """How many questions of it are under way at once."""
        if self.folder is not None:
            return BATCH
        from distillgen.settings import TeacherSettings
        from distillgen.teacher.identity import in_flight_cap

        return in_flight_cap(TeacherSettings.model_validate(dict(self.main)))


def teacher_of(
    recipe: Table, prompts: Mapping[str, str], templates: StudentTemplates, *, project: Path, name: str | None,
    budget: float | None = None,
) -> Contestant:  # fmt: skip
    """Return the teacher as the recipe asks it: its steps that ask and choose, without those that look at the rows of a
    dataset (filter, deduplicate, decontaminate, verify, bootstrap).

    `name` is one of [teachers], an embedded model or PROVIDER/MODEL, which then answers every `generate` step.
    Raises UsageError for a name that is none of these, and a recipe that asks nobody.
    """
    teachers, asked = _whom(recipe, project, name)
    steps = asking_steps(recipe, prompts, shown_needs(templates))
    if asked is not None:
        steps = [{**step, "teacher": asked, "compare": False} if step["use"] == "generate" else step for step in steps]
    used = _used(steps, teachers)
    spending = {"usd": budget} if budget is not None else recipe.get("budget") or {}
    student = {key: text for key, text in (recipe.get("student") or {}).items() if key not in ("reasoning", "rejected")}
    table = {
        "name": recipe["name"], "teachers": used, "steps": steps, "student": student, "budget": spending,
        "terms": terms_of(recipe),
    }  # fmt: skip
    found = Contestant("teacher", "", "teacher", table, prompts, templates, "as the recipe asks it")
    return replace(found, model=_model_of(found.main), runtime=_runtime(found), bytes=_bytes_of(found.main))


def terms_of(recipe: Table) -> dict[str, Any]:
    """Return the [terms] under which somebody is asked for an evaluation: nothing is trained on what is said."""
    stated = recipe.get("terms") or {}
    return {**{key: stated[key] for key in ("competing", "accept", "strict") if key in stated}, "purpose": "evaluation"}


def wanted_columns(contestant: Contestant) -> dict[str, str]:
    """Return the columns that a contestant's prompts need of a question -> what names them."""
    wanted: dict[str, str] = {}
    written: set[str] = set()
    with prompt_folder(contestant.prompts) as folder:
        for step in contestant.table["steps"]:
            for column, prompt in columns_read(step, folder):
                if column not in written:
                    wanted.setdefault(column, f"prompt {prompt!r}")
            written |= set(columns_written(step, folder))
    completion = contestant.completion
    for column in sorted(completion.completion.needs - written) if completion else ():
        wanted.setdefault(column, "`completion` under [student]")
    return wanted


def asked_directly(
    name: str, gguf: Path, *, model: str, max_tokens: int, labels: Sequence[Sequence[int]] = (),
    parameters: int | None = None,
) -> Contestant:  # fmt: skip
    """Return a model in a GGUF file that is shown the student's messages and nothing else, at temperature 0.

    With `labels`, the tokens of each, it can write one of them and nothing else.
    """
    sampling: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens}
    if labels:
        sampling["grammar"] = grammar_of(labels)
    table = {
        "name": EVALUATION, "teachers": {ASKED: {**_embedded(gguf), "sampling": sampling}},
        "steps": [{"use": "generate", "prompt": "ask", "teacher": ASKED, "checks": False}],
    }  # fmt: skip
    how = "greedy, held to the labels" if labels else "greedy, free text"
    size = gguf.stat().st_size
    return Contestant(name, model, "student", table, {"ask": ASK}, None, how, parameters=parameters, bytes=size)


def asked_as_teacher(
    name: str, gguf: Path, teacher: Contestant, *, model: str, max_tokens: int | None, otherwise: int,
    parameters: int | None = None,
) -> Contestant:  # fmt: skip
    """Return a model in a GGUF file that is asked as the teacher is, once a question, at temperature 0.

    An answer is as long as `max_tokens`, else as the teacher's may be, `otherwise` where nothing is said of that.
    """
    stated = teacher.main.get("sampling") or {}
    longest = max_tokens or stated.get("max_tokens") or stated.get("max_completion_tokens") or otherwise
    sampling = {"temperature": 0, "max_tokens": longest}
    plain = {"teacher": ASKED, "samples": 1, "compare": False}
    steps = [{**step, **plain} for step in teacher.table["steps"] if step["use"] == "generate"]
    table = {
        "name": EVALUATION, "teachers": {ASKED: {**_embedded(gguf), "sampling": sampling}}, "steps": steps,
        "student": teacher.table["student"], "terms": {"purpose": "evaluation"},
    }  # fmt: skip
    how = "greedy, by the teacher's prompts and schemas"
    size = gguf.stat().st_size
    return Contestant(
        name, model, "teacher", table, teacher.prompts, teacher.completion, how, parameters=parameters, bytes=size
    )


def _embedded(gguf: Path) -> dict[str, Any]:
    return {"provider": providers.EMBEDDED, "gguf": str(gguf.resolve())}


def whom(recipe: Table, project: Path, name: str, sampling: Table) -> tuple[str, dict[str, Any]]:
    """Return the key and the table of somebody to ask: one of [teachers], an embedded model, or PROVIDER/MODEL.

    Raises UsageError with the nearest name.
    """
    stated: Table = recipe.get("teachers") or {}
    if name in stated:
        return name, at_home(stated[name], project)
    provider, slash, model = name.partition("/")
    if name in models():
        provider, slash, model = providers.EMBEDDED, "/", name
    if slash and model and provider in (providers.EMBEDDED, *providers.presets()):
        return ASKED, {"provider": provider, "model": model, "sampling": dict(sampling)}
    raise UsageError(
        f"unknown teacher {name[:200]!r}",
        fix=f"one of [teachers] ({nearest(name, stated)}), embedded ({', '.join(models())}), or PROVIDER/MODEL",
    )


def _whom(recipe: Table, project: Path, name: str | None) -> tuple[dict[str, Any], str | None]:
    """Return all teachers, and the one that answers every step, if somebody named one."""
    if "steps" not in recipe:
        raise UsageError(
            f"{recipe.get('name')} is a mix: nobody was asked for it",
            fix="say how to ask the teacher: --recipe FILE; or leave it out: --teacher none",
        )
    stated = recipe.get("teachers") or {}
    teachers = {key: at_home(settings, project) for key, settings in stated.items()}
    if name is None:
        return teachers, None
    first: Table = next(iter(teachers.values()), {}).get("sampling") or {}
    lengths = {"max_tokens": LONGEST} | {key: first[key] for key in ("max_tokens", "temperature") if key in first}
    key, settings = whom(recipe, project, name, lengths)
    return {**teachers, key: settings}, key


def at_home(settings: Table, project: Path) -> dict[str, Any]:
    """Return a teacher's table as it means the same anywhere; batches would make an evaluation wait for a day."""
    paths = {
        key: str(project.resolve() / Path(settings[key]).expanduser()) for key in PATHS if settings.get(key) is not None
    }
    return {**settings, **paths, "mode": "live"}


def _used(steps: Sequence[Table], teachers: Mapping[str, Any]) -> dict[str, Any]:
    names: set[str] = set()
    for step in steps:
        if step["use"] != "select":
            named = step.get("teacher", "")
            names.update([named] if isinstance(named, str) else named)
    if names == {""} and len(teachers) == 1:
        return dict(teachers)
    return {name: settings for name, settings in teachers.items() if name in names} or dict(teachers)


def _model_of(settings: Table) -> str:
    if settings.get("provider") == providers.EMBEDDED:
        return Path(settings["gguf"]).stem if settings.get("gguf") else str(settings.get("model") or DEFAULT)
    return str(settings.get("model"))


def _runtime(contestant: Contestant) -> str:
    main = contestant.main
    return "llama.cpp" if main.get("provider") == providers.EMBEDDED else str(main.get("provider") or "the provider")


def _bytes_of(settings: Table) -> int | None:
    """Return the bytes of an embedded teacher's weights; nobody tells those of others."""
    if settings.get("provider") != providers.EMBEDDED:
        return None
    if settings.get("gguf"):
        path = Path(settings["gguf"])
        return path.stat().st_size if path.is_file() else None
    found = models().get(_model_of(settings))
    return found.bytes if found else None
