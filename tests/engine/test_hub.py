"""Runs on the hub: the hub's own client, against a stand-in for its server on this machine."""

import json
import re
from pathlib import Path

import pytest
import yaml

import focaldet
from focaldet.checks import InputError
from focaldet.cli import main
from focaldet.engine.hub import local_run, repository_of
from hub_server import environment, focal, serving


@pytest.mark.slow
def test_a_pushed_run_is_predicted_with_trained_from_and_copied(trained: Path, cells: Path, tmp_path: Path) -> None:
    photo = next((cells / "JPEGImages").iterdir())
    tuned = ["train", "--data", cells, "--weights", "hf:me/cells", "--epochs", "1", "--batch", "2"]
    with serving() as hub:
        pushed, there, started, copied, unknown = focal(
            ["push", trained, "me/cells", "--licence", "mit", "--private"],
            ["predict", "hf:me/cells", photo, "--out", tmp_path / "there"],
            [*tuned, "--out", tmp_path / "tuned"],
            ["import", "hf:me/cells", "--out", tmp_path / "copy"],
            ["predict", "hf:me/nothing", photo, "--out", tmp_path / "none"],
            **environment(hub, tmp_path / "home"),
        )
        (refused,) = focal(["push", trained, "me/cells"], **environment(hub, tmp_path / "home", token="hf_wrong"))
    assert (pushed[0], pushed[2]) == (0, "")
    assert f"uploaded to {hub.url}/me/cells" in pushed[1]
    files = hub.models["me/cells"]
    assert set(files) >= {"README.md", "model.json", "model.safetensors", "evaluation.json"}
    assert not set(files) & {"config.yaml", "truth.json", "predictions.json", "splits.json", "last.ckpt"}
    assert files["model.safetensors"] == (trained / "model.safetensors").read_bytes()
    assert "me/cells" in hub.private
    _check_card(files["README.md"].decode(), trained)

    assert (there[0], there[2]) == (0, "")
    assert main(["predict", str(trained), str(photo), "--out", str(tmp_path / "here")]) == 0
    found = [json.loads((tmp_path / at / "predictions.json").read_text()) for at in ("there", "here")]
    assert found[0]["annotations"] == found[1]["annotations"]

    assert started[0] == 0, started[2]
    assert "starting from the weights of hf:me/cells" in started[1]
    assert focaldet.Run(tmp_path / "tuned").config.weights == "hf:me/cells"

    assert (copied[0], copied[2]) == (0, "")
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (trained / name).read_bytes()

    assert unknown[0] == 2
    assert f"hf:me/nothing: {hub.url} has no such model, or you may not read it" in unknown[2]
    assert refused[0] == 2
    assert re.search(r"me/cells: the upload failed \(.*\); log in first: hf auth login\n$", refused[2])

    # Without a network, what is in the cache is used, and nothing waits.
    cached, missing = focal(
        ["predict", "hf:me/cells", photo, "--out", tmp_path / "offline"],
        ["predict", "hf:me/other", photo, "--out", tmp_path / "none"],
        **environment(None, tmp_path / "home"),
    )
    assert (cached[0], cached[2]) == (0, "")
    assert missing[0] == 2
    assert re.fullmatch(
        r"focaldet: hf:me/other: cannot be downloaded \(.*refused.*\); download it on another machine "
        r"\(hf download me/other --local-dir RUN\), copy the folder here and give its path\n",
        missing[2],
    )


@pytest.mark.parametrize("command", [["eval", "hf:me/cells", "--data", "DIR"], ["export", "hf:me/cells"]])
def test_a_command_that_writes_into_the_run_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert "writes into the run, but hf:me/cells is on the hub" in capsys.readouterr().err


def _check_card(card: str, run: Path) -> None:
    _, head, text = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    measured = json.loads((run / "evaluation.json").read_text())["metrics"]
    assert metadata["license"] == "mit"
    assert metadata["pipeline_tag"] == "object-detection"
    (result,) = metadata["model-index"][0]["results"]
    values = {each["type"]: each["value"] for each in result["metrics"]}
    assert values == {name: round(measured[name], 4) for name in ("AP", "AP50", "AP75") if measured[name] is not None}
    assert result["dataset"]["name"] == "cells"
    assert "Photos of cells: train 4, val 2." in text
    assert "method: gfl" in text
    assert str(run.parent) not in card, "no path of this machine"
    assert "## Licence\n\nmit" in text


@pytest.mark.parametrize("name", ["cells", "hf:cells", "hf:a/b/c", "hf:a b/c", "hf:../x"])
def test_a_name_without_an_owner_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        repository_of(name)


def test_downloads_can_be_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"hf:me/cells: cannot be downloaded \(HF_HUB_OFFLINE is set\)"):
        local_run("hf:me/cells")
    with pytest.raises(InputError, match="cannot be downloaded"):
        focaldet.Run("hf:me/cells")
    with pytest.raises(InputError, match="cannot be downloaded"):
        focaldet.detector(weights="hf:me/cells")
