"""The commands to try: each kind damages one thing and returns the arguments that read it."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hostile_labels import LAYOUTS, labels
from hostile_mutations import MUTATIONS, changed, damaged
from hostile_paths import strange_path
from hostile_samples import BOXES, CARD, PHOTOS, colour_model, strange_checkpoints
from hostile_surroundings import surroundings
from onnx import TensorProto, helper, numpy_helper

from focaldet.photos import regions
from focaldet.runtime.card import KEY

Case = Callable[[Path, Path, random.Random], list[object]]
"""Samples, an empty folder to work in, chance -> the arguments. Inputs are below ``given``; ``out`` is free."""


def _given(samples: Path, work: Path, name: str) -> Path:
    """A copy of a sample."""
    place = work / "given" / name
    if (samples / name).is_dir():
        shutil.copytree(samples / name, place)
    else:
        shutil.copy(samples / name, place)
    return place


def _damage(file: Path, rng: random.Random) -> Path:
    file.write_bytes(MUTATIONS.get(file.suffix, damaged)(file.read_bytes(), rng))
    return file


def photo(samples: Path, work: Path, rng: random.Random) -> list[object]:
    file = _damage(_given(samples, work, rng.choice((*PHOTOS, "scans.jpg"))), rng)
    return ["predict", samples / "model.onnx", file, "--out", work / "out"]


def windows(samples: Path, work: Path, rng: random.Random) -> list[object]:
    """A photo that is read in parts, as large ones are."""
    regions.IN_MEMORY = rng.choice((0, 16_000_000))
    file = _damage(_given(samples, work, rng.choice((*PHOTOS, "deflate.tif"))), rng)
    tile, overlap = rng.choice((32, 64, 640, 4096)), rng.choice(("0", "0.25", "31", "0.9"))
    model = samples / "model.onnx"
    return ["predict", model, file, f"--tile={tile}", f"--overlap={overlap}", "--out", work / "out"]


def video(samples: Path, work: Path, rng: random.Random) -> list[object]:
    file = _damage(_given(samples, work, "film.mp4"), rng)
    return ["predict", samples / "model.onnx", file, "--out", work / "out"]


def onnx(samples: Path, work: Path, rng: random.Random) -> list[object]:
    file = _damage(_given(samples, work, "model.onnx"), rng)
    return ["predict", file, samples / "photo.png", "--out", work / "out"]


def card(samples: Path, work: Path, rng: random.Random) -> list[object]:
    file = work / "given" / "model.onnx"
    text = json.dumps(changed(json.loads(CARD.to_json()), rng))
    if rng.random() < 0.2:
        text = damaged(text.encode(), rng).decode(errors="replace")
    file.write_bytes(colour_model({KEY: text}))
    return ["predict", file, samples / "photo.png", "--out", work / "out"]


def outputs(samples: Path, work: Path, rng: random.Random) -> list[object]:
    """A model whose outputs are constants of any shape and size."""
    file = work / "given" / "model.onnx"
    many = rng.choice((0, 1, 3, 100, 20_000))
    numbers = np.random.default_rng(rng.randrange(2**32))
    scores = numbers.choice([0.5, 0.9, 1.0, 1.5, -0.1, np.nan], (1, many)).astype(np.float32)
    values = {
        "boxes_xyxy": numbers.choice([0, 1, 5, 30, -7, 1e30], (1, many, 4)).astype(np.float32),
        "scores": np.full((1, many), 0.9, np.float32) if rng.random() < 0.7 else scores,
        "labels": numbers.integers(-1 if rng.random() < 0.3 else 0, 3, (1, many)),
        "count": np.array([rng.choice((many, many, 0, -1, many + 1, 2**62))]),
        "side_std_px": numbers.choice([0, 1, 1e30], (1, many, 4)).astype(np.float32),
    }
    values["boxes_xyxy"][..., 2:] += values["boxes_xyxy"][..., :2] if rng.random() < 0.8 else 0
    if rng.random() < 0.4:
        name = rng.choice(list(values))
        values[name] = rng.choice((values[name][0], values[name][None], values[name].repeat(2, axis=0), values[name].T))
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_"], [name]) for name in values],
        "constants",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", "h", "w", 3])],
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), None) for name,
        v in values.items()],
        [numpy_helper.from_array(np.ascontiguousarray(value), f"{name}_") for name, value in values.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {KEY: CARD.to_json()})
    file.write_bytes(model.SerializeToString())
    return ["predict", file, samples / "photo.png", "--out", work / "out"]


def elsewhere(samples: Path, work: Path, rng: random.Random) -> list[object]:
    """A model with weights in another file: beside it, or somewhere else."""
    file = work / "given" / "model.onnx"
    from onnx import load_from_string

    model = load_from_string(colour_model({KEY: CARD.to_json()}))
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "of_class")
    (work / "given" / "w.bin").write_bytes(BOXES.tobytes())
    (work / "given" / "link.bin").symlink_to("/etc/hostname")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    names = ("w.bin", "./w.bin", "../given/w.bin", "/etc/hostname", "../../../../../../etc/hostname",
    "link.bin", "", ".",
             "*/_ORT_MEM_ADDR_/*", "nothing.bin", "w.bin\0", "file:///etc/hostname", "\udcff")  # fmt: skip
    for key, value in (("location", rng.choice(names)), ("offset", rng.choice(("0", "-1", "4", "x")))):
        entry = weights.external_data.add()
        entry.key = key
        entry.value = value.encode(errors="surrogateescape").decode(errors="replace")
    file.write_bytes(model.SerializeToString())
    return ["predict", file, samples / "photo.png", "--out", work / "out"]


def model_json(samples: Path, work: Path, rng: random.Random) -> list[object]:
    run = _given(samples, work, "run")
    _damage(run / rng.choice(("model.json", "model.json", "model.json", "model.safetensors")), rng)
    return ["predict", run, samples / "photo.png", "--out", work / "out"]


def measured(samples: Path, work: Path, rng: random.Random) -> list[object]:
    run = _given(samples, work, "run")
    _damage(run / rng.choice(("model.json", "splits.json", "model.safetensors")), rng)
    return ["eval", run, "--data", samples / "coco", "--split", rng.choice(("train", "val", "test", "x\x1b"))]


def weights(samples: Path, work: Path, rng: random.Random) -> list[object]:
    run = _given(samples, work, "run")
    _damage(run / rng.choice(("model.json", "model.json", "model.safetensors")), rng)
    return ["train", "--data", work / "nowhere", "--weights", run, "--out", work / "out"]


def config(samples: Path, work: Path, rng: random.Random) -> list[object]:
    file = _damage(_given(samples, work, "run") / "config.yaml", rng)
    return ["train", "--config", file, "--data", work / "nowhere", "--out", work / "out"]


def run_files(samples: Path, work: Path, rng: random.Random) -> list[object]:
    run = _given(samples, work, "run")
    names = ("truth.json", "predictions.json", "evaluation.json", "metrics.jsonl", "config.yaml", "model.json")
    _damage(run / rng.choice(names), rng)
    return ["report", run, *([samples / "run"] if rng.random() < 0.3 else []), "--out", work / "out" / "page.html"]


def study_report(samples: Path, work: Path, rng: random.Random) -> list[object]:
    study = _given(samples, work, "study")
    names = ("study.json", "study.jsonl", "summary.json", "truth.json", "neuron.json", "details/gfl-0.json")
    _damage(study / rng.choice(names), rng)
    return ["report", study, "--out", work / "out" / "page.html"]


def study_table(samples: Path, work: Path, rng: random.Random) -> list[object]:
    study = _given(samples, work, "study")
    _damage(study / rng.choice(("study.json", "study.jsonl")), rng)
    return ["study", "--out", study, "--table"]


def study_again(samples: Path, work: Path, rng: random.Random) -> list[object]:
    study = _given(samples, work, "study")
    _damage(study / rng.choice(("study.json", "study.jsonl")), rng)
    return ["study", "--out", study, "--data", work / "nowhere"]


def splits(samples: Path, work: Path, rng: random.Random) -> list[object]:
    run = _given(samples, work, "run")
    _damage(run / "splits.json", rng)
    return ["predict", run, "--compare", samples / "coco", "--split", "train", "--out", work / "out"]


def checkpoint(samples: Path, work: Path, rng: random.Random) -> list[object]:
    file = _damage(_given(samples, work, rng.choice(("mmdet.pth", "old.pth", "torchvision.pth"))), rng)
    return ["import", file, "--out", work / "out"]


def strange_checkpoint(samples: Path, work: Path, rng: random.Random) -> list[object]:
    more = rng.choice(([], [], ["--batch-norm-eps", "0"]))
    return ["import", rng.choice(sorted((samples / "strange").iterdir())), *more, "--out", work / "out"]


def mmdet_config(samples: Path, work: Path, rng: random.Random) -> list[object]:
    file = _given(samples, work, "mmdet.py")
    text = file.read_text()
    lines = (
        "a0=9\n" + "".join(f"a{i + 1}=a{i}*a{i}\n" for i in range(40)) + "size = a40\n",
        "a0=[1]\n" + "".join(f"a{i + 1}=[a{i},a{i}]\n" for i in range(40)) + "model = a40\n",
        "model = " + "[" * 3000 + "]" * 3000 + "\n", "model = " + "dict(a=" * 80 + "1" + ")" * 80 + "\n",
        "model = " + "-" * 5000 + "1\n", "model = " + "(" * 90 + ")" * 90 + "\n", "x = " + "9" * 5000 + "\n",
        "x = 1 / 0\n",
        "x = 1e308 * 1e308\n", "model = {[]: 3}\n", "model = {**model, 'a': 1}\n", "import os\n", "\x00",
        "model['a'] = 3\n",
        "model = dict(type=print, backbone=dict(type=open))\n", "model = 'x' * 10\n",
        "test_cfg = dict(nms_pre='many')\n",
        "test_cfg = dict(score_thr=float('nan'), nms=3)\n",
        "test_cfg = dict(score_thr=1e400, nms=dict(iou_thr=-1e400))\n",
    )  # fmt: skip
    if rng.random() < 0.5:
        file.write_bytes(damaged(text.encode(), rng))
    else:
        file.write_text(rng.choice((text + rng.choice(lines), rng.choice(lines) + text)))
    return ["import", samples / "mmdet.pth", "--config", file, "--out", work / "out"]


def class_names(samples: Path, work: Path, rng: random.Random) -> list[object]:
    file = _damage(_given(samples, work, "names.txt"), rng)
    return ["import", samples / "mmdet.pth", "--class-names", file, "--out", work / "out"]


def _strange_argument(work: Path, rng: random.Random, suffix: str) -> str:
    """A path given in place of a file or folder."""
    folder = str(work / "given")
    names = (
        "a" * 300, "a" * 5000, "a/" * 3000, "b\udcff\udcfe", "c\nd", "e\x1b[31mf", "g\u202eh", "concat:x.mp4",
        "http://127.0.0.1:1/x",
        "pipe:0", "-", "%s", "~", "..", "i\ud83d\ude00j".encode("utf-16", "surrogatepass").decode("utf-16"), "k" * 250,
    )  # fmt: skip
    choice = rng.random()
    if choice < 0.5:
        return str(strange_path(Path(folder, "strange" + suffix), rng))
    if choice < 0.9:
        name = rng.choice(names)
        place = os.path.join(folder, name + (suffix if rng.random() < 0.5 else ""))
        if rng.random() < 0.3 and len(name) < 200 and "/" not in name and name not in (".", ".."):
            Path(place).touch()
        return place
    return rng.choice(("", ".", "/", "/dev/null", "/dev/zero", "/proc/self/mem", "/dev/stdin", "/proc/self/environ"))


def paths(samples: Path, work: Path, rng: random.Random) -> list[object]:
    """A strange path in place of each path that a command takes."""
    model, run, photo, out = samples / "model.onnx", samples / "run", samples / "photo.png", work / "out"
    commands: tuple[tuple[str, list[object]], ...] = (
        (".onnx", ["predict", "?", photo, "--out", out]),
        ("", ["predict", "?", photo, "--out", out]),
        (".png", ["predict", model, "?", "--out", out]),
        (".mp4", ["predict", model, "?", "--out", out]),
        ("", ["predict", model, "--compare", "?", "--out", out]),
        (".json", ["predict", run, "--compare", "?", "--out", out]),
        ("", ["report", "?", "--out", out / "page.html"]),
        ("", ["report", run, "?", "--out", out / "page.html"]),
        (".yaml", ["train", "--config", "?", "--out", out]),
        ("", ["train", "--data", "?", "--out", out]),
        ("", ["train", "--data", work / "nowhere", "--weights", "?", "--out", out]),
        (".safetensors", ["train", "--data", work / "nowhere", "--backbone-weights", "?", "--out", out]),
        ("", ["eval", "?", "--data", samples / "coco"]),
        ("", ["eval", run, "--data", "?"]),
        ("", ["data", "check", "?"]),
        (".pth", ["import", "?", "--out", out]),
        (".txt", ["import", samples / "mmdet.pth", "--class-names", "?", "--out", out]),
        (".py", ["import", samples / "mmdet.pth", "--config", "?", "--out", out]),
        ("", ["export", "?", "--out", out / "model.onnx"]),
        ("", ["study", "--out", "?", "--table"]),
        ("", ["study", "--data", "?", "--out", out]),
        (".onnx", ["serve", "?", "--port", "0", "--host", "256.256.256.256"]),
    )
    suffix, arguments = rng.choice(commands)
    strange = _strange_argument(work, rng, suffix)
    return [strange if argument == "?" else argument for argument in arguments]


def writing(samples: Path, work: Path, rng: random.Random) -> list[object]:
    """A strange place to write to."""
    model, run, photo = samples / "model.onnx", samples / "run", samples / "photo.png"
    suffix, arguments = rng.choice((
        ("", ["predict", model, photo, "--out", "?"]),
        (".html", ["report", run, "--out", "?"]),
        ("", ["import", samples / "mmdet.pth", "--out", "?"]),
        ("", ["predict", model, "--compare", samples / "coco", "--out", "?"]),
        ("", ["study", "--data", work / "nowhere", "--out", "?"]),
        ("", ["train", "--data", work / "nowhere", "--out", "?"]),
    ))  # fmt: skip
    strange = _strange_argument(work, rng, suffix)
    if rng.random() < 0.3:  # a folder of another kind
        strange = str(_given(samples, work, rng.choice(("run", "study", "coco"))))
    return [strange if argument == "?" else argument for argument in arguments]


NUMBERS = ("", "-1", "0", "1e400", "-1e400", "nan", "inf", "1e308", "-1e308", "9" * 400, "9" * 5000, "1_0",
"٣", "１０", "0x10",
           "2**3", "1e-320", "none", "None", "true", " 5", "5 ", "5\n", "3.7", "-0", "+3", "\udcff", "%d", "4294967296",
           "1000000000000")  # fmt: skip


def options(samples: Path, work: Path, rng: random.Random) -> list[object]:
    """A strange value of any option of any command."""
    from focaldet.cli import build_parser

    starts: dict[str, list[object]] = {
        "train": ["--data", work / "nowhere", "--out", work / "out"],
        "eval": [samples / "run", "--data", work / "nowhere"],
        "predict": [samples / "model.onnx", samples / "photo.png", "--out", work / "out"],
        "serve": [samples / "nothing.onnx", "--host", "256.256.256.256"],
        "export": [samples / "coco", "--out", work / "out" / "m.onnx"],
        "import": [samples / "names.txt", "--out", work / "out"],
        "study": ["--data", work / "nowhere", "--out", work / "out"],
        "report": [samples / "run", "--out", work / "out" / "page.html"],
        "tune": ["--data", work / "nowhere", "--out", work / "out"],
        "calibrate": [samples / "run", "--data", work / "nowhere"],
        "data": ["check", samples / "coco"],
        "demo": ["--out", samples / "coco"],
    }
    command = rng.choice(sorted(starts))
    known = [option for action in build_parser()[1][command]._actions for option in action.option_strings]
    without = ("-h", "--help", "--help-all", *(("--out",) if command == "demo" else ()))  # --out would make a demo
    names = rng.choices([name for name in known if name not in without], k=rng.choice((1, 1, 2)))
    arguments: list[object] = [command, *starts[command]]
    for name in names:
        value = rng.choice(
            (*NUMBERS, "x" * 1000, "\x1b[2J", "a\nb", ",", ",,a", "a..b", "-", "--", "gfl", "../x", "/dev/null")
        )
        arguments += [f"{name}={value}"] if rng.random() < 0.8 else [name, value]
    if rng.random() < 0.1:
        rng.shuffle(arguments)
    return arguments


KINDS: dict[str, Case] = {
    "photo": photo,
    "photo in windows": windows,
    "video": video,
    "exported model": onnx,
    "its description": card,
    "its outputs": outputs,
    "its weights elsewhere": elsewhere,
    "model.json, weights": model_json,
    "a run that is measured": measured,
    "a run to begin with": weights,
    "config.yaml": config,
    "files of a run": run_files,
    "files of a study, page": study_report,
    "files of a study, table": study_table,
    "files of a study, again": study_again,
    "splits.json": splits,
    "checkpoint": checkpoint,
    "tensors of a checkpoint": strange_checkpoint,
    "configuration of mmdetection": mmdet_config,
    "names of classes": class_names,
    **{name: labels(*patterns) for name, patterns in LAYOUTS.items()},
    "paths to read": paths,
    "paths to write": writing,
    "options": options,
    "surroundings": surroundings,
}
"""What is damaged -> how."""


def make_strange(samples: Path) -> None:
    """The checkpoints with tensors that are not weights, once for all cases."""
    folder = samples / "strange"
    folder.mkdir()
    strange_checkpoints(folder)
