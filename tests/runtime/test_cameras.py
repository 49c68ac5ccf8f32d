"""Cameras as sources of ``predict``: one that sends JPEG over HTTP, and invalid arguments."""

import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.runtime.cameras import Camera, camera_frames, camera_of
from focaldet.runtime.video import read_video


class IPCamera(BaseHTTPRequestHandler):
    """Sends green pictures as IP cameras do: parts of one endless answer. ``/6`` ends after six."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        jpeg = io.BytesIO()
        Image.fromarray(np.full((48, 64, 3), (25, 204, 102), np.uint8)).save(jpeg, "JPEG", quality=95)
        part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg.getvalue())
        left = int(self.path[1:]) if self.path[1:] else -1
        try:
            while left:
                self.wfile.write(part + jpeg.getvalue() + b"\r\n")
                left -= 1
                time.sleep(0.01)
        except OSError:  # whoever looked has gone
            return

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def camera() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), IPCamera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://me:secret@127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_camera_on_the_network_is_drawn_and_its_boxes_written(colours: Path, camera: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(colours), f"{camera}/6", "--out", str(out)]) == 0
    document = json.loads((out / "predictions.json").read_text())
    assert len(document["images"]) == 6
    assert document["images"][0]["frame"] == 0
    assert document["images"][0]["seconds"] == 0
    assert {entry["category_id"] for entry in document["annotations"]} == {2, 3}  # green and blue
    (film,) = out.glob("*.mp4")
    assert film.stem == document["images"][0]["file_name"]
    assert "secret" not in (out / "predictions.json").read_text() + film.name
    assert len(list(read_video(film))) == 6


def test_ctrl_c_ends_the_camera_and_keeps_what_was_seen(camera: str) -> None:
    source, before = camera_of(f"{camera}/"), signal.getsignal(signal.SIGINT)
    assert source is not None
    lines: list[str] = []
    frames = camera_frames(source, say=lines.append)
    seen = [next(frames).photo.shape for _ in range(3)]
    os.kill(os.getpid(), signal.SIGINT)
    assert list(frames) == []
    assert seen == [(48, 64, 3)] * 3
    assert lines[-1] == f"{source.name}: ended after 3 frames"
    assert "64 x 48 px" in lines[0]
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_no_camera_says_so(colours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = taken.getsockname()[1]
    out = ["--out", str(tmp_path / "out")]
    for address in (f"rtsp://me:secret@127.0.0.1:{nobody}/live", f"http://127.0.0.1:{nobody}/"):
        assert main(["predict", str(colours), address, *out]) == 2
        line = capfd.readouterr().err
        assert f"127.0.0.1-{nobody}" in line
        assert "no camera answers there; check the address" in line
        assert "secret" not in line
    assert not list((tmp_path / "out").glob("*.mp4"))


@pytest.mark.skipif(Path("/dev/video97").exists(), reason="there is such a camera")
def test_a_camera_that_this_machine_does_not_have(
    colours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["predict", str(colours), "97", "--out", str(tmp_path / "out")]) == 2
    assert "webcam-97: there is no such camera, or another program uses it" in capfd.readouterr().err
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(InputError, match="are read on Linux and macOS; give an rtsp:// address"):
        next(camera_frames(Camera("0", "webcam-0")))


def test_a_camera_has_no_labels_to_correct(colours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(colours), "webcam", "--labels", "yolo", "--out", str(tmp_path / "out")]) == 2
    assert "--labels: webcam-0 is a camera; give photos" in capfd.readouterr().err


def test_files_and_folders_with_such_names_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert camera_of("0") == Camera("0", "webcam-0")
    Path("0").mkdir()
    assert camera_of("0") is None
    assert camera_of("a/0.jpg") is None
    assert camera_of("file:///etc/passwd") is None
