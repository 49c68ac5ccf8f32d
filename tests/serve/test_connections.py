"""Clients that stall: their connections are closed in time, and they keep nobody else out."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from http.client import HTTPConnection

import numpy as np
import pytest
from listening import listening

from focaldet.runtime.model import DetectionArrays, NetworkInput
from focaldet.serve.connections import MAX_CONNECTIONS

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # they watch the clock

PATIENCE = 0.4
"""Seconds that a connection may be without a request."""

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


class Idle:
    """A network that is not asked."""

    class_names = ("cell",)
    certainty = tiling = None

    def prepare(self, photo: np.ndarray) -> NetworkInput:
        raise NotImplementedError

    def detect(self, batch: Sequence[NetworkInput]) -> list[DetectionArrays]:
        raise NotImplementedError


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with listening(Idle(), seconds=PATIENCE) as address:
        yield address


def seconds_until_closed(connection: socket.socket) -> float:
    start = time.monotonic()
    connection.settimeout(10)
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - start


@pytest.mark.parametrize("head", [b"", b"POST /predict HTTP/1.1\r\nHost: x\r\n", HEALTH[:-2]])
def test_a_request_that_is_not_there_in_time_is_no_longer_waited_for(address: tuple[str, int], head: bytes) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(head)
        assert PATIENCE / 2 < seconds_until_closed(connection) < 10 * PATIENCE


def test_a_client_that_goes_on_sending_after_its_answer_is_left(address: tuple[str, int]) -> None:
    """uvicorn takes each byte for a sign of life."""
    with socket.create_connection(address) as connection:
        connection.sendall(HEALTH.replace(b"\r\n\r\n", b"\r\nContent-Length: 100000\r\n\r\n"))
        start = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() < start + 20 * PATIENCE:
                connection.sendall(b"x")
                time.sleep(PATIENCE / 10)
        assert time.monotonic() - start < 10 * PATIENCE


def test_a_connection_in_use_stays_open(address: tuple[str, int]) -> None:
    connection = HTTPConnection(*address, timeout=10)
    connection.connect()
    first = connection.sock
    for _ in range(10):
        connection.request("GET", "/health")
        with connection.getresponse() as answer:
            assert answer.read().startswith(b'{"status":"ok"')
        time.sleep(PATIENCE / 3)
    assert connection.sock is first
    connection.close()


def test_clients_that_stall_keep_nobody_out_and_are_no_more_than_a_process_has_files_for() -> None:
    connections = []
    with listening(Idle(), seconds=60) as address, ExitStack() as stalled:
        for _ in range(3 * MAX_CONNECTIONS):
            connections.append(stalled.enter_context(socket.create_connection(address, timeout=10)))
            time.sleep(0.001)  # the server's turn: one that finds no room to wait in tries again after a second
        for connection in connections:
            try:
                connection.sendall(HEALTH[:-2])
            except OSError:  # closed already
                continue
        with socket.create_connection(address, timeout=10) as one_more:
            one_more.sendall(HEALTH)
            assert one_more.recv(1 << 16).startswith(b"HTTP/1.1 200")
        still_open = 0
        for connection in connections:
            connection.setblocking(False)
            try:
                connection.recv(1)
            except BlockingIOError:
                still_open += 1
            except ConnectionResetError:
                pass
        assert MAX_CONNECTIONS / 2 < still_open <= MAX_CONNECTIONS
