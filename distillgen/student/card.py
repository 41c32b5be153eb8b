"""The card of a student: a README that says what it is, how to ask it, where it comes from and how good it is.

All of it comes from the manifest and the evaluation, and whatever they hold stays text (dataset/inert.py). Terms,
evaluation and limits are told by card_terms.py, card_evaluation.py and card_limits.py.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distillgen.dataset.inert import block, code, front, html, inline, shortened, table
from distillgen.student.card_evaluation import evaluation_section, hub_results
from distillgen.student.card_limits import known_limits
from distillgen.student.card_terms import base_licence, front_licence, licence_section, terms_section, title_of
from distillgen.student.manifest import StudentManifest
from distillgen.student.tables import parameters_told, size_told

FOLDER = "path/of/this/folder"
MOST_OF_TEXT = 6_000  # characters of a template
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


def write_card(manifest: StudentManifest, evaluation: Mapping[str, Any] | None) -> str:
    """Return the card as Markdown with YAML front matter, of nothing but what is given: the same again and again.

    Of `manifest.files` only the names and sizes of the model's own files are looked at.
    """
    parts = [
        _head(manifest, evaluation),
        _use(manifest),
        _prompt(manifest),
        _dataset(manifest),
        terms_section(manifest),
        licence_section(manifest),
        _training(manifest),
        evaluation_section(evaluation),
        ["## Known limits", "", *(f"- {each}" for each in known_limits(manifest, evaluation))],
        ["## Check the files", "", TOLD_OF_CHECK, "", "```python", *CHECK.splitlines(), "```"],
    ]
    body = [line for part in parts if part for line in [*part, ""]]
    return "\n".join(["---", *_front(manifest, evaluation), "---", "", *body[:-1]]) + "\n"


def _front(manifest: StudentManifest, evaluation: Mapping[str, Any] | None) -> list[str]:
    tags = ["distillgen", "distillation", "synthetic", "dpo" if manifest.is_preference else "sft"]
    lines = [
        front("pipeline_tag", "text-generation"),
        front("library_name", "transformers"),
        *front_licence(manifest),
    ]
    if found := _HUB_NAME.fullmatch(str(manifest.base["name"])):
        lines += [front("base_model", found[1]), front("base_model_relation", "finetune")]
    lines.append(front("tags", [*tags, *(["gguf"] if manifest.gguf else [])]))
    if results := hub_results(manifest, evaluation):
        lines.append(front("model-index", [{"name": title_of(manifest), "results": results}]))
    return lines


# ---- what it is


def _head(manifest: StudentManifest, evaluation: Mapping[str, Any] | None) -> list[str]:
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


def _what(manifest: StudentManifest, evaluation: Mapping[str, Any] | None) -> str:
    """Return in a paragraph what a distilled model is, for somebody who never heard of one."""
    labels = manifest.labels
    task = f"It answers with one of {len(labels):,} labels: {_listed(labels)}." if labels else ""
    learnt = "which of two answers is the better one" if manifest.is_preference else "to answer as the teacher did"
    measured = (
        "[how far it does](#evaluation) was measured" if evaluation else "nobody has measured yet how far it does"
    )
    return " ".join(filter(None, [
        "This is a language model for one task.", task,
        f"It was made by distillation: another model, the teacher, wrote the answers to {_rows(manifest)}, and this "
        f"one, the student, learnt from them {learnt}. It is meant to do this one task as well as its teacher, faster "
        f"and cheaper; {measured}. For anything else, use another model.",
    ]))  # fmt: skip


def _rows(manifest: StudentManifest) -> str:
    count = manifest.training.get("train_rows") or manifest.dataset["rows"]
    return f"{count:,} question{'' if count == 1 else 's'}"


def _listed(words: Sequence[str], most: int = 20) -> str:
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(code(word) for word in words[:most]) + more


def _base_title(manifest: StudentManifest) -> str:
    base = manifest.base
    title, name = str(base.get("title") or base["name"]), str(base["name"])
    said = inline(title) + (f" ({code(name)})" if name != title else "")
    return f"{said}, licence {inline(base_licence(manifest))}"


def _teachers(manifest: StudentManifest) -> str:
    return "; ".join(_teacher(facts) for facts in manifest.teachers.values())


def _teacher(facts: Mapping[str, Any]) -> str:
    """Return a teacher's model with what the version's manifest says of it."""
    title = facts.get("title")
    more = [inline(facts["quantisation"])] if facts.get("quantisation") else []
    more += [f"licence {inline(facts['licence'])}"] if facts.get("licence") else []
    more += [f"asked at {code(facts['endpoint'])}"] if facts.get("endpoint") else []
    name = f"{inline(title)}, {code(facts.get('model', '?'))}" if title else code(facts.get("model", "?"))
    return name + (f" ({', '.join(more)})" if more else "")


def _dataset_label(manifest: StudentManifest) -> str:
    name, version, digest = (manifest.dataset[key] for key in ("name", "version", "digest"))
    return f"{code(f'{name}@{version}')}, content digest {code(f'sha256:{digest}')}"


# ---- how to use it


def _row(manifest: StudentManifest) -> list[dict[str, str]]:
    """Return a row that it learnt from, the answer last; none where it holds more than text, a tool's calls say."""
    turns = manifest.dataset.get("example") or []
    texts = [{"role": str(turn.get("role")), "content": turn.get("content")} for turn in turns]
    return texts if len(texts) > 1 and all(isinstance(turn["content"], str) for turn in texts) else []


def _example(manifest: StudentManifest) -> list[dict[str, str]]:
    """Return the messages of a question: of a row, or the recipe's templates with the names of what goes into them."""
    if example := _row(manifest):
        return example[:-1]
    settings = manifest.student_settings
    system, prompt = settings.get("system"), settings.get("prompt")
    messages = [{"role": "system", "content": _filled(system)}] if system else []
    return [*messages, {"role": "user", "content": _filled(prompt) if prompt else "<your question>"}]


def _filled(template: str) -> str:
    filled = _VARIABLE.sub(lambda found: f"<{found[1]}>", template)
    return "<the prompt, as its template has it>" if "{{" in filled or "{%" in filled else filled


def _use(manifest: StudentManifest) -> list[str]:
    messages = [{**turn, "content": shortened(turn["content"], MOST_OF_TEXT)} for turn in _example(manifest)]
    tokens = LABEL_TOKENS if manifest.labels else TEXT_TOKENS
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


def _prompt(manifest: StudentManifest) -> list[str]:
    settings = manifest.student_settings
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


def _dataset(manifest: StudentManifest) -> list[str]:
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


def _training(manifest: StudentManifest) -> list[str]:
    training, settings = manifest.training, manifest.settings
    how = "DPO on pairs of answers" if manifest.is_preference else "supervised training, loss on the answers alone"
    facts = [("how", f"[TRL](https://huggingface.co/docs/trl) on transformers: {how}")]
    other = {"lora"} - {settings.get("method")} | ({"dpo"} if not manifest.is_preference else set())
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
