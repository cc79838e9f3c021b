"""The server's half of the exchange: ask who is there, then for each proxy, and admit what comes.

It ends when every client has answered or failed: hours of synthesis and tuning are a job of their
own. How messages travel is a `Channel`'s business, so that the same steps serve a deployment, a
simulation and a test. A client that refuses or fails is noted and left out; the rest goes on as
long as `min_clients` remain.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from flwr.app import RecordDict

from lm.model_folders import resolve_base_model
from protocol import PROTOCOL_VERSION
from protocol.errors import (
    AdmissionCode,
    AdmissionError,
    ExchangeError,
    ProtocolError,
    RefusedError,
)
from protocol.ledger import ProxyKind
from protocol.messages import HelloReply, HelloRequest, Refusal, Request, TrainingRequest
from server_side.admission import (
    AdmissionPolicy,
    AdmittedRelease,
    ExpectedShapes,
    admission_code,
    admit,
    load_admitted,
    store_admitted,
    store_refused,
)
from server_side.config import ServerConfig
from server_side.exchange.admission_terms import ClientKeys, admission_terms
from server_side.exchange.greeting import cap_warning, judge_hello
from server_side.exchange.outcome import ADMITTED, ClientOutcome, RunLostError, write_outcome
from server_side.exchange.starts import StartShapes, sent_digests, strayed_clients

_LOGGER = logging.getLogger(__name__)

RELEASES = "releases"
"""Folder of the admitted releases within the server's run folder."""

Content = RecordDict | bytes
"""What a client sent, unread."""


class Channel(Protocol):
    """A way to ask clients and to wait for their answers."""

    def clients(self) -> Mapping[int, str | None]:
        """Return who is connected, and for which client each may speak; None for any."""
        ...

    def ask(
        self,
        action: str,
        requests: Mapping[int, Request],
        *,
        timeout_seconds: float,
    ) -> Mapping[int, Content]:
        """Send each request to its client and collect the answers.

        Args:
            action: `hello`, `generator` or `reward`.
            requests: One request for each client that is asked.
            timeout_seconds: When to stop waiting.

        Returns:
            What came, unread; a client that failed or was silent is missing.
        """
        ...

    def read_hello(self, content: Content) -> HelloReply | Refusal:
        """Read the answer to a hello.

        Raises:
            ProtocolError: It is something else.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """How long to wait for whom."""

    num_clients: int = 0
    """Clients to wait for before anybody is asked; `min_clients` where that is more."""
    wait_seconds: float = 600.0
    """How long to wait for them."""
    hello_seconds: float = 600.0
    """How long a client may take to introduce itself."""
    deadline_seconds: float = 43_200.0
    """How long a client may take for each of its releases."""
    poll_seconds: float = 0.5
    """How often to look who is there."""


def collect(
    channel: Channel,
    *,
    config: ServerConfig,
    run_id: str,
    run_folder: Path,
    waiting: Waiting,
    client_keys: ClientKeys | None = None,
    flower_run: str | None = None,
) -> tuple[AdmittedRelease, ...]:
    """Ask every client for both proxies, admit what comes, and store it.

    Args:
        channel: How to reach the clients.
        config: The server's settings.
        run_id: Name of the run, to which releases are bound.
        run_folder: Where `releases/` and the outcome go. Releases of an earlier start are kept and
            their clients are not asked again.
        waiting: How long to wait for whom.
        client_keys: Which keys sign for which client; None where nobody is registered.
        flower_run: Flower's own number of this try, for the outcome; None without Flower.

    Returns:
        What was admitted. What became of each client stands in the outcome.

    Raises:
        ExchangeError: Fewer than `min_clients` clients gave both proxies.
        ConfigurationError: Starting weights are kept that the settings no longer send, or the
            settings give weights and none to a client that is about to train.
        RunLostError: The channel broke; there is no outcome yet.
        LmError: The base model cannot be used.
    """
    policy, shapes = admission_terms(
        config, run_id=run_id, client_keys=client_keys, run_folder=run_folder
    )
    exchange = _Exchange(
        channel,
        config=config,
        policy=policy,
        shapes=shapes,
        run_folder=run_folder,
        flower_run=flower_run,
    )
    try:
        exchange.greet(waiting)
        for proxy in ProxyKind:
            exchange.ask_for(proxy, timeout_seconds=waiting.deadline_seconds)
        admitted = exchange.result()
    except RunLostError:
        raise  # This try is lost, not the exchange: an outcome would end it.
    except Exception as error:
        exchange.note(error)
        raise
    exchange.note(None)
    return admitted


class _Exchange:
    """One exchange under way."""

    def __init__(
        self,
        channel: Channel,
        *,
        config: ServerConfig,
        policy: AdmissionPolicy,
        shapes: ExpectedShapes,
        run_folder: Path,
        flower_run: str | None,
    ) -> None:
        self._channel, self._flower_run = channel, flower_run
        self._run_id = policy.run_id
        self._folder = run_folder
        self._config = config
        self._min_clients = config.min_clients
        self._policy, self._shapes = policy, shapes
        self._admitted: list[AdmittedRelease] = list(
            load_admitted(run_folder / RELEASES, policy=self._policy, expected_shapes=self._shapes)
        )
        self._outcomes: dict[int, ClientOutcome] = {}
        self._start_shapes: dict[int, StartShapes] = {}

    def greet(self, waiting: Waiting) -> None:
        """Wait until enough clients are there, and ask who they are."""
        wanted = max(waiting.num_clients, self._min_clients)
        give_up = time.monotonic() + waiting.wait_seconds
        while len(present := dict(self._channel.clients())) < wanted:
            if time.monotonic() > give_up:
                if len(present) >= self._min_clients:
                    break
                raise ExchangeError(
                    f"Expected {wanted} clients within {waiting.wait_seconds:g} s, found "
                    f"{len(present)}. Start the missing nodes, or lower server_side.min_clients."
                )
            time.sleep(waiting.poll_seconds)
        _LOGGER.info("Asking %d clients who they are.", len(present))
        request = HelloRequest(protocol_version=PROTOCOL_VERSION)
        answers = self._channel.ask(
            "hello",
            dict.fromkeys(present, request),
            timeout_seconds=min(waiting.hello_seconds, waiting.deadline_seconds),
        )
        self._outcomes = {
            client_id: ClientOutcome(name=name or "") for client_id, name in present.items()
        }
        for client_id in present:
            if client_id in answers:
                self._read_hello(client_id, answers[client_id])
            else:
                self._answered(client_id, "hello", "no answer")

    def ask_for(self, proxy: ProxyKind, *, timeout_seconds: float) -> None:
        """Ask those who are still in it for one proxy, and admit what comes."""
        action = proxy.value
        asked = [
            client_id
            for client_id, outcome in self._outcomes.items()
            if self._is_in(outcome, before=proxy) and not self._has(outcome.name, proxy)
        ]
        for client_id, outcome in self._outcomes.items():
            if self._has(outcome.name, proxy):
                self._answered(client_id, action, ADMITTED)
        if proxy is ProxyKind.GENERATOR:  # who has paid for one may as well have its reward proxy
            self._config.synthesis.check_weights([self._outcomes[i].name for i in asked])
        _LOGGER.info("Asking %d clients for the %s proxy.", len(asked), action)
        request = TrainingRequest(
            protocol_version=PROTOCOL_VERSION,
            run_id=self._run_id,
            proxy=proxy,
            base_model_digest=self._policy.base_model_digest,
            target_epsilon=None,
            target_delta=None,
            steps=None,
        )
        requests: Mapping[int, Request] = dict.fromkeys(asked, request)
        if asked and self._config.warm_start.path is not None:
            # Only who trains needs a model's libraries beside what strangers send.
            from server_side.warm_starting import with_starts

            requests = with_starts(
                request,
                {i: (self._outcomes[i].name, self._start_shapes[i]) for i in asked},
                config=self._config,
                base_folder=resolve_base_model(self._config.base_model),
                run_folder=self._folder,
                on_waiting=self._channel.clients,
            )
        sent = sent_digests(self._folder)
        named = {self._outcomes[i].name: item for i, item in requests.items()}
        strayed = strayed_clients(sent, named, proxy=proxy, run_folder=self._folder)
        requests = {i: r for i, r in requests.items() if self._outcomes[i].name not in strayed}
        self._policy = replace(self._policy, start_digests=sent)
        answers: Mapping[int, Content] = {}
        if requests:
            answers = self._channel.ask(action, requests, timeout_seconds=timeout_seconds)
        for client_id in asked:
            answer = "no answer"
            if self._outcomes[client_id].name in strayed:
                answer = f"not admitted: {AdmissionCode.START.value}"
            elif client_id in answers:
                answer = self._admit(client_id, proxy, answers[client_id])
            self._answered(client_id, action, answer)

    def result(self) -> tuple[AdmittedRelease, ...]:
        """Return what was admitted, if it is from enough clients."""
        complete = {
            item.client_name
            for item in self._admitted
            if all(self._has(item.client_name, proxy) for proxy in ProxyKind)
        }
        if len(complete) < self._min_clients:
            told = [f"{o.name or 'an unnamed node'} ({o.told})" for o in self._outcomes.values()]
            raise ExchangeError(
                f"Expected both proxies of at least {self._min_clients} clients "
                f"(server_side.min_clients), found {len(complete)}: {'; '.join(told)}. "
                "Each client's own log says why it refused, exchange.log what failed on the way."
            )
        return tuple(self._admitted)

    def note(self, error: Exception | None) -> None:
        """Write what became of everybody, for whoever waits for it."""
        outcomes = tuple(self._outcomes.values())
        write_outcome(
            self._folder,
            run_id=self._run_id,
            error=error,
            outcomes=outcomes,
            flower_run=self._flower_run,
        )

    def _read_hello(self, client_id: int, content: Content) -> None:
        try:
            reply = self._channel.read_hello(content)
        except ProtocolError as error:
            self._answered(client_id, "hello", f"not admitted: {admission_code(error).value}")
            return
        if isinstance(reply, Refusal):
            self._answered(client_id, "hello", f"refused: {reply.code.value}")
            return
        flaw = judge_hello(
            reply,
            policy=self._policy,
            registered=self._outcomes[client_id].name,
            taken={item.name for other, item in self._outcomes.items() if other != client_id},
            bound_to=self._keys_under_way(reply.client_name),
        )
        # Who claims a name that is another's does not get it.
        if flaw is None or flaw[0] is not AdmissionCode.CLIENT:
            self._outcomes[client_id] = replace(self._outcomes[client_id], name=reply.client_name)
        if flaw is not None:
            code, words = flaw
            self._answered(client_id, "hello", f"not admitted: {code.value}")
            _LOGGER.warning("%s", words)
            return
        if warning := cap_warning(reply, policy=self._policy):
            _LOGGER.warning("%s", warning)
        self._start_shapes[client_id] = {
            ProxyKind.GENERATOR: reply.generator_start,
            ProxyKind.REWARD: reply.reward_start,
        }
        self._answered(client_id, "hello", ADMITTED)

    def _admit(self, client_id: int, proxy: ProxyKind, content: Content) -> str:
        try:
            admitted = admit(
                content,
                policy=self._policy,
                expected_shapes=self._shapes,
                client_name=self._outcomes[client_id].name,
                proxy=proxy,
                admitted=self._admitted,
            )
        except RefusedError as error:
            return f"refused: {error.code.value}"
        except (ProtocolError, AdmissionError) as error:
            store_refused(content, error, self._folder / RELEASES)
            _LOGGER.warning("Not admitted: %s", error)
            return f"not admitted: {admission_code(error).value}"
        store_admitted(admitted, self._folder / RELEASES)
        self._admitted.append(admitted)
        return ADMITTED

    def _answered(self, client_id: int, action: str, answer: str) -> None:
        outcome = self._outcomes[client_id]
        epsilons = [item.epsilon for item in self._admitted if item.client_name == outcome.name]
        self._outcomes[client_id] = replace(
            outcome,
            answers={**outcome.answers, action: answer},
            epsilon=epsilons[-1] if epsilons else None,
        )
        _LOGGER.info("%s, %s: %s", outcome.name or f"node {client_id}", action, answer)

    def _is_in(self, outcome: ClientOutcome, *, before: ProxyKind) -> bool:
        if outcome.answers.get("hello") != ADMITTED:
            return False
        if before is ProxyKind.GENERATOR:
            return True
        return self._has(outcome.name, ProxyKind.GENERATOR)

    def _keys_under_way(self, name: str) -> set[str]:
        own = [item for item in self._admitted if item.client_name == name]
        return {i.release.public_key.hex() for i in own} if len(own) < len(ProxyKind) else set()

    def _has(self, name: str, proxy: ProxyKind) -> bool:
        return any(item.client_name == name and item.proxy is proxy for item in self._admitted)


def load_collected(
    config: ServerConfig,
    *,
    run_id: str,
    run_folder: Path,
    client_keys: ClientKeys | None = None,
) -> tuple[AdmittedRelease, ...]:
    """Read what an exchange stored, and check all of it again.

    Args:
        config: The server's settings.
        run_id: Name of the run.
        run_folder: The server's run folder.
        client_keys: Which keys sign for which client; None where nobody is registered.

    Returns:
        The admitted releases.

    Raises:
        AdmissionError: A stored release does not pass any more.
        ProtocolError: A stored file is no release.
    """
    policy, shapes = admission_terms(
        config, run_id=run_id, client_keys=client_keys, run_folder=run_folder
    )
    return load_admitted(run_folder / RELEASES, policy=policy, expected_shapes=shapes)
