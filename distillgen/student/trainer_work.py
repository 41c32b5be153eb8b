"""What the parts of the trainer share: the order, the events that it tells, and the wish for its end."""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillgen.student.settings import TrainingSettings

CHECKPOINTS = Path("checkpoints")  # below the working folder, which is where the child is: it may be moved meanwhile


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
