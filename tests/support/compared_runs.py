"""Folders of finished runs, as far as a comparison reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lm.settings import save_settings
from lm.tables import TextRow
from server_side.evaluation import Metric
from server_side.json_values import to_json
from server_side.measuring.comparing import ArmRun
from server_side.measuring.intervals import Interval
from server_side.measuring.metrics import TuningEffort, build_metrics, write_metrics
from server_side.notes import RunNotes
from simulations.config import SimulateConfig, TunedOn
from simulations.private_tuning import POOLED, pooled_ledger
from simulations.sweeps.points import POINT_FILE, Point, PointStatus


def write_run(
    folder: Path,
    run: ArmRun,
    *,
    asked: Sequence[TextRow] = (),
    overrides: Sequence[str] | None = None,
) -> Path:
    """Write what a run leaves behind.

    Args:
        folder: Where.
        run: Its arm, seed and scores.
        asked: Its test records; without any there is no such file.
        overrides: What makes it a point of a sweep; None makes it a run of its own.

    Returns:
        The folder.
    """
    (folder / "server").mkdir(parents=True)
    config = SimulateConfig(arm=run.arm, seed=run.seed, tuned_on=TunedOn(run.tuned_on))
    save_settings(config, folder / "simulate.yaml")
    for part in ("untuned", "tuned"):
        line = json.dumps(to_json(getattr(run, part)))
        (folder / "server" / f"13_{part}.jsonl").write_text(f"{line}\n")
    if asked:
        lines = [json.dumps({"prompt": row.prompt, "response": row.response}) for row in asked]
        (folder / "server" / "evaluation.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if overrides is not None:
        point = Point(overrides=tuple(overrides), status=PointStatus.DONE)
        (folder / POINT_FILE).write_text(json.dumps(asdict(point)))
    metrics = build_metrics(
        run_id=folder.name,
        seed=run.seed,
        untuned=run.untuned,
        tuned=run.tuned,
        difference=dict.fromkeys(Metric, Interval(mean=0.0, low=0.0, high=0.0)),
        pass_differences={},
        confidence_level=0.95,
        privacy={POOLED: pooled_ledger([config.client_side], is_private=False)},
        seconds={"13_tuned": 1.0},
        peak_rss_bytes=1,
        counts={},
        tuning=TuningEffort(
            num_samples=10, num_steps=5, batch_size=4, num_samples_seen=run.num_samples_seen or 1
        ),
        notes=RunNotes(arm=run.arm, tuned_on=run.tuned_on),
    )
    write_metrics(folder / "metrics.json", metrics)
    return folder
