"""Each flaw of a hello is seen by itself, where nothing else would give it away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol import PROTOCOL_VERSION, SOFTWARE_VERSION
from protocol.errors import AdmissionCode
from protocol.ledger import PrivacyUnit
from protocol.messages import HelloReply
from server_side.admission_checks import AdmissionPolicy
from server_side.exchange.greeting import cap_warning, judge_hello

KEY, OTHER = "a" * 64, "b" * 64
POLICY = AdmissionPolicy(
    run_id="run",
    base_model_digest="c" * 64,
    client_keys={"ward": frozenset({KEY}), "clinic": frozenset({OTHER})},
)
HELLO = HelloReply(
    protocol_version=PROTOCOL_VERSION,
    software_version=SOFTWARE_VERSION,
    client_name="ward",
    public_key=KEY,
    base_model_digest="c" * 64,
    declared_size=10,
    privacy_unit=PrivacyUnit.RECORD,
)


def test_a_client_that_fits_may_take_part() -> None:
    assert judge_hello(HELLO, policy=POLICY, registered="ward", taken={"clinic", ""}) is None


@pytest.mark.parametrize(
    ("reply", "registered", "taken", "code", "words"),
    [
        # The other client is away, and its public key is known to everybody.
        (HELLO, "clinic", set(), AdmissionCode.CLIENT, "node of clinic calls itself ward"),
        (HELLO, "", {"ward"}, AdmissionCode.CLIENT, "Two nodes call themselves ward"),
        (
            replace(HELLO, public_key=OTHER),
            "ward",
            set(),
            AdmissionCode.UNKNOWN_KEY,
            "signs with another key",
        ),
        (
            replace(HELLO, software_version="9.9.9"),
            "ward",
            set(),
            AdmissionCode.VERSION,
            "found 9.9.9",
        ),
        (
            replace(HELLO, base_model_digest="d" * 64),
            "ward",
            set(),
            AdmissionCode.BASE_MODEL,
            "found dddd",
        ),
    ],
)
def test_a_flaw_is_named(
    reply: HelloReply, registered: str, taken: set[str], code: AdmissionCode, words: str
) -> None:
    flaw = judge_hello(reply, policy=POLICY, registered=registered, taken=taken)

    assert flaw is not None
    assert flaw[0] is code
    assert words in flaw[1]


def test_a_client_keeps_to_the_key_of_what_is_admitted_of_it() -> None:
    """Allowed again with another key, it would pay for a release that cannot join the first."""
    flaw = judge_hello(HELLO, policy=POLICY, registered="ward", taken=(), bound_to={OTHER})

    assert flaw is not None
    assert flaw[0] is AdmissionCode.UNKNOWN_KEY
    assert "bring the old signing_key back" in flaw[1]
    assert judge_hello(HELLO, policy=POLICY, registered="ward", taken=(), bound_to={KEY}) is None


def test_a_cap_above_what_the_server_admits_is_said_before_anybody_pays() -> None:
    within, above = (replace(HELLO, epsilon_cap=cap) for cap in (POLICY.max_epsilon, 20.0))

    said = cap_warning(above, policy=POLICY)

    assert cap_warning(HELLO, policy=POLICY) is None
    assert cap_warning(within, policy=POLICY) is None
    assert said is not None
    assert "ward may spend ε = 20" in said
    assert "max_epsilon=8" in said
