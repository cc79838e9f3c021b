"""The engine that asks a server: what it sends, what it makes of answers, and of failures."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch

from lm.adapter_shapes import expected_adapter_shapes
from lm.adapters import load_adapter, write_peft_folder
from lm.errors import SamplingError
from lm.loading import load_causal_lm, load_tokenizer
from lm.sampling import SampledModel, SamplingEngine, SamplingParams, open_sampler, stop_token_ids
from lm.sampling_vllm import VllmSampler, VllmServer
from protocol.artifacts import LoraShape
from tests.support.loopback_server import LoopbackServer
from tests.support.sampling import PREFIXES, build_opinionated_model
from tests.support.vllm_server import FakeVllm

PARAMS = SamplingParams(max_new_tokens=6, num_candidates=3, top_p=0.9)
LORA = LoraShape(
    rank=4, alpha=8.0, target_modules=("q_proj", "v_proj"), num_upper_layers=1, use_rslora=True
)
PASSING = ["drop", "cut", "missing", "aborted", "500", "503", "429", "408"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_opinionated_model(
        tmp_path_factory.mktemp("served") / "model", architecture="qwen2"
    )


@pytest.fixture
def fake(folder: Path) -> Iterator[FakeVllm]:
    with FakeVllm(folder) as server:
        yield server


def _server(fake: FakeVllm) -> VllmServer:
    return VllmServer(url=fake.url, backoff_seconds=0.01)


def _adapter(folder: Path, out_folder: Path, *, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    shapes = expected_adapter_shapes(folder, LORA, has_reward_head=False)
    tensors = {name: rng.normal(0, 0.5, s).astype(np.float32) for name, s in shapes.items()}
    return write_peft_folder(folder, tensors, LORA, out_folder=out_folder)


def test_every_prefix_is_one_request_for_all_its_candidates(fake: FakeVllm, folder: Path) -> None:
    VllmSampler.open(folder, server=_server(fake)).sample(PREFIXES, PARAMS, seed=1)

    sent = fake.completions()
    assert sorted(body["prompt"] for body in sent) == sorted(map(list, PREFIXES))
    assert {body["n"] for body in sent} == {3}
    assert len({body["seed"] for body in sent}) == len(PREFIXES)
    assert all(body["seed"] + body["n"] < 2**63 for body in sent)


def test_no_sampling_parameter_is_left_to_the_models_own_settings(
    fake: FakeVllm, folder: Path, tmp_path: Path
) -> None:
    """A top_k of 1 in the model's settings would make every completion the greedy one."""
    plain = VllmSampler.open(folder, server=_server(fake)).sample(PREFIXES, PARAMS, seed=1)
    opinionated = build_opinionated_model(tmp_path / "model", architecture="qwen2")
    file = opinionated / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(settings | {"top_k": 1, "top_p": 0.1, "temperature": 0.2}))

    with FakeVllm(opinionated) as other:
        sampler = VllmSampler.open(opinionated, server=_server(other))
        completions = sampler.sample(PREFIXES, PARAMS, seed=1)

    assert completions == plain
    assert len({c.token_ids for own in completions for c in own}) > len(PREFIXES)


@pytest.mark.parametrize("fault", PASSING)
def test_a_failure_that_passes_changes_no_completion(
    fake: FakeVllm, folder: Path, fault: str
) -> None:
    sampler = VllmSampler.open(folder, server=_server(fake))
    expected = sampler.sample(PREFIXES, PARAMS, seed=1)
    num_before = len(fake.completions())
    fake.faults.extend([fault, fault])

    completions = sampler.sample(PREFIXES, PARAMS, seed=1)

    assert completions == expected
    assert len(fake.completions()) - num_before == len(PREFIXES) + 2


def test_an_answer_that_takes_too_long_is_asked_for_again(fake: FakeVllm, folder: Path) -> None:
    sampler = VllmSampler.open(folder, server=replace(_server(fake), timeout_seconds=0.3))
    fake.faults.append("slow")

    [completions] = sampler.sample(PREFIXES[:1], PARAMS, seed=1)

    assert len(completions) == 3
    assert len(fake.completions()) == 2


@pytest.mark.parametrize("fault", PASSING)
def test_a_failure_that_does_not_pass_ends_in_an_error_that_says_what_it_was(
    fake: FakeVllm, folder: Path, fault: str
) -> None:
    sampler = VllmSampler.open(folder, server=_server(fake))
    fake.faults.extend([fault] * 4)

    with pytest.raises(SamplingError, match=r"got .* in 4 attempts\. See that"):
        sampler.sample(PREFIXES[:1], PARAMS, seed=1)

    assert len(fake.completions()) == 4


def test_a_refusal_is_not_tried_again(fake: FakeVllm, folder: Path) -> None:
    sampler = VllmSampler.open(folder, server=_server(fake))
    fake.faults.append("400")

    with pytest.raises(SamplingError, match="status 400: told to fail"):
        sampler.sample(PREFIXES[:1], PARAMS, seed=1)

    assert len(fake.completions()) == 1


def test_a_server_that_gives_no_token_ids_is_told_apart(fake: FakeVllm, folder: Path) -> None:
    sampler = VllmSampler.open(folder, server=_server(fake))
    fake.faults.append("no ids")

    with pytest.raises(SamplingError, match=r"vLLM 0\.10\.2"):
        sampler.sample(PREFIXES[:1], PARAMS, seed=1)


def test_a_server_that_is_not_there_is_an_error(folder: Path) -> None:
    with FakeVllm(folder) as gone:
        server = _server(gone)

    with pytest.raises(SamplingError, match=r"Expected the vLLM server at .* to answer"):
        VllmSampler.open(folder, server=server)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host", "http://", "http://host:port", "http://[::1"]
)
def test_what_is_no_address_is_an_error(folder: Path, url: str) -> None:
    with pytest.raises(SamplingError, match="Expected the address of a vLLM server"):
        VllmSampler.open(folder, server=VllmServer(url=url))


class _Stranger(BaseHTTPRequestHandler):
    content = b""

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>Welcome</html>", "not whole"),
        (b'{"status": "ok"}', "not whole"),
        (b"[]", "not whole"),
        (b'{"data": ["base"]}', "not whole"),
        (b'{"data": [{"id": "base", "max_model_len": null}]}', "found something else"),
    ],
)
def test_another_service_at_the_address_is_told_as_such(
    folder: Path, content: bytes, said: str
) -> None:
    with LoopbackServer(type("_Other", (_Stranger,), {"content": content})) as other:
        server = VllmServer(url=other.address, backoff_seconds=0.01)

        with pytest.raises(SamplingError, match=f"Expected .* vLLM server .*{said}"):
            VllmSampler.open(folder, server=server)


def test_a_server_of_another_model_is_refused(
    fake: FakeVllm, folder: Path, tiny_llama: Path
) -> None:
    with pytest.raises(SamplingError, match="to hold the model of"):
        VllmSampler.open(tiny_llama, server=_server(fake))


def test_a_served_adapter_writes_what_the_adapted_model_writes(
    fake: FakeVllm, folder: Path, tmp_path: Path
) -> None:
    """The oracle is a plain loop over the adapter attached here, from the same tensors."""
    greedy = SamplingParams(max_new_tokens=12, greedy=True, num_candidates=2)
    rng = np.random.default_rng(0)
    shapes = expected_adapter_shapes(folder, LORA, has_reward_head=False)
    tensors = {name: rng.normal(0, 0.5, s).astype(np.float32) for name, s in shapes.items()}
    adapter = write_peft_folder(folder, tensors, LORA, out_folder=tmp_path / "adapter")

    sampler = VllmSampler.open(folder, server=_server(fake), adapter_folder=adapter)
    completions = sampler.sample(PREFIXES, greedy, seed=0)

    model = load_adapter(load_causal_lm(folder), tensors, LORA)
    plain = VllmSampler.open(folder, server=_server(fake)).sample(PREFIXES, greedy, seed=0)
    ends = stop_token_ids(folder, load_tokenizer(folder))
    assert completions != plain
    for prefix, own in zip(PREFIXES, completions, strict=True):
        ids = list(prefix)
        for _ in range(greedy.max_new_tokens):
            with torch.no_grad():
                token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token in ends:
                break
            ids.append(token)
        assert [c.token_ids for c in own] == [tuple(ids[len(prefix) :])] * 2


def test_an_adapter_is_loaded_once_by_digest_and_unloaded_by_who_loaded_it(
    fake: FakeVllm, folder: Path, tmp_path: Path
) -> None:
    first_folder, copy, other = (
        _adapter(folder, tmp_path / name, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    first = VllmSampler.open(folder, server=_server(fake), adapter_folder=first_folder)
    second = VllmSampler.open(folder, server=_server(fake), adapter_folder=copy)
    third = VllmSampler.open(folder, server=_server(fake), adapter_folder=other)

    assert len(fake.adapters) == 2
    second.close()
    assert len(fake.adapters) == 2
    first.close()
    third.close()
    assert not fake.adapters


def test_an_adapter_that_another_process_unloaded_is_loaded_again(
    fake: FakeVllm, folder: Path, tmp_path: Path
) -> None:
    """Points of a sweep that run side by side sample from the same generator."""
    adapter = _adapter(folder, tmp_path / "a")
    first = VllmSampler.open(folder, server=_server(fake), adapter_folder=adapter)
    second = VllmSampler.open(folder, server=_server(fake), adapter_folder=adapter)
    before = second.sample(PREFIXES, PARAMS, seed=0)
    first.close()

    after = second.sample(PREFIXES, PARAMS, seed=0)
    second.close()

    assert after == before
    assert not fake.adapters


def test_a_server_that_takes_no_adapters_says_how_to_start_it(folder: Path, tmp_path: Path) -> None:
    with (
        FakeVllm(folder, takes_adapters=False) as fake,
        pytest.raises(SamplingError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
    ):
        VllmSampler.open(
            folder, server=_server(fake), adapter_folder=_adapter(folder, tmp_path / "a")
        )


def test_an_adapter_that_stays_loaded_is_a_warning(
    fake: FakeVllm, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = _adapter(folder, tmp_path / "a")
    sampler = VllmSampler.open(folder, server=_server(fake), adapter_folder=adapter)
    fake.adapters.clear()

    with caplog.at_level(logging.WARNING):
        sampler.close()

    assert "keeps rewardds-" in caplog.text


def test_the_seam_gives_the_server_the_adapter_and_the_others_the_merged_model(
    fake: FakeVllm, folder: Path, tmp_path: Path
) -> None:
    written: list[str] = []

    def note(kind: str, path: Path) -> Path:
        written.append(kind)
        return path

    model = SampledModel(
        base_folder=folder,
        write_merged=lambda: note("merged", folder),
        write_adapter=lambda: note("adapter", _adapter(folder, tmp_path / "a")),
        vllm_url=fake.url,
    )

    served = open_sampler(model, engine=SamplingEngine.VLLM)
    local = open_sampler(model, engine=SamplingEngine.TRANSFORMERS)

    assert written == ["adapter", "merged"]
    assert isinstance(served, VllmSampler)
    assert not isinstance(local, VllmSampler)
    served.close()
    local.close()


def test_the_seam_wants_an_address(folder: Path) -> None:
    with pytest.raises(SamplingError, match="address of a vLLM server"):
        open_sampler(folder, engine=SamplingEngine.VLLM)
