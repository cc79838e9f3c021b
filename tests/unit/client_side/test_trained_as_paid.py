"""What trains a proxy is what was paid for and certified, whatever the settings say by then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from client_side import generator, reward_proxy
from client_side.answering import guarded
from client_side.dp_sgd import DpSgdPlan
from client_side.folder import ClientFolder
from client_side.randomness import Randomness
from lm.settings import save_settings
from protocol.ledger import DpSgdEvent, ProxyKind
from protocol.messages import ReleaseReply
from tests.support.answering import train
from tests.support.clients import client_config, make_client, training_request


@dataclass
class Trained:
    """What trainings were handed: how they draw, how they add noise."""

    plans: list[DpSgdPlan] = field(default_factory=list)
    sources: list[Randomness] = field(default_factory=list)

    def watch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, plan: DpSgdPlan, randomness: Randomness, **others: Any) -> Any:
            self.plans.append(plan)
            self.sources.append(randomness)
            return original(*args, plan=plan, randomness=randomness, **others)

        return watched


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[ProxyKind, Trained]:
    """Each proxy's training as a whole, and the DP-SGD within it."""
    found = {kind: Trained() for kind in ProxyKind}
    places: list[tuple[ProxyKind, Any, str]] = [
        (ProxyKind.GENERATOR, generator, "train_generator"),
        (ProxyKind.GENERATOR, generator, "train_dp_sgd"),
        (ProxyKind.REWARD, reward_proxy, "train_reward_proxy"),
        (ProxyKind.REWARD, reward_proxy, "train_dp_sgd"),
    ]
    for kind, module, name in places:
        monkeypatch.setattr(module, name, found[kind].watch(getattr(module, name)))
    return found


@pytest.fixture
def client(tmp_path: Path, tiny_llama: Path) -> ClientFolder:
    """A client whose two proxies have no privacy setting in common."""
    config = client_config(tiny_llama)
    config = replace(
        config,
        budget=replace(config.budget, reward_noise_ratio=1.5),
        generator=replace(config.generator, max_grad_norm=0.2),
        reward_proxy=replace(
            config.reward_proxy, steps=3, expected_batch_size=8, max_grad_norm=0.3
        ),
    )
    return make_client(tmp_path / "client-1", config)


def certified(
    client: ClientFolder, base: Path, proxy: ProxyKind, **changes: object
) -> dict[ProxyKind, DpSgdEvent]:
    """Ask for a proxy and give the events that its certificate states."""
    request = training_request(base, proxy, **changes)
    reply = guarded(client, lambda: train(request, proxy=proxy, folder=client))
    assert isinstance(reply, ReleaseReply)
    events = {event.proxy: event for event in reply.release.certificate.privacy.events}
    assert len(events) == 2
    return events


def assert_trained_as(
    trained: dict[ProxyKind, Trained], events: dict[ProxyKind, DpSgdEvent], client: ClientFolder
) -> None:
    config = client.load_config()
    for kind, settings in (
        (ProxyKind.GENERATOR, config.generator),
        (ProxyKind.REWARD, config.reward_proxy),
    ):
        plans, sources = trained[kind].plans, trained[kind].sources
        assert len(plans) == 2
        for plan in plans:
            assert plan.event(kind) == events[kind]
            assert plan.max_grad_norm == settings.max_grad_norm
            assert plan.expected_batch_size == settings.expected_batch_size
        assert not any(source.is_reproducible for source in sources)


def test_both_proxies_are_trained_as_certified_where_a_request_asks_for_less(
    client: ClientFolder, tiny_llama: Path, trained: dict[ProxyKind, Trained]
) -> None:
    for proxy in ProxyKind:
        events = certified(client, tiny_llama, proxy, target_epsilon=2.0)

    assert_trained_as(trained, events, client)


def test_both_proxies_are_trained_as_paid_for_where_the_target_changed_in_between(
    client: ClientFolder, tiny_llama: Path, trained: dict[ProxyKind, Trained]
) -> None:
    """Less noise would not be what was paid for; more would not be what was certified."""
    paid = certified(client, tiny_llama, ProxyKind.GENERATOR)
    config = client.load_config()
    other = replace(config, budget=replace(config.budget, target_epsilon=4.0))
    save_settings(other, client.settings_file)

    events = certified(client, tiny_llama, ProxyKind.REWARD)

    assert events == paid
    assert_trained_as(trained, events, client)
