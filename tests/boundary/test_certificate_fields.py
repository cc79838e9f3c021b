"""Every field of a certificate, tampered with: found in the types, so that none can be forgotten.

Two ways for each field. Changed after signing, it breaks the signature. Changed before signing, by
a client that lies under its own key, it has the code of the check that sees the lie; or it stands
in `UNSEEN` with the reason why no server could. A new field without an entry fails.

The same two ways hold for `rewardds-privacy verify`, which runs the same checks offline.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from lm.adapter_shapes import expected_adapter_shapes
from protocol.artifacts import Certificate, LoraShape, Release, sign_release
from protocol.documents import from_document, to_document
from protocol.errors import AdmissionCode, AdmissionError, MalformedMessageError
from protocol.ledger import DpSgdEvent, PrivacyLedger, ProxyKind
from protocol.messages import ReleaseReply
from protocol.wire import decode_bytes, encode_bytes
from server_side.admission import AdmissionPolicy, ExpectedShapes, admit
from server_side.verifying import verify_releases
from tests.support.hostile import edit_body
from tests.support.releases import (
    BASE_MODEL_DIGEST,
    CODE_DIGEST,
    LORA,
    OTHER_KEY,
    PUBLIC_KEY,
    RUN_ID,
    SIGNING_KEY,
    make_reply,
)

POLICY: Final = AdmissionPolicy(
    run_id=RUN_ID,
    base_model_digest=BASE_MODEL_DIGEST,
    allowed_public_keys=(PUBLIC_KEY,),
    allowed_code_digests=(CODE_DIGEST,),
)


def leaves(kind: type, path: str = "") -> Iterator[str]:
    """Name every field of a type that is no structure itself, as `privacy.events.steps`."""
    for name, hint in typing.get_type_hints(kind).items():
        inner = [hint, *typing.get_args(hint)]
        structures = [item for item in inner if dataclasses.is_dataclass(item)]
        if structures:
            yield from leaves(typing.cast(type, structures[0]), f"{path}{name}.")
        else:
            yield f"{path}{name}"


FIELDS: Final = tuple(leaves(Certificate))

OTHER: Final[dict[str, Any]] = {
    "protocol_version": 1,
    "software_version": "9.9.9",
    "client_name": "clinic-b",
    "run_id": "run-0",
    "proxy": "reward",
    "privacy.unit": "group",
    "privacy.relation": "replace_one",
    "privacy.events.proxy": "reward",
    "privacy.events.noise_multiplier": 2.0,
    "privacy.events.sample_rate": 0.01,
    "privacy.events.steps": 9,
    "privacy.epsilon": 0.1,
    "privacy.delta": 9e-6,
    "privacy.accountant": "another accountant",
    "privacy.accountant_version": "0.0.0",
    "privacy.reproducible_noise": True,
    "declared_size": 10**6,
    "lora.rank": 2,
    "lora.alpha": 17.0,
    "lora.target_modules": ["v_proj"],
    "lora.num_upper_layers": 1,
    "lora.use_rslora": True,
    "has_reward_head": True,
    "base_model_digest": "ef" * 32,
    "weights_digest": "ef" * 32,
    "code_digest": "ef" * 32,
    "instruction": "Answer the other message.",
    "max_prompt_tokens": 65,
    "max_response_tokens": 97,
    "created_at": 86_400,
    "start_digest": "ef" * 32,
}
"""Another value for each field, which its type alone would let through where one exists."""

# That noise is secret can be claimed by anybody; the code sees the admission that it is not.
CODES: Final[dict[str, AdmissionCode]] = {
    "protocol_version": AdmissionCode.VERSION,
    "client_name": AdmissionCode.CLIENT,
    "run_id": AdmissionCode.RUN,
    "proxy": AdmissionCode.MALFORMED,
    "privacy.relation": AdmissionCode.MALFORMED,
    "privacy.events.proxy": AdmissionCode.UNACCOUNTED,
    "privacy.events.noise_multiplier": AdmissionCode.ARITHMETIC,
    "privacy.events.sample_rate": AdmissionCode.ARITHMETIC,
    "privacy.events.steps": AdmissionCode.ARITHMETIC,
    "privacy.epsilon": AdmissionCode.ARITHMETIC,
    "privacy.delta": AdmissionCode.ARITHMETIC,
    "privacy.reproducible_noise": AdmissionCode.REPRODUCIBLE_NOISE,
    "lora.rank": AdmissionCode.TENSOR_SHAPES,
    "lora.target_modules": AdmissionCode.TENSOR_NAMES,
    "lora.num_upper_layers": AdmissionCode.TENSOR_NAMES,
    "has_reward_head": AdmissionCode.MALFORMED,
    "start_digest": AdmissionCode.START,
    "base_model_digest": AdmissionCode.BASE_MODEL,
    "weights_digest": AdmissionCode.WEIGHTS_DIGEST,
    "code_digest": AdmissionCode.CODE,
}
"""What is seen of a lie that was signed."""

UNSEEN: Final[dict[str, str]] = {
    "software_version": "informs; what ran is named by code_digest",
    "privacy.unit": "only the client knows how it counted; both proxies must say the same",
    "privacy.accountant": "informs; epsilon is computed again with the server's own accountant",
    "privacy.accountant_version": "as for accountant",
    "declared_size": "public and the operator's word; the sample rates in the events count",
    "lora.alpha": "fits any weights; another scale makes the client's own proxy worse",
    "lora.use_rslora": "as for alpha",
    "instruction": "public and the operator's word",
    "max_prompt_tokens": "how far training read is the client's own affair",
    "max_response_tokens": "as for max_prompt_tokens",
    "created_at": "informs; releases are bound to a run, not to a day",
}
"""Which signed lies no server could see, and why they do not weaken what it relies on."""


@pytest.fixture(scope="module")
def shapes(tiny_llama: Path) -> ExpectedShapes:
    return lambda lora, has_reward_head: expected_adapter_shapes(
        tiny_llama, lora, has_reward_head=has_reward_head
    )


@pytest.fixture(scope="module")
def genuine(shapes: ExpectedShapes) -> Release:
    expected = shapes(LORA, False)
    tensors = {name: np.ones(shape, dtype=np.float32) for name, shape in expected.items()}
    return make_reply(tensors=tensors, shapes=expected).release


def set_field(document: Any, field: str, value: Any) -> None:
    """Set a field of a certificate's document; of a list, that of the first entry."""
    *parents, last = field.split(".")
    for name in parents:
        document = document[name]
        document = document[0] if isinstance(document, list) else document
    assert document[last] != value, f"{field} has this value already"
    document[last] = value


def tampered(release: Release, field: str) -> bytes:
    """Change one field of a stored release and leave its signature."""
    return edit_body(
        encode_bytes(ReleaseReply(release=release)),
        lambda body: set_field(body["certificate"], field, OTHER[field]),
    )


def forged(release: Release, field: str) -> bytes:
    """Change one field and sign that, as a client can that lies."""
    document = to_document(release.certificate)
    set_field(document, field, OTHER[field])
    certificate = from_document(Certificate, document)
    lie = sign_release(certificate, weights=release.weights, signing_key=SIGNING_KEY)
    return encode_bytes(ReleaseReply(release=lie))


def enter(data: bytes, shapes: ExpectedShapes) -> AdmissionCode | None:
    """Admit what the named client sent; give the code where it was not admitted."""
    try:
        admit(data, policy=POLICY, expected_shapes=shapes, client_name="clinic-a")
    except AdmissionError as error:
        return error.code
    except MalformedMessageError:
        return AdmissionCode.MALFORMED
    return None


def verify(file: Path, shapes: ExpectedShapes) -> AdmissionCode | None:
    (verdict,) = verify_releases([file], policy=POLICY, expected_shapes=shapes)
    return verdict.code


Verifier = Callable[[bytes, ExpectedShapes], AdmissionCode | None]


@pytest.fixture(params=["admission", "verify"])
def look(request: pytest.FixtureRequest, tmp_path: Path) -> Verifier:
    if request.param == "admission":
        return enter

    def look_at_file(data: bytes, shapes: ExpectedShapes) -> AdmissionCode | None:
        file = tmp_path / "clinic-a.generator.release"
        file.write_bytes(data)
        return verify(file, shapes)

    return look_at_file


def test_every_field_has_an_entry_and_every_entry_a_field() -> None:
    """A new field needs another value, and the code that sees a lie or the reason for none."""
    assert set(OTHER) == set(FIELDS)
    assert set(CODES) | set(UNSEEN) == set(FIELDS)
    assert set(CODES).isdisjoint(UNSEEN)


def test_the_fields_of_all_parts_are_found() -> None:
    for part in (Certificate, PrivacyLedger, DpSgdEvent, LoraShape):
        for field in dataclasses.fields(part):
            assert any(field.name in name.split(".") for name in FIELDS)


def test_the_release_is_genuine(genuine: Release, shapes: ExpectedShapes, look: Verifier) -> None:
    assert look(encode_bytes(ReleaseReply(release=genuine)), shapes) is None


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_changed_after_signing_is_seen(
    genuine: Release, shapes: ExpectedShapes, look: Verifier, field: str
) -> None:
    """By the signature, or by a type for which the value is none."""
    code = look(tampered(genuine, field), shapes)

    is_no_value = CODES.get(field) is AdmissionCode.MALFORMED
    assert code is (AdmissionCode.MALFORMED if is_no_value else AdmissionCode.SIGNATURE)


@pytest.mark.parametrize("field", CODES)
def test_a_signed_lie_is_seen(genuine: Release, shapes: ExpectedShapes, field: str) -> None:
    if CODES[field] is AdmissionCode.MALFORMED:
        # There is no such value to sign.
        with pytest.raises(MalformedMessageError):
            forged(genuine, field)
    else:
        assert enter(forged(genuine, field), shapes) is CODES[field]


@pytest.mark.parametrize("field", UNSEEN)
def test_what_no_server_can_see_is_admitted_under_the_clients_signature(
    genuine: Release, shapes: ExpectedShapes, field: str
) -> None:
    """Whoever makes a check see one of these moves it to `CODES`."""
    data = forged(genuine, field)

    assert enter(data, shapes) is None
    # It can be held against the client.
    decode_bytes(data, ReleaseReply).release.verify_signature()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Release)])
def test_a_part_of_a_release_put_in_another_is_seen(
    genuine: Release, shapes: ExpectedShapes, look: Verifier, field: str
) -> None:
    weights = {name: -tensor for name, tensor in genuine.weights.tensors.items()}
    other = make_reply(
        tensors=weights, shapes=shapes(LORA, False), run_id=RUN_ID, signing_key=OTHER_KEY
    ).release
    mixed = replace(genuine, **{field: getattr(other, field)})

    assert (
        look(encode_bytes(ReleaseReply(release=mixed)), shapes)
        is {
            "certificate": AdmissionCode.SIGNATURE,
            "signature": AdmissionCode.SIGNATURE,
            "public_key": AdmissionCode.UNKNOWN_KEY,
            "weights": AdmissionCode.WEIGHTS_DIGEST,
        }[field]
    )


def test_another_number_of_events_is_seen(genuine: Release, shapes: ExpectedShapes) -> None:
    """A list can be tampered with as a whole: an event less, twice, or one that is not there."""
    privacy = genuine.certificate.privacy
    one = next(event for event in privacy.events if event.proxy is ProxyKind.GENERATOR)
    for events in ((one,), (*privacy.events, one), (*privacy.events, replace(one, steps=1))):
        certificate = replace(genuine.certificate, privacy=replace(privacy, events=events))
        lie = sign_release(certificate, weights=genuine.weights, signing_key=SIGNING_KEY)

        assert enter(encode_bytes(ReleaseReply(release=lie)), shapes) is AdmissionCode.ARITHMETIC


def test_the_statement_names_unit_adjacency_events_price_accountant_and_digests(
    genuine: Release,
) -> None:
    """In so many words, for whoever reads the JSON."""
    document: Any = json.loads(json.dumps(to_document(genuine.certificate)))

    assert document["privacy"]["unit"] == "record"
    assert document["privacy"]["relation"] == "add_or_remove_one"
    assert len(document["privacy"]["events"]) == 2
    assert document["privacy"]["epsilon"] > 0
    assert document["privacy"]["delta"] == 1e-5
    assert document["privacy"]["accountant"].startswith("dp_accounting PLD")
    assert document["privacy"]["accountant_version"]
    assert len({document[f"{name}_digest"] for name in ("weights", "base_model", "code")}) == 3
