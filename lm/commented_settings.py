"""Write settings as YAML that explains itself: above each key, what the code says of it.

A settings dataclass carries one line beneath each field. The same line stands in the file that an
operator edits, so the two cannot drift apart.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from lm.settings import to_mapping

_WIDTH = 96
_INDENT = "  "


def save_commented_settings(settings: object, file: Path, *, head: Sequence[str] = ()) -> None:
    """Write settings for `load_settings`, with a comment above each key.

    Args:
        settings: A settings dataclass.
        file: Where; written over in place, so that its mode stays.
        head: Lines of comment for the top of the file.
    """
    lines = [f"# {line}".rstrip() for line in head] + ([""] if head else [])
    lines += _lines(settings, indent="")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def field_comments(kind: type) -> dict[str, str]:
    """Return the text beneath each field of a dataclass, inherited fields included.

    Args:
        kind: The dataclass; its source must be at hand.

    Returns:
        Comment by field name.
    """
    comments: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for item, following in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                text = " ".join(following.value.value.split())
                # The file is YAML, where Python's None is called null.
                comments[item.target.id] = re.sub(r"\bNone\b", "null", text)
    return comments


def _lines(settings: object, *, indent: str) -> Iterator[str]:
    assert dataclasses.is_dataclass(settings)
    assert not isinstance(settings, type)
    comments = field_comments(type(settings))
    plain = to_mapping(settings)
    for number, item in enumerate(dataclasses.fields(settings)):
        value = getattr(settings, item.name)
        is_group = dataclasses.is_dataclass(value)
        if number and (is_group or not indent):
            yield ""
        comment = comments.get(item.name, "")
        for line in textwrap.wrap(comment, _WIDTH - len(indent)):
            yield f"{indent}# {line}"
        if is_group:
            yield f"{indent}{item.name}:"
            yield from _lines(value, indent=indent + _INDENT)
        else:
            written = OmegaConf.to_yaml(OmegaConf.create({item.name: plain[item.name]}))
            yield from (indent + line for line in written.rstrip("\n").split("\n"))
