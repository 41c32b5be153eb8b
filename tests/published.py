"""What several test modules start from: versions published by the real command, and a process killed on its way."""

import contextlib
import hashlib
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
from conftest import RECIPE, Project
from loopback import Loopback, Say, answer, reply, words
from till import number_of

from distillgen.dataset.manifest import Manifest
from distillgen.dataset.seal import sealed


def odd_ones(body: dict[str, Any]) -> Say:
    """Answer; numbers 3 and 4 are too short, number 5 is refused by the server."""
    number = number_of(body)
    if number == 5:
        return Say(400, b'{"error": {"message": "no"}}')
    return reply("Too short") if number in (3, 4) else answer(body)


def two_versions(folder: Path) -> Path:
    """Publish two versions, of 17 and 18 rows, with rows rejected and failed; files that are the same are shared."""
    server, project = Loopback(), Project(folder)
    server.behave = odd_ones
    project.write("recipe.toml", RECIPE.format(url=server.url))
    for count in (20, 21):
        project.seeds([{"question": f"What is number {n}?"} for n in range(count)])
        project.build()
    server.close()
    return folder


def of_students(folder_for: Callable[[str], Path], students: Mapping[str, str]) -> dict[str, Project]:
    """Publish forty rows for each of several students, by what the recipe says of them; the teacher reasons."""
    server, made = Loopback(), dict[str, Project]()
    server.behave = lambda body: reply(
        words(body["messages"][-1]["content"]), message={"reasoning_content": f"Hm, {len(str(body))}."}
    )
    for name, lines in students.items():
        made[name] = Project(folder_for(name))
        made[name].write("recipe.toml", RECIPE.format(url=server.url).replace("[student]", f"[student]\n{lines}"))
        made[name].seeds([{"question": f"What is number {n}?"} for n in range(40)])
        made[name].build()
    server.close()
    return made


def killed_at(call: int, changes: Iterable[str], work: Callable[[], object]) -> bool:
    """Work in a process that is killed at its nth call of `os` that changes the disk; return whether it was."""
    child = os.fork()
    if child == 0:
        left = call

        def counted(change: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*arguments, **more)

            return run

        for name in changes:
            setattr(os, name, counted(getattr(os, name)))
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def noted(folder: Path) -> None:
    """Say in a version's manifest what its data files are now, as if it had been published so."""
    table = orjson.loads((folder / "manifest.json").read_bytes())
    for path in (folder / "data").iterdir():
        content = path.read_bytes()
        entry = table["files"].setdefault(f"data/{path.name}", {})
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_bytes(sealed(Manifest.model_validate(table).dump()))
