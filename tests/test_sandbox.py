"""The sandbox: programs that try to get out or to use up the machine, and the refusal where nothing holds them."""

import asyncio
import functools
import os
import pwd
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, clean_environment

from distillgen.steps import sandbox as module
from distillgen.steps.sandbox import Limits, Program, Run, Sandbox, SandboxFailed, candidates, find_sandbox, probe

TIGHT = Limits(seconds=2, memory_mb=256, threads=32, disk_mb=8, output_mb=1)
KINDS = [("bubblewrap", False), ("bubblewrap", True), ("namespaces", False), ("namespaces", True)]
leak_of = functools.cache(probe)


@pytest.fixture(params=["bubblewrap", "namespaces"])
def held(request: pytest.FixtureRequest) -> Sandbox:
    """One sandbox of each name, for what takes its time."""
    for sandbox in candidates():
        if sandbox.name == request.param and not leak_of(sandbox):
            return sandbox
    pytest.skip(f"NOT TESTED HERE: {request.param} does not isolate on this machine, or is not installed")


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{'user' if kind[1] else 'root'}")
def box(request: pytest.FixtureRequest) -> Sandbox:
    """Every kind of sandbox that this machine allows."""
    for sandbox in candidates():
        if (sandbox.name, sandbox.has_user_namespace) == request.param:
            if leak := leak_of(sandbox):
                pytest.skip(f"NOT TESTED HERE: {sandbox.name} does not isolate on this machine: {leak}")
            return sandbox
    pytest.skip("NOT TESTED HERE: not installed, or only for root")


def ran(box: Sandbox, code: str, *, limits: Limits = TIGHT, **more: str) -> Run:
    return asyncio.run(box.run(Program(code, **more), limits))


def children() -> list[str]:
    """The command lines of all sandbox children on this machine that this process, or one of its own, started."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
        except OSError:
            continue
        if (
            any(word.endswith((b"sandbox_child.py", b"/child.py")) for word in words)
            and str(os.getpid()).encode() in words
        ):
            found.append(b" ".join(words).decode())
    return found


def none_left(find: Callable[[], list[str]] = children) -> bool:
    """Whether all children are gone; the kernel takes a moment to tear a process space down."""
    for _ in range(500):
        if not find():
            return True
        time.sleep(0.02)
    return False


# -- what works inside ----------------------------------------------------------------------------------------------


def test_programs_read_and_print(box: Sandbox) -> None:
    assert ran(box, "print(input()[::-1])", stdin="abc\n") == Run("cba\n", "")
    assert ran(box, "print('ü', 1); exit()") == Run("ü 1\n", "")
    assert ran(box, "raise SystemExit(3)") == Run("", "ended with exit status 3")
    assert ran(box, "1/0").trouble == "ZeroDivisionError: division by zero"


def test_tests_pass_or_say_what_failed(box: Sandbox) -> None:
    code = "def f(x):\n    return x + 1\nif __name__ == '__main__':\n    print(input())"
    assert ran(box, code, tests="assert f(1) == 2") == Run("", "")
    assert ran(box, code, tests="x = 1\nassert f(2) == 4").trouble == (
        "AssertionError (line 2 of the tests: 'assert f(2) == 4')"
    )
    assert ran(box, "def f(x):\n    return [][x]", tests="f(1)").trouble == (
        "IndexError: list index out of range (line 2 of the answer: 'return [][x]')"
    )
    assert ran(box, "def f(", tests="f(1)").trouble.startswith("SyntaxError")
    assert ran(box, "x = '\0'", tests="1").trouble.startswith(("SyntaxError", "ValueError"))
    assert ran(box, code, tests="x = 1\rassert f(2) == 4").trouble == (
        "AssertionError (line 2 of the tests: 'assert f(2) == 4')"
    )
    beyond = "exec(compile('\\n' * 50 + '1 / 0', '<answer>', 'exec'))"
    assert ran(box, beyond, tests="1").trouble == "ZeroDivisionError: division by zero (line 51 of the answer: '')"


def test_a_check_of_the_code_is_not_that_of_the_tests(box: Sandbox) -> None:
    code = "def check(x):\n    raise ValueError(x)\ndef f(x):\n    return x + 1"
    assert ran(box, code, tests="assert f(1) == 2", entry="f") == Run("", "")


def test_what_libraries_need_is_there(box: Sandbox) -> None:
    code = """
import asyncio, collections, dataclasses, decimal, hashlib, json, os, random, re, sqlite3, tempfile, threading
@dataclasses.dataclass
class Point:
    x: "int"
async def later():
    await asyncio.sleep(0)
    return await asyncio.to_thread(lambda: 7)
threads = [threading.Thread(target=lambda: None) for _ in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
with tempfile.TemporaryFile() as file:
    file.write(b"x")
print(Point(1), asyncio.run(later()), os.listdir("."), os.urandom(2) != b"", open(os.devnull).read() == "")
"""
    assert ran(box, code) == Run("Point(x=1) 7 [] True True\n", "")


def test_hashes_are_the_same_in_every_run(box: Sandbox) -> None:
    code = "print(list({'a', 'b', 'c', 'd', 'e', 'f'}), hash('seed'))"
    first = ran(box, code)
    assert first.trouble == "" and all(ran(box, code) == first for _ in range(3))


ENDERS = ["import sys; sys.exit(0)", "raise SystemExit", "import os; os._exit(0)", "exit(0)"]


@pytest.mark.parametrize("code", ENDERS)
def test_ending_before_the_tests_did_is_no_pass(box: Sandbox, code: str) -> None:
    assert "before its tests did" in ran(box, code, tests="assert False").trouble


@pytest.mark.parametrize(
    ("tests", "entry", "said"),
    [
        ("def check(candidate):\n    assert candidate(1) == 2", "f", ""),
        ("def check(candidate):\n    assert candidate(1) == 3", "f", "AssertionError"),
        ("def check(candidate):\n    assert candidate(1) == 3\ncheck(f)", "", "AssertionError"),
        ("def check(candidate):\n    assert candidate(1) == 3", "", "give `entry_point`"),
        ("def check(candidate):\n    assert candidate(1) == 2", "g", "KeyError: 'g'"),
        ("check = lambda candidate: 1 / (candidate(1) - 2)", "f", "ZeroDivisionError"),
        ("assert f(1) == 2", "f", ""),
        ("assert f(1) == 3", "f", "AssertionError"),
        ("def check(a, b):\n    assert f(a) == b\ndef run():\n    check(1, 2)\nrun()", "", ""),
        ("def check(a, b):\n    assert f(a) == b\ndef run():\n    check(1, 3)\nrun()", "", "AssertionError"),
        ("def check(a):\n    return check(a) if a else f(1)", "", "give `entry_point`"),
        ("def check(a):\n    assert f(a)\nlist(map(check, [1, 2]))", "", ""),
        ("class Case:\n    def check(self, a):\n        assert f(a)\nCase().check(1)", "", ""),
    ],
)
def test_check_is_called_with_the_entry_point(box: Sandbox, tests: str, entry: str, said: str) -> None:
    trouble = ran(box, "def f(x):\n    return x + 1", tests=tests, entry=entry).trouble
    assert said in trouble and bool(trouble) == bool(said)


# -- getting out ----------------------------------------------------------------------------------------------------

TRY = """
def trying(what, attempt):
    try:
        print(what, "succeeded:", attempt())
    except Exception as error:
        print(what, "refused")
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def test_no_network(box: Sandbox, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    run = ran(box, f"""{TRY}
import ctypes, socket
trying("tcp", lambda: socket.create_connection(("127.0.0.1", {port}), 1))
trying("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
trying("ip6", lambda: socket.socket(socket.AF_INET6))
trying("vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
trying("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
trying("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
trying("name", lambda: socket.gethostbyname("example.org"))
print("by number", ctypes.CDLL(None).syscall({41 if os.uname().machine == 'x86_64' else 198}, 2, 1, 0))
""")  # fmt: skip
    kinds = ("tcp", "udp", "ip6", "vsock", "netlink", "packet", "name")
    assert run == Run("".join(f"{kind} refused\n" for kind in kinds) + "by number -1\n", "")
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_no_network_even_without_the_filter_of_system_calls(box: Sandbox, listener: socket.socket) -> None:
    """The namespace alone must hold: the child's own check, and a socket made before the filter is there."""
    command = box.command(TIGHT)
    place = command.index(module.FLAGS[-1]) + 1
    code = f"""
import os, runpy, socket, sys
child = runpy.run_path(sys.argv[1])
def attempt(*limits):
    print(sorted(name for _, name in socket.if_nameindex() if name == "lo"), flush=True)
    try:
        socket.create_connection(("127.0.0.1", {listener.getsockname()[1]}), 1)
        print("connected", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
    os._exit(0)
child["main"].__globals__["lock_in"] = attempt
child["main"](sys.argv[2:])
"""
    done = subprocess.run(
        [*command[:place], "-c", code, *command[place:]], input=module.message(Program("1"), b"ready", b"done"),
        env=module.ENVIRONMENT, capture_output=True, timeout=60, check=False, start_new_session=True,
    )  # fmt: skip
    assert done.stdout in (b"['lo']\nConnectionRefusedError\n", b"['lo']\nOSError\n"), done
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_no_file_of_yours(box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("seen")
    home = pwd.getpwuid(os.getuid()).pw_dir
    wanted = [
        tmp_path / "secret", REPOSITORY / "pyproject.toml", f"{home}/.ssh/id_rsa", f"{home}/.bashrc", "/etc/passwd",
        "/etc/shadow", "/etc/hostname", "/proc/self/environ", "/proc/1/cmdline", "/sys/class/net", "/run", "/var", "/root/.profile",
        "/dev/sda", "/dev/mem", "/dev/shm", "/bin/sh", "/usr/bin/env", "/old", Path(module.__file__).parent / "verify.py",
    ]  # fmt: skip
    run = ran(box, f"""{TRY}
import os
for path in {[str(path) for path in wanted]!r}:
    trying(path, lambda: os.stat(path))
print(os.path.expanduser("~"), os.environ.get("HOME"))
""")  # fmt: skip
    expected = "".join(f"{path} refused\n" for path in wanted) + "~ None\n"
    assert run.trouble == "" and run.output.replace("/nonexistent None", "~ None") == expected


def test_of_the_home_no_more_than_the_way_to_python_is_seen(box: Sandbox) -> None:
    home = os.path.realpath(pwd.getpwuid(os.getuid()).pw_dir)
    run = ran(
        box,
        f"import os\nfor place, _, files in os.walk({home!r}):\n    print(place)\n    assert not files or '/lib' in place or '/bin' in place",
    )
    assert run.trouble == ""
    places = list(module._visible())
    for line in run.output.splitlines():
        assert any(
            place.startswith(line) or line.startswith(place) or Path(place).parent == Path(line) for place in places
        )


def test_nothing_can_be_written_outside(box: Sandbox, tmp_path: Path) -> None:
    stdlib = os.path.dirname(os.__file__)
    places = ["/", "/usr", "/usr/lib", "/dev", stdlib, str(tmp_path), os.path.dirname(stdlib), "/lib"]
    run = ran(box, f"""{TRY}
import os
for place in {places!r}:
    trying(place, lambda: open(place + "/written-by-a-test", "w"))
trying("remount", lambda: os.chmod(os.__file__, 0o777))
""")  # fmt: skip
    assert run == Run("".join(f"{place} refused\n" for place in [*places, "remount"]), "")
    assert not [place for place in places if Path(place, "written-by-a-test").exists()]


def test_no_secret_of_the_environment(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-4711")
    run = ran(box, "import os, ctypes, sys\nprint(dict(os.environ), sys.argv, sys.orig_argv, os.getcwd())")
    assert run.trouble == "" and "canary" not in run.output
    assert run.output.startswith("{'PATH': '/usr/bin:/bin', 'LANG': 'C.UTF-8'} ['answer.py'] ")


def test_no_privilege_and_no_way_back_to_one(box: Sandbox) -> None:
    run = ran(box, f"""{TRY}
import ctypes, os
libc = ctypes.CDLL(None)
print(os.getuid() == 0, os.geteuid() == 0, os.getgroups() in ([], [65534]))
for name, arguments in (
    ("unshare", (0x10000000,)), ("unshare", (0x20000,)), ("mount", (b"tmpfs", b"/tmp", b"tmpfs", 0, None)),
    ("umount2", (b"/tmp", 2)), ("chroot", (b"/tmp",)), ("ptrace", (16, 1, None, None)), ("setuid", (0,)),
    ("pivot_root", (b"/", b"/")), ("memfd_create", (b"x", 0)),
):
    print(name, getattr(libc, name)(*arguments))
import resource
for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
    trying("limit", lambda: resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
""")  # fmt: skip
    names = ["unshare", "unshare", "mount", "umount2", "chroot", "ptrace", "setuid", "pivot_root", "memfd_create"]
    assert run == Run("False False True\n" + "".join(f"{name} -1\n" for name in names) + "limit refused\n" * 4, "")


def test_no_other_program(box: Sandbox) -> None:
    run = ran(box, f"""{TRY}
import os, subprocess, sys
trying("run", lambda: subprocess.run([sys.executable, "-c", "1"]))
trying("shell", lambda: os.popen("id").read())
trying("exec", lambda: os.execv(sys.executable, ["python", "-c", "print('ran')"]))
trying("fork", lambda: os.fork())
""")  # fmt: skip
    assert run == Run("run refused\nshell refused\nexec refused\nfork refused\n", "")


@pytest.mark.parametrize("target", ["os.getppid()", "1", "-1"])
def test_killing_the_parent_does_nothing(box: Sandbox, target: str) -> None:
    run = ran(box, f"import os\ntry:\n    os.kill({target}, 9)\nexcept OSError:\n    pass\nprint('alive')")
    assert run in (Run("alive\n", ""), Run("", "was ended by signal SIGKILL"))
    assert none_left()


def test_killing_its_group_is_suicide(box: Sandbox) -> None:
    assert ran(box, "import os\nos.kill(0, 9)") == Run("", "was ended by signal SIGKILL")
    assert ran(box, "import os\nos.kill(0, 9)", tests="1").trouble == "was ended by signal SIGKILL"


# -- using up the machine -------------------------------------------------------------------------------------------


def test_fork_bomb(box: Sandbox) -> None:
    patient = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    assert re.fullmatch(LATE, ran(box, patient, limits=Limits(seconds=1)).trouble)
    assert ran(box, "import os\nwhile True: os.fork()").trouble.startswith("BlockingIOError")
    assert none_left()
    assert ran(box, "print(1)") == Run("1\n", "")


def test_thread_bomb(box: Sandbox) -> None:
    code = """
import threading, time
threading.stack_size(65536)
threads = []
try:
    while len(threads) < 1000:
        threads.append(threading.Thread(target=time.sleep, args=(60,), daemon=True))
        threads[-1].start()
except RuntimeError:
    pass
print(len(threads), flush=True)
import os; os._exit(0)
"""
    run = ran(box, code)
    assert none_left() and run.trouble == ""
    # In a namespace of users, root outside is still root to the kernel, whose threads nobody counts.
    if os.geteuid() != 0 or not box.has_user_namespace:
        assert 2 < int(run.output) <= TIGHT.threads


@pytest.mark.parametrize(
    "code",
    ["x = bytearray(10**10)", "x = [0]\nwhile True: x += x", "import mmap\nmmap.mmap(-1, 10**10)", "x = 'a' * 10**10"],
)
def test_ten_gigabytes_of_memory(box: Sandbox, code: str) -> None:
    assert ran(box, code).trouble in ("needed more than 256 MB of memory", "OSError: [Errno 12] Cannot allocate memory")


def test_memory_in_all_stays_under_the_limit(box: Sandbox) -> None:
    code = "x = []\ntry:\n    while True: x.append(bytearray(1 << 20))\nexcept MemoryError:\n    n = len(x); x.clear(); print(n)"
    run = ran(box, code)
    assert run.trouble == "" and 100 < int(run.output) < 256


def test_ten_gigabytes_of_output(box: Sandbox) -> None:
    run = ran(box, "import sys\nfor _ in range(10**4): sys.stdout.write('x' * 10**6)")
    assert run.trouble == "printed more than 1 MB" and len(run.output) <= 1 << 20
    run = ran(box, "import sys\nfor _ in range(10**4): sys.stderr.write('x' * 10**6)")
    assert run.trouble == "printed more than 1 MB"
    assert ran(box, "print('x' * 10**7)", tests="print('y' * 10**7)") == Run("", "")  # nobody reads what tests print


def test_ten_gigabytes_of_files(box: Sandbox) -> None:
    code = """
import os
written = 0
for number in range(64):
    try:
        with open(f"/tmp/{number}", "wb", buffering=0) as file:
            for _ in range(160):
                written += file.write(bytes(1 << 20))
    except OSError as error:
        pass
print(written >> 20)
"""
    run = ran(box, code)
    assert run.trouble == "" and int(run.output) <= TIGHT.disk_mb
    handles = "x = []\ntry:\n    while True: x.append(open('/dev/null'))\nexcept OSError:\n    print(len(x))"
    assert int(ran(box, handles).output) < TIGHT.open_files


LATE = "(took more than 1 s of processor time|took more than 4 s)"  # which limit is met first is the machine's doing


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("while True: pass", LATE),
        ("9 ** 9 ** 9", LATE),
        (
            "import signal; signal.signal(24, signal.SIG_IGN)\nwhile True: pass",
            "was ended by signal SIGKILL|took more than 4 s",
        ),
        ("input(); input()", "EOFError: EOF when reading a line"),
        ("import ctypes; ctypes.string_at(0)", "was ended by signal SIGSEGV"),
        ("f = lambda: f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    ],
    ids=["loop", "power", "ignoring", "input", "crash", "recursion"],
)
def test_programs_that_do_not_end_well_say_why(held: Sandbox, code: str, said: str) -> None:
    trouble = ran(held, code, stdin="one\n", limits=Limits(seconds=1, memory_mb=256)).trouble
    assert re.fullmatch(said, trouble), trouble
    assert none_left()


def test_sleepers_are_ended_by_the_clock(held: Sandbox) -> None:
    assert ran(held, "import time; time.sleep(1000)", limits=Limits(seconds=0.25)).trouble == "took more than 1 s"
    assert none_left()


def test_a_cancelled_run_leaves_nothing(box: Sandbox) -> None:
    async def main() -> None:
        task = asyncio.create_task(box.run(Program("import time; time.sleep(1000)"), Limits(seconds=100)))
        while not children():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert none_left()


def test_a_run_may_be_cancelled_at_any_moment(held: Sandbox) -> None:
    """While the process is being started, too, when nobody has it yet."""

    async def main(wait: float, turns: int) -> None:
        task = asyncio.create_task(held.run(Program("import time; time.sleep(1000)"), Limits(seconds=100)))
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.sleep(wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for turns in range(8):
        asyncio.run(main(0, turns))
    for milliseconds in range(0, 60, 4):
        asyncio.run(main(milliseconds / 1000, 1))
    assert none_left()


def test_a_run_ends_with_the_process_that_wanted_it(box: Sandbox) -> None:
    code = f"""
import asyncio
from distillgen.steps.sandbox import Limits, Program, Sandbox
box = Sandbox({box.name!r}, {box.program!r}, {box.has_user_namespace!r})
asyncio.run(box.run(Program("import time; time.sleep(1000)"), Limits(seconds=100)))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], env=clean_environment())

    def mine() -> list[str]:
        words = str(parent.pid).encode()
        lines = []
        for process in Path("/proc").iterdir():
            try:
                line = (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
            except OSError:
                continue
            if words in line:
                lines.append(b" ".join(line).decode())
        return lines

    while len(mine()) < 3 and parent.poll() is None:
        time.sleep(0.01)
    assert parent.poll() is None
    parent.kill()
    parent.wait()
    assert none_left(mine)


def test_many_at_once_do_not_disturb_each_other(box: Sandbox) -> None:
    async def main() -> list[Run]:
        return await asyncio.gather(*(box.run(Program(f"print({number})"), TIGHT) for number in range(12)))

    assert asyncio.run(main()) == [Run(f"{number}\n", "") for number in range(12)]


# -- where nothing holds --------------------------------------------------------------------------------------------


def test_a_machine_with_isolation_finds_it() -> None:
    holding = [sandbox for sandbox in candidates() if not leak_of(sandbox)]
    if not holding:
        with pytest.raises(module.ExtraMissing):
            find_sandbox()
        pytest.skip("NOT TESTED HERE: no kind of sandbox isolates on this machine; that it is refused was tested")
    assert find_sandbox() == holding[0]


BARE = """
# A process that may not make namespaces, as in a container with Docker's usual filter.
import ctypes, os, struct, sys
number = {"x86_64": 272}.get(os.uname().machine, 97)
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
from distillgen.errors import DistillgenError
from distillgen.steps.verify import verify_step
try:
    verify_step("v", "code", answer="a", reference="r")
except DistillgenError as error:
    print(error)
    sys.exit(error.exit_status)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
@pytest.mark.parametrize("program", ["", "exit 1", "lies"])
def test_without_isolation_the_step_refuses_to_run(tmp_path: Path, program: str) -> None:
    """Neither no bubblewrap, nor one that fails, nor one that isolates nothing lets code run."""
    if program:
        lies = f'while [ "$1" != -- ]; do shift; done; python=$2; shift; while [ "$1" != /child.py ]; do shift; done; shift\nexec "$python" -P -s -S -B {module.CHILD} "$@"'
        (tmp_path / "bwrap").write_text("#!/bin/sh\n" + (lies if program == "lies" else program))
        (tmp_path / "bwrap").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", BARE], env=clean_environment(PATH=str(tmp_path)), capture_output=True, text=True,
        cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("DG501 no sandbox on this machine to run the answers' code in (")
    assert "namespaces: PermissionError: [Errno 1] unshare: Operation not permitted" in done.stdout
    assert "install bubblewrap: apt install bubblewrap" in done.stdout
    if program == "lies":
        assert "bubblewrap: OSError: other processes can be seen" in done.stdout


@pytest.mark.parametrize("program", ["/bin/false", "/nonexistent"])
def test_a_sandbox_that_fails_later_is_no_verdict(program: str) -> None:
    with pytest.raises(SandboxFailed) as caught:
        ran(Sandbox("bubblewrap", program, True), "print(1)")
    assert str(caught.value) in (
        "cannot isolate a process: exit status 1", "cannot start a process: No such file or directory",
    )  # fmt: skip


def test_signals_of_the_terminal_do_not_reach_inside(box: Sandbox) -> None:
    """Ctrl-C is sent to the foreground's process group: the child must not be in it."""

    async def main() -> tuple[int, Run]:
        task = asyncio.create_task(box.run(Program("import time; time.sleep(0.5); print(1)"), TIGHT))
        group = 0
        while not group:
            await asyncio.sleep(0.01)
            for process in Path("/proc").iterdir():
                try:
                    words = (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
                    if str(os.getpid()).encode() in words:
                        group = os.getpgid(int(process.name))
                except OSError:
                    continue
        return group, await task

    group, run = asyncio.run(main())
    assert group != os.getpgid(0) and run == Run("1\n", "")
