"""What a server may ask of this client, and what that would take: settings against the request.

Before any record is read, and without torch. Every limit is the operator's own setting; a request
can ask for less and never for more.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from client_side.config import ClientConfig, DpTrainingConfig
from client_side.reservations import Reservation
from protocol.accounting import MIN_NOISE_MULTIPLIER, PlannedRun, calibrate
from protocol.artifacts import LoraShape
from protocol.errors import BudgetError, ConfigurationError, RefusalCode, RewardDSError
from protocol.ledger import DpSgdEvent, ProxyKind
from protocol.messages import TrainingRequest


class RequestRefusedError(RewardDSError):
    """The client declines; the code is all that the server is told."""

    def __init__(self, code: RefusalCode, reason: str) -> None:
        """Keep the code for the server and the reason for the client's own log.

        Args:
            code: What the server is told.
            reason: What the operator is told; settings and names only.
        """
        super().__init__(reason)
        self.code = code


def refuse_unsafe(config: ClientConfig) -> None:
    """Refuse settings that a real node must not have.

    Args:
        config: The client's settings.

    Raises:
        ConfigurationError: Noise would be reproducible, or absent, or δ promises too little.
    """
    # Privacy: noise that can be reproduced protects nobody; a real node never draws it.
    if config.budget.noise_seed is not None:
        raise ConfigurationError(
            "Expected budget.noise_seed to be null on a real node, got "
            f"{config.budget.noise_seed}. Remove it from the settings."
        )
    # Privacy: neither does a real node ever train without noise.
    if config.budget.unsafe_non_private:
        raise ConfigurationError(
            "Expected budget.unsafe_non_private=false on a real node, got true. Remove it from "
            "the settings; baselines belong into a simulation."
        )
    # Privacy: whoever publishes one unit of them all whole, drawn by chance, keeps such a δ.
    size, delta = config.records.declared_size, config.budget.target_delta
    if delta * size >= 1:
        raise ConfigurationError(
            f"Expected budget.target_delta < 1 / records.declared_size = {1 / size:.2g} on a real "
            f"node, got {delta:g}. Lower it."
        )


def refuse_unsafe_past(reservations: Iterable[Reservation]) -> None:
    """Refuse a ledger with something in it that a real node never makes.

    Args:
        reservations: What was paid for in the node's folder.

    Raises:
        BudgetError: Something was paid for whose noise is reproducible, or absent.
    """
    for item in reservations:
        has_noise = all(event.noise_multiplier >= MIN_NOISE_MULTIPLIER for event in item.events)
        # Privacy: its release may lie in the store, to be sent again, and what it paid for may
        # still wait to be trained, as it was paid for, whatever the settings say by now.
        if item.reproducible_noise or not has_noise:
            raise BudgetError(
                "Expected a ledger of trainings with secret noise on a real node, found that run "
                f"{item.run_id} was paid for with {'a fixed seed' if has_noise else 'no noise'}. "
                "Make the node a folder of its own with `rewardds-client init`, and simulate in "
                "another."
            )


def check_request(
    request: TrainingRequest, *, proxy: ProxyKind, config: ClientConfig, has_start: bool = False
) -> tuple[Path, str]:
    """Compare a request with the client's own settings, before any record is read.

    Args:
        request: What the server asks for.
        proxy: Which proxy the action is for.
        config: The client's settings.
        has_start: Whether starting weights came with it.

    Returns:
        Folder of the base model and its digest.

    Raises:
        RequestRefusedError: The settings do not allow it.
    """
    budget = config.budget
    if (request.start_digest is not None) != has_start:
        raise RequestRefusedError(
            RefusalCode.MALFORMED,
            "Expected starting weights with a request that names some and with no other, found it "
            "otherwise.",
        )
    if request.proxy is not proxy:
        raise RequestRefusedError(
            RefusalCode.MALFORMED,
            f"Expected a request for the {proxy.value} proxy, found one for the other.",
        )
    limits = {
        "target_epsilon": (request.target_epsilon, budget.target_epsilon),
        "target_delta": (request.target_delta, budget.target_delta),
        "steps": (request.steps, training_settings(config, proxy).steps),
    }
    # Privacy: the operator's settings are the most that any server gets; a request can lower them.
    for name, (asked, own) in limits.items():
        if asked is not None and asked > own:
            raise RequestRefusedError(
                RefusalCode.POLICY,
                f"Expected {name} <= {own:g}, this client's own setting, found a request for "
                f"{asked:g}. Nothing was trained.",
            )
    base_folder, digest = resolve_base(config)
    if digest != request.base_model_digest:
        raise RequestRefusedError(
            RefusalCode.BASE_MODEL,
            f"Expected a request for the base model {digest[:16]}…, found one for "
            f"{request.base_model_digest[:16]}…. Agree on one base model.",
        )
    return base_folder, digest


def plan_events(
    config: ClientConfig, *, request: TrainingRequest | None = None
) -> tuple[DpSgdEvent, ...]:
    """Find the noise with which both proxies together cost what was asked for.

    Args:
        config: The client's settings.
        request: What the server asks for; the steps that it names are those of its own proxy. None
            asks for no less than the settings say.

    Returns:
        One event for each proxy.

    Raises:
        ConfigurationError: No noise meets the target.
    """
    budget, size = config.budget, config.records.declared_size
    steps = {kind: training_settings(config, kind).steps for kind in ProxyKind}
    if request is not None and request.steps is not None:
        steps[request.proxy] = request.steps
    ratios = {ProxyKind.GENERATOR: 1.0, ProxyKind.REWARD: budget.reward_noise_ratio}
    runs = [
        PlannedRun(
            proxy=kind,
            # Privacy: from the public size; the true number of units is private.
            sample_rate=training_settings(config, kind).expected_batch_size / size,
            steps=steps[kind],
            noise_ratio=ratios[kind],
        )
        for kind in ProxyKind
    ]
    # Privacy: no noise, and so an infinite epsilon; `refuse_unsafe` keeps it off real nodes.
    if budget.unsafe_non_private:
        return tuple(
            DpSgdEvent(
                proxy=run.proxy,
                noise_multiplier=0.0,
                sample_rate=run.sample_rate,
                steps=run.steps,
            )
            for run in runs
        )
    asked = None if request is None else request.target_epsilon
    target = budget.target_epsilon if asked is None else asked
    delta = budget.target_delta if request is None else asked_delta(request, config=config)
    # Privacy: both proxies together, because their costs compose.
    return calibrate(runs, target_epsilon=target, target_delta=delta).events


def training_settings(config: ClientConfig, proxy: ProxyKind) -> DpTrainingConfig:
    """Return the settings of one proxy's training."""
    match proxy:
        case ProxyKind.GENERATOR:
            return config.generator
        case ProxyKind.REWARD:
            return config.reward_proxy


def lora_shape(config: DpTrainingConfig) -> LoraShape:
    """Return the shape of the adapter as the protocol states it."""
    lora = config.lora
    return LoraShape(
        rank=lora.rank,
        alpha=lora.alpha,
        target_modules=tuple(lora.target_modules),
        num_upper_layers=lora.num_upper_layers,
        use_rslora=lora.use_rslora,
    )


def asked_delta(request: TrainingRequest, *, config: ClientConfig) -> float:
    """Return the delta of a request; the client's own where none is asked for."""
    return config.budget.target_delta if request.target_delta is None else request.target_delta


def resolve_base(config: ClientConfig) -> tuple[Path, str]:
    """Return the folder of the client's base model and its digest."""
    from lm.model_folders import base_model_digest, resolve_base_model

    folder = resolve_base_model(config.base_model)
    return folder, base_model_digest(folder)


def check_fit(base_folder: Path, config: ClientConfig) -> None:
    """Refuse settings with which no training on the base model would come to an end.

    Args:
        base_folder: Folder of the base model.
        config: The client's settings.

    Raises:
        ModelFolderError: It cannot be loaded, has no layers of the names that an adapter wants, or
            its context would not hold the longest record.
        ConfigurationError: An adapter's shape is out of all range.
        SamplingError: What samples the responses of pairs cannot serve the base model here.
    """
    from lm.adapter_shapes import expected_adapter_shapes
    from lm.context import check_context
    from lm.loading import check_loadable

    check_loadable(base_folder)
    for proxy in ProxyKind:  # both, since the first request pays for both
        shape = lora_shape(training_settings(config, proxy))
        expected_adapter_shapes(base_folder, shape, has_reward_head=proxy is ProxyKind.REWARD)
    check_context(
        base_folder,
        instruction=config.records.instruction,
        max_prompt_tokens=config.records.max_prompt_tokens,
        max_response_tokens=config.records.max_response_tokens,
    )
    weights = config.preferences.pair_weights.items()
    is_sampled = any(weight > 0 and {*pair} - {"own", "damaged"} for pair, weight in weights)
    # Of the second training, which is paid for as well. Any other engine serves every base model.
    if is_sampled and config.preferences.engine == "openvino":
        from lm.sampling import SamplingEngine, check_engine  # not for nothing: it needs torch

        check_engine(base_folder, engine=SamplingEngine.OPENVINO)


def check_base_unchanged(folder: Path, digest: str) -> None:
    """Refuse to certify another base model than the one that lies there now.

    Args:
        folder: Folder of the base model that was trained on.
        digest: What was found there before training.

    Raises:
        ConfigurationError: It was replaced meanwhile.
    """
    from lm.model_folders import base_model_digest

    found = base_model_digest(folder)
    if found != digest:
        raise ConfigurationError(
            f"Expected the base model {digest[:16]}… in {folder}, as before training, found "
            f"{found[:16]}…. Put it back and ask again, so that the training, which is paid for, "
            "is released."
        )
