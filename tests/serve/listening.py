"""A server with a socket, on a free port of this machine."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from focaldet.runtime.model import Model
from focaldet.serve.app import create_app
from focaldet.serve.limits import Limits
from focaldet.serve.server import uvicorn_config


@contextmanager
def listening(model: Model, workers: int = 1, **limits: float) -> Iterator[tuple[str, int]]:
    """Serve the model while the block runs; yields host and port."""
    bounds = Limits(**limits)
    config = uvicorn_config(create_app(model, name="cells", score=0.0, limits=bounds, workers=workers), bounds)
    config.host, config.port, config.log_level = "127.0.0.1", 0, "error"
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join(30)
