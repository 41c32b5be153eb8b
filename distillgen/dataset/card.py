"""The dataset card: a README that says what a version is, and whose front matter makes it load with no further step."""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen.dataset.manifest import Manifest
from distillgen.files import dumps

KNOWN_LICENCES = {"gemma", "llama3.1", "llama3.2", "llama3.3", "llama4", "apache-2.0", "mit", "cc-by-4.0"}  # of the Hub
TERMS_NOTE = (
    "Text in this dataset was written by the models above. Whether it may train another model is a matter of their",
    "licences and their providers' terms; check them before you publish or sell what you train.",
)


def write_card(manifest: Manifest, features: Sequence[Mapping[str, Any]], sample: Mapping[str, Any] | None) -> str:
    """Return the card as Markdown with YAML front matter (JSON is YAML, so no value can break out of it)."""
    files = [{"split": split, "path": f"data/{split}-*.jsonl"} for split in manifest.splits]
    front = [
        f"configs: {dumps([{'config_name': 'default', 'data_files': files}])}",
        f"dataset_info: {dumps({'features': features})}",
        f"tags: {dumps(['distillgen', 'synthetic', 'distillation'])}",
        *_licence_lines(_licence(manifest.terms)),
    ]
    return "\n".join(["---", *front, "---", "", *_body(manifest, sample)]) + "\n"


def _licence_lines(inherited: Sequence[str]) -> list[str]:
    """Return the licence field of the front matter: an identifier that the Hub knows, or `other` with the name."""
    if not inherited:
        return []
    if len(inherited) == 1 and inherited[0] in KNOWN_LICENCES:
        return [f"license: {dumps(inherited[0])}"]
    return ['license: "other"', f"license_name: {dumps(' and '.join(inherited))}"]


def _body(manifest: Manifest, sample: Mapping[str, Any] | None) -> list[str]:
    recipe = manifest.recipe
    lines = [f"# {manifest.name}, version {manifest.version}", ""]
    if recipe.get("description"):
        lines += [_inline(recipe["description"]), ""]
    if manifest.is_partial:
        lines += ["**A partial version**: made from the first seeds only.", ""]
    splits = ", ".join(f"{rows:,} in `{split}`" for split, rows in manifest.splits.items())
    lines += [
        f"{manifest.rows:,} rows: {splits}. "
        f"Made from {manifest.seeds['count']:,} seeds with distillgen {manifest.software['distillgen']}.",
        "",
    ]
    lines += ["## How it was made", "", "| step | rows in | rows out | rejected | failed |", "|---|---|---|---|---|"]
    for step in manifest.funnel:
        rejected = ", ".join(f"{rule} {count:,}" for rule, count in step["rejected"].items()) or "0"
        failed = sum(step["failed"].values())
        lines.append(f"| {step['step']} | {step['in']:,} | {step['out']:,} | {rejected} | {failed:,} |")
    lines += ["", "## Teachers", ""]
    for teacher in manifest.teachers.values():
        extra = [str(teacher[key]) for key in ("title", "quantisation", "licence") if teacher.get(key)]
        lines.append(
            f"- `{_inline(str(teacher['model']))}` at {_inline(str(teacher['endpoint']))}"
            + (f" ({', '.join(map(_inline, extra))})" if extra else "")
        )
    lines += ["", *_terms(manifest.terms), ""]
    if sample is not None:
        lines += ["## One row", "", *_indented(dumps(sample)), ""]
    lines += [
        "## Loading",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'dataset = load_dataset("PATH/OF/THIS/FOLDER")',
        "```",
    ]
    return lines


def _terms(terms: Mapping[str, Any]) -> list[str]:
    """Return what the terms of the teachers ask of whoever trains on this."""
    if not terms:
        return list(TERMS_NOTE)
    lines = [
        "## Terms",
        "",
        f"Made for the purpose **{terms['purpose']}**; competing with a teacher's owner: {terms['competing']} (the "
        f"owner's own word). What the terms mean for that: **{terms['stance']}**.",
        "",
    ]
    if terms["note"]:
        lines += [_inline(terms["note"]), ""]
    for name, found in terms["teachers"].items():
        lines += [f"- `{_inline(name)}`: {_entry(each)}" for each in found]
    for entry_id, accepted in terms["accepted"].items():
        lines.append(f"- accepted by the owner on {accepted['date']}: {entry_id} (entry {accepted['digest'][:12]})")
    lines += [f"- {each['kind']}: {_inline(each['text'])}" for each in terms["conditions"]]
    return [*lines, "", _inline(terms["advice"])]


def _entry(judged: Mapping[str, Any]) -> str:
    """Return what one document means, and where it stands."""
    entry = judged["entry"]
    section = f", {_inline(entry['section'])}" if entry.get("section") else ""
    read = f", read on {entry['read']}" if entry.get("read") else ", not read"
    address = f" {entry['url']}" if entry.get("url") else ""
    document = f"{_inline(entry['document'])}{section}{read} ({entry['quality']}){address}"
    return f"{judged['verdict']}: {_inline(judged['reason'])}; {document}"


def _licence(terms: Mapping[str, Any]) -> list[str]:
    """Return the licences that a student inherits, as values for the front matter."""
    return list(dict.fromkeys(each["value"] for each in terms.get("conditions", ()) if each["kind"] == "licence"))


def _inline(text: str) -> str:
    """Return text that can start no markup and no front matter."""
    flat = " ".join(text.split())
    return "".join(f"\\{character}" if character in "\\`*_{}[]<>#|" else character for character in flat)


def _indented(text: str) -> list[str]:
    """Return text as an indented code block: nothing in it can end it."""
    return [f"    {line}" for line in text.split("\n")]
