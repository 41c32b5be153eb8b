"""Looks at the validation split: how much came out right at one, what they are ranked by, and whether they ended it."""

from dataclasses import dataclass
from typing import Any

from distillgen.student.checkpoints import Checkpoint
from distillgen.student.settings import TrainingSettings

RANK = "eval_rank"  # of looks: our own, among equals the later is the better
TIE = 1e-6  # what a later look is ahead of an equal one, at the very most; less is no gain


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


def counted_accuracy(trainer: Any) -> Accuracy:
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


def is_finished(checkpoint: Checkpoint, settings: TrainingSettings) -> bool:
    """Say whether a checkpoint is the last one of a training: at its last step, or where it stopped early."""
    state = checkpoint.state
    found = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {})
    counted = (found[0] if isinstance(found, list) else found).get("attributes", {})
    without_gain = counted.get("early_stopping_patience_counter", 0)
    return bool(state["global_step"] >= state["max_steps"] or 0 < settings.patience <= without_gain)
