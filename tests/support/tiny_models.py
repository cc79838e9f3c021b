"""Tiny models for tests: the builder that the smoke experiment uses."""

from simulations.tiny_models import build_tiny_model

ENDS_APART = (
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<|endoftext|>"
    "{% else %}<|im_start|>{% endif %}{% endfor %}"
)
"""A template whose turns do not all end alike."""

__all__ = ["ENDS_APART", "build_tiny_model"]
