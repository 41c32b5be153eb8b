"""Order, look-ahead and memory of the road, without a teacher."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillgen.dataset.splits import split_of
from distillgen.errors import NotWritable, RowFailed
from distillgen.road import Turnstile, in_order, in_thread, travel
from distillgen.rows import Failure, Outcome, Rejection, Row
from distillgen.tally import StepCount, Tally


def row(number: int) -> Row:
    return Row(str(number), str(number), None, {"n": number})


async def source(count: int) -> AsyncGenerator[Outcome, None]:
    for number in range(count):
        yield row(number)


class Asker:
    """An asking step whose answers come late, in an order of its own."""

    name = "ask"

    def __init__(self, delays: Sequence[float], samples: int = 1, stored: frozenset[int] = frozenset()) -> None:
        self.delays, self.samples, self.known = delays, samples, stored
        self.now = self.peak = 0

    def questions(self, row: Row) -> list[tuple[int, int]]:
        if row.columns["n"] == 13:
            raise RowFailed("template", "unlucky", lasting=True)
        return [(row.columns["n"], sample) for sample in range(self.samples)]

    def stored(self, question: tuple[int, int]) -> str | None:
        return "stored" if question[0] in self.known else None

    async def ask(self, question: tuple[int, int]) -> str:
        self.now += 1
        self.peak = max(self.peak, self.now)
        await asyncio.sleep(self.delays[question[0] % len(self.delays)])
        self.now -= 1
        if question[0] == 7:
            raise RowFailed("http_500", "down", lasting=False)
        return "new"

    def ask_again(self, question: tuple[int, int], answer: str) -> None:
        return None

    def rows(self, row: Row, sample: int, answer: str) -> list[Outcome]:
        return [self.row_of(row, sample)]

    def row_of(self, row: Row, sample: int) -> Row:
        return row.child(str(sample)) if self.samples > 1 else row


def odd(row: Row) -> tuple[Outcome]:
    return (row,) if row.columns["n"] % 2 else (Rejection(row, "odd", "even", "x"),)


class Step:
    name = "odd"

    def __call__(self, row: Row) -> tuple[Outcome]:
        return odd(row)


class Stream:
    name = "stream"

    def __init__(self, block_rows: int = 4) -> None:
        self.block_rows, self.blocks = block_rows, list[list[str]]()

    @property
    def seen(self) -> list[str]:
        return [name for block in self.blocks for name in block]

    def __call__(self, rows: Sequence[Row]) -> list[Outcome]:
        self.blocks.append([row.id for row in rows])
        return list(rows)


def run(steps: list, count: int, spool: Path, in_flight: int = 10, tally: Tally | None = None) -> list[Outcome]:
    async def main() -> list[Outcome]:
        return [
            o
            async for o in travel(source(count), steps, tally=(tally or Tally()).step, spool=spool, in_flight=in_flight)
        ]

    return asyncio.run(main())


def adds_up(count: StepCount) -> bool:
    gone = count.rejected.total() + count.failed.total() + count.merged
    return count.rows_in + count.born == count.out + gone


def name_of(outcome: Outcome) -> str:
    return outcome.id if isinstance(outcome, Row) else outcome.row.id


def test_order_is_restored_before_streams_and_at_the_end(tmp_path: Path) -> None:
    stream = Stream()
    asker = Asker([0.03, 0.0, 0.01, 0.002], samples=2)
    tally = Tally()
    out = run([Step(), asker, stream, Asker([0.01, 0.0])], 30, tmp_path, tally=tally)
    assert [int(name_of(o).split(".")[0]) for o in out] == sorted(int(name_of(o).split(".")[0]) for o in out)
    assert stream.seen == [f"{n}.{s}" for n in range(1, 30, 2) if n not in (7, 13) for s in range(2)]
    assert [type(o).__name__ for o in out[:3]] == ["Rejection", "Row", "Row"]
    failures = [(o.row.id, o.cause, o.lasting) for o in out if isinstance(o, Failure) and o.step == "ask"]
    assert failures[:3] == [("7.0", "http_500", False), ("7.1", "http_500", False), ("13", "template", True)]
    for count in tally.steps.values():
        assert adds_up(count)


def test_stored_answers_need_no_task_and_slow_rows_hold_up_nobody(tmp_path: Path) -> None:
    asker = Asker([0.0], stored=frozenset(range(500)))
    assert len(run([asker], 500, tmp_path)) == 500 and asker.peak == 0
    slow = Asker([0.2] + [0.0] * 99)
    assert len(run([slow], 100, tmp_path, in_flight=4)) == 100 and slow.peak <= 4


@given(st.permutations(range(40)), st.integers(min_value=1, max_value=10))
def test_a_turnstile_gives_back_in_order_with_little_memory(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], in_memory: int
) -> None:
    turnstile = Turnstile(tmp_path_factory.mktemp("spool"), in_memory)
    out: list[str] = []
    for position in order:
        turnstile.put(position, [row(position)])
        assert len(turnstile) - turnstile._in_file <= in_memory + 1
        out += [o[0].id for o in turnstile.take()]  # type: ignore[union-attr]
    assert out == [str(n) for n in range(40)] and len(turnstile) == 0
    turnstile.close()


@pytest.mark.parametrize("stored", [frozenset(), frozenset(range(1, 100))], ids=["answered", "stored"])
def test_a_spool_that_cannot_be_written_ends_the_run(
    tmp_path: Path, stored: frozenset[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early positions go to a file; where it cannot be made the run ends with a cause, it does not wait for ever."""
    monkeypatch.setattr("distillgen.road.IN_MEMORY", 1)
    (tmp_path / "spool").write_text("a file where the folder should be")
    with pytest.raises(NotWritable, match="spool"):
        run([Asker([0.2, *[0.0] * 99], stored=stored)], 100, tmp_path / "spool")


def test_the_look_ahead_is_bounded(tmp_path: Path) -> None:
    started: list[int] = []
    release = asyncio.Event()

    async def main() -> None:
        def start(outcome: Outcome):
            number = int(name_of(outcome))
            started.append(number)

            async def first() -> list[Outcome]:
                await release.wait()
                return [outcome]

            return first() if number == 0 else [outcome]

        async def unblock() -> None:
            await asyncio.sleep(0.05)
            assert len(started) == 20
            release.set()

        task = asyncio.create_task(unblock())
        out = [o async for o in in_order(source(100), start, spool=tmp_path, in_flight=5, look_ahead=20)]
        await task
        assert [name_of(o) for o in out] == [str(n) for n in range(100)]

    asyncio.run(main())


def test_an_error_stops_everything_and_leaves_no_task(tmp_path: Path) -> None:
    class Broken(Asker):
        async def ask(self, question: tuple[int, int]) -> str:
            await super().ask(question)
            if question == (5, 0):
                raise OSError("disk")
            return ""

    async def main() -> None:
        with pytest.raises(OSError, match="disk"):
            async for _ in travel(source(50), [Broken([0.01])], tally=Tally().step, spool=tmp_path, in_flight=8):
                pass
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_rows_from_a_thread() -> None:
    async def main() -> list[str]:
        return [r.id async for r in in_thread(row(n) for n in range(1000))]

    assert asyncio.run(main()) == [str(n) for n in range(1000)]

    def broken():
        yield row(0)
        raise ValueError("bad seed")

    async def fails() -> None:
        async for _ in in_thread(broken()):
            pass

    with pytest.raises(ValueError, match="bad seed"):
        asyncio.run(fails())


@given(st.lists(st.text(min_size=1), min_size=1, max_size=50))
def test_a_row_never_changes_split(keys: list[str]) -> None:
    splits = {"train": 0.7, "validation": 0.2, "test": 0.1}
    assert all(split_of(key, splits) == split_of(key, splits) in splits for key in keys)


def test_splits_have_their_shares() -> None:
    names = [split_of(str(n), {"train": 0.9, "validation": 0.1}) for n in range(10_000)]
    assert 0.88 < names.count("train") / 10_000 < 0.92
    assert {split_of(str(n), {"only": 1.0}) for n in range(100)} == {"only"}


def test_a_road_that_ends_early_drains_before_it_gives_rows_up(tmp_path: Path) -> None:
    asker = Asker([0.0, 0.1])
    received: list[int] = []

    async def drain() -> None:
        received.append(asker.now)
        while asker.now:
            await asyncio.sleep(0.01)

    async def main() -> None:
        outcomes = travel(source(50), [asker], tally=Tally().step, spool=tmp_path, in_flight=8, drain=drain)
        async for _ in outcomes:
            break
        await outcomes.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert len(received) == 1 and received[0] > 0 and asker.now == 0


def test_an_answer_of_no_use_is_asked_for_again(tmp_path: Path) -> None:
    class Picky(Asker):
        def ask_again(self, question: tuple[int, int], answer: str) -> tuple[int, int] | None:
            return (question[0], question[1] + 1) if question[1] < 2 else None

    asker = Picky([0.0], stored=frozenset({1}))
    asked: list[tuple[int, int]] = []
    ask = asker.ask

    async def noted(question: tuple[int, int]) -> str:
        asked.append(question)
        return await ask(question)

    asker.ask = noted  # type: ignore[method-assign]
    out = run([asker], 3, tmp_path)
    assert [name_of(o) for o in out] == ["0", "1", "2"]
    assert sorted(asked) == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2)]
