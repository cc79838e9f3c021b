"""Settings: one schema, one conversion, and a clear word about each mistake."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from lm.settings import SettingsError, load_settings, save_settings, schema_of, to_settings


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class RangeError(Exception):
    """As a package above this one would raise it."""


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 3
    colour: Colour = Colour.RED

    def __post_init__(self) -> None:
        if self.size < 1:
            raise RangeError(f"Expected inner.size of at least 1, got {self.size}.")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "x"
    rate: float = 0.5
    limit: int | None = None
    names: list[str] = field(default_factory=lambda: ["a"])
    weights: dict[str, float] | None = None
    others: dict[str, Inner] | None = None
    inner: Inner = field(default_factory=lambda: Inner(size=7))


def compose(values: dict[str, object]) -> DictConfig:
    return OmegaConf.create(values)


def test_nothing_given_yields_the_defaults_and_those_of_nested_settings() -> None:
    assert to_settings(Outer, compose({})) == Outer()


def test_what_one_file_says_leaves_no_trace_in_the_next() -> None:
    first = to_settings(
        Outer,
        compose(
            {
                "names": ["b"],
                "weights": {"a": 1},
                "others": {"north": {"size": 9}},
                "inner": {"size": 1},
            }
        ),
    )
    first.names.append("c")

    assert to_settings(Outer, compose({})) == Outer()


def test_values_arrive_typed_and_enums_by_their_text() -> None:
    settings = to_settings(
        Outer, compose({"rate": 2, "limit": "4", "inner": {"colour": "blue"}, "weights": {"a": 1}})
    )

    expected = Outer(rate=2.0, limit=4, inner=Inner(size=7, colour=Colour.BLUE), weights={"a": 1.0})
    assert settings == expected


def test_a_saved_file_reads_back_equal(tmp_path: Path) -> None:
    settings = Outer(
        name="y",
        names=["b", "c"],
        inner=Inner(colour=Colour.BLUE),
        others={"north": Inner(size=3, colour=Colour.BLUE)},
    )

    save_settings(settings, tmp_path / "settings.yaml")

    assert load_settings(Outer, tmp_path / "settings.yaml") == settings


def test_a_dataclass_has_one_twin() -> None:
    """OmegaConf compares types by identity when it merges."""
    assert schema_of(Outer) is schema_of(Outer)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"nme": "y"}, "nme"),
        ({"inner": {"colr": "red"}}, "inner.colr"),
        ({"inner": {"size": "many"}}, "inner.size"),
        ({"inner": {"colour": "green"}}, "inner.colour to be one of red, blue"),
        ({"inner": 3}, "inner"),
        ({"names": 3}, "names"),
        ({"others": {"north": {"colour": "green"}}}, "others.north.colour to be one of red"),
        ({"others": {"north": {"colr": "red"}}}, "In others.north: Expected a known key"),
        ({"others": {"north": 3}}, "In others.north: "),
        ({"weights": {"north": "many"}}, "In weights.north: "),
        ({"weights": 3}, "weights to be a mapping"),
    ],
)
def test_a_mistake_is_named_in_one_line(values: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        to_settings(Outer, compose(values))

    assert named.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"a: [", b"- 1\n- 2\n", b"\xff\xfe"])
def test_a_file_that_is_no_settings_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)

    with pytest.raises(SettingsError, match=r"settings\.yaml"):
        load_settings(Outer, file)


def test_the_file_is_named_whose_value_a_dataclass_refuses(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("inner: {size: 0}\n", encoding="utf-8")

    with pytest.raises(RangeError, match=f"^In {file}: Expected inner.size of at least 1, got 0"):
        load_settings(Outer, file)


@pytest.mark.parametrize(
    ("content", "named"), [("name: ${x\n", "got name: no viable"), ("null: 3\n", "key type")]
)
def test_a_value_or_key_that_cannot_be_taken_apart_is_one_line(
    tmp_path: Path, content: str, named: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content, encoding="utf-8")

    with pytest.raises(SettingsError, match=f"In {file}: Expected a known key.*{named}") as caught:
        load_settings(Outer, file)
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_of_digits_is_a_name(tmp_path: Path) -> None:
    """YAML takes it for a number, as of a client that is called 1."""
    file = tmp_path / "settings.yaml"
    file.write_text("weights: {1: 2}\nothers: {7: {size: 5}}\n", encoding="utf-8")

    settings = load_settings(Outer, file)

    assert settings.weights == {"1": 2.0}
    assert settings.others == {"7": Inner(size=5)}


def test_the_line_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("name: y\nrate: 0.5\ninner: [1\nlimit: 3\n")

    with pytest.raises(SettingsError, match=r"settings\.yaml.* in line 4: "):
        load_settings(Outer, file)


@pytest.mark.parametrize("content", ["name: y\n", "inner:\n  size: 1\n"])
def test_a_group_that_must_be_whole_takes_no_defaults(tmp_path: Path, content: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content)

    with pytest.raises(SettingsError, match=r"to state all of inner, found no inner\."):
        load_settings(Outer, file, whole=("inner",))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.yaml"):
        load_settings(Outer, tmp_path / "absent.yaml")
