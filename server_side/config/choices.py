"""Choices that several stages' settings share."""

from __future__ import annotations

DTYPES = ("float32", "bfloat16")
"""In what the weights of a model may be held."""

ENGINES = ("auto", "openvino", "transformers", "vllm")
"""Which engines may sample."""
