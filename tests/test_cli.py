import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

import PIL.Image
import pytest
import torch

from focaldet.bench import losses
from focaldet.bench.measure import interleaved_ms
from focaldet.cli import build_parser, main
from focaldet.engine.config import TrainConfig, load_config
from focaldet.engine.option import GROUPS

Refuse = Callable[..., str]
TINY = (
    "--backbone",
    "mobilenetv3_small_050",
    "--size",
    "64",
    "--levels",
    "p3-p7",
    "--channels",
    "16",
    "--head-depth",
    "1",
)


@pytest.fixture
def refuse(capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Runs a command that is a mistake; gives its one line."""

    def call(*arguments: object) -> str:
        capfd.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        errors = capfd.readouterr().err
        assert errors.startswith("focaldet: ")
        assert errors.count("\n") == 1, errors
        assert "Traceback" not in errors
        return errors.removeprefix("focaldet: ")

    return call


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_data_folder_that_is_not_there_is_named(refuse: Refuse, out: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "nothing") in refuse("train", "--data", tmp_path / "nothing", "--out", out)
    assert not out.exists()


def test_a_file_is_no_data_folder(refuse: Refuse, out: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / "file") in refuse("train", "--data", tmp_path / "file", "--out", out)


def test_an_empty_data_folder_is_named(refuse: Refuse, out: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refuse("train", "--data", tmp_path / "empty", "--out", out)
    assert str(tmp_path / "empty") in refuse("data", "check", tmp_path / "empty")


def test_a_class_to_ignore_that_is_not_there_is_named(refuse: Refuse, out: Path, cells: Path) -> None:
    expected = f"--ignore Platelet: {cells} has no such class; did you mean 'Platelets'?"
    assert expected in refuse("train", "--data", cells, "--out", out, "--ignore", "RBC,Platelet")
    assert expected in refuse("data", "check", cells, "--ignore", "Platelet")
    assert "--ignore: expected class names" in refuse("train", "--data", cells, "--out", out, "--ignore", ",")
    assert "--ignore: expected class names" in refuse("data", "check", cells, "--ignore", ",")
    assert not out.exists()


def test_a_batch_that_is_too_small_for_batch_norm_is_refused(refuse: Refuse, out: Path, cells: Path) -> None:
    tiny = ("train", "--data", cells, "--out", out, "--size", "32")
    assert "--batch: a single photo of 32 px has one location at stride 32" in refuse(*tiny, "--batch", "1")
    assert TrainConfig(data=str(cells), size=32, batch=1, devices=2).size == 32


@pytest.mark.parametrize("score", ["7", "1", "-1"])
def test_a_score_that_is_no_probability_is_refused(refuse: Refuse, out: Path, trained: Path, score: str) -> None:
    photos = trained.parent / "photos"
    photos.mkdir(exist_ok=True)
    PIL.Image.new("RGB", (64, 48)).save(photos / "grey.png")
    assert "score: expected a number in [0, 1)" in refuse("predict", trained, photos, "--out", out, "--score", score)
    assert not out.exists()


def test_a_size_without_a_location_is_refused(refuse: Refuse, cells: Path) -> None:
    assert "size: expected at least 32, got -4" in refuse("data", "check", cells, "--size", "-4")


def test_a_demo_of_no_time_is_refused_before_it_makes_data(refuse: Refuse, out: Path) -> None:
    assert "minutes: expected more than 0" in refuse("demo", "--minutes", "-1", "--out", out)
    assert not out.exists()


def test_a_demo_of_no_seed_is_refused_before_it_makes_data(refuse: Refuse, out: Path) -> None:
    assert "seed: expected at least 0" in refuse("demo", "--seed", "-1", "--out", out)
    assert not out.exists()


def test_options_may_stand_between_the_photos(trained: Path, out: Path, tmp_path: Path) -> None:
    photos = [tmp_path / f"grey{number}.png" for number in (1, 2)]
    for photo in photos:
        PIL.Image.new("RGB", (64, 48)).save(photo)
    arguments = ["predict", trained, "--out", out, photos[0], "--score", "0.9", photos[1]]
    assert main([str(argument) for argument in arguments]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["grey1.png", "grey2.png", "predictions.json"]


@pytest.mark.parametrize("command", ["predict", "demo", "import", "study"])
def test_no_command_writes_into_a_folder_of_another_kind(
    command: str, refuse: Refuse, trained: Path, cells: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "grey.png"
    PIL.Image.new("RGB", (64, 48)).save(photo)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "truth.json").write_text("mine")
    own = {"predict": [trained, photo], "demo": [], "import": [photo], "study": ["--data", cells]}[command]
    assert "holds other files (truth.json)" in refuse(command, *own, "--out", tmp_path / "thesis")
    if command != "import":
        before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
        assert "holds a run" in refuse(command, *own, "--out", trained)
        assert {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()} == before
    assert (tmp_path / "thesis" / "truth.json").read_text() == "mine"


def test_a_page_is_not_written_over_a_file_of_another_kind(refuse: Refuse, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    assert "expected a file whose name ends in .html" in refuse("report", trained, "--out", tmp_path / "photo.jpg")
    assert (tmp_path / "photo.jpg").read_text() == "mine"


def test_a_report_below_a_file_is_refused(refuse: Refuse, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / "file") in refuse("report", trained, "--out", tmp_path / "file" / "page.html")


def test_a_mistake_is_answered_without_waiting_for_torch() -> None:
    told = (
        "from focaldet.cli import main; import sys; main(['train', '--batch', 'x']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", told], check=False, capture_output=True).returncode == 0


def test_train_without_data_says_what_is_missing(refuse: Refuse) -> None:
    assert "--data DIR is missing" in refuse("train")


@pytest.mark.parametrize("arguments", [(), ("",), ("--batch", "8"), ("-x", "train"), ("--", "train")])
def test_no_command_names_the_commands(refuse: Refuse, arguments: tuple[str, ...]) -> None:
    assert "expected a command first: one of train, eval, predict" in refuse(*arguments)


@pytest.mark.parametrize(
    ("option", "near"), [("--epoch", "--epochs"), ("--bacth", "--batch"), ("--backbon-weights", "--backbone-weights")]
)
def test_an_unknown_option_of_train_gets_the_nearest(refuse: Refuse, cells: Path, option: str, near: str) -> None:
    line = refuse("train", "--data", cells, option, "3")
    assert f"unknown option {option}; did you mean '{near}'" in line


def test_an_unknown_option_of_another_command_gets_its_own_nearest(refuse: Refuse) -> None:
    assert "did you mean '--score'" in refuse("predict", "run", "a.jpg", "--scor", "0.5")
    assert "did you mean '--split'" in refuse("eval", "run", "--data", "x", "--splt=val")


@pytest.mark.parametrize(("command", "near"), [("trian", "train"), ("predic", "predict"), ("reprot", "report")])
def test_an_unknown_command_gets_the_nearest(refuse: Refuse, command: str, near: str) -> None:
    assert f"unknown command {command!r}; did you mean '{near}'" in refuse(command)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            "train --data photos --augment lihgt",
            "--augment: unknown name 'lihgt'; did you mean 'light'?",
        ),
        ("train --data photos --augment light,hue=2", "--augment: hue: expected a strength from 0 to 0.5, got '2'"),
        ("train --batch eight", "--batch: expected a whole number or auto, got 'eight'"),
        ("train --size 3.5", "--size: expected a whole number, got '3.5'"),
        ("train --epochs 1e3", "--epochs: expected a whole number, got '1e3'"),
        ("train --epochs=", "--epochs: expected a whole number, got ''"),
        ("train --minutes soon", "--minutes: expected a number, got 'soon'"),
        ("train --lr nan", "--lr: expected a number, got 'nan'"),
        ("train --minutes inf", "--minutes: expected a number, got 'inf'"),
        ("train --epochs 1_0", "--epochs: expected a whole number, got '1_0'"),
        ("train --epochs ١٢", "--epochs: expected a whole number, got '١٢'"),
        ("train --epochs 99999999999999999999", "--epochs: expected a whole number, got '99999999999999999999'"),
        ("train --epochs=--", "--epochs: expected a value, got '--'"),
        ("train --batch", "--batch: expected a value"),
        ("train --batch --lr 1", "--batch: expected a value"),
        ("train --data=", "--data: expected a value, got ''"),
        ("train --config=", "--config: expected a path, got ''"),
        ("train --pretrained=yes", "--pretrained: takes no value, got 'yes'"),
        ("train --data x --pretrained yes", "train: unexpected: yes; see focaldet train --help"),
        ("train photos", "train: unexpected: photos; see focaldet train --help"),
        ("train --data x -b 3", "unknown option -b; see focaldet train --help"),
        ("train --print_config", "unknown option --print_config; did you mean '--config'?"),
        ("eval", "eval: missing RUN, --data; see focaldet eval --help"),
        ("eval run", "eval: missing --data; see focaldet eval --help"),
        ("eval run --dta x", "unknown option --dta; did you mean '--data'?"),
        ("predict run", "predict: missing PHOTO; see focaldet predict --help"),
        (
            "predict run a.jpg --compare photos",
            "predict: got both a.jpg and --compare, whose photos come from TRUTH; give one",
        ),
        ("predict run a.jpg --score high", "--score: expected a number, precision=0.95 or recall=0.9, got 'high'"),
        ("serve", "serve: missing MODEL; see focaldet serve --help"),
        ("serve run --port http", "--port: expected a whole number, got 'http'"),
        ("serve run --max-mb 0", "max-mb: expected 0.001 to 32768, got 0.0"),
        ("report", "report: missing RUN; see focaldet report --help"),
        (
            "data chekc photos",
            "data check|convert|show|suspects: expected one of check, convert, show, suspects; got 'chekc'; did you "
            "mean 'check'?",
        ),
        ("data check", "data: missing DIR; see focaldet data --help"),
        ("data check photos --size big", "--size: expected a whole number, got 'big'"),
        ("demo --seed one", "--seed: expected a whole number, got 'one'"),
        ("bench loss", "bench losses|step: expected one of losses, step; got 'loss'; did you mean 'losses'?"),
        ("doctor me", "doctor: unexpected: me; see focaldet doctor --help"),
    ],
)
def test_a_mistake_on_the_command_line_is_answered_in_plain_words(refuse: Refuse, arguments: str, line: str) -> None:
    assert refuse(*arguments.split()) == line + "\n"


def test_an_empty_path_is_not_the_folder_one_stands_in(refuse: Refuse) -> None:
    assert refuse("report", "") == "report RUN: expected a path, got ''\n"


def test_the_last_of_an_option_given_twice_counts(refuse: Refuse, tmp_path: Path) -> None:
    assert str(tmp_path / "two") in refuse("train", "--data", tmp_path / "one", "--data", tmp_path / "two")


def test_none_takes_back_what_a_config_gives(run: Path, refuse: Refuse, out: Path) -> None:
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("backbone_weights: null", "backbone_weights: gone.safetensors"))
    assert "gone.safetensors" in refuse("train", "--config", file, "--out", out)
    assert "resnet18" in refuse(
        "train", "--config", file, "--out", out, "--backbone-weights", "none", "--backbone", "resnet1888"
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", "0"),
        ("size", "8"),
        ("batch", "-1"),
        ("lr", "nan"),
        ("ema", "1.0"),
        ("minutes", "-2"),
        ("lr", "inf"),
        ("seed", "-1"),
        ("seed", "4294967296"),
    ],
)
def test_a_value_out_of_range_names_its_option(refuse: Refuse, cells: Path, out: Path, option: str, value: str) -> None:
    line = refuse("train", "--data", cells, "--out", out, f"--{option}={value}")
    assert line.startswith(f"--{option}: expected ")


def test_an_option_out_of_range_is_not_blamed_on_the_config(refuse: Refuse, run: Path) -> None:
    line = refuse("train", "--config", run / "config.yaml", "--out", run, "--weight-decay", "-2")
    assert line == "--weight-decay: expected at least 0, got -2.0\n"


@pytest.mark.parametrize(("count", "bound"), [("-1", "at least 0"), ("999999999999", "0 to 4")])
def test_more_frozen_stages_than_any_backbone_has_are_refused(
    refuse: Refuse, cells: Path, out: Path, count: str, bound: str
) -> None:
    line = refuse("train", "--data", cells, "--out", out, f"--frozen-stages={count}")
    assert f"--frozen-stages: expected {bound}" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: x\nepoch: 3\n", "unknown key 'epoch'; did you mean 'epochs'"),
        ("data: x\nepochs: many\n", "epochs"),
        ("data: x\nepochs: 2.5\n", "epochs"),
        ("data: x\npretrained: perhaps\n", "pretrained"),
        ("data: x\nmethod: glf\n", "method"),
        ("data: 3\n", "data: expected str"),
        ("data: x\nlr: .inf\n", "lr: expected"),
        ("data: x\nresume: 1\n", "resume: expected bool"),
        ("epochs: 3\n", "'data' is missing"),
        ("- 3\n", "expected a mapping"),
        ("a: [\n", "not a YAML file"),
        ("", "expected a mapping"),
    ],
)
def test_a_config_that_is_wrong_is_one_line(refuse: Refuse, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    line = refuse("train", "--config", tmp_path / "config.yaml")
    assert message in line
    assert "config.yaml" in line


def test_a_number_with_an_exponent_and_no_point_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: x\nlr: 2e-3\nminutes: 3\n")
    config = load_config(tmp_path / "config.yaml")
    assert (config.lr, config.minutes) == (2e-3, 3.0)


def test_a_config_that_is_not_there_is_named(refuse: Refuse, tmp_path: Path) -> None:
    assert "no such file" in refuse("train", "--config", tmp_path / "config.yaml")
    assert str(tmp_path) in refuse("train", "--config", tmp_path)


def test_out_that_holds_a_run_is_refused(refuse: Refuse, cells: Path, trained: Path) -> None:
    assert "already holds a run" in refuse("train", "--data", cells, "--out", trained)


def test_out_that_is_a_file_is_refused(refuse: Refuse, cells: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert f"--out {tmp_path / 'file'}: is a file" in refuse("train", "--data", cells, "--out", tmp_path / "file")
    assert "cannot be created" in refuse("train", "--data", cells, "--out", tmp_path / "file" / "run", *TINY)


def test_resume_without_a_run_is_refused(refuse: Refuse, cells: Path, out: Path) -> None:
    assert "nothing to continue" in refuse("train", "--data", cells, "--out", out, "--resume")
    assert "--out RUN" in refuse("train", "--data", cells, "--resume")
    assert not out.exists()


def test_a_backbone_that_is_not_there_gets_the_nearest(refuse: Refuse, cells: Path, out: Path) -> None:
    assert "resnet18" in refuse("train", "--data", cells, "--out", out, "--backbone", "resnet1888")
    assert not out.exists()


def test_a_backbone_without_the_strides_is_refused_and_leaves_no_numbered_folder(
    refuse: Refuse, cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no feature map of stride 8" in refuse("train", "--data", cells, "--backbone", "test_vit")  # nor of 4
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_pretrained_weights_without_a_network_are_one_line_and_leave_no_folder(
    cells: Path, out: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "focaldet", "train", "--data", str(cells), "--out", str(out), *TINY]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_"))}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty"), "TORCH_HOME": str(tmp_path / "empty")}
    done = subprocess.run([*command, "--pretrained"], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(
        r"focaldet: --pretrained: timm/mobilenetv3_small_050.lamb_in1k: cannot be downloaded "
        r"\(HF_HUB_OFFLINE is set\); "
        r"copy https://huggingface.co/\S+/model.safetensors from another machine and name it with --backbone-weights, "
        r"or train from scratch with --no-pretrained\n",
        done.stderr,
    )
    assert not out.exists()


def test_a_gpu_that_is_not_there_is_refused(refuse: Refuse, cells: Path, out: Path) -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("needs a machine without a GPU")
    for device in ("gpu", "cuda:1", "mps"):
        assert "it has cpu" in refuse("train", "--data", cells, "--out", out, "--device", device, *TINY)
    assert not out.exists()


def test_backbone_weights_that_are_not_there_are_named(refuse: Refuse, cells: Path, out: Path) -> None:
    assert "no such file" in refuse("train", "--data", cells, "--out", out, "--backbone-weights", out / "w.safetensors")
    assert not out.exists()


def test_a_split_that_is_not_there_is_named_with_those_that_are(refuse: Refuse, cells: Path, run: Path) -> None:
    line = refuse("eval", run, "--data", cells, "--split", "test")
    assert "no photo in split 'test'" in line
    assert "train, val" in line


def test_a_run_folder_that_is_not_there_is_named(refuse: Refuse, cells: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    photo = next((cells / "JPEGImages").iterdir())
    for arguments in (
        ("eval", nothing, "--data", cells, "--split", "val"),
        ("predict", nothing, photo),
        ("predict", nothing, "--compare", cells),
        ("serve", nothing, "--port", "0"),
        ("report", nothing),
    ):
        assert str(nothing) in refuse(*arguments)


def test_predict_of_a_text_file_is_named(refuse: Refuse, run: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a photo")
    assert "notes.txt" in refuse("predict", run, tmp_path / "notes.txt", "--out", out)
    assert str(tmp_path / "no.jpg") in refuse("predict", run, tmp_path / "no.jpg", "--out", out)


def test_a_split_of_photos_that_are_given_by_their_names_is_refused(refuse: Refuse, run: Path, cells: Path) -> None:
    photo = next((cells / "JPEGImages").iterdir())
    assert "--split needs --compare TRUTH" in refuse("predict", run, photo, "--split", "val")


def test_a_broken_record_of_splits_is_one_line(refuse: Refuse, run: Path, unsplit_cells: Path, out: Path) -> None:
    (run / "splits.json").write_text('{"train": "all"}')
    for arguments in (
        ("eval", run, "--data", unsplit_cells, "--split", "val"),
        ("predict", run, "--compare", unsplit_cells, "--out", out),
    ):
        assert refuse(*arguments).startswith(f"{run / 'splits.json'}: expected the file names of each split")
    assert not out.exists()


def printed_help(capsys: pytest.CaptureFixture[str], command: str, option: str = "--help") -> str:
    """Help of a command, with its lines joined."""
    with pytest.raises(SystemExit) as done:
        main([command, option])
    assert done.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", [command for command in build_parser()[1] if command != "doctor"])
def test_help_lists_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--" in printed_help(capsys, command).replace("--help", "")


def test_help_of_train_has_ten_options_and_help_all_has_every_one_with_its_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    short, whole = printed_help(capsys, "train"), printed_help(capsys, "train", "--help-all")
    for field in fields(TrainConfig):
        name, line = f" --{field.name.replace('_', '-')} ", field.metadata["help"]
        assert name in whole.replace(",", " "), name
        assert line in whole
        assert (line in short) == field.metadata["main"]
    assert sum(field.metadata["main"] for field in fields(TrainConfig)) == 10
    headings = [whole.index(f" {group}: ") for group in GROUPS]
    assert headings == sorted(headings)


def test_the_page_of_options_has_every_option_of_train_below_its_group() -> None:
    page = (Path(__file__).parent.parent / "docs" / "options.md").read_text(encoding="utf-8")
    lines = []
    for group in GROUPS:
        lines += [f"## {group.capitalize()}", "", "| option | meaning | default |", "|---|---|---|"]
        for field in fields(TrainConfig):
            if field.metadata["group"] == group:
                default = "required" if field.default is MISSING else str(field.default)
                default = {"None": "none", "False": "off"}.get(default, default)
                name = f"--{field.name.replace('_', '-')}"
                name = f"**`{name}`**" if field.metadata["main"] else f"`{name}`"
                lines.append(f"| {name} | {field.metadata['help']} | {default} |")
        lines.append("")
    assert "\n".join(lines) in page + "\n"


@pytest.mark.slow
def test_train_eval_predict_and_report_print_where_to_look(
    cells: Path, config: TrainConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = Path(config.out or "")
    (tmp_path / "small.yaml").write_text(config.to_yaml())
    assert main(["train", "--config", str(tmp_path / "small.yaml"), "--epochs", "1", "--profile"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"outside the network \(load, assign, loss, log\): \d+\.\d%", printed)
    assert f"report: {out / 'report.html'}" in printed
    assert load_config(out / "config.yaml").epochs == 1
    assert main(["eval", str(out), "--data", str(cells), "--split", "train"]) == 0
    assert "train: 4 photos" in capsys.readouterr().out
    photo = next((cells / "JPEGImages").iterdir())
    assert main(["predict", str(out), str(photo), "--out", str(tmp_path / "drawn")]) == 0
    assert (tmp_path / "drawn" / "predictions.json").exists()
    assert main(["predict", str(out), "--compare", str(cells), "--split", "train", "--out", str(tmp_path / "new")]) == 0
    assert f"errors, worst first: {tmp_path / 'new' / 'errors.html'}" in capsys.readouterr().out
    assert "run on cells train" in (tmp_path / "new" / "errors.html").read_text()


@pytest.mark.slow
def test_serve_says_where_answers_photos_and_stops_at_ctrl_c(trained: Path, cells: Path) -> None:
    command = [sys.executable, "-m", "focaldet", "serve", str(trained), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            address = re.fullmatch(rf"serving {trained} at (http://127\.0\.0\.1:\d+/) \(stop with Ctrl-C\)\n", said)
            assert address, said
            photo = next((cells / "JPEGImages").iterdir()).read_bytes()
            with urllib.request.urlopen(urllib.request.Request(f"{address[1]}predict", photo), timeout=60) as answer:
                assert json.load(answer)["width"] == 640
        finally:
            server.send_signal(signal.SIGINT)
            _, errors = server.communicate(timeout=60)
    assert server.returncode == 130
    assert errors == "focaldet: stopped\n"


@pytest.mark.slow
def test_the_demo_ends_with_its_report_and_the_command_for_ones_own_photos(
    capsys: pytest.CaptureFixture[str], out: Path
) -> None:
    assert main(["demo", "--out", str(out), "--minutes", "0.05"]) == 0
    report, command = capsys.readouterr().out.splitlines()[-2:]
    page = Path(report.removeprefix("report: "))
    assert page == out / "run-1" / "report.html"
    assert "AP50" in page.read_text()
    assert "focaldet train --data DIR" in command
    assert json.loads((out / "run-1" / "evaluation.json").read_text())["split"] == "test"


@pytest.mark.slow
def test_bench_step_prints_where_the_time_goes(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "64", "--batch", "2", "--minutes", "0.1", "--device", "cpu"]
    assert main(["bench", "step", "--data", str(cells), *options]) == 0
    said = capsys.readouterr().out
    assert said.startswith("gfl, regnetx_002, 64 px, 2 images per step, ")
    parts = [line.split()[0] for line in said.splitlines() if line.startswith("  ") and " ms " in line]
    assert set(parts) == {"load", "forward", "assign", "loss", "log", "backward", "update"}
    assert re.search(r"time of a step \(mean of [1-9]\d*\):", said)
    assert re.search(r"^\d+\.\d\d steps/s, \d+\.\d images/s$", said, re.MULTILINE)


@pytest.mark.slow
def test_bench_prints_a_table_of_ratios_and_times(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "interleaved_ms", lambda functions, seconds, wait: interleaved_ms(functions, seconds=0))
    monkeypatch.setattr(losses, "RETINANET", (10_000, 80))
    assert main(["bench", "losses", "--no-compiled", "--no-memory"]) == 0
    machine, head, _, *rows = capsys.readouterr().out.splitlines()
    assert "C++ kernels: yes" in machine
    assert head == "| work | measure | value | asked |"
    ratios = {
        row.split(" | ")[0]: float(row.split(" | ")[2].split()[0]) for row in rows if row.split(" | ")[2][-1] == "x"
    }
    assert len(ratios) >= 8
    assert min(ratios.values()) > 0


def test_a_full_disk_is_one_line_and_leaves_no_half_written_file(
    refuse: Refuse, config: TrainConfig, tiny_disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(config.to_yaml())
    line = refuse("train", "--config", tmp_path / "small.yaml", "--out", tiny_disk / "run")
    assert "the disk is full" in line
    assert str(tiny_disk) in line
    left = {file.name for file in (tiny_disk / "run").iterdir()}
    assert left <= {"config.yaml", "splits.json", "metrics.jsonl", "tensorboard"}


@pytest.mark.slow
def test_the_config_of_a_run_trains_it_again(run: Path, out: Path) -> None:
    arguments = ["train", "--config", str(run / "config.yaml"), "--out", str(out), "--epochs", "1"]
    assert main(arguments) == 0
    again = load_config(out / "config.yaml")
    assert (again.epochs, again.channels, again.backbone) == (1, 16, "mobilenetv3_small_050")


@pytest.mark.slow
def test_an_option_given_with_its_default_replaces_the_config(run: Path, refuse: Refuse) -> None:
    given = str(run / "config.yaml")
    line = refuse("train", "--config", given, "--out", run, "--resume", "--channels", "64", "--epochs", "6")
    assert "--channels 64: the run has 16" in line


def test_doctor_tells_versions_and_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("focaldet", "torch", "lightning", "fused losses on cpu"):
        assert word in text
