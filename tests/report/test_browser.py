"""The pages in a real browser: no console error, no request, nothing wider than the window, and hover works."""

from pathlib import Path

import pytest
from run_folder import bccd_truth, jittered, write_run
from study_folder import write_study

from browser import Browser
from focaldet.report import write_errors, write_report

pytestmark = pytest.mark.slow

# Its centre, two frames later: scrolling hides what is shown, and its event comes with the next frame.
_SCROLLED_TO_LAST_FOUND_BOX = """new Promise((done) => {
  const box = [...document.querySelectorAll('.box.found')].at(-1);
  box.scrollIntoView({block: 'center', behavior: 'instant'});
  const answer = () => { const r = box.getBoundingClientRect(); done([r.x + r.width / 2, r.y + r.height / 2]); };
  requestAnimationFrame(() => requestAnimationFrame(answer));
})"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, truth = tmp_path_factory.mktemp("runs"), bccd_truth()
    runs = [
        write_run(folder / "a-run-with-quite-a-long-name-2024", truth, jittered(truth, seed=0)),
        write_run(folder / "atss", truth, jittered(truth, seed=1, missed=0.2), "atss", ap=0.58),
    ]
    results = [entry for entry in jittered(truth, seed=0) if entry["score"] >= 0.5]
    for entry in results[::9]:
        entry["category_id"] = (entry["category_id"] + 1) % 3
    errors = write_errors(truth, results, folder / "errors.html", score=0.5, title="run on bccd test")
    study = write_report(write_study(folder / "study", truth, num_photos=8))
    return {"run": write_report(runs[0]), "comparison": write_report(runs), "errors": errors, "study": study}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize(
    ("kind", "photos"), [("run", 24), ("comparison", 36), ("errors", 3 * 24 + 24), ("study", 8 * 9 + 8)]
)
def test_page_fits_the_window_without_complaint_or_request(
    browser: Browser, pages: dict[str, Path], kind: str, photos: int, width: int, dark: bool
) -> None:
    browser.open(pages[kind], width, dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('.panel use').length") == photos
    assert browser.complaints() == []
    assert browser.network_requests() == []


def test_pointing_at_a_box_shows_its_score_iou_and_deviations(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["run"], 1400)
    assert browser.evaluate("document.getElementById('tip').hidden") is True
    where = browser.evaluate(_SCROLLED_TO_LAST_FOUND_BOX)
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=where[0], y=where[1])
    text = browser.evaluate("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert "score 0." in text
    assert "IoU 0." in text
    assert "left " in text


@pytest.mark.parametrize("width", [360, 1400])
def test_pointing_at_a_box_of_a_study_shows_its_four_distributions(
    browser: Browser, pages: dict[str, Path], width: int
) -> None:
    browser.open(pages["study"], width)
    where = browser.evaluate(_SCROLLED_TO_LAST_FOUND_BOX)  # on the last panel, which is GFLv2's
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=where[0], y=where[1])
    sides = "document.querySelectorAll('#tip .sides > div')"
    assert browser.evaluate(f"[...{sides}].map((side) => side.textContent)") == ["left", "top", "right", "bottom"]
    bars = browser.evaluate(
        f"[...{sides}].map((side) => side.querySelector('path').getAttribute('d').match(/M/g).length)"
    )
    assert bars == [17] * 4
    told = browser.evaluate("document.querySelector('#tip').getBoundingClientRect().toJSON()")
    assert told["left"] >= 0
    assert told["right"] <= browser.evaluate("document.documentElement.clientWidth")
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    assert browser.evaluate("document.getElementById('tip').hidden") is True


def test_study_of_real_photos_is_small(pages: dict[str, Path]) -> None:
    assert pages["study"].stat().st_size < 8_000_000


def test_study_is_whole_without_javascript(browser: Browser, pages: dict[str, Path]) -> None:
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["study"], 360)
        assert browser.evaluate("document.querySelectorAll('.box.found > title').length") > 100
        assert browser.evaluate("document.querySelectorAll('section').length") == 10
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)


def test_wide_tables_of_a_study_fit_a_printed_page(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["study"], 680)  # A4 without its margins, in CSS pixels
    browser.send("Emulation.setEmulatedMedia", media="print")
    wide = "[...document.querySelectorAll('table')].filter((t) => t.getBoundingClientRect().right > 680).length"
    assert browser.evaluate("document.querySelectorAll('table').length") == 8
    assert browser.evaluate(wide) == 0
    browser.send("Emulation.setEmulatedMedia", media="")


def test_keyboard_moves_from_box_to_box(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["run"], 360)
    stops = "[...document.querySelectorAll('.panel svg')].map((svg) => svg.querySelectorAll('[tabindex=\"0\"]').length)"
    assert set(browser.evaluate(stops)) == {1}  # one stop a panel, not one a box
    browser.evaluate("document.querySelector('.box.found').closest('svg').querySelector('[tabindex=\"0\"]').focus()")
    first = browser.evaluate("document.activeElement.getAttribute('aria-label')")
    browser.press("ArrowRight")
    second = browser.evaluate("document.activeElement.getAttribute('aria-label')")
    assert first != second
    assert browser.evaluate("document.getElementById('tip').textContent") == second.replace("; ", "")
    browser.press("Escape")
    assert browser.evaluate("document.getElementById('tip').hidden") is True


def test_hostile_class_name_stays_text(browser: Browser, tmp_path: Path) -> None:
    names = ["<script>document.title='owned'</script>", '"><img src=x onerror="document.title=\'owned\'">', "$_{x"]
    truth = bccd_truth(names=names)
    page = write_report(write_run(tmp_path / "run", truth, jittered(truth, seed=0)))
    before = len(browser.complaints())
    browser.open(page, 360)
    assert browser.evaluate("document.title") == "run · focaldet"
    assert browser.evaluate("document.querySelectorAll('img, main script').length") == 0
    assert len(browser.complaints()) == before
