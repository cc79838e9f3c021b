"""Programs that do their worst, each of them really run, in every way of confining that works here.

They are written so that they harm little if they get out: a test of a broken sandbox must not take
the machine with it.

A long file, so that the whole list of attempts stands in one place, beside the list of what the
sandbox covers: whoever adds to the one sees what the other lacks. A way of confining that the
machine does not have is skipped by name and reason.
"""

import errno
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from protocol.errors import ConfigurationError, StageError
from server_side.sandbox import running as sandbox
from server_side.sandbox.running import (
    ConfinedRun,
    Confinement,
    Ending,
    SandboxLimits,
    find_confinement,
    run_confined,
)

LIMITS = SandboxLimits(cpu_seconds=2, wall_seconds=20.0)
NOBODY = 65534

# Prints, for each attempt, what it gave or by which error it failed.
TRY = """
import json, os
found = []
def attempt(function, *arguments, **named):
    try:
        found.append(repr(function(*arguments, **named)))
    except BaseException as error:
        found.append(type(error).__name__)
"""
TELL = "\nprint(json.dumps(found))"


@pytest.fixture(params=list(Confinement))
def confinement(request: pytest.FixtureRequest) -> Confinement:
    found: Confinement = request.param
    try:
        run_confined("", confinement=found)
    except StageError as error:
        pytest.skip(f"this machine has no {found}: {error}")
    return found


def _attempts(body: str, confinement: Confinement) -> list[str]:
    run = run_confined(TRY + body + TELL, limits=LIMITS, confinement=confinement)
    assert run.ending is Ending.FINISHED
    found: list[str] = json.loads(run.output)
    return found


def test_harmless_program_runs_with_the_standard_library(confinement: Confinement) -> None:
    program = "import collections, datetime, decimal, heapq, math, random, re, statistics, typing\n"

    run = run_confined(program + "print(math.factorial(10))", confinement=confinement)

    assert run == ConfinedRun(ending=Ending.FINISHED, output=b"3628800\n")


def test_program_starts_from_nothing(
    confinement: Confinement, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither environment, nor input, nor a descriptor of the server's."""
    monkeypatch.setenv("SERVER_TOKEN", "abc123")
    (tmp_path / "open.txt").write_text("abc123")
    with (tmp_path / "open.txt").open() as file:
        os.set_inheritable(file.fileno(), True)
        found = _attempts(
            """
attempt(lambda: dict(os.environ))
attempt(input)
attempt(os.listdir, ".")
for number in [*range(3, 64), *range(64, 1024, 7)]:
    attempt(os.fstat, number)
""",
            confinement,
        )

    assert found[:3] == ["{}", "EOFError", "[]"]
    assert set(found[3:]) == {"OSError"}


def test_fork_bomb_has_nothing_to_explode_with(confinement: Confinement) -> None:
    found = _attempts(
        """
import subprocess, sys, threading, time
def fork():
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
for _ in range(20):
    attempt(fork)
attempt(threading.Thread(target=time.sleep, args=(3,)).start)
attempt(subprocess.run, ["/bin/true"])
attempt(os.posix_spawn, sys.executable, [sys.executable, "-V"], {})
attempt(os.execv, sys.executable, [sys.executable, "-V"])
""",
        confinement,
    )

    assert found[:20] == ["PermissionError"] * 20
    assert found[20] == "RuntimeError"  # can't start new thread
    assert set(found[21:]) <= {"PermissionError", "FileNotFoundError"}


def test_program_cannot_leave_a_daemon_behind(confinement: Confinement) -> None:
    """A daemon would hold the output open, and the run would end by its time."""
    program = """
import os, time
def become_a_daemon():
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(30)
    os._exit(0)
try:
    become_a_daemon()
except PermissionError:
    print("refused")
"""

    run = run_confined(program, limits=LIMITS, confinement=confinement)

    assert run == ConfinedRun(ending=Ending.FINISHED, output=b"refused\n")


@pytest.mark.parametrize(
    ("body", "wall_seconds"),
    [
        ("while True: pass", 30.0),
        ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", 30.0),
        ("import time\ntime.sleep(600)", 1.0),
        ("import os, time\nos.close(1)\nos.close(2)\ntime.sleep(600)", 1.0),
    ],
)
def test_endless_program_is_ended(confinement: Confinement, body: str, wall_seconds: float) -> None:
    limits = SandboxLimits(cpu_seconds=1, wall_seconds=wall_seconds)

    assert run_confined(body, limits=limits, confinement=confinement).ending is Ending.TIMED_OUT


def test_ten_gigabytes_are_not_to_be_had(confinement: Confinement) -> None:
    found = _attempts("attempt(bytearray, 10 * 2**30)", confinement)

    assert found == ["MemoryError"]


def test_endless_output_is_cut(confinement: Confinement) -> None:
    limits = SandboxLimits(output_bytes=10_000)

    run = run_confined("while True: print('a' * 100)", limits=limits, confinement=confinement)

    assert run.ending is Ending.TALKED_TOO_MUCH
    assert len(run.output) == 10_000


def test_endless_file_is_cut(confinement: Confinement) -> None:
    limits = SandboxLimits(file_bytes=100_000, cpu_seconds=5)
    program = """
file = open("large", "wb", buffering=0)
try:
    while True:
        file.write(bytes(1000))
except OSError:
    print(file.tell())
"""

    run = run_confined(program, limits=limits, confinement=confinement)

    assert 90_000 <= int(run.output) <= 102_400  # memory comes in pages


# Each would fill the disk for as long as it is let: 40 files of 16 MiB, the default limit of one.
FILL = """
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
block = bytes(2**20)
def fill(path, flags=os.O_CREAT):
    file = os.open(path, os.O_RDWR | flags, 0o600)
    for _ in range(16):
        os.write(file, block)
    return file
def named(n):
    os.close(fill(f"file{n}"))
def removed(n):
    fill("file")
    os.remove("file")
def replaced(n):
    fill(f"file{n}")
    os.rename(f"file{n}", "file")
def unnamed(n):
    fill(".", os.O_TMPFILE)
def mapped(n):
    file = fill("file")
    page = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
    assert page not in (None, ctypes.c_void_p(-1).value)
    os.close(file)
    os.remove("file")
def silent(n):
    if n == 0:
        os.close(1)
        os.close(2)
    named(n)
"""
ENDLESS = """
import time
try:
    for n in range(40):
        WAY(n)
except OSError as error:
    print(type(error).__name__, error.errno, flush=True)
else:
    time.sleep(600)  # still holds it all
"""


@pytest.mark.parametrize("way", ["named", "removed", "replaced", "unnamed", "mapped", "silent"])
def test_many_files_do_not_fill_the_disk(confinement: Confinement, way: str) -> None:
    """Also such as have no name any more, which a listing of the folder does not show."""
    started = time.monotonic()

    run = run_confined(FILL + ENDLESS.replace("WAY", way), limits=LIMITS, confinement=confinement)

    if confinement is Confinement.LANDLOCK:
        assert run == ConfinedRun(ending=Ending.WROTE_TOO_MUCH, output=b"")
        assert time.monotonic() - started < LIMITS.wall_seconds
    else:
        full = f"OSError {errno.ENOSPC}\n".encode()
        assert run.output == (b"" if way == "silent" else full)


def test_program_is_killed_before_it_has_written_much_more_than_it_may() -> None:
    """It could write 400 MiB in 8 seconds, and is watched every few hundredths of one."""
    program = """
import time
for n in range(400):
    with open(f"file{n % 200}", "ab", buffering=0) as file:
        file.write(bytes(2**20))
    print(n, flush=True)
    time.sleep(0.02)
"""
    limits = SandboxLimits(cpu_seconds=20, wall_seconds=60.0, disk_bytes=8 * 2**20)
    try:
        run = run_confined(program, limits=limits, confinement=Confinement.LANDLOCK)
    except StageError as error:
        pytest.skip(f"this machine has no Landlock: {error}")

    assert run.ending is Ending.WROTE_TOO_MUCH
    assert 7 <= int(run.output.split()[-1]) < 100


def test_many_small_files_do_not_use_up_the_inodes(confinement: Confinement) -> None:
    program = """
import time
try:
    for n in range(3000):
        open(f"file{n}", "w").close()
except OSError as error:
    print(n)
"""

    run = run_confined(program, limits=LIMITS, confinement=confinement)

    if confinement is Confinement.LANDLOCK:
        assert run.ending is Ending.WROTE_TOO_MUCH
    else:
        assert int(run.output) < 256


def test_program_may_use_and_remove_files_one_after_the_other(confinement: Confinement) -> None:
    """What counts is what it holds at a time: here one file of 4 MiB, 40 times."""
    program = """
import os
for _ in range(40):
    with open("file", "wb") as file:
        file.write(bytes(2**22))
    os.remove("file")
print("done")
"""

    run = run_confined(program, limits=LIMITS, confinement=confinement)

    assert run == ConfinedRun(ending=Ending.FINISHED, output=b"done\n")


def test_files_of_the_user_are_out_of_reach(confinement: Confinement, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("abc123")

    found = _attempts(
        f"""
import ctypes, shutil
path, folder = {str(secret)!r}, {str(tmp_path)!r}
attempt(lambda: open(path).read())
attempt(lambda: open(path, "w"))
attempt(lambda: open(path, "a"))
attempt(os.open, path, os.O_RDONLY | os.O_TRUNC)
attempt(os.open, path, os.O_PATH)  # names a file without opening it
attempt(os.truncate, path, 0)
attempt(os.remove, path)
attempt(os.rename, path, "mine")
attempt(os.link, path, "mine")
attempt(os.symlink, path, "mine")
attempt(os.chmod, path, 0o777)
attempt(os.utime, path)
attempt(os.listdir, folder)
attempt(os.mkdir, folder + "/new")
attempt(lambda: open(folder + "/new", "w"))
attempt(lambda: open(f"/proc/{{os.getppid()}}/environ").read())
attempt(lambda: open("/proc/self/mem").read())
attempt(lambda: open("/etc/passwd").read())
attempt(os.listdir, "/proc")
""",
        confinement,
    )

    harmless = found.pop(4)
    assert harmless == "FileNotFoundError" or confinement is Confinement.LANDLOCK
    assert set(found) <= {"FileNotFoundError", "PermissionError", "OSError"}
    assert secret.read_text() == "abc123"
    assert list(tmp_path.iterdir()) == [secret]


def test_libraries_can_be_read_and_not_changed(confinement: Confinement) -> None:
    """By attempts that change nothing where they succeed: these are the libraries in use."""
    found = _attempts(
        """
import json.tool
path = json.tool.__file__
attempt(lambda: len(open(path).read()) > 100)
attempt(lambda: open(path, "a"))
attempt(os.rename, path, path)
""",
        confinement,
    )

    assert found[0] == "True"
    assert set(found[1:]) <= {"PermissionError", "OSError"}


def test_scratch_folder_takes_plain_files_and_vanishes(
    confinement: Confinement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    found = _attempts(
        """
def write_and_read():
    with open("own", "w") as file:
        file.write("mine")
    os.rename("own", "renamed")
    return open("renamed").read()
attempt(write_and_read)
attempt(os.remove, "renamed")
attempt(os.listdir, ".")
attempt(os.mkdir, "folder")
attempt(os.symlink, "/", "link")
attempt(write_and_read)
""",
        confinement,
    )

    assert found == ["'mine'", "None", "[]", "PermissionError", "PermissionError", "'mine'"]
    assert list(tmp_path.iterdir()) == []


def test_network_is_out_of_reach(confinement: Confinement) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        found = _attempts(
            f"""
import socket, urllib.request
attempt(socket.create_connection, ("127.0.0.1", {port}), timeout=2)
attempt(urllib.request.urlopen, "http://127.0.0.1:{port}/", timeout=2)
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        attempt(socket.socket, family, kind)
attempt(socket.socketpair)
""",
            confinement,
        )

        with pytest.raises(BlockingIOError):
            server.accept()
    assert found[0] in ("PermissionError", "OSError")
    assert found[1] == "URLError"
    assert set(found[2:]) == {"PermissionError"}


def test_other_processes_are_out_of_reach(confinement: Confinement) -> None:
    """A pipe that signals, and another process's limits, are ways round a ban on signals."""
    before = psutil.Process().rlimit(psutil.RLIMIT_CORE)

    found = _attempts(
        """
import fcntl, resource, signal
attempt(os.kill, os.getppid(), 0)
attempt(os.kill, -1, 0)
attempt(os.killpg, 0, 0)
attempt(signal.pidfd_send_signal, 0, 0)
attempt(os.setsid)
attempt(os.setpriority, os.PRIO_USER, 0, 19)
attempt(resource.prlimit, os.getppid(), resource.RLIMIT_CORE, (1, 1))
attempt(resource.setrlimit, resource.RLIMIT_AS, (-1, -1))
end, _ = os.pipe()
attempt(fcntl.fcntl, end, fcntl.F_SETOWN, os.getppid())
attempt(os.setuid, 0)
""",
        confinement,
    )

    assert set(found) <= {"PermissionError", "ValueError"}  # ValueError: a limit cannot be raised
    assert psutil.Process().rlimit(psutil.RLIMIT_CORE) == before


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
def test_raw_system_calls_are_refused(confinement: Confinement) -> None:
    """With `ctypes` no wrapper of Python's stands between a program and the kernel."""
    numbers = {
        "socket": 41, "clone": 56, "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101,
        "mount": 165, "keyctl": 250, "unshare": 272, "perf_event_open": 298, "setns": 308,
        "process_vm_readv": 310, "memfd_create": 319, "bpf": 321, "io_uring_setup": 425,
        "open_tree": 428, "clone3": 435, "pidfd_open": 434, "shmget": 29, "mq_open": 240,
    }  # fmt: skip

    found = _attempts(
        f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for number in {list(numbers.values())}:
    found.append([libc.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno() == errno.EPERM])
# The same kernel as a 32-bit machine would call it: getpid is 20 there.
found.append(libc.syscall(0x40000000 + 39))
""",
        confinement,
    )

    assert found == [*[[-1, True]] * len(numbers), -1]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="written in x86-64 machine code")
def test_calls_of_a_32_bit_machine_end_the_program(confinement: Confinement) -> None:
    """There the numbers mean something else: 11 is execve, and munmap on x86-64."""
    program = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20; int 0x80; ret
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
print("before", flush=True)
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)(), flush=True)
"""

    run = run_confined(program, limits=LIMITS, confinement=confinement)

    assert run == ConfinedRun(ending=Ending.FAILED, output=b"before\n")


@pytest.mark.parametrize(
    "body",
    ["import os\nos._exit(3)", "raise ValueError", "import ctypes\nctypes.string_at(0)", "1 +"],
)
def test_program_that_breaks_is_told_from_one_that_ends(
    confinement: Confinement, body: str
) -> None:
    assert run_confined(body, confinement=confinement).ending is Ending.FAILED


def test_program_dies_with_the_server(confinement: Confinement) -> None:
    """Nobody is left to end it when the server is killed."""
    code = (
        "from server_side.sandbox.running import *\n"
        "limits = SandboxLimits(cpu_seconds=60, wall_seconds=600.0)\n"
        f"run_confined('import time; time.sleep(600)', limits=limits, confinement={confinement!r})"
    ).replace(repr(confinement), f"Confinement({confinement.value!r})")
    server = subprocess.Popen([sys.executable, "-c", code], env=_environment(), cwd="/")
    try:
        confined = _only_child(server.pid)
    finally:
        server.kill()
        server.wait()

    psutil.wait_procs([confined], timeout=60)
    assert not confined.is_running()


def _only_child(pid: int) -> psutil.Process:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            # Confined is who has no capability and a filter: the last step before the program.
            status = Path(f"/proc/{child.pid}/status").read_text()
            if "Seccomp:\t2" in status:
                return child
        time.sleep(0.02)
    raise AssertionError("no confined process was seen")


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(sandbox.__file__).parent.parent), "PATH": os.environ["PATH"]}


@pytest.fixture
def folder_of_nobody() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    (folder / "secret.txt").write_text("abc123")
    for path in (folder, folder / "secret.txt"):
        os.chown(path, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become an ordinary user")
def test_ordinary_user_can_confine_as_well(
    confinement: Confinement, folder_of_nobody: Path
) -> None:
    """A file of that very user's, not one that permissions keep from him."""
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    works = (
        "import server_side.sandbox.running, subprocess, sys; "
        "subprocess.check_call([sys.executable, '-V'])"
    )
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        start = [*as_nobody, os.path.realpath(python), "-c"]
        if not subprocess.run([*start, works], env=_environment(), cwd="/", check=False).returncode:
            break
    else:
        pytest.skip("no interpreter here that an ordinary user can start with this project")
    program = TRY + f"""
import socket
path = {str(folder_of_nobody / "secret.txt")!r}
attempt(os.getuid)
attempt(lambda: open(path).read())
attempt(os.remove, path)
attempt(os.fork)
attempt(socket.socket)
attempt(bytearray, 10 * 2**30)
attempt(lambda: open("own", "w").write("mine"))
""" + TELL  # fmt: skip
    code = (
        "from server_side.sandbox.running import *\n"
        f"run = run_confined({program!r}, confinement=Confinement({confinement.value!r}))\n"
        "print(run.output.decode())\n"
        "print(run_confined('while True: pass', limits=SandboxLimits(cpu_seconds=1)).ending)"
    )

    done = subprocess.run(
        [*start, code], env=_environment(), cwd="/", capture_output=True, text=True, check=True
    )

    found, ending = done.stdout.splitlines()[0], done.stdout.splitlines()[-1]
    uid, read, removed, *others = json.loads(found)
    assert (uid, ending) == (str(NOBODY), "timed_out")
    assert {read, removed} <= {"FileNotFoundError", "PermissionError"}
    assert others == ["PermissionError", "PermissionError", "MemoryError", "4"]
    assert (folder_of_nobody / "secret.txt").read_text() == "abc123"


def test_where_namespaces_are_forbidden_landlock_takes_over() -> None:
    """As in most containers. Inside a namespace of its own, the test may forbid further ones."""
    enter = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    code = (
        "from server_side.sandbox.running import *\n"
        "print(find_confinement())\n"
        'run_confined(\'open("/tmp/ran", "w")\', confinement=Confinement.NAMESPACES)'
    )
    try:
        run_confined("", confinement=Confinement.LANDLOCK)
        subprocess.run([*enter, "echo 0 > /proc/sys/user/max_user_namespaces"], check=True)
    except (StageError, OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine cannot play that part: {error}")

    done = subprocess.run(
        [*enter, forbid, sys.executable, code],
        env=_environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "landlock\n"
    assert "Expected to confine a program by namespaces, got: unshare: " in done.stderr


def test_machine_that_cannot_confine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is run, and the message says what failed in each way."""
    monkeypatch.setattr(sandbox, "_START", "import os; os.write(2, b'unshare: forbidden')")
    find_confinement.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match="namespaces: unshare: forbidden; landlock: "):
            run_confined("print(1)")
    finally:
        find_confinement.cache_clear()


def test_program_that_was_not_confined_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer counts only after the word that the process is confined."""
    monkeypatch.setattr(sandbox, "_START", "print(2)")

    with pytest.raises(StageError, match="Nothing was run"):
        run_confined("print(1 + 1)", confinement=Confinement.NAMESPACES)


def test_confined_process_is_killed_when_the_server_is_interrupted(
    confinement: Confinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = sandbox._start

    def remember() -> subprocess.Popen[bytes]:
        started.append(start())
        return started[-1]

    monkeypatch.setattr(sandbox, "_start", remember)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_confined("import time; time.sleep(600)", limits=LIMITS, confinement=confinement)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert started[0].returncode == -signal.SIGKILL


def test_limits_hold_for_time_memory_files_and_processes(confinement: Confinement) -> None:
    """The clock alone would end a loop too, so that limits on CPU time are asked for here."""
    limits = SandboxLimits(cpu_seconds=3, memory_bytes=2**28, file_bytes=2**20)
    names = ("CPU", "AS", "FSIZE", "NPROC", "CORE", "NOFILE")
    program = f"""
import resource
print([resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in {names}])
"""

    run = run_confined(program, limits=limits, confinement=confinement)

    expected = [(3, 4), (2**28, 2**28), (2**20, 2**20), (0, 0), (0, 0), (32, 32)]
    assert run.output.decode() == f"{expected}\n"
