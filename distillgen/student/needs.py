"""What a training needs of memory and disk, against what there is: told before hours are spent."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from distillgen.errors import DiskFull, MemoryFull
from distillgen.export.reading import first_row, is_pair
from distillgen.files import disk_errors
from distillgen.student.order import Order, split_to_watch

LIBRARY_BYTES = 500_000_000  # what the trainer's libraries take by themselves
# Bytes of memory a parameter at least: float32 weights, gradients and AdamW's two moments; with an adapter the weights.
FULL_BYTES, LORA_BYTES, REFERENCE_BYTES = 16.0, 4.5, 4.0


def memory_needed(parameters: int, method: str, *, are_pairs: bool) -> int:
    """Return how many bytes of memory a training takes at least; what goes through the model comes on top of it."""
    each = LORA_BYTES if method == "lora" else FULL_BYTES + (REFERENCE_BYTES if are_pairs else 0.0)
    return int(parameters * each) + LIBRARY_BYTES


def available_memory(root: Path = Path("/")) -> int | None:
    """Return how many bytes this process may still use, by the machine and its control group; None where unknown."""
    found = [number for number in (_of_machine(root), *_of_groups(root)) if number is not None]
    return min(found, default=None)


def _of_machine(root: Path) -> int | None:
    with contextlib.suppress(OSError):
        said = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
        return int(said[1]) * 1024 if said else None
    return None


def _of_groups(root: Path) -> Iterator[int | None]:
    """Yield what is left of the limit of this process's control group, and of each around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number == "0":
            home, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            home = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = home / path.lstrip("/")
        for each in (folder, *folder.parents):
            yield _left(each, *names)
            if each == home:
                break


def _left(folder: Path, limit: str, used: str, cache: str) -> int | None:
    """Return what a control group has left; files in memory that nobody uses can be taken."""
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        said = re.search(rf"^{cache} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    if not most.isdecimal() or int(most) > 1 << 60:  # "max", or what the kernel says for it
        return None
    return max(0, int(most) - now + (int(said[1]) if said else 0))


def require_free_memory(needed: int, doing: str, fix: str) -> None:
    """Raise MemoryFull where less memory is free than a piece of work, "unpacking X", takes at least."""
    free = available_memory()
    if free is not None and free < needed:
        raise MemoryFull(
            f"{doing} takes at least {_gigabytes(needed)} of memory, and {_gigabytes(free)} are free", fix=fix
        )


def require_memory(order: Order) -> None:
    """Raise MemoryFull where the machine has less memory free than a training takes at least."""
    settings = order.settings
    if settings.device == "auto" and any(map(os.path.exists, ("/dev/nvidiactl", "/dev/kfd"))):
        return  # it is the GPU's memory that counts, which the trainer itself tells of
    needed = memory_needed(order.base.parameters, settings.method, are_pairs=is_pair(first_row(order.version)))
    lighter = 'an adapter instead of all weights (--set method="lora"), ' if settings.method == "full" else ""
    fix = f"{lighter}a smaller base, or a machine with more memory"
    require_free_memory(needed, f"training {order.base.name} so", fix)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def disk_needed(order: Order) -> int:
    """Return how many bytes a training writes at most: the checkpoints there are at once, and the finished folder."""
    settings, parameters = order.settings, order.base.parameters
    trained = parameters if settings.method == "full" else int(parameters * 0.0025 * settings.lora.r)
    at_once = settings.keep_checkpoints * (2 if split_to_watch(order.version) else 1) + 1
    gguf = {"none": 0, "q8_0": 1, "f16": 2}[order.gguf]
    return 12 * trained * at_once + (4 + gguf) * parameters + 10_000_000


def require_disk(order: Order) -> None:
    """Raise DiskFull where there is no room for all that a training writes; what its folder holds already counts."""
    with disk_errors(order.work):
        used = sum(path.stat().st_size for path in order.work.rglob("*") if path.is_file())
        free = shutil.disk_usage(order.work).free
    if free < (needed := disk_needed(order) - used):
        raise DiskFull(
            f"the training needs {_gigabytes(needed)} for checkpoints and the student, and {_gigabytes(free)} are free",
            where=str(order.work.parent), fix='free some space, choose another --out, or --set method="lora"',
        )  # fmt: skip
