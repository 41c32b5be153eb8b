"""The road's other shapes: blocks of a stream, groups of samples, rows that wait for a program or for several answers,
and the rounds of a bootstrap. The steps are scripted; the road is the real one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_road import Asker, Step, Stream, adds_up, name_of, row, run

from distillgen.errors import RowFailed
from distillgen.road import in_blocks, travel
from distillgen.rows import Failure, Outcome, Rejection, Row, SeedEnd
from distillgen.shapes import Outcomes
from distillgen.step_settings import BootstrapStep
from distillgen.steps.bootstrap import EXAMPLES, Bootstrap
from distillgen.tally import Tally


@given(st.integers(1, 9), st.lists(st.booleans(), max_size=30))
def test_blocks_hold_every_outcome_once_in_order(size: int, pauses: list[bool]) -> None:
    async def source() -> AsyncGenerator[Outcome, None]:
        for number, pause in enumerate(pauses):
            if pause:
                await asyncio.sleep(0)
            yield row(number)

    async def main() -> list[list[Outcome]]:
        return [block async for block in in_blocks(source(), size)]

    blocks = asyncio.run(main())
    assert [name_of(each) for block in blocks for each in block] == [str(n) for n in range(len(pauses))]
    assert all(0 < len(block) <= size for block in blocks)


def test_a_block_is_closed_when_the_input_pauses_and_a_full_one_at_once() -> None:
    gate = asyncio.Event()

    async def source() -> AsyncGenerator[Outcome, None]:
        for number in range(5):
            if number == 3:
                await gate.wait()
            yield row(number)

    async def main() -> list[int]:
        sizes = []
        async for block in in_blocks(source(), 2):
            sizes.append(len(block))
            if sum(sizes) == 3:
                gate.set()  # the third row was given although no fourth had come
        return sizes

    assert asyncio.run(main()) == [2, 1, 2]


def test_long_texts_close_a_block_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillgen.road.BLOCK_CHARACTERS", 25)

    async def source() -> AsyncGenerator[Outcome, None]:
        for number in range(6):
            yield Row(str(number), str(number), None, {"answer": "ten chars.", "n": number})

    async def main() -> list[int]:
        return [len(block) async for block in in_blocks(source(), 100)]

    assert asyncio.run(main()) == [3, 3]


def test_an_error_behind_a_block_comes_after_its_rows_and_closing_early_ends_the_source() -> None:
    ended = []

    async def source(count: int) -> AsyncGenerator[Outcome, None]:
        try:
            for number in range(count):
                yield row(number)
            raise RuntimeError("torn")
        finally:
            ended.append(count)

    async def main() -> list[str]:
        seen = []
        with pytest.raises(RuntimeError, match="torn"):
            async for block in in_blocks(source(3), 10):
                seen += [name_of(each) for each in block]
        blocks = in_blocks(source(1_000_000), 10)
        async for _ in blocks:
            break
        await blocks.aclose()
        return seen

    assert asyncio.run(main()) == ["0", "1", "2"] and ended == [3, 1_000_000]


class Group:
    """Keeps the first row of a group and merges the second into it; further ones are refused."""

    name, is_group = "group", True

    def __init__(self) -> None:
        self.groups: list[list[str]] = []

    def __call__(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        self.groups.append([f"{type(each).__name__[0]}{name_of(each)}" for each in outcomes])
        first, *others = [each for each in outcomes if isinstance(each, Row)]
        return [first, *(Rejection(each, self.name, "more", "x") for each in others[1:])]


class Half:
    name = "half"

    def __call__(self, row: Row) -> tuple[Outcome]:
        return (Rejection(row, self.name, "half", "x") if row.id.endswith(".1") else row,)


def test_a_group_sees_all_that_came_of_one_row_and_what_is_merged_is_counted(tmp_path: Path) -> None:
    group, tally = Group(), Tally()
    asker = Asker([0.02, 0.0, 0.005], samples=4)
    out = run([asker, Half(), group, Stream()], 20, tmp_path, tally=tally)
    assert group.groups[0] == ["R0.0", "R0.1", "R0.2", "R0.3"]
    assert len(group.groups) == 18  # 7 failed whole, 13 was never asked
    kinds = [type(each).__name__ for each in out if name_of(each).startswith("0.")]
    assert kinds == ["Rejection", "Row", "Rejection"]  # refused by half; the first of three; the third
    assert all(adds_up(count) for count in tally.steps.values())
    assert tally.steps["group"].merged == 18 and tally.steps["group"].out == 18


def test_groups_end_with_their_seed(tmp_path: Path) -> None:
    async def source() -> AsyncGenerator[Outcome, None]:
        for number in range(3):
            yield row(number)
            yield SeedEnd(str(number))

    async def main() -> list[str]:
        outcomes = travel(source(), [Asker([0.0], samples=2), Group()], tally=Tally().step, spool=tmp_path, in_flight=4)
        return [f"end {o.origin}" if isinstance(o, SeedEnd) else name_of(o) async for o in outcomes]

    assert asyncio.run(main()) == ["0.0", "end 0", "1.0", "end 1", "2.0", "end 2"]


class Slow:
    name = "slow"

    def __init__(self) -> None:
        self.now = self.peak = 0

    async def work(self, row: Row) -> tuple[Outcome]:
        self.now += 1
        self.peak = max(self.peak, self.now)
        await asyncio.sleep(0.005 if row.columns["n"] % 2 else 0)
        self.now -= 1
        return (row if row.columns["n"] % 3 else Rejection(row, self.name, "third", "x"),)


def test_rows_that_wait_for_a_program_keep_their_order(tmp_path: Path) -> None:
    slow, tally = Slow(), Tally()
    out = run([slow, Step()], 40, tmp_path, in_flight=6, tally=tally)
    assert [name_of(each) for each in out] == [str(n) for n in range(40)] and 1 < slow.peak <= 6
    assert tally.steps["slow"].rejected["third"] == 14 and tally.steps["odd"].rows_in == 26


class Joining(Asker):
    name = "join"

    def stored(self, question: tuple[int, int]) -> str | None:
        return f"stored {question[1]}" if question[1] == 0 or question[0] in self.known else None

    def joined(self, row: Row, answers: Sequence[str | RowFailed]) -> list[Outcome]:
        words = [each.cause if isinstance(each, RowFailed) else each for each in answers]
        return [row.passed({"step": self.name}, words=words)]


def test_all_answers_about_a_row_come_together_in_the_order_of_its_questions(tmp_path: Path) -> None:
    step, tally = Joining([0.01, 0.0], samples=3, stored=frozenset({4})), Tally()
    out = run([step, Step()], 14, tmp_path, tally=tally)
    words = {name_of(each): each.columns["words"] for each in out if isinstance(each, Row)}
    assert words["5"] == ["stored 0", "new", "new"] and words["7"] == ["stored 0", "http_500", "http_500"]
    assert isinstance(out[13], Failure) and out[13].cause == "template"  # its questions could not be put
    assert all(adds_up(count) for count in tally.steps.values())


class Inventor:
    """Stands for a generate step: makes a row out of the examples it is shown, unlike them but for every fifth."""

    name = "1.1.generate"

    def __init__(self, failing: frozenset[str] = frozenset()) -> None:
        self.failing, self.shown = failing, list[list[str]]()

    async def work(self, row: Row) -> tuple[Outcome]:
        self.shown.append(row.columns[EXAMPLES])
        await asyncio.sleep(0.001 * (len(self.shown) % 3))
        if row.id in self.failing:
            return (Failure(row, self.name, "http_500", "down", lasting=False),)
        text = row.columns[EXAMPLES][0] if row.id.endswith("5") else f"after {' and '.join(row.columns[EXAMPLES])}"
        return (row.passed({"step": self.name}, question=text),)


class Unlike:
    name, block_rows = "1.2.deduplicate", 3

    def __init__(self) -> None:
        self.known: set[str] = set()

    def __call__(self, rows: Sequence[Row]) -> list[Outcome]:
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Outcome:
        if row.columns["question"] in self.known:
            return Rejection(row, self.name, "exact_duplicate", "x")
        self.known.add(row.columns["question"])
        return row


def grow(
    tmp_path: Path, in_flight: int = 8, seeds: int = 6, inventor: Inventor | None = None, **settings: object
) -> tuple[list[Outcome], Tally]:
    stated = {"use": "bootstrap", "steps": [{"use": "generate", "prompt": "self_instruct"}], "examples": 2, "draws": 7}
    step = Bootstrap("1.bootstrap", BootstrapStep(**{**stated, **settings}), [inventor or Inventor(), Unlike()])
    tally = Tally()

    async def source() -> Outcomes:
        for number in range(seeds):
            yield Row(f"s{number}", f"s{number}", None, {"question": f"seed {number}"})

    async def main() -> list[Outcome]:
        return [o async for o in travel(source(), [step], tally=tally.step, spool=tmp_path, in_flight=in_flight)]

    return asyncio.run(main()), tally


def test_a_bootstrap_grows_in_rounds_the_same_in_any_order_of_arrival(tmp_path: Path) -> None:
    out, tally = grow(tmp_path, rounds=4)
    assert out == grow(tmp_path, in_flight=1, rounds=4)[0]
    made = [each for each in out if isinstance(each, Row) and each.id.startswith("1.")]
    assert [name_of(each) for each in out[:6]] == [f"s{n}" for n in range(6)]
    assert {each.trail[0]["round"] for each in made} == {1, 2, 3, 4}
    first = [each for each in made if each.trail[0]["round"] == 1]
    assert all(name.startswith("s") for each in first for name in each.trail[0]["examples"])
    later = {name for each in made if each.trail[0]["round"] > 1 for name in each.trail[0]["examples"]}
    assert any(name.startswith("1.bootstrap") for name in later)  # what was made is shown in its turn
    assert all(EXAMPLES not in each.columns for each in made)
    refused = [each for each in out if isinstance(each, Rejection)]
    assert {each.rule for each in refused} == {"exact_duplicate"}  # the fifth of a round says what a seed says
    assert all(adds_up(count) for count in tally.steps.values())
    assert tally.steps["1.bootstrap"].rows_in == 6 and tally.steps["1.bootstrap"].born == len(made)


def test_a_bootstrap_stops_at_its_rows_and_counts_what_came_behind(tmp_path: Path) -> None:
    out, tally = grow(tmp_path, rows=10, rounds=50, keep_seeds=False)
    assert sum(isinstance(each, Row) for each in out) == 10
    assert tally.steps["1.bootstrap"].merged == 6 and tally.steps["1.bootstrap"].born == 10 + sum(
        isinstance(each, Rejection) and each.rule == "enough" for each in out
    )
    drawn = tally.steps["1.1.generate"].rows_in
    assert drawn <= 7 + 7  # the second round has as many draws as are likely to be needed
    assert len(grow(tmp_path, rows=10**6, rounds=3)[0]) == 6 + 21


def test_a_round_that_is_not_decided_is_the_last_of_the_run(tmp_path: Path) -> None:
    out, _ = grow(tmp_path, rounds=4, inventor=Inventor(frozenset({"1.bootstrap-2-3"})))
    rounds = {each.trail[0]["round"] for each in out if isinstance(each, Row) and each.trail}
    assert rounds == {1, 2} and sum(isinstance(each, Failure) for each in out) == 1
    whole, _ = grow(tmp_path, rounds=2)
    assert [o for o in whole if isinstance(o, Row)][:12] == [o for o in out if isinstance(o, Row)][:12]


def test_examples_from_the_seeds_and_a_pool_of_nothing(tmp_path: Path) -> None:
    inventor = Inventor()
    grow(tmp_path, rounds=5, examples=3, from_seeds=2, inventor=inventor)
    assert all(sum(text.startswith("seed") for text in shown) >= 2 for shown in inventor.shown)
    assert all(len(set(shown)) == 3 for shown in inventor.shown)
    few = Inventor()
    grow(tmp_path, rounds=1, seeds=1, examples=5, inventor=few)
    assert few.shown == [["seed 0"]] * 7
    assert grow(tmp_path, seeds=0)[0] == []
