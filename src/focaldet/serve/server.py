"""Run the application with uvicorn on a socket."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI

from focaldet.checks import InputError, check_range, printable
from focaldet.engine.load import load_selected
from focaldet.runtime.model import Model
from focaldet.runtime.onnx_detector import OnnxDetector
from focaldet.runtime.selection import ScoreChoices, Selection
from focaldet.serve.app import create_app
from focaldet.serve.connections import AT_ONCE, bounded
from focaldet.serve.limits import DEFAULTS, Limits
from focaldet.system.cores import cores

MAX_WORKERS = 8
"""Largest number of batches in parallel. With more cores, each batch gets several."""


def serve(
    model: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    score: ScoreChoices | None = None,
    coverage: float | None = None,
    calibrated: bool = True,
    limits: Limits = DEFAULTS,
    max_detections: int | None = None,
    tile: int | None = None,
    overlap: float | None = None,
    root_path: str = "",
    cors: str | None = None,
    openvino: bool = False,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> None:
    """Serve a model until stopped.

    Args:
        model: a run folder, or an exported ONNX file.
        host: address to listen on; by default, this machine only.
        port: port to listen on; 0 picks a free one.
        score, coverage: selection for requests without a threshold, and the bands; see ``select``.
        calibrated: see ``load_model``.
        limits: limits on requests.
        root_path, cors: see ``create_app``.
        max_detections, tile, overlap, openvino, device: see ``load_model``.
        say: prints a line, with the address of the server.

    Raises:
        InputError: the model cannot be read or run, or the server cannot listen on the address.
    """
    check_range("port", port, 0, 65535)
    listener = _listen(host, port)
    with listener:
        options: dict[str, Any] = {"calibrated": calibrated, "max_detections": max_detections, "device": device}
        options |= {"tile": tile, "overlap": overlap}
        detector, select, workers = load_with_workers(model, score, coverage=coverage, openvino=openvino, **options)
        for note in select.notes:
            say(note)
        detector.detect([detector.prepare(np.zeros((64, 64, 3), np.uint8))])  # fail now if it cannot run
        app = create_app(
            detector, name=model.name, select=select, limits=limits, workers=workers, root_path=root_path, cors=cors
        )
        address = f"[{host}]" if ":" in host else host
        say(f"serving {printable(str(model))} at http://{address}:{listener.getsockname()[1]}/ (stop with Ctrl-C)")
        uvicorn.Server(uvicorn_config(app, limits)).run(sockets=[listener])


def load_with_workers(
    path: Path, score: ScoreChoices | None = None, *, openvino: bool = False, **options: Any
) -> tuple[Model, Selection, int]:
    """Load a detector for serving; return it with the selection of its boxes and the number of parallel batches.

    Requests may choose lower scores, so the detector keeps all detections that it was made for.

    onnxruntime has the highest throughput with one batch per core: the calling thread computes, and onnxruntime gets
    additional threads for the remaining cores. torch and OpenVINO use all cores for one batch.
    """
    if openvino:
        return *load_selected(path, score, lower_only=True, openvino=True, **options), 1
    workers = min(cores(), MAX_WORKERS)
    detector, select = load_selected(path, score, lower_only=True, threads=cores() - workers + 1, **options)
    return detector, select, workers if isinstance(detector, OnnxDetector) else 1


def uvicorn_config(app: FastAPI, limits: Limits) -> uvicorn.Config:
    """uvicorn's configuration for the application."""
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
    except UnicodeError as error:  # an invalid name such as a..b
        raise InputError(f"--host {host}: not a valid host name; choose another") from error
    except OSError as error:
        number = None if isinstance(error, socket.gaierror) else error.errno
        reason = os.strerror(number) if number else error.strerror  # without the address that Python appends
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({reason}); choose others, or --port 0 for a free one"
        ) from error
