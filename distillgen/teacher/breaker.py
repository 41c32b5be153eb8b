"""The circuit breaker: when most of what is sent fails, nothing more is sent but one probe now and then."""

from distillgen.errors import TeacherUnavailable

LEAST_SAMPLE = 20  # outcomes before it judges
MEMORY = 50  # outcomes that it remembers, roughly: the weight of the newest is one in so many
SHARE_FAILED = 0.5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
GIVE_UP_SECONDS = 600.0


class Breaker:
    """Closed: everything may be sent. Open: one probe after each pause, 1 s at first and up to a minute.

    It closes with the first success. Holds no clock: it is told the time, in seconds of any steady clock.
    """

    def __init__(self) -> None:
        self._outcomes = 0
        self._failing = 0.0  # moving share of failures
        self._opened_at: float | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._probe_at = 0.0
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether sending is held back."""
        return self._opened_at is not None

    def wait(self, now: float) -> float:
        """Return how many seconds to wait before the next request; infinite while a probe is under way."""
        if self._opened_at is None:
            return 0.0
        return float("inf") if self._is_probing else self._probe_at - now

    def grant(self) -> None:
        """Note that a request is sent: while open it is the probe."""
        self._is_probing = self._opened_at is not None

    def abandoned(self, sent_at: float) -> None:
        """Note that a request ended without an outcome."""
        if self._is_probe(sent_at):
            self._is_probing = False

    def _is_probe(self, sent_at: float) -> bool:
        """Whether a request is the probe, not one that was under way already when the breaker opened."""
        return self._is_probing and sent_at >= self._probe_at

    def succeeded(self) -> None:
        """Count an outcome that shows a working server; it closes the breaker."""
        self._outcomes += 1
        self._failing -= self._failing / min(self._outcomes, MEMORY)
        if self._opened_at is not None:
            self._opened_at, self._is_probing, self._pause = None, False, FIRST_PAUSE_SECONDS
            self._outcomes, self._failing = 0, 0.0

    def failed(self, now: float, sent_at: float) -> None:
        """Count a failure. Raises TeacherUnavailable when there was nothing else for ten minutes."""
        self._outcomes += 1
        self._failing += (1 - self._failing) / min(self._outcomes, MEMORY)
        if self._opened_at is None:
            if self._outcomes >= LEAST_SAMPLE and self._failing > SHARE_FAILED:
                self._opened_at, self._probe_at = now, now + self._pause
            return
        if self._is_probe(sent_at):
            self._is_probing = False
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            self._probe_at = now + self._pause
        if now - self._opened_at >= GIVE_UP_SECONDS:
            raise TeacherUnavailable(
                f"nothing but failures for {(now - self._opened_at) / 60:.0f} minutes",
                fix="run the same command again later; every answer so far is kept",
            )
