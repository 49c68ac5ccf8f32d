"""A server with a socket: many requests at a time, uploads without end, clients that stall, a taken address."""

import http.client
import json
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from listening import listening

from focaldet.checks import InputError
from focaldet.runtime.model import Model
from focaldet.serve.app import MAX_REQUESTS
from focaldet.serve.server import serve

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # each makes a server of its own


def post(address: tuple[str, int], data: bytes, path: str = "/predict") -> tuple[int, dict]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request("POST", path, data)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


def raw(address: tuple[str, int], request: bytes) -> tuple[int, str]:
    """Status and body of the answer to these bytes."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(request)
        return answer_on(connection)


def answer_on(connection: socket.socket) -> tuple[int, str]:
    with http.client.HTTPResponse(connection) as answer:
        answer.begin()
        return answer.status, answer.read().decode()


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_many_at_a_time_are_each_answered_for_their_own_photo(model: Model, cells: Path) -> None:
    photos = [file.read_bytes() for file in sorted((cells / "JPEGImages").iterdir())]
    with listening(model) as address, ThreadPoolExecutor(8) as pool:
        alone = [post(address, photo) for photo in photos]
        together = list(pool.map(lambda n: post(address, photos[n % len(photos)]), range(48)))
        metrics = http.client.HTTPConnection(*address, timeout=30)
        metrics.request("GET", "/metrics")
        text = metrics.getresponse().read().decode()
        metrics.close()
    for n, (status, body) in enumerate(together):
        expected_status, expected = alone[n % len(photos)]
        assert (status, expected_status) == (200, 200)
        for key in ("box_xyxy", "score"):
            for ours, theirs in zip(body["boxes"], expected["boxes"], strict=True):
                assert ours[key] == pytest.approx(theirs[key], abs=0.02)
    counted = {line.split(" ")[0]: float(line.split(" ")[1]) for line in text.splitlines() if line[0] != "#"}
    assert counted["focaldet_batch_photos_sum"] == 48 + len(photos)
    assert counted["focaldet_batch_photos_count"] < 48 + len(photos)  # some went together


@pytest.mark.slow
def test_memory_is_bounded_under_load(model: Model, photo: Path) -> None:
    with listening(model) as address, ThreadPoolExecutor(8) as pool:
        data = photo.read_bytes()
        assert {status for status, _ in pool.map(lambda _: post(address, data), range(60))} == {200}
        before = resident_mb()
        assert {status for status, _ in pool.map(lambda _: post(address, data), range(120))} == {200}
        assert resident_mb() - before < 60


def test_an_upload_of_2_gb_is_refused_before_it_is_sent(model: Model) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2147483648\r\n\r\n"
    with listening(model) as address:
        status, body = raw(address, head)
        assert status == 413
        assert "larger than 20 MB" in body
        assert raw(address, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200


def test_an_upload_without_a_stated_length_is_refused_and_takes_no_memory(model: Model) -> None:
    chunk = b"100000\r\n" + b"\0" * 0x100000 + b"\r\n"
    with listening(model) as address:
        before = resident_mb()
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(300):  # what comes after the 20th is let go unread, so that the client sees its answer
                connection.sendall(chunk)
            assert answer_on(connection)[0] == 413
        assert resident_mb() - before < 60
        assert post(address, b"x")[0] == 400


def test_a_client_that_stalls_gets_a_408_and_one_that_leaves_harms_nobody(model: Model, photo: Path) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"
    with listening(model, seconds=0.3) as address:
        start = time.monotonic()
        assert raw(address, head)[0] == 408
        assert time.monotonic() - start < 5
        with socket.create_connection(address) as connection:
            connection.sendall(head)
        assert raw(address, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200


def test_more_requests_than_are_taken_are_told_so_and_those_before_them_are_answered(model: Model, photo: Path) -> None:
    data = photo.read_bytes()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data)
    with listening(model) as address:
        waiting = [socket.create_connection(address, timeout=60) for _ in range(MAX_REQUESTS)]
        for connection in waiting:
            connection.sendall(head + data[:100])
        deadline = time.monotonic() + 10
        while (status := post(address, data)[0]) == 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert status == 503
        for connection in waiting:
            connection.sendall(data[100:])
        for connection in waiting:
            assert answer_on(connection)[0] == 200
            connection.close()
        assert post(address, data)[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_400(model: Model, request_bytes: bytes) -> None:
    with listening(model) as address:
        assert raw(address, request_bytes + b"\r\n\r\n")[0] == 400


def test_an_address_that_is_taken_is_one_line(trained: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        expected = f"--port {port}: cannot listen there (Address already in use)"
        with pytest.raises(InputError, match=re.escape(expected)):
            serve(trained, port=port)
    with pytest.raises(InputError, match="cannot listen there"):
        serve(trained, host="no such host", port=0)


def test_it_listens_on_this_machine_alone_unless_told_otherwise(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    bound: list[str] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: bound.append(sockets[0].getsockname()[0]))
    said: list[str] = []
    serve(trained, port=0, say=said.append)
    serve(trained, port=0, host="0.0.0.0", say=said.append)
    assert bound == ["127.0.0.1", "0.0.0.0"]
    assert said[0].startswith(f"serving {trained} at http://127.0.0.1:")
    assert threading.active_count() < 20


def test_a_name_of_a_model_cannot_steer_the_terminal(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    (tmp_path / "\x1b[31mred\nrun").symlink_to(trained)
    said: list[str] = []
    serve(tmp_path / "\x1b[31mred\nrun", port=0, say=said.append)
    assert said[0].startswith(f"serving {tmp_path}/\\x1b[31mred run at ")
