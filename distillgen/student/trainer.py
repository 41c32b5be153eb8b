"""The child that trains: TRL's trainers on the rows of a version, with whole checkpoints, events and a clean end.

Reads one JSON line of settings from standard input and prints events as JSON lines; what the libraries print goes to
the log (standard error). SIGTERM, or the end of standard input, has it make a checkpoint after the step that it is at.
"""

import contextlib
import gc
import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillgen.dataset.manifest import read_manifest
from distillgen.dataset.versions import Version
from distillgen.errors import Damaged, DistillgenError, UsageError, nearest
from distillgen.files import Lock
from distillgen.student.checkpoints import Checkpoint, mark, prune, read_checkpoint
from distillgen.student.child import as_line, heard_from_parent, kind_of, log_error
from distillgen.student.examples import Examples, check_prepared, learnt_ends, read_examples, stops_of
from distillgen.student.settings import SMALL, TrainingSettings

CHECKPOINTS = Path("checkpoints")  # below the working folder, which is where the child is: it may be moved meanwhile
LOCK, JOURNAL = "trainer.lock", Path("events.jsonl")
RANK = "eval_rank"  # of looks at the validation split: our own, among equals the later is the better
TIE = 1e-6  # what a later look is ahead of an equal one, at the very most; less is no gain


class Diverged(Exception):
    """The loss is no number any more."""


class Stopped(Exception):
    """A signal asked for the end, and all that was learnt is in a checkpoint."""


class Events:
    """Where events go: the standard output that this process began with, and a file below the working folder.

    Whether anybody reads the first is no matter: the file has the steps that are made when the parent is gone, too.
    """

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)
        self._journal: int | None = None

    def keep(self, path: Path) -> None:
        """Write every event from now on to a file, after what is there."""
        self._journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def say(self, event: str, **facts: Any) -> None:
        """Say one event."""
        line = json.dumps({"event": event, **facts}).encode() + b"\n"
        with contextlib.suppress(OSError):
            os.write(self._out, line)
        if self._journal is not None:
            os.write(self._journal, line)


@dataclass
class Accuracy:
    """The share of what came out right at a look: of the answers' tokens, or of pairs."""

    right: float = 0.0
    of: int = 0

    def count_in(self, share: float, of: int) -> None:
        """Count in a batch."""
        self.right, self.of = self.right + share * of, self.of + of

    def taken(self) -> float:
        """Return the share and begin anew."""
        share = self.right / self.of if self.of else 0.0
        self.right, self.of = 0.0, 0
        return share


class Stop:
    """Whether somebody asked for the end. Outside of the steps that is obeyed at once: there is nothing to keep."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.is_asked = False
        self.is_in_steps = False

    def ask(self, *_: object) -> None:
        """Ask for the end."""
        self.is_asked = True
        if not self.is_in_steps:
            with contextlib.suppress(OSError):  # a full disk keeps nobody here
                self._events.say("stopped")
            os._exit(0)


@dataclass
class Work:
    """What is to be done, as the parent wrote it, and what was found out about the machine."""

    order: Mapping[str, Any]
    settings: TrainingSettings
    events: Events
    stop: Stop
    device: str
    precision: str
    began: float

    @property
    def made_on(self) -> dict[str, str]:
        """What the weights depend on besides the order."""
        return {"device": self.device, "precision": self.precision}

    @property
    def seconds(self) -> float:
        """Seconds of training, those of earlier runs among them."""
        return float(self.order["seconds_before"]) + time.monotonic() - self.began


def main() -> None:
    """Run the child."""
    events = Events()
    stop = Stop(events)
    signal.signal(signal.SIGTERM, stop.ask)
    order = heard_from_parent(stop.ask)
    status = 0
    try:
        os.chdir(order["work"])
        with Lock(Path(LOCK)):
            events.keep(JOURNAL)
            train(order, events, stop)
    except Stopped:
        events.say("stopped")
    except BaseException as error:
        log_error()
        status = 1
        with contextlib.suppress(OSError):  # the disk may be full
            events.say("error", **told(error))
    os._exit(status)  # the thread that watches the pipe would have us wait


def told(error: BaseException) -> dict[str, str]:
    """Return an error as an event tells it: kind, what, where, fix."""
    if isinstance(error, Diverged):
        fix = "a smaller one, a tenth of it say: --set learning_rate=..."
        return {"kind": "diverged", "what": str(error), "where": "", "fix": fix}
    kind = kind_of(error)
    if isinstance(error, DistillgenError):
        problem = error.problems[0]
        return {"kind": kind, "what": problem.what, "where": problem.where, "fix": problem.fix}
    what, fix = f"the trainer failed: {as_line(error)}", ""
    if kind == "memory":
        what, fix = "there is not enough memory to train it so", 'a smaller batch, max_tokens, or method = "lora"'
    elif kind == "disk":
        what, fix = f"there is no room on the disk: {as_line(error)}", "free some space and run the same command again"
    return {"kind": kind, "what": what, "where": "", "fix": fix}


def train(order: Mapping[str, Any], events: Events, stop: Stop) -> None:
    """Train from where an earlier run stopped, and put the student into the folder that the order names."""
    import torch
    from transformers import AutoTokenizer, set_seed

    settings = TrainingSettings.model_validate(order["settings"])
    torch.set_num_threads(settings.threads)
    device = device_of(settings.device)
    work = Work(order, settings, events, stop, device, precision_of(settings.precision, device), time.monotonic())
    checkpoint = read_checkpoint(CHECKPOINTS / order["checkpoint"]) if order["checkpoint"] else None
    if checkpoint is not None and checkpoint.made_on != work.made_on:
        raise UsageError(
            f"the checkpoints there were made on {_spelt(checkpoint.made_on)}, and this is {_spelt(work.made_on)}: to "
            "go on here would give another student than either",
            fix="go on where it was begun, or begin anew: choose another --out",
        )
    tokenizer = AutoTokenizer.from_pretrained(order["base"])
    stops = stops_of(tokenizer, _generation_ends(Path(order["base"])))
    rows, validation = _rows(work, tokenizer, stops)
    set_seed(settings.seed)  # before an adapter gets its first values
    done = checkpoint if checkpoint is not None and is_finished(checkpoint, settings) else None
    if done is None:
        done = _run(work, tokenizer, rows, validation, checkpoint)
        gc.collect()
    model = result_of(work, done)
    _save(work, model, tokenizer, learnt_ends(rows.rows[0], tokenizer, stops))
    state = done.state
    events.say(
        "end", steps=done.step, best_step=state["best_global_step"] if done.best else None,
        stopped_early=done.step < state["max_steps"], seconds=work.seconds, peak_bytes=_peak_bytes(device),
        threads=settings.threads, **work.made_on,
    )  # fmt: skip


def _spelt(made_on: Mapping[str, Any]) -> str:
    return " in ".join(str(made_on.get(name)) for name in ("device", "precision"))


def device_of(wish: str) -> str:
    """Return "cuda", "mps" or "cpu"."""
    import torch

    if wish == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def precision_of(wish: str, device: str) -> str:
    """Return "float32" or "bfloat16": what the arithmetic is done in. Without hardware for it, bfloat16 is slower."""
    import torch

    if wish != "auto":
        return wish
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    signs = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # no public ones; older or newer may lack them
    able = device == "cpu" and any(getattr(torch.cpu, name, bool)() for name in signs)
    return "bfloat16" if able else "float32"


def _generation_ends(base: Path) -> int | list[int] | None:
    """Return the tokens that end a generation, as the base says."""
    for name in ("generation_config.json", "config.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if (ends := json.loads((base / name).read_bytes()).get("eos_token_id")) is not None:
                return ends  # type: ignore[no-any-return]
    return None


def _rows(work: Work, tokenizer: Any, stops: frozenset[int]) -> tuple[Examples, Examples | None]:
    """Return the examples to train on and those to watch, which are None where there are none; tell their numbers."""
    order = work.order
    version = Version(Path(order["version"]), read_manifest(Path(order["version"])))
    found = [
        read_examples(
            version, split, tokenizer, reasoning=order["reasoning"], long=order["long"],
            max_tokens=work.settings.max_tokens, stops=stops, most=work.settings.rows if split == order["train"] else 0,
        )
        for split in (order["train"], order["validation"]) if split
    ]  # fmt: skip
    rows, validation = found[0], found[1] if len(found) > 1 and found[1].rows else None
    work.events.say(
        "rows", train=rows.counts(), validation=validation.counts() if validation else None, **work.made_on,
        max_tokens=work.settings.max_tokens,
    )  # fmt: skip
    if not rows.rows:
        raise UsageError(
            f"no row is left to train on: all {rows.long:,} are longer than {work.settings.max_tokens:,} tokens",
            where=version.label, fix="a base with a longer context, a larger max_tokens, or shorter rows",
        )  # fmt: skip
    return rows, validation


def _run(
    work: Work, tokenizer: Any, rows: Examples, validation: Examples | None, checkpoint: Checkpoint | None
) -> Checkpoint:
    """Train to the end, or until the validation split shows no gain; return the last checkpoint."""
    from transformers import EarlyStoppingCallback

    trainer = build_trainer(work, tokenizer, rows, validation)
    last: list[Checkpoint] = []
    accuracy = _accuracy(trainer) if validation else None
    trainer.add_callback(_watcher(work, last, _in_order(trainer, work.settings), accuracy))
    if validation and work.settings.patience:
        trainer.add_callback(EarlyStoppingCallback(work.settings.patience, TIE))  # behind the one that ranks the looks
    work.stop.is_in_steps = True
    try:
        if work.stop.is_asked:
            raise Stopped
        trainer.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)
    finally:
        work.stop.is_in_steps = False
    return last[-1]


def build_trainer(work: Work, tokenizer: Any, rows: Examples, validation: Examples | None) -> Any:
    """Return TRL's trainer for conversations or for pairs, with the rows in it as it prepared them."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    settings = work.settings
    are_pairs = "chosen" in rows.rows[0]
    config, kind = (DPOConfig, DPOTrainer) if are_pairs else (SFTConfig, SFTTrainer)
    own = {"beta": settings.dpo.beta} if are_pairs else {"completion_only_loss": True}
    model = _load(work.order["base"])
    trainer = kind(
        model=model,
        args=config(**_arguments(work, len(rows.rows), is_watched=validation is not None), **own),
        train_dataset=Dataset.from_list(rows.rows),
        eval_dataset=Dataset.from_list(validation.rows) if validation else None,
        processing_class=tokenizer,
        peft_config=_adapter(model, settings) if settings.method == "lora" else None,
    )
    learnt = _learnt_of_pair if are_pairs else _learnt
    check_prepared(trainer.train_dataset, rows, learnt, are_pairs=are_pairs)
    if validation:
        check_prepared(trainer.eval_dataset, validation, learnt, are_pairs=are_pairs)
    return trainer


def _in_order(trainer: Any, settings: TrainingSettings) -> Callable[[int], None]:
    """Have batches hold rows of like length, in an order that goes by seed and epoch alone; return what is told the
    step at the beginning of an epoch.

    The trainer's own order goes by all random numbers that were drawn before, which in the second epoch are others
    where an earlier run was gone on with: that would give other weights.
    """
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    rows = trainer.train_dataset
    order = torch.Generator()
    sampler = LengthGroupedSampler(
        settings.batch * settings.accumulate, lengths=[_length(row) for row in rows], generator=order
    )
    trainer._get_train_sampler = lambda dataset=None: sampler
    steps = steps_of_epoch(len(rows), settings)

    def begin(step: int) -> None:
        order.manual_seed(settings.seed * 1_000_003 + step // steps)

    return begin


def _accuracy(trainer: Any) -> Accuracy:
    """Have the accuracy of a look counted. The trainer's own is the mean of its batches, whose last may be one row."""
    found = Accuracy()
    predict = trainer.prediction_step

    def prediction_step(model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        are_pairs = "labels" not in inputs
        of = len(inputs["input_ids"]) if are_pairs else int((inputs["labels"] != -100).sum())
        told = predict(model, inputs, *rest, **more)
        figures = trainer._metrics["eval"]
        found.count_in(figures["rewards/accuracies" if are_pairs else "mean_token_accuracy"][-1], of)
        return told

    trainer.prediction_step = prediction_step
    return found


def steps_of_epoch(rows: int, settings: TrainingSettings) -> int:
    """Return how many steps an epoch has."""
    return math.ceil(math.ceil(rows / settings.batch) / settings.accumulate)


def _length(row: Mapping[str, Any]) -> int:
    if "input_ids" in row:
        return len(row["input_ids"])
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _learnt(row: Mapping[str, Any]) -> tuple[int, int]:
    return len(row["input_ids"]), sum(label != -100 for label in row["labels"])


def _learnt_of_pair(row: Mapping[str, Any]) -> tuple[int, int]:
    learnt = min(len(row["chosen_ids"]), len(row["rejected_ids"]))
    return len(row["prompt_ids"]) + learnt, learnt


def _arguments(work: Work, rows: int, *, is_watched: bool) -> dict[str, Any]:
    """Return the arguments of the trainer. Of checkpoints it deletes none: that is done when the next one is whole."""
    settings = work.settings
    every = max(1, math.ceil(steps_of_epoch(rows, settings) / settings.validations))
    watched = {"eval_strategy": "steps", "eval_steps": every, "metric_for_best_model": RANK, "greater_is_better": True}
    schedule = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return {
        "output_dir": str(CHECKPOINTS), "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch, "per_device_eval_batch_size": settings.batch,
        "gradient_accumulation_steps": settings.accumulate, "learning_rate": settings.learning_rate,
        "lr_scheduler_type": schedule, "warmup_steps": settings.warmup, "weight_decay": settings.weight_decay,
        "max_length": settings.max_tokens, "seed": settings.seed, "data_seed": settings.seed,
        "use_cpu": work.device == "cpu", "bf16": work.precision == "bfloat16", "fp16": False,
        "gradient_checkpointing": int(work.order["parameters"]) >= SMALL,
        "dataloader_pin_memory": work.device == "cuda", "prediction_loss_only": True,
        "logging_steps": 1, "logging_nan_inf_filter": False, "report_to": "none", "disable_tqdm": True,
        "save_strategy": "steps", "save_steps": every, "save_total_limit": None,
        "restore_callback_states_from_checkpoint": True,
        **(watched if is_watched else {}),
    }  # fmt: skip


def _adapter(model: Any, settings: TrainingSettings) -> Any:
    """Return the adapter. Raises UsageError for a target that is no layer: one of several, peft would pass over it."""
    from peft import LoraConfig

    lora = settings.lora
    layers = {name.rpartition(".")[2] for name, _ in model.named_modules() if name}
    targets = [] if lora.target == "all-linear" else [lora.target] if isinstance(lora.target, str) else lora.target
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name, _ in model.named_modules()):
            raise UsageError(f"lora.target names no layer of the base: {target!r}", fix=nearest(target, layers))
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets or lora.target,
        task_type="CAUSAL_LM",
    )


def _load(folder: str | Path) -> Any:
    """Return a model in float32: what AdamW adds is lost in the rounding of bfloat16 weights."""
    import torch
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    missing = sorted({*found["missing_keys"], *(each[0] for each in found["mismatched_keys"])})
    if missing:  # these have random values now
        raise Damaged(
            f"config.json and the weights do not belong together: {len(missing):,} tensors are not there, or of "
            f"another shape, {missing[0]!r} for one", where=str(folder), fix="fetch the model again",
        )  # fmt: skip
    return model


def _watcher(work: Work, last: list[Checkpoint], begin: Callable[[int], None], accuracy: Accuracy | None) -> Any:
    """Return the callback that tells what happens, marks checkpoints as whole, and ends the training when asked to."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            begin(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_save = control.should_save or work.stop.is_asked
            return control

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
            if logs is not None and "loss" in logs:
                _tell_step(work, state, logs)

        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
        ) -> None:
            assert metrics is not None and accuracy is not None
            loss, share = _finite(metrics["eval_loss"], work, state.global_step), accuracy.taken()
            ranked = share if work.settings.best == "accuracy" else -loss
            metrics[RANK] = ranked + TIE * state.global_step / (state.max_steps + 1)
            work.events.say("validation", step=state.global_step, loss=loss, accuracy=share)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            best = state.best_model_checkpoint if accuracy is not None else None
            folder = CHECKPOINTS / f"checkpoint-{state.global_step}"
            last.append(mark(folder, Path(best).name if best else None, work.made_on))
            prune(CHECKPOINTS, work.settings.keep_checkpoints)
            work.events.say("checkpoint", step=state.global_step)
            if work.stop.is_asked:
                raise Stopped

    return Watcher()


def _tell_step(work: Work, state: Any, logs: Mapping[str, Any]) -> None:
    work.events.say(
        "step", step=state.global_step, of=state.max_steps, epoch=round(float(state.epoch), 4),
        loss=_finite(logs["loss"], work, state.global_step), lr=float(logs["learning_rate"]),
        seconds=round(work.seconds, 3), tokens=int(work.order["tokens_before"] + float(logs.get("num_tokens", 0))),
    )  # fmt: skip


def _finite(loss: float, work: Work, step: int) -> float:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is no number at step {step}: learning_rate = {work.settings.learning_rate:g} is too high"
        )
    return float(loss)


def is_finished(checkpoint: Checkpoint, settings: TrainingSettings) -> bool:
    """Say whether a checkpoint is the last one of a training: at its last step, or where it stopped early."""
    state = checkpoint.state
    found = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {})
    counted = (found[0] if isinstance(found, list) else found).get("attributes", {})
    without_gain = counted.get("early_stopping_patience_counter", 0)
    return bool(state["global_step"] >= state["max_steps"] or 0 < settings.patience <= without_gain)


def result_of(work: Work, checkpoint: Checkpoint) -> Any:
    """Return the student's model: that of the best checkpoint, an adapter merged into the base. It is finite."""
    import torch

    if work.settings.method == "lora":
        from peft import PeftModel

        model = PeftModel.from_pretrained(_load(work.order["base"]), str(checkpoint.result)).merge_and_unload()
    else:
        model = _load(checkpoint.result)
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise Diverged(f"weights are no numbers: learning_rate = {work.settings.learning_rate:g} is too high")
    return model


def _save(work: Work, model: Any, tokenizer: Any, ends: list[int]) -> None:
    """Write model and tokenizer. Whoever generates with it is told the token by which it was taught to end."""
    from transformers import AutoTokenizer

    told = model.generation_config.eos_token_id
    known = [told] if isinstance(told, int) else list(told or ())
    if missing := [end for end in ends if end not in known]:
        model.generation_config.eos_token_id = [*known, *missing]
    model.save_pretrained(work.order["made"])
    AutoTokenizer.from_pretrained(work.order["base"]).save_pretrained(work.order["made"])  # as no trainer changed it


def _peak_bytes(device: str) -> int:
    """Return the most memory that was used: of the GPU where there is one, else of this process."""
    import torch

    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


if __name__ == "__main__":
    main()
