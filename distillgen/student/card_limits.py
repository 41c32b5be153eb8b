"""What a student's card says of its limits: those of the model, of its training and of what was measured."""

from collections.abc import Iterable, Mapping
from typing import Any

from distillgen.dataset.inert import code, inline
from distillgen.student.card_evaluation import contestant
from distillgen.student.manifest import StudentManifest
from distillgen.student.tables import left_out_told, parameters_told

SMALL = 1_000_000_000  # parameters
FEW_ROWS, FEW_TO_WATCH, FEW_TO_MEASURE = 1_000, 100, 400


def known_limits(manifest: StudentManifest, evaluation: Mapping[str, Any] | None) -> Iterable[str]:
    yield from _of_model(manifest)
    yield from _of_training(manifest)
    yield from _of_evaluation(evaluation)


def _of_model(manifest: StudentManifest) -> Iterable[str]:
    parameters = int(manifest.base.get("parameters") or 0)
    if 0 < parameters < SMALL:
        yield f"It is small ({parameters_told(parameters)} parameters): it knows little that its rows do not hold."
    yield "It was trained for one task and one form of prompt; anything else may have become worse than in its base."
    if labels := manifest.labels:
        yield f"It knows {len(labels):,} labels, and gives one of them to a text that fits none."
    if manifest.gguf and not manifest.gguf.lower().endswith("-f16.gguf"):
        yield f"{code(manifest.gguf)} holds rounded weights: some of its answers may differ from the other files'."
    stance = manifest.terms.get("stance", "unknown")
    if stance in ("restricted", "prohibited"):
        yield f"The teachers' terms are {stance} for the purpose above, which the owner took upon themselves."
    elif stance == "unknown":
        yield "Whether the teachers' terms allow such a student is unknown."


def _of_training(manifest: StudentManifest) -> Iterable[str]:
    training, teachers = manifest.training, manifest.teachers
    if len(teachers) == 1:
        yield "It learnt from one teacher, with that teacher's mistakes, opinions and habits of style."
    for facts in teachers.values():
        if facts.get("quantisation"):
            yield f"The teacher {code(facts.get('model', '?'))} itself was rounded ({inline(facts['quantisation'])})."
    rows, watched = int(training.get("train_rows") or 0), int(training.get("validation_rows") or 0)
    if rows < FEW_ROWS:
        yield f"It was trained on few rows: {rows:,}."
    if not watched:
        yield "No rows were kept back while it was trained: nobody saw whether it went on for too long."
    elif watched < FEW_TO_WATCH:
        yield f"Few rows, {watched:,}, decided when to stop."
    if long := int(training.get("long_rows") or 0):
        yield f"{long:,} of the rows were longer than the model reads, and were left out or cut off."
    yield "It was trained once, with one seed; with another its figures differ by a little."


def _of_evaluation(evaluation: Mapping[str, Any] | None) -> Iterable[str]:
    if evaluation is None:
        yield "It was not evaluated: nobody has measured how good it is. `distillgen student evaluate` does."
        return
    on = evaluation.get("on") or {}
    questions, gold = int(on.get("questions") or 0), int(on.get("with_gold") or 0)
    yield f"It was evaluated on {questions:,} questions of one kind; on other questions it may do worse."
    if not gold:
        yield "None of these has a known right answer: how often it is right is not known, only how it compares."
    elif gold < FEW_TO_MEASURE:
        yield f"Only {gold:,} of these have a known right answer: mind the intervals."
    found = contestant(evaluation, "student") or {}
    if unreadable := int(found.get("unreadable") or 0):
        yield f"{unreadable:,} of its answers were of no use (no label, no number, ...), and count as wrong."
    yield from (f"Left out of the evaluation: {inline(each, 100)}." for each in left_out_told(evaluation))
    yield from (f"{inline(note)}." for note in evaluation.get("notes") or ())
