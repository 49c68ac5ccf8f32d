"""The example of a web page in a real browser: onnxruntime-web, WebAssembly, and the same boxes as predict."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import onnx
import pytest
from PIL import Image
from random_runs import Exported

from browser import Browser, missing
from focaldet.photos.resize import Resize
from focaldet.runtime.card import KEY, ModelCard
from focaldet.runtime.onnx_detector import OnnxDetector

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "browser"

MAX_PX = 0.01
"""Between the boxes of the page and those of predict, in pixels of the photo: WebAssembly sums in another order."""


@pytest.fixture(scope="module")
def page(gfl: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, installed as docs/export.md says, with a model."""
    if shutil.which("npm") is None:
        missing("npm, for example: apt-get install npm")
    folder = Path(shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("example") / "browser"))
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        missing(f"onnxruntime-web from npm ({done.stderr.strip()[-300:]})")
    shutil.copy(gfl.file, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def photos(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """As cameras write them, turned by EXIF, and of sizes that do not divide: a half is rounded to even."""
    folder = tmp_path_factory.mktemp("photos")
    first, second = sorted((cells / "JPEGImages").iterdir())[:2]
    turned, odd, tiny = folder / "turned.jpg", folder / "odd.png", folder / "tiny.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(first) as image:
        image.save(turned, exif=exif)
        image.crop((0, 0, 200, 121)).save(odd)  # 100 x 60.5
        image.resize((31, 17)).save(tiny)
    return [first, second, turned, odd, tiny]


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def location(folder: Path) -> Iterator[str]:
    """What `python -m http.server` does."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(folder))) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()


def words(browser: Browser, before: str) -> str:
    """What the page says, once it is something else."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        said = browser.evaluate("document.getElementById('words').textContent")
        if said != before:
            return said
        time.sleep(0.02)
    raise AssertionError(f"the page still says {before!r}")


def choose(browser: Browser, photo: Path) -> str:
    """Give the page a photo; what it says then."""
    root = browser.send("DOM.getDocument")["root"]["nodeId"]
    node = browser.send("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.evaluate("document.getElementById('words').textContent = 'looking'")
    browser.send("DOM.setFileInputFiles", nodeId=node, files=[str(photo)])
    return words(browser, "looking")


def opened(browser: Browser, address: str) -> str:
    """What the page says when its model is there."""
    browser.events.clear()
    browser.open(address, 360)
    return words(browser, "Loading the model …")


def without_complaint_or_foreign_request(browser: Browser, address: str) -> bool:
    requests = browser.network_requests()
    return browser.complaints() == [] and all(url.startswith((address, "blob:")) for url in requests)


def test_it_is_of_60_lines_at_most() -> None:
    lines = (EXAMPLE / "index.html").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120


def test_its_boxes_and_deviations_are_those_of_predict(browser: Browser, page: Path, photos: list[Path]) -> None:
    model = OnnxDetector.load(page / "model.onnx")
    with location(page) as address:
        assert opened(browser, address) == "Detects a, b, c."
        for photo in photos:
            found = model.predict(photo).above(0.3)
            shown = [json.loads(line) for line in choose(browser, photo).splitlines()]
            assert len(shown) == len(found) > 0
            assert [box["name"] for box in shown] == [model.class_names[label] for label in found.labels]
            assert np.abs([box["score"] for box in shown] - found.scores).max() < 1e-3
            assert np.abs([box["box"] for box in shown] - found.boxes_xyxy).max() < MAX_PX
            assert found.side_std_px is not None
            assert np.abs([box["std"] for box in shown] - found.side_std_px).max() < MAX_PX
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360
        assert without_complaint_or_foreign_request(browser, address)


def test_it_draws_each_box_and_a_bar_of_one_deviation_to_each_direction_on_its_sides(
    browser: Browser, page: Path, photos: list[Path]
) -> None:
    record = """for (const what of ['strokeRect', 'fillRect']) {
      const draw = CanvasRenderingContext2D.prototype[what], drawn = (window[what] = []);
      CanvasRenderingContext2D.prototype[what] = function (...at) { drawn.push(at); draw.apply(this, at); };
    }"""
    with location(page) as address:
        opened(browser, address)
        browser.evaluate(record)
        shown = [json.loads(line) for line in choose(browser, photos[0]).splitlines()]
        boxes, bars = browser.evaluate("[strokeRect, fillRect]")
    assert [[x, y, x + w, y + h] for x, y, w, h in boxes] == [pytest.approx(one["box"], abs=MAX_PX) for one in shown]
    assert len(bars) == 4 * len(shown)
    for one, (left, right, top, bottom) in zip(shown, zip(*[iter(bars)] * 4, strict=True), strict=True):
        x1, y1, x2, y2 = one["box"]
        for (x, y, w, h), side, middle, std in (
            (left, x1, (y1 + y2) / 2, one["std"][0]),
            (right, x2, (y1 + y2) / 2, one["std"][2]),
        ):
            assert [x, x + w, y + h / 2] == pytest.approx([side - std, side + std, middle], abs=2 * MAX_PX)
        for (x, y, w, h), side, middle, std in (
            (top, y1, (x1 + x2) / 2, one["std"][1]),
            (bottom, y2, (x1 + x2) / 2, one["std"][3]),
        ):
            assert [y, y + h, x + w / 2] == pytest.approx([side - std, side + std, middle], abs=2 * MAX_PX)


def test_a_method_without_deviations_has_boxes_without_bars(
    browser: Browser, page: Path, photos: list[Path], tmp_path: Path
) -> None:
    sure = onnx.load(page / "model.onnx")
    (deviations,) = (output for output in sure.graph.output if output.name == "side_std_px")
    sure.graph.output.remove(deviations)
    with location(with_model(page, tmp_path, sure)) as address:
        opened(browser, address)
        shown = [json.loads(line) for line in choose(browser, photos[0]).splitlines()]
        assert len(shown) > 0
        assert not any("std" in one for one in shown)
        assert without_complaint_or_foreign_request(browser, address)


def test_a_file_that_is_no_photo_is_told_and_the_next_photo_is_taken(
    browser: Browser, page: Path, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("not a photo")
    with location(page) as address:
        opened(browser, address)
        assert "could not be decoded" in choose(browser, tmp_path / "notes.txt")
        assert choose(browser, photos[0]).startswith('{"name":')


def test_a_model_that_wants_its_photos_scaled_in_another_way_is_told(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    imported = onnx.load(page / "model.onnx")
    (pair,) = (pair for pair in imported.metadata_props if pair.key == KEY)
    card = ModelCard.from_json(pair.value)
    pair.value = replace(card, resize=Resize(short_side=800, resampling="opencv")).to_json()
    with location(with_model(page, tmp_path, imported)) as address:
        assert opened(browser, address) == "This model needs photos scaled differently."
        assert browser.evaluate("document.getElementById('file').disabled") is True


def with_model(page: Path, folder: Path, model: onnx.ModelProto) -> Path:
    """The page with another model."""
    (folder / "index.html").symlink_to(page / "index.html")
    (folder / "node_modules").symlink_to(page / "node_modules")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder
