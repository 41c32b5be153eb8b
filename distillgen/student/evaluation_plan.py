"""Who is asked what when a student is measured: the questions, the contestants and the measure, checked beforehand."""

import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from distillgen.dataset.figures import answer_of
from distillgen.dataset.looking import training_rows
from distillgen.errors import Damaged, DistillgenError, ExtraMissing, UsageError, nearest
from distillgen.files import Lock
from distillgen.report.console import number
from distillgen.state import state_folder
from distillgen.student import INSTALL, SMALLER, scores
from distillgen.student.asking import Answers, ask, prepared_for, taught
from distillgen.student.base import Base
from distillgen.student.contestants import (
    NOBODY,
    Contestant,
    asked_as_teacher,
    asked_directly,
    at_home,
    teacher_of,
    wanted_columns,
)
from distillgen.student.evaluation_request import EvaluationRequest, recipe_of, version_for
from distillgen.student.generating import in_thread
from distillgen.student.gguf_file import Kind, write_gguf
from distillgen.student.judging import Judging
from distillgen.student.label_tokens import label_tokens
from distillgen.student.order import wording
from distillgen.student.origin import came_from, require_own_places
from distillgen.student.progress import OnEvent
from distillgen.student.questions import GOLD, Reading, read_questions, templates_of
from distillgen.teacher.embedded import require_runtime
from distillgen.teacher.models import cache_folder

TEACHER, BASE, STUDENT = "teacher", "base", "student"
EQUAL = ", the teacher's prompt"
MAX_TOKENS = 512  # of an answer that is no label, at the least
MOST_TOKENS, TOKEN_BYTES = 2048, 2  # room for answers as long as those that were learnt; a token is seldom shorter
LOOKED_AT = 500  # training rows that tell how long answers are, and whether they begin with their label


class Plan:
    """The questions and the contestants of a request, checked before anybody is asked."""

    def __init__(self, request: EvaluationRequest, on_event: OnEvent) -> None:
        if request.usd_per_hour is not None and not math.isfinite(request.usd_per_hour):
            raise UsageError(f"no price: {request.usd_per_hour}", where="--price-per-hour", fix="US dollars, e.g. 0.05")
        self.request, self.on_event = request, on_event
        self.notes: list[str] = []
        self.version = version_for(request)
        self.recipe, self.prompts, self.home = recipe_of(request, self.version)
        self._note_what_is_missing()
        self.state = state_folder(request.project, request.state)
        is_split = self.version is not None and request.on in self.version.manifest.splits
        self.is_taught = is_split and request.teacher is None
        self.teacher = self._teacher()
        wanted = wanted_columns(self.teacher) if self.teacher is not None and not self.is_taught else {}
        how = Reading(request.gold, request.by, request.limit, wanted)
        self.questions = read_questions(request.on, self.version, self.recipe.get("student") or {}, how)
        for warning in self.questions.warnings:
            self._note(warning)
        if self.is_taught and self.questions.with_gold:
            self._note("a split has only rows that passed the recipe's steps: the teacher looks better than it is")
        self._require_something_to_compare()
        self._note_no_gold()
        self.labels = self._labels()
        self.measure = self._measure()
        if self.measure != "label":
            self.labels = []
        self.shape = _shape_of(self._learnt(), self.labels)
        self.judging = self._judging()
        self._require_own_places()
        self.contestants = [*([self.teacher] if self.teacher else []), *self._models()]
        self.timed = list(self.contestants)

    def _teacher(self) -> Contestant | None:
        """Return the teacher as somebody to ask; None when nobody wants one, or where the version has all that can be
        had of it."""
        request = self.request
        if request.teacher == NOBODY:
            return None
        templates = templates_of(self.recipe.get("student") or {})
        try:
            found = teacher_of(
                self.recipe, self.prompts, templates, project=self.home, name=request.teacher, budget=request.budget
            )
            return replace(found, may_be_unpriced=request.may_be_unpriced)
        except UsageError:
            if self.is_taught:
                return None
            raise

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

    def _note_what_is_missing(self) -> None:
        if self.request.why_no_base:
            self._note(
                f"the untouched model is not asked: {self.request.why_no_base}; name it with --base, or say so: "
                "--base none"
            )

    def _note_no_gold(self) -> None:
        """Say that a file has no right answers, which may stand in a column of another name."""
        found = self.questions
        if not found.is_split and not found.with_gold:
            name = self.request.gold or GOLD
            has = ", ".join(map(repr, found.asked[0].columns))
            self._note(
                f"no right answers: nothing is in a column {name!r} of {found.what}, which has {has}; name it with "
                "--gold COLUMN"
            )

    def _require_own_places(self) -> None:
        """See that nobody's key goes where a recipe from elsewhere wants it; of a split the teacher is not asked."""
        origin = came_from(self.version) if self.request.recipe is None else None
        teacher = [self.teacher] if self.teacher and not self.is_taught else []
        judge = [self.judging.contestant()] if self.judging else []
        for contestant in [*teacher, *judge] if origin else ():
            require_own_places(contestant, str(origin), self.request.project)

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
        if self.judging is not None:
            self.judging.check(self.state)

    def _judging(self) -> Judging | None:
        """Return who judges, None when nobody is to; an unknown judge is told before anybody is asked."""
        request = self.request
        if request.judge is None:
            return None
        budget = request.budget if request.budget is not None else (self.recipe.get("budget") or {}).get("usd")
        judging = Judging(request.judge, self.recipe, self.home, budget, request.may_be_unpriced)
        if self._judges_itself(judging.contestant()):
            self._note("the judge is the teacher itself, and models like what they wrote themselves")
        if not (self.teacher or self.is_taught or request.base):
            raise UsageError("a judge compares two, and only the student is asked", fix="name a --base or a teacher")
        return judging

    def _judges_itself(self, judge: Contestant) -> bool:
        """Whether the judge is who wrote the teacher's answers."""
        if self.is_taught:
            stated = self.recipe.get("teachers") or {}
            wrote: list[Mapping[str, Any]] = [at_home(settings, self.home) for settings in stated.values()]
        else:
            wrote = [self.teacher.main] if self.teacher else []
        return any(_whose(next(iter(judge.teachers.values()))) == _whose(each) for each in wrote)

    # -- what counts as right ------------------------------------------------------------------------------------------

    def _labels(self) -> list[str]:
        """Return the closed set of labels, where there is one: what the student learnt to say, with those of the
        recipe that no row happens to have; else the recipe's."""
        kept = self.request.student.manifest.dataset.get("labels") or {}
        found = kept if self.version is None else self.version.manifest.labels
        learnt = {label for counts in found.values() for label in counts}
        steps = [step for step in self.recipe.get("steps", ()) if step["use"] == "generate"]
        stated = next((list(step["labels"]) for step in reversed(steps) if step.get("labels")), [])
        if not learnt:
            return stated
        return sorted(stated if learnt <= set(stated) else learnt)

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
            self._require_readable(wanted, golds)
            return wanted
        return "number" if golds and all(map(_is_number, golds)) else "exact"

    def _require_readable(self, measure: scores.Measure, golds: Sequence[str]) -> None:
        """Insist that the right answers are of the kind that they are compared as."""
        wrong = [gold for gold in golds if not scores.is_readable(measure, gold, self.labels)]
        if wrong:
            raise UsageError(
                f"the gold answer {wrong[0][:80]!r} (and {len(wrong) - 1:,} more) is nothing that --measure {measure} "
                "can read",
                where=self.questions.what, fix="--measure exact, or another --gold COLUMN",
            )  # fmt: skip

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
        own = student.gguf if _has_runtime() else None
        files: dict[str, Path | None] = {}
        if base is not None:
            files[BASE] = self._base_gguf(base) if own is not None else None
            if base.sha256 != student.manifest.base.get("sha256"):
                self._note(f"{base.title} is not the base that this student was trained from")
        files[STUDENT] = own
        found = [self._direct(name, gguf) for name, gguf in files.items()]
        if self.request.equal_prompts:
            found += self._asked_alike(files)
        runtimes = sorted({each.runtime for each in [*found, *([self.teacher] if self.teacher else [])]})
        if len(runtimes) > 1:
            self._note(f"not all were asked in the same runtime ({', '.join(runtimes)}): their speeds do not compare")
        return found

    def _asked_alike(self, files: Mapping[str, Path | None]) -> Iterator[Contestant]:
        """Yield base and student as they are asked by the teacher's prompt."""
        if self.teacher is None:
            self._note("no teacher is asked, so that there is no prompt of a teacher to ask others by")
            return
        for name, gguf in files.items():
            if gguf is None:
                self._note(f"{name} has no GGUF file, so it is not asked by the teacher's prompt")
                continue
            yield asked_as_teacher(
                name + EQUAL, gguf, self.teacher, model=self._model(name), max_tokens=self.request.max_tokens,
                otherwise=self._most_tokens(), parameters=self._parameters(name),
            )  # fmt: skip

    def _direct(self, name: str, gguf: Path | None) -> Contestant:
        held_to = self.labels if self.shape.is_label_all else []
        most = self._most_tokens(held_to)
        if gguf is not None:
            tokens = label_tokens(gguf, held_to, self.state / "logs" / f"{name}-labels.log") if held_to else []
            _require_whole_labels(held_to, tokens, most)
            return asked_directly(
                name, gguf, model=self._model(name), max_tokens=most, labels=tokens, parameters=self._parameters(name)
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
            return max(len(label.encode()) for label in held_to) + 2
        return min(max(self.shape.longest_bytes // TOKEN_BYTES, MAX_TOKENS), MOST_TOKENS)

    def _learnt(self) -> Iterator[tuple[str, str]]:
        """Yield what the student learnt to write, of the first rows: a reasoning trace, if any, and the answer."""
        manifest = self.request.student.manifest
        has_traces = manifest.training.get("reasoning") != "drop"
        if self.version is not None:
            for row in islice(training_rows(self.version), LOOKED_AT):
                yield (row.get("reasoning", "") if has_traces else ""), answer_of(row)
        elif example := manifest.dataset.get("example"):
            trace = (self.recipe.get("student") or {}).get("reasoning") or ""
            yield (trace if has_traces else ""), str(example[-1].get("content"))

    def read(self, text: str | None) -> str | None:
        """Return the part of an answer that is compared: of one that ends with its label, that end."""
        if text is None or not self.shape.is_label_last:
            return text
        return scores.last_words(text, self.labels)

    def _base_gguf(self, base: Base) -> Path | None:
        """Return the base in the student's own quantisation, made once, so that training is all that differs."""
        kind: Kind = "f16" if (self.request.student.manifest.gguf or "").lower().endswith("-f16.gguf") else "q8_0"
        out = cache_folder() / "models" / f"base-{base.sha256[:12]}-{wording(base.folder)[:8]}-{kind}.gguf"
        if out.is_file():
            return out
        with Lock(out.with_name(f".{out.stem}.lock")):
            if out.is_file():
                return out
            self.on_event({"event": "message", "text": f"writing {base.title} as GGUF, once"})
            try:
                is_made = write_gguf(base.folder, base.gguf, out, kind, self.state / "logs" / "base-gguf.log")
            except (UsageError, Damaged) as error:
                self._note(f"the base could not be written as GGUF: {error.problems[0].what}")
                return None
        return out if is_made else None

    # -- asking --------------------------------------------------------------------------------------------------------

    async def ask_all(self) -> dict[str, Answers]:
        """Return the answers of all contestants, by name; those of the teacher that the version holds are paid for."""
        found = {TEACHER: taught(self.questions.asked)} if self.is_taught else {}
        for contestant in self.contestants:
            if contestant.name not in found:
                found[contestant.name] = answers = await self._ask(contestant)
                if answers.why_not:
                    why = ", ".join(f"{cause} {count:,}" for cause, count in sorted(answers.why_not.items()))
                    self._note(f"{contestant.name}: answers that could not be used: {why}")
        return found

    async def _ask(self, contestant: Contestant) -> Answers:
        asked = self.questions.asked
        if contestant.folder is not None:
            return await in_thread(contestant, asked, self.state, self.on_event)
        return await ask(contestant, asked, self.state, self.on_event)


@dataclass(frozen=True)
class _Shape:
    """What answers that were learnt have in common.

    Where nothing comes before the label it can be read alone, and base and student are held to it. Where reasons come
    before it in the answer, it is read at the end.
    """

    is_label_all: bool
    is_label_last: bool
    longest_bytes: int  # with the reasoning trace


def _shape_of(learnt: Iterable[tuple[str, str]], labels: Sequence[str]) -> _Shape:
    is_first = is_last = is_bare = bool(labels)
    longest = 0
    for trace, answer in learnt:
        is_first = is_first and answer.startswith(tuple(labels))
        is_last = is_last and answer.rstrip().endswith(tuple(labels))
        is_bare = is_bare and not trace
        longest = max(longest, len(trace.encode()) + len(answer.encode()))
    return _Shape(is_first and is_bare, is_last and not is_first, longest)


def _require_whole_labels(labels: Sequence[str], tokens: Sequence[Sequence[int]], most: int) -> None:
    for label, each in zip(labels, tokens, strict=True):
        if len(each) > most:
            raise UsageError(
                f"--max-tokens {most} would cut off the label {label[:80]!r}, which has {number(len(each), 'token')}",
                fix="leave --max-tokens out: an answer ends with its label",
            )


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


def _whose(settings: Mapping[str, Any]) -> list[Any]:
    """Return what tells one model from another, of a teacher's table."""
    return [settings.get(key) for key in ("provider", "base_url", "model", "gguf")]


def _is_number(gold: str) -> bool:
    try:
        float(gold.replace(",", ""))
    except ValueError:
        return False
    return True
