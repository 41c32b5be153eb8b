"""Command `plan`."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from distillgen.cli import running
from distillgen.cli.guard import guarded, project_recipe, run_until_stopped
from distillgen.cli.options import Budget, Limit, Recipe, Set, SkipBad, State, UnknownPrice, on_budget


@guarded
def plan(
    recipe: Recipe = None,
    limit: Limit = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample", min=1, metavar="N", show_default=False,
            help="Ask for the first N seeds, keep the answers, and plan from what they used. This costs money.",
        ),
    ] = None,
    budget: Budget = None,
    allow_unknown_price: UnknownPrice = False,
    skip_bad_seeds: SkipBad = False,
    state: State = None,
    set_: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")] = False,
) -> None:  # fmt: skip
    """Show what a build would do before anything is sent.

    It counts rows, stored answers, calls and tokens, gives a price range, and renders the first prompt of each step.

    \b
    Examples:
      distillgen plan
      distillgen plan --sample 20
      distillgen plan recipe.toml --json

    \b
    Exit status:
      0 the recipe can run   2 it cannot
      3 --sample: answers are missing   4 key absent or refused
      5 budget or quota used up   7 teacher unavailable
      8 a file is damaged   9 terms not accepted
      11 another build is running
      12 disk full   129, 130, 143 stopped by a signal
    """
    import asyncio

    from distillgen.pipeline import Options
    from distillgen.planning import foresee
    from distillgen.preparation import prepare
    from distillgen.report import console
    from distillgen.schemas import document
    from distillgen.tally import Tally

    prepared = prepare(
        project_recipe(recipe), overrides=(*(set_ or ()), *on_budget(budget)), skip_bad_seeds=skip_bad_seeds,
        will_ask=sample is not None, allow_unknown_price=allow_unknown_price, state=state,
    )  # fmt: skip
    if sample is not None:
        if prepared.terms is not None:
            prepared.terms.require()
        run_until_stopped(running.build(prepared, Options(limit=sample, publish=False), Tally()), running.say_stopping)
    outlook = asyncio.run(foresee(prepared, Options(limit=limit, offline=True)))
    if as_json:
        print(document("plan", outlook))
        return
    for warning in prepared.warnings:
        console.say(f"warning: {warning}", style="yellow")
    print(console.safe(f"recipe   {prepared.recipe.name} ({prepared.source.path})"))
    for line in _outlook(outlook):
        print(console.safe(line))


def _outlook(outlook: dict[str, Any]) -> Iterator[str]:
    """Yield a plan as lines for people."""
    skipped = f" ({outlook['skipped_seeds']:,} bad ones skipped)" if outlook["skipped_seeds"] else ""
    yield f"seeds    {outlook['seeds']:,}{skipped}"
    if any(outlook["left_out"].values()):
        words = ", ".join(f"{count:,} {rule}" for rule, count in outlook["left_out"].items() if count)
        yield f"left out {words}: no teacher is asked about them"
    for step in outlook["steps"]:
        words = f"{step['stored']:,} answers stored, {step['calls']:,} calls" if step["calls"] is not None else ""
        words += (
            f"the first of up to {step['rounds']:,} rounds, each of as many calls" if step["rounds"] is not None else ""
        )
        more = f", and up to {step['more']:,} more for rows that have no answer yet" if step["more"] else ""
        yield f"{step['step']:<8} {words}{more}".rstrip()
    for teacher in outlook["teachers"]:
        yield f"teacher  {teacher['teacher']} ({teacher['model']}): {_asked_of(teacher)}"
    if any(step["calls"] for step in outlook["steps"]):
        yield f"cost     {_price(outlook['usd'])}"
    if outlook["target_rows"]:
        yield f"target   {outlook['target_rows']:,} rows: asking stops there, the figures above are for all seeds"
    if outlook["builds"] > 1:
        yield f"builds   {outlook['builds']}: each batch is collected by a later one, and asks for the next step"
    for name, usd in outlook["budget"].items():
        if usd is not None:
            yield f"budget   {name} = {usd:g}"
    yield from _terms_of(outlook["terms"])
    for prompt in outlook["prompts"]:
        yield f"\n── {prompt['step']}, prompt {prompt['prompt']}; the first:"
        for turn in prompt["messages"]:
            yield f"{turn['role']}: {turn['content']}"


def _terms_of(terms: dict[str, Any]) -> Iterator[str]:
    """Yield what the terms of the teachers mean, the strictest first."""
    yield f"terms    {terms['stance']} for the purpose {terms['purpose']} (competing: {terms['competing']})"
    yield from (f"         {reason}" for reason in terms["reasons"])
    yield from (f"         condition: {text}" for text in terms["conditions"])
    if terms["stops"]:
        yield f"         a build stops until [terms] accept has {', '.join(terms['stops'])}"
    yield f"         {terms['advice']}"


def _asked_of(teacher: dict[str, Any]) -> str:
    if not teacher["calls"]:
        return "no calls"
    (prompt, most_prompt), (reply, most_reply) = teacher["prompt_tokens"], teacher["completion_tokens"]
    replies = f"{reply:,} to {most_reply:,}" if most_reply is not None else f"{reply:,} or more (no max_tokens)"
    words = f"{teacher['calls']:,} different calls, tokens {prompt:,} to {most_prompt:,} in, {replies} out"
    prices = teacher["prices"] or "nowhere: unknown"
    priced = "free of charge" if prices == "free" else f"prices from {prices}"
    words += f"\n         tokens from {teacher['tokens_from']}; {priced}"
    words += f"\n         cost {_price(teacher['usd'])}"
    at_once = teacher["in_flight_on_budget"]
    if at_once == 0:
        words += "\n         what is left of the budget does not pay for one of them at its worst case"
    elif at_once:
        words += f"\n         the budget's reservations allow {at_once:,} in flight at the worst case of each"
    return words


def _price(usd: list[float | None] | None) -> str:
    """Return a price range in words."""
    if usd is None:
        return "unknown: a price is not known"
    from distillgen.report.signs import dollars

    low, high = usd
    if low == high == 0:
        return "nothing"
    return f"{dollars(low or 0)} {f'to {dollars(high)}' if high is not None else 'or more (no max_tokens)'}"
