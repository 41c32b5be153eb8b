"""The evaluation of a student: the same questions to teacher, base and student; scored, timed and priced."""

import asyncio
import contextlib
import importlib.util
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from distillgen.dataset.figures import answer_of
from distillgen.dataset.looking import training_rows
from distillgen.dataset.versions import Version, find_version
from distillgen.errors import DistillgenError, ExtraMissing, NotFound, UsageError, nearest
from distillgen.files import Lock, utc
from distillgen.processes import processors
from distillgen.recipe import read_recipe
from distillgen.settings import TeacherSettings
from distillgen.state import state_folder
from distillgen.steps.mathematics import Mathematics
from distillgen.student import INSTALL, SMALLER, scores
from distillgen.student.asking import (
    NOBODY,
    Answers,
    Contestant,
    OnEvent,
    ask,
    asked_as_teacher,
    asked_directly,
    prepared_for,
    taught,
    teacher_of,
    wanted_columns,
)
from distillgen.student.base import Base
from distillgen.student.folder import Student
from distillgen.student.generating import in_thread
from distillgen.student.gguf_file import Kind, write_gguf
from distillgen.student.judging import Judging, compare
from distillgen.student.questions import GOLD, Question, Reading, read_questions, templates_of
from distillgen.student.timing import take_times, time_of_own
from distillgen.teacher.cost import FREE, find_prices
from distillgen.teacher.embedded import require_runtime
from distillgen.teacher.models import cache_folder
from distillgen.teacher.replies import TokenUsage

FORMAT = "evaluation/1"
TEACHER, BASE, STUDENT = "teacher", "base", "student"
EQUAL = ", the teacher's prompt"
TIMED = 60  # questions asked anew for the clock
MAX_TOKENS = 512  # of an answer, where it is no label
LONGEST_LABEL = 64  # tokens
LOOKED_AT = 500  # training rows that tell whether an answer begins with its label
HOUR = 3600
Measure = Literal["auto", "label", "exact", "number", "math", "json"]
Figures = dict[str, Any]


@dataclass(frozen=True)
class EvaluationRequest:
    """What somebody wants to know of a student.

    `on` is a file of questions or a split of the student's version; `project` the folder that holds `datasets`, against
    which the recipe's own paths are read. `teacher`: None is the recipe's own, "none" nobody. `time` is how many
    questions are asked anew for the clock. `usd_per_hour` is what the machine costs. `budget` is in US dollars, for the
    teacher, and again for the judge.
    """

    student: Student
    on: str
    project: Path
    base: Base | None = None
    teacher: str | None = None
    gold: str | None = None
    measure: Measure = "auto"
    judge: str | None = None
    limit: int | None = None
    time: int = TIMED
    equal_prompts: bool = False
    by: str | None = None
    usd_per_hour: float | None = None
    max_tokens: int | None = None
    recipe: Path | None = None
    state: Path | None = None
    budget: float | None = None
    bootstrap: scores.Bootstrap = field(default_factory=scores.Bootstrap)


def evaluate(request: EvaluationRequest, on_event: OnEvent) -> Figures:
    """Return the evaluation, as schemas/student-evaluate.schema.json describes it. See `evaluating`."""
    return asyncio.run(evaluating(request, on_event))


async def evaluating(request: EvaluationRequest, on_event: OnEvent) -> Figures:
    """Ask, time and score; everything that was answered is kept, so that the same request goes on where it stopped.

    Raises UsageError for what cannot be asked or compared, NotFound where the student's version is not in the project,
    and what asking raises.
    """
    plan = _Plan(request, on_event)
    plan.check()
    said = await plan.ask_all()
    speeds = await take_times(plan.timed, plan.questions.asked, request.time, on_event)
    return await _Score(plan, said, speeds).evaluation()


# -- who is asked, and what --------------------------------------------------------------------------------------------


class _Plan:
    """The questions and the contestants of a request, checked before anybody is asked."""

    def __init__(self, request: EvaluationRequest, on_event: OnEvent) -> None:
        self.request, self.on_event = request, on_event
        self.notes: list[str] = []
        self.version = version_of(request.student, request.project)
        self.recipe, self.prompts, self.home = _recipe_of(request, self.version)
        self.state = state_folder(request.project, request.state)
        templates = templates_of(self.recipe.get("student") or {})
        self.teacher: Contestant | None = None
        if request.teacher != NOBODY:
            is_known = request.on in self.version.manifest.splits and request.teacher is None
            if not (is_known and "steps" not in self.recipe):
                self.teacher = teacher_of(
                    self.recipe, self.prompts, templates, project=self.home, name=request.teacher,
                    budget=request.budget,
                )  # fmt: skip
        how = Reading(request.gold, request.by, request.limit, self._wanted(request))
        self.questions = read_questions(request.on, self.version, self.recipe.get("student") or {}, how)
        for warning in self.questions.warnings:
            self._note(warning)
        self.is_taught = self.questions.is_split and request.teacher is None
        self._require_something_to_compare()
        self.labels = self._labels()
        self.measure = self._measure()
        if self.measure != "label":
            self.labels = []
        self.is_label_last = self._is_label_last()
        self.judging = self._judging()
        self.contestants = [*([self.teacher] if self.teacher else []), *self._models()]
        self.timed = list(self.contestants)

    def _wanted(self, request: EvaluationRequest) -> dict[str, str]:
        """Return the columns that a file must have for the teacher to be asked."""
        needs_columns = self.teacher is not None and (request.teacher is not None or not self._is_split)
        return wanted_columns(self.teacher) if self.teacher is not None and needs_columns else {}

    @property
    def _is_split(self) -> bool:
        return self.request.on in self.version.manifest.splits

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.on_event({"event": "message", "text": f"warning: {text}", "style": "yellow"})

    def _require_something_to_compare(self) -> None:
        if self.questions.with_gold or self.teacher is not None or self.is_taught:
            return
        raise UsageError(
            "no gold answer and no teacher: there is nothing to compare with", where=self.questions.what,
            fix=f"--gold COLUMN (default: {GOLD}), or let the teacher be asked",
        )  # fmt: skip

    def check(self) -> None:
        """See that everybody can be asked, before anybody is. Raises what preparing a recipe raises."""
        for contestant in self.contestants:
            if contestant.folder is not None:
                continue
            try:
                with prepared_for(contestant, self.questions.asked[:1], self.state):
                    pass
            except DistillgenError as error:
                if contestant is not self.teacher or not self.is_taught:
                    raise
                self.timed.remove(contestant)  # its answers are in the version: it need not be asked
                if contestant.is_free and self.request.time:
                    self._note(f"the teacher's speed is not known: {error.problems[0].what}")

    def _judging(self) -> Judging | None:
        """Return who judges, None when nobody is to; an unknown judge is told before anybody is asked."""
        request = self.request
        if request.judge is None:
            return None
        judging = Judging(request.judge, self.recipe, self.home, request.budget)
        judging.contestant()
        if not (self.teacher or self.is_taught or request.base):
            raise UsageError("a judge compares two, and only the student is asked", fix="name a --base or a teacher")
        return judging

    # -- what counts as right ------------------------------------------------------------------------------------------

    def _labels(self) -> list[str]:
        """Return the closed set of labels, where there is one: what the student learnt to say, else the recipe's."""
        learnt = {label for counts in self.version.manifest.labels.values() for label in counts}
        if learnt:
            return sorted(learnt)
        steps = [step for step in self.recipe.get("steps", ()) if step["use"] == "generate"]
        return next((list(step["labels"]) for step in reversed(steps) if step.get("labels")), [])

    @property
    def golds(self) -> list[str | None]:
        """The gold answer of each question."""
        return [question.gold for question in self.questions.asked]

    def _measure(self) -> scores.Measure:
        wanted = self.request.measure
        golds = [gold for gold in self.golds if gold is not None]
        if wanted == "label" and not self.labels:
            self.labels = scores.labels_of(golds)
            if not self.labels:
                raise UsageError(
                    "no labels: the version has none, the recipe states none, and there is no gold answer",
                    where=self.questions.what, fix="--measure exact, or --gold COLUMN",
                )  # fmt: skip
        if wanted == "label" or (wanted == "auto" and self.labels):
            self._require_known_labels(golds)
            return "label"
        if wanted != "auto":
            return wanted
        return "number" if golds and all(map(_is_number, golds)) else "exact"

    def _require_known_labels(self, golds: Sequence[str]) -> None:
        unknown = [gold for gold in golds if scores.label_in(gold, self.labels) is None]
        if unknown:
            raise UsageError(
                f"the gold answer {unknown[0][:80]!r} (and {len(unknown) - 1:,} more) is none of the labels "
                f"{', '.join(self.labels)}",
                where=self.questions.what,
                fix=f"{nearest(unknown[0], self.labels)} (another --gold COLUMN, or --measure exact)",
            )  # fmt: skip

    # -- base and student ----------------------------------------------------------------------------------------------

    def _models(self) -> list[Contestant]:
        """Return base and student, by llama.cpp where there is a GGUF file and the runtime, else by transformers."""
        student, base = self.request.student, self.request.base
        files: dict[str, Path | None] = {STUDENT: student.gguf if _has_runtime() else None}
        if base is not None:
            files[BASE] = self._base_gguf(base) if files[STUDENT] is not None else None
            if base.sha256 != student.manifest.base.get("sha256"):
                self._note(f"{base.title} is not the base that this student was trained from")
        names = [name for name in (BASE, STUDENT) if name in files]
        found = [self._direct(name, files[name]) for name in names]
        if self.request.equal_prompts and self.teacher is not None:
            for name in names:
                if (gguf := files[name]) is not None:
                    found.append(
                        asked_as_teacher(
                            name + EQUAL, gguf, self.teacher, model=self._model(name), max_tokens=self._most_tokens(),
                            parameters=self._parameters(name),
                        )
                    )  # fmt: skip
                else:
                    self._note(f"{name} has no GGUF file, so it is not asked by the teacher's prompt")
        runtimes = sorted({each.runtime for each in [*found, *([self.teacher] if self.teacher else [])]})
        if len(runtimes) > 1:
            self._note(f"not all were asked in the same runtime ({', '.join(runtimes)}): their speeds do not compare")
        return found

    def _direct(self, name: str, gguf: Path | None) -> Contestant:
        held_to = self.labels if self._is_label_first() else []
        most = self._most_tokens(held_to)
        if gguf is not None:
            return asked_directly(
                name, gguf, model=self._model(name), max_tokens=most, labels=held_to, parameters=self._parameters(name)
            )
        _require_transformers()
        student, base = self.request.student, self.request.base
        folder = student.folder if name == STUDENT or base is None else base.folder
        size = student.weight_bytes if name == STUDENT or base is None else base.bytes
        how = "greedy, held to the labels by a list of tokens" if held_to else "greedy, free text"
        return Contestant(
            name, self._model(name), "student", {}, {}, None, how, "transformers", self._parameters(name), size,
            folder, most, held_to,
        )  # fmt: skip

    def _model(self, name: str) -> str:
        base = self.request.base
        return base.title if name == BASE and base is not None else self.request.student.manifest.name

    def _parameters(self, name: str) -> int | None:
        base = self.request.base
        found = base.parameters if name == BASE and base is not None else self.request.student.parameters
        return found or None

    def _most_tokens(self, held_to: Sequence[str] = ()) -> int:
        if self.request.max_tokens is not None:
            return self.request.max_tokens
        if held_to:
            return min(max(len(label.encode()) for label in held_to) + 2, LONGEST_LABEL)
        return MAX_TOKENS

    def _is_label_first(self) -> bool:
        """Whether what the student learnt to write begins with its label, so that the label alone can be read."""
        if self.measure != "label" or (self.recipe.get("student") or {}).get("reasoning"):
            return False
        rows = islice(training_rows(self.version), LOOKED_AT)
        return all(answer_of(row).startswith(tuple(self.labels)) for row in rows)

    def read(self, text: str | None) -> str | None:
        """Return the part of an answer that is compared: of one that ends with its label, that end."""
        if text is None or not self.is_label_last:
            return text
        lines = text.rstrip().splitlines() or [""]
        return lines[-1].rpartition(":")[2].strip()

    def _is_label_last(self) -> bool:
        """Whether what the student learnt to write gives reasons first, so that the label stands at the end."""
        if self.measure != "label" or self._is_label_first():
            return False
        rows = islice(training_rows(self.version), LOOKED_AT)
        return all(answer_of(row).rstrip().endswith(tuple(self.labels)) for row in rows)

    def _base_gguf(self, base: Base) -> Path | None:
        """Return the base in the student's own quantisation, made once, so that training is all that differs."""
        kind: Kind = "f16" if (self.request.student.manifest.gguf or "").lower().endswith("-f16.gguf") else "q8_0"
        out = cache_folder() / "models" / f"base-{base.sha256[:12]}-{kind}.gguf"
        if out.is_file():
            return out
        with Lock(out.with_name(f".{out.stem}.lock")):
            if out.is_file():
                return out
            self.on_event({"event": "message", "text": f"writing {base.title} as GGUF, once"})
            is_made = write_gguf(base.folder, base.gguf, out, kind, self.state / "logs" / "base-gguf.log")
        return out if is_made else None

    # -- asking --------------------------------------------------------------------------------------------------------

    async def ask_all(self) -> dict[str, Answers]:
        """Return the answers of all contestants, by name."""
        return {contestant.name: await self._ask(contestant) for contestant in self.contestants} | self._known()

    def _known(self) -> dict[str, Answers]:
        """Return the teacher's answers that the version holds: they are paid for."""
        return {TEACHER: taught(self.questions.asked)} if self.is_taught else {}

    async def _ask(self, contestant: Contestant) -> Answers:
        asked = self.questions.asked
        if contestant is self.teacher and self.is_taught:
            return taught(asked)
        if contestant.folder is not None:
            return await in_thread(contestant, asked, self.state, self.on_event)
        return await ask(contestant, asked, self.state, self.on_event)


def version_of(student: Student, project: Path) -> Version:
    """Return the version that a student was trained on, found by its digest: its rows are not asked.

    Raises NotFound with what to do about it.
    """
    made_of = student.manifest.dataset
    name, digest = made_of["name"], made_of["digest"]
    with contextlib.suppress(NotFound):
        return find_version(f"{name}@sha256:{digest}", project / "datasets")
    raise NotFound(
        f"the student was trained on {name}@{made_of['version']} ({digest[:12]}), which is not in this project",
        where=str(project / "datasets"),
        fix="name the project that has it (--project DIR), or fetch the version (distillgen pull)",
    )


def _recipe_of(request: EvaluationRequest, version: Version) -> tuple[Mapping[str, Any], Mapping[str, str], Path]:
    """Return the recipe by which the teacher is asked, its prompts, and the folder that its paths start from."""
    manifest = version.manifest
    if request.recipe is None:
        return manifest.recipe, manifest.prompts, request.project
    recipe, source = read_recipe(request.recipe)
    if "mix" not in manifest.recipe and recipe.name != manifest.name:
        raise UsageError(
            f"the student was trained on {manifest.name}, this is the recipe of {recipe.name}", where=str(source.path),
            fix="leave --recipe out: the version holds its own",
        )  # fmt: skip
    own = {path.stem: path.read_text(encoding="utf-8-sig") for path in (source.folder / "prompts").glob("*.toml")}
    return recipe.model_dump(mode="json", exclude_unset=True), own, source.folder


def _has_runtime() -> bool:
    try:
        require_runtime()
    except UsageError:
        return False
    return True


def _require_transformers() -> None:
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraMissing(
            f"without a GGUF file and llama.cpp a student is asked by transformers, which needs {', '.join(missing)}",
            fix=f"{INSTALL}   ({SMALLER})\nor, where the student has a GGUF file: pip install 'distillgen[embedded]'",
        )


def _is_number(gold: str) -> bool:
    try:
        float(gold.replace(",", ""))
    except ValueError:
        return False
    return True


# -- what came of it ---------------------------------------------------------------------------------------------------


class _Score:
    """Turns answers into figures."""

    def __init__(self, plan: _Plan, said: Mapping[str, Answers], speeds: Mapping[str, Figures | None]) -> None:
        self._plan, self._said, self._speeds = plan, said, speeds
        self._bootstrap = plan.request.bootstrap
        self._asked: Sequence[Question] = plan.questions.asked
        self._texts = {
            name: [plan.read(answers.texts[each.id]) for each in self._asked] for name, answers in said.items()
        }
        self._right: dict[str, list[bool | None]] = {}
        self._agrees: dict[str, list[bool | None]] = {}

    async def evaluation(self) -> Figures:
        """Return the whole."""
        plan, student = self._plan, self._plan.request.student
        await self._compare()
        manifest = plan.version.manifest
        return {
            "format": FORMAT,
            "date": utc(time.time()),
            "student": {"name": student.manifest.name, "digest": student.digest},
            "dataset": {"name": manifest.name, "version": manifest.version, "digest": manifest.digest},
            "on": plan.questions.dump(),
            "measure": plan.measure,
            "labels": list(plan.labels),
            "contestants": [self._contestant(*pair) for pair in self._in_order()],
            "differences": self._differences(),
            "judge": await self._judged(),
            "bootstrap": self._bootstrap.dump(),
            "machine": {
                "cpus": processors(), "python": platform.python_version(), "system": platform.system(),
                "processor": platform.machine(),
            },
            "notes": list(plan.notes),
        }  # fmt: skip

    def _in_order(self) -> list[tuple[str, Contestant | None]]:
        """Return who is shown: the teacher first, who may have no contestant where the version holds its answers."""
        known = {contestant.name: contestant for contestant in self._plan.contestants}
        names = [*([TEACHER] if TEACHER in self._said else []), *(name for name in known if name != TEACHER)]
        return [(name, known.get(name)) for name in names]

    async def _compare(self) -> None:
        """Compare all answers with the gold, and with the teacher's."""
        teacher = self._texts.get(TEACHER)
        for name, texts in self._texts.items():
            self._right[name] = await self._verdicts(texts, self._plan.golds)
            if teacher is not None and name != TEACHER:
                self._agrees[name] = await self._verdicts(texts, teacher)

    async def _verdicts(self, texts: Sequence[str | None], references: Sequence[str | None]) -> list[bool | None]:
        if self._plan.measure != "math":
            return scores.verdicts(self._plan.measure, texts, references, self._plan.labels)
        mathematics = Mathematics()
        try:
            return await scores.math_verdicts(mathematics, texts, references)
        finally:
            await mathematics.aclose()

    # -- one contestant ------------------------------------------------------------------------------------------------

    def _contestant(self, name: str, contestant: Contestant | None) -> Figures:
        texts, answers = self._texts[name], self._said[name]
        readable = [scores.is_readable(self._plan.measure, text, self._plan.labels) for text in texts]
        speed = self._speed(name, contestant)
        prompt = contestant.prompt if contestant else "teacher"
        return {
            "name": name,
            "model": self._model(contestant),
            "prompt": prompt,
            "runtime": contestant.runtime if contestant else "the provider",
            "how": self._how(name, contestant),
            "answered": sum(bool(text and text.strip()) for text in texts),
            "unreadable": readable.count(False),
            "score": self._share(self._right[name]),
            **self._by_label(texts),
            "agreement": self._share(self._agrees[name]) if name in self._agrees else None,
            "groups": self._groups(name),
            "tokens": answers.tokens,
            "speed": speed,
            "usd_per_1000": self._usd(contestant, answers, speed),
            "parameters": contestant.parameters if contestant else None,
            "bytes": contestant.bytes if contestant else None,
        }

    def _model(self, contestant: Contestant | None) -> str:
        if contestant is not None:
            return contestant.model
        teachers = self._plan.version.manifest.teachers
        return ", ".join(str(facts.get("model") or name) for name, facts in teachers.items()) or "unknown"

    def _how(self, name: str, contestant: Contestant | None) -> str:
        if name == TEACHER and self._plan.is_taught:
            return "its answers in the version"
        return contestant.how if contestant else ""

    def _share(self, right: Sequence[bool | None]) -> Figures | None:
        return self._bootstrap.mean(right).dump() if any(each is not None for each in right) else None

    def _by_label(self, texts: Sequence[str | None]) -> Figures:
        """Return macro F1 and the rates of each label, over the questions with gold."""
        labels = self._plan.labels
        pairs = [
            (scores.label_in(gold, labels), scores.label_in(text or "", labels))
            for gold, text in zip(self._plan.golds, texts, strict=True)
            if gold is not None
        ]
        golds, saids = (
            [gold for gold, _ in pairs if gold is not None],
            [said for gold, said in pairs if gold is not None],
        )
        if self._plan.measure != "label" or not golds:
            return {"f1": None, "per_label": {}}
        return {
            "f1": self._bootstrap.macro_f1(golds, saids).dump(), "per_label": scores.per_label(golds, saids, labels)
        }  # fmt: skip

    def _groups(self, name: str) -> Figures:
        found: dict[str, list[bool | None]] = {}
        for question, right in zip(self._asked, self._right[name], strict=True):
            if question.group is not None and right is not None:
                found.setdefault(question.group, []).append(right)
        return {
            group: {"questions": len(right), **self._bootstrap.mean(right).dump()}
            for group, right in sorted(found.items())
        }

    def _speed(self, name: str, contestant: Contestant | None) -> Figures | None:
        if contestant is None:
            return None
        if contestant.is_free:
            return self._speeds.get(name)  # None of a teacher that could not be asked
        return time_of_own(self._said[name], contestant, len(self._asked))

    def _usd(self, contestant: Contestant | None, answers: Answers, speed: Figures | None) -> Figures | None:
        """Return what 1,000 answers cost: by prices, or by the clock and the stated price of this machine's hour."""
        if contestant is None:
            return None
        by_prices = self._by_prices(contestant, answers)
        if by_prices is not None:
            return {"value": round(float(by_prices * 1000 / len(self._asked)), 6), "from": "prices"}
        hour = self._plan.request.usd_per_hour
        is_here = contestant.is_free
        if hour is None or speed is None or not is_here:
            return None
        return {"value": round(1000 / speed["per_second"] / HOUR * hour, 6), "from": f"${hour:g} an hour"}

    def _by_prices(self, contestant: Contestant, answers: Answers) -> Decimal | None:
        """Return the dollars for all answers, None where a price or a count of tokens is missing, or all is free."""
        if contestant.folder is not None or not answers.replies:
            return None
        now = datetime.now(UTC)
        prices = {
            name: find_prices(TeacherSettings.model_validate(dict(settings)), now)
            for name, settings in contestant.teachers.items()
        }
        total = Decimal(0)
        for reply in answers.replies:
            price = prices.get(str(reply.get("teacher") or reply.get("judge")))
            if price is None or not reply.get("tokens"):
                return None
            tokens = reply["tokens"]
            total += price.cost(
                TokenUsage(
                    tokens["prompt"], tokens["completion"], tokens.get("reasoning", 0), tokens.get("cached", 0),
                    tokens.get("cache_write", 0),
                )
            )  # fmt: skip
        return total if any(price is not FREE for price in prices.values()) else None

    # -- one against another -------------------------------------------------------------------------------------------

    def _differences(self) -> list[Figures]:
        pairs = [(STUDENT, BASE), (STUDENT, BASE + EQUAL), (STUDENT, TEACHER), (STUDENT + EQUAL, TEACHER)]
        there = [(of, from_) for of, from_ in pairs if of in self._right and from_ in self._right]
        found = [self._difference(self._right, *pair) for pair in there] if self._plan.questions.with_gold else []
        if STUDENT in self._agrees and BASE in self._agrees:
            found.append({**self._difference(self._agrees, STUDENT, BASE), "what": "agreement"})
        return found

    def _difference(self, figures: Mapping[str, Sequence[bool | None]], of: str, from_: str) -> Figures:
        return {"of": of, "from": from_, **self._bootstrap.difference(figures[of], figures[from_]).dump()}

    async def _judged(self) -> Figures | None:
        """Return what a judge says of the student's answers against the teacher's, or the base's without one."""
        judging = self._plan.judging
        if judging is None:
            return None
        against = TEACHER if TEACHER in self._said else BASE
        pairs = await compare(
            judging, self._asked, self._said[STUDENT].texts, self._said[against].texts, self._plan.state,
            self._plan.on_event,
        )  # fmt: skip
        return {"judge": judging.judge, "of": STUDENT, "from": against, **scores.judged(pairs, self._bootstrap)}
