"""The socket and uvicorn around the application."""

import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from focaldet.checks import InputError, check_range
from focaldet.engine.load import load_model
from focaldet.serve.app import create_app
from focaldet.serve.limits import DEFAULTS, Limits


def serve(
    model: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    score: float = 0.3,
    limits: Limits = DEFAULTS,
    say: Callable[[str], None] = print,
) -> None:
    """Answer requests until stopped.

    Args:
        model: a run folder, or an exported ONNX file.
        host: address to listen on; by default only this machine is answered.
        port: 0 takes a free one, which is said.
        score: least score of a box where a request does not ask for another.

    Raises:
        InputError: the model cannot be read, or the address cannot be listened on.
    """
    check_range("port", port, 0, 65535)
    listener = _listen(host, port)
    with listener:
        app = create_app(load_model(model), name=model.name, score=score, limits=limits)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5
        )
        address = f"[{host}]" if ":" in host else host
        say(f"serving {model} at http://{address}:{listener.getsockname()[1]}/ (stop with Ctrl-C)")
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: cannot be listened on ({error.strerror}); choose others"
        ) from error
