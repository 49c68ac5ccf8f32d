"""Uploads: clients that stall or send too much, and bodies that are not a photo file."""

import base64
import gzip
import io
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import pytest
from listening import listening
from PIL import Image
from starlette.testclient import TestClient

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.runtime.model import DetectionArrays, NetworkInput
from focaldet.serve import uploads
from focaldet.serve.app import create_app

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"


class Blind:
    """A network that finds nothing, at once."""

    class_names = ("cell",)
    tiling = None

    def prepare(self, photo: np.ndarray) -> NetworkInput:
        return NetworkInput(photo, photo.shape[:2], photo.shape[:2])

    def detect(self, batch: Sequence[NetworkInput]) -> list[DetectionArrays]:
        none = DetectionArrays(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), None)
        return [none] * len(batch)


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Blind(), name="cells")) as client:
        yield client


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with listening(Blind(), megabytes=1) as address:
        yield address


def answered(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    answer = b""
    while b"}" not in answer:
        answer += connection.recv(1 << 16)
    return answer


def status_of(address: tuple[str, int], body: bytes) -> int:
    try:
        with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/predict", body, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_stalled_uploads_keep_nobody_out() -> None:
    with listening(Blind()) as address, ExitStack() as stalled:
        for _ in range(uploads.MAX_UPLOADS):
            connection = stalled.enter_context(socket.create_connection(address, timeout=10))
            connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\nx")
        time.sleep(1.5 * uploads.SAFE_SECONDS)
        start = time.monotonic()
        for _ in range(5):
            assert status_of(address, png()) == 200
        assert time.monotonic() - start < 3


def test_one_that_gives_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS", 1)
    monkeypatch.setattr(uploads, "SAFE_SECONDS", 0.0)
    with listening(Blind()) as address, socket.create_connection(address) as slow:
        slow.sendall(HEAD + b"Content-Length: 100\r\n\r\nx")
        time.sleep(0.1)
        assert status_of(address, png()) == 200
        assert b"slower than the others" in answered(slow)


def test_uploads_that_have_only_begun_are_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS", 1)
    with listening(Blind()) as address, socket.create_connection(address) as slow:
        slow.sendall(HEAD + b"Content-Length: 100\r\n\r\nx")
        time.sleep(0.1)
        assert status_of(address, png()) == 503


def test_an_upload_that_comes_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PATIENCE", 0.2)
    with listening(Blind(), seconds=60) as address, socket.create_connection(address) as slow:
        slow.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(500))
        line = answered(slow)
    assert line.startswith(b"HTTP/1.1 408")
    assert b"too slow: 500 bytes" in line


def test_too_large_an_upload_gets_its_answer_before_the_connection_ends(address: tuple[str, int]) -> None:
    assert status_of(address, bytes(30_000_000)) == 413


def test_a_length_that_is_stated_in_two_ways_is_refused(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        head = HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"3\r\nabc\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.settimeout(10)
        answers = b""
        while part := connection.recv(1 << 16):
            answers += part
    assert answers.startswith(b"HTTP/1.1 400")
    assert answers.count(b"HTTP/1.1") == 1  # what follows is not taken for a request


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (base64.b64encode(png()), "perhaps base64"),
        (b"data:image/png;base64," + base64.b64encode(png()), "perhaps base64"),
        (json.dumps({"image": "x"}).encode(), "is JSON"),
    ],
)
def test_a_photo_in_words_is_answered_with_what_to_send(client: TestClient, body: bytes, words: str) -> None:
    answer = client.post("/predict", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["detail"]


def test_a_compressed_body_is_refused(client: TestClient) -> None:
    answer = client.post("/predict", content=gzip.compress(png()), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "'gzip'" in answer.json()["detail"]
    assert client.post("/predict", content=png(), headers={"Content-Encoding": "identity"}).status_code == 200


def test_pages_of_one_origin_may_ask() -> None:
    with TestClient(create_app(Blind(), name="cells", cors="https://example.org")) as client:
        answer = client.post("/predict", content=png(), headers={"Origin": "https://example.org"})
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        other = client.post("/predict", content=png(), headers={"Origin": "https://example.com"})
        assert "access-control-allow-origin" not in other.headers
        asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
        assert client.options("/predict", headers=asked).status_code == 200


def test_without_the_option_no_page_elsewhere_may_ask(client: TestClient) -> None:
    answer = client.post("/predict", content=png(), headers={"Origin": "https://example.org"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("kept", [True, False])
def test_a_proxy_may_show_it_below_a_path_that_it_keeps_or_cuts_off(kept: bool) -> None:
    below = "/cells" if kept else ""
    with TestClient(create_app(Blind(), name="cells", root_path="/cells")) as client:
        assert client.post(f"{below}/predict", content=png()).status_code == 200
        assert "/cells/predict?score" in client.get(f"{below}/docs").text
        assert 'focaldet_predict_requests_total{status="200"} 1.0' in client.get(f"{below}/metrics").text


@pytest.mark.parametrize(
    "options",
    [{"root_path": "cells"}, {"root_path": "/a b"}, {"root_path": "/a/"}, {"cors": "example.org"}, {"cors": "null"}],
)
def test_what_is_no_path_or_origin_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="expected a"):
        create_app(Blind(), name="cells", **options)


def test_a_host_that_is_no_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "nothing.onnx", "--host", "a..b"]) == 2
    assert "--host a..b: not a valid host name" in capsys.readouterr().err
