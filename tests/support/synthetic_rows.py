"""Rows of a synthetic data set and certificates to go with them, made up."""

from pathlib import Path
from typing import Any

from protocol.artifacts import Certificate, LoraShape
from protocol.ledger import DpSgdEvent, PrivacyLedger, PrivacyUnit, ProxyKind
from server_side.config import ServerConfig
from server_side.dataset_export import export_dataset
from server_side.samples import CuratedSample


def make_certificate(**changes: Any) -> Certificate:
    proxy = changes.pop("proxy", ProxyKind.REWARD)
    ledger = {"epsilon": 7.96, "reproducible_noise": False} | changes.pop("ledger", {})
    event = DpSgdEvent(proxy=proxy, noise_multiplier=0.8, sample_rate=0.1, steps=10)
    values: dict[str, Any] = {
        "protocol_version": 1,
        "software_version": "0.1.0",
        "client_name": "north",
        "run_id": "run-1",
        "proxy": proxy,
        "privacy": PrivacyLedger(
            **{
                "unit": PrivacyUnit.RECORD,
                "events": (event, event),
                "delta": 1e-5,
                "accountant": "pld",
                "accountant_version": "0.6.0",
                **ledger,
            }
        ),
        "declared_size": 1000,
        "lora": LoraShape(
            rank=2,
            alpha=4.0,
            target_modules=("q_proj",),
            num_upper_layers=None,
            use_rslora=False,
        ),
        "has_reward_head": proxy is ProxyKind.REWARD,
        "base_model_digest": "0" * 64,
        "weights_digest": "1" * 64,
        "code_digest": "2" * 64,
        "instruction": "Answer the message.",
        "max_prompt_tokens": 64,
        "max_response_tokens": 96,
        "created_at": 86_400,
    }
    return Certificate(**(values | changes))


def make_sample(index: int = 0, **changes: Any) -> CuratedSample:
    values: dict[str, Any] = {
        "query_id": f"q{index}",
        "client_name": "north",
        "instruction": "Answer the message.",
        "prompt": f"My knee hurts, {index} days now.",
        "chosen": "Rest it — and call us if it swells.",
        "rejected": "No.",
        "chosen_candidate_id": f"q{index}-0",
        "rejected_candidate_id": f"q{index}-1",
        "chosen_reward": 1.25,
        "rejected_reward": -0.5,
        "chosen_perplexity": 12.5,
        "round_index": 1,
    }
    return CuratedSample(**(values | changes))


def export_rows(folder: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "folder": folder / "dataset",
        "run_id": "run-1",
        "certificates": [make_certificate()],
        "settings": row_settings(),
    }
    pool = changes.pop("pool", [make_sample(i) for i in range(3)])
    return export_dataset(pool, **(arguments | changes))


def row_settings(**changes: Any) -> dict[str, object]:
    config = ServerConfig(**changes)
    return {**config.shown_models, "config": config.fingerprint}
