"""Schema of `conf/simulate.yaml`: both parties' settings, and how a simulation is launched."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from client_side.config import ClientConfig
from client_side.records import SHIPPED_RECORDS
from protocol.artifacts import MAX_INSTRUCTION_CHARS
from protocol.checks import check_text
from protocol.errors import ConfigurationError
from server_side.config import ServerConfig

TINY_MODEL = "tiny"
"""What `base_model` and `target_model` say for a two-layer model that is built on the spot."""

ARM_NAME: Final = re.compile(r"[a-z0-9_]{1,40}")
"""How an arm may be called."""

_METRICS = ("rouge1", "rouge2", "rougeL", "bleu", "perplexity")


class Runtime(StrEnum):
    """How the exchange is launched."""

    PROCESSES = "processes"
    """A SuperLink and a SuperNode for each client, as real processes on loopback."""
    RAY = "ray"
    """Flower's simulation engine, for hundreds of clients."""
    IN_PROCESS = "in_process"
    """Everything in this process, one client after the other; messages still become bytes."""


class TunedOn(StrEnum):
    """What the target of a run is tuned on."""

    SYNTHETIC = "synthetic"
    """Samples of the released proxies, as RewardDS and its baselines do."""
    PRIVATE_RECORDS = "private_records"
    """The private records themselves, without privacy; in simulation only."""
    PRIVATE_RECORDS_DP = "private_records_dp"
    """The private records themselves, by DP-SGD on all clients' pooled; in simulation only."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """How the exchange is launched and how long it may take."""

    kind: Runtime = Runtime.PROCESSES
    """Processes, Ray, or this process."""
    deadline_seconds: float = 7200.0
    """How long the exchange may take in all."""
    start_seconds: float = 120.0
    """How long SuperLink and SuperNodes may take until they answer."""
    poll_seconds: float = 1.0
    """How often progress is looked at."""
    cpus_per_client: int = 1
    """Ray only: CPUs that one client occupies, which decides how many train side by side."""

    def __post_init__(self) -> None:
        for name in ("deadline_seconds", "start_seconds", "poll_seconds", "cpus_per_client"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigurationError(
                    f"Expected runtime.{name} > 0, got {value}. Change runtime.{name}."
                )


class SplitKind(StrEnum):
    """How records are shared out among the clients."""

    IID = "iid"
    """At random, in parts of nearly equal size."""
    BY_TOPIC = "by_topic"
    """Each topic in shares of its own, drawn from a Dirichlet distribution."""
    BY_SIZE = "by_size"
    """At random, in parts of unequal size."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How records are shared out among the clients."""

    kind: SplitKind = SplitKind.IID
    """At random, by topic, or in unequal parts."""
    concentration: float = 0.5
    """Of the Dirichlet distribution, for `by_topic` and for `by_size` without `shares`: near 0 one
    client gets nearly all, large values approach equal shares."""
    shares: list[float] | None = None
    """Weight of each client's part, for `by_size`; None draws them."""
    topic_column: str | None = None
    """Column that names a record's topic, for `by_topic`; the shipped records bring theirs."""

    def __post_init__(self) -> None:
        # Far above it a Dirichlet draw is nothing but zeros; parts are equal long before.
        if not 0 < self.concentration <= 1e6:
            raise ConfigurationError(
                "Expected split.concentration to be a number in (0, 10^6], got "
                f"{self.concentration}. Change split.concentration."
            )
        if self.shares is not None and self.kind is not SplitKind.BY_SIZE:
            raise ConfigurationError(
                f"Expected split.shares=null because split.kind={self.kind.value}, got "
                f"{self.shares}. Set split.kind=by_size or remove split.shares."
            )
        if self.shares and not all(math.isfinite(s) and s > 0 for s in self.shares):
            raise ConfigurationError(
                f"Expected split.shares to be finite numbers > 0, got {self.shares}. Change "
                "split.shares."
            )
        if self.topic_column is not None and self.kind is not SplitKind.BY_TOPIC:
            raise ConfigurationError(
                f"Expected split.topic_column=null because split.kind={self.kind.value}, got "
                f"{self.topic_column!r}. Set split.kind=by_topic or remove split.topic_column."
            )


@dataclass(frozen=True, kw_only=True)
class DomainConfig:
    """Records of another domain, for one client; what else is asked of it is as of the others."""

    path: str = ""
    """JSON lines, CSV or parquet file, or a `datasets` name; the client gets all of it."""
    split: str | None = None
    """Split of a `datasets` name; None where the source has only one."""
    prompt_column: str | None = None
    """Column with the prompt; None infers it from known names."""
    response_column: str | None = None
    """Column with the response; None infers it from known names."""
    group_column: str | None = None
    """Column that names the person of a record; wanted where the privacy unit is the person."""
    instruction: str = ""
    """Public sentence about the domain, used as system turn."""

    def __post_init__(self) -> None:
        for name in ("path", "instruction"):
            if not getattr(self, name).strip():
                raise ConfigurationError(
                    f"Expected every one of domains to have {name}, got nothing. Name it, as in "
                    "'domains={client-2: {path: FILE, instruction: SENTENCE}}'."
                )
        stated = {"instruction of domains": self.instruction}
        check_text(max_chars=MAX_INSTRUCTION_CHARS, can_be_empty=False, **stated)


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Private selection: a random number of runs, of which the best alone is shown."""

    candidates: list[str] = field(default_factory=list)
    """Settings to choose from, each a text of `name=value` words; none makes one ordinary run."""
    mean_runs: float = 4.0
    """Mean number of runs."""
    shape: float = 0.0
    """η of the truncated negative binomial distribution of that number; 1 is geometric."""
    metric: str = "rougeL"
    """Metric of the tuned target on public test records by which the best run is known."""

    def __post_init__(self) -> None:
        if not 1 < self.mean_runs <= 100 or not 0 <= self.shape <= 100:
            raise ConfigurationError(
                "Expected 1 < selection.mean_runs <= 100 and 0 <= selection.shape <= 100, got "
                f"{self.mean_runs} and {self.shape}. Change them."
            )
        if self.metric not in _METRICS:
            raise ConfigurationError(
                f"Expected selection.metric to be one of {', '.join(_METRICS)}, got "
                f"{self.metric!r}. Choose one."
            )


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """One journey on one machine."""

    num_clients: int = 2
    """Clients among whom the records are split."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How they are split."""
    domains: dict[str, DomainConfig] | None = None
    """By name (client-1, client-2, …), clients that have records of another domain in the place of
    a part of `client_side.records`; None where there is none."""
    num_records: int = 8000
    """Training records composed for all clients together where the shipped records are used."""
    num_evaluation_records: int = 200
    """Test records composed where the shipped records are used."""
    evaluation_fraction: float = 0.1
    """Share of other records that is kept for the test where no test file is named."""
    declare_sizes: bool = True
    """Declare each client's number of units, rounded to two digits, as `declared_size`."""
    arm: str = "with_consensus"
    """What this run stands for where runs are compared, such as `rewardds` or `dp_generate`."""
    tuned_on: TunedOn = TunedOn.SYNTHETIC
    """What the target is tuned on; all but `synthetic` exists in simulation only."""
    num_private_records: int | None = None
    """Records that `tuned_on: private_records` takes, drawn by the seed; None takes all."""
    seed: int = 1
    """Seed of the records, of their split and of the server's job; never of the noise."""
    run_folder: str | None = None
    """Where the run is kept; None makes `runs/<time>`."""
    resume: str | None = None
    """Folder of a run or of a sweep to be continued with its own settings."""
    shared_folder: str | None = None
    """Where runs share exchanges and stages; None shares within a sweep alone."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    """Private selection among settings."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """How the exchange is launched."""
    client_side: ClientConfig = field(default_factory=ClientConfig)
    """Settings of every client; name, size and records are each client's own."""
    server_side: ServerConfig = field(default_factory=ServerConfig)
    """Settings of the server."""

    def __post_init__(self) -> None:
        for name in ("num_clients", "num_records", "num_evaluation_records"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigurationError(
                    f"Expected {name} to be a whole number >= 1, got {value}. Change {name}."
                )
        if self.num_clients > 10_000:
            raise ConfigurationError(
                f"Expected at most 10000 clients, got num_clients={self.num_clients}: each has a "
                "folder and trains. Lower num_clients."
            )
        if self.num_private_records is not None and self.num_private_records < 1:
            raise ConfigurationError(
                "Expected num_private_records to be a whole number >= 1 or null, got "
                f"{self.num_private_records}. Change num_private_records."
            )
        if not ARM_NAME.fullmatch(self.arm):
            raise ConfigurationError(
                f"Expected arm to be a short name of small letters, digits and _, got "
                f"{self.arm!r}. Change arm."
            )
        if not 0 < self.evaluation_fraction < 1:
            raise ConfigurationError(
                f"Expected 0 < evaluation_fraction < 1, got {self.evaluation_fraction}. "
                "Change evaluation_fraction."
            )
        if not 0 <= self.seed < 2**31:
            raise ConfigurationError(f"Expected 0 <= seed < 2**31, got {self.seed}. Change seed.")
        if self.server_side.seed != ServerConfig().seed:
            raise ConfigurationError(
                f"Expected server_side.seed={ServerConfig().seed}, since in a simulation `seed` "
                f"decides, got {self.server_side.seed}. Set seed={self.server_side.seed} instead."
            )
        if self.server_side.min_clients > self.num_clients:
            raise ConfigurationError(
                f"Expected server_side.min_clients <= num_clients, got "
                f"{self.server_side.min_clients} > {self.num_clients}. Add clients or lower it."
            )
        self._check_client_names()
        self._check_domains()
        self._check_split()
        self._check_tuned_on()
        self._check_admissible()
        if self.client_side.base_model != self.server_side.base_model:
            raise ConfigurationError(
                "Expected client_side.base_model and server_side.base_model to be the same, got "
                f"{self.client_side.base_model!r} and {self.server_side.base_model!r}. Proxies "
                "can only be used on the model that they were trained on."
            )

    @property
    def client_names(self) -> list[str]:
        """Names of the clients, in their order."""
        return [f"client-{number}" for number in range(1, self.num_clients + 1)]

    @property
    def own_domains(self) -> dict[str, DomainConfig]:
        """Clients with records of another domain, by name."""
        return self.domains or {}

    @property
    def num_sharing(self) -> int:
        """Clients among whom `client_side.records` is dealt out."""
        return self.num_clients - len(self.own_domains)

    @property
    def main_records_are_own(self) -> bool:
        """Whether `client_side.records` is the user's, and not the fiction that is shipped."""
        return self.client_side.records.path != SHIPPED_RECORDS

    @property
    def has_own_records(self) -> bool:
        """Whether some client's records are the user's."""
        return self.main_records_are_own or bool(self.own_domains)

    def _check_client_names(self) -> None:
        weights = self.server_side.synthesis.client_weights or {}
        for setting, named in (
            ("domains", self.own_domains),
            ("server_side.synthesis.client_weights", weights),
        ):
            if unknown := sorted(set(named) - set(self.client_names)):
                raise ConfigurationError(
                    f"Expected {setting} to name clients of client-1 to client-{self.num_clients}, "
                    f"got {', '.join(unknown)}. Mend the name, or raise num_clients."
                )

    def _check_domains(self) -> None:
        records, evaluation = self.client_side.records, self.server_side.evaluation
        if len(self.own_domains) == self.num_clients:
            raise ConfigurationError(
                "Expected a client without an entry in domains, found that all have one, so that "
                "client_side.records is nobody's. Name one of these domains there."
            )
        stated = {records.instruction, *(own.instruction for own in self.own_domains.values())}
        if len(stated) > 1 and evaluation.instruction is None:
            raise ConfigurationError(
                "Expected server_side.evaluation.instruction to say under which system turn the "
                "test is taken, because domains have instructions of their own, got nothing. Give "
                "the one that fits the test records."
            )
        for name, own in self.own_domains.items():
            if (own.group_column is None) != (records.group_column is None):
                expected = "nothing" if records.group_column is None else "a column"
                raise ConfigurationError(
                    f"Expected domains.{name}.group_column to be {expected}, as "
                    f"client_side.records.group_column is, got {own.group_column!r}. Change it."
                )

    def _check_split(self) -> None:
        split, is_shipped = self.split, not self.main_records_are_own
        if split.shares is not None and len(split.shares) != self.num_sharing:
            raise ConfigurationError(
                f"Expected split.shares to have {self.num_sharing} numbers, one for each of "
                f"num_clients={self.num_clients} that has no entry in domains, got "
                f"{len(split.shares)}. Name as many."
            )
        if split.kind is SplitKind.BY_TOPIC and is_shipped == (split.topic_column is not None):
            expected = "null for the shipped records" if is_shipped else "a column of the records"
            raise ConfigurationError(
                f"Expected split.topic_column to be {expected} because split.kind=by_topic, got "
                f"{split.topic_column}. Change split.topic_column."
            )

    def _check_tuned_on(self) -> None:
        is_pooled = self.tuned_on is TunedOn.PRIVATE_RECORDS_DP
        own = {domain.instruction for domain in self.own_domains.values()}
        if is_pooled and own - {self.client_side.records.instruction}:
            raise ConfigurationError(
                "Expected one instruction for all clients, because tuned_on="
                f"{self.tuned_on.value} pools their records, got others in domains. Leave "
                "arm=private_dp out where domains differ."
            )

    def _check_admissible(self) -> None:
        """Refuse at once what the server would refuse after all training is done."""
        budget, admission = self.client_side.budget, self.server_side.admission
        if budget.unsafe_non_private and not admission.accept_unsafe_non_private:
            raise ConfigurationError(
                "Expected server_side.admission.accept_unsafe_non_private=true, because "
                "client_side.budget.unsafe_non_private=true, got false. Set it for a baseline on "
                "public or fictional records."
            )
        if budget.noise_seed is not None and not admission.accept_reproducible_noise:
            raise ConfigurationError(
                "Expected server_side.admission.accept_reproducible_noise=true, because "
                "client_side.budget.noise_seed is set, got false. Remove the seed, or accept that "
                "such noise protects nobody."
            )
        if self.server_side.warm_start.path is not None and not self.client_side.warm_start.accept:
            raise ConfigurationError(
                "Expected client_side.warm_start.accept=true, because server_side.warm_start.path "
                "is set, got false. Set it, or leave the public text out."
            )
        for name, limit in (("epsilon", admission.max_epsilon), ("delta", admission.max_delta)):
            target = getattr(budget, f"target_{name}")
            if target > limit and not budget.unsafe_non_private:
                raise ConfigurationError(
                    f"Expected client_side.budget.target_{name} <= server_side.admission."
                    f"max_{name}={limit:g}, got {target:g}. Ask for less, or accept more."
                )
