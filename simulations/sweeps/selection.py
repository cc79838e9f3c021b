"""Private selection: a random number of runs, of which the best one alone is ever shown.

Each run draws one of the candidate settings evenly, trains with fresh noise and is scored on public
test records. How many runs there are is drawn from a truncated negative binomial distribution and
is as secret as the runs that lost: their folders are removed, their number is not written down,
and nothing of them is printed. What remains is `selected/`, what the best run put out, and
`selection.json` with its price: more than that run's own certificate says, less than all runs
composed. Which of the runs was best is secret too, since it bounds their number: every run is made
under one name, by a process of its own, and what is kept of the best one has no times in it.

Covers: what is in the folder and on the screen once the command has ended.
Does not cover: how long it took, for those who see the clock or the disk's own notes; the folder of
a command that was cut off, which holds the runs so far until it is resumed or removed.

Layout: `.unselected/` holds the draw, the run at work in `selected/` and the whole ones by number.

Reference:
    Papernot and Steinke (2022), arXiv 2110.03620, theorem 2. The score may be any function of what
    a run puts out, so it reads no private record.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from client_side.request_checks import plan_events
from lm.settings import save_settings, to_settings
from protocol.accounting import composed_epsilon
from protocol.errors import ConfigurationError
from protocol.ledger import DpSgdEvent
from server_side.evaluation import LOWER_IS_BETTER, Metric
from server_side.measuring.metrics import read_metrics
from server_side.notes import SelectionPrice
from server_side.provenance import PROVENANCE_FILE, read_provenance
from server_side.whole_files import read_json, write_atomically
from simulations.config import SelectionConfig, SimulateConfig
from simulations.prepare import prepare_world
from simulations.provenance import begin_provenance
from simulations.run_folder import SELECTED_FOLDER, SETTINGS_FILE
from simulations.sweeps.costs import dominating, selection_epsilon
from simulations.sweeps.hidden_run import require_selectable, write_price

SELECTION_FILE: Final = "selection.json"
"""What was selected, among what, and its price."""

HIDDEN_FOLDER: Final = ".unselected"
"""Folder of the runs until one is selected, with the draw of their number."""

_DECIDED: Final = f".{SELECTION_FILE}.decided"
"""What was selected, while what lost is being removed."""

# Privacy: what is kept of the best run, by name. Records, keys and ledgers of the clients, logs and
# files of curves (named after clock and process) are not what a run puts out, and are left behind.
_KEPT: Final = (
    SETTINGS_FILE, "metrics.json", "report.html", "dataset", "target_adapter", "target_model",
    "models", "server/releases", "server/server_node.yaml", "server/evaluation.jsonl",
    "server/manifest.json",
)  # fmt: skip
_KEPT_STAGES: Final = "server/[01]*.jsonl"
# Privacy: keys of provenance that are the same whichever run was best, and nothing of the records.
_KEPT_FACTS: Final = (
    "command", "software_version", "sources_digest", "simulation_digest", "device", "dtype",
    "num_cores", "python", "platform", "libraries", "seeds", "run_id", "ledgers",
)  # fmt: skip
_TEXTS: Final = (".yaml", ".json")

_LEAST_WEIGHT: Final = 1e-300
"""Where the tail of a distribution is not computed any more; a draw there is drawn again."""

Simulate = Callable[[Path], None]


def select_privately(config: SimulateConfig, folder: Path, *, simulate: Simulate) -> Path:
    """Run the candidates a random number of times and keep the best run alone.

    Args:
        config: The simulation, and what to select among.
        folder: Where it is kept; holds its settings, and perhaps a start that was cut off.
        simulate: Makes one run in a folder with its settings or goes on with it; prints nothing.

    Returns:
        The folder of the selected run.

    Raises:
        ConfigurationError: A candidate is no valid setting, its price would not hold, or candidates
            release other proxies.
        RewardDSError: A run failed; nothing is shown then, and `resume` goes on.
    """
    if (folder / _DECIDED).is_file():
        return _end(folder)
    if (folder / SELECTION_FILE).is_file():
        return folder / SELECTED_FOLDER
    chosen = config.selection
    values = OmegaConf.load(folder / SETTINGS_FILE)
    candidates = [_candidate(values, words) for words in chosen.candidates]
    hidden = folder / HIDDEN_FOLDER
    hidden.mkdir(mode=0o700, exist_ok=True)
    events = _planned_events(candidates, hidden / "plan")
    delta = max(candidate.client_side.budget.target_delta for candidate in candidates)
    price = selection_epsilon(events, mean_runs=chosen.mean_runs, shape=chosen.shape, delta=delta)
    write_price(SelectionPrice(epsilon=price, delta=delta), hidden)
    picks = _picks(hidden, chosen)
    for number, pick in enumerate(picks):
        if (hidden / str(number)).is_dir():
            continue
        # Privacy: one name for all. It goes into certificates, metrics and paths of the run.
        run = hidden / SELECTED_FOLDER
        if "finished" not in read_provenance(run):
            _begin(run, candidates[pick])
            simulate(run)
        run.rename(hidden / str(number))
    best = max(range(len(picks)), key=lambda number: _score(hidden / str(number), chosen.metric))
    _keep(hidden / str(best), folder)
    one_run = dominating(events)
    facts = {
        "selected": chosen.candidates[picks[best]],
        "candidates": list(chosen.candidates),
        "metric": chosen.metric,
        "mean_runs": chosen.mean_runs,
        "shape": chosen.shape,
        "epsilon": price if math.isfinite(price) else None,
        "epsilon_of_one_run": composed_epsilon(one_run, delta=delta) if price < math.inf else None,
        "delta": delta,
        "accountant": "dp_accounting RDP, RepeatAndSelectDpEvent",
        "events_of_one_run": [
            {
                "proxy": event.proxy.value,
                "noise_multiplier": event.noise_multiplier,
                "sample_rate": event.sample_rate,
                "steps": event.steps,
            }
            for event in one_run
        ],
        "note": "The certificates in selected/ and what repeats them are about one run; epsilon "
        "above is what holds for a run that was selected. Its data card, metrics and report say "
        "so.",
    }
    # Privacy: from here on the choice stands, whatever is cut off. Another draw after somebody has
    # seen selected/ would be a second selection that nobody paid for.
    write_atomically(folder / _DECIDED, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return _end(folder)


def _keep(run: Path, folder: Path) -> None:
    """Copy what is kept of a run to where it will be moved from, without its times."""
    final = folder / HIDDEN_FOLDER / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    names = [*_KEPT, *(str(item.relative_to(run)) for item in sorted(run.glob(_KEPT_STAGES)))]
    for name in names:
        source, target = run / name, final / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.is_file():
            shutil.copyfile(source, target)
    _write_facts(final, read_provenance(run))
    if (manifest := final / "server" / "manifest.json").is_file():
        write_atomically(manifest, _without_costs(manifest.read_text(encoding="utf-8")))
    # Paths name the place where every run was made, which is about to go.
    before = str((folder / HIDDEN_FOLDER / SELECTED_FOLDER).resolve())
    after = str((folder / SELECTED_FOLDER).resolve())
    for file in final.rglob("*"):
        if file.suffix in _TEXTS and before in (text := file.read_text(encoding="utf-8")):
            file.write_text(text.replace(before, after), encoding="utf-8")


def _without_costs(manifest: str) -> str:
    values = json.loads(manifest)
    for stage in values["stages"].values():
        stage |= {"seconds": 0.0, "peak_rss_bytes": 0}
    return json.dumps(values, indent=1) + "\n"


def _end(folder: Path) -> Path:
    """Remove what lost, then say what was selected; safe to repeat after a kill at any moment."""
    final = folder / HIDDEN_FOLDER / "final"
    if final.is_dir():
        shutil.rmtree(folder / SELECTED_FOLDER, ignore_errors=True)
        final.rename(folder / SELECTED_FOLDER)
    # Privacy: the runs that lost, and how many there were, must be gone before the price is
    # stated; the theorem pays for the best run and for nothing else.
    if (folder / HIDDEN_FOLDER).is_dir():
        shutil.rmtree(folder / HIDDEN_FOLDER)
    _write_facts(folder, read_provenance(folder))
    # Privacy: a file's time, beside that of the start, says how many runs came before.
    begun = (folder / SETTINGS_FILE).stat().st_mtime
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (begun, begun), follow_symlinks=False)
    (folder / _DECIDED).rename(folder / SELECTION_FILE)
    os.utime(folder, (begun, begun))
    return folder / SELECTED_FOLDER


def _write_facts(folder: Path, facts: Mapping[str, object]) -> None:
    kept = {name: facts[name] for name in _KEPT_FACTS if name in facts}
    write_atomically(folder / PROVENANCE_FILE, json.dumps(kept, indent=1, ensure_ascii=False))


def draw_num_runs(*, mean_runs: float, shape: float, uniform: Callable[[], float]) -> int:
    """Draw a number of runs from the truncated negative binomial distribution.

    Args:
        mean_runs: Its mean, above 1.
        shape: η, at least 0; 0 is the logarithmic distribution, 1 the geometric one.
        uniform: Draws evenly from [0, 1); a secret source where the draw is to be secret.

    Returns:
        A number, at least 1.

    Reference:
        Papernot and Steinke (2022), definition 1: for η > 0 the probability of k is
        (1-γ)^k ÷ (γ^-η - 1) · ∏_{l<k} (l+η) ÷ (l+1), for η = 0 it is (1-γ)^k ÷ (k log(1/γ)).
    """
    gamma = stopping_parameter(mean_runs=mean_runs, shape=shape)
    while True:
        left = uniform()
        weight = 1 / -math.log(gamma) if shape == 0 else shape / (gamma**-shape - 1)
        weight *= 1 - gamma
        number = 1
        while weight > _LEAST_WEIGHT:
            if left < weight:
                return number
            left -= weight
            weight *= (1 - gamma) * (number + shape) / (number + 1)
            number += 1


def stopping_parameter(*, mean_runs: float, shape: float) -> float:
    """Return the γ with which the distribution has a mean, by halving: the mean falls in γ.

    Args:
        mean_runs: Mean number of runs, above 1.
        shape: η, at least 0; 0 is the logarithmic distribution, 1 the geometric one.

    Returns:
        γ in (0, 1), from the side on which the mean is no larger than `mean_runs`.

    >>> round(stopping_parameter(mean_runs=4.0, shape=1.0), 6)
    0.25
    """
    low, high = 1e-12, 1 - 1e-9
    for _ in range(200):
        middle = math.sqrt(low * high)
        if shape == 0:
            mean = (1 / middle - 1) / -math.log(middle)
        else:
            mean = shape * (1 - middle) / (middle * (1 - middle**shape))
        low, high = (middle, high) if mean > mean_runs else (low, middle)
    return high


def _candidate(values: DictConfig | ListConfig, words: str) -> SimulateConfig:
    try:
        merged = OmegaConf.merge(values, OmegaConf.from_dotlist(words.split()))
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigurationError(
            f"Expected selection.candidates to hold words like name=value, got {words!r}: "
            f"{str(error).splitlines()[0]} Mend the candidate."
        ) from None
    assert isinstance(merged, DictConfig)
    candidate = to_settings(SimulateConfig, merged)
    require_selectable(candidate)
    return replace(candidate, selection=SelectionConfig(), run_folder=None, shared_folder=None)


def _planned_events(
    candidates: Sequence[SimulateConfig], folder: Path
) -> list[tuple[DpSgdEvent, ...]]:
    """Return what a run of each candidate will cost each client, before anything is trained."""
    events = []
    for candidate in candidates:
        shutil.rmtree(folder, ignore_errors=True)
        world = prepare_world(candidate, folder, is_selected_from=True)
        events += [plan_events(client.load_config()) for client in world.clients]
    shutil.rmtree(folder)
    return events


def _picks(hidden: Path, chosen: SelectionConfig) -> list[int]:
    """Draw how many runs there are and which candidate each takes; once, whatever is cut off."""
    file = hidden / "picks.json"
    if not file.is_file():
        # Privacy: neither number nor picks may be known beforehand, so no seed draws them.
        source = secrets.SystemRandom()
        number = draw_num_runs(
            mean_runs=chosen.mean_runs, shape=chosen.shape, uniform=source.random
        )
        picks = [source.randrange(len(chosen.candidates)) for _ in range(number)]
        write_atomically(file, json.dumps(picks))
    loaded: list[int] = read_json(file)
    return loaded


def _begin(run: Path, candidate: SimulateConfig) -> None:
    run.mkdir(exist_ok=True)
    if not (run / SETTINGS_FILE).is_file():
        part = run / f".{SETTINGS_FILE}.part"
        save_settings(candidate, part)
        # Privacy: half a file would be read with defaults, at another ε than the price is of.
        part.replace(run / SETTINGS_FILE)
    if not (run / PROVENANCE_FILE).is_file():
        begin_provenance(run)


def _score(run: Path, name: str) -> float:
    value = float(read_metrics(run / "metrics.json")["tuned"][name]["mean"])
    return -value if Metric(name) in LOWER_IS_BETTER else value
