import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from run_folder import CLASSES, bccd_truth, drawn_truth, jittered, write_run

from focaldet.checks import InputError
from focaldet.report import write_report

HOSTILE = "<script>alert(1)</script>"


def drawn_run(folder: Path) -> Path:
    truth = drawn_truth(folder / "photos", ["cell", HOSTILE])
    return write_run(folder / "run", truth, jittered(truth, seed=0, missed=0.0))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run, to break."""
    return drawn_run(tmp_path)


@pytest.fixture
def short_run(run: Path) -> Path:
    """The same without its learning curves, whose charts are most of the time that a page takes."""
    (run / "metrics.jsonl").unlink()
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its page: look, do not touch."""
    run = drawn_run(tmp_path_factory.mktemp("whole"))
    write_report(run)
    return run


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_page_of_real_photos_is_whole_and_small(tmp_path: Path) -> None:
    truth = bccd_truth()
    folder = write_run(tmp_path / "run", truth, jittered(truth, seed=0))
    page = write_report(folder)
    html = read(page)
    assert page == folder / "report.html"
    assert page.stat().st_size < 8_000_000
    assert html.count("data:image/jpeg;base64,") == 12
    for section in ("accuracy", "photos", "sides", "learning", "training"):
        assert f'<section id="{section}">' in html
    assert all(f">{name}</th>" in html for name in CLASSES)
    assert "reaches an AP of 0.612 (AP50 0.869) on the 72 photos of the test split" in html
    assert 'objects under 32² px</td><td class="n">–</td>' in html  # COCO's -1
    assert "Not everything could be shown" not in html


def test_page_loads_nothing(whole: Path) -> None:
    html = read(whole / "report.html")
    assert not re.findall(r'(?:src|href)\s*=\s*["\']?\s*(?:https?:)?//', html)
    assert not re.findall(r"url\(\s*[\"']?(?!#)|@import", html)
    assert set(re.findall(r'\bhref="([^#"]{0,22})', html)) <= {"", "data:,", "data:image/jpeg;base64"}
    assert "default-src 'none'" in html


def test_class_named_script_is_escaped(whole: Path) -> None:
    html = read(whole / "report.html")
    assert HOSTILE not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert html.count("<script") == 1


def test_hostile_file_and_term_names_are_escaped(run: Path) -> None:
    truth = json.loads((run / "truth.json").read_text())
    truth["images"][0]["file_name"] = '"><script>1</script>'
    (run / "truth.json").write_text(json.dumps(truth))
    line = {"epoch": 0, "train": {"<script>2</script>": 1.0, "$_{": 2.0}, "lr": 0.1, "val": None}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    html = read(write_report(run))
    assert html.count("<script") == 1
    assert "only its boxes are shown" in html


@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl",
        "truth.json",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("config.yaml", "model.json", "evaluation.json", "predictions.json")
        ),
    ],
)
def test_missing_file_is_named_and_the_rest_is_shown(run: Path, name: str) -> None:
    (run / name).unlink()
    html = read(write_report(run))
    assert f"<li>{name} is missing" in html
    assert ('<section id="accuracy">' in html) == (name != "evaluation.json")
    assert ('<section id="photos">' in html) == (name not in ("truth.json", "predictions.json"))
    assert ('<section id="learning">' in html) == (name != "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\xff\x00", '{"metrics": 3, "images": [{}], "annotations": 1}'])
@pytest.mark.parametrize("name", ["evaluation.json", "truth.json", "predictions.json", "metrics.jsonl", "config.yaml"])
def test_broken_file_does_not_stop_the_page(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content, encoding="latin-1")
    assert "</html>" in read(write_report(run))


def test_half_written_last_line_is_left_out(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(lines + '{"epoch": 40, "tr')
    html = read(write_report(run))
    assert "metrics.jsonl: 1 line could not be read and is left out." in html
    assert "<dd>40</dd>" in html  # epochs that were whole


def test_numbers_that_are_not_finite_are_dashes(short_run: Path) -> None:
    evaluation = json.loads((short_run / "evaluation.json").read_text())
    evaluation["metrics"]["AP75"] = float("nan")
    (short_run / "evaluation.json").write_text(json.dumps(evaluation))
    html = read(write_report(short_run))
    assert "nan" not in re.sub(r"base64,[^\"]*", "", html).lower().split("<main", 1)[1].split("settings")[0]


def test_nothing_found_is_a_result_too(short_run: Path) -> None:
    (short_run / "predictions.json").write_text("[]")
    html = read(write_report(short_run))
    assert "0 of 12 objects" in html
    assert "0 detected, 3 missed, 0 false" in html


def test_photo_that_cannot_be_read_keeps_its_boxes(short_run: Path) -> None:
    photos = short_run.parent / "photos"
    (photos / "photo0.jpg").write_text("not a photo")
    (photos / "photo1.jpg").unlink()
    Image.new("L", (160, 120)).save(photos / "photo2.jpg")
    html = read(write_report(short_run))
    assert html.count("only its boxes are shown") == 4  # two panels of each of the two
    assert html.count("data:image/jpeg;base64,") == 2


def test_boxes_without_deviations_are_not_promised_any(short_run: Path) -> None:
    assert "an uncertain side" in read(write_report(short_run))
    predictions = json.loads((short_run / "predictions.json").read_text())
    for prediction in predictions:
        del prediction["side_std"]
    (short_run / "predictions.json").write_text(json.dumps(predictions))
    html = read(write_report(short_run))
    assert "an uncertain side" not in html
    assert "to see its score and its IoU, or" in html
    assert '<section id="sides">' not in html


def test_runs_that_count_other_numbers_of_detections_are_compared_by_cocos_ap(short_run: Path, tmp_path: Path) -> None:
    truth = json.loads((short_run / "truth.json").read_text())
    other = write_run(tmp_path / "other", truth, [], ap=0.7)
    evaluation = json.loads((other / "evaluation.json").read_text())
    evaluation |= {"max_detections": 600, "coco_metrics": {"AP": 0.391}}
    (other / "evaluation.json").write_text(json.dumps(evaluation))
    page = write_report([short_run, other]).read_text()
    assert "different numbers of detections per photo" in page
    (row,) = re.findall("<tr><th[^>]*>COCO&#39;s AP.*?</tr>", page, re.DOTALL)
    assert "0.612" in row
    assert "0.391" in row


def test_comparison_shares_photos_and_names_the_best(run: Path, tmp_path: Path) -> None:
    truth = json.loads((run / "truth.json").read_text())
    other = write_run(tmp_path / "other", truth, jittered(truth, seed=1, missed=0.3), "atss", ap=0.7)
    page = write_report([run, other])
    html = read(page)
    assert page == tmp_path / "comparison.html"
    assert "other has the highest AP, 0.700" in html
    assert html.count("data:image/jpeg;base64,") == 4
    assert html.count('<figure class="panel">') == 4 * 3
    assert '<th scope="row">method</th><td>gfl</td><td>atss</td>' in html
    assert html.count("<script") == 1


def test_runs_of_one_name_and_other_photos_are_told_apart(run: Path, tmp_path: Path) -> None:
    truth = drawn_truth(tmp_path / "more", ["cell"], num_images=5)
    other = write_run(tmp_path / "elsewhere" / "run", truth, jittered(truth, seed=1))
    html = read(write_report([run, other]))
    assert "elsewhere/run" in html
    assert "these numbers are not comparable" in html


def test_list_of_one_is_the_page_of_that_run(short_run: Path) -> None:
    assert write_report([short_run]) == short_run / "report.html"


def test_same_run_gives_the_same_page(whole: Path, tmp_path: Path) -> None:
    assert read(write_report(whole, tmp_path / "again.html")) == read(whole / "report.html")


def test_page_that_cannot_be_written_is_a_clear_error(short_run: Path, tmp_path: Path) -> None:
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(InputError, match=r"taken\.html: a folder; name a file to write"):
        write_report(short_run, tmp_path / "taken.html")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_full_disk_keeps_the_old_page_and_leaves_no_half_page(run: Path) -> None:
    before = read(write_report(run))
    files = sorted(run.iterdir())
    (run / "model.json").unlink()  # so that the new page differs
    code = f"""
import resource
from focaldet.report import write_report
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # what a full disk does: a write ends in an OSError
write_report([{str(run)!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "report.html: cannot be written" in done.stderr
    assert read(run / "report.html") == before
    assert sorted(run.iterdir()) == [path for path in files if path.name != "model.json"]


@pytest.mark.parametrize("make", [True, False])
def test_folder_that_is_no_run_is_a_clear_error(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "empty"
    if make:
        folder.mkdir()
    with pytest.raises(InputError, match="give the folder that `focaldet train` wrote"):
        write_report(folder)


def test_empty_list_is_a_clear_error() -> None:
    with pytest.raises(InputError, match="no run to report"):
        write_report([])


@pytest.mark.slow
def test_reports_are_written_without_torch(run: Path) -> None:
    code = (
        f"import sys; from focaldet.report import write_report as w; w([{str(run)!r}]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
