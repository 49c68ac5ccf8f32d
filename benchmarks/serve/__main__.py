"""python -m benchmarks.serve MODEL PHOTOS: compare a served model with the same model without a server.

Each round sends 1,000 requests to ``focaldet serve`` in a separate process and processes 1,000 photos without it,
twice, at the same concurrency. A minute of load follows, during which the memory of the server is monitored. A round of
a resnet18 at 320 px takes about 80 seconds on two cores. Writes benchmarks/results/serve.md, which explains each row.
Run it on an idle machine: the model alone has more threads than the server and gets a larger share of busy cores.
"""

import argparse
import http.client
import io
import itertools
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from threading import local

from benchmarks.provenance import given_command, provenance

from focaldet.bench.losses import Row, table
from focaldet.photos.images import IMAGE_SUFFIXES, read_photo
from focaldet.runtime.model import Model
from focaldet.runtime.onnx_detector import OnnxDetector
from focaldet.serve.server import load_with_workers

RESULT = Path(__file__).parents[1] / "results" / "serve.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="run folder, or exported file")
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="seconds of load at the end")
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    files = sorted(p for p in args.photos.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    photos = [file.read_bytes() for file in files[: args.requests]]
    bare, workers = load_with_workers(args.model)
    with ThreadPoolExecutor(args.concurrency) as pool:
        lines = list(table(rows(args, bare, photos, pool)))
    text = [
        "# A served model compared with the model alone",
        "",
        f"{provenance(given_command('benchmarks.serve'))}, onnxruntime {version('onnxruntime')}.",
        "",
        f"The model: {described(args.model, bare)}; {workers} batches in parallel. {len(photos)} photos in turn, "
        f"{sum(map(len, photos)) / len(photos) / 1000:.0f} KB each, {args.concurrency} at a time; medians of "
        f"{args.rounds} interleaved rounds of {args.requests:,}. The client and the server share the cores. "
        "*Served*: JPEG files over HTTP to `focaldet serve` in a separate process. *File to boxes*: threads of one "
        "process decode, scale and detect, with one photo each. *Network alone*: the same threads run the detector on "
        "photos that have been decoded and scaled in advance. CPU time covers all threads of server and client.",
        "",
        *lines,
        "",
    ]
    args.output.write_text("\n".join(text))
    print("\n".join(text))


def described(path: Path, model: Model) -> str:
    """Describe a model in words."""
    if not isinstance(model, OnnxDetector):
        return f"the run {path.name}"
    card = model.card
    return f"{path.name}, {card.method}, {card.size} px, {path.stat().st_size / 1e6:.0f} MB{', int8' * card.int8}"


def rows(args: argparse.Namespace, bare: Model, photos: Sequence[bytes], pool: ThreadPoolExecutor) -> Iterator[Row]:
    """The comparison, followed by the minute of load."""
    requests, concurrency = args.requests, args.concurrency
    scaled = [bare.prepare(read_photo(io.BytesIO(photo))) for photo in photos]
    with serving(args.model) as (host, port):
        client = Client(host, port)
        work: dict[str, Callable[[int], object]] = {
            "served": lambda n: client.predict(photos[n % len(photos)]),
            "file to boxes": lambda n: bare.detect([bare.prepare(read_photo(io.BytesIO(photos[n % len(photos)])))]),
            "network alone": lambda n: bare.detect([scaled[n % len(photos)]]),
        }
        for ask in work.values():
            list(pool.map(ask, range(4 * concurrency)))
        a_second: dict[str, list[float]] = {name: [] for name in work}
        cpu_ms: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(args.rounds):
            for name, ask in work.items():
                cpu, start = client.cpu_seconds(), time.perf_counter()
                list(pool.map(ask, range(requests)))
                a_second[name].append(requests / (time.perf_counter() - start))
                cpu_ms[name].append((client.cpu_seconds() - cpu) / requests * 1000)
        rate = {name: statistics.median(values) for name, values in a_second.items()}
        title = f"{requests:,} photos, {concurrency} at a time"
        for name, value in rate.items():
            yield Row(title, name, value, "photos/s", "")
        yield Row(title, "served / file to boxes", rate["served"] / rate["file to boxes"], "x", "")
        yield Row(title, "served / network alone", rate["served"] / rate["network alone"], "x", ">= 0.8")
        for name, values in cpu_ms.items():
            yield Row(title, f"{name}, CPU time per photo", statistics.median(values), "ms", "")
        yield from load(client, photos, pool, args.seconds)


def load(client: "Client", photos: Sequence[bytes], pool: ThreadPoolExecutor, seconds: float) -> Iterator[Row]:
    """Send requests without a pause; count failures and measure memory growth after the first sixth of the time."""
    start, statuses, memory = time.perf_counter(), Counter[int](), list[float]()
    numbers = itertools.count()

    def ask(_: int) -> int:
        return client.status(photos[next(numbers) % len(photos)])

    while (passed := time.perf_counter() - start) < seconds:
        statuses.update(pool.map(ask, range(64)))
        if passed > seconds / 6:
            memory.append(client.memory_mb())
    title = f"{seconds:g} s of load"
    total = sum(statuses.values())
    yield Row(title, "responses", total, "", "")
    yield Row(title, "responses other than 200", total - statuses[200], "", "0")
    if memory:
        yield Row(title, "peak memory", max(memory), "MB", "")
        yield Row(title, "memory growth after the first sixth", memory[-1] - memory[0], "MB", "<= 20")


@contextmanager
def serving(model: Path) -> Iterator[tuple[str, int]]:
    """Run ``focaldet serve`` in a separate process; yield host and port."""
    command = [sys.executable, "-m", "focaldet", "serve", str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        address = re.search(r"http://([\d.]+):(\d+)/", said)
        assert address, f"the server did not start: {said}"
        try:
            yield address[1], int(address[2])
        finally:
            server.terminate()


class Client:
    """HTTP client with one connection per thread."""

    def __init__(self, host: str, port: int) -> None:
        self._address, self._local = (host, port), local()

    def hang_up(self) -> None:
        """Open new connections, because the server closes idle ones after some seconds."""
        self._local = local()

    def status(self, photo: bytes) -> int:
        """Send a photo, read the whole response and return its status."""
        answer = self._ask("POST", "/predict", photo)
        answer.read()
        return answer.status

    def predict(self, photo: bytes) -> None:
        """Send a photo; any status other than 200 is an error."""
        status = self.status(photo)
        assert status == 200, status

    def memory_mb(self) -> float:
        """Resident memory of the server."""
        return self._metric("process_resident_memory_bytes") / 1e6

    def cpu_seconds(self) -> float:
        """CPU time used by the server and this process."""
        return self._metric("process_cpu_seconds_total") + time.process_time()

    def _metric(self, name: str) -> float:
        self.hang_up()
        text = self._ask("GET", "/metrics", None).read().decode()
        (value,) = re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)
        return float(value)

    def _ask(self, method: str, path: str, body: bytes | None) -> http.client.HTTPResponse:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(*self._address, timeout=60)
        self._local.connection.request(method, path, body)
        answer: http.client.HTTPResponse = self._local.connection.getresponse()
        return answer


if __name__ == "__main__":
    main()
