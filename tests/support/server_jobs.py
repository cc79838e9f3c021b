"""The server's job on tiny models: releases with random weights, and settings that take seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lm.adapter_shapes import expected_adapter_shapes
from lm.model_folders import base_model_digest
from protocol.ledger import ProxyKind
from protocol.wire import encode_bytes
from server_side.admission import AdmissionPolicy, AdmittedRelease, admit
from server_side.config import (
    EvaluationConfig,
    FilteringConfig,
    FinetuningConfig,
    RefinementConfig,
    SamplingConfig,
    ServerConfig,
    SynthesisConfig,
)
from tests.support.releases import LORA, RUN_ID, make_reply


def write_test_rows(file: Path) -> Path:
    """Write five public test records."""
    rows = [{"prompt": f"What about {i}?", "response": f"Take {i} and rest."} for i in range(5)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def make_releases(
    base: Path,
    *,
    client_names: tuple[str, ...] = ("clinic-a", "clinic-b"),
    instructions: Mapping[str, str] | None = None,
    overflowing: tuple[str, ...] = (),
) -> list[AdmittedRelease]:
    """Make releases with random weights for a tiny base model.

    The generators of the clients that `overflowing` names have finite weights and no finite output.
    """
    stated = instructions or dict.fromkeys(client_names, "Answer the message.")
    policy = AdmissionPolicy(run_id=RUN_ID, base_model_digest=base_model_digest(base))
    releases = []
    for seed, client_name in enumerate(client_names):
        for proxy in ProxyKind:
            rng = np.random.default_rng(seed)
            shapes = expected_adapter_shapes(base, LORA, has_reward_head=proxy is ProxyKind.REWARD)
            is_broken = proxy is ProxyKind.GENERATOR and client_name in overflowing
            scale = 1e30 if is_broken else 0.02
            tensors = {
                name: rng.normal(scale=scale, size=shape).astype(np.float32)
                for name, shape in shapes.items()
            }
            reply = make_reply(
                proxy=proxy,
                client_name=client_name,
                tensors=tensors,
                shapes=shapes,
                base_model_digest=policy.base_model_digest,
                instruction=stated[client_name],
            )
            releases.append(
                admit(
                    encode_bytes(reply),
                    policy=policy,
                    expected_shapes=lambda lora, has_head: expected_adapter_shapes(
                        base, lora, has_reward_head=has_head
                    ),
                )
            )
    return releases


def make_config(base: Path, test_file: Path) -> ServerConfig:
    """Make settings that take seconds."""
    sampling = SamplingConfig(max_new_tokens=48, top_p=1.0)
    return ServerConfig(
        base_model=str(base),
        target_model=str(base),
        num_threads=1,
        synthesis=SynthesisConfig(
            num_queries=10,
            num_candidates=4,
            prompt_sampling=sampling,
            response_sampling=sampling,
            min_prompt_words=1,
            min_response_words=1,
            max_attempts_factor=10.0,
            engine="transformers",
        ),
        filtering=FilteringConfig(k=2.0),
        refinement=RefinementConfig(
            num_rounds=2,
            num_candidates=3,
            feedback_sampling=sampling,
            rewrite_sampling=sampling,
            min_response_words=1,
            engine="transformers",
        ),
        finetuning=FinetuningConfig(
            lora_rank=2,
            target_modules=["q_proj", "v_proj"],
            num_epochs=3,
            batch_size=2,
            max_physical_batch_size=2,
            learning_rate=1e-3,
            checkpoint_steps=1,
            dtype="float32",
            report_to="none",
        ),
        evaluation=EvaluationConfig(
            path=str(test_file), max_new_tokens=16, num_resamples=50, engine="transformers"
        ),
    )
