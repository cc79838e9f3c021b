"""Seeds for what the server draws; they make a run repeatable and protect nothing."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, name: str) -> int:
    """Derive the seed of one stage, or of one client's part of it.

    No stage takes from a stream that an earlier one has used, so a job that was killed and resumed
    draws what an undisturbed one draws.

    Args:
        seed: Seed of the whole.
        name: Name of the part: a stage with its round, a client.

    Returns:
        An integer in [0, 2**31), which every library takes.

    >>> derive_seed(0, "07_queries") == derive_seed(0, "07_queries")
    True
    >>> derive_seed(0, "12_feedback_r2") == derive_seed(0, "12_feedback_r3")
    False
    """
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33
