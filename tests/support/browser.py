"""A real headless Chromium, spoken to over its DevTools protocol: what a page does when it is read.

Records everything that the page logs and asks the network for; sets width and colour scheme as a
reader's device would. A page's own content security policy does not bind the tools.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# Colours as sRGB, by the WCAG 2 formula; the background is that of the nearest opaque ancestor.
_CONTRASTS = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parse = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const ink = node.closest('svg') ? style.fill : style.color;
    if (ink === 'none') continue;
    const [one, two] = [light(parse(ink)), light(behind(node))].sort((a, b) => b - a);
    found.push([(one + 0.05) / (two + 0.05), walk.currentNode.textContent.trim().slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]).slice(0, 5);
})()
"""


@dataclass(kw_only=True)
class Page:
    """One page in the browser."""

    socket: ClientConnection
    logged: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Call the protocol and note all that happens meanwhile."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=120))
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def open(self, address: str, *, width: int, scheme: str) -> None:
        """Open an address as a device of that width and colour scheme does, until it is loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=address)
        give_up = time.monotonic() + 120
        while self.evaluate("document.readyState") != "complete":
            assert time.monotonic() < give_up, "the page never loaded"
            time.sleep(0.1)

    def evaluate(self, expression: str) -> Any:
        """Return what a piece of script gives."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def contrasts(self) -> list[tuple[float, str]]:
        """Return the lowest contrasts of visible text with what lies behind it, least first."""
        return [(float(ratio), str(text)) for ratio, text in self.evaluate(_CONTRASTS)]

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.logged.append(json.dumps(params)[:500])
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])


@contextmanager
def browser_page(folder: Path) -> Iterator[Page]:
    """Start a browser with a profile in a folder, and end it afterwards."""
    assert CHROMIUM is not None
    profile = folder / "profile"
    process = subprocess.Popen(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--remote-debugging-port=0",
            f"--user-data-dir={profile}", "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port_file, give_up = profile / "DevToolsActivePort", time.monotonic() + 120
        while not (port_file.is_file() and port_file.read_text().strip()):
            assert time.monotonic() < give_up, "the browser never started"
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as reply:
            (target,) = [item for item in json.load(reply) if item["type"] == "page"]
        with connect(target["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
            yield Page(socket=socket)
    finally:
        process.terminate()
        process.wait(30)
