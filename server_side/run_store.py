"""The run folder: each stage's values as a file, and a manifest that says which of them are whole.

```
07_queries.jsonl          one line a value; the types are in server_side/samples.py
08_candidates_r1.jsonl    …_r2 holds the rewrites of round 2, and so on
11_target_r1/             a folder stage; while it grows it is called 11_target_r1.part
manifest.json             settings, and for each whole stage: files with digests, counts, figures,
                          seconds, peak_rss_bytes
```

Rules. A file appears only when whole (written beside its place, synced, renamed), and counts only
when the manifest names it with its digest. So after `kill -9` at any moment, or on a full disk,
what the manifest names is whole, and the job goes on from there. A stage whose file no longer has
its digest is done again, with all that came after it. The settings of a run folder never change.
Runs that are given the same `SharedStages` do each stage once (`server_side/shared_stages.py`).
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from lm.disk import clear_disk_errors
from protocol.errors import ConfigurationError, StageError
from server_side.json_values import differences, from_json, to_json
from server_side.memory import give_back_freed, peak_rss_bytes, reset_peak_rss
from server_side.progress import Progress, SilentProgress
from server_side.samples import OnProgress, StageResult
from server_side.seeds import derive_seed
from server_side.shared_stages import SharedStages, file_digest
from server_side.whole_files import files_under, read_json, sync, write_atomically

_LOGGER = logging.getLogger(__name__)
_FORMAT_VERSION: Final = 2
_MANIFEST: Final = "manifest.json"

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """What the manifest says about one whole stage."""

    files: Mapping[str, str]
    """SHA-256 of each file, by path relative to the run folder."""
    counts: Mapping[str, int]
    """What went in, fell and came out."""
    seconds: float
    """How long the stage took, without earlier starts that were cut off."""
    peak_rss_bytes: int
    """Most memory that the process held while the stage ran."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What else was measured on the way."""


class DrawnStage(Protocol[T_co]):
    """A stage that draws at random, its inputs already bound."""

    def __call__(self, *, seed: int, on_progress: OnProgress) -> StageResult[T_co]:
        """Do the stage."""
        ...


class FolderStage(Protocol):
    """A stage that fills a folder, its inputs already bound."""

    def __call__(self, *, output_folder: Path, seed: int, on_progress: OnProgress) -> object:
        """Do the stage."""
        ...


class RunStore:
    """One run folder, held by one process at a time. Use it in a `with` statement."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, object],
        seed: int,
        progress: Progress | None = None,
        shared: SharedStages | None = None,
    ) -> None:
        """Open a run folder, or begin one.

        Args:
            folder: The run folder; made if absent.
            settings: All that decides the outcome, as JSON values: configuration, digests of
                models and releases. Kept in the manifest.
            seed: The run's seed; each stage draws from one that is derived from it and the
                stage's name.
            progress: Told about each stage.
            shared: Where stages lie that other runs did or wait for; None shares nothing.

        Raises:
            ConfigurationError: The folder was begun with other settings.
            StageError: Another process works in the folder.
            DiskError: The disk refuses.
        """
        self.folder = folder
        self._seed = seed
        self._progress = progress or SilentProgress()
        self._shared = shared
        self._taken: dict[str, str] = {}
        self._settings = json.loads(json.dumps(settings))
        with clear_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("w")
        try:
            self._take_lock()
            self._stages = self._read_manifest()
            self._write_manifest()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()

    @property
    def stages(self) -> Mapping[str, StageRecord]:
        """The whole stages, in the order in which they were done."""
        return dict(self._stages)

    def advance(self, done: int, total: int) -> None:
        """Pass on how far the current stage is."""
        self._progress.advance(done, total)

    def values(
        self, stage: str, value_type: type[T], compute: Callable[[], StageResult[T]]
    ) -> tuple[T, ...]:
        """Return a stage's values: read where the stage is whole, else computed and kept.

        Args:
            stage: Name of the stage and, with `.jsonl`, of its file.
            value_type: A dataclass, to read the values back.
            compute: Does the stage.

        Returns:
            The values, the same whether computed or read.

        Raises:
            StageError: The stage failed.
            DiskError: The disk refuses.
        """
        path = self.folder / f"{stage}.jsonl"

        def build() -> StageResult[T]:
            result = compute()
            lines = [json.dumps(to_json(value), ensure_ascii=False) for value in result.values]
            write_atomically(path, "".join(f"{line}\n" for line in lines))
            return result

        self._do(stage, path, build, compute)
        # Read back even what was just written, so that both ways hand on the very same values.
        return self.read(stage, value_type)

    def forget(self, stage: str) -> None:
        """Have a stage done again, and what followed, since that was computed from it."""
        if stage in self._stages:
            names = list(self._stages)
            for name in names[names.index(stage) :]:
                del self._stages[name]
                self._taken.pop(name, None)
            self._write_manifest()

    def read(self, stage: str, value_type: type[T]) -> tuple[T, ...]:
        """Return the values of a stage that is whole.

        Args:
            stage: Name of the stage.
            value_type: A dataclass, to read the values back.

        Returns:
            The values, in the order in which the stage gave them.
        """
        assert stage in self._stages
        text = (self.folder / f"{stage}.jsonl").read_text(encoding="utf-8")
        return tuple(from_json(value_type, json.loads(line)) for line in text.split("\n")[:-1])

    def drawn(self, stage: str, value_type: type[T], compute: DrawnStage[T]) -> tuple[T, ...]:
        """Return the values of a stage that draws at random; see `values`.

        Args:
            stage: Name of the stage and, with `.jsonl`, of its file.
            value_type: A dataclass, to read the values back.
            compute: Does the stage, given its own seed and whom to tell how far it is.

        Returns:
            The values, the same whether computed or read.
        """
        seed = derive_seed(self._seed, stage)
        bound = partial(compute, seed=seed, on_progress=self.advance)
        return self.values(stage, value_type, bound)

    def subfolder(self, stage: str, fill: FolderStage) -> Path:
        """Return the folder of a stage that writes files of its own.

        Args:
            stage: Name of the stage and of its folder.
            fill: Fills a folder, which may hold what a killed start left behind, given its own
                seed and whom to tell how far it is.

        Returns:
            The whole folder.

        Raises:
            StageError: The stage failed.
            DiskError: The disk refuses.
        """
        path = self.folder / stage
        bound = partial(fill, seed=derive_seed(self._seed, stage), on_progress=self.advance)

        part = self.folder / f"{stage}.part"

        def build() -> StageResult[None]:
            shutil.rmtree(path, ignore_errors=True)  # whole once, but not in the manifest
            part.mkdir(exist_ok=True)
            bound(output_folder=part)
            for file in files_under(part):
                sync(file)
            return StageResult(values=())

        self._do(stage, path, build, bound, part=part)
        return path

    def _do(
        self,
        stage: str,
        path: Path,
        build: Callable[[], StageResult[T]],
        decided_by: Callable[..., object],
        *,
        part: Path | None = None,
    ) -> None:
        self._progress.start(stage)
        was_whole = self._is_whole(stage)
        if not was_whole:
            self.forget(stage)
            with clear_disk_errors(path):
                self._discard_parts(but=part)
                do = partial(self._measured, path, build, part)
                if self._shared is None:
                    record = do()
                else:
                    record, key = self._shared.once(stage, decided_by, self.folder, do)
                    if was_whole := key is not None:
                        self._taken[stage] = key
            self._stages[stage] = from_json(StageRecord, record)
            self._write_manifest()
        seconds = self._stages[stage].seconds
        self._progress.end(stage, seconds=seconds, was_whole=was_whole)

    def _discard_parts(self, *, but: Path | None) -> None:
        # Begun from what earlier stages said before one of them had to be done again. Where that
        # came out otherwise, a tuning would refuse to go on from there.
        for part in self.folder.glob("*.part"):
            if part.is_dir() and part != but:
                shutil.rmtree(part)

    def _measured(
        self, path: Path, build: Callable[[], StageResult[T]], part: Path | None
    ) -> Any:  # JSON
        started = time.monotonic()
        give_back_freed()
        reset_peak_rss()
        result = build()
        record = StageRecord(
            # Under the name of the part: to hash a large model takes a minute, and a folder of the
            # stage's name that the manifest does not know is removed by the next start.
            files=self._digests(part or path, named=path),
            counts=dict(result.counts),
            figures=dict(result.figures),
            seconds=time.monotonic() - started,
            peak_rss_bytes=peak_rss_bytes(),
        )
        if part is not None:
            part.rename(path)
            sync(self.folder)
        return to_json(record)

    def _is_whole(self, stage: str) -> bool:
        record = self._stages.get(stage)
        if record is None:
            return False
        for name, digest in record.files.items():
            path = self.folder / name
            if not path.is_file() or file_digest(path) != digest:
                _LOGGER.warning("%s is not what stage %s wrote; doing it again.", name, stage)
                return False
        return True

    def _digests(self, path: Path, *, named: Path) -> dict[str, str]:
        name = named.relative_to(self.folder)
        files = files_under(path) if path.is_dir() else [path]
        return {(name / f.relative_to(path)).as_posix(): file_digest(f) for f in files}

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageError(
                f"Expected to be alone in the run folder {self.folder}, found another process at "
                "work there. Wait until it ends, or name another run folder."
            ) from None

    def _read_manifest(self) -> dict[str, StageRecord]:
        path = self.folder / _MANIFEST
        if not path.is_file():
            return {}
        manifest = read_json(path)
        if manifest["format_version"] != _FORMAT_VERSION:
            raise ConfigurationError(
                f"Expected a run folder of format {_FORMAT_VERSION}, found format "
                f"{manifest['format_version']} in {self.folder}. Name another run folder."
            )
        changed = sorted(differences(manifest["settings"], self._settings))
        if changed:
            raise ConfigurationError(
                f"Expected the settings that the run folder {self.folder} was begun with, found "
                f"other values of {', '.join(changed[:8])}. Restore them, or name another run "
                "folder; a server's releases can go with it (docs/deploying.md)."
            )
        self._taken = manifest.get("taken", {})
        stages = manifest["stages"]
        return {name: from_json(StageRecord, record) for name, record in stages.items()}

    def _write_manifest(self) -> None:
        manifest = {
            "format_version": _FORMAT_VERSION,
            "settings": self._settings,
            "stages": {name: to_json(record) for name, record in self._stages.items()},
            # Which of them another run did, with the keys under which they are shared.
            "taken": self._taken,
        }
        write_atomically(self.folder / _MANIFEST, json.dumps(manifest, indent=1) + "\n")
