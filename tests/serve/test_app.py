"""One request at a time: responses, and rejections with their reasons."""

import io
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from focaldet.checks import InputError
from focaldet.engine.detector import Detector
from focaldet.engine.load import load_model
from focaldet.runtime.model import DetectionArrays, Model, NetworkInput
from focaldet.serve.app import create_app
from focaldet.serve.limits import Limits


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, "PNG")
    return out.getvalue()


def refusal(answer) -> tuple[int, str]:
    assert list(answer.json()) == ["detail"]
    assert "\n" not in answer.json()["detail"]
    return answer.status_code, answer.json()["detail"]


def test_answer_is_what_the_detector_finds_in_that_photo(client: TestClient, eager: Path, photo: Path) -> None:
    answer = client.post("/predict", content=photo.read_bytes())
    assert answer.status_code == 200
    found = Detector.load(eager).predict(photo)
    body = answer.json()
    with Image.open(photo) as image:
        assert (body["width"], body["height"]) == image.size
    boxes = body["boxes"]
    assert len(boxes) == len(found.scores) > 0
    assert np.allclose([b["box_xyxy"] for b in boxes], found.boxes_xyxy, atol=1e-2)
    assert np.allclose([b["score"] for b in boxes], found.scores, atol=1e-4)
    assert [b["label"] for b in boxes] == found.labels.tolist()
    assert found.side_std_px is not None
    assert np.allclose([b["side_std_px"] for b in boxes], found.side_std_px, atol=1e-2)
    names = Detector.load(eager).class_names
    assert all(b["name"] == names[b["label"]] for b in boxes)


def test_a_request_chooses_its_score(client: TestClient, photo: Path) -> None:
    scores = [b["score"] for b in client.post("/predict", content=photo.read_bytes()).json()["boxes"]]
    middle = scores[len(scores) // 2]
    kept = client.post("/predict", params={"score": middle}, content=photo.read_bytes()).json()["boxes"]
    assert 0 < len(kept) <= len(scores)
    assert min(b["score"] for b in kept) >= middle - 1e-5


def test_a_rotated_photo_has_its_displayed_size(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.new("RGB", (60, 40)).save(out, "JPEG", exif=exif)
    body = client.post("/predict", content=out.getvalue()).json()
    assert (body["width"], body["height"]) == (40, 60)


@pytest.mark.parametrize("data", [b"x", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS\n"])
def test_what_is_no_image_is_refused(client: TestClient, data: bytes) -> None:
    status, reason = refusal(client.post("/predict", content=data))
    assert status == 400
    assert "image: " in reason


def test_an_empty_body_and_half_a_photo_are_refused(client: TestClient, photo: Path) -> None:
    status, reason = refusal(client.post("/predict"))
    assert status == 400
    assert "the body is empty" in reason
    status, reason = refusal(client.post("/predict", content=photo.read_bytes()[:3000]))
    assert status == 400
    assert reason.startswith("image: damaged image")


@pytest.mark.parametrize("name", ["photo.jpg", "../../etc/passwd", 'a"\r\nX: y', "\x00" * 50, "é" * 5000])
def test_a_form_is_refused_whatever_its_file_is_called(client: TestClient, photo: Path, name: str) -> None:
    status, reason = refusal(client.post("/predict", files={"image": (name, photo.read_bytes())}))
    assert status == 415
    assert "--data-binary" in reason


def test_a_decompression_bomb_is_refused_by_its_header(client: TestClient) -> None:
    bomb = png(9000, 9000, "1")  # 10 KB
    assert len(bomb) < 50_000
    assert refusal(client.post("/predict", content=bomb))[0] in (400, 413)
    large = png(8000, 6000, "1")
    status, reason = refusal(client.post("/predict", content=large))
    assert status == 413
    assert "8000 x 6000 pixels, more than 40 million" in reason


def test_a_jpeg_that_takes_hours_to_decode_is_refused_at_once(client: TestClient) -> None:
    """A scan of 65 bytes makes a decoder go through all pixels, and 20 MB have room for 300,000 of them."""
    out = io.BytesIO()
    Image.new("L", (64, 48), 128).save(out, "JPEG", progressive=True)
    once = out.getvalue()
    assert client.post("/predict", content=once).status_code == 200
    end, last = once.rindex(b"\xff\xd9"), once.rindex(b"\xff\xda")
    for between in (b"", b"\xff\x01", b"\xff\xd0", b"\xff\xff\xff", b"\xff\xfe\x00\x04\xff\xd9"):
        many = once[:end] + (between + once[last:end]) * 200 + once[end:]
        status, reason = refusal(client.post("/predict", content=many))
        assert status == 400
        assert "more than 100 scans" in reason


def test_more_bytes_than_are_taken_are_refused_with_and_without_a_stated_length(model: Model) -> None:
    def chunks():
        for _ in range(10):
            yield b"x" * 1000

    with TestClient(create_app(model, name="cells", limits=Limits(megabytes=0.005))) as client:
        for content in (b"x" * 10_000, chunks()):
            status, reason = refusal(client.post("/predict", content=content))
            assert status == 413
            assert "larger than 0.005 MB" in reason


@pytest.mark.parametrize("score", ["2", "-1", "high", "nan", "inf", ""])
def test_a_score_that_is_none_is_refused(client: TestClient, photo: Path, score: str) -> None:
    status, reason = refusal(client.post("/predict", params={"score": score}, content=photo.read_bytes()))
    assert status == 422
    assert reason == f"score: expected a number from 0 to 1, got {score!r}"


def test_a_parameter_that_is_none_is_named(client: TestClient, photo: Path) -> None:
    status, reason = refusal(client.post("/predict", params={"scor": 0.5}, content=photo.read_bytes()))
    assert status == 422
    assert "unknown parameter 'scor'" in reason


def test_what_is_asked_of_a_wrong_path_is_told_the_right_ones(client: TestClient, photo: Path) -> None:
    for method, path, status, words in (
        ("POST", "/predict/", 404, "unknown path; "),
        ("GET", "/favicon.ico", 404, "unknown path; "),
        ("GET", "/predict", 405, "this path does not accept GET; "),
        ("POST", "/", 405, "this path does not accept POST; "),
    ):
        answer = client.request(method, path)
        refused, reason = refusal(answer)
        assert (refused, "allow" in answer.headers) == (status, status == 405)
        assert reason.startswith(f"{words}use POST /predict ")
    for path in re.findall(r"GET (/.*)$", reason)[0].replace(" and", ",").split(", "):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/health", "/metrics"])
def test_head_is_answered_as_get(client: TestClient, path: str) -> None:
    head, got = client.head(path), client.get(path)
    assert (head.status_code, head.headers["content-type"]) == (200, got.headers["content-type"])


def test_a_photo_that_curl_has_changed_on_its_way_is_told_how_to_send_it(client: TestClient, photo: Path) -> None:
    sent = photo.read_bytes().translate(None, b"\0\r\n")  # what curl -d @photo.jpg makes of it
    headers = {"Content-Type": "application/x-www-form-urlencoded"}  # curl's, with --data-binary too
    status, reason = refusal(client.post("/predict", content=sent, headers=headers))
    assert status == 400
    assert "--data-binary" in reason
    assert client.post("/predict", content=photo.read_bytes(), headers=headers).status_code == 200
    assert "curl" not in refusal(client.post("/predict", content=sent))[1]
    for whole in (b"no photo\n", photo.read_bytes()[:3000], b""):  # as --data-binary sends them
        assert "curl" not in refusal(client.post("/predict", content=whole, headers=headers))[1]


class Slow:
    """A network that takes its time."""

    class_names = ("cell",)
    tiling = None

    def prepare(self, photo: np.ndarray) -> NetworkInput:
        return NetworkInput(photo, photo.shape[:2], photo.shape[:2])

    def detect(self, batch: Sequence[NetworkInput]) -> list[DetectionArrays]:
        time.sleep(0.3)
        return [DetectionArrays(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, np.int64), None)] * len(batch)


class Broken(Slow):
    """A network that fails."""

    def detect(self, batch: Sequence[NetworkInput]) -> list[DetectionArrays]:
        raise MemoryError


def test_an_answer_that_takes_too_long_is_a_503_and_the_next_one_is_answered() -> None:
    with TestClient(create_app(Slow(), name="slow", limits=Limits(seconds=0.1))) as client:
        answer = client.post("/predict", content=png(8, 8))
        status, reason = refusal(answer)
        assert status == 503
        assert "within 0.1 s" in reason
        assert answer.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200


def test_a_method_without_deviations_answers_null() -> None:
    class Sure(Slow):
        def detect(self, batch: Sequence[NetworkInput]) -> list[DetectionArrays]:
            return [
                DetectionArrays(np.array([[0, 1, 2, 3]], np.float32), np.ones(1), np.zeros(1, np.int64), None)
            ] * len(batch)

    with TestClient(create_app(Sure(), name="sure")) as client:
        (box,) = client.post("/predict", content=png(8, 8)).json()["boxes"]
    assert box == {"box_xyxy": [0, 1, 2, 3], "score": 1, "label": 0, "name": "cell", "side_std_px": None}


def test_a_failing_network_is_a_500_and_the_server_stays_up() -> None:
    with TestClient(create_app(Broken(), name="broken"), raise_server_exceptions=False) as client:
        for _ in range(2):
            assert refusal(client.post("/predict", content=png(8, 8)))[0] == 500
        assert client.get("/health").json()["status"] == "ok"
        assert 'focaldet_predict_requests_total{status="500"} 2.0' in client.get("/metrics").text


def test_health_tells_what_is_served(client: TestClient, model: Model) -> None:
    health = client.get("/health").json()
    assert (health["status"], health["model"]) == ("ok", "cells")
    assert health["class_names"] == list(model.class_names)


def test_metrics_count_answers_by_status_and_photos_by_batch(client: TestClient, photo: Path) -> None:
    for data in (photo.read_bytes(), photo.read_bytes(), b"no photo"):
        client.post("/predict", content=data)
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'focaldet_predict_requests_total{status="200"} 2.0' in lines
    assert 'focaldet_predict_requests_total{status="400"} 1.0' in lines
    assert "focaldet_predict_seconds_count 3.0" in lines
    assert "focaldet_batch_photos_sum 2.0" in lines
    assert "focaldet_waiting 0.0" in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


def test_the_pages_load_nothing_and_hostile_names_stay_text(model: Model) -> None:
    class Named(Slow):
        class_names = ("</script><script>alert(1)</script>",)

    with TestClient(create_app(Named(), name="<script>alert(2)</script>")) as client:
        for path, scripts in (("/", 2), ("/docs", 0)):
            answer = client.get(path)
            assert answer.text.count("<script") == scripts
            assert "<script>alert" not in answer.text
            assert not re.findall(r'(?:src|href)="(?:https?:)?//', answer.text)
            assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_page_of_the_interface_names_every_path_and_answer(client: TestClient) -> None:
    schema, html = client.get("/openapi.json").json(), client.get("/docs").text
    assert set(schema["paths"]) == {"/predict", "/health", "/metrics"}
    assert "curl --data-binary @photo.jpg 'http://testserver/predict?score=0.5'" in html
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            assert f"<code>{method.upper()} {path}</code>" in html
            for answer in operation["responses"].values():
                assert answer["description"] in html


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"megabytes": 0}, "max-mb: expected"),
        ({"megapixels": 20_000}, "max-megapixels: expected"),
        ({"seconds": -1}, "timeout: expected"),
        ({"batch": 0}, "batch: expected"),
    ],
)
def test_limits_that_are_none_are_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits(**limits)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing"):
        load_model(tmp_path / "nothing")


def test_a_file_of_a_run_is_led_to_its_folder(eager: Path) -> None:
    with pytest.raises(InputError, match=f"model.safetensors: this file belongs to a run; give the folder, {eager}"):
        load_model(eager / "model.safetensors")


def test_openvino_is_for_exported_models(eager: Path) -> None:
    with pytest.raises(
        InputError,
        match=f"{eager}: --provider openvino needs an exported model; make one with: focaldet export {eager}",
    ):
        load_model(eager, provider="openvino")


def test_the_server_alone_imports_no_torch() -> None:
    code = "import sys, focaldet.serve.server; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
