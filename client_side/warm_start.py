"""The gate through which starting weights get in: what a server tuned on public text alone.

Only `admit_start` can make an `AdmittedStart`, and the trainers take nothing else. Checks, cheap
before costly, all of them before any record is read or any cost is reserved:

1. size, before anything is read (`client_side.answering.check_request_size`)
2. form of the message, and the digest that the request names (`protocol.wire`)
3. the operator takes starting weights at all (`policy`)
4. tensor names, shapes and values are those of this client's own adapter (`malformed`)

Privacy:
    Starting weights cost nothing. They are fixed before a record is read and so are a constant of
    the mechanism; DP-SGD clips and adds noise wherever it starts, so its guarantee holds for every
    start, also for one that a hostile server built to make gradients tell more. That holds as long
    as no training fails because of what a record says, for a failure is seen and costs nothing; so
    values are bounded here, and neither sampling nor the check of gradients may fail by a record.
    What such a server can do is to make the proxies useless, at the price of its own run.

Covers: weights of another shape or model, of no number or an absurd one, in place of those that
were named.
Does not cover: a start that is bad, or was tuned on text that is not public; that is the server's
word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client_side.config import ClientConfig
from client_side.request_checks import RequestRefusedError, lora_shape, training_settings
from protocol.artifacts import AdapterWeights
from protocol.errors import RefusalCode
from protocol.ledger import ProxyKind

_ONLY_ADMIT_START: Final = object()
_MAX_ABSOLUTE_VALUE: Final = 100.0
"""What no weight of an adapter exceeds that was tuned to be of use; an ordinary one is below 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmittedStart:
    """Starting weights that passed every check. Only `admit_start` can make one."""

    tensors: Mapping[str, NDArray[np.float32]] = field(repr=False)
    """Array by name, read-only."""
    digest: str
    """SHA-256 of the weights, as the certificate will state it."""
    token: InitVar[object]
    """Proof that `admit_start` is calling."""

    def __post_init__(self, token: object) -> None:
        """Refuse everybody but `admit_start`."""
        if token is not _ONLY_ADMIT_START:
            raise TypeError("Expected admit_start() to make an AdmittedStart. Call admit_start().")


def admit_start(
    start: AdapterWeights, *, proxy: ProxyKind, config: ClientConfig, base_folder: Path
) -> AdmittedStart:
    """Check starting weights against this client's own settings.

    Args:
        start: What came with the request.
        proxy: The proxy that is to start from it.
        config: The client's settings.
        base_folder: Folder of the base model.

    Returns:
        The weights, for the trainer.

    Raises:
        RequestRefusedError: The operator takes none, or these do not fit.
    """
    from lm.adapter_shapes import expected_adapter_shapes

    # Privacy: settings and the base model alone decide; no record has been read yet, so the start
    # is a constant of the mechanism.
    if not config.warm_start.accept:
        raise RequestRefusedError(
            RefusalCode.POLICY,
            "Expected a request without starting weights, because warm_start.accept=false, found "
            "one with. Nothing was trained.",
        )
    expected = expected_adapter_shapes(
        base_folder,
        lora_shape(training_settings(config, proxy)),
        has_reward_head=proxy is ProxyKind.REWARD,
    )
    found = {name: tensor.shape for name, tensor in start.tensors.items()}
    if found != expected:
        odd = sorted(
            name for name in found.keys() | expected if found.get(name) != expected.get(name)
        )
        raise RequestRefusedError(
            RefusalCode.MALFORMED,
            f"Expected starting weights of the shape that hello states for the {proxy.value} "
            f"proxy, found {len(odd)} tensors missing, too many or of another shape. Nothing was "
            "trained.",
        )
    # Privacy: weights so large that numbers overflow for some texts and not for others could make a
    # computation fail because of what a record says. Not of a number at all is larger still.
    if not all(np.all(np.abs(tensor) <= _MAX_ABSOLUTE_VALUE) for tensor in start.tensors.values()):
        raise RequestRefusedError(
            RefusalCode.MALFORMED,
            f"Expected starting weights between ±{_MAX_ABSOLUTE_VALUE:g}, found others. Nothing "
            "was trained.",
        )
    return AdmittedStart(tensors=start.tensors, digest=start.digest(), token=_ONLY_ADMIT_START)
