"""Choices that several stages' settings share."""

from __future__ import annotations

from enum import StrEnum

DTYPES = ("auto", "float32", "bfloat16")
"""In what the weights of a model may be held; auto is bfloat16 where the device computes in it
natively, otherwise float32."""

ENGINES = ("auto", "openvino", "transformers", "vllm")
"""Which engines may sample."""


class WhenCut(StrEnum):
    """What becomes of a text that its greatest length cut."""

    DROP = "drop"
    """It falls, as one that never ended."""
    TRIM = "trim"
    """It ends with its last whole sentence; where none ended, it falls."""
