"""What the server's job starts from, gathered and checked before the first stage runs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lm.model_folders import base_model_digest, resolve_base_model
from lm.tables import TextRow
from protocol import SOFTWARE_VERSION
from protocol.artifacts import Certificate
from protocol.errors import ConfigurationError, ExchangeError
from protocol.ledger import ProxyKind
from server_side.config import EvaluationConfig, ServerConfig, SynthesisConfig, WhenCut
from server_side.proxies import ClientProxies
from server_side.public_texts import (
    read_public_prompts,
    read_test_rows,
    warn_of_references_beyond_rouge,
)
from server_side.synthesis import client_quotas
from server_side.tuning.packages import require_packages

if TYPE_CHECKING:  # Flower takes a second to import, and no stage needs it
    from server_side.admission import AdmittedRelease

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobInputs:
    """Everything that the stages need and did not make themselves."""

    run_id: str
    """Name of the run for which the releases were made."""
    clients: tuple[ClientProxies, ...]
    """Both proxies of each client, sorted by name."""
    certificates: tuple[Certificate, ...]
    """Certificates of all releases that are used."""
    target_folder: Path
    """The untuned target model."""
    test_rows: tuple[TextRow, ...]
    """Public test records by which target and generators are judged."""
    ranked_rows: tuple[TextRow, ...]
    """Public test records whose prompts the ranking is judged by; as a rule the first of those."""
    test_instruction: str
    """System turn under which the test is taken."""
    public_prompts: tuple[str, ...]
    """Prompts that are free to use; empty where none are named."""
    work_folder: Path
    """For models that can be made again; removed at the end."""
    settings: Mapping[str, object]
    """All that decides the outcome, as JSON values."""

    @property
    def test_prompts(self) -> list[str]:
        """What anything is judged on, and so the target must not be tuned on."""
        return [row.prompt for row in max(self.test_rows, self.ranked_rows, key=len)]

    @property
    def instructions(self) -> dict[str, str]:
        """Each client's instruction, by client name."""
        return {client.client_name: client.instruction for client in self.clients}


def gather_inputs(
    releases: Sequence[AdmittedRelease], *, config: ServerConfig, run_folder: Path
) -> JobInputs:
    """Pair the releases up, find the models and read the test records.

    Args:
        releases: What was admitted.
        config: The server's settings.
        run_folder: The run folder, for a work folder in it.

    Returns:
        What the stages start from.

    Raises:
        ExchangeError: Fewer than `min_clients` clients have both proxies here.
        ConfigurationError: No test records are named, a release belongs to another base model,
            `client_weights` gives nothing to any client that is there, the clients' instructions
            differ and none is given for the test, or a package that a setting needs is not
            installed.
        LmError: A model or the table of test records cannot be used.
    """
    pairs = _pair_up(releases, min_clients=config.min_clients)
    require_packages(config.finetuning)
    synthesis = config.synthesis
    names = [generator.client_name for generator, _ in pairs]
    client_quotas(names, synthesis, num_queries=synthesis.num_queries)
    _warn_of_weights(names, synthesis)
    _warn_of_short_limits([generator for generator, _ in pairs], synthesis)
    public_prompts = read_public_prompts(synthesis)
    base_folder, target_folder, *_ = map(resolve_base_model, config.model_names)
    base_digest = base_model_digest(base_folder)
    _require_base_model([release for pair in pairs for release in pair], base_digest)
    all_rows = read_test_rows(config.evaluation)
    rows, ranked = all_rows[: config.evaluation.max_rows], all_rows[: config.ranking.max_rows]
    warn_of_references_beyond_rouge(rows)
    work_folder = run_folder / "work"
    clients = tuple(
        ClientProxies(
            generator,
            reward,
            base_folder=base_folder,
            work_folder=work_folder,
            max_prompt_tokens=config.scoring.max_prompt_tokens,
            max_response_tokens=config.scoring.max_response_tokens,
            num_threads=config.num_threads,
            vllm_url=config.base_model_vllm_url,
        )
        for generator, reward in pairs
    )
    return JobInputs(
        run_id=pairs[0][0].certificate.run_id,
        clients=clients,
        certificates=tuple(release.certificate for pair in pairs for release in pair),
        target_folder=target_folder,
        test_rows=rows,
        ranked_rows=ranked,
        test_instruction=_test_instruction(clients, config.evaluation),
        public_prompts=public_prompts,
        work_folder=work_folder,
        settings={
            "software_version": SOFTWARE_VERSION,
            "config": config.fingerprint,
            "base_model_digest": base_digest,
            "target_model_digest": base_model_digest(target_folder),
            "test_rows_digest": _rows_digest(max(rows, ranked, key=len)),
            "public_prompts_digest": _digest(public_prompts),
            "releases": {
                generator.client_name: {
                    "generator": generator.certificate.weights_digest,
                    "reward": reward.certificate.weights_digest,
                }
                for generator, reward in pairs
            },
        },
    )


def inputs_without_releases(
    *, config: ServerConfig, run_folder: Path, run_id: str, instruction: str
) -> JobInputs:
    """Gather what judging a target takes, for arms of a simulation that use no release.

    Args:
        config: The server's settings.
        run_folder: The run folder, for a work folder in it.
        run_id: Name of the run.
        instruction: System turn of the test where the settings name none.

    Returns:
        Target, test records and settings; no clients and no certificates.

    Raises:
        ConfigurationError: No test records are named, or a package that a setting needs is not
            installed.
        LmError: A model or the table of test records cannot be used.
    """
    require_packages(config.finetuning)
    _, target_folder, *_ = map(resolve_base_model, config.model_names)
    rows = read_test_rows(config.evaluation)[: config.evaluation.max_rows]
    own = config.evaluation.instruction
    return JobInputs(
        run_id=run_id,
        clients=(),
        certificates=(),
        target_folder=target_folder,
        test_rows=rows,
        ranked_rows=(),
        test_instruction=instruction if own is None else own,
        public_prompts=(),
        work_folder=run_folder / "work",
        settings={
            "software_version": SOFTWARE_VERSION,
            "config": config.fingerprint,
            "target_model_digest": base_model_digest(target_folder),
            "test_rows_digest": _rows_digest(rows),
            "releases": {},
        },
    )


def _pair_up(
    releases: Sequence[AdmittedRelease], *, min_clients: int
) -> list[tuple[AdmittedRelease, AdmittedRelease]]:
    by_client: dict[str, dict[ProxyKind, AdmittedRelease]] = {}
    for release in releases:
        by_client.setdefault(release.client_name, {})[release.proxy] = release
    pairs = []
    for name, own in sorted(by_client.items()):
        if len(own) == len(ProxyKind):
            pairs.append((own[ProxyKind.GENERATOR], own[ProxyKind.REWARD]))
        else:
            (found,) = own
            _LOGGER.warning(
                "Client %s is left out: only its %s proxy was admitted.", name, found.value
            )
    if len(pairs) < max(1, min_clients):
        raise ExchangeError(
            f"Expected both proxies of at least {max(1, min_clients)} clients "
            f"(server_side.min_clients), found those of {len(pairs)}. See why the others refused "
            "or were refused, or lower min_clients."
        )
    return pairs


def _warn_of_weights(client_names: Sequence[str], config: SynthesisConfig) -> None:
    weights = config.client_weights or {}
    if absent := sorted(weights.keys() - set(client_names)):
        _LOGGER.warning(
            "synthesis.client_weights names %s, whose proxies are not here; the prompts are shared "
            "out among %s by their weights.",
            ", ".join(absent),
            ", ".join(name for name in client_names if weights.get(name)),
        )
    if unnamed := config.unweighted(client_names):
        _LOGGER.warning(
            "synthesis.client_weights has no weight for %s: nothing is written by that generator, "
            "though its full ε was paid. Name it, with weight 0 if that is meant.",
            ", ".join(unnamed),
        )


def _warn_of_short_limits(generators: Sequence[AdmittedRelease], config: SynthesisConfig) -> None:
    prompts, responses = config.prompt_sampling, config.response_sampling
    fate = "fall" if config.when_cut == WhenCut.DROP else "are cut to their last whole sentence"
    for generator in generators:
        learnt = generator.certificate
        for what, tokens, setting, limit in (
            ("prompts", learnt.max_prompt_tokens, "prompt_sampling", prompts.max_new_tokens),
            (
                "responses",
                learnt.max_response_tokens,
                "response_sampling",
                responses.max_new_tokens,
            ),
        ):
            if limit < tokens:
                _LOGGER.warning(
                    "The generator of client %s learnt %s of up to %d tokens; those that do not "
                    "end within synthesis.%s.max_new_tokens=%d %s.",
                    generator.client_name,
                    what,
                    tokens,
                    setting,
                    limit,
                    fate,
                )


def _test_instruction(clients: Sequence[ClientProxies], config: EvaluationConfig) -> str:
    if config.instruction is not None:
        return config.instruction
    stated = {client.client_name: client.instruction for client in clients}
    if len(set(stated.values())) > 1:
        listed = "; ".join(f"{name}: {text!r}" for name, text in stated.items())
        raise ConfigurationError(
            "Expected evaluation.instruction to say under which system turn the test is taken, "
            f"because the clients' instructions differ ({listed}), found none. Give the one that "
            "fits the test records."
        )
    return clients[0].instruction


def _require_base_model(releases: Sequence[AdmittedRelease], digest: str) -> None:
    for release in releases:
        found = release.certificate.base_model_digest
        if found != digest:
            raise ConfigurationError(
                f"Expected releases on the base model {digest[:16]}… (server_side.base_model), "
                f"found that the {release.proxy.value} proxy of client {release.client_name} "
                f"belongs to {found[:16]}…. Restore base_model, or ask for releases on this one."
            )


def _rows_digest(rows: Sequence[TextRow]) -> str:
    return _digest([[row.prompt, row.response, *row.tests] for row in rows])


def _digest(texts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
