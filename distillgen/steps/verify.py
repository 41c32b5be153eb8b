"""The step `verify`: compares an answer with a reference in one of six ways, and says what it got and what it wanted.

`exact`, `choice`, `number` and `json` compare at once (comparing.py); `math` and `code` are left to other processes
(mathematics.py, sandbox.py), which are waited for.
"""

import contextlib
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import regex

from distillgen.errors import RowFailed
from distillgen.rows import Failure, Outcome, Rejection, Row
from distillgen.steps.comparing import SHOWN, TAIL, WAYS, Judged, NoReference, fenced, short, stated
from distillgen.steps.mathematics import Mathematics, is_marked
from distillgen.steps.sandbox import Limits, Program, Sandbox, SandboxFailed, find_sandbox
from distillgen.steps.text import text_of

How: TypeAlias = Literal["exact", "choice", "number", "math", "json", "code"]
PATTERN_SECONDS = 1.0


# -- the step -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terms:
    """What a verify step compares, and what becomes of the rows.

    `extract` is a regular expression with one group, found in the reference. With `keep = "all"` wrong rows pass too,
    and the column `write` says which are right.
    """

    name: str
    how: How
    answer: str
    reference: str
    extract: str = ""
    keep: Literal["right", "all"] = "right"
    write: str = "verified"

    def wanted(self, row: Row) -> str:
        """Return the reference as text. Raises NoReference when the row has none."""
        text = text_of(row, self.reference)
        if not text.strip():
            raise NoReference(f"{self.reference} is empty")
        return _extracted(self.extract, text, self.reference) if self.extract else text

    def outcome(self, row: Row, judged: Judged) -> tuple[Outcome]:
        """Return what becomes of a row."""
        if not judged.is_right and self.keep == "right":
            reason = judged.why or f"got {short(judged.got)!r}, want {short(judged.want)!r}"
            return (Rejection(row, self.name, "wrong_answer", f"{self.answer}: {reason}"),)
        record: dict[str, Any] = {
            "step": self.name, "how": self.how, "verified": judged.is_right, "got": short(judged.got),
        }  # fmt: skip
        if not judged.is_right:
            record["want"] = short(judged.want)
            record |= {"why": judged.why} if judged.why else {}
        return (row.passed(record, **({self.write: judged.is_right} if self.keep == "all" else {})),)

    def unreferenced(self, row: Row, missing: NoReference) -> tuple[Outcome]:
        """Return the rejection of a row that nothing can be compared with."""
        return (Rejection(row, self.name, "no_reference", str(missing)),)


@dataclass(frozen=True)
class Verify:
    """A row step that compares at once."""

    terms: Terms
    tolerance: float = 0.0

    @property
    def name(self) -> str:
        """How the step is called."""
        return self.terms.name

    def __call__(self, row: Row) -> tuple[Outcome]:
        """Return the row, or its rejection."""
        way = WAYS[self.terms.how]
        try:
            return self.terms.outcome(row, way(text_of(row, self.terms.answer), self.terms.wanted(row), self.tolerance))
        except NoReference as missing:
            return self.terms.unreferenced(row, missing)


@dataclass(frozen=True)
class VerifyApart:
    """A row step whose comparison is another process's, which is waited for. `judge` raises NoReference too."""

    terms: Terms
    judge: "CodeJudge | MathJudge"

    @property
    def name(self) -> str:
        """How the step is called."""
        return self.terms.name

    async def work(self, row: Row) -> tuple[Outcome]:
        """Return the row, its rejection, or its failure when the comparison could not be made."""
        try:
            return self.terms.outcome(row, await self.judge(row, self.terms))
        except NoReference as missing:
            return self.terms.unreferenced(row, missing)
        except RowFailed as failed:
            return (Failure(row, self.name, failed.cause, failed.detail, failed.lasting),)

    async def aclose(self) -> None:
        """End the processes that wait for more."""
        await self.judge.aclose()


def verify_step(
    name: str, how: How, *, answer: str, reference: str, extract: str = "", keep: Literal["right", "all"] = "right",
    write: str = "verified", tolerance: float = 0.0, sandbox: Sandbox | None = None, limits: Limits | None = None,
) -> Verify | VerifyApart:  # fmt: skip
    """Return the step for one way of comparing.

    Raises ExtraMissing when math-verify is not installed, or no sandbox holds and none is given. `extract` must be
    right: see `wrong_pattern`.
    """
    terms = Terms(name, how, answer, reference, extract, keep, write)
    if how == "math":
        return VerifyApart(terms, MathJudge(Mathematics()))
    if how == "code":
        return VerifyApart(terms, CodeJudge(sandbox or find_sandbox(), limits or Limits()))
    return Verify(terms, tolerance)


def wrong_pattern(pattern: str) -> str | None:
    """Say why a text cannot be `extract`, None when it can."""
    try:
        groups = regex.compile(pattern).groups
    except (regex.error, RecursionError) as error:
        why = error if isinstance(error, regex.error) else "nested too deeply"
        return f"not a regular expression: {why}"
    return None if groups == 1 else f"has {groups} groups, must have one: what it finds is the reference"


def _extracted(pattern: str, text: str, column: str) -> str:
    try:
        found = regex.search(pattern, text, timeout=PATTERN_SECONDS, concurrent=False)
    except TimeoutError:
        raise NoReference(f"{column} took {pattern!r} more than {PATTERN_SECONDS:g} s to match") from None
    if not found or not (found[1] or "").strip():
        raise NoReference(f"{column} does not match {pattern!r}: {short(text)!r}")
    return str(found[1])


# -- mathematics ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MathJudge:
    """Compares the result that an answer states, whole when it marks its mathematics, by math-verify."""

    mathematics: Mathematics

    async def __call__(self, row: Row, terms: Terms) -> Judged:
        """Return the verdict on a row. Raises NoReference, and RowFailed when there is no verdict to be had."""
        answer, reference = text_of(row, terms.answer)[-TAIL:], terms.wanted(row)
        if not is_marked(answer):
            answer = stated(answer).text.strip()
        try:
            compared = await self.mathematics.compare(answer, reference[-TAIL:])
        except OSError as error:
            raise RowFailed(
                "mathematics", f"cannot start a process: {error.strerror or error}", lasting=False
            ) from error
        if compared.trouble:
            return Judged(False, answer[-SHOWN:], reference, compared.trouble)
        if not compared.want:
            raise NoReference(f"no mathematics found in the reference {short(reference)!r}")
        why = "" if compared.got else f"no mathematics found in {short(answer[-SHOWN:])!r}"
        return Judged(compared.is_right, compared.got, compared.want, why)

    async def aclose(self) -> None:
        """End the worker processes."""
        await self.mathematics.aclose()


# -- code -----------------------------------------------------------------------------------------------------------

_DEFINES = regex.compile(r"(?m)^(?:async\s+def|def|class)\s")


class Tests(NamedTuple):
    """Python that raises when the code is wrong; `entry` is what its `check(candidate)` is to be called with."""

    code: str
    entry: str = ""


class Pair(NamedTuple):
    """What a program reads, and what it must print."""

    given: str
    printed: str


@dataclass(frozen=True)
class CodeJudge:
    """Runs the code in an answer in a sandbox, with the reference's tests or on the reference's inputs."""

    sandbox: Sandbox
    limits: Limits

    async def __call__(self, row: Row, terms: Terms) -> Judged:
        """Return the verdict on a row. Raises NoReference, and RowFailed when the code could not be run."""
        wanted: Any = terms.wanted(row)
        tests = read_tests(wanted if terms.extract else row.columns.get(terms.reference))
        code = code_in(text_of(row, terms.answer))
        if not code.strip():
            return Judged(False, why="no code found: the answer is empty")
        try:
            if isinstance(tests, Tests):
                run = await self.sandbox.run(Program(code, tests.code, tests.entry), self.limits)
                return Judged(not run.trouble, run.trouble or "passed", "passed", run.trouble)
            return await self._on_inputs(code, tests)
        except SandboxFailed as failed:
            raise RowFailed("sandbox", str(failed), lasting=False) from failed

    async def _on_inputs(self, code: str, pairs: Sequence[Pair]) -> Judged:
        for number, pair in enumerate(pairs, 1):
            run = await self.sandbox.run(Program(code, stdin=pair.given), self.limits)
            of = f"input {number} of {len(pairs)}, {short(pair.given)!r}: "
            if run.trouble:
                return Judged(False, run.trouble, pair.printed, of + run.trouble)
            if _lines(run.output) != _lines(pair.printed):
                why = f"{of}got {short(run.output)!r}, want {short(pair.printed)!r}"
                return Judged(False, run.output, pair.printed, why)
        return Judged(True, "passed", "passed")

    async def aclose(self) -> None:
        """Do nothing: no process outlives its run."""


def _lines(printed: str) -> list[str]:
    """Return lines as they are compared: white space at the end of a line or of everything does not count."""
    return [line.rstrip() for line in printed.rstrip().split("\n")]


def code_in(answer: str) -> str:
    """Return the code in an answer: of the blocks fenced as Python (else of all that name no language) the last one
    that defines something, else the last; the whole answer when nothing is fenced."""
    blocks = fenced(answer)
    python = [block for block in blocks if block.language in ("python", "python3", "py")]
    codes = [textwrap.dedent(block.text) for block in python or blocks if python or not block.language]
    defining = [code for code in codes if _DEFINES.search(code)]
    return [answer, *codes, *defining][-1]


def read_tests(reference: Any) -> Tests | list[Pair]:
    """Read the tests in a reference: a text of asserts (or a list of them), an object with `tests` or `test` and
    perhaps `entry_point` (HumanEval), or a list of objects with `input` and `output`; JSON stands for what it says.

    Raises NoReference for anything else.
    """
    value = reference
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(ValueError, RecursionError):  # it may be Python
            value = json.loads(value)
    if isinstance(value, str) and value.strip():
        return Tests(value)
    if isinstance(value, dict) and isinstance(code := value.get("tests", value.get("test")), str) and code.strip():
        return Tests(code, str(value.get("entry_point") or ""))
    if isinstance(value, list) and value:
        if all(isinstance(each, str) for each in value):
            return Tests("\n".join(value))
        if all(isinstance(each, dict) and {"input", "output"} <= each.keys() for each in value):
            return [Pair(_text(each["input"]), _text(each["output"])) for each in value]
    raise NoReference("the reference holds neither tests nor a list of objects with `input` and `output`")


def _text(value: Any) -> str:
    """Return a value as text: integers of any size, and half characters, as they stand in the reference."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise NoReference("an `input` or `output` of the reference is nested too deeply") from None
