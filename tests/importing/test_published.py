"""Weights by name: found in the cache, downloaded by the library's own loader, and one line if neither is possible."""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save
from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.importing.published import fetch_backbone, torchvision_file
from focaldet.models.pretrained import pretrained_file, url_file
from focaldet.system.downloads import unreachable
from hub_server import environment, focal, serving

SMALL = "mobilenetv3_small_050"


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and its address, where downloads are allowed; torch's cache is empty."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def publish(folder: Path, stem: str, content: bytes) -> str:
    """Write a file whose name ends in its hash; returns the name."""
    name = f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    return name


def test_a_file_is_downloaded_once_and_its_hash_is_compared(served: tuple[Path, str]) -> None:
    folder, address = served
    name = publish(folder, "net", b"weights")
    file = url_file(f"{address}/{name}")
    assert file.read_bytes() == b"weights"
    (folder / name).unlink()
    assert url_file(f"{address}/{name}") == file
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match=rf"{name}: is damaged \(its SHA-256 begins with \w{{8}}, expected \w{{8}}\)"):
        url_file(f"{address}/{name}")


def test_a_damaged_download_is_not_kept(served: tuple[Path, str]) -> None:
    folder, address = served
    name = publish(folder, "net", b"weights")
    (folder / name).write_bytes(b"half")
    with pytest.raises(InputError, match=rf"{name}: the download failed \(invalid hash value.*copy {address}"):
        url_file(f"{address}/{name}")
    assert not [file for file in folder.parent.joinpath("home").rglob("*") if file.is_file()]


def test_without_a_network_a_line_says_which_file_to_bring_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        torchvision_file("fcos_resnet50_fpn")
    place = tmp_path / "hub" / "checkpoints" / "fcos_resnet50_fpn_coco-99b0c9b7.pth"
    assert str(caught.value) == (
        f"{place.name}: cannot be downloaded (HF_HUB_OFFLINE is set); copy "
        f"https://download.pytorch.org/models/{place.name} from another machine to {place}"
    )


@pytest.mark.parametrize(("name", "near"), [("fcos_resnet50", "fcos_resnet50_fpn"), ("retinanet", "retinanet_resnet")])
def test_an_unknown_detector_is_named_with_a_near_one(name: str, near: str) -> None:
    with pytest.raises(InputError, match=rf"torchvision:{name}: unknown detector; (did you mean|known:) '.*{near}"):
        torchvision_file(name)


def test_nobody_waits_for_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        begin = time.monotonic()
        reason = unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}", patience_s=0.3)
    assert reason is not None
    assert time.monotonic() - begin < 3


@pytest.mark.slow
def test_torchvision_s_detector_by_name(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, address = served
    torch.manual_seed(0)
    theirs = torchvision.models.detection.fcos_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(theirs.state_dict(), folder / "state")
    name = publish(folder, "fcos_resnet50_fpn_coco", (folder / "state").read_bytes())
    weights = FCOS_ResNet50_FPN_Weights.COCO_V1.value
    before = weights.url
    object.__setattr__(weights, "url", f"{address}/{name}")  # where torchvision looks for it
    try:
        assert main(["import", "torchvision:fcos_resnet50_fpn", "--out", str(tmp_path / "run")]) == 0
    finally:
        object.__setattr__(weights, "url", before)
    assert "fcos_resnet50_fpn, resnet50, 80 classes" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "run" / "model.json").read_text())["class_names"]) == 80


@pytest.mark.slow
def test_a_backbone_s_weights_are_the_default_where_they_can_be_had(cells: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = timm.create_model(SMALL).state_dict()
    train = [
        "train",
        "--data",
        cells,
        "--backbone",
        SMALL,
        "--size",
        "64",
        "--levels",
        "p3-p7",
        "--channels",
        "16",
        "--epochs",
        "1",
    ]
    train += ["--batch", "2", "--lr", "0"]  # so that the weights stay as they began
    with serving() as hub:
        hub.models[f"timm/{SMALL}.lamb_in1k"] = {"model.safetensors": save(weights)}
        fetched, auto = focal(
            ["import", f"timm:{SMALL}", "--out", tmp_path / "net.safetensors"],
            [*train, "--out", tmp_path / "auto"],
            **environment(hub, tmp_path / "home"),
        )
    assert fetched[0] == 0, fetched[2]
    assert f"--backbone {SMALL} --backbone-weights {tmp_path / 'net.safetensors'}" in fetched[1]
    assert auto[0] == 0, auto[2]
    assert f"starting from timm's pretrained weights of {SMALL}; without them: --no-pretrained" in auto[1]
    # From the cache, where the network is gone.
    cached = [*train, "--out", tmp_path / "cached", "--pretrained"]
    assert focal(cached, **environment(None, tmp_path / "home"))[0][0] == 0
    ((code, said, _),) = focal([*train, "--out", tmp_path / "scratch"], **environment(None, tmp_path / "empty"))
    assert code == 0
    assert re.search(rf"training from scratch: timm/{SMALL}.lamb_in1k: cannot be downloaded \(.*refused", said)
    states = {name: load_file(tmp_path / name / "model.safetensors") for name in ("auto", "cached", "scratch")}
    stem, there = "backbone.net.conv_stem.weight", weights["conv_stem.weight"]
    assert bool((states["auto"][stem] == there).all())
    assert bool((states["cached"][stem] == there).all())
    assert not bool((states["scratch"][stem] == there).all())
    assert bool((load_file(tmp_path / "net.safetensors")["conv_stem.weight"] == there).all())
    chosen = {n: re.search(r"pretrained: (\w+)", (tmp_path / n / "config.yaml").read_text())[1] for n in states}
    assert chosen == {"auto": "true", "cached": "true", "scratch": "false"}


def test_a_network_without_pretrained_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="timm has no pretrained weights of resnet18_nothing"):
        pretrained_file("resnet18_nothing")
    with pytest.raises(InputError, match=r"expected a file whose name ends in .safetensors"):
        fetch_backbone(SMALL, tmp_path / "net.pth", print)
