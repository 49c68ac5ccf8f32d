"""A server with a socket, on a free port of this machine."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from focaldet.runtime.model import Model
from focaldet.serve.app import create_app
from focaldet.serve.limits import Limits


@contextmanager
def listening(model: Model, **limits: float) -> Iterator[tuple[str, int]]:
    """Serve the model while the block runs; gives host and port."""
    app = create_app(model, name="cells", score=0.0, limits=Limits(**limits))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
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
