"""Measures the student of a ready recipe: several seeds, fewer rows, intervals, answers a second against the teacher.

`bench/student.py PROJECT` wants a project whose dataset is built (`make student` leaves one). Each student is trained
and evaluated by the command line, which takes a quarter of an hour with all rows on two cores. Figures with date and
machine: README.md. Needs the extras `student` and `embedded`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distillgen.student.scores import Bootstrap

TEACHER, BASE, STUDENT = "teacher", "base", "student"


def run(*words: str) -> dict[str, Any]:
    """Run a command of distillgen and return the document that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "distillgen", *words, "--json", "--quiet"], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measured(arguments: argparse.Namespace, seed: int, rows: int | None, timed: int) -> dict[str, Any]:
    """Train one student and ask it; return the evaluation, with the seconds that the training took."""
    out = arguments.project / f"bench-{seed}-{rows or 'all'}"
    overrides = ["--set", f"rows={rows}"] if rows else []
    if not out.exists():
        run("student", "train", arguments.dataset, "--project", str(arguments.project), "--base", arguments.base,
            "--out", str(out), "--seed", str(seed), *overrides)  # fmt: skip
    equal = ["--equal-prompts"] if timed else []
    answers = out.with_suffix(".jsonl")
    found = run(
        "student", "evaluate", "--student", str(out), "--project", str(arguments.project), "--on", str(arguments.gold),
        "--time", str(timed), "--by", "group", "--answers", str(answers), *equal,
    )  # fmt: skip
    found["right"] = [json.loads(text)["right"] for text in answers.read_text(encoding="utf-8").splitlines()]
    found["seconds"] = round(json.loads((out / "manifest.json").read_text())["training"]["seconds"])
    return found


def of(found: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what is said of one contestant."""
    return next(each for each in found["contestants"] if each["name"] == name)


def points(score: dict[str, Any]) -> str:
    """Return a share with its interval, in per cent."""
    return f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def difference(found: dict[str, Any], other: str) -> str:
    """Return the student's lead over another, with its paired interval."""
    return points(next(each for each in found["differences"] if (each["of"], each["from"]) == (STUDENT, other)))


def line(label: str, found: dict[str, Any]) -> str:
    """Return the table's line of one student."""
    groups = of(found, STUDENT)["groups"]
    apart = " / ".join(f"{100 * groups[name]['value']:.0f}" for name in sorted(groups))
    cells = [
        label, points(of(found, STUDENT)["score"]), apart, difference(found, BASE), difference(found, TEACHER),
        str(found["seconds"]),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def table(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the tables' lines, the students of all rows first."""
    yield "| student | right, % [95 %] | by group | over the base, points | over the teacher, points | training, s |"
    yield "|---|---|---|---|---|---|"
    first: dict[str, Any] = {}
    told: list[str] = []
    for rows in (None, *sorted(arguments.rows, reverse=True)):
        students = []
        for seed in arguments.seeds:
            students.append(measured(arguments, seed, rows, 0 if first else arguments.timed))
            first = first or students[0]
            yield line(f"{rows or 'all'} rows, seed {seed}", students[-1])
        told.append(f"| {rows or 'all'} | {' | '.join(pooled(students))} |")
    yield "\n| rows | mean of the seeds, % | from, to | over the base, points | over the teacher, points |"
    yield from ("|---|---|---|---|---|", *told)
    yield from others(first)


def pooled(students: Sequence[dict[str, Any]]) -> list[str]:
    """Return the cells about several seeds together: the mean of the students, and its lead over base and teacher.

    The intervals speak of the questions, which are drawn anew, not of the seeds, which are too few for that.
    """
    values = [100 * of(found, STUDENT)["score"]["value"] for found in students]
    mean = [statistics.mean(rights) for rights in zip(*(column(found, STUDENT) for found in students), strict=True)]
    bootstrap = Bootstrap()
    leads = [bootstrap.difference(mean, column(students[0], name)).dump() for name in (BASE, TEACHER)]
    return [points(bootstrap.mean(mean).dump()), f"{min(values):.1f}, {max(values):.1f}", *map(points, leads)]


def column(found: dict[str, Any], name: str) -> list[float]:
    """Return for each question whether somebody is right: 1 or 0."""
    return [float(right[name]) for right in found["right"]]


def others(found: dict[str, Any]) -> Iterator[str]:
    """Yield what is said of all contestants in one evaluation, speed included."""
    yield f"\nOn {found['on']['questions']} questions with {found['on']['with_gold']} right answers known:\n"
    yield "| who | right, % [95 %] | F1 | agrees with the teacher, % | answers a second | x the teacher |"
    yield "|---|---|---|---|---|---|"
    pace = (of(found, TEACHER)["speed"] or {}).get("per_second")
    for each in found["contestants"]:
        speed = (each["speed"] or {}).get("per_second")
        times = f"{speed / pace:.1f}" if speed and pace else ""
        cells = [
            each["name"], points(each["score"]), f"{each['f1']['value']:.3f}" if each["f1"] else "",
            points(each["agreement"]) if each["agreement"] else "", f"{speed:.2f}" if speed else "", times,
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--dataset", default="sentiment")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--gold", type=Path, help="default: seeds/sentences_gold.jsonl in the project")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, nargs="*", default=[100, 200, 400])
    parser.add_argument("--timed", type=int, default=100, help="questions asked anew for the speed")
    found = parser.parse_args(arguments)
    found.gold = found.gold or found.project / "seeds" / "sentences_gold.jsonl"
    for each in table(found):
        print(each, flush=True)


if __name__ == "__main__":
    main()
