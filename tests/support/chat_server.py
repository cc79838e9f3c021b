"""A small OpenAI-style chat endpoint on loopback, which fails when told to."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.loopback_server import LoopbackServer


class ChatServer(LoopbackServer):
    """Answers each chat with what `reply` makes of its user turn."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        """Bodies of everything that was asked."""
        self.keys: list[str | None] = []
        """The authorization header of everything that was asked."""
        self.faults: deque[str] = deque()
        """What goes wrong with the next requests: drop, cut, slow, empty, or a status."""
        super().__init__(_Handler)

    @property
    def url(self) -> str:
        return f"{self.address}/v1"


class _Handler(BaseHTTPRequestHandler):
    @property
    def chat(self) -> ChatServer:
        found: ChatServer = self.server.owner  # type: ignore[attr-defined]
        return found

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.chat.requests.append(body)
        self.chat.keys.append(self.headers["Authorization"])
        if self.path != "/v1/chat/completions":
            self.answer(404, {"error": {"message": "Not Found"}})
            return
        fault = self.chat.faults.popleft() if self.chat.faults else None
        content = self.chat.reply(body["messages"][-1]["content"])
        document: dict[str, Any] = {"choices": [{"message": {"content": content}}]}
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
        elif fault == "slow":
            time.sleep(1.0)
            self.answer(200, document)
        elif fault == "cut":
            text = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text[: len(text) // 2])
            self.close_connection = True
        elif fault == "empty":
            self.answer(200, {"choices": []})
        elif fault is not None:
            self.answer(int(fault), {"error": {"message": "told to fail"}})
        else:
            self.answer(200, document)

    def answer(self, status: int, document: object) -> None:
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        try:
            self.wfile.write(text)
        except OSError:
            self.close_connection = True  # who asked has given up
