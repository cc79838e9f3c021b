"""The kernel's means to confine a process, each as one call, without anything but Python.

`server_side/sandbox/child.py` puts them in order. Every function changes the calling process for
good, so none of this is ever called in the server itself. Only the standard library is imported:
the process that is to be confined starts with nothing else.

Reference: unshare(2), mount_setattr(2), pivot_root(2), landlock(7), seccomp(2), capset(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

# From the kernel's headers, which never change a value once it is out.
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUTS: Final = 0x04000000
_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH: Final = 2
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITY_VERSION_3: Final = 0x20080522

_SYS_MOUNT_SETATTR: Final = 442  # these four are the same on every architecture
_SYS_LANDLOCK_CREATE_RULESET: Final = 444
_SYS_LANDLOCK_ADD_RULE: Final = 445
_SYS_LANDLOCK_RESTRICT_SELF: Final = 446

_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_REMOVE_FILE, _MAKE_REG, _TRUNCATE = 1 << 5, 1 << 8, 1 << 14
_ALL_RIGHTS: Final = (1 << 15) - 1  # everything that Landlock knew of at MIN_LANDLOCK_ABI
MIN_LANDLOCK_ABI: Final = 3
"""Before this version (kernel 6.2) Landlock let a confined process cut any file to nothing."""


def libraries() -> list[str]:
    """Return the folders and files that Python needs to import its standard library."""
    base = Path(os.path.realpath(os.__file__)).parent.parent
    wanted = [str(base), f"{base.parent}/lib", f"{base.parent}/lib64"]
    wanted += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
    # Sorted, a folder comes before what lies in it.
    return [path for path in sorted(set(wanted)) if Path(path).exists()]


def enter_namespaces(folder: str, *, scratch_bytes: int) -> None:
    """Leave the machine's network and files behind: see libraries and an empty scratch folder only.

    Args:
        folder: An empty folder, over which the new root is mounted; for this process alone.
        scratch_bytes: Most that `/scratch`, the new working directory, can hold.

    Raises:
        OSError: The kernel, or who runs it, does not allow that to this user.
    """
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,nr_inodes=1k,mode=755")
    for source in [*libraries(), "/dev/null"]:
        inside = Path(folder + source)
        inside.parent.mkdir(parents=True, exist_ok=True)
        if inside.exists() or inside.is_symlink():
            continue  # part of a folder that was bound before
        if Path(source).is_dir():
            inside.mkdir()
        else:
            inside.touch()
        _mount(source, str(inside), None, _MS_BIND | _MS_REC)
        is_device = stat.S_ISCHR(Path(source).stat().st_mode)
        _seal(str(inside), 0 if is_device else _MOUNT_ATTR_NODEV)
    Path(folder, "scratch").mkdir()
    limits = f"size={scratch_bytes},nr_inodes=256,mode=700"
    _mount("tmpfs", f"{folder}/scratch", "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, limits)
    os.chdir(folder)
    _syscall(_architecture().pivot_root, b".", b".")
    _call("umount2", b".", _MNT_DETACH)  # the machine's root, which now lies over the new one
    _seal("/", _MOUNT_ATTR_NODEV, is_recursive=False)
    os.chdir("/scratch")


def enter_landlock(folder: str) -> None:
    """Give up all access to files but reading libraries, and writing plain files in a folder.

    Args:
        folder: An empty folder, the new working directory.

    Raises:
        OSError: The kernel has no Landlock, an old one, or was started without it.
    """
    abi = _syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, 1)
    if abi < MIN_LANDLOCK_ABI:
        raise OSError(0, f"Landlock ABI {abi} < {MIN_LANDLOCK_ABI}", "landlock_create_ruleset")
    handled = ctypes.create_string_buffer(struct.pack("=Q", _ALL_RIGHTS), 8)
    ruleset = _syscall(_SYS_LANDLOCK_CREATE_RULESET, handled, 8, 0)
    rights = dict.fromkeys(libraries(), _READ_FILE | _READ_DIR)
    rights["/dev/null"] = _READ_FILE | _WRITE_FILE
    rights[folder] = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
    for path, allowed in rights.items():
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not Path(path).is_dir():
            allowed &= ~_READ_DIR
        rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, place), 12)
        _syscall(_SYS_LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)
        os.close(place)
    forbid_new_privileges()
    _syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    os.chdir(folder)


def die_with_parent(signal_number: int) -> None:
    """Have this process get a signal when the thread that started it ends."""
    _call("prctl", _PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def forbid_new_privileges() -> None:
    """Take from this process, for good, what set-user-id programs would give it."""
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up every privilege of root, or of the owner of a user namespace."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    _call("capset", header, ctypes.create_string_buffer(24))


def allow_only_listed_calls() -> None:
    """Refuse, for good, every system call that computing and plain files do not need.

    What is not listed fails with EPERM. Not listed, among all else: sockets, processes and threads,
    signals to processes, tracing, other programs, mounts, links, folders, permissions, io_uring,
    and limits of other processes.

    Raises:
        OSError: The machine is neither x86-64 nor 64-bit ARM, or the kernel has no seccomp.
    """
    program = b"".join(_filter(_architecture()))
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    described_at = ctypes.create_string_buffer(described, len(described))
    forbid_new_privileges()
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described_at, 0, 0)


# x86-64 and 64-bit ARM; -1 where the newer machine did without the call.
_CALLS: Final[dict[str, tuple[int, int]]] = {
    # files that are open, and opening them, as far as the file system's confinement allows
    "read": (0, 63), "write": (1, 64), "pread64": (17, 67), "pwrite64": (18, 68),
    "readv": (19, 65), "writev": (20, 66), "lseek": (8, 62), "close": (3, 57),
    "close_range": (436, 436), "open": (2, -1), "openat": (257, 56), "stat": (4, -1),
    "fstat": (5, 80), "lstat": (6, -1), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, -1), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, -1),
    "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17),
    "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46), "dup": (32, 23),
    "dup2": (33, -1), "dup3": (292, 24), "pipe": (22, -1), "pipe2": (293, 59),
    "poll": (7, -1), "ppoll": (271, 73), "select": (23, -1), "pselect6": (270, 72),
    "fadvise64": (221, 223), "rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276),
    "unlink": (87, -1), "unlinkat": (263, 35), "umask": (95, 166),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226),
    "brk": (12, 214), "madvise": (28, 233),
    # this process about itself
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "gettid": (186, 178),
    "getpid": (39, 172), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getrlimit": (97, 163), "getcpu": (309, 168),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "uname": (63, 160),
    "getrandom": (318, 278), "sysinfo": (99, 179), "exit": (60, 93), "exit_group": (231, 94),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    # time
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, -1), "times": (100, 153),
    "getrusage": (98, 165), "getitimer": (36, 102), "setitimer": (38, 103), "alarm": (37, -1),
    "pause": (34, -1),
}  # fmt: skip

# Allowed with certain values only: both numbers, which argument, its values. Free use of fcntl
# could have a pipe signal (and kill) another process of the user, ioctl could type into a terminal,
# and prlimit64 could cut the limits of the user's other processes.
_CHECKED_CALLS: Final[dict[str, tuple[int, int, int, tuple[int, ...]]]] = {
    "fcntl": (72, 25, 1, (0, 1, 2, 3, 4, 1030)),  # copies of a descriptor, and its flags
    "ioctl": (16, 29, 1, (0x5401, 0x5450, 0x5451)),  # TCGETS, FIONCLEX, FIOCLEX
    "prlimit64": (302, 261, 0, (0,)),
}


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    """How one kind of machine numbers its system calls."""

    audit_id: int
    """What a filter sees as the kind of machine."""
    pivot_root: int
    """Number of the one call that libc has no name for."""
    column: int
    """Place of its numbers in the tables above."""


_ARCHITECTURES: Final = {
    "x86_64": _Architecture(audit_id=0xC000003E, pivot_root=155, column=0),
    "aarch64": _Architecture(audit_id=0xC00000B7, pivot_root=41, column=1),
}
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _KILL_PROCESS, _FAIL_WITH_EPERM = 0x7FFF0000, 0x80000000, 0x00050001
_OFFSET_OF_CALL, _OFFSET_OF_MACHINE, _OFFSET_OF_ARGUMENTS = 0, 4, 16


def _architecture() -> _Architecture:
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(0, f"no list of system calls for {machine}", "seccomp")
    return _ARCHITECTURES[machine]


def _filter(architecture: _Architecture) -> Iterator[bytes]:
    """Yield a Berkeley packet filter, 8 bytes an instruction, that ends with what to do."""
    # A process can make the calls of a 32-bit machine too, where the numbers mean something else.
    yield _instruction(_LOAD, _OFFSET_OF_MACHINE)
    yield _instruction(_JUMP_IF_EQUAL, architecture.audit_id, if_true=1)
    yield _instruction(_RETURN, _KILL_PROCESS)
    yield _instruction(_LOAD, _OFFSET_OF_CALL)
    for numbers in _CALLS.values():
        number = numbers[architecture.column]
        if number >= 0:
            yield _instruction(_JUMP_IF_EQUAL, number, if_false=1)
            yield _instruction(_RETURN, _ALLOW)
    for *both, argument, values in _CHECKED_CALLS.values():
        yield _instruction(_JUMP_IF_EQUAL, both[architecture.column], if_false=2 + 2 * len(values))
        yield _instruction(_LOAD, _OFFSET_OF_ARGUMENTS + 8 * argument)  # low half: little-endian
        for value in values:
            yield _instruction(_JUMP_IF_EQUAL, value, if_false=1)
            yield _instruction(_RETURN, _ALLOW)
        yield _instruction(_RETURN, _FAIL_WITH_EPERM)
    yield _instruction(_RETURN, _FAIL_WITH_EPERM)


def _instruction(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="ascii")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    _call("mount", source, target, kind, flags, data)


def _seal(path: str, attributes: int, *, is_recursive: bool = True) -> None:
    """Make a mount, and all below it, read-only and deaf to set-user-id programs."""
    wanted = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | attributes
    request = ctypes.create_string_buffer(struct.pack("=QQQQ", wanted, 0, 0, 0), 32)
    flags = _AT_RECURSIVE if is_recursive else 0
    _syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, path, flags, request, 32)


def _call(name: str, *arguments: object) -> int:
    """Call a function of libc; a negative answer becomes an error that names it."""
    result: int = getattr(_LIBC, name)(*map(_argument, arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def _syscall(number: int, *arguments: object) -> int:
    return _call("syscall", number, *arguments)


def _argument(value: object) -> object:
    match value:
        case int():
            return ctypes.c_long(value)
        case str():
            return ctypes.c_char_p(os.fsencode(value))
        case bytes():
            return ctypes.c_char_p(value)
    return value
