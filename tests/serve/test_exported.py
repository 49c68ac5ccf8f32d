"""An exported model behind the server: one batch per worker at a time, and one response per photo."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from focaldet.checks import InputError
from focaldet.engine.load import load_model
from focaldet.runtime.card import KEY
from focaldet.serve.app import create_app
from focaldet.serve.server import serve
from runtime.colours import BOXES, CARD, colour_model


def colour(red: int, green: int, blue: int, width: int = 80) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 60), (red, green, blue)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "colours.onnx"
    file.write_bytes(colour_model({KEY: CARD.to_json()}))
    return file


def test_many_photos_at_a_time_on_two_lanes_are_each_answered_for_themselves(file: Path) -> None:
    photos = [colour(*np.roll([51 * n, 0, 0], n), width=60 + 20 * (n % 2)) for n in range(2, 6)]
    with (
        TestClient(create_app(load_model(file, threads=1), name="colours", score=0, workers=2)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda n: client.post("/predict", content=photos[n % 4]), range(64)))
    for number, answer in enumerate(answers):
        n = 2 + number % 4
        (box,) = answer.json()["boxes"]
        assert (box["name"], box["score"]) == (CARD.class_names[n % 3], pytest.approx(n / 5))
        size = [60 + 20 * (n % 2), 60] * 2
        assert box["box_xyxy"] == pytest.approx(BOXES[n % 3] * size, abs=1e-3)
        assert box["side_std_px"] == pytest.approx(BOXES[n % 3] * size / 10, abs=1e-3)


def test_a_model_that_cannot_be_run_is_told_before_anything_is_answered(tmp_path: Path) -> None:
    file = tmp_path / "damaged.onnx"
    file.write_bytes(colour_model({KEY: CARD.to_json()}, boxes=np.full((2, 4), np.inf, np.float32)))
    said: list[str] = []
    with pytest.raises(InputError, match="cannot be run"):
        serve(file, port=0, say=said.append)
    assert said == []


@pytest.mark.slow
def test_ctrl_c_twice_stops_it_at_once_and_who_is_still_sending_is_told(file: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "focaldet", "serve", str(file), "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as server:
        try:
            assert server.stdout is not None
            port = re.findall(r"127\.0\.0\.1:(\d+)", server.stdout.readline())[0]
            with socket.create_connection(("127.0.0.1", int(port)), timeout=30) as sending:
                sending.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
                with socket.create_connection(("127.0.0.1", int(port)), timeout=30) as other:
                    other.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert other.recv(1 << 16).startswith(b"HTTP/1.1 200")
                for _ in range(2):
                    server.send_signal(signal.SIGINT)
                    time.sleep(0.3)
                assert sending.recv(1 << 16).startswith(b"HTTP/1.1 503")
            _, errors = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 130
    assert errors == "focaldet: stopped\n"
