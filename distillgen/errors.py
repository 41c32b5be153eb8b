"""The errors that distillgen raises on purpose: each has a code, an exit status and, where there is one, a fix.

DistillgenError
├── UsageError               2  the caller can mend it; nothing was sent
│   ├── RecipeMissing        DG101   ├── RecipeSyntax    DG102   ├── RecipeInvalid   DG103
│   ├── SeedsMissing         DG201   ├── SeedsInvalid    DG202   ├── SeedsEmpty      DG203
│   ├── PromptMissing        DG301   ├── PromptInvalid   DG302
│   ├── ModelMissing         DG405   ├── EmbeddedMissing DG406   ├── InsecureUrl     DG408
│   ├── RequestsRefused      DG410   the teacher refuses every request of this recipe
│   │   └── BatchRefused     DG412   the provider takes no such batch, or none at all
│   ├── ExtraMissing         DG501   ├── NotWritable     DG702   ├── NameInvalid     DG604
│   └── NewerFormat          DG603
├── Unfinished               3  DG409  a rerun may mend it (answers missing offline, say)
├── CredentialsError         4  DG401 no key, DG402 key refused
├── QuotaSpent               5  DG403   the provider's, ├── BudgetSpent   DG411   our own
├── NothingToPublish         6  DG601  ├── GateClosed     DG606
├── TeacherUnavailable       7  DG404
├── RemoteUnavailable        7  DG901  a hub or store that versions are shared through
├── Damaged                  8  DG602
├── NotFound                10  DG605  dataset, version or row
├── Locked                  11  DG701
├── DiskFull                12  DG703,  MemoryFull  DG704
└── Interrupted      129/130/143       by a signal, after draining
RowFailed is not a DistillgenError: it ends one row, not the run.
"""

import difflib
import errno
from collections.abc import Iterable
from dataclasses import dataclass

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what the system says where there is no room


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what, where (`recipe.toml:14 (steps[1].rules[2])`), and how to fix it."""

    what: str
    where: str = ""
    fix: str = ""

    def __str__(self) -> str:
        line = f"{self.what} in {self.where}" if self.where else self.what
        return line + "".join(f"\n      {part}" for part in self.fix.splitlines())


class DistillgenError(Exception):
    """Base of every error that a user may see. `str()` is the whole message, code first, without a traceback."""

    code = "DG000"
    exit_status = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "", problems: Iterable[Problem] = ()) -> None:
        self.problems = tuple(problems) or (Problem(what, where, fix),)
        super().__init__(what)

    def __str__(self) -> str:
        return "\n".join(f"{self.code} {problem}" for problem in self.problems)


class UsageError(DistillgenError):
    """The command, the recipe or a file it names is wrong."""

    code, exit_status = "DG100", 2


class RecipeMissing(UsageError):
    """There is no recipe where one was looked for."""

    code = "DG101"


class RecipeSyntax(UsageError):
    """The recipe is not TOML."""

    code = "DG102"


class RecipeInvalid(UsageError):
    """The recipe is TOML but not a recipe; holds every problem found, each with file, line and key."""

    code = "DG103"

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = tuple(problems)
        super().__init__(found[0].what, problems=found)


class SeedsMissing(UsageError):
    """A seed file, folder or glob matches nothing."""

    code = "DG201"


class SeedsInvalid(UsageError):
    """Seed lines cannot be read, or lack a column; holds every one found, with file and line."""

    code = "DG202"


class SeedsEmpty(UsageError):
    """There is not a single seed."""

    code = "DG203"


class PromptMissing(UsageError):
    """No prompt of that name beside the recipe or in the library."""

    code = "DG301"


class PromptInvalid(UsageError):
    """A prompt template is not TOML, not a prompt, or not a template."""

    code = "DG302"


class ModelMissing(UsageError):
    """The endpoint does not have the model."""

    code = "DG405"


class EmbeddedMissing(UsageError):
    """The embedded teacher lacks its runtime or its weights."""

    code = "DG406"


class InsecureUrl(UsageError):
    """A teacher's address is not https and not on this machine."""

    code = "DG408"


class RequestsRefused(UsageError):
    """The teacher refused every request as invalid, so the recipe is wrong, not the rows."""

    code = "DG410"


class BatchRefused(RequestsRefused):
    """The provider turned a whole batch down before it ran a request, or has no batch API at this address."""

    code = "DG412"


class ExtraMissing(UsageError):
    """An optional package is not installed."""

    code = "DG501"


class NewerFormat(UsageError):
    """A file was written by a newer distillgen."""

    code = "DG603"


class NameInvalid(UsageError, ValueError):
    """A name cannot be a file name. A ValueError too, so that pydantic collects it with the other problems."""

    code = "DG604"


class NotWritable(UsageError):
    """A folder or file cannot be written."""

    code = "DG702"


class Unfinished(DistillgenError):
    """Work is left that a rerun may finish; what was decided is kept."""

    code, exit_status = "DG409", 3


class CredentialsError(DistillgenError):
    """No key, or one that the teacher refuses."""

    code, exit_status = "DG401", 4


class CredentialsRefused(CredentialsError):
    """The teacher refused the key."""

    code = "DG402"


class QuotaSpent(DistillgenError):
    """The account has no credit or quota left."""

    code, exit_status = "DG403", 5


class BudgetSpent(DistillgenError):
    """The recipe's budget does not allow another request."""

    code, exit_status = "DG411", 5


class NothingToPublish(DistillgenError):
    """No row is left to publish."""

    code, exit_status = "DG601", 6


class GateClosed(DistillgenError):
    """The rows do not reach what the recipe's quality gate demands."""

    code, exit_status = "DG606", 6


class TermsNotAccepted(DistillgenError):
    """The terms of a teacher restrict or forbid what the dataset is for, and nobody has accepted that."""

    code, exit_status = "DG801", 9


class TeacherUnavailable(DistillgenError):
    """The teacher cannot be reached or does not answer; a later run may."""

    code, exit_status = "DG404", 7


class RemoteUnavailable(DistillgenError):
    """A hub or store cannot be reached, or does not answer as it should; a later push or pull may."""

    code, exit_status = "DG901", 7


class Damaged(DistillgenError):
    """Bytes on disk are not what was written."""

    code, exit_status = "DG602", 8


class NotFound(DistillgenError):
    """The named dataset, version or row does not exist."""

    code, exit_status = "DG605", 10


class Locked(DistillgenError):
    """Another process is at work on this project."""

    code, exit_status = "DG701", 11


class DiskFull(DistillgenError):
    """The disk has no room (or no inodes, or a quota is reached)."""

    code, exit_status = "DG703", 12


class MemoryFull(DistillgenError):
    """The machine, or a limit set for the process, has no more memory."""

    code, exit_status = "DG704", 12


class Interrupted(DistillgenError):
    """A signal ended the run after what was in flight had been drained."""

    code = "DG001"

    def __init__(self, what: str, *, signal_number: int) -> None:
        super().__init__(what)
        self.exit_status = 128 + signal_number


WAITING = {"not_sent", "queued", "in_batch", "over_budget", "not_stored"}  # the causes of what is not decided yet


class RowFailed(Exception):
    """One row's completion could not be had. `lasting` means that asking again would not help.

    `attempts` counts the requests sent for it; `last_reply` is the beginning of what the server said last.
    """

    def __init__(self, cause: str, detail: str, *, lasting: bool, attempts: int = 0, last_reply: str = "") -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause, self.detail, self.lasting = cause, detail, lasting
        self.attempts, self.last_reply = attempts, last_reply

    @property
    def is_waiting(self) -> bool:
        """Whether nothing is decided yet: the same teacher may still answer."""
        return self.cause in WAITING

    def anew(self) -> "RowFailed":
        """Return the same failure without what it came from: a traceback holds on to all that was at work."""
        return RowFailed(
            self.cause, self.detail, lasting=self.lasting, attempts=self.attempts, last_reply=self.last_reply
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to `name`, or lists all of them when none is near."""
    words = sorted(known)
    swapped = [word for word in words if sorted(word) == sorted(name)]  # the commonest slip, and `mode` is near `modle`
    close = swapped or difflib.get_close_matches(name, words, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(words)}" if words else ""
