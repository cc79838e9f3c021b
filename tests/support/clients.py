"""A client of a few records on a tiny model, with a folder like a real one's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from client_side.config import (
    BudgetConfig,
    ClientConfig,
    GeneratorConfig,
    LoraConfig,
    Precision,
    PreferencesConfig,
    RecordsConfig,
    RewardProxyConfig,
)
from client_side.folder import ClientFolder, make_client_folder, write_private_file
from lm.model_folders import base_model_digest
from protocol import PROTOCOL_VERSION
from protocol.ledger import ProxyKind
from protocol.messages import TrainingRequest
from server_side.config import AdmissionConfig, ServerConfig

CANARY: Final = "xylophone-canary-7431"
"""Stands in every prompt and response; must stand in nothing that leaves."""

NUM_RECORDS: Final = 24
RUN_ID: Final = "run-1"

_LORA: Final = LoraConfig(rank=1, target_modules=["q_proj"])


def client_config(base_model: Path, *, name: str = "client-1") -> ClientConfig:
    """Give settings under which both proxies train in a second or two."""
    return ClientConfig(
        name=name,
        base_model=str(base_model),
        num_threads=1,
        records=RecordsConfig(
            path="records.jsonl",
            declared_size=NUM_RECORDS,
            max_prompt_tokens=24,
            max_response_tokens=24,
        ),
        preferences=PreferencesConfig(engine="transformers"),
        budget=BudgetConfig(target_epsilon=8.0, target_delta=1e-5),
        generator=GeneratorConfig(
            lora=_LORA,
            steps=2,
            expected_batch_size=6,
            learning_rate=5e-3,
            precision=Precision.FLOAT32,
        ),
        reward_proxy=RewardProxyConfig(
            lora=_LORA,
            steps=2,
            expected_batch_size=6,
            learning_rate=5e-3,
            precision=Precision.FLOAT32,
        ),
    )


def make_client(path: Path, config: ClientConfig) -> ClientFolder:
    """Make a folder with settings, key and canary records."""
    folder = make_client_folder(path, config)
    lines = [
        json.dumps(
            {
                "prompt": f"{config.name} asks {number} {CANARY}",
                "response": f"Answer {number} {CANARY}",
            }
        )
        for number in range(NUM_RECORDS)
    ]
    write_private_file(path / "records.jsonl", "\n".join(lines).encode() + b"\n")
    return folder


def training_request(base_model: Path, proxy: ProxyKind, **changes: object) -> TrainingRequest:
    """Give a request that asks for nothing special."""
    request = TrainingRequest(
        protocol_version=PROTOCOL_VERSION,
        run_id=RUN_ID,
        proxy=proxy,
        base_model_digest=base_model_digest(base_model),
        target_epsilon=None,
        target_delta=None,
        steps=None,
    )
    return replace(request, **changes)  # type: ignore[arg-type]  # names checked by replace


def server_config(base_model: Path, *, min_clients: int = 1) -> ServerConfig:
    """Give a server's settings that fit these clients."""
    return ServerConfig(
        base_model=str(base_model),
        target_model=str(base_model),
        num_threads=1,
        min_clients=min_clients,
        admission=AdmissionConfig(),
    )
