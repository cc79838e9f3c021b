"""Every YAML file composes and validates, and the tree mirrors the settings classes."""

from __future__ import annotations

import dataclasses
import itertools
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
from server_side.network import ServerFolder
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


@pytest.mark.parametrize(
    "file", sorted((CONF / "sweep").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_point_of_a_ready_made_sweep_composes_and_validates(file: Path) -> None:
    values = OmegaConf.load(file)
    params = OmegaConf.select(values, "hydra.sweeper.params") or {}
    choices = [[f"{name}={value}" for value in str(params[name]).split(",")] for name in params]

    for overrides in itertools.product(*choices):
        settings(f"sweep={file.stem}", *overrides)

    assert "# Cost:" in file.read_text(encoding="utf-8")


def test_every_arm_of_the_ablations_is_a_choice_with_settings() -> None:
    """A name without a file would be a mere label on settings that are all the same."""
    values = OmegaConf.load(CONF / "sweep" / "ablations.yaml")
    arms = OmegaConf.select(values, "hydra.sweeper.params.arm").split(",")

    assert [name for name in arms if not (CONF / "arm" / f"{name}.yaml").is_file()] == []
