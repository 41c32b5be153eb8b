"""The sections of a dataset card, each from the manifest alone, and each inert whatever the manifest holds."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import orjson

from distillgen.dataset.card_splits import names_when_loaded
from distillgen.dataset.inert import address, block, code, html, inline, shortened, table
from distillgen.dataset.manifest import Manifest

# What `distillgen export` writes a version for, and whether it takes preference pairs: as distillgen/export has it.
TRAINERS = {
    "trl": ("TRL", True),
    "axolotl": ("Axolotl", True),
    "llama-factory": ("LLaMA-Factory", True),
    "mlx": ("MLX-LM", False),
    "unsloth": ("Unsloth", True),
    "torchtune": ("torchtune", True),
    "together": ("Together AI", True),
    "fireworks": ("Fireworks AI", True),
    "openai": ("OpenAI", True),
}
ENDS = {
    "limit": "`--limit` ended the run",
    "target_rows": "`target_rows` was reached",
    "stopped": "the run was stopped by its budget, a quota or a teacher",
}
TERMS_NOTE = (
    "Text in this dataset was written by the models above. Whether it may train another model is a matter of their "
    "licences and their providers' terms; check them before you publish or sell what you train."
)
TRACES = (
    "It overlooks `reasoning`, which is no part of a message: `distillgen export` puts it where a student learns it, "
    "inline (`--reasoning think`, as it does by itself) or under a key of the answer (`reasoning_content`, `thinking`)."
)
NO_TEACHER = (
    "No teacher was asked: the rows were brought in. Whose text they are, and under which terms, is not on record here."
)
CHECKING = {"judge", "verify"}  # steps that look whether what was written is right
MOST_OF_PROMPT = 6_000  # characters
MOST_OF_TEXT = 1_500  # characters of one text in the sample
FEW_ROWS = 1_000
LOPSIDED = 0.8  # share of the rows that one label may have
FEW_TO_MEASURE = 100  # below, a share measured on a split is uncertain by ten percentage points


def head(manifest: Manifest) -> list[str]:
    """Return title, description, and the facts at a glance."""
    seeds, splits = manifest.seeds, manifest.splits
    rows = f"{manifest.rows:,}"
    if splits:
        rows += f" ({', '.join(f'{count:,} in {code(split)}' for split, count in splits.items())})"
    facts = [("Rows", rows)]
    if count := seeds.get("count"):
        facts.append(("Made from", _number(count, "seed")))
    facts += [("Content digest", code(f"sha256:{manifest.digest}"))]
    if finished := manifest.run.get("finished"):
        facts.append(("Made on", inline(str(finished).replace("T", " ").replace("Z", " UTC"))))
    if version := manifest.software.get("distillgen"):
        facts.append(("Made with", f"distillgen {inline(version)}"))
    if manifest.parent:
        facts.append(("Version before", str(manifest.parent)))
    lines = [f"# {inline(manifest.name)}, version {manifest.version}", ""]
    lines += [line for note in reversed(manifest.repaired) for line in notice(note)]
    if description := manifest.recipe.get("description"):
        lines += [inline(description), ""]
    if manifest.is_partial:
        why = ENDS.get(manifest.ends, "")
        lines += [f"**A partial version**: made from the first seeds only{f'; {why}' if why else ''}.", ""]
    return lines + [f"- **{name}:** {value}" for name, value in facts]


def notice(note: Mapping[str, Any]) -> list[str]:
    """Return what the note of a repair says of fields of the manifest that nobody can vouch for, if there are any."""
    lost, unverified = (list(map(code, note.get(kind) or ())) for kind in ("lost", "unverified"))
    if not lost and not unverified:
        return []
    said = f"> **Repaired on {inline(note.get('date', 'an unknown day'))}:** the manifest had been damaged."
    said += f" Nobody knows any more: {', '.join(lost)}." if lost else ""
    said += f" Taken from the damaged one, and confirmed by nothing: {', '.join(unverified)}." if unverified else ""
    return [f"{said} What this card says of these may be wrong.", ""]


def loading(manifest: Manifest, features: Sequence[Mapping[str, Any]], has_pairs: bool) -> list[str]:
    """Return how `datasets`, TRL and every other trainer open it."""
    loaded = names_when_loaded(manifest.splits)
    split = loaded.get("train") or next(iter(loaded.values()), "train")
    config, trainer = ("DPOConfig", "DPOTrainer") if has_pairs else ("SFTConfig", "SFTTrainer")
    label = f"{manifest.name}@{manifest.version}"
    names = [str(column["name"]) for column in features]
    takes = [(name, title) for name, (title, pairs) in TRAINERS.items() if pairs or not has_pairs]
    return [
        "## Load it", "",
        f"Each row has {', '.join(map(code, names))}. {_kind(names)}", "",
        "```python",
        "from datasets import load_dataset", "",
        'dataset = load_dataset("path/of/this/folder")  # or the name of its repository on the Hub',
        "```", "",
        "[TRL](https://huggingface.co/docs/trl) takes the rows as they are:", "",
        "```python",
        f"from trl import {config}, {trainer}", "",
        f'trainer = {trainer}("your/model", args={config}(), train_dataset=dataset[{orjson.dumps(split).decode()}])',
        "trainer.train()",
        "```", "",
        *([TRACES, ""] if "reasoning" in names else []),
        "`distillgen export` writes it, with the configuration that goes with it, in its project or, by the path of "
        f"this folder in place of {code(label)}, anywhere:", "",
        *table(["trainer", "command"], (
            [title, code(f"distillgen export {label} --format {name} -o DIR")] for name, title in takes
        )),
    ]  # fmt: skip


def _kind(names: Collection[str]) -> str:
    said = "It is a conversation, whose last message is what the student learns to write."
    if "chosen" in names:
        said = "It is a preference pair: `chosen` is the better answer to `prompt`, `rejected` the worse one."
    return said + (" `reasoning` is what came before that answer; it may be empty." if "reasoning" in names else "")


def one_row(sample: Mapping[str, Any] | None) -> list[str]:
    """Return a row as it is, but for texts that are too long to read here."""
    if sample is None:
        return []
    return ["## One row", "", *block(orjson.dumps(_short(sample), option=orjson.OPT_INDENT_2).decode())]


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return shortened(value, MOST_OF_TEXT)
    if isinstance(value, Mapping):
        return {key: _short(inner) for key, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list) else value


def making(manifest: Manifest) -> list[str]:
    """Return how it was made: seeds, steps, prompts, and the rows after each step."""
    mixed = manifest.recipe.get("mix") or []
    lines = ["## How it was made", "", *(_mix(mixed) if mixed else [_seeds(manifest.seeds)]), ""]
    steps = manifest.recipe.get("steps") or []
    lines += [f"{number}. {_step(step)}" for number, step in enumerate(steps, 1)]
    lines += [""] if steps else []
    if manifest.funnel:
        heads = ["step", "rows in#", "rows out#", "rejected by rule", "failed by cause"]
        lines += [*table(heads, map(_counted, manifest.funnel)), ""]
        lines += ["What was left out, and why, is in `rejected.jsonl.zst` and `failed.jsonl.zst`.", ""]
    for name, source in manifest.prompts.items():
        lines += [*_prompt(name, source), ""]
    return lines[:-1]


def _mix(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which published versions it is a mix of, each with a card of its own."""
    rows = (
        [code(part.get("version", "?")), code(str(part.get("digest", "?"))[:12]), f"{part.get('ratio', 0):.1%}",
         *(f"{part.get(kind, 0):,}" for kind in ("rows", "duplicates", "not_drawn"))] for part in parts
    )  # fmt: skip
    heads = ["version", "digest", "share#", "rows taken#", "duplicates left out#", "not drawn#"]
    said = "It is a mix of published versions, whose own cards say how their rows were made and what that cost:"
    return [said, "", *table(heads, rows)]


def _seeds(seeds: Mapping[str, Any]) -> str:
    stated = seeds.get("path") or []
    paths = [stated] if isinstance(stated, str) else stated
    # The folders of somebody's machine are nobody else's business.
    names = ", ".join(code(PurePath(path).name if PurePath(path).is_absolute() else path) for path in paths)
    said = f"Seeds: {seeds.get('count', 0):,}" + (f" from {names}" if names else "")
    if seeds.get("sha256"):
        said += f", sha256 {code(seeds['sha256'])}"
    if seeds.get("skipped"):
        said += f"; {seeds['skipped']:,} more could not be read as seeds"
    return said + "."


def _step(step: Mapping[str, Any]) -> str:
    """Return one step in a line: what it uses first, then what is set."""
    settings = [f"{name} {_setting(value)}" for name, value in step.items() if name != "use"]
    return f"**{inline(step.get('use', '?'))}**" + (f": {'; '.join(settings)}" if settings else "")


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    if isinstance(value, Mapping):
        first = value.get("rule")
        rest = ", ".join(f"{name} = {_bare(inner)}" for name, inner in value.items() if name != "rule" or first is None)
        return code(f"{first} ({rest})" if first is not None and rest else first if first is not None else rest)
    return code(_bare(value))


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _counted(step: Mapping[str, Any]) -> list[str]:
    rows_in = step.get("in", 0) + step.get("born", 0)
    lost = [_counts(step.get(kind, {})) for kind in ("rejected", "failed")]
    return [inline(step.get("step", "?")), f"{rows_in:,}", f"{step.get('out', 0):,}", *lost]


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{inline(name, 100)} {count:,}" for name, count in found.items()) or "-"


def _prompt(name: str, source: str) -> list[str]:
    """Return a prompt, folded away; the whole of it, if it is long, is in the manifest."""
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
    summary = f"<details><summary>Prompt <code>{html(name)}</code> (sha256 <code>{digest[:12]}</code>)</summary>"
    return [summary, "", *block(shortened(source, MOST_OF_PROMPT)), "", "</details>"]


def teachers(manifest: Manifest) -> list[str]:
    """Return who was asked, who answered, and what it cost."""
    if not manifest.teachers:
        return []
    asked = manifest.run.get("teachers", {})
    rows = [_teacher(name, facts, asked.get(name, {})) for name, facts in manifest.teachers.items()]
    lines = ["## Teachers and cost", ""]
    if "mix" in manifest.recipe:  # nothing was asked for it
        heads = ["teacher", "asked for", "at", "answered as", "prices"]
        told = f"`distillgen stats {manifest.name}@{manifest.version}` reckons what the replies behind its rows cost."
        return [*lines, *table(heads, ([*row[:4], row[-1]] for row in rows)), "", told]
    lines += table(["teacher", "asked for", "at", "answered as"], (row[:4] for row in rows))
    lines += ["", *table(["teacher", "calls#", "tokens in#", "tokens out#", "cost#", "prices"],
                         ([row[0], *row[4:]] for row in rows))]  # fmt: skip
    lines += ["", "Calls, tokens and cost are those of the run that published this version: replies that were stored "
              "before cost nothing again and are not counted."]  # fmt: skip
    return lines


def _teacher(name: str, facts: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    more = [inline(facts[key]) for key in ("title", "quantisation", "licence") if facts.get(key)]
    model = code(facts.get("model", "?")) + (f" ({', '.join(more)})" if more else "")
    answered = ", ".join(f"{code(model)} ({rows:,})" for model, rows in asked.get("answered_as", {}).items()) or "-"
    tokens = asked.get("tokens", {})
    return [
        code(name), model, code(facts.get("endpoint", "?")), answered, f"{asked.get('calls', 0):,}",
        f"{tokens.get('prompt', 0):,}", f"{tokens.get('completion', 0):,}", _cost(asked), _prices(asked.get("prices")),
    ]  # fmt: skip


def _is_free(prices: Mapping[str, Any]) -> bool:
    return not any(rate.get(key) for rate in prices.get("rates", ()) for key in ("input", "cached_input", "output"))


def _cost(asked: Mapping[str, Any]) -> str:
    calls, unpriced = asked.get("calls", 0), asked.get("unpriced_calls", 0)
    if asked.get("prices") and _is_free(asked["prices"]):
        return "free of charge"
    if not asked or (calls and unpriced >= calls):
        return "unknown"
    return f"\\${asked.get('usd', 0):,.4f}" + (f" and {_number(unpriced, 'call')} of unknown cost" if unpriced else "")


def _prices(prices: Mapping[str, Any] | None) -> str:
    """Return dollars per million tokens, with who says so and when."""
    if not prices:
        return "unknown"
    stated = [str(prices[key]) for key in ("source", "list") if prices.get(key)]
    source = f" ({inline(', '.join(stated))})" if stated else ""
    if _is_free(prices):
        return f"none{source}"
    rate = prices["rates"][0]
    return f"\\${rate['input']:g} in, \\${rate['output']:g} out per million tokens{source}"


def labels(manifest: Manifest) -> list[str]:
    """Return how often each label occurs, the commonest first, where the manifest has counted them."""
    found, sums = manifest.labels, _label_sums(manifest)
    if not sums:
        return []
    rows = (
        [inline(label), *(f"{counts.get(label, 0):,}" for counts in found.values()), f"{count / sums.total():.1%}"]
        for label, count in sorted(sums.items(), key=lambda each: (-each[1], each[0]))
    )
    return ["## Labels", "", "What the student learns to write is one of a few labels. Rows that have each:", "",
            *table(["label", *(f"{code(split)}#" for split in found), "share#"], rows)]  # fmt: skip


def _label_sums(manifest: Manifest) -> Counter[str]:
    sums: Counter[str] = Counter()
    for counts in manifest.labels.values():
        sums.update(counts)
    return sums


def lengths(manifest: Manifest) -> list[str]:
    """Return how long the rows are, by powers of two, where the manifest says."""
    found = {split: {int(bits): rows for bits, rows in bins.items()} for split, bins in manifest.lengths.items()}
    every = sorted({bits for bins in found.values() for bits in bins})
    if not every:
        return []
    rows = (
        [_range(bits), *(f"{found[split].get(bits, 0):,}" for split in found)]
        for bits in range(every[0], every[-1] + 1)
    )
    return ["## Lengths", "", "Rows by the bytes of their line of JSON, id and keys included:", "",
            *table(["bytes#", *(f"{code(split)}#" for split in found)], rows)]  # fmt: skip


def _range(bits: int) -> str:
    return f"{2 ** (bits - 1):,} to {2**bits - 1:,}" if bits else "0"


def terms(manifest: Manifest) -> list[str]:
    """Return what the terms of the teachers ask of whoever trains on this."""
    found, lines = manifest.terms, ["## Terms", ""]
    if not found:
        return [*lines, TERMS_NOTE]
    lines += [
        f"Made for the purpose **{inline(found.get('purpose', 'unknown'))}**; competing with a teacher's owner: "
        f"{inline(found.get('competing', 'unknown'))} (the owner's own word). What the terms mean for that: "
        f"**{inline(found.get('stance', 'unknown'))}**.",
        "",
    ]
    if found.get("note"):
        lines += [f"The owner notes: {inline(found['note'])}", ""]
    conditions = found.get("conditions", ())
    for condition in conditions:
        if must := _must(condition):
            lines += [f"> {must}", ""]
    if conditions:
        lines += ["What has to be done:", "", *_once(f"- {inline(c['kind'])}: {inline(c['text'])}" for c in conditions)]
        lines.append("")
    if read := [*_read(found)]:
        lines += ["What was read:", "", *read, ""]
    elif not manifest.teachers:
        lines += [NO_TEACHER, ""]
    if read and not any(condition["kind"] == "licence" for condition in conditions):
        lines += ["As far as was read, no licence is inherited from a teacher; whoever publishes it chooses one.", ""]
    return [*lines, inline(found.get("advice", TERMS_NOTE))]


def _read(found: Mapping[str, Any]) -> Iterable[str]:
    """Yield a line for each document that was read, and for each that the owner accepted."""
    for name, judged in found.get("teachers", {}).items():
        yield from (f"- {code(name)}: {_entry(each)}" for each in judged)
    for entry_id, accepted in found.get("accepted", {}).items():
        mark = f"entry {code(accepted['digest'][:12])}"
        yield f"- accepted by the owner on {inline(accepted['date'])}: {inline(entry_id)} ({mark})"


def _once(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))


def _must(condition: Mapping[str, Any]) -> str:
    """Return what a card can carry out of a condition: a name, a line to show, a licence."""
    value = inline(condition.get("value", ""), 200)
    return {
        "name-prefix": f"**If you distribute a model trained on this dataset, its name begins with “{value}”.**",
        "attribution": f"**{value}**",
        "licence": f"**A model trained on this dataset inherits a licence: {value}.**",
    }.get(condition["kind"], "")


def _entry(judged: Mapping[str, Any]) -> str:
    """Return what one document means, where it stands, and how far the reading is to be trusted."""
    entry = judged["entry"]
    words = [f"**{inline(judged['verdict'])}**: {inline(judged['reason'])}"]
    section = f", {inline(entry['section'])}" if entry.get("section") else ""
    effective = f" of {inline(entry['effective'])}" if entry.get("effective") else ""
    document = str(entry["document"])
    source = f"{inline(document[:1].upper() + document[1:])}{section}{effective}"
    source += f", read on {inline(entry['read'])} ({inline(entry['quality'])})" if entry.get("read") else ""
    source += f", to be read anew by {inline(entry['review_by'])}" if entry.get("review_by") else ""
    words.append(source)
    words += [f"“{inline(entry['quote'])}”"] if entry.get("quote") else []
    words += [inline(entry["note"])] if entry.get("note") else []
    said = " ".join(word if word.endswith((".", "”")) else f"{word}." for word in words)
    return f"{said} {address(entry['url'])}" if entry.get("url") else said


def limits(manifest: Manifest) -> list[str]:
    """Return what is known to be missing or weak, from what the manifest says and nothing else."""
    found = [*_of_rows(manifest), *_of_steps(manifest), *_of_teachers(manifest)]
    return ["## Known limits", "", *(f"- {each}" for each in found)]


def _number(count: int, thing: str) -> str:
    """Return a count with its word: 1 row, 2 rows."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _of_rows(manifest: Manifest) -> Iterable[str]:
    if manifest.is_partial:
        yield "It is made from the first seeds only: later seeds, and what is special about them, are missing."
    failed: Counter[str] = Counter()
    for step in manifest.funnel:
        failed.update(step.get("failed", {}))
    if failed:
        causes = ", ".join(f"{inline(name)} {count:,}" for name, count in failed.most_common())
        they = "is missing because it" if failed.total() == 1 else "are missing because they"
        yield f"{_number(failed.total(), 'row')} {they} failed: {causes}."
    if skipped := manifest.seeds.get("skipped"):
        yield f"{_number(skipped, 'seed')} could not be read and {'is' if skipped == 1 else 'are'} missing."
    if manifest.rows < FEW_ROWS:
        yield f"It is small: {_number(manifest.rows, 'row')}."
    for split, rows in manifest.splits.items():
        if split != "train" and rows < FEW_TO_MEASURE:
            yield f"The split {code(split)} has {_number(rows, 'row')}: too few to measure a student with confidence."
    for split, name in names_when_loaded(manifest.splits).items():
        if split != name:
            yield f"The split {code(split)} is called {code(name)} by `datasets`, which does not take that name."
    for split, names in manifest.only_dates.items():
        label = f"{manifest.name}@{manifest.version}"
        yield (
            f"In {code(split)}, every text of {', '.join(map(code, names))} is a date. `datasets` takes such a column "
            "of JSON for times and gives back text in another form (`2026-01-31` becomes `2026-01-31 00:00:00`). "
            f"For the exact text use {code(f'distillgen export {label} --format parquet -o DIR')} and "
            '`load_dataset("parquet", data_files="DIR/*.parquet")`.'
        )
    if sums := _label_sums(manifest):
        [(label, count)] = sums.most_common(1)
        if count > LOPSIDED * sums.total():
            share = f"{count / sums.total():.0%}"
            yield f"{share} of the rows have the label {code(label)}: a student that always says so is as often right."
    dataset = manifest.recipe.get("dataset") or {}
    for split in dataset.get("splits") or {}:
        if split not in manifest.splits:
            yield f"The split {code(split)} got no row and does not exist."
    if dataset.get("append") and manifest.parent:
        yield "Rows of the version before were taken over; steps and figures above are of the new ones only."


def _of_steps(manifest: Manifest) -> Iterable[str]:
    if "mix" in manifest.recipe:
        yield "The limits of the versions that it is a mix of, which their own cards state."
    if "steps" not in manifest.recipe:
        return
    used = {step.get("use") for step in manifest.recipe["steps"]}
    if "decontaminate" not in used:
        yield "No step looked for text of benchmarks: a score on one may be too good."
    if "deduplicate" not in used:
        yield "No step looked for duplicates and near-duplicates."
    if not used & CHECKING:
        yield "No step checked whether the answers are right (`judge`, `verify`): expect mistakes."
    yield "Nothing on record says that a person read the rows."


def _of_teachers(manifest: Manifest) -> Iterable[str]:
    if len(manifest.teachers) == 1:
        yield "All of it is by one teacher, whose mistakes, opinions and habits of style a student learns."
    for name, asked in manifest.run.get("teachers", {}).items():
        model = manifest.teachers.get(name, {}).get("model")
        others = [each for each in asked.get("answered_as", {}) if each != model]
        if others:
            yield f"The teacher {code(name)} was asked as {code(model)} and answered as {', '.join(map(code, others))}."
    if manifest.run.get("unpriced_calls"):
        yield f"What {_number(manifest.run['unpriced_calls'], 'call')} cost is not known."
    stance = manifest.terms.get("stance", "unknown")
    if stance in ("restricted", "prohibited"):
        yield f"The teachers' terms are {stance} for the purpose above, which the owner took upon themselves."
    elif not manifest.teachers:
        yield "No teacher was asked: where the text comes from, and whether it may be trained on, is not on record."
    elif stance == "unknown":
        yield "Whether the teachers' terms allow training on it is unknown: nobody has read them, or they do not say."


def again(manifest: Manifest) -> list[str]:
    """Return how to check it and to make it again."""
    label = f"{manifest.name}@{manifest.version}"
    lines = [
        "## Check it, make it again", "",
        f"{code(f'distillgen check {label}')} compares every file with the checksums in `manifest.json`, which also "
        "holds the recipe, every prompt and every step's figures in full. `provenance.jsonl.zst` has a record for "
        f"each row; {code(f'distillgen trace ID {label}')} tells its story.", "",
        _made_again(manifest),
    ]  # fmt: skip
    if manifest.overrides:
        said = "; ".join(code(f"{name} = {_bare(value)}") for name, value in manifest.overrides.items())
        lines += ["", f"The recipe was overridden by: {said}."]
    return lines


def _made_again(manifest: Manifest) -> str:
    made_with = f"distillgen {inline(manifest.software.get('distillgen', 'of an unknown version'))}"
    if mixed := manifest.recipe.get("mix"):
        parts = " ".join(f"{part.get('version', '?')}:{part.get('ratio', 0):g}" for part in mixed)
        parts += f" --rows {manifest.rows}"
        for option in ("near", "seed"):
            parts += f" --{option} {manifest.recipe[option]}" if manifest.recipe.get(option) else ""
        return f"{code(f'distillgen mix {manifest.name} {parts}', 1_000)} makes it anew, with {made_with}."
    limit = f" --limit {manifest.seeds.get('count')}" if manifest.ends == "limit" else ""
    command = code(f"distillgen build{limit}")
    made = f"With the recipe, its prompts, the same seeds and {made_with}, {command} makes it anew"
    if not manifest.teachers:
        return f"{made}, with the same digest."
    return (
        f"{made}. From the answers that are stored in the project it comes out with the same digest, and nothing is "
        "paid again; asked afresh, a teacher may answer otherwise."
    )
