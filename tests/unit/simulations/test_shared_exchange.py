"""One exchange for runs whose clients would be asked for the same: keyed, and never half taken."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client_side.egress import load_signing_key
from lm.settings import load_settings
from protocol.errors import ExchangeError
from server_side.config import ServerConfig
from server_side.exchange.collecting import RELEASES
from server_side.exchange.outcome import OUTCOME_FILE, read_outcome
from server_side.exchange.starts import STARTS
from server_side.whole_files import write_atomically
from simulations import shared_exchange
from simulations.config import TINY_MODEL, SimulateConfig
from simulations.prepare import World, prepare_world
from simulations.shared_exchange import exchange_key, share_exchange


@pytest.fixture
def config() -> SimulateConfig:
    default = SimulateConfig(num_records=60, num_evaluation_records=4)
    client, server = default.client_side, default.server_side
    return replace(
        default,
        client_side=replace(
            client,
            base_model=TINY_MODEL,
            generator=replace(client.generator, expected_batch_size=8),
            reward_proxy=replace(client.reward_proxy, expected_batch_size=8),
        ),
        server_side=replace(server, base_model=TINY_MODEL, target_model=TINY_MODEL),
    )


class Maker:
    """Makes an exchange without training: what an exchange leaves, with a mark of its own."""

    def __init__(self, world: World, *, mark: str, answer: str = "admitted") -> None:
        self.times = 0
        self._world, self._mark, self._answer = world, mark, answer

    def __call__(self, run_id: str) -> None:
        self.times += 1
        server = self._world.server_folder
        (server / RELEASES).mkdir(exist_ok=True)
        (server / RELEASES / "client-1.release").write_text(self._mark, encoding="utf-8")
        (server / STARTS).mkdir(exist_ok=True)
        (server / STARTS / "client-1.start").write_text(self._mark, encoding="utf-8")
        for client in self._world.clients:
            (client.ledger_folder / "events").write_text(self._mark, encoding="utf-8")
        clients = [{"name": "client-1", "answers": {"generator": self._answer}, "epsilon": 1.0}]
        outcome = {"run_id": run_id, "error": None, "clients": clients}
        write_atomically(server / OUTCOME_FILE, json.dumps(outcome))


def lay_out(config: SimulateConfig, folder: Path) -> World:
    folder.mkdir(exist_ok=True)
    return prepare_world(config, folder)


def keys(world: World) -> list[bytes]:
    return [load_signing_key(item.path).public_key().public_bytes_raw() for item in world.clients]


def share(config: SimulateConfig, tmp_path: Path, name: str, maker: Maker, world: World) -> World:
    return share_exchange(
        config, world, run_folder=tmp_path / name, shared=tmp_path / "shared", make=maker
    )


def test_a_second_run_takes_releases_starts_keys_and_ledgers_of_the_first(
    config: SimulateConfig, tmp_path: Path
) -> None:
    first, second = lay_out(config, tmp_path / "a"), lay_out(config, tmp_path / "b")
    assert keys(first) != keys(second)
    makers = Maker(first, mark="one"), Maker(second, mark="two")

    share(config, tmp_path, "a", makers[0], first)
    taken = share(config, tmp_path, "b", makers[1], second)

    assert (makers[0].times, makers[1].times) == (1, 0)
    assert keys(taken) == keys(first)
    assert (taken.server_folder / RELEASES / "client-1.release").read_text() == "one"
    assert (taken.server_folder / STARTS / "client-1.start").read_text() == "one"
    assert all((item.ledger_folder / "events").read_text() == "one" for item in taken.clients)
    outcomes = [read_outcome(world.server_folder) for world in (first, taken)]
    assert outcomes[0] == outcomes[1]
    hexes = [key.hex() for key in keys(first)]
    assert taken.server.admission.allowed_public_keys == hexes
    written = load_settings(ServerConfig, tmp_path / "b" / "server" / "server_node.yaml")
    assert written.admission.allowed_public_keys == hexes
    origin = json.loads((tmp_path / "b" / "exchange_origin.json").read_text("utf-8"))
    assert origin["made_by"] == "a"


def test_whatever_decides_the_releases_parts_the_runs(
    config: SimulateConfig, tmp_path: Path
) -> None:
    client, server = config.client_side, config.server_side
    budget = replace(client.budget, target_epsilon=4.0)
    public = tmp_path / "public.jsonl"
    public.write_text('{"prompt": "Cough?", "response": "Rest."}\n', encoding="utf-8")
    start = replace(server.warm_start, path=str(public))
    accepts = replace(client, warm_start=replace(client.warm_start, accept=True))
    others = {
        "accepting": replace(config, client_side=accepts),
        "start": replace(
            config, client_side=accepts, server_side=replace(server, warm_start=start)
        ),
        "seed": replace(config, seed=2),
        "budget": replace(config, client_side=replace(client, budget=budget)),
        "records": replace(config, num_records=62),
        "clients": replace(config, num_clients=3),
    }
    same = {
        "cores": replace(config, client_side=replace(client, num_threads=3)),
        "server": replace(
            config, server_side=replace(server, filtering=replace(server.filtering, k=3.0))
        ),
    }

    def key(own: SimulateConfig, name: str) -> str:
        return exchange_key(own, lay_out(own, tmp_path / name))

    own = key(config, "own")
    assert all(key(item, name) == own for name, item in same.items())
    assert len({own, *(key(item, name) for name, item in others.items())}) == 1 + len(others)


def test_public_prompts_count_by_what_they_say_and_not_by_where_they_lie(
    config: SimulateConfig, tmp_path: Path
) -> None:
    """A file that was changed under its name would else be answered with a stale exchange."""

    def key(name: str, prompts: Path, second: str) -> str:
        prompts.parent.mkdir(exist_ok=True)
        lines = [json.dumps({"prompt": prompt}) for prompt in ("May I walk?", second)]
        prompts.write_text("\n".join(lines), encoding="utf-8")
        client = config.client_side
        preferences = replace(client.preferences, public_prompts_path=str(prompts))
        own = replace(config, client_side=replace(client, preferences=preferences))
        return exchange_key(own, lay_out(own, tmp_path / name))

    first = key("a", tmp_path / "public.jsonl", "May I run?")
    elsewhere = key("b", tmp_path / "else" / "public.jsonl", "May I run?")
    changed = key("c", tmp_path / "public.jsonl", "May I swim?")

    assert first == elsewhere
    assert first != changed


def test_a_failed_exchange_is_shared_with_nobody(config: SimulateConfig, tmp_path: Path) -> None:
    first, second = lay_out(config, tmp_path / "a"), lay_out(config, tmp_path / "b")
    refused = Maker(first, mark="one", answer="refused: policy")
    maker = Maker(second, mark="two")

    share(config, tmp_path, "a", refused, first)
    share(config, tmp_path, "b", maker, second)

    assert maker.times == 1

    def fail(run_id: str) -> None:
        raise ExchangeError("Expected both proxies.")

    third = lay_out(replace(config, seed=3), tmp_path / "c")
    with pytest.raises(ExchangeError):
        share_exchange(
            replace(config, seed=3), third, run_folder=tmp_path / "c",
            shared=tmp_path / "shared", make=fail,
        )  # fmt: skip
    assert len([item for item in (tmp_path / "shared").iterdir() if item.is_dir()]) == 1


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_run_that_is_killed_while_it_takes_an_exchange_takes_it_again(
    config: SimulateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    first, second = lay_out(config, tmp_path / "a"), lay_out(config, tmp_path / "b")
    share(config, tmp_path, "a", Maker(first, mark="one"), first)
    steps = itertools.count(1)

    def dying(original: Callable[..., object]) -> Callable[..., object]:
        def copy(source: Path, target: object) -> object:
            if next(steps) == step:
                raise KeyboardInterrupt
            return original(source, target)

        return copy

    with monkeypatch.context() as patched:
        patched.setattr(shared_exchange, "_copy_folder", dying(shared_exchange._copy_folder))
        patched.setattr(shared_exchange, "_write_whole", dying(shared_exchange._write_whole))
        with pytest.raises(KeyboardInterrupt):
            share(config, tmp_path, "b", Maker(second, mark="two"), second)
    assert read_outcome(second.server_folder) is None

    again = lay_out(config, tmp_path / "b")
    maker = Maker(again, mark="two")
    taken = share(config, tmp_path, "b", maker, again)

    assert maker.times == 0
    assert keys(taken) == keys(first)
    assert (taken.server_folder / RELEASES / "client-1.release").read_text() == "one"
    assert (taken.server_folder / STARTS / "client-1.start").read_text() == "one"
