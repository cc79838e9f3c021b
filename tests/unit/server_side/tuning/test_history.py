"""What a tuning's own record says of how much it saw."""

from __future__ import annotations

from pathlib import Path

from server_side.config import FinetuningConfig
from server_side.tuning.folder import write_history
from server_side.tuning.history import tuning_effort


def test_samples_that_an_objective_left_out_were_not_seen(tmp_path: Path) -> None:
    """8 of 10 samples are left, two batches of them; three steps are a pass and a batch."""
    write_history(tmp_path, num_steps=3, losses=[1.0, 1.0, 1.0], num_pairs_dropped=2)

    effort = tuning_effort([tmp_path], pool_sizes=[10], config=FinetuningConfig(batch_size=4))

    assert effort.num_samples == 8
    assert effort.num_samples_seen == 8 + 4
