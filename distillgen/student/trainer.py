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
from pathlib import Path
from typing import Any

from distillgen.dataset.manifest import read_manifest
from distillgen.dataset.versions import Version
from distillgen.errors import DistillgenError, UsageError
from distillgen.files import Lock
from distillgen.student.checkpoints import Checkpoint, mark, prune, read_checkpoint
from distillgen.student.child import as_line, heard_from_parent, kind_of, log_error
from distillgen.student.examples import Examples, learnt_ends, read_examples, stops_of
from distillgen.student.looks import RANK, TIE, Accuracy, counted_accuracy, is_finished
from distillgen.student.settings import TrainingSettings
from distillgen.student.trainer_work import CHECKPOINTS, Diverged, Events, Stop, Stopped, Work
from distillgen.student.trl_trainer import build_trainer, in_order, load_model

LOCK, JOURNAL = "trainer.lock", Path("events.jsonl")


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
    accuracy = counted_accuracy(trainer) if validation else None
    trainer.add_callback(_watcher(work, last, in_order(trainer, work.settings), accuracy))
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


def result_of(work: Work, checkpoint: Checkpoint) -> Any:
    """Return the student's model: that of the best checkpoint, an adapter merged into the base. It is finite."""
    import torch

    if work.settings.method == "lora":
        from peft import PeftModel

        model = PeftModel.from_pretrained(load_model(work.order["base"]), str(checkpoint.result)).merge_and_unload()
    else:
        model = load_model(checkpoint.result)
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
