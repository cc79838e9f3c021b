"""Hypothesis strategies for all protocol types, shared by every test that states a property."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from protocol.artifacts import SECONDS_PER_DAY, AdapterWeights, Certificate, LoraShape, Release
from protocol.errors import RefusalCode
from protocol.ledger import DpSgdEvent, PrivacyLedger, PrivacyUnit, ProxyKind
from protocol.messages import (
    HelloReply,
    HelloRequest,
    Message,
    Refusal,
    ReleaseReply,
    TrainingRequest,
    WarmTrainingRequest,
)

proxies = st.sampled_from(ProxyKind)
units = st.sampled_from(PrivacyUnit)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
versions = st.integers(1, 1000)
instructions = st.text(
    st.characters(exclude_categories=["C", "Z"], include_characters=" \n"), max_size=80
)
epsilons = st.floats(0.0, 1e6) | st.just(float("inf"))
fractions = st.floats(1e-9, 0.999)


def dp_sgd_events(
    *, min_noise: float = 0.0, max_noise: float = 50.0, max_steps: int = 100_000
) -> SearchStrategy[DpSgdEvent]:
    """Events; raise `min_noise` for those that an accountant can price quickly."""
    return st.builds(
        DpSgdEvent,
        proxy=proxies,
        noise_multiplier=st.floats(min_noise, max_noise),
        sample_rate=st.floats(1e-4, 1.0),
        steps=st.integers(1, max_steps),
    )


privacy_ledgers: SearchStrategy[PrivacyLedger] = st.builds(
    PrivacyLedger,
    unit=units,
    events=st.lists(dp_sgd_events(), min_size=1, max_size=4).map(tuple),
    epsilon=epsilons,
    delta=fractions,
    accountant=st.just("an accountant"),
    accountant_version=st.just("1.2.3"),
    reproducible_noise=st.booleans(),
)

lora_shapes: SearchStrategy[LoraShape] = st.builds(
    LoraShape,
    rank=st.integers(1, 64),
    alpha=st.floats(0.01, 1000.0),
    target_modules=st.lists(
        st.sampled_from(["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]),
        min_size=1,
        unique=True,
    ).map(tuple),
    num_upper_layers=st.none() | st.integers(1, 100),
    use_rslora=st.booleans(),
)


@st.composite
def adapter_weights(draw: st.DrawFn) -> AdapterWeights:
    """Weights of a few small arrays; values may be infinite or not a number."""
    keys = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    values = st.floats(width=32)
    tensors = {}
    for key in keys:
        shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
        size = int(np.prod(shape))
        flat = draw(st.lists(values, min_size=size, max_size=size))
        tensors[key] = np.array(flat, dtype=np.float32).reshape(shape)
    return AdapterWeights(tensors=tensors)


@st.composite
def certificates(draw: st.DrawFn) -> Certificate:
    """Certificates; well-formed, and true only by accident."""
    proxy = draw(proxies)
    return Certificate(
        protocol_version=draw(versions),
        software_version="0.1.0",
        client_name=draw(names),
        run_id=draw(names),
        proxy=proxy,
        privacy=draw(privacy_ledgers),
        declared_size=draw(st.integers(1, 10**9)),
        lora=draw(lora_shapes),
        has_reward_head=proxy is ProxyKind.REWARD,
        base_model_digest=draw(digests),
        weights_digest=draw(digests),
        code_digest=draw(digests),
        instruction=draw(instructions),
        max_prompt_tokens=draw(st.integers(1, 4096)),
        max_response_tokens=draw(st.integers(1, 4096)),
        created_at=draw(st.integers(0, 30_000)) * SECONDS_PER_DAY,
        start_digest=draw(st.none() | digests),
    )


@st.composite
def warm_training_requests(draw: st.DrawFn) -> WarmTrainingRequest:
    """Requests with starting weights that they name."""
    start = draw(adapter_weights())
    return WarmTrainingRequest(
        request=TrainingRequest(
            protocol_version=draw(versions),
            run_id=draw(names),
            proxy=draw(proxies),
            base_model_digest=draw(digests),
            start_digest=start.digest(),
        ),
        start=start,
    )


releases: SearchStrategy[Release] = st.builds(
    Release,
    certificate=certificates(),
    signature=st.binary(min_size=64, max_size=64),
    public_key=st.binary(min_size=32, max_size=32),
    weights=adapter_weights(),
)

messages: SearchStrategy[Message] = st.one_of(
    st.builds(HelloRequest, protocol_version=versions),
    st.builds(
        HelloReply,
        protocol_version=versions,
        software_version=st.just("0.1.0"),
        client_name=names,
        public_key=digests,
        base_model_digest=digests,
        declared_size=st.integers(1, 10**9),
        privacy_unit=units,
        epsilon_cap=st.none() | epsilons,
        generator_start=st.none() | lora_shapes,
        reward_start=st.none() | lora_shapes,
    ),
    st.builds(
        TrainingRequest,
        protocol_version=versions,
        run_id=names,
        proxy=proxies,
        base_model_digest=digests,
        target_epsilon=st.none() | st.floats(1e-3, 1e3),
        target_delta=st.none() | fractions,
        steps=st.none() | st.integers(1, 10_000),
        start_digest=st.none() | digests,
    ),
    warm_training_requests(),
    st.builds(ReleaseReply, release=releases),
    st.builds(Refusal, code=st.sampled_from(RefusalCode)),
)
