"""The example of a web page in a real browser: onnxruntime-web, WebAssembly, and the boxes that predict finds."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from random_runs import random_run

from browser import Browser, missing
from focaldet.engine.exporting.export import export_run
from focaldet.runtime.onnx_detector import OnnxDetector

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "browser"

MOST_PX = 0.01
"""Between the boxes of the page and those of predict, in pixels of the photo: WebAssembly sums in another order."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, installed as its page says: a model is still to come."""
    if shutil.which("npm") is None:
        missing("npm, for example: apt-get install npm")
    folder = Path(shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("example") / "browser"))
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        missing(f"onnxruntime-web from npm ({done.stderr.strip()[-300:]})")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


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
def site(folder: Path) -> Iterator[str]:
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


def test_it_is_of_60_lines_at_most() -> None:
    lines = (EXAMPLE / "index.html").read_text().splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("method", ["gfl", "fcos"])
def test_its_boxes_are_those_of_predict_on_every_photo(
    browser: Browser, page: Path, photos: list[Path], tmp_path: Path, method: str
) -> None:
    export_run(random_run(tmp_path, method), page / "model.onnx", say=lambda line: None)
    model = OnnxDetector.load(page / "model.onnx")
    with site(page) as address:
        browser.open(address, 360)
        assert words(browser, "Loading the model …") == "Finds a, b, c."
        for photo in photos:
            found = model.predict(photo).above(0.3)
            drawn = [json.loads(line) for line in choose(browser, photo).splitlines()]
            assert len(drawn) == len(found) > 0
            assert [box["name"] for box in drawn] == [model.class_names[label] for label in found.labels]
            assert np.abs([box["score"] for box in drawn] - found.scores).max() < 1e-3
            assert np.abs([box["box"] for box in drawn] - found.boxes_xyxy).max() < MOST_PX
            if found.side_std_px is None:
                assert not any("std" in box for box in drawn)
            else:
                assert np.abs([box["std"] for box in drawn] - found.side_std_px).max() < MOST_PX
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    assert browser.complaints() == []
    assert all(url.startswith((address, "blob:")) for url in browser.network_requests())
