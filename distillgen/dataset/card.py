"""The dataset card: a README that says what a version is, and whose front matter makes it load with no further step."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distillgen.dataset import card_sections as sections
from distillgen.dataset.card_splits import names_when_loaded, pattern
from distillgen.dataset.inert import front
from distillgen.dataset.manifest import Manifest

# The Hub's identifiers of licences that may stand in `license` by themselves; any other is `other` with a name.
# https://huggingface.co/docs/hub/repositories-licenses, read on 2026-11-25 in copies of different ages.
KNOWN_LICENCES = frozenset({
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0",
    "etalab-2.0", "eupl-1.1", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0",
    "isc", "lppl-1.3c", "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql", "ofl-1.1",
    "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr", "deepfloyd-if-license", "llama2", "llama3", "llama3.1",
    "llama3.2", "llama3.3", "llama4", "gemma",
})  # fmt: skip
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
         (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip
LARGEST = "1B<n<10B"


def write_card(manifest: Manifest, features: Sequence[Mapping[str, Any]], sample: Mapping[str, Any] | None) -> str:
    """Return the card as Markdown with YAML front matter, of nothing but what is given: the same again and again.

    `features` are the columns as `dataset_info` states them, `sample` is a row of the version. `manifest.files` is
    not looked at, for the card is one of these files.
    """
    has_pairs = any(column["name"] == "chosen" for column in features)
    parts = [
        sections.head(manifest),
        sections.loading(manifest, features, has_pairs),
        sections.one_row(sample),
        sections.making(manifest),
        sections.teachers(manifest),
        sections.labels(manifest),
        sections.lengths(manifest),
        sections.terms(manifest),
        sections.limits(manifest),
        sections.again(manifest),
    ]
    body = [line for part in parts if part for line in [*part, ""]]
    return "\n".join(["---", *_front(manifest, features, has_pairs), "---", "", *body[:-1]]) + "\n"


def with_notice(card: bytes, note: Mapping[str, Any]) -> bytes:
    """Return a card with what a repair's note has to say, where `write_card` has it: before any other such notice."""
    lines = "\n".join(sections.notice(note)).encode()
    matter, closing, body = card.partition(b"\n---\n")
    title = re.search(rb"^# .*\n\n", body, re.MULTILINE)
    if title is None:  # no card of ours
        return card.rstrip(b"\n") + b"\n\n" + lines + b"\n"
    return matter + closing + body[: title.end()] + lines + b"\n" + body[title.end() :]


def _front(manifest: Manifest, features: Sequence[Mapping[str, Any]], has_pairs: bool) -> list[str]:
    """Return the lines of the front matter: what loads it first. Its types make a column of nulls a column of text."""
    files = [
        {"split": name, "path": pattern(split, manifest.splits)}
        for split, name in names_when_loaded(manifest.splits).items()
    ]
    tags = ["distillgen", "synthetic", "distillation", *(["preference", "dpo"] if has_pairs else ["sft"])]
    return [
        front("configs", [{"config_name": "default", "data_files": files}]),
        front("dataset_info", {"features": features}),
        front("pretty_name", manifest.name),
        front("task_categories", [*(["text-classification"] if manifest.labels else []), "text-generation"]),
        front("size_categories", [next((name for most, name in SIZES if manifest.rows < most), LARGEST)]),
        front("tags", tags),
        *_licence(manifest.terms),
    ]


def _licence(terms: Mapping[str, Any]) -> list[str]:
    """Return the licences that a student inherits: identifiers of the Hub, or `other` with a name and a link."""
    inherited = list(dict.fromkeys(each["value"] for each in terms.get("conditions", ()) if each["kind"] == "licence"))
    if not inherited:
        return []
    if KNOWN_LICENCES.issuperset(inherited):
        return [front("license", inherited[0] if len(inherited) == 1 else inherited)]
    name = "-and-".join(re.sub(r"[^a-z0-9.]+", "-", value.lower()).strip("-.") or "unnamed" for value in inherited)
    lines = [front("license", "other"), front("license_name", name)]
    links = _links(terms)
    return lines + ([front("license_link", links[0])] if len(links) == 1 else [])


def _links(terms: Mapping[str, Any]) -> list[str]:
    """Return where the licences stand that a student inherits."""
    entries = [judged["entry"] for found in terms.get("teachers", {}).values() for judged in found]
    return list(dict.fromkeys(
        entry["url"]
        for entry in entries
        if entry.get("url") and any(each["kind"] == "licence" for each in entry.get("conditions", ()))
    ))  # fmt: skip
