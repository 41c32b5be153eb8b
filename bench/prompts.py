"""Runs the prompts of the library on small seed files and counts what their own checks keep."""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillgen.dataset.versions import latest
from distillgen.files import read_jsonl

SEEDS = Path(__file__).resolve().parent / "prompts"
LABELS = 'labels = ["positive", "negative", "neutral"]\n'
LEAST_SCORE = 4  # a judge's score from here on says "good"


@dataclass(frozen=True)
class Trial:
    """How a prompt is used: more lines of its step, the student's two templates, and how long a reply may get."""

    student_prompt: str | None
    completion: str = "{{ answer }}"
    step: str = ""
    max_tokens: int = 200

    def snippet(self, prompt: str) -> str:
        """Return the step and the student as a recipe states them."""
        asked = "" if self.student_prompt is None else f'prompt = "{self.student_prompt}"\n'
        return (
            f'[[steps]]\nuse = "generate"\nprompt = "{prompt}"\n{self.step}'
            f'[student]\n{asked}completion = "{self.completion}"\n'
        )


TRIALS = {
    "answer": Trial("{{ question }}{% if input is defined %} {{ input }}{% endif %}"),
    "answer_from_document": Trial("{{ document }} {{ question }}"),
    "chat": Trial(None),
    "evolve": Trial("{{ question }}", "{{ evolved }}"),
    "explain": Trial("Explain: {{ topic }}"),
    "judge": Trial("Question: {{ question }} Answer: {{ answer }}", "{{ critique }} Score: {{ score }}"),
    "judge_pair": Trial(
        "Question: {{ question }} First: {{ first }} Second: {{ second }}", "{{ critique }} Winner: {{ winner }}"
    ),
    "label": Trial("{{ text }}", "{{ label }}", LABELS),
    "label_with_rationale": Trial("{{ text }}", "{{ rationale }} Label: {{ label }}", LABELS),
    "persona": Trial("{{ question }}"),
    "questions_from_document": Trial("{{ document }}", "{{ question }}", "each = true\n", 300),
    "reason": Trial("{{ question }}", "{{ reasoning }} Answer: {{ answer }}", max_tokens=400),
    "rewrite": Trial("{{ text }}", "{{ rewritten }}"),
    "self_instruct": Trial("Write a task.", "{{ question }}", "each = true\n", 300),
}


@dataclass(frozen=True)
class Count:
    """What came of one prompt. `agreed` is None when its seeds have no gold."""

    seeds: int
    rows: int
    kept: int
    reasons: Counter[str]
    agreed: int | None


def write_recipe(project: Path, prompt: str, model: str) -> None:
    """Write the project of one prompt; its stored answers are left alone."""
    project.mkdir(parents=True, exist_ok=True)
    trial = TRIALS[prompt]
    (project / "recipe.toml").write_text(
        f'name = "{prompt}"\n\n'
        f"[seeds]\npath = {json.dumps(str(SEEDS / f'{prompt}.jsonl'))}\n\n"
        f'[teachers.main]\nprovider = "embedded"\nmodel = "{model}"\n'
        f"sampling = {{ temperature = 0.3, max_tokens = {trial.max_tokens} }}\n\n"
        f"{trial.snippet(prompt)}",
        encoding="utf-8",
    )


def build(project: Path) -> int:
    """Run `distillgen build`; show what it says only when it fails. Returns its exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "distillgen", "build", str(project)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
    return done.returncode


def count(project: Path, prompt: str) -> Count | None:
    """Read the newest version of a prompt's dataset; None when there is none."""
    version = latest(project / "datasets" / prompt)
    if version is None:
        return None
    step = version.manifest.funnel[0]
    reasons = Counter(f"{row['rule']}: {row['detail']}" for row in read_jsonl(version.folder / "rejected.jsonl.zst"))
    reasons += Counter(f"{row['cause']}: {row['detail']}" for row in read_jsonl(version.folder / "failed.jsonl.zst"))
    kept = [row["columns"] for row in read_jsonl(version.folder / "provenance.jsonl.zst")]
    agreed = sum(agrees(columns) for columns in kept) if all("gold" in columns for columns in kept) else None
    return Count(step["in"], step["in"] + step["born"], step["out"], reasons, agreed)


def agrees(columns: Mapping[str, Any]) -> bool:
    """Whether what the teacher wrote says the same as the seed's `gold`: a label, a verdict, a number, some words."""
    gold = columns["gold"]
    if "document" in columns:
        return str(gold).casefold() in columns["answer"].casefold()
    if "label" in columns:
        return bool(columns["label"] == gold)
    if "winner" in columns:
        return bool(columns["winner"] == gold)
    if "score" in columns:
        return bool(columns["score"] >= LEAST_SCORE) == bool(gold == "good")
    numbers = re.findall(r"\d+(?:\.\d+)?", columns["answer"].replace(",", ""))
    return bool(numbers) and float(numbers[-1]) == float(gold)


def report(counts: Mapping[str, Count]) -> Iterable[str]:
    """Yield a table in Markdown, and below it why rows were left out."""
    yield "| prompt | seeds | rows | kept | share | agrees with gold |"
    yield "|---|---:|---:|---:|---:|---:|"
    for prompt, c in counts.items():
        gold = "" if c.agreed is None else f"{c.agreed} of {c.kept}"
        yield f"| {prompt} | {c.seeds} | {c.rows} | {c.kept} | {c.kept / c.rows:.0%} | {gold} |"
    for prompt, c in counts.items():
        for reason, number in c.reasons.most_common():
            yield f"{prompt}: {number} x {reason}"


def main() -> int:
    """Build what was asked for, and print the counts. Returns 1 when a build failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help=f"default: all of {', '.join(TRIALS)}")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="one project per prompt goes there")
    parser.add_argument("--model", default="qwen2.5-coder-1.5b", help="an embedded model (default: %(default)s)")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.prompts) - TRIALS.keys()):
        parser.error(f"no seeds for {', '.join(unknown)}")
    counts: dict[str, Count] = {}
    wrong = 0
    for prompt in arguments.prompts or TRIALS:
        project = arguments.work / prompt
        write_recipe(project, prompt, arguments.model)
        status = build(project)
        found = count(project, prompt) if status == 0 else None
        if found is None:
            print(f"{prompt}: no dataset, distillgen exits with {status}", file=sys.stderr)
            wrong = 1
        else:
            counts[prompt] = found
            print(f"{prompt}: {found.kept} of {found.rows} kept", file=sys.stderr)
    print("\n".join(report(counts)))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
