"""Verification of stored releases, offline: the checks of admission once more, over any folder.

What lies in a run folder, in a client's store or with an auditor is read as bytes that anybody may
have written, and goes through `admit`; there is no second list of checks that could fall behind.
The readable certificate that `store_admitted` writes beside a release is compared with the signed
one, because it is the one that people read.

Covers: what `server_side/admission.py` covers, against settings that need no run.
Does not cover: whether the key belongs to whom it should, unless keys are given.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lm.settings import load_settings
from protocol.documents import to_document
from protocol.errors import (
    AdmissionCode,
    AdmissionError,
    ConfigurationError,
    ProtocolError,
    SignatureError,
)
from server_side.admission import (
    AdmissionPolicy,
    AdmittedRelease,
    ExpectedShapes,
    admission_code,
    admit,
)
from server_side.config import ServerConfig
from server_side.exchange.outcome import OUTCOME_FILE
from server_side.whole_files import read_json

_RELEASE_PATTERN: Final = "*.release"
_PLACES: Final = ("", "releases", "server/releases", "ledger/releases")
_SETTINGS_FILE: Final = "server_node.yaml"
_RUN_ID_FILE: Final = "run_id"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the checks say about one file."""

    file: Path
    """The file."""
    code: AdmissionCode | None
    """The first check that failed; None where all passed."""
    message: str
    """What was expected and found; empty where all passed."""
    admitted: AdmittedRelease | None
    """The release, where all checks passed."""


def find_releases(path: Path) -> tuple[Path, ...]:
    """Find stored releases.

    Args:
        path: A release; or a folder of releases, a server's folder, a client's folder, or the
            folder of a simulation.

    Returns:
        The files, in order of their names; at least one.

    Raises:
        ConfigurationError: There is none.
    """
    if path.is_file():
        return (path,)
    for place in _PLACES:
        files = tuple(sorted((path / place).glob(_RELEASE_PATTERN)))
        if files:
            return files
    raise ConfigurationError(
        f"Expected {_RELEASE_PATTERN} in {path} or its folder releases, found none. Name the "
        f"folder of a run, or of releases."
    )


def find_settings(files: Sequence[Path]) -> ServerConfig | None:
    """Read the settings of the server that stored some releases.

    Args:
        files: What `find_releases` gave.

    Returns:
        The settings, or None where these lie in no server's folder.

    Raises:
        SettingsError: There are settings and they cannot be read.
    """
    file = files[0].resolve().parent.parent / _SETTINGS_FILE
    return load_settings(ServerConfig, file) if file.is_file() else None


def find_run_id(files: Sequence[Path]) -> str:
    """Find out which run some releases were made for, from what lies beside them.

    Args:
        files: What `find_releases` gave.

    Returns:
        The run's name; whether a release says the same is for the checks.

    Raises:
        ConfigurationError: Nothing there says so.
        StageError: The outcome of the exchange is no JSON.
    """
    folder = files[0].resolve().parent.parent
    outcome = folder / OUTCOME_FILE
    if outcome.is_file() and (name := _stated_run(read_json(outcome))):
        return name
    run_id = folder / _RUN_ID_FILE
    if run_id.is_file() and (name := run_id.read_text(encoding="utf-8").strip()):
        return name
    for file in files:
        if name := _stated_run(_readable_certificate(file)):
            return name
    raise ConfigurationError(
        f"Expected to find in {folder} which run its releases were made for, found nothing. "
        f"Name it with --run-id."
    )


def verify_releases(
    files: Sequence[Path], *, policy: AdmissionPolicy, expected_shapes: ExpectedShapes
) -> tuple[Verdict, ...]:
    """Check every file, whatever became of the ones before it.

    Args:
        files: What `find_releases` gave.
        policy: What is accepted.
        expected_shapes: Shapes of an adapter on the base model.

    Returns:
        One verdict for each file, in their order.

    Raises:
        OSError: A file cannot be read.
    """
    verdicts: list[Verdict] = []
    admitted: list[AdmittedRelease] = []
    for file in files:
        try:
            item = _verify(file, policy, expected_shapes, admitted)
        except (ProtocolError, AdmissionError) as error:
            code = admission_code(error)
            verdicts.append(Verdict(file=file, code=code, message=str(error), admitted=None))
            continue
        admitted.append(item)
        verdicts.append(Verdict(file=file, code=None, message="", admitted=item))
    return tuple(verdicts)


def with_limits(
    config: ServerConfig,
    *,
    base_model: str | None,
    max_epsilon: float | None,
    max_delta: float | None,
    public_keys: Sequence[str],
) -> ServerConfig:
    """Put what was given on the command line in the place of settings.

    Args:
        config: The settings.
        base_model: Base model that adapters belong to.
        max_epsilon: Largest composed epsilon.
        max_delta: Largest delta.
        public_keys: Keys that may have signed, as hexadecimal text; none leaves the setting.

    Returns:
        The settings with everything replaced that is not None or empty.

    Raises:
        ConfigurationError: A value is out of range.
    """
    admission = config.admission
    return replace(
        config,
        base_model=config.base_model if base_model is None else base_model,
        admission=replace(
            admission,
            max_epsilon=admission.max_epsilon if max_epsilon is None else max_epsilon,
            max_delta=admission.max_delta if max_delta is None else max_delta,
            allowed_public_keys=list(public_keys) or admission.allowed_public_keys,
        ),
    )


def _verify(
    file: Path,
    policy: AdmissionPolicy,
    expected_shapes: ExpectedShapes,
    admitted: Sequence[AdmittedRelease],
) -> AdmittedRelease:
    # The limit holds for files as well, so look before reading.
    if file.stat().st_size > policy.max_release_bytes:
        raise AdmissionError(
            f"Expected at most max_release_bytes={policy.max_release_bytes} in {file.name}, found "
            f"{file.stat().st_size}. Do not use the file.",
            code=AdmissionCode.OVERSIZE,
        )
    item = admit(
        file.read_bytes(), policy=policy, expected_shapes=expected_shapes, admitted=admitted
    )
    readable = _certificate_file(file)
    if readable.exists() and _readable_certificate(file) != to_document(item.certificate):
        raise SignatureError(
            f"Expected the signed statements in {readable.name}, found others. Believe "
            f"{file.name}, which was signed, and remove the file beside it."
        )
    return item


def _stated_run(document: object) -> str | None:
    """Give the run that a JSON value names; anybody may have written it."""
    run_id = document.get("run_id") if isinstance(document, dict) else None
    return run_id if isinstance(run_id, str) else None


def _certificate_file(file: Path) -> Path:
    return file.with_name(f"{file.name.removesuffix('.release')}.certificate.json")


def _readable_certificate(file: Path) -> object:
    """Give the JSON beside a release; None where there is none or it is no JSON."""
    path = _certificate_file(file)
    try:
        document: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document
