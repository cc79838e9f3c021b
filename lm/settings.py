"""Settings files for either party: one schema from dataclasses, values checked once.

A party states its schema as dataclasses that validate themselves. Hydra and OmegaConf want
something a little different (mutable, and enums spelled by their Python names), so `schema_of`
makes a twin of a dataclass for composing, and `to_settings` turns what was composed into the real
thing. A key that the schema lacks is an error, and so is a value of another type.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from lm.errors import LmError

T = TypeVar("T")

# OmegaConf tells types apart by identity, so a dataclass has one twin and keeps it.
_twins: dict[type, type] = {}
# Making these takes half of the time that a file takes to be read.
_defaults: dict[type, DictConfig] = {}


class SettingsError(LmError):
    """A settings file cannot be read, or has a key or a value that its schema does not allow."""


def schema_of(kind: type) -> type:
    """Return the twin of a settings dataclass that OmegaConf can compose into.

    Args:
        kind: A dataclass of numbers, texts, enums with text values, lists, further such
            dataclasses, and mappings to any of these or None; every field has a default.

    Returns:
        A mutable dataclass of the same name, fields and defaults, which checks types only.
    """
    if kind in _twins:
        return _twins[kind]
    hints = typing.get_type_hints(kind)
    fields: list[tuple[str, Any, Any]] = []  # any hint, any default
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        default = item.default
        if default is dataclasses.MISSING:
            assert item.default_factory is not dataclasses.MISSING, f"{item.name} has no default"
            default = item.default_factory()
        fields.append((item.name, _composable(hint), _default(default)))
    _twins[kind] = dataclasses.make_dataclass(kind.__name__, fields)
    return _twins[kind]


def _defaults_of(kind: type) -> DictConfig:
    """Return the defaults as OmegaConf holds them; `merge` copies what it is given first."""
    if kind not in _defaults:
        defaults = OmegaConf.structured(schema_of(kind))
        assert isinstance(defaults, DictConfig)
        _defaults[kind] = defaults
    return _defaults[kind]


def to_settings(kind: type[T], values: DictConfig) -> T:
    """Turn composed values into the settings dataclass, which checks them.

    Args:
        kind: The dataclass.
        values: What was composed into `schema_of(kind)`.

    Returns:
        The settings.

    Raises:
        SettingsError: A choice is none of those that exist, or a value has the wrong type.
    """
    try:
        typed = OmegaConf.merge(_defaults_of(kind), values)
        plain = OmegaConf.to_container(typed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise SettingsError(explain(error)) from None
    assert isinstance(plain, dict)
    settings = _build(kind, plain, path="")
    assert isinstance(settings, kind)
    return settings


def load_settings(
    kind: type[T], file: Path, *, whole: Sequence[str] = (), has_all_keys: bool = False
) -> T:
    """Read a settings file.

    Args:
        kind: The dataclass that it fills; what the file leaves out keeps its default.
        file: A YAML file.
        whole: Groups that must be there with every key, since a file that was cut off would else
            fall back to defaults without a word.
        has_all_keys: Whether each key of the file itself must be there, for the same reason.

    Returns:
        The settings.

    Raises:
        SettingsError: The file is missing, is not YAML, has an unknown key or a wrong value, or
            lacks one that must be there.
    """
    try:
        values = OmegaConf.load(file)
    except MarkedYAMLError as error:
        place = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(
            f"Expected YAML in {file}, found what is none{place}: {error.problem}. Mend that line."
        ) from None
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise SettingsError(
            f"Expected a settings file at {file}, got {type(error).__name__}. "
            "Write one, or name the folder that has it."
        ) from None
    except OmegaConfBaseException as error:  # a torn `${`, or a key that can be none
        raise SettingsError(f"In {file}: {explain(error)}") from None
    if not isinstance(values, DictConfig):
        raise SettingsError(f"Expected `key: value` lines in {file}, got a list. Mend the file.")
    try:
        settings = to_settings(kind, values)
    except Exception as error:
        # What a dataclass checks itself it refuses by errors of a package above this one.
        error.args = (f"In {file}: {error}",)
        raise
    if has_all_keys:
        _refuse_missing(settings, values, file=file, prefix="")
    for group in whole:
        part = getattr(settings, group)
        _refuse_missing(part, values.get(group) or {}, file=file, prefix=f"{group}.")
    return settings


def _refuse_missing(
    settings: object, stated: Mapping[Any, Any], *, file: Path, prefix: str
) -> None:
    assert dataclasses.is_dataclass(settings)
    missing = [item.name for item in dataclasses.fields(settings) if item.name not in stated]
    if missing:
        whole = prefix.removesuffix(".") or "its settings"
        raise SettingsError(
            f"Expected {file} to state all of {whole}, found no {prefix}{missing[0]}: a part of it "
            "may be lost. Restore it, or write what is missing."
        )


def to_mapping(settings: object) -> dict[str, Any]:
    """Return settings as plain values that a YAML or JSON writer takes.

    Args:
        settings: A settings dataclass.

    Returns:
        Nested dictionaries; enums are their text values.
    """
    assert dataclasses.is_dataclass(settings)
    assert not isinstance(settings, type)
    plain = _plain(dataclasses.asdict(settings))
    assert isinstance(plain, dict)
    return plain


def save_settings(settings: object, file: Path) -> None:
    """Write settings as YAML, for `load_settings`.

    Args:
        settings: A settings dataclass.
        file: Where to write.
    """
    file.write_text(OmegaConf.to_yaml(OmegaConf.create(to_mapping(settings))), encoding="utf-8")


def explain(error: OmegaConfBaseException) -> str:
    """Say in one line what is wrong with a key or a value.

    Args:
        error: What OmegaConf raised.

    Returns:
        Key, reason and what to do.
    """
    reason = str(error.msg or error).splitlines()[0].rstrip(".")
    key = f"{error.full_key}: " if error.full_key else ""
    return f"Expected a known key with a fitting value, got {key}{reason}. Change or remove it."


def _composable(hint: Any) -> Any:  # a type hint can be many kinds of object
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return schema_of(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return str
    arms = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if any(typing.get_origin(arm) is dict for arm in arms):
            return Any  # OmegaConf merges no mapping into a typed None; `_build` checks it
        return typing.Union[tuple(_composable(arm) for arm in arms)]  # noqa: UP007 - built here
    return hint


def _default(value: object) -> Any:  # dataclasses.field is typed as the value it stands for
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        schema, plain = schema_of(type(value)), to_mapping(value)
        return dataclasses.field(default_factory=lambda: _twin(schema, plain))
    if isinstance(value, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(value)(value))
    return value


def _twin(schema: type, plain: Mapping[str, Any]) -> object:
    hints = typing.get_type_hints(schema)
    values = {
        name: _twin(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value
        for name, value in plain.items()
    }
    return schema(**values)


def _build(hint: Any, value: Any, *, path: str) -> Any:  # plain values of any composed type
    arms = [arm for arm in typing.get_args(hint) if arm is not types.NoneType]
    if typing.get_origin(hint) in (types.UnionType, typing.Union) and len(arms) == 1:
        return None if value is None else _build(arms[0], value, path=path)
    prefix = f"{path}." if path else ""
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise SettingsError(
                f"Expected {path} to be a mapping, got {value!r}. Change or remove it."
            )
        # YAML takes a name of digits for a number.
        named = {str(key): (item, f"{prefix}{key}") for key, item in value.items()}
        return {
            key: _build(arms[1], _typed(arms[1], item, path=at), path=at)
            for key, (item, at) in named.items()
        }
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        unknown = [name for name in value if name not in hints]
        if unknown:
            raise SettingsError(
                f"Expected a known setting, got {prefix}{unknown[0]}. Change or remove it."
            )
        return hint(
            **{name: _build(hints[name], item, path=prefix + name) for name, item in value.items()}
        )
    if isinstance(hint, type) and issubclass(hint, Enum):
        choices = {str(member.value): member for member in hint}
        if str(value).lower() not in choices:
            raise SettingsError(
                f"Expected {path} to be one of {', '.join(choices)}, got {value!r}. Change {path}."
            )
        return choices[str(value).lower()]
    return value


def _typed(hint: Any, value: Any, *, path: str) -> Any:  # plain values of any composed type
    """Check a mapping's value by what it should be, as OmegaConf does where it knows of it."""
    schema = dataclasses.make_dataclass("Item", [("value", _composable(hint))])
    try:
        checked = OmegaConf.merge(OmegaConf.structured(schema), {"value": value})
        plain = OmegaConf.to_container(checked, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise SettingsError(f"In {path}: {explain(error)}") from None
    assert isinstance(plain, dict)
    return plain["value"]


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
