"""Runs code that nobody vouches for: no network, no files of yours, no other program, and limits on all that it uses.

The isolation is bubblewrap's where it is installed, else the kernel's namespaces themselves; sandbox_child.py, the
program inside, adds limits and a filter of system calls to both. A sandbox is trusted after a probe that really tries
to get out; where none passes there is an error, never an unprotected run.
"""

import asyncio
import contextlib
import math
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distillgen.errors import ExtraMissing

CHILD = Path(__file__).with_name("sandbox_child.py")
# -P -s -S: nothing is imported but the standard library. Not -I, which would ignore the fixed seed of hashes.
FLAGS = ("-P", "-s", "-S", "-B")
# One pool of memory for all threads: each of glibc's own would take 64 MB of the address space that is limited.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "1",
}  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
PROCESSORS = ("x86_64", "aarch64", "riscv64")  # whose system calls the filter knows
MB = 1024 * 1024
PROBE_SECONDS = 20.0
FIX = """install bubblewrap: apt install bubblewrap   (dnf, pacman, apk: the same name)
where it is installed, the system must let it make namespaces: on Ubuntu sysctl
kernel.apparmor_restrict_unprivileged_userns=0, in Docker --security-opt seccomp=unconfined"""


class SandboxFailed(Exception):
    """A run could not be made, whatever the code: the machine lacks memory or processes, say. A later one may be."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. `seconds` are of processor time; on the clock it may take four times as many.

    Memory is the address space of the one process there is; `disk_mb` is the size of /tmp, which is memory too.
    """

    seconds: float = 10.0
    memory_mb: int = 512
    threads: int = 64
    open_files: int = 64
    disk_mb: int = 16
    output_mb: int = 4

    @property
    def clock_seconds(self) -> float:
        """How long a run may take in all, on a machine that has other things to do."""
        return 4 * self.seconds


@dataclass(frozen=True, slots=True)
class Program:
    """Code, and what is done with it: with `tests` it is loaded as a module and they are run in it, and then its
    `check(entry)` when an entry is named; without, it runs as a whole program that reads `stdin`."""

    code: str
    tests: str = ""
    entry: str = ""
    stdin: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a program: what it printed (nothing is kept of tests), and why it did not pass ("": it did)."""

    output: str
    trouble: str


@dataclass(frozen=True)
class Sandbox:
    """A way to run a program apart. `name` is what isolates it, `program` bubblewrap's path ("" for namespaces).

    At most as many programs run at once as there are processors.
    """

    name: str
    program: str
    has_user_namespace: bool
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(os.cpu_count() or 1), compare=False)

    def command(self, limits: Limits) -> list[str]:
        """Return the command that starts the child in the sandbox."""
        numbers = [
            os.getpid(), math.ceil(limits.seconds), limits.memory_mb * MB, limits.threads, limits.open_files,
            limits.disk_mb * MB,
        ]  # fmt: skip
        settings = [str(number) for number in numbers]
        if self.program:
            return [*self._bubblewrap(limits), _python(), *FLAGS, "/child.py", "inside", *settings]
        way = "user" if self.has_user_namespace else "root"
        shown = [*_visible().items(), *((device, device) for device in DEVICES)]
        pairs = [path for place, source in shown for path in (source, place)]
        return [_python(), *FLAGS, str(CHILD), way, *settings, *pairs]

    def _bubblewrap(self, limits: Limits) -> Iterator[str]:
        yield from (self.program, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts")
        # Not --new-session: bubblewrap would leave the group that is killed before it asks to die with its parent.
        yield "--die-with-parent"
        if self.has_user_namespace:
            yield from ("--unshare-user", "--uid", "65534", "--gid", "65534")
        else:  # run by root: the child becomes another user, which takes these
            yield from ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
        shown = _visible()
        for folder in sorted({str(above) for place in (*shown, *DEVICES) for above in Path(place).parents} - {"/"}):
            yield from ("--perms", "755", "--dir", folder)  # else only root could enter it
        for place, source in shown.items():
            yield from ("--ro-bind", source, place)
        yield from ("--ro-bind", str(CHILD), "/child.py")
        for device in DEVICES:
            yield from ("--dev-bind", device, device)
        yield from ("--size", str(limits.disk_mb * MB), "--perms", "1777", "--tmpfs", "/tmp")  # noqa: S108
        yield from ("--remount-ro", "/", "--")

    async def run(self, program: Program, limits: Limits | None = None) -> Run:
        """Run a program and say what came of it. Raises SandboxFailed when it could not even begin."""
        limits = limits or Limits()
        async with self._slots:
            try:
                process = await start_process(self.command(limits), ENVIRONMENT, PIPE)
            except OSError as error:
                raise SandboxFailed(f"cannot start a process: {error.strerror}") from error
            return await _finished(process, program, limits)


async def start_process(command: Sequence[str], environment: Mapping[str, str], stderr: int) -> Process:
    """Start a process with pipes, in a session of its own: Ctrl-C in the terminal is for the parent.

    Cancelled meanwhile, it ends the process first: asyncio alone would lose what that has started, or wait for ever.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=stderr, env=environment, cwd="/", start_new_session=True
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await end_process(await starting)
        raise


async def end_process(process: Process) -> None:
    """Kill a process with its group, and wait until it is gone."""
    kill_group(process)
    if process.stdin is not None:
        process.stdin.close()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            await stream.read()
    await process.wait()


def kill_group(process: Process) -> None:
    """Kill a process of `start_process` with all that it started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _finished(process: Process, program: Program, limits: Limits) -> Run:
    """Talk with a process until it is gone: when the caller is cancelled, it is killed first."""
    talk = _Talk(process, program, limits)
    whole = asyncio.ensure_future(talk.hold())
    try:
        return await asyncio.shield(whole)
    except asyncio.CancelledError:
        talk.stop("cancelled")
        with contextlib.suppress(Exception):
            await whole
        raise


class _Talk:
    """What is said to and by one process, and when it is stopped."""

    def __init__(self, process: Process, program: Program, limits: Limits) -> None:
        self._process, self._program, self._limits = process, program, limits
        self._ready, self._done = secrets.token_bytes(8).hex().encode(), secrets.token_bytes(8).hex().encode()
        self._left = limits.output_mb * MB
        self._stopped = ""
        self._is_over = False

    async def hold(self) -> Run:
        """Run the process to its end."""
        assert self._process.stdout is not None and self._process.stderr is not None
        took = f"took more than {self._limits.clock_seconds:g} s"
        timer = asyncio.get_running_loop().call_later(self._limits.clock_seconds, self.stop, took)
        try:
            output, errors, _ = await asyncio.gather(
                self._read(self._process.stdout), self._read(self._process.stderr), self._say()
            )
            status = await self._process.wait()
            self._is_over = True
        finally:
            timer.cancel()
            self.stop("cancelled")
        return self._judged(bytes(output), bytes(errors), status)

    def stop(self, why: str) -> None:
        """Kill everything inside. What listens at the pipes need not be the process itself, which may be gone."""
        if not self._is_over:
            self._stopped = self._stopped or why
            kill_group(self._process)

    async def _say(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not listen to the end
            self._process.stdin.write(message(self._program, self._ready, self._done))
            await self._process.stdin.drain()
        self._process.stdin.close()

    async def _read(self, stream: asyncio.StreamReader) -> bytearray:
        """Return what a stream says until its end. What is too much is thrown away, and the process is stopped."""
        said = bytearray()
        while part := await stream.read(65536):
            self._left -= len(part)
            if self._left >= 0:
                said += part
            else:
                self.stop(f"printed more than {self._limits.output_mb} MB")
        return said

    def _judged(self, output: bytes, errors: bytes, status: int) -> Run:
        if not output.startswith(self._ready):
            reason = self._stopped or _last_line(errors) or f"exit status {status}"
            raise SandboxFailed(f"cannot isolate a process: {reason}")
        text = output[len(self._ready) :].decode("utf-8", "replace")
        if self._program.tests:
            passed = not self._stopped and output == self._ready + self._done
            said = "the code ended the program before its tests did" if not status else text
        else:
            passed = not self._stopped and status == 0
            said = _last_line(errors)
        trouble = "" if passed else self._trouble(status, said)
        return Run("" if self._program.tests else text, trouble)

    def _trouble(self, status: int, said: str) -> str:
        if self._stopped:
            return self._stopped
        number = status - 128 if status > 128 else -status
        if number == signal.SIGXCPU:
            return f"took more than {math.ceil(self._limits.seconds)} s of processor time"
        if said.startswith("MemoryError"):
            return f"needed more than {self._limits.memory_mb} MB of memory"
        if number > 0 and not said:
            return f"was ended by signal {_signal_name(number)}"
        return said or f"ended with exit status {status}"


def message(program: Program, ready: bytes, done: bytes) -> bytes:
    """Return what the child reads from its standard input."""
    parts = [text.encode("utf-8", "replace") for text in (program.code, program.tests, program.entry)]
    sizes = b"%d %d %d" % tuple(len(part) for part in parts)
    stdin = program.stdin.encode("utf-8", "replace")
    return b"%b %b %b\n" % (sizes, ready, done) + b"".join(parts) + stdin


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


# -- what can be seen inside ----------------------------------------------------------------------------------------


def _python() -> str:
    """Return the interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def _visible() -> Mapping[str, str]:
    """Return place inside -> source: the interpreter, its standard library and the system's libraries, no more.

    The standard library is shown under the name by which it is known and under its real one: either may be looked for.
    """
    base = Path(sys.base_prefix)
    platform_base = {"platbase": sys.base_exec_prefix}  # else that of a virtual environment
    own = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib", vars=platform_base), str(base / "lib")]
    if _python().startswith("/nix/store/"):
        own.append("/nix/store")
    shown: dict[str, str] = {}
    for path in (*LIBRARIES, *own, _python()):
        for place in (path, os.path.realpath(path)):
            is_shown = any(place == other or place.startswith(f"{other}/") for other in shown)
            if Path(path).exists() and not is_shown:
                shown[place] = os.path.realpath(path)
    return shown


# -- finding one ----------------------------------------------------------------------------------------------------


def find_sandbox() -> Sandbox:
    """Return the first kind of sandbox that holds on this machine. Takes some tenths of a second.

    Raises ExtraMissing, with what was tried, when there is none.
    """
    tried = []
    for sandbox in candidates():
        if not (leak := probe(sandbox)):
            return sandbox
        tried.append(f"{sandbox.name}: {leak}")
    said = "; ".join(dict.fromkeys(tried)) or f"not on {sys.platform} {platform.machine()}, which lacks what it takes"
    fix = FIX if sys.platform == "linux" else "run the build on Linux; a virtual machine or a container will do"
    raise ExtraMissing(f"no sandbox on this machine to run the answers' code in ({said})", fix=fix)


def candidates() -> list[Sandbox]:
    """Return the kinds of sandbox to try, in order. Root can do without a user namespace, and is tried so first."""
    if sys.platform != "linux" or platform.machine() not in PROCESSORS:
        return []
    ways = [("bubblewrap", found)] if (found := shutil.which("bwrap")) else []
    users = (False, True) if os.geteuid() == 0 else (True,)
    return [Sandbox(name, path, user) for name, path in [*ways, ("namespaces", "")] for user in users]


PROBE = """
import os, socket
def leaks(what, attempt):
    try:
        attempt()
    except OSError:
        return
    print(what)
leaks("it can read files outside", lambda: open({canary!r}).read())
leaks("it can list folders outside", lambda: os.listdir({folder!r}))
leaks("it can write outside", lambda: open({folder!r} + "/written", "w"))
leaks("it can write to its root", lambda: open("/written", "w"))
leaks("it can reach the network", lambda: socket.create_connection(("127.0.0.1", {port}), 1))
leaks("it can start processes", lambda: os.fork() or os._exit(0))
leaks("it can start programs", lambda: os.execv({python!r}, ["python", "-c", "1"]))
if set(os.environ) != {{"PATH", "LANG"}}:
    print("it sees the environment")
with open("/tmp/own", "w") as file:
    file.write("x")
print("probed")
"""


def probe(sandbox: Sandbox) -> str:
    """Run a program that tries to get out; return what it could do, "" when it could do nothing."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        canary = Path(folder) / "canary"
        canary.write_text("seen", encoding="utf-8")
        port = listener.getsockname()[1]
        code = PROBE.format(canary=str(canary), folder=folder, port=port, python=_python())
        try:
            done = subprocess.run(
                sandbox.command(Limits()), input=message(Program(code), b"ready:", b"-"), env=ENVIRONMENT, cwd="/",
                capture_output=True, timeout=PROBE_SECONDS, check=False, start_new_session=True,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    said = done.stdout.decode("utf-8", "replace")
    if said == "ready:probed\n":
        return ""
    leaks = said.removeprefix("ready:").removesuffix("probed\n").strip().replace("\n", ", ")
    return (leaks or _last_line(done.stderr) or f"exit status {done.returncode}")[:300]
