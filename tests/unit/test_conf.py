"""Every YAML file composes and validates, and the tree mirrors the settings classes."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

import client_side.node
import server_side.node
import simulations.audit.run
import simulations.run  # noqa: F401 - registers the schemas
from client_side.config import ClientConfig
from client_side.folder import ClientFolder
from lm.settings import to_settings
from protocol.errors import ConfigurationError
from server_side.config import ServerConfig
from server_side.exchange.folder import ServerFolder
from simulations.audit.config import AuditConfig
from simulations.clinic import INSTRUCTION
from simulations.config import Runtime, SimulateConfig

CONF = Path(__file__).resolve().parents[2] / "conf"
PARTIES = {"client_side": ClientConfig, "server_side": ServerConfig}
OPTIONS = sorted(
    f"{file.parent.relative_to(CONF).as_posix()}={file.stem}"
    for file in CONF.rglob("*.yaml")
    if file.parent not in (CONF, CONF / "audit")
)
# The smoke experiment's tiny models seldom end a text at whatever length; its limits buy time.
EXPERIMENTS = sorted(f.stem for f in (CONF / "experiment").iterdir() if f.stem != "smoke")


@cache
def settings(*overrides: str) -> SimulateConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        return to_settings(SimulateConfig, compose("simulate", overrides=list(overrides)))


@pytest.mark.parametrize("party", PARTIES)
def test_conf_has_a_folder_for_each_settings_class_and_no_other(party: str) -> None:
    groups = {
        item.name
        for item in dataclasses.fields(PARTIES[party])
        if dataclasses.is_dataclass(getattr(PARTIES[party](), item.name))
    }

    assert {folder.name for folder in (CONF / party).iterdir()} == groups


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_validates(option: str) -> None:
    extra = []
    if "unsafe_non_private" in option:
        extra = ["server_side.admission.accept_unsafe_non_private=true"]

    settings(option, *extra)


@pytest.mark.parametrize("overrides", [[], ["audit=smoke"], ["client_side/budget=eps_4"]])
def test_audits_compose_and_validate(overrides: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose("audit", overrides=overrides)

    assert to_settings(AuditConfig, composed).client_side.budget.noise_seed is None


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("kinds=[nonsense]", "new_token"),
        ("kinds=[]", "kinds"),
        ("num_canaries=4", "num_canaries"),
        ("num_records=2", "num_records of at least"),
        ("confidence_level=0.4", "confidence_level"),
        ("seed=-1", "seed"),
    ],
)
def test_audits_refuse_what_cannot_be_audited(override: str, named: str) -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose("audit", overrides=[override])

    with pytest.raises(ConfigurationError, match=named):
        to_settings(AuditConfig, composed)


@pytest.mark.parametrize("name", ["client_node", "server_node"])
def test_node_settings_compose(name: str) -> None:
    party = "client_side" if name == "client_node" else "server_side"

    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose(name)

    to_settings(PARTIES[party], composed[party])


# What its operator alone can name, and what conf/ fills for the shipped records.
NAMED_BY_THE_OPERATOR = {"client_node": {"records.instruction"}, "server_node": set[str]()}


@pytest.mark.parametrize("name", ["client_node", "server_node"])
def test_init_writes_the_composed_values_but_for_what_the_operator_names(
    name: str, tmp_path: Path
) -> None:
    """A folder made by `init` must train and tune as measured, not by some older defaults."""
    if name == "client_node":
        party = "client_side"
        client_side.node.main(["init", str(tmp_path / "node")])
        written = dataclasses.asdict(ClientFolder(path=tmp_path / "node").load_config())
    else:
        party = "server_side"
        server_side.node.main(["init", str(tmp_path / "node"), "--host", "server.test"])
        written = dataclasses.asdict(ServerFolder(path=tmp_path / "node").load_config())
    with initialize_config_dir(str(CONF), version_base=None):
        values = compose(name)[party]
    composed = dataclasses.asdict(to_settings(PARTIES[party], values))

    flat, flat_written = _flat(composed), _flat(written)

    assert flat.keys() == flat_written.keys()
    differing = {key for key in flat if flat[key] != flat_written[key]}
    assert differing == NAMED_BY_THE_OPERATOR[name]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@pytest.mark.parametrize(
    "file",
    [
        *CONF.glob("*.yaml"),
        *(
            file
            for name in ("experiment", "audit", "sweep")
            for file in (CONF / name).glob("*.yaml")
        ),
    ],
    ids=lambda file: file.stem,
)
def test_primary_and_experiment_files_say_what_they_are_for(file: Path) -> None:
    head = file.read_text(encoding="utf-8")[:900]

    assert all(f"# {word}:" in head for word in ("Purpose", "Hardware", "Time", "Command"))


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ConfigCompositionException, match="recrods"):
        settings("client_side.recrods.path=x")


def test_the_default_budget_keeps_the_promise() -> None:
    budget = settings().client_side.budget

    assert budget.target_epsilon <= 8
    assert budget.target_delta <= 1e-5
    assert budget.noise_seed is None


def test_the_shipped_records_come_with_their_own_instruction() -> None:
    assert settings().client_side.records.instruction == INSTRUCTION


def test_the_smoke_experiment_runs_in_process() -> None:
    assert settings("experiment=smoke").runtime.kind is Runtime.IN_PROCESS


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["client_side/budget=unsafe_non_private"], "accept_unsafe_non_private"),
        (["client_side.budget.noise_seed=1"], "accept_reproducible_noise"),
        (
            ["client_side.budget.target_epsilon=9", "client_side.budget.lifetime_epsilon_cap=9"],
            "max_epsilon",
        ),
        (["client_side.budget.target_delta=1e-3"], "max_delta"),
        (["server_side.min_clients=3"], "min_clients"),
        (["server_side.base_model=other"], "base_model"),
        (["num_clients=0"], "num_clients"),
        (["server_side.warm_start.path=public.jsonl"], "client_side.warm_start.accept"),
        (["split.concentration=0"], "split.concentration"),
        (["split.concentration=1e308"], "split.concentration"),
        (["split.shares=[1,2]"], "split.kind=by_size"),
        (["split.kind=by_size", "split.shares=[1,2,3]"], "num_clients=2"),
        (["split.kind=by_size", "split.shares=[1,0]"], "split.shares"),
        (["split.topic_column=x"], "split.kind=by_topic"),
        (["split.kind=by_topic", "split.topic_column=x"], "null for the shipped"),
        (["split.kind=by_topic", "client_side.records.path=x.csv"], "a column of the records"),
        (["runtime.poll_seconds=0"], "runtime.poll_seconds"),
    ],
)
def test_what_admission_would_refuse_later_is_refused_at_once(
    overrides: list[str], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        settings(*overrides)


def test_the_non_private_baseline_is_one_choice_beside_the_budgets() -> None:
    free, priced = settings("client_side/budget=infinite"), settings("client_side/budget=eps_8")

    assert free.client_side.budget.unsafe_non_private
    assert free.server_side.admission.accept_unsafe_non_private
    assert not priced.server_side.admission.accept_unsafe_non_private


def test_mappings_by_client_can_be_given_on_a_command_line() -> None:
    found = settings(
        "num_clients=3",
        "server_side.synthesis.client_weights={client-1: 2, client-3: 0.5}",
        "domains={client-2: {path: bonds.jsonl, instruction: Answer the investor.}}",
        "server_side.evaluation.instruction=Answer.",
    )

    assert found.server_side.synthesis.client_weights == {"client-1": 2.0, "client-3": 0.5}
    assert found.own_domains["client-2"].instruction == "Answer the investor."


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        (
            "server_side.synthesis.client_weights={client-1: 2, client-3: 1}",
            "server_side.synthesis.client_weights",
        ),
        ("domains={client-3: {path: x.jsonl, instruction: Answer.}}", "domains"),
    ],
)
def test_a_client_that_is_not_there_is_refused_before_any_trains(word: str, setting: str) -> None:
    said = f"Expected {setting} to name clients of client-1 to client-2, got client-3"

    with pytest.raises(ConfigurationError, match=said):
        settings(word)


@pytest.mark.parametrize(
    "file", sorted((CONF / "sweep").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_point_of_a_ready_made_sweep_composes_and_validates(file: Path) -> None:
    values = OmegaConf.load(file)
    params = OmegaConf.select(values, "hydra.sweeper.params") or {}
    choices = [[f"{name}={value}" for value in str(params[name]).split(",")] for name in params]
    # One seed composes like another, and nothing is asked of its value.
    choices = [one[:1] if one[0].startswith("seed=") else one for one in choices]

    for overrides in itertools.product(*choices):
        settings(f"sweep={file.stem}", *overrides)

    assert "# Cost:" in file.read_text(encoding="utf-8")


def test_one_ready_made_sweep_runs_every_arm_that_needs_no_public_text() -> None:
    values = OmegaConf.load(CONF / "sweep" / "arms.yaml")
    arms = set(OmegaConf.select(values, "hydra.sweeper.params.arm").split(","))
    files = {file.stem for file in (CONF / "arm").glob("*.yaml")}

    assert arms == files - {"public_prompts", "public_warm_start"}


@pytest.mark.parametrize("name", ["arms_135m", "medical_qa", "financial_qa", "code_generation"])
@pytest.mark.parametrize("arm", ["rewardds", "dp_generate", "similarity_filter", "private_no_dp"])
def test_arms_of_an_experiment_that_compares_them_tune_for_as_many_steps(
    name: str, arm: str
) -> None:
    method = settings(f"experiment={name}").server_side.finetuning.num_steps

    assert method is not None
    assert settings(f"experiment={name}", f"arm={arm}").server_side.finetuning.num_steps == method


@pytest.mark.parametrize("name", ["privacy_budget", "split", "ablations", "arms"])
def test_ready_made_sweeps_measure_how_rewards_rank(name: str) -> None:
    assert settings(f"sweep={name}").server_side.ranking.max_rows > 0


def test_candidates_of_private_selection_lie_around_the_defaults() -> None:
    values = OmegaConf.load(CONF / "sweep" / "private_selection.yaml")
    default = settings().client_side
    rates = [
        [float(word.partition("=")[2]) for word in words.split()]
        for words in OmegaConf.select(values, "selection.candidates")
    ]

    assert [default.generator.learning_rate, default.reward_proxy.learning_rate] in rates
    assert min(rates)[0] < default.generator.learning_rate < max(rates)[0]


def test_every_arm_of_the_ablations_is_a_choice_with_settings() -> None:
    """A name without a file would be a mere label on settings that are all the same."""
    values = OmegaConf.load(CONF / "sweep" / "ablations.yaml")
    arms = OmegaConf.select(values, "hydra.sweeper.params.arm").split(",")

    assert [name for name in arms if not (CONF / "arm" / f"{name}.yaml").is_file()] == []


@pytest.mark.parametrize(
    "records", sorted(f.stem for f in (CONF / "client_side/records").iterdir())
)
@pytest.mark.parametrize("experiment", [None, *EXPERIMENTS])
def test_nothing_drawn_scored_or_tuned_on_is_held_shorter_than_the_records(
    experiment: str | None, records: str
) -> None:
    """A generator that has learnt longer texts hardly ever ends one within a shorter limit."""
    chosen = [] if experiment is None else [f"experiment={experiment}"]
    config = settings(*chosen, f"client_side/records={records}")
    read, server = config.client_side.records, config.server_side
    prompt_limits = {
        "warm_start.max_prompt_tokens": server.warm_start.max_prompt_tokens,
        "synthesis.prompt_sampling.max_new_tokens": server.synthesis.prompt_sampling.max_new_tokens,
        "synthesis.max_prompt_words": server.synthesis.max_prompt_words,
        "scoring.max_prompt_tokens": server.scoring.max_prompt_tokens,
        "finetuning.max_prompt_tokens": server.finetuning.max_prompt_tokens,
        "evaluation.max_prompt_tokens": server.evaluation.max_prompt_tokens,
    }
    response_limits = {
        "warm_start.max_response_tokens": server.warm_start.max_response_tokens,
        "synthesis.response_sampling.max_new_tokens": (
            server.synthesis.response_sampling.max_new_tokens
        ),
        "scoring.max_response_tokens": server.scoring.max_response_tokens,
        "refinement.rewrite_sampling.max_new_tokens": (
            server.refinement.rewrite_sampling.max_new_tokens
        ),
        "finetuning.max_response_tokens": server.finetuning.max_response_tokens,
        "evaluation.max_new_tokens": server.evaluation.max_new_tokens,
        "evaluation.max_reference_tokens": server.evaluation.max_reference_tokens,
    }

    assert {n: v for n, v in prompt_limits.items() if v < read.max_prompt_tokens} == {}
    assert {n: v for n, v in response_limits.items() if v < read.max_response_tokens} == {}


@pytest.mark.parametrize(
    "experiment", ["accelerator_135m", "arms_135m", "medical_qa", "financial_qa"]
)
def test_experiments_for_evidence_measure_how_well_the_scores_rank(experiment: str) -> None:
    assert settings(f"experiment={experiment}").server_side.ranking.max_rows >= 24


def test_a_server_node_draws_as_long_texts_as_a_client_node_reads() -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        read = to_settings(ClientConfig, compose("client_node")["client_side"]).records
        server = to_settings(ServerConfig, compose("server_node")["server_side"])

    assert server.synthesis.prompt_sampling.max_new_tokens >= read.max_prompt_tokens
    for sampling in (
        server.synthesis.response_sampling,
        server.refinement.rewrite_sampling,
        server.evaluation,
    ):
        assert sampling.max_new_tokens >= read.max_response_tokens
