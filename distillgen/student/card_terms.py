"""What a student's card says of terms and licences, and the name that they ask for."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from distillgen.dataset.card import KNOWN_LICENCES
from distillgen.dataset.inert import address, code, front, inline
from distillgen.student.manifest import StudentManifest
from distillgen.student.permission import required_names

STANCES = {"conditions": "allowed under conditions"}  # the others can be read as they are


def title_of(manifest: StudentManifest) -> str:
    """Return the student's name, with the words before it that the terms ask for."""
    prefix = next(iter(required_names(manifest.terms)), None)
    if prefix is None or manifest.name.casefold().startswith(prefix.casefold()):
        return manifest.name
    return f"{prefix}-{manifest.name}"


def inherited_licences(manifest: StudentManifest) -> list[str]:
    """Return the licences that the teachers' terms have the student inherit."""
    conditions = manifest.terms.get("conditions", ())
    return list(dict.fromkeys(str(each["value"]) for each in conditions if each["kind"] == "licence"))


def base_licence(manifest: StudentManifest) -> str:
    """Return the base's licence by the Hub's name, if it is one of those; `unknown` where nobody knows."""
    stated = str(manifest.base.get("licence") or "unknown").strip()
    return stated.lower() if stated.lower() in KNOWN_LICENCES | {"unknown"} else stated


def front_licence(manifest: StudentManifest) -> list[str]:
    every = list(dict.fromkeys([base_licence(manifest), *inherited_licences(manifest)]))
    if every == ["unknown"]:
        return [front("license", "unknown")]
    if KNOWN_LICENCES.issuperset(every):
        return [front("license", every[0] if len(every) == 1 else every)]
    name = "-and-".join(re.sub(r"[^a-z0-9.]+", "-", value.lower()).strip("-.") or "unnamed" for value in every)
    return [front("license", "other"), front("license_name", name)]


def terms_section(manifest: StudentManifest) -> list[str]:
    """Return what the terms of the teachers ask of this model and of whoever passes it on."""
    found, lines = manifest.terms, ["## Terms", ""]
    if not found:
        return [*lines, "Under which terms the teacher's answers may be trained on is not on record: read them before "
                "you publish or sell this model."]  # fmt: skip
    stance = str(found.get("stance", "unknown"))
    lines += [
        f"The teachers' terms, read for the purpose **{inline(found.get('purpose', 'unknown'))}** (competing with a "
        f"teacher's owner: {inline(found.get('competing', 'unknown'))}, in the owner's own word), come to: "
        f"**{inline(STANCES.get(stance, stance))}**. For another purpose they may come to something else.", "",
    ]  # fmt: skip
    if found.get("note"):
        lines += [f"The owner notes: {inline(found['note'])}", ""]
    conditions = found.get("conditions", ())
    for condition in conditions:
        if condition["kind"] in ("name-prefix", "attribution", "licence"):
            lines += [f"> {_carried_out(condition)}", ""]
    if conditions:
        must = (f"- {inline(each['kind'])}: {inline(each['text'])}" for each in conditions)
        lines += ["Whoever uses this model or passes it on has to do this:", "", *dict.fromkeys(must), ""]
    if read := [*_read(found)]:
        lines += ["What was read:", "", *read, ""]
    return [*lines, inline(found.get("advice", "This is a reading of the texts and no legal advice."))]


def _carried_out(condition: Mapping[str, Any]) -> str:
    """Return how the card itself carries a condition out."""
    value = inline(condition.get("value", ""), 200)
    return {
        "name-prefix": f"**This model's name begins with “{value}”, and so does that of a model made from it.**",
        "attribution": f"**{value}**",
    }.get(condition["kind"], f"**This model inherits a licence: {value}.**")


def _read(found: Mapping[str, Any]) -> Iterable[str]:
    """Yield a line for each document that was read, and for each that the owner accepted."""
    for name, judged in (found.get("teachers") or {}).items():
        for each in judged:
            entry = each["entry"]
            source = [entry.get("document", "a document"), entry.get("section")]
            source += [f"read on {entry['read']}"] if entry.get("read") else []
            said = f"- {code(name)}: **{inline(each['verdict'])}**: {inline(each['reason'])} "
            said += f"({', '.join(inline(part) for part in source if part)})"
            yield f"{said} {address(entry['url'])}" if entry.get("url") else said
    for entry_id, accepted in (found.get("accepted") or {}).items():
        yield f"- accepted by the owner on {inline(accepted.get('date', 'an unknown day'))}: {inline(entry_id)}"


def licence_section(manifest: StudentManifest) -> list[str]:
    base, inherited = base_licence(manifest), inherited_licences(manifest)
    said = f"The base model's licence is **{inline(base)}**; this model is a modification of it, so that licence holds."
    if base == "unknown":
        said = "The base model's licence is **unknown**: find it out before you pass this model on."
    if inherited:
        said += f" The teachers' terms add: **{', '.join(map(inline, inherited))}** (see above)."
    elif manifest.terms:
        said += " As far as was read, the teachers' terms add no licence."
    else:
        said += " What the teachers' terms add is unknown."
    return ["## Licence", "", said]
