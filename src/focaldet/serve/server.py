"""The socket and uvicorn around the application."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI

from focaldet.checks import InputError, check_range, printable
from focaldet.engine.cores import cores
from focaldet.engine.load import load_model
from focaldet.runtime.model import Model
from focaldet.runtime.onnx_detector import OnnxDetector
from focaldet.serve.app import create_app
from focaldet.serve.connections import AT_ONCE, bounded
from focaldet.serve.limits import DEFAULTS, Limits

MOST_LANES = 8
"""Batches at a time. With more cores than that, a batch has several."""


def serve(
    model: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    score: float = 0.3,
    limits: Limits = DEFAULTS,
    root_path: str = "",
    cors: str | None = None,
    openvino: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Answer requests until stopped.

    Args:
        model: a run folder, or an exported ONNX file.
        host: address to listen on; by default only this machine is answered.
        port: 0 takes a free one, which is said.
        score: least score of a box where a request does not ask for another.
        root_path, cors: see ``create_app``.
        openvino: see ``OnnxDetector.load``.

    Raises:
        InputError: the model cannot be read or run, or the address cannot be listened on.
    """
    check_range("port", port, 0, 65535)
    listener = _listen(host, port)
    with listener:
        detector, lanes = load_lanes(model, openvino=openvino)
        detector.detect([detector.prepare(np.zeros((64, 64, 3), np.uint8))])  # what cannot be run is told now
        app = create_app(
            detector, name=model.name, score=score, limits=limits, lanes=lanes, root_path=root_path, cors=cors
        )
        address = f"[{host}]" if ":" in host else host
        say(f"serving {printable(str(model))} at http://{address}:{listener.getsockname()[1]}/ (stop with Ctrl-C)")
        uvicorn.Server(uvicorn_config(app, limits)).run(sockets=[listener])


def load_lanes(path: Path, *, openvino: bool = False) -> tuple[Model, int]:
    """A detector for photos without end, and how many batches it is to run at a time.

    onnxruntime gets the most through when each core has a batch of its own: the thread that asks for a batch computes,
    and beside those it has a thread for each core that is left. torch and OpenVINO take all cores for one batch.
    """
    if openvino:
        return load_model(path, openvino=True), 1
    lanes = min(cores(), MOST_LANES)
    detector = load_model(path, threads=cores() - lanes + 1)
    return detector, lanes if isinstance(detector, OnnxDetector) else 1


def uvicorn_config(app: FastAPI, limits: Limits) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,
        http=bounded(limits.seconds),
        ws="none",
        backlog=AT_ONCE,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except UnicodeError as error:  # of a name that is none: a..b
        raise InputError(f"--host {host}: no name of a machine; choose another") from error
    except OSError as error:
        number = None if isinstance(error, socket.gaierror) else error.errno
        reason = os.strerror(number) if number else error.strerror  # without the address, which Python adds
        raise InputError(
            f"--host {host} --port {port}: cannot be listened on ({reason}); choose others, --port 0 takes a free one"
        ) from error
