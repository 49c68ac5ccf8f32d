"""Runs on the hub: its own client, against a stand-in of its server on this machine."""

import json
import re
from pathlib import Path

import pytest
import yaml

import focaldet
from focaldet.checks import InputError
from focaldet.engine.hub import local_run, repository_of
from hub_server import environment, focal, serving


@pytest.mark.slow
def test_a_pushed_run_is_predicted_with_trained_from_and_copied(trained: Path, cells: Path, tmp_path: Path) -> None:
    photo = next((cells / "JPEGImages").iterdir())
    with serving() as hub:
        here = environment(hub, tmp_path / "home")
        code, said, wrong = focal(["push", trained, "me/cells", "--licence", "mit", "--private"], **here)
        assert (code, wrong) == (0, "")
        assert f"uploaded to {hub.url}/me/cells" in said
        files = hub.models["me/cells"]
        assert set(files) >= {"README.md", "model.json", "model.safetensors", "evaluation.json"}
        assert not set(files) & {"config.yaml", "truth.json", "predictions.json", "splits.json", "last.ckpt"}
        assert files["model.safetensors"] == (trained / "model.safetensors").read_bytes()
        assert "me/cells" in hub.private
        _check_card(files["README.md"].decode(), trained)

        code, said, wrong = focal(["predict", "hf:me/cells", photo, "--out", tmp_path / "there"], **here)
        assert (code, wrong) == (0, "")
        assert focal(["predict", trained, photo, "--out", tmp_path / "here"], **here)[0] == 0
        found = [json.loads((tmp_path / at / "predictions.json").read_text()) for at in ("there", "here")]
        assert found[0]["annotations"] == found[1]["annotations"]

        tuned = ["train", "--data", cells, "--weights", "hf:me/cells", "--epochs", "1", "--out", tmp_path / "tuned"]
        code, said, wrong = focal([*tuned, "--batch", "2"], **here)
        assert code == 0, wrong
        assert "starting from the weights of hf:me/cells" in said
        assert focaldet.Run(tmp_path / "tuned").config.weights == "hf:me/cells"

        code, said, wrong = focal(["import", "hf:me/cells", "--out", tmp_path / "copy"], **here)
        assert (code, wrong) == (0, "")
        for name in ("model.safetensors", "model.json"):
            assert (tmp_path / "copy" / name).read_bytes() == (trained / name).read_bytes()

        for command in (["eval", "hf:me/cells", "--data", cells], ["export", "hf:me/cells"]):
            code, _, wrong = focal(command, **here)
            assert code == 2
            assert "writes into the run, and hf:me/cells lies on the hub" in wrong
        code, _, wrong = focal(["predict", "hf:me/nothing", photo, "--out", tmp_path / "none"], **here)
        assert code == 2
        assert f"hf:me/nothing: {hub.url} has no such model, or you may not read it" in wrong
        code, _, wrong = focal(["push", trained, "me/cells"], **environment(hub, tmp_path / "home", token="hf_wrong"))
        assert code == 2
        assert re.search(r"me/cells: the upload failed \(.*\); log in first: hf auth login\n$", wrong)
    # Without a network, what is in the cache is used, and nothing waits.
    gone = environment(None, tmp_path / "home")
    code, said, wrong = focal(["predict", "hf:me/cells", photo, "--out", tmp_path / "offline"], **gone)
    assert (code, wrong) == (0, "")
    code, _, wrong = focal(["predict", "hf:me/other", photo, "--out", tmp_path / "none"], **gone)
    assert code == 2
    assert re.fullmatch(
        r"focaldet: hf:me/other: cannot be downloaded \(.*refused.*\); bring it from another machine as a folder "
        r"\(hf download me/other --local-dir RUN\) and name that\n",
        wrong,
    )


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
