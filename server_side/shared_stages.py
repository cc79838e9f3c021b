"""Whole stages that several runs share: done once, by whoever comes first, and taken by the rest.

Runs of a sweep repeat one another: the same untuned target is judged on the same test, the same
releases are sampled with the same seed. A stage is a function bound to all that it reads, so a
digest of that function and of its arguments is a digest of its outcome, and the key under which the
outcome lies here:

```
KEY/record.json   what the manifest of a run says of the stage; written last
KEY/files/…       the stage's files, linked to those of the run that made them
KEY.lock          held by the run that does the stage; others wait for it
```

Rules. A run holds the lock from looking to giving, so no two runs do one stage at the same time;
the kernel drops the lock of a run that is killed, and the next one starts afresh. An entry counts
only with its record, and only while every file has the digest that the record states. What a stage
is given must have a fingerprint; a stage that is given something else is not shared.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from importlib import metadata
from pathlib import Path
from types import FunctionType
from typing import Any, Final

from protocol.bundle import sources_digest

_LOGGER = logging.getLogger(__name__)
_RECORD: Final = "record.json"
_FILES: Final = "files"
_LIBRARIES: Final = (
    "torch", "transformers", "peft", "trl", "numpy", "openvino-genai", "sacrebleu", "rouge-score",
)  # fmt: skip
_WATCHERS: Final = frozenset({"on_progress"})
"""Arguments that watch a stage and decide nothing."""


# A JSON value as the `json` module gives and takes it.
Json = Any


class NoFingerprintError(TypeError):
    """A stage was given something of which nobody can tell whether it is the same elsewhere."""


def fingerprint(value: object) -> Json:
    """Return JSON values that are equal for two values only if these are the same to a stage.

    Args:
        value: Number, text, enum, path (by what lies there), dataclass, sequence or mapping of
            such, a function, a function bound by `functools.partial`, or something that has a
            `fingerprint` made of such.

    Returns:
        The values, in which a bound function's `on_progress` has no part.

    Raises:
        NoFingerprintError: It is or holds something else.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case functools.partial():
            kept = {name: item for name, item in value.keywords.items() if name not in _WATCHERS}
            return [fingerprint(value.func), fingerprint(value.args), fingerprint(kept)]
        case FunctionType() if value.__closure__ is None and "<" not in value.__qualname__:
            return f"{value.__module__}.{value.__qualname__}"
        case Path():
            return {"path": _path_digest(value)}
    if (own := getattr(value, "fingerprint", None)) is not None:
        return [type(value).__name__, fingerprint(own)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return [type(value).__name__, fingerprint(fields)]
    match value:
        case Enum():
            return fingerprint(value.value)
        case Mapping():
            return {str(key): fingerprint(item) for key, item in value.items()}
        case Sequence():
            return [fingerprint(item) for item in value]
    raise NoFingerprintError(
        f"Expected something with a fingerprint, got {type(value).__name__}. Give the stage plain "
        "values, or give that class a `fingerprint`."
    )


def stage_key(stage: str, compute: Callable[..., object]) -> str | None:
    """Return the digest of all that decides a stage's outcome.

    Args:
        stage: Name of the stage.
        compute: The stage, bound to all that it reads, its seed included.

    Returns:
        64 hexadecimal digits; None where the stage is given something without a fingerprint.
    """
    try:
        decided_by = fingerprint(compute)
    except NoFingerprintError as error:
        _LOGGER.warning("Stage %s is not shared among runs: %s", stage, error)
        return None
    parts = {"stage": stage, "code": code_versions(), "decided_by": decided_by}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_versions() -> Mapping[str, str | None]:
    """Return the digest of this project's sources and the versions of what computes for it."""
    return {"sources": sources_digest(), **library_versions(_LIBRARIES)}


def library_versions(names: Sequence[str]) -> dict[str, str | None]:
    """Return the version of each library; None for an engine that this machine does without."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


class SharedStages:
    """A folder of whole stages, open to any number of processes of one machine."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made when first needed."""
        self._folder = folder

    def once(
        self,
        stage: str,
        compute: Callable[..., object],
        run_folder: Path,
        do: Callable[[], Json],
    ) -> tuple[Json, str | None]:
        """Take a stage that some run has done, or do it and keep it for the others.

        Args:
            stage: Name of the stage.
            compute: The stage, bound to all that it reads, its seed included.
            run_folder: The run folder, where the stage's files go.
            do: Does the stage there, and returns its record, whose `files` name every file's
                digest. It is waited for where another process does the same stage.

        Returns:
            The record, and the key under which it was taken; None where it was done.
        """
        key = stage_key(stage, compute)
        if key is None:
            return do(), None
        entry = self._folder / key
        with locked(self._folder / f"{key}.lock"):
            if (record := _taken(entry, run_folder)) is not None:
                return record, key
            record = do()
            _give(entry, run_folder, record)
            return record, None


def _taken(entry: Path, run_folder: Path) -> Json | None:
    try:
        record = json.loads((entry / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for name, digest in record["files"].items():
        source = entry / _FILES / name
        if not source.is_file() or file_digest(source) != digest:
            _LOGGER.warning("%s is not what was shared; it is made again.", source)
            return None
    for top in {Path(name).parts[0] for name in record["files"]}:
        part = run_folder / f".{top}.taken"
        remove(part)
        link_or_copy(entry / _FILES / top, part)
        remove(run_folder / top)
        part.rename(run_folder / top)
    return record


def _give(entry: Path, run_folder: Path, record: Json) -> None:
    remove(entry)
    (entry / _FILES).mkdir(parents=True)
    for top in {Path(name).parts[0] for name in record["files"]}:
        link_or_copy(run_folder / top, entry / _FILES / top)
    part = entry / f".{_RECORD}.part"
    with part.open("w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(entry / _RECORD)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock file; wait while another process holds it. The kernel frees it with its holder.

    Args:
        file: The lock file; made if absent, and left there.

    Yields:
        Nothing.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def link_or_copy(source: Path, target: Path) -> None:
    """Link a file, or a folder's files, into another place; copy where the disk has no links.

    Files of a run are replaced, never written to, so that a link stays what it was.

    Args:
        source: The file or folder.
        target: What it is called there; nothing may lie there yet.
    """
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        _link(source, target)


def remove(path: Path) -> None:
    """Remove a file or folder that may be there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _path_digest(path: Path) -> str:
    if path.is_file():
        return file_digest(path)
    if not path.is_dir():
        raise NoFingerprintError(f"Expected a file or folder at {path}, found none. Name another.")
    files = tuple(sorted(item for item in path.rglob("*") if item.is_file()))
    return _folder_digest(path, files, tuple(_stamp(file) for file in files))


@functools.lru_cache(maxsize=64)
def _folder_digest(folder: Path, files: tuple[Path, ...], stamps: tuple[object, ...]) -> str:
    # The stamps are there for the cache alone: a model has gigabytes and serves several stages.
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(folder).as_posix()}\0{file_digest(file)}\n".encode())
    return total.hexdigest()


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
