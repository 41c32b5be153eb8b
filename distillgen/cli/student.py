"""Commands `student train`, `student evaluate` and `student check`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from distillgen.cli import completion, options
from distillgen.cli.export import Reasoning
from distillgen.cli.guard import find_in_project, guarded
from distillgen.cli.options import Budget, State, UnknownPrice

if TYPE_CHECKING:
    from distillgen.dataset.versions import Version
    from distillgen.mix.terms import Said
    from distillgen.student.base import Base
    from distillgen.student.folder import Student
    from distillgen.student.order import Order
    from distillgen.student.settings import GivenSettings

student = typer.Typer(no_args_is_help=True)
Project = Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's folder.")]


@student.callback()
def about_student() -> None:
    """Train a student on a version, and measure what was won.

    The trainer is TRL on transformers. It needs the extra `student`: pip install 'distillgen[student]'

    \b
    Examples:
      distillgen student train demo --base smollm2-135m --out model
      distillgen student evaluate --student model --on gold.jsonl

    \b
    Exit status:
      0 shown
    """


@student.command("train")
@guarded
def train(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A dataset: name, name@3, name@latest, or a version's folder.",
            autocompletion=completion.datasets,
        ),
    ],
    base: Annotated[
        str,
        typer.Option(
            "--base", metavar="MODEL", autocompletion=completion.models,
            help="What is trained: a model's folder, a GGUF file, a name on the hub, or an embedded model.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="The folder of the trained student; it appears whole.")
    ],
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings", metavar="FILE", show_default=False,
            help="Training settings as TOML. Default: chosen by the model's size and the rows.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one of the settings, e.g. epochs=3."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=2**31 - 1, metavar="N", help="Seed of order and initial values.",
                     show_default=False),
    ] = None,
    long: Annotated[
        Literal["error", "drop", "truncate"],
        typer.Option(
            "--long", metavar="WHAT", help="Rows longer than max_tokens of the settings: error, drop or truncate."
        ),
    ] = "error",
    reasoning: Annotated[
        Reasoning,
        typer.Option(
            "--reasoning", metavar="WHERE",
            help="Where the reasoning trace goes: think (in the answer), reasoning_content or thinking (a key beside "
            "it), or drop.",
        ),
    ] = Reasoning.THINK,
    gguf: Annotated[
        Literal["q8_0", "f16", "none"],
        typer.Option("--gguf", metavar="KIND", help="Write it for llama.cpp too: q8_0, f16, or none."),
    ] = "q8_0",
    purpose: Annotated[
        str | None, options.purpose("What the student is for, as in [terms]. Default: as the dataset has it.")
    ] = None,
    competing: Annotated[
        str | None, options.competing("Whether the student competes: yes, no, unknown. Default: as the dataset has it.")
    ] = None,
    accept: options.Accept = None,
    project: Project = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print what came of it as JSON, for programs.")] = False,
) -> None:  # fmt: skip
    """Train a student on a version.

    Loss falls on the answers alone. A version of pairs is trained on by DPO. The same command goes on after any stop;
    the folder is a model that transformers, vLLM and llama.cpp open, with its card, its report and a manifest.

    \b
    Examples:
      distillgen student train demo --base smollm2-135m --out model
      distillgen student train demo@2 --base me/model --out model --set epochs=3
      distillgen student train demo --base ./model --out new --long drop

    \b
    Exit status:
      0 trained   2 cannot be trained so, or an extra is missing
      4 the hub refuses the key   7 the hub is not reached   8 damaged
      9 terms not accepted   10 no such dataset, version or model
      11 another training is at work there   12 disk or memory
    """
    from distillgen.cli.mix import said_of
    from distillgen.student import require_student
    from distillgen.student.permission import require_allowed
    from distillgen.student.settings import read_settings

    version = find_in_project(name, project)
    said = said_of(purpose, competing, accept or [])
    require_allowed(version, said)
    given = read_settings(settings, set_ or [], seed)
    require_student()
    trained = _train(version, base, given, said, out=out, long=long, reasoning=reasoning.value, gguf=gguf)
    if as_json:
        from distillgen.schemas import document

        print(document("student-train", summary(trained)))
    else:
        _say_trained(trained)


def _train(
    version: "Version", base: str, given: "GivenSettings", said: "Said", *, out: Path, **order: Any
) -> "Student":
    """Find the base, choose what is not said by its size and the rows, and train."""
    from distillgen.export.reading import first_row, is_pair
    from distillgen.student.base import find_base
    from distillgen.student.order import Order, split_to_train
    from distillgen.student.permission import allowed, required_names
    from distillgen.student.progress import shown
    from distillgen.student.training import student_at, train

    rows = version.manifest.splits[split_to_train(version)]
    are_pairs = is_pair(first_row(version))
    is_new = student_at(out) is None  # what is in its place is told before a base is fetched or unpacked
    found = find_base(base)
    terms = allowed(version, found.student, said)
    _warn_of_name(out, required_names(terms))
    settings = given.completed(parameters=found.parameters, train_rows=rows, are_pairs=are_pairs)
    work = Order(version=version, base=found, out=out, settings=settings, terms=terms, **order)
    if is_new:
        _announce(work)
    with shown() as show:
        return train(work, show)


def _warn_of_name(out: Path, prefixes: list[str]) -> None:
    from distillgen.report.console import say

    name = out.absolute().name
    for prefix in prefixes:
        if not name.casefold().startswith(prefix.casefold()):
            say(
                f"warning: by the teacher's terms the name of a model trained on this begins with {prefix!r} when you "
                f"give it away; this folder is called {name!r}",
                style="yellow",
            )


def _announce(order: "Order") -> None:
    """Say what is trained on what, before the long wait."""
    from distillgen.report.console import number, say

    base, settings = order.base, order.settings
    method = "all weights" if settings.method == "full" else f"LoRA of rank {settings.lora.r}"
    say(
        f"training {base.name} ({base.parameters / 1e6:,.0f} M parameters) on {order.version.label}: {method}, "
        f"{number(settings.epochs, 'epoch')}, batches of {settings.batch}, learning rate {settings.learning_rate:g}"
    )


def summary(trained: "Student") -> dict[str, Any]:
    """Return what came of a training, for programs."""
    manifest = trained.manifest
    told = ("train_rows", "validation_rows", "long_rows", "steps", "best_step", "stopped_early", "seconds")
    return {
        "folder": str(trained.folder), "name": manifest.name,
        "dataset": {name: manifest.dataset.get(name) for name in ("name", "version", "digest")},
        "base": {name: manifest.base.get(name) for name in ("name", "sha256", "parameters")},
        **{name: manifest.training.get(name) for name in told},
        "files": {name: entry.model_dump(exclude_none=True) for name, entry in manifest.files.items()},
    }  # fmt: skip


def _say_trained(trained: "Student") -> None:
    from distillgen.report.console import clock, number, say

    told = trained.manifest.training
    best = told.get("best_step")
    kept = "kept the last" if best is None else f"kept that of step {best:,}"
    ended = "; stopped early" if told.get("stopped_early") else ""
    say(
        f"trained {trained.folder}: {number(told['train_rows'], 'row')}, {number(told['steps'], 'step')} in "
        f"{clock(told['seconds'])}, {kept}{ended}",
        style="bold green",
    )
    say(f"next: distillgen student evaluate --student {shlex.quote(str(trained.folder))} --on FILE")


@student.command("evaluate")
@guarded
def evaluate(
    folder: Annotated[Path, typer.Option("--student", metavar="DIR", help="The trained student's folder.")],
    on: Annotated[
        str,
        typer.Option(
            "--on", metavar="FILE|SPLIT",
            help="The questions: a file of seeds, with right answers in a column, or a split of the student's dataset.",
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="MODEL", show_default=False, autocompletion=completion.models,
            help="The untouched model, or none. Default: the one that the student was trained from.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", metavar="NAME", show_default=False,
            help="A teacher of the recipe, an embedded model, PROVIDER/MODEL, or none. Default: the recipe's.",
        ),
    ] = None,
    gold: Annotated[
        str | None,
        typer.Option(
            "--gold", metavar="COLUMN", help="The column with the right answer. Default: gold.", show_default=False
        ),
    ] = None,
    measure: Annotated[
        Literal["auto", "label", "exact", "number", "math", "json"],
        typer.Option(
            "--measure", metavar="HOW", help="When an answer is right: auto, label, exact, number, math or json."
        ),
    ] = "auto",
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge", metavar="NAME", show_default=False,
            help="Have a teacher say which answer is better, in both orders.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="So many of the questions, by chance. Default: all.",
                     show_default=False),
    ] = None,
    time_: Annotated[
        int, typer.Option("--time", min=0, metavar="N", help="Ask so many anew to measure speed; 0 measures none.")
    ] = 60,
    equal_prompts: Annotated[
        bool, typer.Option("--equal-prompts", help="Ask student and base with the teacher's prompt as well.")
    ] = False,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="COLUMN", help="Tell the figures of each group apart.", show_default=False),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            "--price-per-hour", min=0.0, metavar="USD", show_default=False,
            help="What an hour of this machine costs, for the price of answers.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, metavar="N", show_default=False,
                     help="The longest answer of student and base. Default: as the answers need."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", metavar="FILE", show_default=False,
                     help="How teacher and student are asked. Default: as when the dataset was made."),
    ] = None,
    project: Project = Path(),
    state: State = None,
    budget: Budget = None,
    allow_unknown_price: UnknownPrice = False,
    answers: Annotated[
        Path | None,
        typer.Option("--answers", metavar="FILE", show_default=False,
                     help="Write what each said to each question, and whether that is right, as JSON lines."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")] = False,
) -> None:  # fmt: skip
    """Ask teacher, base and student the same questions.

    It shows who is right how often, with intervals, and what answers cost in time and money. Every answer is on disk
    before it is used: the same command goes on after any stop, and asks nothing twice. Questions that are in the
    training data are left out. The figures go into the student's folder, its card and its report, where they take the
    place of earlier ones.

    \b
    Examples:
      distillgen student evaluate --student model --on gold.jsonl
      distillgen student evaluate --student model --on gold.csv --equal-prompts
      distillgen student evaluate --student model --on gold.csv --by group
      distillgen student evaluate --student model --on test --judge second --json

    \b
    Exit status:
      0 measured   2 no such file or column, or an extra is missing
      3 answers are missing   5 budget spent   7 teacher unavailable
      8 damaged   9 terms not accepted   10 the student's dataset is not here
      11 another one is at work   12 disk or memory
    """
    from distillgen.cli.guard import run_until_stopped
    from distillgen.cli.running import say_stopping
    from distillgen.report.console import safe, say, stdout
    from distillgen.schemas import document
    from distillgen.student.answers_file import require_place, write_answers
    from distillgen.student.evaluation import evaluating
    from distillgen.student.evaluation_request import EvaluationRequest
    from distillgen.student.folder import add_evaluation, is_card_edited, read_student, require_whole_model
    from distillgen.student.manifest import CARD
    from distillgen.student.page import student_page
    from distillgen.student.progress import shown
    from distillgen.student.tables import evaluation_shown

    if answers is not None:
        require_place(answers, folder)
    trained = read_student(folder)
    require_whole_model(trained)
    untouched, why_not = _untouched(base, trained)
    request = EvaluationRequest(
        student=trained, on=on, project=project, base=untouched, why_no_base=why_not, teacher=teacher, gold=gold,
        measure=measure, judge=judge, limit=limit, time=time_, equal_prompts=equal_prompts, by=by,
        usd_per_hour=price_per_hour, max_tokens=max_tokens, recipe=recipe, state=state, budget=budget,
        may_be_unpriced=allow_unknown_price,
    )  # fmt: skip
    with shown() as show:
        left = "every answer is kept, and the same command goes on from here"
        found = run_until_stopped(evaluating(request, show), say_stopping, left)
    figures, edited = found.figures, is_card_edited(trained)
    try:
        add_evaluation(trained, figures, student_page(trained.manifest, figures))
    finally:  # where the folder cannot be written, the figures are shown all the same
        if as_json:
            print(document("student-evaluate", figures))
        else:
            for each in evaluation_shown(figures):
                stdout().print(each)
    if answers is not None:
        write_answers(answers, found.answers)
    if edited:
        say(
            f"warning: {CARD} was changed by hand, and stays as it is; remove it and it is written anew", style="yellow"
        )
    if not as_json:
        told = ", ".join(["evaluation.json", "report.html", *([] if edited else [CARD])])
        say(f"written to {safe(str(folder))}: {told}", style="bold green")


@student.command("check")
@guarded
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The trained student's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")] = False,
) -> None:
    """Check that a student is what was trained.

    Every file is compared with the checksum in the manifest; what is changed, gone or new is named.

    \b
    Examples:
      distillgen student check model

    \b
    Exit status:
      0 whole   2 no student there, or written by a newer distillgen
      8 damaged
    """
    from distillgen.errors import Damaged
    from distillgen.report.console import number, safe, say
    from distillgen.schemas import document
    from distillgen.student.folder import check_student

    found, problems = check_student(folder)
    files = found.manifest.files.values()
    size = sum(each.bytes for each in files)
    if as_json:
        told = [{"what": each.what, "where": each.where} for each in problems]
        whole = {"whole": not problems, "findings": told}
        facts = {"name": found.manifest.name, "folder": str(folder), "files": len(files), "bytes": size, **whole}
        print(document("student-check", facts))
        if problems:
            raise typer.Exit(Damaged.exit_status)
    if problems:
        raise Damaged("damaged", problems=problems)
    if not as_json:
        say(f"{safe(str(folder))}: whole; {number(len(files), 'file')}, {size:,} bytes read", style="green")


def _untouched(name: str | None, trained: "Student") -> "tuple[Base | None, str]":
    """Return the model that the student was before: the one named, else the one that its manifest names; and why there
    is none."""
    from distillgen.errors import DistillgenError
    from distillgen.student.base import find_base

    if name is not None:
        return (None, "") if name == "none" else (find_base(name), "")
    stated = trained.manifest.base
    try:
        found = find_base(str(stated.get("name")))
    except DistillgenError as error:
        return None, error.problems[0].what
    if found.sha256 == stated.get("sha256"):
        return found, ""
    return None, f"what is called {found.name!r} here is another model"  # the student's own folder, perhaps
