"""Training a student: a tiny Llama, real children, real kills; and every way in which it is refused beforehand."""

# ruff: noqa: E402
import contextlib
import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

pytest_plugins = ["student_material"]
pytest.importorskip("torch", reason="make test-student installs PyTorch and TRL")

from student_material import version_of

from distillgen.dataset.versions import Version
from distillgen.errors import Damaged, DiskFull, Interrupted, Locked, MemoryFull, UsageError
from distillgen.files import file_sha256, holder
from distillgen.student.base import Base, find_base
from distillgen.student.checkpoints import MARK, newest
from distillgen.student.examples import Examples, read_examples, stops_of
from distillgen.student.needs import available_memory, disk_needed, memory_needed, require_disk
from distillgen.student.order import Order, asked_for, effective, split_to_train, split_to_watch
from distillgen.student.settings import read_settings
from distillgen.student.trainer import precision_of
from distillgen.student.trainer_process import STOPPING
from distillgen.student.trainer_work import Work
from distillgen.student.training import train
from distillgen.student.trl_trainer import build_trainer

Event = Mapping[str, Any]
QUICK = (
    "epochs=2",
    "validations=2",
    "threads=1",
    "precision=float32",
    "learning_rate=0.01",
)  # ten steps; checkpoints at 3, 6, 9, 10


def order_of(
    project: Project | Version, base: Path, out: Path, *said: str, are_pairs: bool = False, **more: Any
) -> Order:
    version = project if isinstance(project, Version) else version_of(project)
    found = find_base(str(base))
    rows = version.manifest.splits.get("train", 0)
    settings = read_settings(None, [*QUICK, *said], 7).completed(
        parameters=found.parameters, train_rows=rows, are_pairs=are_pairs
    )
    return Order(version, found, out, settings, **{"gguf": "none", **more})


def weights(folder: Path) -> str:
    return file_sha256(folder / "model.safetensors")


class Told(list[Event]):
    """The events of a training, and what happens at one of them."""

    def __init__(self, kind: str = "", step: int = 0, then: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._at, self._then = (kind, step), then

    def __call__(self, event: Event) -> None:
        self.append(event)
        if self._then is not None and event["event"] == self._at[0] and event["step"] >= self._at[1]:
            then, self._then = self._then, None
            then()

    def of(self, kind: str) -> list[int]:
        return [event["step"] for event in self if event["event"] == kind]


def kill_trainer(order: Order) -> Callable[[], None]:
    """Return what kills the child that trains, as the kernel does it when there is no memory."""

    def kill() -> None:
        found = holder(order.work / "trainer.lock")
        assert found is not None and found.process is not None and found.process != os.getpid()
        os.kill(found.process, signal.SIGKILL)

    return kill


def press_control_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


PARENT = """
import json, os, pathlib, sys
from distillgen.dataset.versions import find_version
from distillgen.errors import DistillgenError
from distillgen.student.base import find_base
from distillgen.student.settings import TrainingSettings
from distillgen.student.order import Order
from distillgen.student.training import train

asked = json.loads(sys.argv[1])
order = Order(
    find_version(asked["version"], pathlib.Path()), find_base(asked["base"]), pathlib.Path(asked["out"]),
    TrainingSettings.model_validate(asked["settings"]), gguf="none",
)

def show(event):
    if event["event"] == "checkpoint" and event["step"] >= asked["step"]:
        asked["step"] = 1_000_000  # once: the checkpoint that the signal leads to is told as well
        os.kill(os.getpid(), asked["signal"])

try:
    train(order, show)
except DistillgenError as error:
    print(error)
    sys.exit(error.exit_status)
"""


def run_and_signal(order: Order, number: int, step: int) -> "subprocess.CompletedProcess[str]":
    """Train in a process of its own, which a signal reaches at a checkpoint."""
    asked = {
        "version": str(order.version.folder), "base": order.base.name, "out": str(order.out),
        "settings": order.settings.model_dump(), "signal": number, "step": step,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", PARENT, json.dumps(asked)], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def whole(chats: Project, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that was trained without a stop."""
    out = tmp_path_factory.mktemp("whole") / "student"
    train(order_of(chats, tiny, out))
    return out


def assert_a_share(points: list[list[float]], of: int) -> None:
    """Assert that each figure is a number of so many: every token, or pair, counts alike, in whatever batch it was."""
    assert points and all(abs(share * of - round(share * of)) < 1e-3 and 0 <= share <= 1 for _, share in points)


def best_of(training: dict[str, Any]) -> int:
    """Return the step of the most accurate look, of equals the last."""
    return int(max(training["accuracy"], key=lambda each: (each[1], each[0]))[0])


def test_the_loop_trains_and_publishes_a_folder_that_transformers_opens(
    chats: Project, tiny: Path, tiny_copy: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tiny_copy / "LICENSE").write_text("Do as you like.")
    told = Told()
    student = train(order_of(chats, tiny_copy, tmp_path / "student"), told)
    counts, training = chats.manifest()["splits"], student.manifest.training
    assert told[0]["event"] == "rows" and told.of("step") == list(range(1, 11))
    assert told.of("validation") == told.of("checkpoint") == [3, 6, 9, 10]
    assert (training["train_rows"], training["validation_rows"]) == (counts["train"], counts["validation"])
    assert training["loss"]["train"] == [[each["step"], each["loss"]] for each in told if each["event"] == "step"]
    first, last = training["loss"]["train"][0][1], training["loss"]["train"][-1][1]
    assert_a_share(training["accuracy"], of=training["rows"]["validation"]["trained_tokens"])
    assert last < first - 0.5 and training["loss"]["validation"][-1][0] == 10
    assert training["best_step"] == best_of(training)
    assert (training["device"], training["precision"], training["threads"]) == ("cpu", "float32", 1)
    assert student.manifest.settings["max_tokens"] == 512 and student.manifest.settings["seed"] == 7
    assert student.manifest.base["name"] == tiny_copy.name and student.manifest.software["trl"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing is left beside it"

    before = AutoModelForCausalLM.from_pretrained(tiny_copy).state_dict()
    after = AutoModelForCausalLM.from_pretrained(student.folder).state_dict()
    assert before.keys() == after.keys() and all(not before[name].equal(after[name]) for name in before)
    kept, came = AutoTokenizer.from_pretrained(student.folder), AutoTokenizer.from_pretrained(tiny_copy)
    assert kept.chat_template == came.chat_template and kept.get_vocab() == came.get_vocab()
    assert (student.folder / "LICENSE").read_text() == "Do as you like."

    again = Told()
    assert train(order_of(chats, tiny_copy, tmp_path / "student"), again).manifest == student.manifest
    assert [event["event"] for event in again] == ["message"] and "is there already" in again[0]["text"]
    for other in (
        order_of(chats, tiny_copy, tmp_path / "student", "learning_rate=0.02"),
        order_of(chats, tiny_copy, tmp_path / "student", reasoning="drop"),
        order_of(chats, tiny_copy, tmp_path / "student", gguf="f16"),
    ):
        with pytest.raises(UsageError, match="is a student already, trained"):
            train(other)
    assert weights(student.folder) == student.manifest.files["model.safetensors"].sha256


def prepared(
    project: Project, base: Path, *, are_pairs: bool = False, reasoning: Any = "think"
) -> tuple[Any, Any, Any]:
    """Return the trainer as the child makes it, its tokenizer, and the rows of the version."""
    from transformers import AutoTokenizer

    order = order_of(project, base, base.parent / "out", are_pairs=are_pairs)
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = read_examples(
        order.version, "train", tokenizer, reasoning=reasoning, long="error", max_tokens=512,
        stops=stops_of(tokenizer, None),
    )  # fmt: skip
    settings = order.settings.model_copy(update={"max_tokens": 512})
    told: Any = {"base": str(base), "parameters": 10_000}
    nobody: Any = None
    work = Work(told, settings, nobody, nobody, "cpu", "float32", 0.0)
    with contextlib.chdir(base.parent):  # the child is in its working folder
        return build_trainer(work, tokenizer, rows, None), tokenizer, rows


def test_loss_falls_on_the_answer_and_its_end_alone(chats: Project, tiny: Path) -> None:
    trainer, tokenizer, rows = prepared(chats, tiny)
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert len(batch["labels"]) == len(rows.rows)
    for ids, labels, row in zip(batch["input_ids"], batch["labels"], rows.rows, strict=True):
        learnt = tokenizer.decode(ids[labels != -100])
        assert learnt == row["completion"][0]["content"] + "<|end|>"
        assert row["prompt"][-1]["content"] in tokenizer.decode(ids[labels == -100])
    assert rows.trained_tokens == int((batch["labels"] != -100).sum())
    assert rows.tokens == int(batch["attention_mask"].sum())


def test_of_pairs_both_answers_are_learnt_from_and_the_question_is_not(pairs: Project, tiny: Path) -> None:
    trainer, tokenizer, rows = prepared(pairs, tiny, are_pairs=True)
    for made, row in zip(trainer.train_dataset, rows.rows, strict=True):
        for name in ("chosen", "rejected"):
            assert tokenizer.decode(made[f"{name}_ids"]) == row[name][0]["content"] + "<|end|>"
        assert row["prompt"][-1]["content"] in tokenizer.decode(made["prompt_ids"])


# -- stopped, killed, and gone on -------------------------------------------------------------------------------------


def test_control_c_and_a_killed_trainer_change_nothing(chats: Project, tiny: Path, whole: Path, tmp_path: Path) -> None:
    order = order_of(chats, tiny, tmp_path / "student")
    told = Told("step", 1, press_control_c)
    with pytest.raises(Interrupted) as stop:
        train(order, told)
    assert stop.value.exit_status == 130 and len(told.of("checkpoint")) == 1
    assert [event["text"] for event in told if event["event"] == "message"] == [STOPPING]
    first = told.of("checkpoint")[0]
    assert f"what was learnt up to step {first} is kept: the same command goes on" in str(stop.value)

    told = Told("checkpoint", first + 1, kill_trainer(order))
    with pytest.raises(MemoryFull) as killed:
        train(order, told)
    assert told.of("resumed") == [first] and "killed from outside" in str(killed.value)
    assert "the same command goes on" in str(killed.value)

    told = Told()
    student = train(order, told)
    assert told.of("resumed")[0] > first
    assert weights(student.folder) == weights(whole)
    losses = [step for step, _ in student.manifest.training["loss"]["train"]]
    assert losses == list(range(1, 11)) and student.manifest.training["resumed"] == 2
    reference = json.loads((whole / "manifest.json").read_bytes())["training"]
    for name in ("loss", "best_step", "steps", "tokens"):
        assert student.manifest.training[name] == reference[name]


@pytest.mark.parametrize(
    ("said", "number", "status"),
    [
        pytest.param(("method=lora", "lora.dropout=0.1", "threads=2"), signal.SIGKILL, -9, id="lora-2-threads-kill"),
        pytest.param(("threads=2",), signal.SIGTERM, 143, id="full-2-threads-sigterm"),
        pytest.param(("precision=bfloat16", "accumulate=2", "epochs=4"), signal.SIGKILL, -9, id="bf16-accumulate-kill"),
    ],
)
def test_the_end_of_the_parent_changes_nothing(
    said: tuple[str, ...], number: int, status: int, chats: Project, tiny: Path, tmp_path: Path
) -> None:
    if "precision=bfloat16" in said and precision_of("auto", "cpu") != "bfloat16":
        pytest.skip("this processor has no bfloat16")
    reference = train(order_of(chats, tiny, tmp_path / "whole", *said))
    order = order_of(chats, tiny, tmp_path / "student", *said)
    done = run_and_signal(order, number, 3)
    assert done.returncode == status, done.stderr
    if number == signal.SIGTERM:
        assert "stopped; what was learnt up to step" in done.stdout
    assert not order.out.exists() and order.work.exists()
    told = Told()
    student = train(order, told)
    assert told.of("resumed")[0] >= 3
    assert weights(student.folder) == weights(reference.folder)
    assert student.manifest.training["loss"] == reference.manifest.training["loss"]


def cut(folder: Path) -> None:
    path = folder / "optimizer.pt"
    os.truncate(path, path.stat().st_size // 2)


def flip(folder: Path) -> None:
    path = folder / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_that_is_not_whole_is_not_used(chats: Project, tiny: Path, whole: Path, tmp_path: Path) -> None:
    killed = order_of(chats, tiny, tmp_path / "killed", "keep_checkpoints=3")
    with pytest.raises(MemoryFull):
        train(killed, Told("checkpoint", 9, kill_trainer(killed)))
    damages: dict[str, Callable[[Path], None]] = {
        "no-mark": lambda folder: (folder / MARK).unlink(),
        "cut": cut,
        "flipped": flip,
    }
    for name, damage in damages.items():
        order = order_of(chats, tiny, tmp_path / name, "keep_checkpoints=3")
        shutil.copytree(killed.work, order.work)  # which moves it, too
        for folder in (order.work / "checkpoints").glob("checkpoint-*"):
            if int(folder.name.partition("-")[2]) >= 9:
                damage(folder)
        told = Told()
        student = train(order, told)
        assert told.of("resumed") == [6], name
        assert weights(student.folder) == weights(whole), name
    assert newest(killed.work / "checkpoints") is not None, "the undamaged one is whole"


def test_without_any_whole_checkpoint_it_begins_anew(chats: Project, tiny: Path, whole: Path, tmp_path: Path) -> None:
    order = order_of(chats, tiny, tmp_path / "student")
    with pytest.raises(MemoryFull):
        train(order, Told("checkpoint", 3, kill_trainer(order)))
    for folder in (order.work / "checkpoints").glob("checkpoint-*"):
        cut(folder)
    told = Told()
    student = train(order, told)
    assert told.of("resumed") == [] and weights(student.folder) == weights(whole)


def test_the_last_step_is_not_done_again(chats: Project, tiny: Path, whole: Path, tmp_path: Path) -> None:
    order = order_of(chats, tiny, tmp_path / "student")
    with pytest.raises(MemoryFull):
        train(order, Told("checkpoint", 10, kill_trainer(order)))
    told = Told()
    assert weights(train(order, told).folder) == weights(whole) and told.of("step") == []


def test_by_accuracy_the_later_of_equals_is_kept_and_equals_are_no_gain(
    chats: Project, tiny: Path, tmp_path: Path
) -> None:
    said = ("patience=2", "epochs=20", "learning_rate=1e-12", "schedule=constant", "warmup=0.0")
    training = train(order_of(chats, tiny, tmp_path / "student", *said)).manifest.training
    steps, shares = zip(*training["accuracy"], strict=True)
    assert len(steps) == 3 and len(set(shares)) == 1 and 0 <= shares[0] <= 1, "nothing is learnt at such a rate"
    assert training["stopped_early"] and training["best_step"] == training["steps"] == steps[-1]


def test_by_accuracy_that_look_is_kept_at_which_most_came_out_right(chats: Project, tiny: Path, tmp_path: Path) -> None:
    said = ("patience=0", "epochs=3", "learning_rate=0.2", "schedule=constant", "warmup=0.0")
    training = train(order_of(chats, tiny, tmp_path / "student", *said)).manifest.training
    assert training["best_step"] == best_of(training)


def test_it_stops_early_and_keeps_the_best_also_when_it_is_killed_then(
    chats: Project, tiny: Path, tmp_path: Path
) -> None:
    said = ("patience=2", "epochs=20", "learning_rate=0.4", "schedule=constant", "warmup=0.0", 'best="loss"')
    student = train(order_of(chats, tiny, tmp_path / "whole", *said))
    training = student.manifest.training
    losses = dict(training["loss"]["validation"])
    assert training["stopped_early"] and training["steps"] < 100
    assert training["best_step"] == min(losses, key=lambda step: losses[step]) < training["steps"]
    assert len([step for step in losses if step > training["best_step"]]) == 2

    order = order_of(chats, tiny, tmp_path / "killed", *said)
    with pytest.raises(MemoryFull):
        train(order, Told("checkpoint", training["steps"], kill_trainer(order)))
    told = Told()
    again = train(order, told)
    assert told.of("step") == [] and weights(again.folder) == weights(student.folder)
    assert again.manifest.training["best_step"] == training["best_step"] and again.manifest.training["stopped_early"]


def test_a_training_begun_otherwise_is_refused_and_nothing_is_lost(chats: Project, tiny: Path, tmp_path: Path) -> None:
    order = order_of(chats, tiny, tmp_path / "student")
    with pytest.raises(MemoryFull):
        train(order, Told("checkpoint", 3, kill_trainer(order)))
    with pytest.raises(UsageError) as refused:
        train(order_of(chats, tiny, tmp_path / "student", "batch=4", "threads=2"))
    assert "begun otherwise (settings.batch was 8, is 4; settings.threads was 1, is 2)" in str(refused.value)
    assert newest(order.work / "checkpoints") is not None
    (order.work / "order.json").write_text("{}")
    with pytest.raises(UsageError, match="dataset was None, is demo"):
        train(order)
    (order.work / "order.json").unlink()
    with pytest.raises(UsageError, match="begun otherwise"):
        train(order)
    assert newest(order.work / "checkpoints") is not None


def test_of_what_was_begun_beside_a_student_only_its_own_is_cleared(chats: Project, tiny: Path, whole: Path) -> None:
    order = order_of(chats, tiny, whole)
    order.work.mkdir()
    path = order.work / "order.json"
    path.write_text("{}")
    assert train(order).folder == whole and path.exists()
    path.write_text(json.dumps(asked_for(effective(order))))
    told = Told()
    train(replace(order, terms={"purpose": "product", "competing": "no"}), told)
    assert not order.work.exists()
    assert "nothing is to be done" in told[0]["text"] and "its card was written for the purpose" in told[1]["text"]


def test_only_one_at_a_time(chats: Project, tiny: Path, tmp_path: Path) -> None:
    order, second = order_of(chats, tiny, tmp_path / "student"), []

    def another() -> None:
        with pytest.raises(Locked) as locked:
            train(order)
        second.append(locked.value)

    train(order, Told("step", 1, another))
    assert second[0].exit_status == 11 and str(os.getpid()) in str(second[0])


# -- pairs and reasoning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full"])
def test_pairs_are_trained_on_by_dpo(method: str, pairs: Project, tiny: Path, tmp_path: Path) -> None:
    order = order_of(
        pairs, tiny, tmp_path / "student", f"method={method}", "learning_rate=0.003", "epochs=8", are_pairs=True
    )
    student = train(order)
    loss = [value for _, value in student.manifest.training["loss"]["train"]]
    assert abs(loss[0] - 0.6931) < 1e-3, "at first both answers are as likely as to the base"
    assert min(loss[len(loss) // 2 :]) < 0.67, "and then the better one more"
    assert_a_share(student.manifest.training["accuracy"], of=student.manifest.training["validation_rows"])
    assert weights(student.folder) != weights(tiny)
    assert not list(student.folder.glob("adapter*")), "an adapter is merged"


def read(version: Version, tokenizer: Any, split: str = "train", **how: Any) -> Examples:
    asked = {"reasoning": "think", "long": "error", "max_tokens": 512, "stops": stops_of(tokenizer, None), **how}
    return read_examples(version, split, tokenizer, **asked)


@pytest.mark.parametrize("placement", ["think", "reasoning_content"])
def test_reasoning_stands_where_it_was_asked_for(placement: Any, traces: Project, tiny: Path) -> None:
    trainer, tokenizer, _ = prepared(traces, tiny, reasoning=placement)
    row = traces.rows()[0]
    made = next(
        each for each in trainer.train_dataset if row["messages"][0]["content"] in tokenizer.decode(each["input_ids"])
    )
    learnt = tokenizer.decode([token for token in made["labels"] if token != -100])
    between = "\n" if placement == "think" else ""
    assert learnt.startswith(f"<think>{between}{row['reasoning']}{between}</think>")
    assert learnt.endswith(row["messages"][-1]["content"] + "<|end|>")


def test_reasoning_that_the_template_does_not_show_is_refused(
    traces: Project, template_of: Callable[[str], Path]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(template_of(ROLES + "{{ message.content }}<|end|>{% endfor %}" + BEGIN))
    for placement in ("thinking", "reasoning_content"):
        with pytest.raises(UsageError) as error:
            read(version_of(traces), tokenizer, reasoning=placement)
        assert "does not show the reasoning" in str(error.value) and "--reasoning think" in str(error.value)
    shown = read(version_of(traces), tokenizer)
    assert all(
        row["completion"][0]["content"].startswith("<think>\nLet me think") or "2026-11-25" in str(row)
        for row in shown.rows
    )
    dropped = read(version_of(traces), tokenizer, reasoning="drop")
    assert not any("<think>" in str(row) or "reasoning" in str(row["completion"]) for row in dropped.rows)


# -- rows that are too long -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["chats", "pairs"])
def test_long_rows_are_an_error_left_out_or_cut_off(kind: str, request: pytest.FixtureRequest, tokenizer: Any) -> None:
    version = version_of(request.getfixturevalue(kind))
    found = read(version, tokenizer)
    lengths = sorted(_lengths(found, tokenizer))
    limit = lengths[len(lengths) // 2]
    longer = sum(length > limit for length in lengths)
    assert 0 < longer < len(lengths) and found.longest == lengths[-1] and found.long == 0

    with pytest.raises(UsageError) as error:
        read(version, tokenizer, max_tokens=limit)
    assert error.value.exit_status == 2
    assert f"{longer} of {len(lengths)} rows" in str(error.value) and f"the longest has {lengths[-1]}" in str(
        error.value
    )
    assert "--long drop, --long truncate" in str(error.value)

    dropped = read(version, tokenizer, max_tokens=limit, long="drop")
    assert (len(dropped.rows), dropped.long, dropped.dropped) == (len(lengths) - longer, longer, longer)
    assert sorted(_lengths(dropped, tokenizer))[-1] == limit

    cut_off = read(version, tokenizer, max_tokens=limit, long="truncate")
    assert (len(cut_off.rows), cut_off.long, cut_off.truncated) == (len(lengths), longer, longer)

    nothing = read(version, tokenizer, max_tokens=10, long="truncate")
    assert (nothing.rows, nothing.long, nothing.without_answer) == ([], len(lengths), len(lengths))


def _lengths(found: Examples, tokenizer: Any) -> list[int]:
    def length(turns: list[Any]) -> int:
        return len(tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False))

    return [
        max(length([*row["prompt"], *row[name]]) for name in ("completion", "chosen", "rejected") if name in row)
        for row in found.rows
    ]


def test_fewer_rows_are_the_same_ones_each_time_and_among_those_of_more(chats: Project, tokenizer: Any) -> None:
    version = version_of(chats)
    every = read(version, tokenizer).rows
    some, more = (read(version, tokenizer, most=most).rows for most in (5, 9))
    assert (len(some), len(more)) == (5, 9) and some == read(version, tokenizer, most=5).rows
    assert all(row in more for row in some) and all(row in every for row in more)
    assert more != every[:9], "by chance, not the first ones"
    assert read(version, tokenizer, most=len(every)).rows == every


def test_rows_cut_off_are_trained_on_and_counted(chats: Project, tiny: Path, tmp_path: Path) -> None:
    student = train(order_of(chats, tiny, tmp_path / "student", "max_tokens=200", "epochs=1", long="truncate"))
    training = student.manifest.training
    counts = training["rows"]["train"]
    assert (
        training["long_rows"] == counts["truncated"] > 0
        and training["train_rows"] == chats.manifest()["splits"]["train"]
    )
    assert training["tokens"] == counts["tokens"] <= 200 * counts["rows"]
    with pytest.raises(UsageError, match="are longer than 200 tokens"):
        train(order_of(chats, tiny, tmp_path / "other", "max_tokens=200", "epochs=1"))
    with pytest.raises(UsageError, match="no row is left to train on"):
        train(order_of(chats, tiny, tmp_path / "other", "max_tokens=20", "epochs=1", long="drop"))
    with pytest.raises(UsageError, match="max_tokens = 513 is more than the 512 tokens"):
        train(order_of(chats, tiny, tmp_path / "other", "max_tokens=513"))
    assert not (tmp_path / "other").exists()


# -- bases and versions that do not do --------------------------------------------------------------------------------

ROLES = "{% for message in messages %}<|{{ message.role }}|>"
BEGIN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        pytest.param("", "has no chat template", id="none"),
        pytest.param(
            "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
            "refuses a conversation of system, user: System role not supported", id="refuses",
        ),
        pytest.param(
            ROLES + "{{ message.content }}{% endfor %}" + BEGIN, "the student would never stop", id="no-end-of-turn"
        ),
        pytest.param(
            "{{ messages | length }}" + ROLES + "{{ message.content }}<|end|>{% endfor %}" + BEGIN,
            "a question alone otherwise", id="prompt-is-no-prefix",
        ),
        pytest.param(
            ROLES + "{% if message.role != 'assistant' %}{{ message.content }}<|end|>{% endif %}{% endfor %}" + BEGIN,
            "leaves out the answer", id="no-answer",
        ),
    ],
)  # fmt: skip
def test_a_template_that_does_not_do_is_refused(
    template: str, told: str, chats: Project, template_of: Callable[[str], Path]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(template_of(template))
    with pytest.raises(UsageError) as error:
        read(version_of(chats), tokenizer)
    assert told in str(error.value) and error.value.problems[0].fix and "changed-llama" in str(error.value)


def test_a_line_after_the_end_of_a_turn_is_no_matter(chats: Project, template_of: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    template = ROLES + "{{ message.content }}<|end|>\n{% endfor %}" + BEGIN
    assert read(version_of(chats), AutoTokenizer.from_pretrained(template_of(template))).rows


def test_what_the_child_refuses_reaches_whoever_asked(
    chats: Project, template_of: Callable[[str], Path], tmp_path: Path
) -> None:
    order = order_of(chats, template_of(""), tmp_path / "student")
    with pytest.raises(UsageError) as error:
        train(order)
    assert "has no chat template" in str(error.value) and "chat_template.jinja" in str(error.value)
    assert not order.out.exists()


def test_a_loss_that_is_no_number_names_the_learning_rate(chats: Project, tiny_copy: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny_copy / "model.safetensors"
    save_file({name: weight * 1e30 for name, weight in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(UsageError) as error:
        train(order_of(chats, tiny_copy, tmp_path / "student"))
    assert "the loss is no number at step" in str(error.value) and "learning_rate = 0.01 is too high" in str(
        error.value
    )


def test_a_target_that_the_model_lacks_is_told(chats: Project, tiny: Path, tmp_path: Path) -> None:
    for target in ('["q_proj", "k_porj"]', '"k_porj"', '"("'):
        with pytest.raises(UsageError, match=r"lora.target names no layer of the base: '(k_porj|\()'"):
            train(order_of(chats, tiny, tmp_path / "student", "method=lora", f"lora.target={target}"))


def test_weights_that_are_not_there_are_not_made_up(chats: Project, tiny_copy: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny_copy / "model.safetensors"
    found = load_file(path)
    del found["model.layers.1.mlp.up_proj.weight"]
    save_file(found, path, metadata={"format": "pt"})
    with pytest.raises(
        Damaged, match="1 tensors are not there, or of another shape, 'model.layers.1.mlp.up_proj.weight'"
    ):
        train(order_of(chats, tiny_copy, tmp_path / "student"))
    save_file({f"wrapped.{name}": weight for name, weight in found.items()}, path, metadata={"format": "pt"})
    with pytest.raises(Damaged, match="do not belong together"):
        train(order_of(chats, tiny_copy, tmp_path / "student"))


def test_rows_that_hold_special_tokens_are_counted(chats: Project, tokenizer: Any) -> None:
    version = version_of(chats)
    assert read(version, tokenizer).counts()["special"] == 0
    word = chats.rows()[0]["messages"][0]["content"].split()[-1]
    holding = sum(word in json.dumps(row["messages"], ensure_ascii=False) for row in chats.rows())
    mine = copy.deepcopy(tokenizer)
    mine.add_special_tokens({"additional_special_tokens": [word]})
    splits = version.manifest.splits
    assert sum(read(version, mine, split).special for split in splits) == holding > 0


def test_a_place_where_no_student_can_be(chats: Project, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a version or a student"):
        train(order_of(chats, tiny, chats.version() / "student"))
    with pytest.raises(UsageError, match="the folder's name is no UTF-8"):
        train(order_of(chats, tiny, tmp_path / "bad\udcff"))
    (tmp_path / "manifest.json").write_text('{"name": "somebody\'s"}')
    with pytest.raises(UsageError, match="no row is left to train on"):
        train(order_of(chats, tiny, tmp_path / "other", "max_tokens=20", "epochs=1", long="drop"))


def test_what_a_launcher_left_in_the_environment_is_not_waited_for(
    chats: Project, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert train(order_of(chats, tiny, tmp_path / "student", "epochs=1")).manifest.training["steps"] > 0


def with_splits(version: Version, **splits: int) -> Version:
    return replace(version, manifest=version.manifest.model_copy(update={"splits": splits}))


def test_the_splits_are_chosen_as_the_exports_do(chats: Project, tiny: Path, tmp_path: Path) -> None:
    version = version_of(chats)
    assert (split_to_train(version), split_to_watch(version)) == ("train", "validation")
    other = with_splits(version, test=3, dev=2, math=9)
    assert (split_to_train(other), split_to_watch(other)) == ("math", "dev")
    assert split_to_watch(with_splits(version, train=4, validation=0)) is None
    for splits, told in (({"test": 3, "validation": 2}, "no split to train on; its splits: test (3 rows), validation (2 rows)"), ({"train": 0, "test": 3}, "no rows in the split 'train'")):  # fmt: skip
        with pytest.raises(UsageError) as error:
            train(replace(order_of(version, tiny, tmp_path / "student"), version=with_splits(version, **splits)))
        assert told in str(error.value) and "splits = { train = 0.9" in str(error.value)


def test_without_a_validation_split_it_trains_to_the_end(days: Project, tiny: Path, tmp_path: Path) -> None:
    student = train(order_of(days, tiny, tmp_path / "student", reasoning="drop"))
    training = student.manifest.training
    assert (training["validation_rows"], training["best_step"], training["stopped_early"]) == (0, None, False)
    assert training["loss"]["validation"] == [] and training["steps"] == 6


def test_something_else_in_its_place_is_left_alone(chats: Project, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="there is something at"):
        train(order_of(chats, tiny, tmp_path / "student"))
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


# -- memory and disk --------------------------------------------------------------------------------------------------


def large(base: Base) -> Base:
    return replace(base, parameters=10**13)


def test_too_little_memory_is_told_before_anything_is_made(chats: Project, tiny: Path, tmp_path: Path) -> None:
    order = order_of(chats, tiny, tmp_path / "student")
    with pytest.raises(MemoryFull) as error:
        train(replace(order, base=large(order.base)))
    assert error.value.exit_status == 12 and "160,000.5 GB" in str(error.value) and 'method="lora"' in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_memory_needed_goes_by_method_and_kind() -> None:
    million = 1_000_000
    assert memory_needed(135 * million, "full", are_pairs=False) == 2660 * million
    assert memory_needed(100 * million, "full", are_pairs=True) == 2500 * million
    assert memory_needed(100 * million, "lora", are_pairs=True) == memory_needed(100 * million, "lora", are_pairs=False)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        pytest.param({}, None, id="nothing-known"),
        pytest.param({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4 kB\n"}, 4096, id="machine"),
        pytest.param(
            {
                "proc/meminfo": "MemAvailable: 100 kB\n", "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": "9000", "sys/fs/cgroup/a/memory.current": "5000",
                "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 1500\n",
                "sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/b/memory.current": "10",
                "sys/fs/cgroup/a/b/memory.stat": "inactive_file 0\n",
            }, 5500, id="group-around-it",
        ),
        pytest.param(
            {
                "proc/meminfo": "MemAvailable: 100 kB\n", "proc/self/cgroup": "4:cpu,memory:/\n2:pids:/x\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "500",
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 100\n",
            }, 1600, id="first-kind-of-groups",
        ),
        pytest.param(
            {
                "proc/meminfo": "MemAvailable: 100 kB\n", "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "500", "sys/fs/cgroup/memory/memory.stat": "",
            }, 102400, id="no-limit",
        ),
    ],
)  # fmt: skip
def test_free_memory_is_that_of_the_machine_and_of_every_group(
    files: Mapping[str, str], free: int | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert available_memory(tmp_path) == free


def test_too_little_disk_is_told(chats: Project, tiny: Path, tmp_path: Path) -> None:
    order = order_of(chats, tiny, tmp_path / "student")
    order.work.mkdir()
    require_disk(order)
    with pytest.raises(DiskFull) as error:
        require_disk(replace(order, base=large(order.base)))
    assert error.value.exit_status == 12 and "free some space" in str(error.value)
    of_million = replace(order, base=replace(order.base, parameters=1_000_000))
    assert disk_needed(of_million) == 12_000_000 * 3 + 4_000_000 + 10_000_000, "the old, the best, the new"


def test_no_file_of_the_project_is_taken_for_a_library(
    chats: Project, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "trl.py").write_text("raise SystemExit('this is not the library')")
    monkeypatch.chdir(project)
    assert train(order_of(chats, tiny, Path("student"), "epochs=1")).folder.name == "student"
    assert sorted(path.name for path in project.iterdir()) == ["student", "trl.py"]


def test_the_trainer_of_a_killed_run_is_waited_for(chats: Project, tiny: Path, tmp_path: Path) -> None:
    """The child of a parent that was killed makes its checkpoint first; nobody trains beside it meanwhile."""
    order = order_of(chats, tiny, tmp_path / "student", "epochs=200", "validations=1", "patience=0")
    assert run_and_signal(order, signal.SIGKILL, 5).returncode == -9
    lock = order.work / "trainer.lock"
    while (found := holder(lock)) is not None and found.process is None:
        time.sleep(0.01)
    told = Told("step", 0, press_control_c)
    with pytest.raises(Interrupted):
        train(order, told)
    assert told.of("resumed")[0] >= 5 and told.of("step")[0] == told.of("resumed")[0] + 1
