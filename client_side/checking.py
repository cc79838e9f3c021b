"""`rewardds-client check`: would this node work, before anything is sent.

Each check looks at one thing and says what it found and what to do; none of them stops another.
The server is reached by two TLS handshakes with a request without content each; no key, name or
setting of this client is sent, and no record is read but on this machine.
"""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import psutil

from client_side.config import ClientConfig
from client_side.folder import ClientFolder, check_findable
from client_side.network import (
    NetworkConfig,
    NodeFiles,
    check_authority,
    introduce,
    load_node_key_pair,
)
from client_side.public_prompts import check_public_prompts
from client_side.records import count_units, load_records
from client_side.request_checks import (
    check_fit,
    refuse_unsafe,
    refuse_unsafe_past,
    resolve_base,
)
from client_side.reservations import check_units
from client_side.spending import read_spending
from client_side.training_memory import training_bytes, weight_bytes
from lm.errors import LmError
from protocol.bundle import bundle_digest
from protocol.errors import RewardDSError
from protocol.introductions import Introduction, read_introduction
from protocol.ledger import PrivacyUnit, ProxyKind

_MAX_AHEAD_SECONDS: Final = 5.0
"""The server refuses a signature that is dated further in its future."""
_MAX_BEHIND_SECONDS: Final = 300.0
"""The server refuses a signature that is older."""
_CONNECT_SECONDS: Final = 10.0
_WARN_DAYS: Final = 30
_CLOSED_PATHS: Final = ("/docs", "/v1/control/list-runs")
_SPARE_BYTES: Final = 1024**3
_NUM_GROUP_BITS: Final = stat.S_IRWXG | stat.S_IRWXO


class Verdict(StrEnum):
    """How one check came out."""

    OK = "ok"
    """As it should be."""
    WARNING = "warning"
    """The node will work; somebody should have a look."""
    FAILED = "failed"
    """The node will not work, or must not."""
    SKIPPED = "skipped"
    """Not looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    """What was looked at."""
    verdict: Verdict
    """How it came out."""
    text: str
    """What was found, and what to do."""


def check_client(folder: ClientFolder, *, offline: bool = False) -> tuple[Finding, ...]:
    """Look at everything that a node needs.

    Args:
        folder: The client's folder.
        offline: Leave the server out.

    Returns:
        One finding for each check, in the order in which a node meets them.

    Privacy:
        For the operator's eyes: the true number of units stands in it. Nothing is sent.
    """
    try:
        config = folder.load_config()
        network = NodeFiles(folder=folder).load()
    except (RewardDSError, LmError) as error:
        return (Finding(name="settings", verdict=Verdict.FAILED, text=str(error)),)
    checks: list[tuple[str, Callable[[], Finding | tuple[Verdict, str]]]] = [
        ("settings", lambda: _check_settings(folder, config)),
        ("permissions", lambda: _check_permissions(folder)),
        ("records", lambda: (Verdict.OK, check_records(folder, config))),
        ("base model", lambda: _check_base(config, network)),
        ("budget", lambda: _check_budget(folder, config)),
        ("keys", lambda: _check_keys(folder)),
        ("app bundle", lambda: _check_bundle(network)),
        ("certificate", lambda: _check_authority(folder)),
        ("server", lambda: _check_server(folder, network, offline=offline)),
        ("disk", lambda: _check_disk(folder, config)),
        ("memory", lambda: _check_memory(config)),
    ]
    return tuple(_found(name, check) for name, check in checks)


def _found(name: str, check: Callable[[], Finding | tuple[Verdict, str]]) -> Finding:
    try:
        found = check()
    except (RewardDSError, LmError) as error:
        return Finding(name=name, verdict=Verdict.FAILED, text=str(error))
    except OSError as error:
        # Of others' errors the kind alone: their text may quote what they read.
        text = f"{type(error).__name__}: {error.strerror or 'no reason given'}."
        return Finding(name=name, verdict=Verdict.FAILED, text=text)
    except Exception as error:
        # A file or an answer of a form that nobody thought of; the other checks go on.
        text = (
            f"Expected to come to an end, got {type(error).__name__}. Look at what is read here: "
            "the base model's config.json, or what answers in the server's place."
        )
        return Finding(name=name, verdict=Verdict.FAILED, text=text)
    if isinstance(found, Finding):
        return found
    verdict, text = found
    return Finding(name=name, verdict=verdict, text=text)


def _check_settings(folder: ClientFolder, config: ClientConfig) -> tuple[Verdict, str]:
    refuse_unsafe(config)
    check_findable(folder)
    return Verdict.OK, f"Client {config.name}."


def _check_permissions(folder: ClientFolder) -> tuple[Verdict, str]:
    secret = [folder.path, folder.settings_file, folder.ledger_folder, folder.path / "signing_key"]
    secret.append(NodeFiles(folder=folder).node_key)
    records = Path(folder.records_path(folder.load_config()))
    if records.is_file():
        secret.append(records)
    open_to_others = [
        path.name for path in secret if path.exists() and path.stat().st_mode & _NUM_GROUP_BITS
    ]
    if open_to_others:
        return Verdict.FAILED, (
            f"Expected files for their owner alone, found open to others: "
            f"{', '.join(open_to_others)}. Run chmod go= on them."
        )
    return Verdict.OK, "For their owner alone."


def check_records(folder: ClientFolder, config: ClientConfig) -> str:
    """Read the records and hold their number against what is declared, before a node answers.

    Args:
        folder: The client's folder.
        config: Its settings.

    Returns:
        What was found; private, for the operator's eyes.

    Raises:
        RewardDSError: The records cannot be used.
        LmError: Their file cannot be read.
    """
    path = folder.records_path(config)
    records = load_records(replace(config.records, path=path))
    check_public_prompts(folder.public_prompts_path(config), records_path=path)
    unit = config.records.privacy_unit.value
    return (
        f"{len(records)} records of {count_units(records)} units (privacy_unit={unit}), publicly "
        f"declared as {config.records.declared_size}."
    )


def _check_base(config: ClientConfig, network: NetworkConfig) -> tuple[Verdict, str]:
    base_folder, digest = resolve_base(config)
    check_fit(base_folder, config)
    theirs = network.server_base_model_digest
    if theirs and theirs != digest:
        return Verdict.FAILED, (
            f"Expected the server's base model {theirs[:16]}…, found {config.base_model} with "
            f"{digest[:16]}…. Agree on one base model."
        )
    known = "the server's as well" if theirs else "the server's is not known yet"
    return Verdict.OK, f"{config.base_model}, digest {digest[:16]}…; {known}."


def _check_budget(folder: ClientFolder, config: ClientConfig) -> tuple[Verdict, str]:
    cap, target = config.budget.lifetime_epsilon_cap, config.budget.target_epsilon
    spending = read_spending(folder)
    reservations = [item.reservation for item in spending.spendings]
    check_units(reservations, unit=PrivacyUnit(config.records.privacy_unit.value))
    refuse_unsafe_past(reservations)
    data_sets = spending.data_sets
    if not data_sets:
        return Verdict.OK, f"Nothing spent. A run costs up to ε = {target:g} of {cap:g}."
    worst = max(data_sets, key=lambda item: item.epsilon)
    text = f"ε = {worst.epsilon:.3g} of {cap:g} spent, {worst.left:.3g} left."
    after = max(item.next_epsilon for item in data_sets)
    if after > cap:
        return Verdict.WARNING, (
            f"{text} A new run on the same records would make {after:.4g} and be refused; one that "
            "was answered is answered again for free."
        )
    return Verdict.OK, text


def _check_keys(folder: ClientFolder) -> tuple[Verdict, str]:
    load_node_key_pair(NodeFiles(folder=folder).node_key)
    if not (folder.path / "signing_key").is_file():
        return Verdict.FAILED, "Expected signing_key, found none. Restore it from your backup."
    now, file = introduce(folder), NodeFiles(folder=folder).introduction
    if not file.is_file():
        return Verdict.WARNING, (
            f"Expected {file.name}, found none. A server that does not allow this client yet needs "
            "it: run `rewardds-client rotate-key`, which writes it with a new node key."
        )
    if read_introduction(Introduction, file) != now:
        return Verdict.FAILED, (
            f"Expected {file.name} to state the client's name and keys as they are now, found "
            "another name or key, which is what the server was told. Set `name` back, or run "
            "`rewardds-client rotate-key` and give the server's operator the new introduction."
        )
    return Verdict.OK, "Node key and signing key can be read; the introduction states them."


def _check_bundle(network: NetworkConfig) -> tuple[Verdict, str]:
    own = bundle_digest()
    if not network.bundle_sha256:
        return Verdict.FAILED, "No bundle is pinned. Run `rewardds-client join`."
    if network.bundle_sha256 != own:
        return Verdict.FAILED, (
            f"Pinned is {network.bundle_sha256[:16]}…, but this installation's sources give "
            f"{own[:16]}…. Join again with an invitation of the same version."
        )
    return Verdict.OK, f"Pinned: {own[:16]}…, which this installation's sources give."


def _check_authority(folder: ClientFolder) -> tuple[Verdict, str]:
    file = NodeFiles(folder=folder).authority
    if not file.is_file():
        return Verdict.FAILED, "No server is known. Run `rewardds-client join`."
    ends = check_authority(file.read_text(encoding="ascii")).not_valid_after_utc
    days = (ends - datetime.now(UTC)).days
    if days < 0:
        return Verdict.FAILED, f"The server's authority ended on {ends:%Y-%m-%d}. Join again."
    return Verdict.OK, f"The server's authority is good for {days} days."


def _check_server(
    folder: ClientFolder, network: NetworkConfig, *, offline: bool
) -> tuple[Verdict, str]:
    if offline:
        return Verdict.SKIPPED, "Not asked for."
    if not network.server:
        return Verdict.FAILED, "No server is known. Run `rewardds-client join`."
    host, port = network.host_and_port
    context = ssl.create_default_context(cafile=str(NodeFiles(folder=folder).authority))
    problem = ""
    try:
        statuses, remote, ends = _visit(host, port, context)
    except ssl.SSLCertVerificationError as error:
        problem = f"a certificate that we do not trust ({error.verify_message})"
    except socket.gaierror:
        problem = f"no address for {host}"
    except (TimeoutError, ConnectionError) as error:
        problem = f"no answer ({type(error).__name__})"
    except (ssl.SSLError, http.client.HTTPException) as error:
        problem = f"something else than a RewardDS server ({type(error).__name__})"
    if problem:
        return Verdict.FAILED, (
            f"Expected the server at {network.server}, found {problem}. Ask its operator whether "
            "`rewardds-server collect` is running, and what firewall lies between."
        )
    ahead = time.time() - remote
    if not -_MAX_BEHIND_SECONDS < ahead < _MAX_AHEAD_SECONDS:
        return Verdict.FAILED, (
            f"Expected clocks that agree, found this one {abs(ahead):.0f} s "
            f"{'ahead of' if ahead > 0 else 'behind'} the server's, which will refuse our "
            "signatures. Synchronise the clock."
        )
    exposed = [path for path, status in statuses.items() if status != http.HTTPStatus.NOT_FOUND]
    if exposed:
        return Verdict.WARNING, (
            f"The server shows {', '.join(exposed)} to its clients, and should not. Tell its "
            "operator to put the gateway in front."
        )
    days = (ends - datetime.now(UTC)).days
    text = f"{network.server} answers; certificate good for {days} days; clocks agree."
    return (Verdict.WARNING if days < _WARN_DAYS else Verdict.OK), text


def _visit(host: str, port: int, context: ssl.SSLContext) -> tuple[dict[str, int], float, datetime]:
    """Ask for paths that must be closed; return their statuses, the server's time, its last day."""
    statuses = {}
    remote = time.time()
    ends = datetime.now(UTC)
    for path in _CLOSED_PATHS:
        connection = http.client.HTTPSConnection(
            host, port, context=context, timeout=_CONNECT_SECONDS
        )
        try:
            connection.connect()
            assert isinstance(connection.sock, ssl.SSLSocket)
            certificate = connection.sock.getpeercert() or {}
            seconds = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
            ends = datetime.fromtimestamp(seconds, tz=UTC)
            connection.request("GET", path)
            answer = connection.getresponse()
            statuses[path] = answer.status
            if date := answer.getheader("date"):
                remote = parsedate_to_datetime(date).timestamp()
        finally:
            connection.close()
    return statuses, remote, ends


def _check_disk(folder: ClientFolder, config: ClientConfig) -> tuple[Verdict, str]:
    base, _ = resolve_base(config)
    # A merged model for sampling, its converted form, and releases.
    needed = 3 * weight_bytes(base) + _SPARE_BYTES
    free = shutil.disk_usage(folder.path).free
    text = f"{_gib(free)} free, about {_gib(needed)} needed."
    return (Verdict.OK if free >= needed else Verdict.FAILED), text


def _check_memory(config: ClientConfig) -> tuple[Verdict, str]:
    base, _ = resolve_base(config)
    needed = max(training_bytes(base, config, proxy=proxy) for proxy in ProxyKind)
    available = psutil.virtual_memory().available
    text = f"{_gib(available)} available; training takes about {_gib(needed)} by estimate."
    if available < needed:
        return Verdict.FAILED, (
            f"{text} Lower max_batch_tokens or records.max_records_per_unit, or take a smaller "
            "base model."
        )
    return Verdict.OK, text


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 1024**3:.1f} GiB"
