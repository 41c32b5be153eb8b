"""Who is asked when a student is measured, and how: teacher, base and student, all by the road and its answer store."""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson

from distillgen.dataset.manifest import require_prompt_names
from distillgen.dataset.training_rows import StudentTemplates
from distillgen.errors import DistillgenError, Problem, RowFailed, Unfinished, UsageError, nearest
from distillgen.files import canonical, digest, disk_errors, write_atomically
from distillgen.pipeline import Options, set_out
from distillgen.preparation import Prepared, prepare_recipe
from distillgen.prompts import Prompt, load_prompt
from distillgen.recipe import check_recipe
from distillgen.report.console import safe
from distillgen.rows import Failure, Rejection, Row, SeedEnd
from distillgen.shapes import close
from distillgen.state import EVALUATION, EVALUATIONS
from distillgen.step_settings import GenerateStep, JudgeStep
from distillgen.steps.generate import labels_of, written_columns
from distillgen.steps.text import as_text
from distillgen.student.label_tokens import grammar_of
from distillgen.student.progress import OnEvent
from distillgen.student.questions import Question, replies_behind, shown_needs
from distillgen.tally import Tally
from distillgen.teacher import Teacher, open_teachers, providers
from distillgen.teacher.answers import AnswerStore
from distillgen.teacher.models import DEFAULT, models

LONGEST = 4096  # tokens of an answer, of a teacher of whom the recipe says nothing
BATCH = 16  # questions that transformers answers together
ASKED = "asked"  # the key in [teachers] of a model that the recipe does not name
NOBODY = "none"  # the word for no teacher at all
MEASURED = ("base", "student")  # how the names of those begin that are measured, and are no teachers
FILE = "questions.jsonl"
SCRATCH = "evaluating-"  # how the names of folders begin that an evaluation works in
WAIT_SECONDS = 30.0  # without an answer until that is told
ASK = 'description = "What the student is shown"\nturns = "messages"\nwrites = ["answer"]\n'  # see prompts/chat.toml
UNKNOWN_SAMPLING = "is not known here"  # of `grammar`, which llama.cpp takes
PATHS = ("gguf", "api_key_file")  # keys of a teacher that may be relative to the recipe
Table: TypeAlias = Mapping[str, Any]
Settled: TypeAlias = Row | Rejection | Failure


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


@dataclass
class Answers:
    """What a contestant said: by the question's id, None where it gave no answer that can be used.

    `replies` are the records of all replies behind them, `received` the times (Unix time, latency in seconds) of those
    that came in this run. `why_not` counts why questions have no answer, `usd` is what this run spent, as far as prices
    are known.
    """

    texts: dict[str, str | None]
    replies: list[Mapping[str, Any]] = field(default_factory=list)
    received: list[tuple[float, float | None]] = field(default_factory=list)
    why_not: dict[str, int] = field(default_factory=dict)
    usd: float = 0.0

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of the prompts and completions, as far as the servers counted them."""
        counted = [reply["tokens"] for reply in self.replies if reply.get("tokens")]
        return {name: sum(int(each[name]) for each in counted) for name in ("prompt", "completion")}


# -- contestants -------------------------------------------------------------------------------------------------------


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
    steps = _asking_steps(recipe, prompts, shown_needs(templates))
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


# -- the steps of a recipe that ask --------------------------------------------------------------------------------


def _asking_steps(recipe: Table, prompts: Mapping[str, str], shown: set[str]) -> list[dict[str, Any]]:
    """Return the steps that answer a question: those that make it (what the student is shown) are not among them."""
    kept: list[dict[str, Any]] = []
    lost: set[str] = set()  # columns that steps write which are left out
    with _prompt_folder(prompts) as folder:
        for step in recipe["steps"]:
            writes = set(_written(step, folder))
            is_asking = step["use"] in ("generate", "judge")
            is_possible = step["use"] == "select" and not {step.get("by"), step.get("where")} & lost
            if (is_asking and not writes & shown) or is_possible:
                kept.append(dict(step))
            else:
                lost |= writes
    if not any(step["use"] == "generate" for step in kept):
        raise UsageError(
            f"no step of {recipe.get('name')} answers what the student is shown",
            fix="leave the teacher out: --teacher none",
        )
    if not any(step["use"] == "select" for step in kept):  # nothing chooses among samples: one is asked for
        kept = [_once(step) if step["use"] == "generate" else step for step in kept]
    return kept


def _once(step: dict[str, Any]) -> dict[str, Any]:
    compared = step.get("teacher") if step.get("compare") else None
    first = {"teacher": next(iter(compared))} if compared else {}
    return {**step, "samples": 1, "compare": False, **first}


def _written(step: Table, folder: Path) -> list[str]:
    if step["use"] == "generate":
        settings = GenerateStep.model_validate(dict(step))
        return written_columns(load_prompt(settings.prompt, folder), settings)
    if step["use"] in ("judge", "verify"):
        return [str(step.get("write", "score" if step["use"] == "judge" else "verified"))]
    return []


def wanted_columns(contestant: Contestant) -> dict[str, str]:
    """Return the columns that a contestant's prompts need of a question -> what names them."""
    wanted: dict[str, str] = {}
    written: set[str] = set()
    with _prompt_folder(contestant.prompts) as folder:
        for step in contestant.table["steps"]:
            for column, prompt in _read(step, folder):
                if column not in written:
                    wanted.setdefault(column, f"prompt {prompt!r}")
            written |= set(_written(step, folder))
    completion = contestant.completion
    for column in sorted(completion.completion.needs - written) if completion else ():
        wanted.setdefault(column, "`completion` under [student]")
    return wanted


def _read(step: Table, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the columns that a step reads, each with the prompt that names it."""
    prompt: Prompt
    settings: GenerateStep | JudgeStep
    if step["use"] == "generate":
        settings = GenerateStep.model_validate(dict(step))
        prompt = load_prompt(settings.prompt, folder)
        given = {*settings.values, *(["labels"] if labels_of(prompt, settings) else [])}
    elif step["use"] == "judge":
        settings = JudgeStep.model_validate(dict(step))
        prompt = load_prompt(settings.prompt or ("judge_pair" if settings.pair else "judge"), folder)
        given = {*settings.values, "rubric", *(["first", "second"] if settings.pair else [])}
        for column in settings.pair or ():
            yield column, prompt.name
    else:
        return
    for variable in sorted(prompt.needs - given):
        yield settings.read.get(variable, variable), prompt.name


@contextlib.contextmanager
def scratch(state: Path) -> Iterator[Path]:
    """Yield a folder for this evaluation alone, gone afterwards; what one that was killed has left, `sweep` removes."""
    with disk_errors(state):
        state.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=SCRATCH, dir=state)
    with made as name:
        yield Path(name)


def sweep(state: Path) -> None:
    """Remove what evaluations that were killed have left. Nobody else is at work: the caller holds the lock."""
    for left in state.glob(f"{SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _prompt_folder(prompts: Mapping[str, str], state: Path | None = None) -> Iterator[Path]:
    """Yield a folder with prompts as a version keeps them; those that it lacks are the library's. It is in the state
    folder where questions will be added.

    Raises NameInvalid: a version may come from elsewhere, and no name in it leads out of this folder.
    """
    require_prompt_names(prompts)
    with scratch(Path(tempfile.gettempdir()) if state is None else state) as folder:
        with disk_errors(folder):
            (folder / "prompts").mkdir()
            for prompt, source in prompts.items():
                (folder / "prompts" / f"{prompt}.toml").write_text(source, encoding="utf-8")
        yield folder


# -- asking ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def opened(prepared: Prepared) -> AsyncIterator[tuple[dict[str, Teacher], AnswerStore]]:
    """Yield the teachers of a contestant, and the store of its answers."""
    with contextlib.closing(AnswerStore(prepared.state / "answers.sqlite")) as store:
        store.take_in_notes()
        async with open_teachers(
            prepared.recipe, prepared.source, prepared.teachers_used, store, state=prepared.state
        ) as teachers:
            yield teachers, store


@contextlib.contextmanager
def prepared_for(contestant: Contestant, questions: Sequence[Question], state: Path) -> Iterator[Prepared]:
    """Yield a contestant's recipe with the questions as its seeds, checked whole.

    Raises what `prepare_recipe` raises, with the questions and prompts under their own names; TermsNotAccepted.
    """
    with _prompt_folder(contestant.prompts, state) as folder:
        with disk_errors(folder):
            lines = (orjson.dumps(_seed(contestant, question)) + b"\n" for question in questions)
            (folder / FILE).write_bytes(b"".join(lines))
        table = {**contestant.table, "seeds": {"path": FILE}}
        try:
            recipe, source = check_recipe(table, folder / "recipe.toml")
            has_student = contestant.completion is not None
            prepared = prepare_recipe(
                recipe, source, state=state, has_student=has_student, allow_unknown_price=contestant.may_be_unpriced
            )
            # Base and student are asked about themselves: what they say is not trained on, and no terms are at stake.
            told = prepared.warnings if contestant.name.startswith(MEASURED) else prepared.cleared()
            prepared.warnings = [each for each in told if UNKNOWN_SAMPLING not in each.what]
        except DistillgenError as error:
            raise _at_its_own_place(error, folder) from None
        yield prepared


def _seed(contestant: Contestant, question: Question) -> Table:
    if contestant.prompt == "teacher":
        return question.columns
    return {"id": question.id, "messages": question.messages}


def _at_its_own_place(error: DistillgenError, folder: Path) -> DistillgenError:
    """Return an error without names of places that are not there when somebody reads it."""

    def told(text: str) -> str:
        for name in (f"{folder.resolve()}/", f"{folder}/"):
            text = text.replace(name, "")
        return text.replace("--set teachers.", "teachers.")  # the recipe is in memory, and nobody has set it

    error.problems = tuple(Problem(told(each.what), told(each.where), told(each.fix)) for each in error.problems)
    return error


async def ask(contestant: Contestant, questions: Sequence[Question], state: Path, on_event: OnEvent) -> Answers:
    """Return a contestant's answers; those that the store has are not asked for again.

    A question whose row failed for good, or was rejected by the recipe, has no answer. Raises what the road raises,
    and Unfinished where another run of the same command may bring an answer.
    """
    answers = Answers({question.id: None for question in questions})
    causes: dict[str, str] = {}

    def take(question: str, outcome: Settled) -> None:
        if not isinstance(outcome, Row):
            causes.setdefault(question, outcome.cause if isinstance(outcome, Failure) else outcome.rule)
        elif answers.texts[question] is None:  # of several that a recipe makes of one question the first counts
            answers.texts[question] = _said(outcome, contestant)

    with prepared_for(contestant, questions, state) as prepared:
        say_warnings(prepared, on_event)
        began = time.time()
        async with opened(prepared) as (teachers, store):
            answers.replies = await collect(contestant.name, questions, prepared, teachers, take, on_event)
            keep_noted(answers.replies, prepared.state)
            answers.usd = sum(teacher.nanousd for teacher in teachers.values()) / 1e9
            keys = [bytes.fromhex(reply["key"]) for reply in answers.replies]
            answers.received = [(at, seconds) for at, seconds in store.times(keys) if at >= began]
    unanswered = (why for question, why in causes.items() if answers.texts[question] is None)
    answers.why_not = dict(Counter(unanswered))
    return answers


def keep_noted(replies: Sequence[Mapping[str, Any]], state: Path) -> None:
    """Note which stored answers an evaluation needs, for whoever clears up the store: no version says so."""
    keys = sorted({str(reply["key"]) for reply in replies})
    folder = state / EVALUATIONS
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{digest(canonical(keys))[:32]}.json", orjson.dumps(keys))


def say_warnings(prepared: Prepared, on_event: OnEvent) -> None:
    """Tell what somebody should know before a contestant is asked."""
    for warning in prepared.warnings:
        on_event({"event": "message", "text": f"warning: {warning}", "style": "yellow"})


async def collect(
    who: str, questions: Sequence[Question], prepared: Prepared, teachers: dict[str, Teacher],
    take: Callable[[str, Settled], None], on_event: OnEvent,
) -> list[Mapping[str, Any]]:  # fmt: skip
    """Take questions down the road with teachers that are open; hand what becomes of each to `take`, by its id.

    Returns the records of the replies, each once. Raises what the road raises, and Unfinished.
    """
    whose = {row.origin: question.id for row, question in zip(prepared.seeds, questions, strict=True)}
    tally = Tally(teachers=teachers)
    steps = prepared.steps(teachers)
    replies: dict[str, Mapping[str, Any]] = {}
    done: set[str] = set()
    outcomes = set_out(prepared, Options(), tally, teachers, steps)
    waiting = asyncio.create_task(_tell_waits(who, teachers, done, on_event))
    try:
        async with contextlib.aclosing(outcomes):
            async for outcome in outcomes:
                if isinstance(outcome, SeedEnd):
                    continue
                row = outcome if isinstance(outcome, Row) else outcome.row
                replies |= {reply["key"]: reply for reply in replies_behind(row.trail)}
                take(whose[row.origin], outcome)
                if row.origin not in done:
                    done.add(row.origin)
                    on_event({"event": "asked", "who": who, "done": len(done), "of": len(questions)})
    finally:
        waiting.cancel()
        await close(steps)
    if tally.passing_failures:
        raise Unfinished(
            f"{tally.passing_failures:,} questions have no answer of {who} yet: {tally.last_failure}",
            fix="run the same command again: what was answered is kept",
        )
    return list(replies.values())


async def _tell_waits(who: str, teachers: Mapping[str, Teacher], done: set[str], on_event: OnEvent) -> None:
    """Tell now and then that no answer came for a while, and what the server said last."""
    while True:
        before = len(done)
        await asyncio.sleep(WAIT_SECONDS)
        if len(done) == before:
            last = next((teacher.pool.last_fault for teacher in teachers.values() if teacher.pool.last_fault), "")
            text = f"{who}: no answer for {WAIT_SECONDS:g} seconds" + (f"; last error {safe(last)}" if last else "")
            on_event({"event": "message", "text": text, "style": "yellow"})


def _said(row: Row, contestant: Contestant) -> str | None:
    """Return an answer, without a trace that the model was taught to write before it."""
    if contestant.completion is None:
        return as_text(row.columns.get("answer"))
    try:
        return contestant.completion.completion.render(row.columns)
    except RowFailed:
        return None


def taught(questions: Sequence[Question]) -> Answers:
    """Return what the teacher answered when the version was made."""
    replies = {str(reply["key"]): reply for question in questions for reply in question.replies}
    return Answers({question.id: question.taught for question in questions}, list(replies.values()))
