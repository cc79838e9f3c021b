"""What a person sees of a simulation: which stage, how far, time left, which client, ε so far.

On a terminal a few lines are kept up to date; elsewhere plain lines are written, not too many.
Clients are watched through the status files in their own folders, which the owner of a simulation
may read; nothing of it crosses the wire.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from server_side.exchange.starts import start_progress
from server_side.measuring.intervals import Interval, judge
from simulations.config import TunedOn
from simulations.prepare import World

_LINE_SECONDS: Final = 10.0
"""Least time between two lines about one stage where the output is no terminal."""

_LEAST_SHARE: Final = 0.05
"""Share of a stage that must be done before it is said how long the rest takes."""

_STAGES: Final = {
    "07_generators": "what the generators have learnt",
    "07_queries": "prompts from the generators",
    "08_candidates": "responses",
    "09_scored": "rewards and perplexities",
    "10_best": "best response to each prompt",
    "10_pool": "pool of the best prompts",
    "11_target": "tuning the target",
    "11_target_private": "tuning the target on the private records",
    "12_feedback": "feedback",
    "13_ranking": "judging the ranking",
    "13_untuned": "judging the untuned target",
    "13_tuned": "judging the tuned target",
    "13_verdicts": "asking the judge",
}


class SimulationConsole:
    """Watches a simulation; is also the `Progress` of the server's job."""

    def __init__(
        self, *, console: Console | None = None, prefix: str = "", is_silent: bool = False
    ) -> None:
        """Begin with nothing to show.

        Args:
            console: Where to write; None takes standard output.
            prefix: Begins every line where several simulations write to one output; nothing is
                kept up to date in place then.
            is_silent: Show nothing at all.
        """
        self._console = console or Console(quiet=is_silent)
        self._prefix = prefix
        self._live: Live | None = None
        self._lines: dict[str, str] = {}
        self._written: dict[str, tuple[float, str]] = {}
        self._paces: dict[str, _Pace] = {}
        self._stage = ""
        self._stage_started = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._prefix and not self._console.quiet:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """Write one line that stays."""
        # Paths and numbers are plain text: rich would colour and wrap them.
        self._console.print(Text(self._prefix + text), soft_wrap=True)

    def look_at_exchange(self, world: World) -> None:
        """Show how far each client is, and the server where it tunes starting weights.

        Args:
            world: The parties.
        """
        for client in world.clients:
            self._look(client.path.name, "", _read_status(client.status_file))
        self._look("server", "starting weights, ", start_progress(world.server_folder))

    def _look(self, name: str, what: str, status: Mapping[str, Any] | None) -> None:
        if status is None:
            self._lines.pop(name, None)
            return
        left = ""
        if status.get("total"):
            phase = f"{status['proxy']} {status['phase']}"
            pace = self._paces.get(name)
            if pace is None or not pace.goes_on(phase, status["done"]):
                pace = self._paces[name] = _Pace(phase, status["done"])
            left = pace.time_left(status["done"], status["total"])
        self._update(name, f"{name}: {what}{describe_client(status)}{left}")

    def start(self, stage: str) -> None:
        """Take note that a stage of the server's job begins."""
        self._lines.clear()
        self._stage, self._stage_started = stage, time.monotonic()
        self._update(stage, describe_stage(stage))

    def advance(self, done: int, total: int) -> None:
        """Take note of how far the current stage is."""
        seconds = time.monotonic() - self._stage_started
        text = f"{describe_stage(self._stage)}: {done}/{total}{_time_left(done, total, seconds)}"
        self._update(self._stage, text)

    def end(self, stage: str, *, seconds: float, was_whole: bool) -> None:
        """Take note that a stage is whole."""
        self._lines.pop(stage, None)
        self._show()
        how = "from an earlier start or run" if was_whole else format_seconds(seconds)
        self.say(f"  ✓ {describe_stage(stage)} ({how})")

    def show_results(self, metrics: Mapping[str, Any], *, run_folder: Path) -> None:
        """Show the table at the end of a run.

        Args:
            metrics: Content of `metrics.json`, a JSON object.
            run_folder: Where the run is kept.
        """
        table = Table(title="Target model on the test prompts", title_justify="left")
        table.add_column("metric")
        for arm in ("untuned", "tuned"):
            table.add_column(arm, justify="right")
        table.add_column("better?", justify="right")
        arms = [_named_metrics(metrics[arm]) for arm in ("untuned", "tuned")]
        differences = _named_metrics(metrics["difference"])
        pass_rates = dict.fromkeys((name for name in arms[0] if name.startswith("pass@")), False)
        for name, is_lower_better in {**_METRICS, **pass_rates}.items():
            untuned, tuned = (arm.get(name) for arm in arms)
            if untuned and tuned:
                table.add_row(
                    name,
                    _interval(untuned),
                    _interval(tuned),
                    _VERDICTS[
                        judge(Interval(**differences[name]), is_lower_better=is_lower_better)
                    ],
                )
        self._console.print(table)
        privacy = Table(title="Privacy (all composed)", title_justify="left")
        for title in ("client", "ε", "δ"):
            privacy.add_column(title, justify="left" if title == "client" else "right")
        for client, ledger in metrics["privacy"].items():
            epsilon = "∞" if ledger["epsilon"] in (None, "infinite") else f"{ledger['epsilon']:.3f}"
            privacy.add_row(client, epsilon, f"{ledger['delta']:g}")
        self._console.print(privacy)
        for stage, figures in metrics.get("figures", {}).items():
            if (correlation := figures.get("reward_length_correlation")) is not None:
                self.say(
                    f"Correlation of reward and length within a prompt: {correlation:+.2f} "
                    f"({describe_stage(stage)})."
                )
        if len(metrics["privacy"]) > 1:
            self.say(
                "Each guarantee is one client's own: a person whose records lie with several "
                "clients bears the composition of theirs."
            )
        if metrics.get("tuned_on", TunedOn.SYNTHETIC) == TunedOn.SYNTHETIC:
            self.say(f"Report:  {run_folder / 'report.html'}")
        else:
            self.say("This arm read the private records themselves; it is there to compare with.")
        self.say(f"Metrics: {run_folder / 'metrics.json'}")

    def _update(self, key: str, text: str) -> None:
        self._lines[key] = text
        if self._live is not None:
            self._show()
            return
        last, written = self._written.get(key, (0.0, ""))
        is_new = text.partition(":")[0] != written.partition(":")[0] or not written
        if text != written and (is_new or time.monotonic() - last >= _LINE_SECONDS):
            self._written[key] = (time.monotonic(), text)
            self.say(f"  {text}")

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(Text("\n".join(f"  … {line}" for line in self._lines.values())))


class _Pace:
    """How fast a phase goes that another process works on, from what is seen of it."""

    def __init__(self, phase: str, done: int) -> None:
        self._phase = phase
        self._first, self._first_seen = done, time.monotonic()
        self._last, self._text = done, ""

    def goes_on(self, phase: str, done: int) -> bool:
        return phase == self._phase and done >= self._last

    def time_left(self, done: int, total: int) -> str:
        # Only where something was done: between two steps nothing is learnt but that it takes long.
        if done > self._last:
            seconds = time.monotonic() - self._first_seen
            self._last = done
            self._text = _time_left(done - self._first, total - self._first, seconds)
        return self._text


_VERDICTS: Final = {"better": "yes", "worse": "no", "unclear": "not clear"}

_METRICS: Final = {
    "rougeL": False,
    "rouge1": False,
    "rouge2": False,
    "bleu": False,
    "perplexity": True,
}


def describe_client(status: Mapping[str, Any]) -> str:
    """Say in a few words how far a client is.

    Args:
        status: Content of its status file, a JSON object.

    Returns:
        Proxy, phase, progress and ε.

    >>> describe_client({"proxy": "reward", "phase": "training", "done": 2, "total": 8,
    ...                  "epsilon": 7.99})
    'reward proxy, training 2/8, ε spent 7.99'
    """
    if status["phase"] == "refused":
        return f"refused, {status['code']}. {status['reason']}"
    text = f"{status['proxy']} proxy, {_PHASES.get(status['phase'], status['phase'])}"
    if status.get("total"):
        text += f" {status['done']}/{status['total']}"
    if status.get("epsilon") is not None:
        text += f", ε spent {status['epsilon']:.2f}"
    return text


_PHASES: Final = {
    "records": "reading records",
    "sampling": "sampling negatives",
    "training": "training",
    "released": "released",
}


def describe_stage(stage: str) -> str:
    """Name a stage of the server's job for a person.

    >>> describe_stage("09_scored_r2")
    'round 2, rewards and perplexities'
    """
    name, _, round_number = stage.partition("_r")
    if not round_number.isdigit():
        name, round_number = stage, ""
    text = _STAGES.get(name, name)
    return f"round {round_number}, {text}" if round_number else text


def format_seconds(seconds: float) -> str:
    """Write a duration.

    >>> format_seconds(61.2), format_seconds(3.14), format_seconds(3900)
    ('1 min 1 s', '3.1 s', '1 h 5 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _time_left(done: int, total: int, seconds: float) -> str:
    # A stage begins by loading models; from its first item alone one would think of hours.
    if not _LEAST_SHARE * total <= done < total:
        return ""
    return f", {format_seconds(seconds * (total - done) / done)} left"


def _named_metrics(arm: Mapping[str, Any]) -> dict[str, Any]:  # JSON objects
    """Return an arm's metrics by name, pass@k among them."""
    return {**arm, **{f"pass@{k}": value for k, value in arm.get("pass_at_k", {}).items()}}


def _interval(value: Mapping[str, float]) -> str:
    digits = 2 if abs(value["mean"]) >= 10 else 3
    low, high = f"{value['low']:.{digits}f}", f"{value['high']:.{digits}f}"
    return f"{value['mean']:.{digits}f} [{low}, {high}]"


def _read_status(file: Path) -> Mapping[str, Any] | None:
    try:
        status: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return status


def refusals(world: World) -> Sequence[str]:
    """Return why clients refused, from their own folders.

    Args:
        world: The parties.

    Returns:
        One text for each client that refused last.
    """
    found = []
    for client in world.clients:
        status = _read_status(client.status_file)
        if status is not None and status["phase"] == "refused":
            found.append(f"{client.path.name}: {status['reason']}")
    return found
