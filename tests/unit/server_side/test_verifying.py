"""Stored releases, checked again: each way of tampering has the code that admission gives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from lm.settings import save_settings
from protocol.artifacts import AdapterWeights, sign_release
from protocol.documents import to_document
from protocol.errors import AdmissionCode, ConfigurationError
from protocol.ledger import ProxyKind
from protocol.messages import ReleaseReply
from protocol.wire import encode_bytes
from server_side.admission import AdmissionPolicy
from server_side.config import ServerConfig
from server_side.exchange.outcome import write_outcome
from server_side.verifying import (
    find_releases,
    find_run_id,
    find_settings,
    verify_releases,
    with_limits,
)
from tests.support.releases import (
    BASE_MODEL_DIGEST,
    OTHER_KEY,
    PUBLIC_KEY,
    RUN_ID,
    SIGNING_KEY,
    expected_shapes,
    make_events,
    make_ledger,
    make_reply,
    make_tensors,
)

POLICY = AdmissionPolicy(run_id=RUN_ID, base_model_digest=BASE_MODEL_DIGEST)


def store(folder: Path, reply: ReleaseReply, name: str = "clinic-a.generator") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.release"
    file.write_bytes(encode_bytes(reply))
    readable = json.dumps(to_document(reply.release.certificate))
    (folder / f"{name}.certificate.json").write_text(readable)
    return file


def codes(*files: Path, policy: AdmissionPolicy = POLICY) -> list[AdmissionCode | None]:
    verdicts = verify_releases(files, policy=policy, expected_shapes=expected_shapes)
    return [verdict.code for verdict in verdicts]


def with_nan() -> ReleaseReply:
    """Sign weights that are not a number, which egress would never let out."""
    certificate = make_reply().release.certificate
    tensors = {name: np.full_like(tensor, np.nan) for name, tensor in make_tensors().items()}
    weights = AdapterWeights(tensors=tensors)
    certificate = replace(certificate, weights_digest=weights.digest())
    return ReleaseReply(release=sign_release(certificate, weights=weights, signing_key=SIGNING_KEY))


def with_changed(**changes: object) -> ReleaseReply:
    """Change a signed release without signing again."""
    return ReleaseReply(release=replace(make_reply().release, **changes))  # type: ignore[arg-type]


def with_other_weights() -> ReleaseReply:
    tensors = {name: tensor + 1 for name, tensor in make_tensors().items()}
    return with_changed(weights=AdapterWeights(tensors=tensors))


def with_other_statement() -> ReleaseReply:
    certificate = make_reply().release.certificate
    return with_changed(certificate=replace(certificate, declared_size=7))


def with_overstated_epsilon() -> ReleaseReply:
    return make_reply(ledger=make_ledger(epsilon=7.5))


def with_seeded_noise() -> ReleaseReply:
    return make_reply(ledger=make_ledger(reproducible_noise=True))


def without_noise() -> ReleaseReply:
    events = [replace(event, noise_multiplier=0.0) for event in make_events()]
    return make_reply(ledger=make_ledger(events))


def test_both_releases_of_a_client_pass(tmp_path: Path) -> None:
    store(tmp_path, make_reply())
    store(tmp_path, make_reply(proxy=ProxyKind.REWARD), "clinic-a.reward")

    assert codes(*find_releases(tmp_path)) == [None, None]


@pytest.mark.parametrize(
    ("generator", "reward", "code"),
    [(slice(1), slice(2), None), (slice(2), slice(1, 2), AdmissionCode.UNACCOUNTED)],
    ids=["goes-on", "forgets"],
)
def test_the_reward_proxys_ledger_goes_on_with_the_generators_whichever_file_comes_first(
    tmp_path: Path, generator: slice, reward: slice, code: AdmissionCode | None
) -> None:
    events = make_events()
    ledgers = {
        ProxyKind.REWARD: make_ledger(events[reward]),
        ProxyKind.GENERATOR: make_ledger(events[generator]),
    }
    for name, (proxy, ledger) in zip("ab", ledgers.items(), strict=True):
        store(tmp_path, make_reply(proxy=proxy, ledger=ledger), name)

    assert codes(*find_releases(tmp_path)) == [None, code]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (with_other_statement, AdmissionCode.SIGNATURE),
        (lambda: with_changed(public_key=bytes(32)), AdmissionCode.SIGNATURE),
        (lambda: make_reply(run_id="run-2"), AdmissionCode.RUN),
        (lambda: make_reply(base_model_digest="00" * 32), AdmissionCode.BASE_MODEL),
        (without_noise, AdmissionCode.NOT_PRIVATE),
        (with_seeded_noise, AdmissionCode.REPRODUCIBLE_NOISE),
        (lambda: make_reply(ledger=make_ledger(delta=1e-3)), AdmissionCode.DELTA),
        (with_nan, AdmissionCode.NOT_FINITE),
        (with_other_weights, AdmissionCode.WEIGHTS_DIGEST),
        (with_overstated_epsilon, AdmissionCode.ARITHMETIC),
    ],
)
def test_tampering_is_named_by_the_first_check_that_fails(
    tmp_path: Path, make: Callable[[], ReleaseReply], code: AdmissionCode
) -> None:
    assert codes(store(tmp_path, make())) == [code]


def test_a_cut_file_is_malformed(tmp_path: Path) -> None:
    file = store(tmp_path, make_reply())
    file.write_bytes(file.read_bytes()[:-1])

    assert codes(file) == [AdmissionCode.MALFORMED]


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = store(tmp_path, make_reply())
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=AssertionError("it was read")))

    assert codes(file, policy=replace(POLICY, max_release_bytes=100)) == [AdmissionCode.OVERSIZE]


def test_a_copy_under_another_name_is_a_replay(tmp_path: Path) -> None:
    files = store(tmp_path, make_reply(), "a"), store(tmp_path, make_reply(), "b")

    assert codes(*files) == [None, AdmissionCode.REPLAY]


def test_one_bad_file_does_not_hide_the_next(tmp_path: Path) -> None:
    files = store(tmp_path, with_nan(), "a"), store(tmp_path, make_reply(), "b")

    assert codes(*files) == [AdmissionCode.NOT_FINITE, None]


def test_a_key_that_was_not_named_is_unknown(tmp_path: Path) -> None:
    policy = replace(POLICY, allowed_public_keys=(PUBLIC_KEY,))

    assert codes(store(tmp_path, make_reply()), policy=policy) == [None]
    assert codes(store(tmp_path, make_reply(signing_key=OTHER_KEY)), policy=policy) == [
        AdmissionCode.UNKNOWN_KEY
    ]


def test_a_readable_certificate_that_says_something_else_is_noticed(tmp_path: Path) -> None:
    """People read the JSON beside a release, and nobody signed that."""
    file = store(tmp_path, make_reply())
    readable = tmp_path / "clinic-a.generator.certificate.json"
    readable.write_text(readable.read_text().replace('"declared_size": 1000', '"declared_size": 9'))

    assert codes(file) == [AdmissionCode.SIGNATURE]


@pytest.mark.parametrize("place", ["", "releases", "server/releases", "ledger/releases"])
def test_releases_are_found_in_each_kind_of_folder(tmp_path: Path, place: str) -> None:
    file = store(tmp_path / place, make_reply())

    assert find_releases(tmp_path) == (file,)
    assert find_releases(file) == (file,)


def test_a_folder_without_releases_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\*\.release"):
        find_releases(tmp_path)


def test_the_run_is_read_from_beside_the_releases(tmp_path: Path) -> None:
    file = store(tmp_path / "releases", make_reply(run_id="from-json"))
    assert find_run_id([file]) == "from-json"

    (tmp_path / "run_id").write_text("from-file\n")
    assert find_run_id([file]) == "from-file"

    write_outcome(tmp_path, run_id="from-outcome", error=None, outcomes=())
    assert find_run_id([file]) == "from-outcome"


@pytest.mark.parametrize("text", ["[]", "{}", '{"run_id": 1}', '{"run_id": ""}', '"run"'])
def test_a_file_that_names_no_run_is_passed_over(tmp_path: Path, text: str) -> None:
    file = store(tmp_path / "releases", make_reply(run_id="from-json"))
    (tmp_path / "exchange.json").write_text(text)
    (tmp_path / "run_id").write_text("\n")

    assert find_run_id([file]) == "from-json"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"run_id": 1}'])
def test_a_run_that_nothing_tells_must_be_named(tmp_path: Path, text: str) -> None:
    file = store(tmp_path / "releases", make_reply())
    (tmp_path / "releases" / "clinic-a.generator.certificate.json").write_text(text)

    with pytest.raises(ConfigurationError, match="--run-id"):
        find_run_id([file])


def test_settings_are_those_of_the_server_that_stored_them(tmp_path: Path) -> None:
    file = store(tmp_path / "releases", make_reply())
    assert find_settings([file]) is None

    save_settings(ServerConfig(seed=41), tmp_path / "server_node.yaml")

    settings = find_settings([file])
    assert settings is not None
    assert settings.seed == 41


def test_what_was_given_takes_the_place_of_settings() -> None:
    config = ServerConfig()

    same = with_limits(config, base_model=None, max_epsilon=None, max_delta=None, public_keys=())
    other = with_limits(
        config, base_model="folder", max_epsilon=3.0, max_delta=1e-6, public_keys=(PUBLIC_KEY,)
    )

    assert same == config
    assert other.base_model == "folder"
    assert (other.admission.max_epsilon, other.admission.max_delta) == (3.0, 1e-6)
    assert other.admission.allowed_public_keys == [PUBLIC_KEY]
