"""Writes the rows of a pipe in a format, as they come: to an open stream, or to a folder of which either all is new or
nothing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

from distillgen.errors import DistillgenError, NameInvalid, UsageError
from distillgen.export.formats import Format, Made, Unfit, system_of
from distillgen.export.options import Options
from distillgen.export.piped import Columns, NoTrainingRow, training_row
from distillgen.export.place import files_for, may_stand_in
from distillgen.export.reading import PIPE, Arriving, Line, Row, is_pair
from distillgen.export.sinks import SINKS, Sink
from distillgen.export.write import Misfits, closed, places, require, written
from distillgen.files import safe_name

TRAIN = "train"  # the split of a pipe's row that names none
MOST_SPLITS = 100  # of a pipe: each is an open file
COLUMNS_FIX = (
    "--prompt-column and --answer-column name columns; --rejected FILE takes such rows out of the way and goes on"
)
KEYS = ("reasoning_content", "thinking")  # placements of reasoning that give every row a key


class Piped:
    """The rows of a pipe on their way into a format.

    `aside` takes a row that does not fit, with the reason; without it such a row is an error. What the version of a
    dataset decides, its first row decides here: conversations or pairs, texts or messages, the system's message.
    """

    def __init__(
        self, rows: Arriving, form: Format, options: Options, columns: Columns, *, split: str | None = None,
        aside: Callable[[Line, str], None] | None = None,
    ) -> None:  # fmt: skip
        require(form, options)
        self.form = form
        self._rows, self._options, self._columns = rows, options, columns
        self._split, self._aside = split, aside
        self._are_pairs: bool | None = None
        fix = "another format may carry such rows; --rejected FILE takes them out of the way and goes on"
        self.misfits = Misfits(PIPE, form, where="", fix=fix)

    def __iter__(self) -> Iterator[list[tuple[str, list[Made]]]]:
        """Yield what is made of rows that came together, each with its split; up to a row that does not fit."""
        for lines in self._rows:
            held = []
            for line in lines:
                try:
                    split = _split_of(line.row)
                    if self._split in (None, split):
                        held.append((split, self._made(line)))
                except Unfit as unfit:
                    if self._aside is not None:
                        self._aside(line, str(unfit))
                        continue
                    if isinstance(unfit, NoTrainingRow):
                        self.misfits.fix = COLUMNS_FIX
                    self.misfits.add(f"at line {line.number}", str(unfit))
                    break
            yield held

    def _made(self, line: Line) -> list[Made]:
        row = training_row(line.row, f"line {line.number}", self._columns, are_labels=self.form.name == "labels")
        are_pairs = is_pair(row)
        if self.form.takes == ("conversation" if are_pairs else "pair"):
            what = "one preference pair; --format preference" if are_pairs else "one conversation, and no pair"
            raise Unfit(f"it is {what}")
        if self._are_pairs not in (None, are_pairs):
            raise Unfit(f"it is {'a pair' if are_pairs else 'a conversation'}, and the rows before it are not")
        options = self._options if self._are_pairs is not None else _decided(self.form, self._options, row)
        allowed = places(self.form, options)
        if "reasoning" in row and options.reasoning not in allowed:
            raise Unfit(
                f"it has reasoning, which cannot go where {options.reasoning!r} says: "
                f"{self.form.why or 'there is no such key'}; --reasoning {' or '.join(allowed)}"
            )
        if options.reasoning in KEYS and options.reasoning in allowed:
            row.setdefault("reasoning", "")
        rendered = self.form.render(row, options)
        made = [rendered] if isinstance(rendered, dict) else list(rendered)
        if (why := next(filter(None, map(self.form.wrong, made)), None)) is not None:
            raise Unfit(why)
        self._options, self._are_pairs = options, are_pairs
        return made


def _decided(form: Format, options: Options, row: Row) -> Options:
    """Return the options with what the first row decides."""
    if options.as_text is None:
        is_one_turn = not is_pair(row) and [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        options = replace(options, as_text=is_one_turn and options.reasoning in ("think", "drop"))
    return replace(options, system=system_of(row["messages"])) if form.name == "labels" else options


def _split_of(row: Mapping[str, object]) -> str:
    """Return the split that a row names. Raises Unfit for one that can be no file's name."""
    name = row.get("split")
    if name is None:
        return TRAIN
    try:
        return safe_name(name, "split") if isinstance(name, str) else _no_split(name)
    except NameInvalid:
        return _no_split(name)


def _no_split(name: object) -> str:
    raise Unfit(f"its `split` is {str(name)[:40]!r}, which can be no file's name")


def pipe_to(out: IO[bytes], rows: Piped, *, each: bool) -> int:
    """Write the rows of a pipe to an open stream as they come, with `each` one by one; return how many.

    At a row that does not fit, those before it have gone out.
    """
    sink, count = SINKS[rows.form.suffix](out), 0
    try:
        for made in rows:
            together = (
                [[row] for _, some in made for row in some] if each else [[row for _, some in made for row in some]]
            )
            for some in together:
                sink.write(some)
                out.flush()
                count += len(some)
            if rows.misfits.count:
                raise rows.misfits.error(f" ({count:,} rows before it were written)")
    except DistillgenError:
        sink.close()
        raise
    sink.close()
    out.flush()
    return count


def pipe_to_folder(folder: Path, rows: Piped) -> list[Path]:
    """Write the rows of a pipe into a folder, a file per split; return them, put in place when all are whole.

    Raises UsageError at a row that does not fit, or when no row came; Locked, and what a disk may do.
    """
    may_stand_in(folder, None)
    with files_for(folder) as files:
        with ExitStack() as open_files:
            sinks: dict[str, Sink] = {}
            for made in rows:
                for split, some in made:
                    if split not in sinks:
                        if len(sinks) == MOST_SPLITS:
                            raise UsageError(f"over {MOST_SPLITS} splits in the rows' column `split`", where=PIPE)
                        file = open_files.enter_context(written(files.add(f"{split}{rows.form.suffix}")))
                        sinks[split] = open_files.enter_context(closed(SINKS[rows.form.suffix](file)))
                    sinks[split].write(some)
                if rows.misfits.count:
                    raise rows.misfits.error()
            if not sinks:
                raise UsageError("no rows came, so nothing is written", where=PIPE)
        return files.put_in_place()
