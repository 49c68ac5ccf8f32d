"""docs/losses.md: its examples run, and it covers every public loss."""

import re
from pathlib import Path

import pytest
import torch

from focaldet import functional

PAGE = Path(__file__).parents[1] / "docs" / "losses.md"
BLOCKS = re.findall(r"### ([^\n]*)\n|```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def code(worked: bool) -> str:
    """The examples in order: those before the worked ones, which build on each other, or the worked ones."""
    heads = [i for i, (head, _) in enumerate(BLOCKS) if head]
    blocks = BLOCKS[heads[0] :] if worked else BLOCKS[: heads[0]]
    prelude = "import torch\nimport focaldet\nfrom focaldet import SparseTargets\n" if worked else ""
    return prelude + "\n".join(body for _, body in blocks)


def test_the_examples_run():
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    exec(compile(code(worked=False), str(PAGE), "exec"), scope)
    assert scope["loss"].isfinite().all()


@pytest.mark.slow
def test_the_worked_examples_run(monkeypatch):
    from torchvision.models.detection import retinanet

    monkeypatch.setattr(retinanet, "sigmoid_focal_loss", retinanet.sigmoid_focal_loss)  # put back afterwards
    scope: dict[str, object] = {}
    exec(compile(code(worked=True), str(PAGE), "exec"), scope)
    assert scope["loss"].isfinite()
    assert scope["pred_scores"].grad.abs().sum() > 0
    assert scope["pred_sides"].grad.abs().sum() > 0


def test_every_public_loss_is_described():
    text = PAGE.read_text()
    for name in functional.__all__:
        if name.islower():
            assert f"{name}(" in text, name


def test_every_picture_is_there():
    for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", PAGE.read_text()):
        assert (PAGE.parent / picture).exists(), picture
