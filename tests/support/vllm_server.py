"""A small server that speaks vLLM's HTTP API over a real model, and fails when told to.

What it accepts and refuses follows `vllm serve` where this project depends on it: missing sampling
parameters come from the model's generation settings, several greedy completions and overlong
prompts are refused, the seed of a completion is the request's seed plus its number, adapters are
loaded by path. Sampling is written anew, by a full sort, and shares nothing with the engines.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections import deque
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from lm.sampling import SamplingParams
from tests.support.loopback_server import LoopbackServer
from tests.support.sampling import nucleus


class FakeVllm(LoopbackServer):
    """Serves one model on loopback, in a thread of its own."""

    def __init__(self, folder: Path, *, takes_adapters: bool = True) -> None:
        self.folder = folder
        self.takes_adapters = takes_adapters
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self.adapters: dict[str, tuple[str, PeftModel]] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        """Path and body of everything that was asked."""
        self.faults: deque[str] = deque()
        """What goes wrong with the next completions: see `_Handler.fail`."""
        self.lock = threading.Lock()
        super().__init__(_Handler)

    @property
    def url(self) -> str:
        return self.address

    def completions(self) -> list[dict[str, Any]]:
        """Return the bodies of all requests for completions."""
        return [body for path, body in self.requests if path == "/v1/completions"]

    def cards(self) -> list[dict[str, Any]]:
        base = {
            "id": "base",
            "root": str(self.folder),
            "max_model_len": self.model.config.max_position_embeddings,
            "parent": None,
        }
        loaded = [
            {"id": name, "root": path, "parent": "base", "max_model_len": None}
            for name, (path, _) in self.adapters.items()
        ]
        return [base, *loaded]

    def model_named(self, name: str) -> torch.nn.Module:
        return self.model if name == "base" else self.adapters[name][1]

    def load_adapter(self, name: str, path: str) -> None:
        base = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        with warnings.catch_warnings():
            # PEFT still asks transformers for a name that it will drop.
            warnings.simplefilter("ignore", FutureWarning)
            self.adapters[name] = (path, PeftModel.from_pretrained(base, path).eval())

    def generate(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Draw all completions of one request, token by token, and return its choices."""
        settings = json.loads((self.folder / "generation_config.json").read_text(encoding="utf-8"))
        defaults = {"top_p": 1.0, "temperature": 1.0, "repetition_penalty": 1.0, "top_k": 0}
        asked = {
            name: settings.get(name, default) if body.get(name) is None else body[name]
            for name, default in defaults.items()
        }
        eos = settings["eos_token_id"]
        ends = {*(eos if isinstance(eos, list) else [eos]), *body.get("stop_token_ids", [])}
        count, limit = body.get("n", 1), body["max_tokens"]
        rngs = [torch.Generator().manual_seed(body["seed"] + number) for number in range(count)]
        model = self.model_named(body["model"])
        rows: list[list[int]] = [[] for _ in range(count)]
        is_open = [True] * count
        with torch.inference_mode(), self.lock:
            for _ in range(limit):
                live = [row for row in range(count) if is_open[row]]
                if not live:
                    break
                texts = torch.tensor([[*body["prompt"], *rows[row]] for row in live])
                logits = model(input_ids=texts).logits[:, -1]
                for row, text, own in zip(live, texts, logits, strict=True):
                    token = _draw(own, text, asked, rngs[row])
                    rows[row].append(token)
                    is_open[row] = token not in ends
        return [
            {
                "index": row,
                "text": "",
                "token_ids": ids if body.get("return_token_ids") else None,
                "finish_reason": "length" if is_open[row] else "stop",
            }
            for row, ids in enumerate(rows)
        ]


def _draw(
    logits: torch.Tensor, text: torch.Tensor, asked: Mapping[str, float], rng: torch.Generator
) -> int:
    seen = text.unique()
    penalty = asked["repetition_penalty"]
    logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    if asked["top_k"] > 0:
        least = logits.topk(int(asked["top_k"])).values[-1]
        logits[logits < least] = -torch.inf
    if asked["temperature"] == 0:
        return int(logits.argmax())
    params = SamplingParams(
        max_new_tokens=1, temperature=asked["temperature"], top_p=asked["top_p"]
    )
    return int(torch.multinomial(nucleus(logits, params), 1, generator=rng))


class _Handler(BaseHTTPRequestHandler):
    @property
    def fake(self) -> FakeVllm:
        found: FakeVllm = self.server.owner  # type: ignore[attr-defined]
        return found

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self.fake.requests.append((self.path, {}))
        if self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": self.fake.cards()})
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.requests.append((self.path, body))
        match self.path:
            case "/v1/completions":
                self.complete(body)
            case "/v1/load_lora_adapter" if self.fake.takes_adapters:
                with self.fake.lock:
                    is_there = body["lora_name"] in self.fake.adapters
                    if not is_there:
                        self.fake.load_adapter(body["lora_name"], body["lora_path"])
                if is_there:
                    self.refuse(400, f"The lora adapter '{body['lora_name']}' is already loaded.")
                else:
                    self.answer(200, "Success: LoRA adapter added successfully.")
            case "/v1/unload_lora_adapter" if body["lora_name"] in self.fake.adapters:
                del self.fake.adapters[body["lora_name"]]
                self.answer(200, "Success: LoRA adapter removed successfully.")
            case _:
                self.answer(404, {"detail": "Not Found"})

    def complete(self, body: dict[str, Any]) -> None:
        names = [card["id"] for card in self.fake.cards()]
        limit = self.fake.model.config.max_position_embeddings
        if body["model"] not in names:
            self.refuse(404, f"The model `{body['model']}` does not exist.")
        elif body["temperature"] == 0 and body["n"] > 1:
            self.refuse(400, "n must be 1 when using greedy sampling.")
        elif len(body["prompt"]) + body["max_tokens"] > limit:
            self.refuse(400, f"This model's maximum context length is {limit} tokens.")
        else:
            fault = self.fake.faults.popleft() if self.fake.faults else None
            if fault is None:
                self.answer(200, {"choices": self.fake.generate(body)})
            else:
                self.fail(fault, body)

    def fail(self, fault: str, body: dict[str, Any]) -> None:
        """Go wrong: drop, cut, slow, missing, aborted, no ids, or a status."""
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
            return
        if fault == "slow":
            time.sleep(1.0)
            self.answer(200, {"choices": self.fake.generate(body)})
            return
        choices = self.fake.generate(body)
        if fault == "cut":
            text = json.dumps({"choices": choices}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text[: len(text) // 2])
            self.close_connection = True
        elif fault == "missing":
            self.answer(200, {"choices": choices[:-1]})
        elif fault == "aborted":
            self.answer(200, {"choices": [*choices[:-1], choices[-1] | {"finish_reason": "abort"}]})
        elif fault == "no ids":
            self.answer(200, {"choices": [c | {"token_ids": None} for c in choices]})
        else:
            self.refuse(int(fault), "told to fail")

    def refuse(self, status: int, message: str) -> None:
        self.answer(status, {"error": {"message": message, "code": status}})

    def answer(self, status: int, content: object) -> None:
        text = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        try:
            self.wfile.write(text)
        except OSError:
            self.close_connection = True  # who asked has given up
