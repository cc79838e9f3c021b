"""What the server's job tells whoever watches it: which stage, how far, how long it took.

The pipeline calls a `Progress`; a console, a log or a test implements it. Nothing that a model
wrote is ever part of what is told.
"""

from __future__ import annotations

from typing import Protocol

from server_side.samples import OnProgress


class Progress(Protocol):
    """Somebody who watches the stages go by, one at a time."""

    def start(self, stage: str) -> None:
        """Take note that a stage begins.

        Args:
            stage: Its name, as in the run folder: `07_queries`, `09_scored_r2`, …
        """
        ...

    def advance(self, done: int, total: int) -> None:
        """Take note of how far the current stage is.

        Args:
            done: Units of work that are done; never falls within a stage.
            total: Units of work in all; may change where it is an estimate.
        """
        ...

    def end(self, stage: str, *, seconds: float, was_whole: bool) -> None:
        """Take note that a stage is whole.

        Args:
            stage: Its name.
            seconds: How long it took when it was computed.
            was_whole: Whether an earlier start of the job had already done it.
        """
        ...


class SilentProgress:
    """Watches nothing."""

    def start(self, stage: str) -> None:
        """Do nothing."""

    def advance(self, done: int, total: int) -> None:
        """Do nothing."""

    def end(self, stage: str, *, seconds: float, was_whole: bool) -> None:
        """Do nothing."""


def shifted(on_progress: OnProgress, *, offset: int, total: int) -> OnProgress:
    """Return what a part of a stage reports to, so that it counts on from the parts before it.

    Args:
        on_progress: What the whole stage reports to.
        offset: Units of work in the parts before.
        total: Units of work in the whole stage.

    Returns:
        What takes the part's own count; how much the part has in all is passed over.
    """
    return lambda done, _: on_progress(offset + done, total)
