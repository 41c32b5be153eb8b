"""Foresees a build before any money moves: rows, stored answers, calls, tokens, the price, and a rendered prompt."""

import contextlib
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from distillgen.errors import RowFailed
from distillgen.excluded import EXCLUDED, FORGOTTEN, Excluded
from distillgen.pipeline import Options, read_seeds
from distillgen.preparation import Prepared
from distillgen.prompts import Messages
from distillgen.recipe import Recipe
from distillgen.road import travel
from distillgen.rows import Outcome, Row, SeedEnd
from distillgen.shapes import Step, close, is_rounds
from distillgen.step_settings import GenerateStep, JudgeStep
from distillgen.steps.bootstrap import Bootstrap
from distillgen.steps.generate import Generate
from distillgen.steps.judge import Judge
from distillgen.tally import StepCount, Tally
from distillgen.teacher import Teacher, open_teachers
from distillgen.teacher.answers import AnswerStore
from distillgen.teacher.cost import FREE, estimate

BESIDE = 64  # rows a plan may hold at once: it never waits for an answer
BYTES_PER_TOKEN = (2.5, 5.0)  # of prompts in most languages and tokenizers, facts of which nothing better is known yet
SHORTEST_REPLY = 8  # tokens
ENOUGH = 5  # stored answers from which something can be concluded


@dataclass
class Seen:
    """The tokens of stored answers that a plan met: what the next ones are likely to have."""

    keys: set[str] = field(default_factory=set)
    prompt: int = 0
    completion: int = 0
    squares: int = 0

    def add(self, key: str, tokens: dict[str, int]) -> None:
        """Count an answer, once."""
        if key not in self.keys:
            self.keys.add(key)
            self.prompt += tokens["prompt"]
            self.completion += tokens["completion"]
            self.squares += tokens["completion"] ** 2

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def completion_range(self) -> tuple[float, float]:
        """Tokens of a reply: the mean, two standard errors to either side, and 5 % for what differs elsewhere."""
        mean = self.completion / len(self)
        error = 2 * math.sqrt(max(self.squares / len(self) - mean**2, 0) / len(self)) + 0.05 * mean
        return max(mean - error, 1), mean + error


async def foresee(prepared: Prepared, options: Options) -> dict[str, Any]:
    """Return what a build would do, by going down the road with stored answers only."""
    tally, seen, first = Tally(), dict[str, Seen](), dict[str, Messages]()
    path = prepared.state / "answers.sqlite"
    with tempfile.TemporaryDirectory() as spare:  # a plan leaves no trace where there is no store
        store = AnswerStore(path if path.exists() else Path(spare) / "answers.sqlite")
        with contextlib.closing(store):
            async with open_teachers(
                prepared.recipe, prepared.source, prepared.teachers_used, store, state=prepared.state, offline=True
            ) as teachers:
                left_out = prepared.left_out()
                road = prepared.steps(teachers, prefer_first=options.prefer_first, left_out=left_out)
                steps = [each for step in road for each in (step, *(step.inner if is_rounds(step) else ()))]
                seeds = read_seeds(prepared, options, tally, left_out=left_out)
                outcomes = travel(
                    seeds, road, tally=tally.step, spool=Path(spare), in_flight=BESIDE, left_out=left_out.row
                )
                async with contextlib.aclosing(outcomes):
                    async for outcome in outcomes:
                        _note(outcome, steps, first, seen)
                await close(road)
                left = _left(prepared.recipe, store)
                looked = [_step(step, tally, left_out) for step in steps]
                asked = [_teacher(t, seen.get(t.identity.name, Seen()), left) for t in teachers.values()]
    return {
        "recipe": prepared.recipe.name,
        "seeds": tally.seeds,
        "skipped_seeds": prepared.seeds.skipped,
        "left_out": {
            rule: sum(count.rejected[rule] for count in tally.steps.values()) for rule in (EXCLUDED, FORGOTTEN)
        },
        "steps": looked,
        "teachers": asked,
        "usd": _sum([each["usd"] for each in asked]),
        "target_rows": prepared.recipe.dataset.target_rows,
        "builds": _builds(prepared.recipe, looked),
        "budget": prepared.recipe.budget.model_dump(),
        "prompts": [
            {"step": step.name, "prompt": step.prompt.name, "messages": first[step.name]}
            for step in steps
            if isinstance(step, Generate | Judge) and step.name in first
        ],
        "terms": prepared.terms.outlook() if prepared.terms is not None else None,
        "warnings": [str(warning) for warning in prepared.warnings],
    }


def _note(outcome: Outcome, steps: Sequence[Step], first: dict[str, Messages], seen: dict[str, Seen]) -> None:
    """Keep the first prompt that can be rendered for each asking step, and the tokens of every answer met."""
    if isinstance(outcome, SeedEnd):
        return
    row = outcome if isinstance(outcome, Row) else outcome.row
    for record in row.trail:
        if record.get("tokens"):
            seen.setdefault(record["teacher"], Seen()).add(record["key"], record["tokens"])
        for score in record.get("scores", ()):
            if score.get("tokens"):
                seen.setdefault(score["judge"], Seen()).add(score["key"], score["tokens"])
    for step in steps:
        if isinstance(step, Generate | Judge) and step.name not in first:
            with contextlib.suppress(RowFailed):
                first[step.name] = step.render(row)


def _step(step: Step, tally: Tally, left_out: Excluded) -> dict[str, Any]:
    """Return what is known of one step: calls it needs, answers it has, calls that depend on others' answers."""
    count = tally.steps.get(step.name, StepCount())
    outlook: dict[str, Any] = {"step": step.name, "rows": count.rows_in + count.born}
    outlook |= dict.fromkeys(("rounds", "calls", "stored", "more"))
    if isinstance(step, Bootstrap):
        outlook["rounds"] = step.settings.rounds
    if isinstance(step, Generate | Judge):
        samples = step.settings.sample_count if isinstance(step, Generate) else 1  # a judge's row fails once
        calls = count.failed.get("not_stored", 0)
        outlook |= {"calls": calls, "stored": count.rows_in * samples - calls - left_out.unasked[step.name]}
        names = list(tally.steps)
        before = names[: names.index(step.name)] if step.name in names else names
        waiting = sum(tally.steps[name].failed.get("not_stored", 0) for name in before)
        if waiting:
            outlook["more"] = waiting * samples
    return outlook


def _builds(recipe: Recipe, looked: Sequence[dict[str, Any]]) -> int:
    """Return how many builds it takes: one, and one more for each step that asks in batches and lacks answers."""
    rounds = 0
    for (_, settings), outlook in zip(recipe.all_steps(), looked, strict=True):
        if isinstance(settings, GenerateStep | JudgeStep):
            is_batch = any(recipe.teachers[name].mode == "batch" for name in recipe.teachers_of(settings))
            rounds += is_batch and bool(outlook["calls"] or outlook["more"])
    return 1 + rounds


def _left(recipe: Recipe, store: AnswerStore) -> Decimal | None:
    """Return the dollars that a build may spend, None without a budget."""
    limits = [Decimal(str(recipe.budget.usd))] if recipe.budget.usd is not None else []
    if recipe.budget.usd_total is not None:
        spent = store.spent(recipe.name)
        limits.append(Decimal(str(recipe.budget.usd_total)) - Decimal(spent.nanousd + spent.unknown_nanousd).scaleb(-9))
    return min(limits, default=None)


def _teacher(teacher: Teacher, seen: Seen, left: Decimal | None) -> dict[str, Any]:
    """Return what a build would ask of one teacher, what that may cost, and how the figures were got."""
    missing, prices = teacher.missing, teacher.meter.prices
    calls = len(missing.keys)
    outlook: dict[str, Any] = {
        "teacher": teacher.identity.name,
        "model": teacher.identity.model,
        "calls": calls,
        "prompt_tokens": None,
        "completion_tokens": None,
        "tokens_from": None,
        "in_flight_on_budget": None,
        "prices": prices.source if prices else None,
        "usd": [0.0, 0.0] if prices is FREE or not calls else None,
    }
    if not calls:
        return outlook
    prompt, completion, how = _tokens(teacher, seen)
    outlook |= {"prompt_tokens": prompt, "completion_tokens": completion, "tokens_from": how}
    if prices is None or prices is FREE:
        return outlook
    # As many equal calls: a tier by the size of a prompt counts for each of them, not for their sum.
    low, high = estimate(
        prices, calls, prompt[0] // calls, math.ceil(prompt[1] / calls),
        completion[0] // calls, math.ceil((completion[1] or 0) / calls),
    )  # fmt: skip
    outlook["usd"] = [_dollars(low), None if completion[1] is None else _dollars(high)]
    if left is not None and missing.max_tokens:
        worst = prices.worst_case(missing.prompt_bytes // calls, missing.max_tokens // calls)
        affordable = int(Decimal(max(left, Decimal(0))) / worst) if worst else calls
        outlook["in_flight_on_budget"] = min(affordable, teacher.pool.cap)
    return outlook


def _tokens(teacher: Teacher, seen: Seen) -> tuple[tuple[int, int], tuple[int, int | None], str]:
    """Return the likely tokens of all missing calls, in and out, and where the figures come from."""
    missing = teacher.missing
    calls = len(missing.keys)
    most = missing.max_tokens if not missing.unlimited else None
    if len(seen) < ENOUGH:
        dense, sparse = BYTES_PER_TOKEN
        prompt = int(missing.prompt_bytes / sparse), math.ceil(missing.prompt_bytes / dense)
        low = calls * SHORTEST_REPLY
        return prompt, (min(low, most) if most else low, most), "the bytes of the prompts; replies up to max_tokens"
    each = seen.prompt / len(seen)
    prompt = int(calls * each * 0.9), math.ceil(calls * each * 1.1)
    low_reply, high_reply = seen.completion_range
    high = math.ceil(calls * high_reply)
    how = f"{len(seen):,} stored answers of this recipe"
    return prompt, (int(calls * low_reply), min(high, most) if most else high), how


def _dollars(usd: Decimal) -> float:
    return round(float(usd), 6)


def _sum(ranges: Sequence[list[float | None] | None]) -> list[float | None] | None:
    """Add up price ranges; one that is unknown makes the sum unknown."""
    known = [each for each in ranges if each is not None]
    if len(known) < len(ranges):
        return None
    highs = [high for _, high in known]
    low = round(sum(low or 0.0 for low, _ in known), 6)
    return [low, None if None in highs else round(sum(high or 0.0 for high in highs), 6)]
