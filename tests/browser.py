"""Headless Chromium through its DevTools pipe, with nothing but the standard library."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from select import select
from typing import Any, NoReturn

import pytest

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking --disable-sync "
    "--disable-component-update --disable-default-apps --disable-extensions --no-first-run --remote-debugging-pipe"
)
_TIMEOUT_SECONDS = 60.0


def missing(tool: str) -> NoReturn:
    """Skip a test that needs a missing tool. CI installs all tools (.ci/run), so there the test fails."""
    if os.environ.get("CI"):
        pytest.fail(f"needs {tool}")
    pytest.skip(f"needs {tool}")


class Browser:
    """One page in a Chromium of its own; every event since the start is in ``events``."""

    def __init__(self, profile: Path) -> None:
        binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if binary is None:
            missing("Chromium, for example: apt-get install chromium")
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        # The protocol uses the descriptors 3 (in) and 4 (out).
        command = f'exec "{binary}" {_FLAGS} --user-data-dir="{profile}" about:blank 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._last_id, self._session = b"", 0, None
        self.events: list[dict] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path | str, width: int, dark: bool = False) -> None:
        """Load a file, or an address."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        start = len(self.events)
        self.send("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events[start:]):
            self.events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def complaints(self) -> list[dict]:
        """Console messages, exceptions and security violations so far."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in kinds]

    def network_requests(self) -> list[str]:
        """Requested addresses that are neither this page nor inside it."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("file:", "data:", "about:"))]

    def close(self) -> None:
        os.close(self._to)  # Chromium ends when its pipe does
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)

    def _receive(self) -> dict:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select([self._from], [], [], max(deadline - time.monotonic(), 0.0))
            chunk = os.read(self._from, 1 << 16) if ready else b""
            assert chunk, "Chromium did not answer"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
