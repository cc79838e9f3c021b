"""Every arm differs from RewardDS in what it says, under every experiment, and in nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

import simulations.run  # noqa: F401 - registers the schemas
from client_side.config import ClientConfig
from lm.settings import to_mapping, to_settings
from protocol.accounting import PlannedRun, calibrate, composed_epsilon
from protocol.errors import ConfigurationError
from protocol.ledger import ProxyKind
from server_side.config import FilteringConfig, ServerConfig
from simulations.beforehand import require_beforehand
from simulations.config import SimulateConfig, TunedOn

CONF = Path(__file__).resolve().parents[3] / "conf"
ARMS = sorted(file.stem for file in (CONF / "arm").glob("*.yaml"))
PRIVATE = {
    "private_no_dp": TunedOn.PRIVATE_RECORDS,
    "private_dp": TunedOn.PRIVATE_RECORDS_DP,
}
OTHER_BUDGET = {"ablation_generator_budget", "ablation_reward_budget"}
OWN_EXCHANGE = OTHER_BUDGET | {"public_warm_start"}
NAMED_BY_A_PATH = {"public_prompts"}
"""Arms whose difference is a file, which only the command can name (`prepare_world` wants it)."""
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
SYNTHETIC = {"tuned_on": "synthetic"}
BY_PUBLISHED_RANKS = {"server_side.filtering.consensus_weight": 0.0}
ONE_ROUND = {"server_side.refinement.num_rounds": 1}
UNFILTERED = {
    "server_side.filtering.choose_by": "first",
    "server_side.filtering.select_by": "all",
    "server_side.filtering.max_similarity": 1.0,
}
BY_CONSENSUS = {
    "server_side.filtering.choose_by": "consensus",
    "server_side.filtering.select_by": "consensus",
}
SAYS: dict[str, dict[str, object]] = {
    "rewardds": SYNTHETIC | BY_PUBLISHED_RANKS,
    "with_consensus": SYNTHETIC | {"server_side.filtering.consensus_weight": 1.0},
    "dp_generate": SYNTHETIC | UNFILTERED | ONE_ROUND,
    "similarity_filter": SYNTHETIC | BY_CONSENSUS | ONE_ROUND | {
        "server_side.filtering.max_similarity": 1.0,
    },
    "ablation_no_filtering": SYNTHETIC | UNFILTERED,
    "ablation_no_refinement": SYNTHETIC | BY_PUBLISHED_RANKS | ONE_ROUND,
    "ablation_no_reward": SYNTHETIC | BY_PUBLISHED_RANKS | {
        "server_side.filtering.choose_by": "ranks",
        "server_side.filtering.select_by": "consensus",
        "server_side.filtering.alpha": 0.0,
    },
    "ablation_no_perplexity": SYNTHETIC | BY_PUBLISHED_RANKS | {
        "server_side.filtering.choose_by": "ranks",
        "server_side.filtering.alpha": 1.0,
    },
    "ablation_generator_budget": SYNTHETIC | BY_CONSENSUS | {
        "client_side.budget.reward_noise_ratio": 20.0,
    },
    "ablation_reward_budget": SYNTHETIC | BY_PUBLISHED_RANKS | {
        "client_side.budget.reward_noise_ratio": 0.05,
    },
    "private_no_dp": {"tuned_on": "private_records"},
    "private_dp": {"tuned_on": "private_records_dp"},
    "public_prompts": SYNTHETIC | BY_PUBLISHED_RANKS,
    "public_warm_start": SYNTHETIC | BY_PUBLISHED_RANKS | {
        "client_side.warm_start.accept": True,
    },
}  # fmt: skip
"""What each arm says, whatever the experiment says of the same."""
WITHOUT_REWARD = {
    "dp_generate", "similarity_filter", "ablation_no_filtering", "ablation_no_reward",
    "ablation_generator_budget",
}  # fmt: skip


@cache
def settings(*overrides: str) -> SimulateConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        return to_settings(SimulateConfig, compose("simulate", overrides=list(overrides)))


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_changes_what_it_says_and_nothing_else(arm: str, experiment: str) -> None:
    plain = dict(flat(to_mapping(settings(f"experiment={experiment}"))))

    own = dict(flat(to_mapping(settings(f"experiment={experiment}", f"arm={arm}"))))

    assert own == {**plain, **SAYS[arm], "arm": arm}
    # An experiment may say the same as an arm already, but no arm may be RewardDS under any.
    published = dict(flat(to_mapping(settings(f"experiment={experiment}", "arm=rewardds"))))
    assert own != {**published, "arm": arm} or arm in {"rewardds", *NAMED_BY_A_PATH}


def test_the_default_is_the_arm_that_ranks_best_and_a_node_filters_alike() -> None:
    """docs/decisions/0020-consensus-by-default.md."""
    with initialize_config_dir(str(CONF), version_base=None):
        node = to_settings(ServerConfig, compose("server_node")["server_side"])

    assert settings() == settings("arm=with_consensus")
    assert settings().server_side.filtering == node.filtering == FilteringConfig()


def test_every_arm_is_listed_here() -> None:
    assert set(SAYS) == set(ARMS)


@pytest.mark.parametrize("arm", ARMS)
def test_arms_that_do_without_the_reward_never_ask_it(arm: str) -> None:
    filtering = settings(f"arm={arm}").server_side.filtering

    assert filtering.needs_reward is (arm not in WITHOUT_REWARD)


@pytest.mark.parametrize("arm", sorted(set(ARMS) - OWN_EXCHANGE))
def test_arms_share_one_exchange(arm: str) -> None:
    """Only the server's part differs, so one released pair of proxies serves them all."""
    assert settings(f"arm={arm}").client_side == settings().client_side


@pytest.mark.parametrize("arm", ARMS)
def test_only_two_arms_read_the_records(arm: str) -> None:
    assert settings(f"arm={arm}").tuned_on is PRIVATE.get(arm, TunedOn.SYNTHETIC)


@pytest.mark.parametrize("arm", sorted(OTHER_BUDGET))
@pytest.mark.parametrize("experiment", ["smoke", "medical_qa"])
def test_a_shifted_budget_is_the_whole_budget_and_no_more(arm: str, experiment: str) -> None:
    """The favoured proxy gets nearly all of the composed ε, the other next to nothing."""
    client = settings(f"experiment={experiment}", f"arm={arm}").client_side

    both, alone = epsilons(client)

    favoured = ProxyKind.GENERATOR if arm == "ablation_generator_budget" else ProxyKind.REWARD
    assert client.budget.target_epsilon * 0.99 < both <= client.budget.target_epsilon
    assert alone[favoured] > 0.99 * both
    assert min(alone.values()) < 0.02 * both


def epsilons(client: ClientConfig) -> tuple[float, dict[ProxyKind, float]]:
    size = client.records.declared_size
    found = calibrate(
        [
            PlannedRun(
                proxy=kind,
                sample_rate=own.expected_batch_size / size,
                steps=own.steps,
                noise_ratio=ratio,
            )
            for kind, own, ratio in (
                (ProxyKind.GENERATOR, client.generator, 1.0),
                (ProxyKind.REWARD, client.reward_proxy, client.budget.reward_noise_ratio),
            )
        ],
        target_epsilon=client.budget.target_epsilon,
        target_delta=client.budget.target_delta,
    )
    delta = client.budget.target_delta
    alone = {event.proxy: composed_epsilon([event], delta=delta) for event in found.events}
    return found.epsilon, alone


def test_a_bound_on_private_records_is_checked() -> None:
    with pytest.raises(ConfigurationError, match="num_private_records"):
        settings("num_private_records=0")


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_the_ceiling_is_tuned_by_sft_and_refuses_another_objective(objective: str) -> None:
    """By sft at a preference objective's rate it would be a ceiling far too low."""
    told = rf"objective=sft, because tuned_on=private_records .* no pairs, got {objective}\."

    begun = settings("arm=private_no_dp", f"server_side.finetuning.objective={objective}")

    with pytest.raises(ConfigurationError, match=told):
        require_beforehand(begun)


def test_the_arm_with_dp_sgd_goes_with_any_objective_since_it_is_tuned_as_generators_are() -> None:
    config = settings("arm=private_dp", "server_side.finetuning.objective=dpo")

    require_beforehand(config)
    assert config.tuned_on is TunedOn.PRIVATE_RECORDS_DP


def test_records_of_unlike_domains_are_not_pooled() -> None:
    domain = "domains={client-2: {path: bonds.jsonl, instruction: Answer the investor.}}"
    words = (domain, "server_side.evaluation.instruction=Answer.")

    assert settings("arm=private_no_dp", *words).own_domains
    with pytest.raises(ConfigurationError, match=r"one instruction for all .* arm=private_dp out"):
        settings("arm=private_dp", *words)
