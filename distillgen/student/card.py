"""The card of a student: a README that says what it is, how to ask it, where it comes from and how good it is.

All of it comes from the manifest and the evaluation, and whatever they hold stays text (dataset/inert.py).
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distillgen.dataset.card import KNOWN_LICENCES
from distillgen.dataset.inert import address, block, code, front, html, inline, shortened, table
from distillgen.student.permission import required_names
from distillgen.student.tables import (
    MEASURES,
    SCORES,
    UNKNOWN,
    asked_told,
    difference_told,
    f1_told,
    groups_of,
    intervals_told,
    judge_told,
    left_out_told,
    money_told,
    parameters_told,
    per_second,
    rate_told,
    ratios_told,
    share_told,
    size_told,
)

if TYPE_CHECKING:
    from distillgen.student.folder import StudentManifest

FOLDER = "path/of/this/folder"
STANCES = {"conditions": "allowed under conditions"}  # the others can be read as they are
MOST_OF_TEXT = 6_000  # characters of a template
SMALL = 1_000_000_000  # parameters
FEW_ROWS, FEW_TO_WATCH, FEW_TO_MEASURE = 1_000, 100, 400
LABEL_TOKENS, TEXT_TOKENS = 16, 512
_HUB_NAME = re.compile(r"(?:hf://)?([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@[\w./-]{1,200})?", re.ASCII)
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}", re.ASCII)
TOLD_OF_CHECK = (
    "`manifest.json` has the sha256 of every file, and `distillgen student check FOLDER` compares them. Without "
    "distillgen, this prints those that differ:"
)
CHECK = """\
import hashlib, json, pathlib

folder = pathlib.Path("path/of/this/folder")
for name, entry in json.loads((folder / "manifest.json").read_bytes())["files"].items():
    if hashlib.sha256((folder / name).read_bytes()).hexdigest() != entry["sha256"]:
        print(name, "is not what was written")
"""


def required_prefix(terms: Mapping[str, Any]) -> str | None:
    """Return with which words the student's name has to begin, by the first condition that says so; None if none."""
    return next(iter(required_names(terms)), None)


def title_of(manifest: "StudentManifest") -> str:
    """Return the student's name, with the words before it that the terms ask for."""
    prefix = required_prefix(_terms(manifest))
    if prefix is None or manifest.name.casefold().startswith(prefix.casefold()):
        return manifest.name
    return f"{prefix}-{manifest.name}"


def write_card(manifest: "StudentManifest", evaluation: Mapping[str, Any] | None) -> str:
    """Return the card as Markdown with YAML front matter, of nothing but what is given: the same again and again.

    Of `manifest.files` only the names and sizes of the model's own files are looked at.
    """
    parts = [
        _head(manifest, evaluation),
        _use(manifest),
        _prompt(manifest),
        _dataset(manifest),
        _terms_section(manifest),
        _licence(manifest),
        _training(manifest),
        _evaluation(evaluation),
        ["## Known limits", "", *(f"- {each}" for each in _limits(manifest, evaluation))],
        ["## Check the files", "", TOLD_OF_CHECK, "", "```python", *CHECK.splitlines(), "```"],
    ]
    body = [line for part in parts if part for line in [*part, ""]]
    return "\n".join(["---", *_front(manifest, evaluation), "---", "", *body[:-1]]) + "\n"


def _terms(manifest: "StudentManifest") -> Mapping[str, Any]:
    return manifest.dataset.get("terms") or {}


def _student_of(manifest: "StudentManifest") -> Mapping[str, Any]:
    """Return the [student] of the recipe."""
    return (manifest.dataset.get("recipe") or {}).get("student") or {}


def _labels(manifest: "StudentManifest") -> list[str]:
    """Return the labels that it learnt to write, in order; none where answers are no labels."""
    return sorted({label for counts in (manifest.dataset.get("labels") or {}).values() for label in counts})


def _is_preference(manifest: "StudentManifest") -> bool:
    return bool(_student_of(manifest).get("rejected"))


# ---- front matter


def _front(manifest: "StudentManifest", evaluation: Mapping[str, Any] | None) -> list[str]:
    tags = ["distillgen", "distillation", "synthetic", "dpo" if _is_preference(manifest) else "sft"]
    lines = [
        front("pipeline_tag", "text-generation"),
        front("library_name", "transformers"),
        *_front_licence(manifest),
    ]
    if found := _HUB_NAME.fullmatch(str(manifest.base["name"])):
        lines += [front("base_model", found[1]), front("base_model_relation", "finetune")]
    lines.append(front("tags", [*tags, *(["gguf"] if manifest.gguf else [])]))
    if results := _results(manifest, evaluation):
        lines.append(front("model-index", [{"name": title_of(manifest), "results": results}]))
    return lines


def _results(manifest: "StudentManifest", evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return what the Hub shows beside a model: the student's own figures, where there was gold."""
    found = _contestant(evaluation, "student")
    if evaluation is None or found is None or (found.get("score") or {}).get("value") is None:
        return []
    measure = str(evaluation.get("measure"))
    kind = "exact_match" if measure == "exact" else "accuracy"
    metrics = [{"type": kind, "name": SCORES.get(measure, measure), "value": _rounded(found["score"]["value"])}]
    if (found.get("f1") or {}).get("value") is not None:
        metrics.append({"type": "f1", "name": "macro F1", "value": _rounded(found["f1"]["value"])})
    what, name = str((evaluation.get("on") or {}).get("what", "unknown")), str(manifest.dataset["name"])
    is_split = what in (manifest.dataset.get("splits") or {})
    on = {"name": name, "type": name, "split": what} if is_split else {"name": what, "type": what}
    task = "text-classification" if measure == "label" else "text-generation"
    return [{"task": {"type": task}, "dataset": on, "metrics": metrics}]


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def _inherited(manifest: "StudentManifest") -> list[str]:
    """Return the licences that the teachers' terms have the student inherit."""
    conditions = _terms(manifest).get("conditions", ())
    return list(dict.fromkeys(str(each["value"]) for each in conditions if each["kind"] == "licence"))


def _base_licence(manifest: "StudentManifest") -> str:
    """Return the base's licence by the Hub's name, if it is one of those; `unknown` where nobody knows."""
    stated = str(manifest.base.get("licence") or "unknown").strip()
    return stated.lower() if stated.lower() in KNOWN_LICENCES | {"unknown"} else stated


def _front_licence(manifest: "StudentManifest") -> list[str]:
    every = list(dict.fromkeys([_base_licence(manifest), *_inherited(manifest)]))
    if every == ["unknown"]:
        return [front("license", "unknown")]
    if KNOWN_LICENCES.issuperset(every):
        return [front("license", every[0] if len(every) == 1 else every)]
    name = "-and-".join(re.sub(r"[^a-z0-9.]+", "-", value.lower()).strip("-.") or "unnamed" for value in every)
    return [front("license", "other"), front("license_name", name)]


# ---- what it is


def _head(manifest: "StudentManifest", evaluation: Mapping[str, Any] | None) -> list[str]:
    dataset, base = manifest.dataset, manifest.base
    facts = [("Parameters", parameters_told(base.get("parameters")))]
    weights = sum(entry.bytes for name, entry in manifest.files.items() if name.endswith(".safetensors"))
    facts.append(("Size", " + ".join([
        f"{size_told(weights)} for transformers and vLLM",
        *([f"{size_told(manifest.files[manifest.gguf].bytes)} for llama.cpp"] if manifest.gguf else []),
    ])))  # fmt: skip
    facts += [
        ("Base model", _base_title(manifest)),
        ("Teacher", _teachers(manifest) or "none on record"),
        ("Dataset", _dataset_label(manifest)),
        ("Made on", inline(manifest.created.replace("T", " ").replace("Z", " UTC"))),
        ("Made with", f"distillgen {inline(manifest.distillgen)}"),
    ]
    lines = [f"# {inline(title_of(manifest), 300)}", ""]
    if description := dataset.get("description"):
        lines += [inline(description), ""]
    return [*lines, _what(manifest, evaluation), "", *(f"- **{name}:** {value}" for name, value in facts)]


def _what(manifest: "StudentManifest", evaluation: Mapping[str, Any] | None) -> str:
    """Return in a paragraph what a distilled model is, for somebody who never heard of one."""
    labels = _labels(manifest)
    task = f"It answers with one of {len(labels):,} labels: {_listed(labels)}." if labels else ""
    learnt = "which of two answers is the better one" if _is_preference(manifest) else "to answer as the teacher did"
    measured = (
        "[how far it does](#evaluation) was measured" if evaluation else "nobody has measured yet how far it does"
    )
    return " ".join(filter(None, [
        "This is a language model for one task.", task,
        f"It was made by distillation: another model, the teacher, wrote the answers to {_rows(manifest)}, and this "
        f"one, the student, learnt from them {learnt}. It is meant to do this one task as well as its teacher, faster "
        f"and cheaper; {measured}. For anything else, use another model.",
    ]))  # fmt: skip


def _rows(manifest: "StudentManifest") -> str:
    count = manifest.training.get("train_rows") or manifest.dataset["rows"]
    return f"{count:,} question{'' if count == 1 else 's'}"


def _listed(words: Sequence[str], most: int = 20) -> str:
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(code(word) for word in words[:most]) + more


def _base_title(manifest: "StudentManifest") -> str:
    base = manifest.base
    title, name = str(base.get("title") or base["name"]), str(base["name"])
    said = inline(title) + (f" ({code(name)})" if name != title else "")
    return f"{said}, licence {inline(_base_licence(manifest))}"


def _teachers(manifest: "StudentManifest") -> str:
    return "; ".join(_teacher(facts) for facts in (manifest.dataset.get("teachers") or {}).values())


def _teacher(facts: Mapping[str, Any]) -> str:
    """Return a teacher's model with what the version's manifest says of it."""
    title = facts.get("title")
    more = [inline(facts["quantisation"])] if facts.get("quantisation") else []
    more += [f"licence {inline(facts['licence'])}"] if facts.get("licence") else []
    more += [f"asked at {code(facts['endpoint'])}"] if facts.get("endpoint") else []
    name = f"{inline(title)}, {code(facts.get('model', '?'))}" if title else code(facts.get("model", "?"))
    return name + (f" ({', '.join(more)})" if more else "")


def _dataset_label(manifest: "StudentManifest") -> str:
    name, version, digest = (manifest.dataset[key] for key in ("name", "version", "digest"))
    return f"{code(f'{name}@{version}')}, content digest {code(f'sha256:{digest}')}"


# ---- how to use it


def _row(manifest: "StudentManifest") -> list[dict[str, str]]:
    """Return a row that it learnt from, the answer last; none where it holds more than text, a tool's calls say."""
    turns = manifest.dataset.get("example") or []
    texts = [{"role": str(turn.get("role")), "content": turn.get("content")} for turn in turns]
    return texts if len(texts) > 1 and all(isinstance(turn["content"], str) for turn in texts) else []


def _example(manifest: "StudentManifest") -> list[dict[str, str]]:
    """Return the messages of a question: of a row, or the recipe's templates with the names of what goes into them."""
    if example := _row(manifest):
        return example[:-1]
    settings = _student_of(manifest)
    system, prompt = settings.get("system"), settings.get("prompt")
    messages = [{"role": "system", "content": _filled(system)}] if system else []
    return [*messages, {"role": "user", "content": _filled(prompt) if prompt else "<your question>"}]


def _filled(template: str) -> str:
    filled = _VARIABLE.sub(lambda found: f"<{found[1]}>", template)
    return "<the prompt, as its template has it>" if "{{" in filled or "{%" in filled else filled


def _use(manifest: "StudentManifest") -> list[str]:
    messages = [{**turn, "content": shortened(turn["content"], MOST_OF_TEXT)} for turn in _example(manifest)]
    tokens = LABEL_TOKENS if _labels(manifest) else TEXT_TOKENS
    request = {"model": "student", "messages": messages, "max_tokens": tokens, "temperature": 0}
    lines = [
        "## Use it", "",
        "With [transformers](https://huggingface.co/docs/transformers) (`pip install transformers torch`):", "",
        "```python",
        "from transformers import pipeline", "",
        f'student = pipeline("text-generation", model="{FOLDER}")',
        f"messages = {messages!r}",
        f"answer = student(messages, max_new_tokens={tokens}, do_sample=False)",
        'print(answer[0]["generated_text"][-1]["content"])',
        "```", "",
        "With [vLLM](https://docs.vllm.ai), as a server that speaks OpenAI's protocol:", "",
        "```sh", f"vllm serve {FOLDER} --served-model-name student", "```", "",
    ]  # fmt: skip
    port = 8000
    if manifest.gguf:
        port = 8080
        lines += [
            "With [llama.cpp](https://github.com/ggml-org/llama.cpp), the same, on a CPU too (its port is 8080, vLLM's "
            "8000):", "",
            *block(f"llama-server --jinja -m {shlex.quote(f'{FOLDER}/{manifest.gguf}')}"), "",
        ]  # fmt: skip
    asked = shlex.quote(json.dumps(request))
    said = f"curl http://localhost:{port}/v1/chat/completions -H 'Content-Type: application/json' -d {asked}"
    return [*lines, "Either server is asked so:", "", "```sh", said, "```"]


def _prompt(manifest: "StudentManifest") -> list[str]:
    settings = _student_of(manifest)
    lines = ["## The prompt it expects", ""]
    lines += [
        "It learnt one form of question. Ask in exactly this form; in another its answers are worse. What stands in "
        "`{{ }}` is replaced by your own text:" if settings.get("prompt") else
        "It learnt from whole conversations: give it the messages as they are, by its chat template.", "",
    ]  # fmt: skip
    for name in ("system", "prompt"):
        if settings.get(name):
            lines += [f"{'System message' if name == 'system' else 'Message'}:", ""]
            lines += [*block(shortened(str(settings[name]), MOST_OF_TEXT)), ""]
    if example := _row(manifest):
        lines += ["For example (the last message is the answer):", ""]
        for turn in example:
            said = f"{turn['role']}: {turn['content']}"
            lines += [*block(shortened(said, MOST_OF_TEXT)), ""]
    return lines[:-1]


# ---- where it comes from


def _dataset(manifest: "StudentManifest") -> list[str]:
    dataset, training = manifest.dataset, manifest.training
    splits = ", ".join(f"{count:,} in {code(split)}" for split, count in (dataset.get("splits") or {}).items())
    lines = [
        "## What it was trained on", "",
        f"- **Dataset:** {_dataset_label(manifest)}",
        f"- **Rows:** {dataset['rows']:,}" + (f" ({splits})" if splits else ""),
        f"- **Trained on:** {training.get('train_rows', 0):,} of them; {training.get('validation_rows', 0):,} were "
        "kept back to see when to stop",
    ]  # fmt: skip
    for name, facts in (dataset.get("teachers") or {}).items():
        lines.append(f"- **Teacher** {code(name)}: {_teacher(facts)}")
    for name, source in (dataset.get("prompts") or {}).items():
        summary = f"<details><summary>What the teacher was asked with: <code>{html(name)}</code></summary>"
        lines += ["", summary, "", *block(shortened(str(source), MOST_OF_TEXT)), "", "</details>"]
    return lines


def _terms_section(manifest: "StudentManifest") -> list[str]:
    """Return what the terms of the teachers ask of this model and of whoever passes it on."""
    found, lines = _terms(manifest), ["## Terms", ""]
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


def _licence(manifest: "StudentManifest") -> list[str]:
    base, inherited = _base_licence(manifest), _inherited(manifest)
    said = f"The base model's licence is **{inline(base)}**; this model is a modification of it, so that licence holds."
    if base == "unknown":
        said = "The base model's licence is **unknown**: find it out before you pass this model on."
    if inherited:
        said += f" The teachers' terms add: **{', '.join(map(inline, inherited))}** (see above)."
    elif _terms(manifest):
        said += " As far as was read, the teachers' terms add no licence."
    else:
        said += " What the teachers' terms add is unknown."
    return ["## Licence", "", said]


# ---- training and evaluation


def _training(manifest: "StudentManifest") -> list[str]:
    training, settings = manifest.training, manifest.settings
    how = "DPO on pairs of answers" if _is_preference(manifest) else "supervised training, loss on the answers alone"
    facts = [("how", f"[TRL](https://huggingface.co/docs/trl) on transformers: {how}")]
    other = {"lora"} - {settings.get("method")} | ({"dpo"} if not _is_preference(manifest) else set())
    used = {key: value for key, value in settings.items() if key not in other}
    facts += [(code(key), code(_bare(value))) for key, value in _flat(used)]
    steps = f"{training.get('steps', 0):,}"
    if training.get("best_step") is not None:
        steps += f"; kept is step {training['best_step']:,}, which was best on the validation rows"
    facts.append(("steps", steps + (", stopped early" if training.get("stopped_early") else "")))
    if training.get("tokens"):
        facts.append(("tokens", f"{training['tokens']:,}"))
    facts.append(("time", f"{training.get('seconds', 0) / 60:,.1f} minutes"))
    facts += [(key, inline(training[key])) for key in ("device", "precision", "threads") if training.get(key)]
    if training.get("peak_bytes"):
        facts.append(("memory at most", size_told(training["peak_bytes"])))
    facts.append(("software", ", ".join(f"{inline(name)} {inline(each)}" for name, each in manifest.software.items())))
    return ["## Training", "", *table(["setting", "value"], ([name, value] for name, value in facts)), "",
            "`training.json` has all of it, with the loss at each step."]  # fmt: skip


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif value is not None:
            yield f"{before}{key}", value


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _contestant(evaluation: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    contestants: Sequence[Mapping[str, Any]] = (evaluation or {}).get("contestants") or ()
    return next((each for each in contestants if each.get("name") == name), None)


def _evaluation(evaluation: Mapping[str, Any] | None) -> list[str]:
    """Return the table of who was how good, with intervals, and what the student won and lost."""
    if evaluation is None:
        return []
    measure = str(evaluation["measure"])
    lines = [
        "## Evaluation", "",
        f"Asked on {inline(evaluation.get('date', 'an unknown day'))}: {inline(asked_told(evaluation))}. An answer is "
        f"right when {inline(MEASURES.get(measure, measure))}; {inline(intervals_told(evaluation))}. The prompt "
        "`student` is the one above, `teacher` the one that the teacher was asked with.", "",
        *_contestants(evaluation, SCORES.get(measure, measure)), "",
    ]  # fmt: skip
    if told := [*map(difference_told, evaluation.get("differences") or ()), *ratios_told(evaluation)]:
        lines += [*(f"- {inline(each)}" for each in told), ""]
    if any(map(per_second, evaluation["contestants"])):
        cpus = (evaluation.get("machine") or {}).get("cpus")
        machine = f"one machine with {inline(cpus)} processors" if cpus else "one machine"
        lines += [f"Speeds were measured on {machine}; on another they differ.", ""]
    for judged in evaluation.get("judge") or ():
        lines += [inline(judge_told(judged)), ""]
    if groups := _groups(evaluation):
        lines += [*groups, ""]
    return [*lines, "`evaluation.json` has all of it, `report.html` shows it in pictures."]


def _contestants(evaluation: Mapping[str, Any], score: str) -> list[str]:
    """Return who was asked and what came of it; a column where nobody has a figure is left out."""
    contestants: Sequence[Mapping[str, Any]] = evaluation["contestants"]
    named = {
        key: [str(each.get(field, UNKNOWN)) for each in contestants]
        for key, field in (("who", "name"), ("prompt", "prompt"), ("runtime", "runtime"))
    }
    figures = {
        f"{score}#": [share_told(each.get("score")) for each in contestants],
        "macro F1#": [f1_told(each.get("f1")) for each in contestants],
        "agrees with the teacher#": [share_told(each.get("agreement")) for each in contestants],
        "answers a second#": list(map(rate_told, contestants)),
        "US$ for 1,000#": list(map(money_told, contestants)),
    }
    kept = named | {head: cells for head, cells in figures.items() if any(cell != UNKNOWN for cell in cells)}
    return table([*kept], (_inert(row) for row in zip(*kept.values(), strict=True)))


def _inert(cells: Iterable[str]) -> list[str]:
    """Return the cells of a row of a table, inert."""
    return [inline(cell, 200) for cell in cells]


def _groups(evaluation: Mapping[str, Any]) -> list[str]:
    """Return everybody's figure for each group of questions, where they have groups."""
    rows = [
        _inert([name, str(each["name"]), f"{int(found.get('questions') or 0):,}", share_told(found)])
        for name in groups_of(evaluation)
        for each in evaluation["contestants"]
        if (found := (each.get("groups") or {}).get(name))
    ]
    return table(["questions that are", "who", "questions#", "right#"], rows) if rows else []


# ---- limits


def _limits(manifest: "StudentManifest", evaluation: Mapping[str, Any] | None) -> Iterable[str]:
    yield from _of_model(manifest)
    yield from _of_training(manifest)
    yield from _of_evaluation(evaluation)


def _of_model(manifest: "StudentManifest") -> Iterable[str]:
    parameters = int(manifest.base.get("parameters") or 0)
    if 0 < parameters < SMALL:
        yield f"It is small ({parameters_told(parameters)} parameters): it knows little that its rows do not hold."
    yield "It was trained for one task and one form of prompt; anything else may have become worse than in its base."
    if labels := _labels(manifest):
        yield f"It knows {len(labels):,} labels, and gives one of them to a text that fits none."
    if manifest.gguf:
        kind = str(manifest.settings.get("gguf") or manifest.gguf)
        if "f16" not in kind.lower():
            yield f"{code(manifest.gguf)} holds rounded weights: some of its answers may differ from the other files'."
    stance = _terms(manifest).get("stance", "unknown")
    if stance in ("restricted", "prohibited"):
        yield f"The teachers' terms are {stance} for the purpose above, which the owner took upon themselves."
    elif stance == "unknown":
        yield "Whether the teachers' terms allow such a student is unknown."


def _of_training(manifest: "StudentManifest") -> Iterable[str]:
    training, teachers = manifest.training, manifest.dataset.get("teachers") or {}
    if len(teachers) == 1:
        yield "It learnt from one teacher, with that teacher's mistakes, opinions and habits of style."
    for facts in teachers.values():
        if facts.get("quantisation"):
            yield f"The teacher {code(facts.get('model', '?'))} itself was rounded ({inline(facts['quantisation'])})."
    rows, watched = int(training.get("train_rows") or 0), int(training.get("validation_rows") or 0)
    if rows < FEW_ROWS:
        yield f"It was trained on few rows: {rows:,}."
    if not watched:
        yield "No rows were kept back while it was trained: nobody saw whether it went on for too long."
    elif watched < FEW_TO_WATCH:
        yield f"Few rows, {watched:,}, decided when to stop."
    if long := int(training.get("long_rows") or 0):
        yield f"{long:,} of the rows were longer than the model reads, and were left out or cut off."
    yield "It was trained once, with one seed; with another its figures differ by a little."


def _of_evaluation(evaluation: Mapping[str, Any] | None) -> Iterable[str]:
    if evaluation is None:
        yield "It was not evaluated: nobody has measured how good it is. `distillgen student evaluate` does."
        return
    on = evaluation.get("on") or {}
    questions, gold = int(on.get("questions") or 0), int(on.get("with_gold") or 0)
    yield f"It was evaluated on {questions:,} questions of one kind; on other questions it may do worse."
    if not gold:
        yield "None of these has a known right answer: how often it is right is not known, only how it compares."
    elif gold < FEW_TO_MEASURE:
        yield f"Only {gold:,} of these have a known right answer: mind the intervals."
    found = _contestant(evaluation, "student") or {}
    if unreadable := int(found.get("unreadable") or 0):
        yield f"{unreadable:,} of its answers were of no use (no label, no number, ...), and count as wrong."
    yield from (f"Left out of the evaluation: {inline(each, 100)}." for each in left_out_told(evaluation))
    yield from (f"{inline(note)}." for note in evaluation.get("notes") or ())
