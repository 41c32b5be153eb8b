"""TRL's trainers, set up: their arguments, an adapter, the order of the rows, and the base's weights."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distillgen.errors import Damaged, UsageError, nearest
from distillgen.student.examples import Examples, check_prepared
from distillgen.student.looks import RANK
from distillgen.student.settings import SMALL, TrainingSettings
from distillgen.student.trainer_work import CHECKPOINTS, Work


def build_trainer(work: Work, tokenizer: Any, rows: Examples, validation: Examples | None) -> Any:
    """Return TRL's trainer for conversations or for pairs, with the rows in it as it prepared them."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    settings = work.settings
    are_pairs = "chosen" in rows.rows[0]
    config, kind = (DPOConfig, DPOTrainer) if are_pairs else (SFTConfig, SFTTrainer)
    own = {"beta": settings.dpo.beta} if are_pairs else {"completion_only_loss": True}
    model = load_model(work.order["base"])
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


def _arguments(work: Work, rows: int, *, is_watched: bool) -> dict[str, Any]:
    """Return the arguments of the trainer. Of checkpoints it deletes none: that is done when the next one is whole."""
    settings = work.settings
    every = max(1, math.ceil(_steps_of_epoch(rows, settings) / settings.validations))
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


def load_model(folder: str | Path) -> Any:
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


def in_order(trainer: Any, settings: TrainingSettings) -> Callable[[int], None]:
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
    steps = _steps_of_epoch(len(rows), settings)

    def begin(step: int) -> None:
        order.manual_seed(settings.seed * 1_000_003 + step // steps)

    return begin


def _steps_of_epoch(rows: int, settings: TrainingSettings) -> int:
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
