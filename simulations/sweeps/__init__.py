"""Sweeps: many runs over a grid of settings, what they share, and the report on all of them."""
