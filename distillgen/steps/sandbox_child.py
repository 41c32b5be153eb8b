"""The program on the far side of the sandbox: it makes the isolation, locks itself in, and runs unknown code.

It is started alone (standard library only, nothing of distillgen) as `main` says. There are three layers, each enough
for most attacks: namespaces (no network, no files but Python's own, no other process), limits of the kernel (processor
time, memory, files), and a filter of system calls (no new process, no program, no socket).
"""
# ruff: noqa: PTH102, PTH103, PTH106, PTH110, PTH112, PTH120, PTH123, S102, S108
# pathlib takes longer to load than all the rest; code is run here on purpose; /tmp is the sandbox's own.

import builtins
import ctypes
import os
import resource
import signal
import struct
import sys
import types

NOBODY = 65534
ROOM = ("/dev", "/tmp")  # inside: small, of memory, and gone after the run
# Devices that the kernel puts into every new network: they are down and lead nowhere.
IDLE_INTERFACES = {
    "lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0",
}  # fmt: skip

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x4000000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET, CLONE_THREAD = 0x20000000, 0x40000000, 0x10000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE, MNT_DETACH = 16384, 1 << 18, 2
SYS_MOUNT_SETATTR, AT_RECURSIVE, MOUNT_ATTR_RDONLY_NOSUID = 442, 0x8000, 1 | 2
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38

# System calls that are refused: (x86_64, the numbers of aarch64 and riscv64). Those since Linux 5.1 share one number.
REFUSED = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "memfd_create": (319, 279), "memfd_secret": (447, 447),  # memory that no limit counts
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41),
    "mount": (165, 40), "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip
CLONE, CLONE3, SOCKET = (56, 220), (435, 435), (41, 198)
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1), "riscv64": (0xC00000F3, 1)}
EPERM, EAGAIN, EACCES, ENOSYS = 1, 11, 13, 38

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Call a function of the C library that returns 0. Raises OSError with its name."""
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


# -- isolation, where bubblewrap does not make it ------------------------------------------------------------------


def isolate(visible: list[tuple[str, str]], room_bytes: int, *, has_user_namespace: bool) -> None:
    """Leave the machine: return in a process that sees nothing of it but `visible` (source, place), read-only.

    Its ancestors wait and end with its exit status. When they are killed, the kernel ends everything inside.
    """
    uid, gid = os.geteuid(), os.getegid()
    spaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    call("unshare", spaces | (CLONE_NEWUSER if has_user_namespace else 0))
    if has_user_namespace:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{NOBODY} {uid} 1")
        _write("/proc/self/gid_map", f"{NOBODY} {gid} 1")
    _new_root(visible, room_bytes)
    _fork_and_wait()
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    become_nobody()
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)  # another user: the kernel has forgotten it
    _fork_and_wait()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _new_root(visible: list[tuple[str, str]], room_bytes: int) -> None:
    """Stand in a file system of memory that holds `visible` and a little room in /tmp."""
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")  # any folder would do
    os.mkdir("/tmp/old")
    call("pivot_root", b"/tmp", b"/tmp/old")
    os.chdir("/")
    for folder in ROOM:
        os.mkdir(folder)
    for source, place in visible:
        _show(f"/old{source}", place)
    call("umount2", b"/old", MNT_DETACH)
    os.rmdir("/old")
    room = f"size={room_bytes},nr_inodes=4096,mode=1777"
    _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, room)
    _mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _mount(source: str | None, place: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, place, kind, options)]
    call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3])


def _show(source: str, place: str) -> None:
    """Mount a file or a folder with all below it, read-only."""
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o444))
    _mount(source, place, None, MS_BIND | MS_REC)
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY_NOSUID, 0, 0, 0)
    call("syscall", SYS_MOUNT_SETATTR, -100, place.encode(), AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes)))


def _fork_and_wait() -> None:
    """Return in a child; this process waits for it and ends as it does. As the first of its kind it reaps orphans."""
    child = os.fork()
    if not child:
        return
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


# -- giving up ------------------------------------------------------------------------------------------------------


def become_nobody() -> None:
    """Stop being the system's administrator."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        libc.unshare(CLONE_NEWUSER)  # where it may: then its processes are counted apart from other nobodies'


def lock_in(seconds: int, memory: int, threads: int, files: int, room: int) -> None:
    """Set limits that cannot be raised again, drop every privilege, and refuse system calls."""
    become_nobody()
    call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    limits = {
        resource.RLIMIT_CPU: (seconds, seconds + 1), resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_NOFILE: (files, files), resource.RLIMIT_FSIZE: (room, room), resource.RLIMIT_CORE: (0, 0),
    }  # fmt: skip
    if _counts_by_namespace():
        limits[resource.RLIMIT_NPROC] = (threads, threads)
    for limit, values in limits.items():
        resource.setrlimit(limit, values)
    refuse_system_calls()


def _counts_by_namespace() -> bool:
    """Whether the kernel counts processes by user namespace (Linux 5.14): before, the user's own would be counted."""
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (5, 14)


def refuse_system_calls() -> None:
    """Install the filter for this process and its threads: REFUSED, processes, and sockets that can leave."""
    architecture, column = ARCHITECTURES[os.uname().machine]
    load, equal, at_least, has_bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000
    steps = [
        (load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, refuse | EPERM),
        (load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (give, 0, 0, refuse | EPERM),  # the other ABI of x86
    ]  # fmt: skip
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            steps += [(equal, 0, 1, number), (give, 0, 0, refuse | EPERM)]
    steps += [
        (equal, 0, 1, CLONE3[column]), (give, 0, 0, refuse | ENOSYS),  # its flags cannot be seen; libc falls back
        (equal, 0, 4, CLONE[column]), (load, 0, 0, 16),
        (has_bits, 0, 1, CLONE_THREAD), (give, 0, 0, allow), (give, 0, 0, refuse | EAGAIN),
        (equal, 0, 4, SOCKET[column]), (load, 0, 0, 16),
        (equal, 0, 1, 1), (give, 0, 0, allow), (give, 0, 0, refuse | EACCES),  # AF_UNIX stays within
        (give, 0, 0, allow),
    ]  # fmt: skip
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(buffer))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_SECCOMP, 2, program, 0, 0)


def require_isolation() -> None:
    """Raise OSError when this is not a place of its own, whoever made it."""
    import _socket

    if os.getpid() > 2:
        raise OSError("other processes can be seen")
    if outside := {name for _, name in _socket.if_nameindex()} - IDLE_INTERFACES:
        raise OSError(f"there is a network: {sorted(outside)}")
    if os.path.exists("/etc/passwd") or os.path.exists("/proc/self") or os.access("/", os.W_OK):
        raise OSError("the machine's files can be seen")


# -- running --------------------------------------------------------------------------------------------------------


def run_program(code: str) -> None:
    """Run a whole program, which reads standard input and prints."""
    _exec(code, "answer", _module("__main__"))


def run_tests(code: str, tests: str, entry: str, done: bytes) -> None:
    """Run code as a module, then its tests; write `done` when they came to their end, else what went wrong."""
    channel, nowhere = os.dup(1), os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    sources = {"answer": code, "tests": tests}
    try:
        module = _module("answer")
        _exec(code, "answer", module)
        own = module.__dict__.get("check")
        _exec(tests, "tests", module)
        check = module.__dict__.get("check")
        if callable(check) and check is not own:  # the tests define it, not the code
            if entry:
                check(module.__dict__[entry])
            elif not _calls_check(tests):
                raise NameError("the tests define check(candidate) and call it nowhere: give `entry_point`")
        os.write(channel, done)
        os._exit(0)
    except BaseException as error:
        os.write(channel, describe(error, sources).encode("utf-8", "replace"))
        os._exit(1)


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module
    return module


def _exec(source: str, name: str, module: types.ModuleType) -> None:
    exec(compile(source, f"<{name}>", "exec", dont_inherit=True), module.__dict__)


def _calls_check(tests: str) -> bool:
    """Whether the tests call `check`, or hand it on, outside its own definition."""
    import ast

    return any(
        isinstance(node, ast.Name) and node.id == "check" and isinstance(node.ctx, ast.Load)
        for part in ast.parse(tests).body
        if getattr(part, "name", "") != "check"
        for node in ast.walk(part)
    )


def describe(error: BaseException, sources: dict[str, str]) -> str:
    """Say what went wrong, and at which line of which source."""
    text = f"{type(error).__name__}: {str(error)[:200]}".removesuffix(": ")
    if isinstance(error, SystemExit):
        text = f"the code ended the program ({text}) before its tests did"
    place, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename.strip("<>")
        if name in sources:
            lines = sources[name].replace("\r\n", "\n").replace("\r", "\n").split("\n")  # as `compile` counts them
            line = lines[trace.tb_lineno - 1].strip()[:120] if 0 < (trace.tb_lineno or 0) <= len(lines) else ""
            place = f" (line {trace.tb_lineno} of the {name}: {line!r})"
        trace = trace.tb_next
    return text + place


def _received(count: int) -> str:
    parts = bytearray()
    while len(parts) < count:
        part = os.read(0, count - len(parts))
        if not part:
            os._exit(1)  # nobody is there any more
        parts += part
    return parts.decode("utf-8", "replace")


def main(arguments: list[str]) -> None:
    """Take WAY PARENT SECONDS MEMORY THREADS FILES ROOM [SOURCE PLACE]..., then from standard input a line with three
    sizes and two marks, and the code, the tests and the entry point of those sizes; what follows is the program's own.

    WAY is `inside` when the isolation has been made, else `root` or `user`. The first mark is written when all is
    locked, the second when tests came to their end. What goes wrong before the first mark stands in standard error.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    way, (parent, seconds, memory, threads, files, room) = arguments[0], map(int, arguments[1:7])
    if way != "inside":
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)
        pairs = list(zip(arguments[7::2], arguments[8::2], strict=True))
        isolate(pairs, room, has_user_namespace=way == "user")
    require_isolation()
    os.setsid()  # its own group: who waits for it stays in the one that is killed, and so ends it
    header = bytearray()
    while not header.endswith(b"\n"):
        header += _received(1).encode()
    *sizes, ready, done = bytes(header).split()
    code, tests, entry = (_received(int(size)) for size in sizes)
    os.environ.clear()
    os.environ.update(PATH="/usr/bin:/bin", LANG="C.UTF-8")
    os.chdir("/tmp")
    lock_in(seconds, memory, threads, files, room)
    sys.argv = ["answer.py"]
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # module `site` is not loaded, which makes them
    os.write(1, ready)
    if tests:
        run_tests(code, tests, entry, done)
    run_program(code)


if __name__ == "__main__":
    main(sys.argv[1:])
