"""The target as a model to sample from: untuned, or as a round of tuning left it."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from lm.sampling import SampledModel
from server_side.config import ServerConfig
from server_side.inputs import JobInputs
from server_side.proxies import ModelWriter
from server_side.tuning.tuned_target import is_adapter, merge_tuned_target, tuned_digest


def target_writer(
    inputs: JobInputs, tuned: Path, *, round_index: int, config: ServerConfig
) -> ModelWriter:
    """Return the target as a round left it, to write with; it is merged when first needed.

    Args:
        inputs: The untuned target and the work folder.
        tuned: The tuned target as the round left it.
        round_index: The round.
        config: Number of threads, and the address of a vLLM server if one holds the target.

    Returns:
        The writer. What the round before, or another outcome of this one, had merged is removed.
    """
    work = inputs.work_folder
    # By its weights: a round that is tuned again need not end in the very same ones.
    folder = work / f"target_r{round_index}-{tuned_digest(tuned)[:16]}"
    # A merged target is as large as the target; no stage asks for that of an earlier round.
    unwanted = (f"target_r{round_index - 1}-", f"target_r{round_index}-")
    for other in work.glob("target_r*"):
        if other != folder and other.name.startswith(unwanted):
            shutil.rmtree(other)
    return ModelWriter(
        sampled_target(inputs, tuned, out_folder=folder / "merged", config=config),
        num_threads=config.num_threads,
        engine_cache=folder / "engines",
        made_of=(inputs.target_folder, tuned),
    )


def sampled_target(
    inputs: JobInputs, tuned: Path | None, *, out_folder: Path, config: ServerConfig
) -> SampledModel:
    """Return the target for a sampling engine.

    Args:
        inputs: The untuned target.
        tuned: Folder of the tuned target; None takes it as it is.
        out_folder: Where it is merged, for an engine that knows no adapters.
        config: Gives the address of a vLLM server, if one holds the target.

    Returns:
        The target; it is merged when an engine asks.
    """
    if tuned is None or not is_adapter(tuned):
        return SampledModel(
            base_folder=tuned or inputs.target_folder, vllm_url=config.target_model_vllm_url
        )
    return SampledModel(
        base_folder=inputs.target_folder,
        write_merged=partial(
            merge_tuned_target,
            target_folder=inputs.target_folder,
            tuned=tuned,
            out_folder=out_folder,
        ),
        write_adapter=lambda: tuned,
        vllm_url=config.target_model_vllm_url,
    )
