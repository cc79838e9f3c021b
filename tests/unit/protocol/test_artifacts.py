from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given

from protocol.artifacts import AdapterWeights, LoraShape, digest_code, sign_release
from protocol.errors import (
    ConfigurationError,
    MalformedMessageError,
    SignatureError,
    UnexpectedTensorError,
)
from protocol.ledger import ProxyKind
from tests.strategies import adapter_weights
from tests.support.releases import LORA, OTHER_KEY, make_reply, make_tensors


@given(weights=adapter_weights())
def test_weights_survive_bytes_unchanged(weights: AdapterWeights) -> None:
    again = AdapterWeights.from_bytes(weights.to_bytes())

    assert again == weights
    assert again.digest() == weights.digest()


def test_weights_are_copied_and_read_only() -> None:
    """Otherwise the weights could change after their digest was signed."""
    tensors = make_tensors()
    weights = AdapterWeights(tensors=tensors)
    digest = weights.digest()
    name = next(iter(tensors))

    tensors[name][...] = 0

    assert weights.digest() == digest
    with pytest.raises(ValueError, match="read-only"):
        weights.tensors[name][...] = 0


def test_digest_does_not_depend_on_the_order_of_names() -> None:
    tensors = make_tensors()
    turned = dict(reversed(list(tensors.items())))

    assert AdapterWeights(tensors=tensors).digest() == AdapterWeights(tensors=turned).digest()


def test_digest_tells_a_changed_bit() -> None:
    tensors = make_tensors()
    before = AdapterWeights(tensors=tensors).digest()
    name = next(iter(tensors))
    tensors[name].flat[0] = np.nextafter(tensors[name].flat[0], np.float32(9))

    assert AdapterWeights(tensors=tensors).digest() != before


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"w": np.zeros(3, dtype=np.float64)},
        {"w": np.zeros(3, dtype=np.int64)},
        {"w": np.array(["text"], dtype=object)},
        {"w": [0.0]},
    ],
)
def test_weights_refuse_what_is_not_float32(tensors: Any) -> None:
    with pytest.raises(UnexpectedTensorError):
        AdapterWeights(tensors=tensors)


def _with_metadata() -> bytes:
    return bytes(safetensors.numpy.save(make_tensors(), metadata={"note": "hello"}))


def _as_float64() -> bytes:
    return bytes(safetensors.numpy.save({"w": np.zeros(2)}))


def _with_another_header() -> bytes:
    data = AdapterWeights(tensors=make_tensors()).to_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b",", b", ")
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 8,
        b"\xff" * 64,
        (10 * 2**30).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        b"\x80\x04\x95",
        b"\x93NUMPY\x01\x00",
        _with_metadata(),
        _as_float64(),
        _with_another_header(),
        AdapterWeights(tensors=make_tensors()).to_bytes() + b"\x00",
        AdapterWeights(tensors=make_tensors()).to_bytes()[:-1],
    ],
    ids=[
        "empty",
        "empty-header",
        "ones",
        "announces-ten-gigabytes",
        "no-tensors",
        "pickle",
        "numpy",
        "metadata",
        "float64",
        "other-spacing",
        "longer",
        "shorter",
    ],
)
def test_bytes_that_are_no_weights_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        AdapterWeights.from_bytes(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", 0),
        ("alpha", 0.0),
        ("alpha", float("nan")),
        ("target_modules", ()),
        ("target_modules", ("q_proj", "q_proj")),
        ("target_modules", ("../weights",)),
        ("num_upper_layers", 0),
    ],
)
def test_lora_shape_refuses_a_value_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError):
        replace(LORA, **{field: value})


def test_lora_shape_takes_all_layers() -> None:
    shape = LoraShape(
        rank=4, alpha=8, target_modules=("q_proj",), num_upper_layers=None, use_rslora=True
    )

    assert shape.alpha == 8.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("client_name", "../clinic"),
        ("run_id", "run 1"),
        ("base_model_digest", "AB" * 32),
        ("instruction", "bell \x07"),
        ("created_at", 1),
        ("proxy", ProxyKind.REWARD),
        ("declared_size", 0),
        ("max_prompt_tokens", 0),
    ],
)
def test_certificate_refuses_a_statement_out_of_range(field: str, value: Any) -> None:
    certificate = make_reply().release.certificate

    with pytest.raises(ConfigurationError):
        replace(certificate, **{field: value})


def test_signature_of_an_untouched_release_is_right() -> None:
    make_reply().release.verify_signature()


def test_signature_does_not_fit_another_certificate() -> None:
    release = make_reply().release
    changed = replace(release.certificate, declared_size=1001)

    with pytest.raises(SignatureError):
        replace(release, certificate=changed).verify_signature()


def test_signature_does_not_fit_another_key() -> None:
    release = make_reply().release
    other = sign_release(release.certificate, weights=release.weights, signing_key=OTHER_KEY)

    with pytest.raises(SignatureError):
        replace(release, public_key=other.public_key).verify_signature()


@pytest.fixture
def two_places(tmp_path: Path) -> tuple[Path, Path]:
    """The same package of one file, in two folders."""
    packages = tmp_path / "here" / "package", tmp_path / "there" / "package"
    for package in packages:
        package.mkdir(parents=True)
        (package / "module.py").write_text("x = 1\n")
    return packages


def test_code_digest_does_not_follow_the_place(two_places: tuple[Path, Path]) -> None:
    here, there = two_places

    assert digest_code([here]) == digest_code([there])


@pytest.mark.parametrize(
    "change",
    [
        lambda package: (package / "module.py").write_text("x = 2\n"),
        lambda package: (package / "module.py").rename(package / "other.py"),
        lambda package: (package / "more.py").write_text(""),
    ],
    ids=["content", "name", "one more"],
)
def test_code_digest_follows_names_and_contents(
    two_places: tuple[Path, Path], change: Callable[[Path], object]
) -> None:
    here, there = two_places

    change(there)

    assert digest_code([here]) != digest_code([there])


def test_code_digest_follows_the_name_of_the_package(two_places: tuple[Path, Path]) -> None:
    here, there = two_places

    renamed = there.rename(there.with_name("other"))

    assert digest_code([here]) != digest_code([renamed])
