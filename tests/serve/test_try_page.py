"""The page in a real browser: a photo is dropped, its boxes and error bars are seen, and nothing else is loaded."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from listening import listening

from browser import Browser
from focaldet.runtime.model import Model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(model: Model) -> Iterator[str]:
    with listening(model) as (host, port):
        yield f"http://{host}:{port}/"


def choose(browser: Browser, file: Path) -> str:
    """Give the page a file, and wait for what it says then."""
    browser.send("DOM.enable")
    root = browser.send("DOM.getDocument")["root"]["nodeId"]
    node = browser.send("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.evaluate("document.getElementById('status').textContent = ''")
    browser.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])
    return answered(browser)


def answered(browser: Browser) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        words = browser.evaluate("document.getElementById('status').textContent")
        if words and not words.startswith("Detecting"):
            return words
        time.sleep(0.05)
    raise AssertionError("no answer on the page")


def drawn(browser: Browser) -> list[list[float]]:
    return browser.evaluate(
        "[...document.querySelectorAll('#boxes .line')]"
        ".map((r) => ['x', 'y', 'width', 'height'].map((k) => Number(r.getAttribute(k))))"
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
def test_a_photo_gets_its_boxes_with_error_bars_without_complaint_or_foreign_request(
    browser: Browser, site: str, photo: Path, width: int, dark: bool
) -> None:
    before = len(browser.complaints())
    browser.open(site, width, dark)
    assert browser.evaluate("document.getElementById('result').hidden") is True
    assert "×" in choose(browser, photo)
    boxes = drawn(browser)
    assert len(boxes) == browser.evaluate("document.querySelectorAll('#rows tr').length") > 0
    assert browser.evaluate("document.querySelectorAll('#boxes .bands').length") == len(boxes)
    assert browser.evaluate("document.getElementById('boxes').getAttribute('viewBox')") == "0 0 640 480"
    shown = "[document.getElementById('photo'), document.getElementById('boxes')].map((e) => e.getBoundingClientRect())"
    photo_at, boxes_at = browser.evaluate(f"{shown}.map((r) => [r.x, r.y, r.width, r.height])")
    assert photo_at == pytest.approx(boxes_at, abs=0.5)
    assert photo_at[2] / photo_at[3] == pytest.approx(640 / 480, rel=0.01)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert len(browser.complaints()) == before
    assert all(url.removeprefix("blob:").startswith(site) for url in browser.network_requests())


def test_boxes_on_the_page_are_those_of_the_answer(browser: Browser, site: str, photo: Path) -> None:
    browser.open(site, 1200)
    choose(browser, photo)
    browser.evaluate(
        "(() => { const l = document.getElementById('least'); l.value = 0; l.dispatchEvent(new Event('input')); })()"
    )
    request = urllib.request.Request(f"{site}predict?score=0", photo.read_bytes())
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    expected = sorted([x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in (b["box_xyxy"] for b in answer["boxes"]))
    assert len(expected) > 0
    assert [v for box in sorted(drawn(browser)) for v in box] == pytest.approx(
        [v for b in expected for v in b], abs=0.01
    )


def test_the_slider_takes_boxes_away(browser: Browser, site: str, photo: Path) -> None:
    browser.open(site, 1200)
    choose(browser, photo)
    all_of_them = len(drawn(browser))
    move = (
        "(() => {{ const l = document.getElementById('least'); l.value = {}; l.dispatchEvent(new Event('input')); }})()"
    )
    browser.evaluate(move.format(1))
    assert drawn(browser) == []
    assert browser.evaluate("document.getElementById('status').textContent").startswith("no boxes")
    assert browser.evaluate("document.getElementById('boxes').getAttribute('aria-label')").endswith("no boxes")
    browser.evaluate(move.format(0))
    assert len(drawn(browser)) >= all_of_them


def test_a_file_that_is_no_photo_is_told_in_words(browser: Browser, site: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a photo")
    browser.open(site, 360)
    assert "not an image that can be read" in choose(browser, tmp_path / "notes.txt")
    assert browser.evaluate("document.getElementById('status').className") == "bad"
    assert browser.evaluate("document.getElementById('result').hidden") is True


def test_a_photo_is_dropped_onto_the_page(browser: Browser, site: str, photo: Path) -> None:
    browser.open(site, 1200)
    browser.evaluate("document.getElementById('status').textContent = ''")
    data = {"items": [], "files": [str(photo)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", type=kind, x=600, y=250, data=data)
    assert "×" in answered(browser)
    assert len(drawn(browser)) > 0


def test_keyboard_reaches_the_file_field_the_slider_and_the_table(browser: Browser, site: str, photo: Path) -> None:
    browser.open(site, 1200)
    choose(browser, photo)
    browser.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(6):
        browser.press("Tab")
        reached.append(browser.evaluate("document.activeElement.id || document.activeElement.className"))
    assert [name for name in reached if name in ("file", "least", "scroll")] == ["file", "least", "scroll"]


def test_the_page_of_the_interface_fits_a_phone(browser: Browser, site: str) -> None:
    before = len(browser.complaints())
    browser.open(f"{site}docs", 360, True)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    assert browser.evaluate("document.querySelectorAll('h2 code').length") == 3
    assert len(browser.complaints()) == before
