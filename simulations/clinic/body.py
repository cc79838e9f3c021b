"""The whole body of the fictional records, one tuple of topics from the modules by body system."""

from __future__ import annotations

from simulations.clinic import (
    body_arms,
    body_babies,
    body_back,
    body_belly,
    body_breathing,
    body_children,
    body_general,
    body_head,
    body_mouth,
    body_skin,
    body_surface,
    body_women_men,
)
from simulations.clinic.topic import Topic

TOPICS: tuple[Topic, ...] = (
    *body_head.TOPICS,
    *body_mouth.TOPICS,
    *body_breathing.TOPICS,
    *body_belly.TOPICS,
    *body_skin.TOPICS,
    *body_surface.TOPICS,
    *body_back.TOPICS,
    *body_arms.TOPICS,
    *body_general.TOPICS,
    *body_women_men.TOPICS,
    *body_babies.TOPICS,
    *body_children.TOPICS,
)
