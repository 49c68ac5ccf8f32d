"""A served model among hostile clients: ``python tests/hostile/fuzz_server.py --seconds 300``.

Some clients send damaged photos, some damaged HTTP, some stall in the middle of either, and one sends valid requests.
That one must always be answered, nobody may get a status that the interface does not name, and the server must still
run at the end, with about the same memory as at the start.
"""

import argparse
import io
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
from hostile_mutations import damaged
from hostile_samples import CARD, colour_model
from PIL import Image

from focaldet.runtime.card import KEY

STATUSES = {200, 400, 404, 405, 408, 413, 415, 422, 431, 503}
"""Statuses that a client may get."""

PATIENCE = 10.0
"""Seconds in which a valid request must be answered under attack."""

HALF = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx"
"""Half a request; some clients send even less of it."""

STALLING = 80
"""Number of clients that hold a half-sent request: more than there are places for uploads."""


def photo(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(out, kind)
    return out.getvalue()


PHOTOS = tuple(map(photo, ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")))


class Clients:
    """All clients and their observations."""

    def __init__(self, port: int, seed: int, seconds: float) -> None:
        self.port, self.seed = port, seed
        self.end = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.slowest = 0.0
        self.lock = threading.Lock()

    def run(self) -> None:
        kinds: list[Callable[[random.Random], None]] = [self.sound, self.photos, self.photos, self.http, self.http]
        threads = [threading.Thread(target=self._loop, args=(kind, number)) for number, kind in enumerate(kinds)]
        threads.append(threading.Thread(target=self.stalling))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _loop(self, kind: Callable[[random.Random], None], number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        while time.monotonic() < self.end:
            kind(rng)

    def count(self, kind: str, status: int | None) -> None:
        with self.lock:
            self.counts[kind] += 1
            if status is not None and status not in STATUSES:
                self.faults.append(f"{kind}: status {status}")

    def sound(self, rng: random.Random) -> None:
        """Send a valid photo and time the response."""
        start = time.monotonic()
        try:
            status, _ = self._post(rng.choice(PHOTOS))
        except OSError as error:
            status = 0
            with self.lock:
                self.faults.append(f"a sound request: {type(error).__name__}")
        took = time.monotonic() - start
        self.slowest = max(self.slowest, took)
        self.count("sound", status or None)
        if status != 200 or took > PATIENCE:
            with self.lock:
                self.faults.append(f"a sound request: status {status} after {took:.1f} s")
        time.sleep(0.05)

    def photos(self, rng: random.Random) -> None:
        """A damaged photo, or none, with strange parameters."""
        data = damaged(rng.choice(PHOTOS), rng)
        if rng.random() < 0.02:
            data = bytes(25_000_000)
        query = rng.choice(
            ("", "", "?score=2", "?score=nan", "?score=" + "9" * 400, "?x=1", "?score=%00", "?score=0.1&score=x")
        )
        try:
            self.count("photos", self._post(data, query)[0])
        except OSError:
            self.count("photos", None)

    def http(self, rng: random.Random) -> None:
        """A damaged request, whatever becomes of it."""
        body = rng.choice(PHOTOS)
        method = rng.choice(("POST", "GET", "PUT", "HEAD", "OPTIONS", "X"))
        paths = ("/predict", "/health", "/metrics", "/docs", "/", "/%2e%2e/etc", "/" + "a" * 5000, "*")
        length = rng.choice((len(body), 0, -1, 10**12, "x"))
        more = rng.choice((
            "", "", "Transfer-Encoding: chunked\r\n", "Content-Encoding: gzip\r\n", "Expect: 100-continue\r\n",
            "Connection: close\r\n", "Upgrade: websocket\r\nConnection: upgrade\r\n", "X: " + "y" * 70_000 + "\r\n",
        ))  # fmt: skip
        lines = f"{method} {rng.choice(paths)} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n"
        head = lines.encode() + body
        if rng.random() < 0.5:
            head = damaged(head, rng)
        status = None
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
                connection.sendall(head)
                connection.settimeout(0.5)
                answer = connection.recv(1 << 16)
                found = re.match(rb"HTTP/1\.1 (\d+)", answer)
                status = int(found[1]) if found and found[1] != b"100" else None
        except OSError:
            pass
        self.count("http", status)

    def stalling(self) -> None:
        """Connections that are opened again when they are closed, each with half a request."""
        held: list[socket.socket] = []
        while time.monotonic() < self.end:
            held = [one for one in held if self._open(one)]
            while len(held) < STALLING:
                try:
                    one = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
                    one.sendall(
                        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx"[: 20 + 9 * len(held)]
                    )
                except OSError:
                    break
                one.setblocking(False)
                held.append(one)
                self.count("stalled", None)
            time.sleep(0.2)
        for one in held:
            one.close()

    @staticmethod
    def _open(one: socket.socket) -> bool:
        try:
            if one.recv(1 << 16):
                return True
        except BlockingIOError:
            return True
        except OSError:
            pass
        one.close()
        return False

    def _post(self, data: bytes, query: str = "") -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("POST", f"/predict{query}", data)
            with connection.getresponse() as answer:
                return answer.status, answer.read()
        except Exception as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()


def memory_mb(process: int) -> float:
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.onnx")
        model.write_bytes(colour_model({KEY: CARD.to_json()}))
        log = Path(folder, "log")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "focaldet", "serve", str(model), "--port", "0"]
        with (
            log.open("wb") as errors,
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors) as server,
        ):
            assert server.stdout is not None
            port = int(re.findall(rb":(\d+)/", server.stdout.readline())[0])
            warm = Clients(port, chosen.seed, min(10, chosen.seconds))
            warm.run()
            before = memory_mb(server.pid)
            clients = Clients(port, chosen.seed + 1, chosen.seconds)
            clients.run()
            after, alive = memory_mb(server.pid), server.poll() is None
            server.send_signal(signal.SIGINT)
            code = server.wait(30)
        said = log.read_text(errors="replace")
    for kind, count in clients.counts.items():
        print(f"{kind}: {count:,}")
    faults = [*clients.faults, *["the server has ended"] * (not alive), *[f"exit code {code}"] * (code not in (0, 130))]
    if "Traceback" in said:
        faults.append(f"{said.count('Traceback')} tracebacks in its log; {said[said.index('Traceback') :][:3000]}")
    print(f"slowest sound answer {clients.slowest:.2f} s; memory {before:.0f} MB, then {after:.0f} MB")
    print(f"{chosen.seconds:.0f} s, {sum(clients.counts.values()):,} requests, {len(faults)} faults")
    for fault, count in Counter(faults).most_common(9):
        print(f"{count} x {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
