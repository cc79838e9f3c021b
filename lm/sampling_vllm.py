"""The engine for accelerators: a vLLM server in an environment of its own, over its HTTP API.

vLLM cannot be installed beside this project's other libraries, so it runs as `vllm serve MODEL` and
is asked by `/v1/completions`. Prompts go as token ids and come back as token ids, so no chat
template and no tokenizer of the server's has a say. All requests of a call are under way at once,
one for each prefix with a seed of its own and all its candidates; the server batches them.

Every sampling parameter is sent: the server would fill a missing one from the model's
`generation_config.json`, which often cuts the distribution (`top_k`).

An adapter is loaded by the path of its PEFT folder, which the server must be able to read, under a
name made of its digest, and unloaded on closing. That needs `--enable-lora`, a `--max-lora-rank` of
at least the adapter's, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in the server's environment.

What can pass is tried again: a refused or broken connection, a time-out, a server that is busy or
failed (408, 429, 5xx), an answer that is cut off or lacks candidates. What cannot is an error at
once. A seed belongs to the request, so a repetition changes nothing.

Reference: vLLM's OpenAI-compatible server; token ids in answers need vLLM 0.10.2 or later.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from transformers import PreTrainedTokenizerBase

from lm.errors import SamplingError, VllmRefusalError
from lm.loading import load_tokenizer
from lm.model_folders import base_model_digest
from lm.sampling import (
    Completion,
    Progress,
    SamplingParams,
    check_prefixes,
    prefix_seeds,
    stop_token_ids,
)

_LOGGER = logging.getLogger(__name__)
_MAX_CONNECTIONS = 256
"""Requests under way at once; more of them wait here instead of in the server's queue."""
_PASSING_STATUSES = frozenset({408, 429})
_NO_SUCH_MODEL = 404
_SHOWN_CHARS = 300
# Adapter by path: how the server must have been started.
_ADAPTER_HINT = (
    "Start the server with --enable-lora, a --max-lora-rank of at least the adapter's, and "
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, where it can read the adapter's folder."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmServer:
    """Where a server is and how patiently it is asked."""

    url: str
    """Address without path, such as `http://127.0.0.1:8000`."""
    timeout_seconds: float = 600.0
    """How long one answer may take."""
    num_attempts: int = 4
    """How often a request that failed in passing is sent in all."""
    backoff_seconds: float = 1.0
    """Pause before the second attempt; it doubles with each further one."""

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        *,
        parse: Callable[[Any], Any],
    ) -> Any:
        """Send a request, again where that may help, and return its answer.

        Args:
            method: HTTP method.
            path: Path with leading slash.
            body: JSON body; None sends none.
            parse: Turns decoded JSON into the result; raises ValueError or a lookup error on an
                answer that is not whole, which is then asked for again.

        Raises:
            SamplingError: The server refuses, or every attempt failed in passing.
        """
        problem = ""
        for attempt in range(self.num_attempts):
            if attempt:
                time.sleep(self.backoff_seconds * 2 ** (attempt - 1))
            try:
                status, text = self._exchange(method, path, body)
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if status >= 500 or status in _PASSING_STATUSES:
                problem = f"status {status}: {_shown(text)}"
                continue
            if status != 200:
                raise VllmRefusalError(status, _shown(text), f"{method} {path} at {self.url}")
            try:
                return parse(json.loads(text) if text.lstrip()[:1] in "{[" else text)
            except (ValueError, KeyError, IndexError, TypeError) as error:
                problem = f"an answer that is not whole ({type(error).__name__}: {error})"
        raise SamplingError(
            f"Expected the vLLM server at {self.url} to answer {method} {path}, got {problem} in "
            f"{self.num_attempts} attempts. See that `vllm serve` runs there and has memory left."
        )

    def _exchange(
        self, method: str, path: str, body: Mapping[str, object] | None
    ) -> tuple[int, str]:
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        try:
            parts = urlsplit(self.url)
            kind, host, port = kinds.get(parts.scheme), parts.hostname, parts.port
        except ValueError:  # a port that is no number, or half of a bracket
            kind = host = None
        if kind is None or not host:
            raise SamplingError(
                f"Expected the address of a vLLM server such as http://127.0.0.1:8000, got "
                f"{self.url!r}. Change it."
            )
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("VLLM_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        connection = kind(host, port, timeout=self.timeout_seconds)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, parts.path.rstrip("/") + path, body=data, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", errors="replace")
        finally:
            connection.close()


class VllmSampler:
    """Samples from one model that a server holds; see `lm.sampling.Sampler`."""

    def __init__(
        self,
        server: VllmServer,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model_name: str,
        stop_ids: frozenset[int],
        max_positions: int,
        adapter_folder: Path | None = None,
        owns_adapter: bool = False,
    ) -> None:
        """Wrap a server that has the model; `open` makes one from folders.

        Args:
            server: Where the model is.
            tokenizer: The base model's tokenizer, for the text of completions.
            model_name: What the server calls the base model, or the adapter to sample with.
            stop_ids: Ids that end a completion.
            max_positions: Tokens that the server lets prefix and completion have together.
            adapter_folder: Where the adapter lies, should another process have it unloaded.
            owns_adapter: Whether `model_name` is an adapter that `close` is to unload.
        """
        self._server: VllmServer | None = server
        self._tokenizer = tokenizer
        self._model_name = model_name
        self._stop_ids = stop_ids
        self._max_positions = max_positions
        self._adapter_folder = adapter_folder
        self._owns_adapter = owns_adapter

    @classmethod
    def open(
        cls, base_folder: Path, *, server: VllmServer, adapter_folder: Path | None = None
    ) -> VllmSampler:
        """Find the base model on a server, and load an adapter into it.

        Args:
            base_folder: The same model as the server holds, for its tokenizer and end tokens.
            server: The server.
            adapter_folder: PEFT folder at a path that means the same to the server; None samples
                from the base model itself.

        Raises:
            ModelFolderError: The folder holds no usable model.
            SamplingError: The server cannot be reached, holds another model, or takes no adapter.
        """
        tokenizer = load_tokenizer(base_folder)
        base = _base_card(server, base_folder)
        name, owns_adapter = str(base["id"]), False
        if adapter_folder is not None:
            name, owns_adapter = _load_adapter(server, adapter_folder.resolve())
        return cls(
            server,
            tokenizer,
            model_name=name,
            stop_ids=stop_token_ids(base_folder, tokenizer),
            max_positions=int(base["max_model_len"]),
            adapter_folder=adapter_folder and adapter_folder.resolve(),
            owns_adapter=owns_adapter,
        )

    def sample(
        self,
        prefixes: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        salts: Sequence[str] | None = None,
        on_progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Sample continuations; see `lm.sampling.Sampler.sample`."""
        server = self._server
        if server is None:
            raise SamplingError("Expected an open sampler, found a closed one. Open it again.")
        check_prefixes(prefixes, params, max_positions=self._max_positions)
        if not prefixes:
            return []
        results: list[list[Completion]] = [[] for _ in prefixes]
        pool = ThreadPoolExecutor(max_workers=min(len(prefixes), _MAX_CONNECTIONS))
        try:
            places = {
                pool.submit(self._complete, server, prefix, params, own_seed): place
                for place, (prefix, own_seed) in enumerate(
                    zip(prefixes, prefix_seeds(prefixes, seed, salts), strict=True)
                )
            }
            for num_done, future in enumerate(as_completed(places), start=1):
                results[places[future]] = future.result()
                if on_progress is not None:
                    total = len(prefixes) * params.num_candidates
                    on_progress(num_done * params.num_candidates, total)
        finally:
            # After an error nothing that waits is sent any more.
            pool.shutdown(cancel_futures=True)
        return results

    def close(self) -> None:
        """Unload the adapter that `open` loaded. The sampler cannot be used afterwards."""
        server, self._server = self._server, None
        if server is None or not self._owns_adapter:
            return
        try:
            server.request(
                "POST", "/v1/unload_lora_adapter", {"lora_name": self._model_name}, parse=str
            )
        except SamplingError as error:
            # What was sampled is sampled; the server merely keeps an adapter too many.
            _LOGGER.warning("The vLLM server keeps %s loaded: %s", self._model_name, error)

    def _complete(
        self, server: VllmServer, prefix: Sequence[int], params: SamplingParams, seed: int
    ) -> list[Completion]:
        # The server refuses several greedy completions, which would all be the same.
        count = 1 if params.greedy else params.num_candidates
        body = {
            "model": self._model_name,
            "prompt": list(prefix),
            "n": count,
            "max_tokens": params.max_new_tokens,
            "temperature": 0.0 if params.greedy else params.temperature,
            "top_p": 1.0 if params.greedy else params.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": params.repetition_penalty,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            # The server adds the number of a completion; the sum must stay below 2**63.
            "seed": seed >> 1,
            "stop_token_ids": sorted(self._stop_ids),
            "return_token_ids": True,
            "stream": False,
        }
        ask = partial(
            server.request,
            "POST",
            "/v1/completions",
            body,
            parse=lambda answer: self._parse(answer, count),
        )
        try:
            completions: list[Completion] = ask()
        except VllmRefusalError as error:
            if self._adapter_folder is None or error.status != _NO_SUCH_MODEL:
                raise
            # A process with the same adapter loaded it, and unloaded it when it was done.
            _, is_own = _load_adapter(server, self._adapter_folder)
            if is_own:
                self._owns_adapter = True
            completions = ask()
        return completions * params.num_candidates if params.greedy else completions

    def _parse(self, answer: Any, count: int) -> list[Completion]:
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        if [choice["index"] for choice in choices] != list(range(count)):
            raise ValueError(f"{len(choices)} completions of {count}")
        return [self._completion(choice) for choice in choices]

    def _completion(self, choice: Mapping[str, Any]) -> Completion:
        reason = choice["finish_reason"]
        if reason not in ("stop", "length"):
            raise ValueError(f"a completion that ended by {reason!r}")
        if choice.get("token_ids") is None:
            raise SamplingError(
                "Expected token ids in the vLLM server's answer, found none. Use vLLM 0.10.2 or "
                "later."
            )
        ids = [int(token) for token in choice["token_ids"]]
        if ids and ids[-1] in self._stop_ids:
            ids.pop()
        text = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Completion(token_ids=tuple(ids), text=str(text), is_finished=reason == "stop")


def _base_card(server: VllmServer, base_folder: Path) -> Mapping[str, Any]:
    """Return what the server says of its base model, which must be the one in `base_folder`."""
    bases = [card for card in _cards(server) if not card.get("parent")]
    if not bases or not isinstance(bases[0].get("max_model_len"), int):
        raise SamplingError(
            f"Expected a vLLM server with a base model at {server.url}, found something else. "
            "Change the address."
        )
    root = Path(str(bases[0].get("root") or ""))
    # A hub name says nothing that can be compared here; a folder does.
    is_elsewhere = root.is_absolute() and root.is_dir() and root.resolve() != base_folder.resolve()
    if is_elsewhere and base_model_digest(root) != base_model_digest(base_folder):
        raise SamplingError(
            f"Expected the vLLM server at {server.url} to hold the model of {base_folder}, "
            f"found that of {root}. Serve the other one, or change the address."
        )
    return bases[0]


def _load_adapter(server: VllmServer, folder: Path) -> tuple[str, bool]:
    """Return the name under which the server has an adapter, and whether it was loaded for us."""
    name = f"rewardds-{_folder_digest(folder)[:16]}"
    if _has_model(server, name):
        return name, False
    try:
        server.request(
            "POST",
            "/v1/load_lora_adapter",
            {"lora_name": name, "lora_path": str(folder)},
            parse=str,
        )
    except VllmRefusalError as error:
        # The answer to a first attempt may have been lost, or another process was quicker.
        if not _has_model(server, name):
            raise SamplingError(
                f"Expected the vLLM server to load the adapter in {folder}, got: {error} "
                f"{_ADAPTER_HINT}"
            ) from error
    return name, True


def _has_model(server: VllmServer, name: str) -> bool:
    return any(card["id"] == name for card in _cards(server))


def _cards(server: VllmServer) -> list[Mapping[str, Any]]:
    cards: list[Mapping[str, Any]] = server.request("GET", "/v1/models", None, parse=_parse_cards)
    return cards


def _parse_cards(answer: Any) -> list[Mapping[str, Any]]:
    # Another service may answer here, with a page, a list or an object of its own.
    return [{**card, "id": str(card["id"])} for card in answer["data"]]


def _folder_digest(folder: Path) -> str:
    total = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        total.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return total.hexdigest()


def _shown(text: str) -> str:
    """Return the message of an error document, shortened."""
    try:
        document = json.loads(text)
        text = str(document.get("error", document).get("message", text))
    except (ValueError, AttributeError):
        pass
    return text.strip()[:_SHOWN_CHARS]
