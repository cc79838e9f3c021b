"""Tiny models for tests: the builder that the smoke experiment uses."""

from simulations.tiny_models import build_tiny_model

__all__ = ["build_tiny_model"]
