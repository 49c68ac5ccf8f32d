"""Reading a checkpoint executes nothing from it."""

import argparse
import collections
import os
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from focaldet.checks import InputError
from focaldet.importing.checkpoint import Inert, read_checkpoint

WEIGHTS = collections.OrderedDict(a=torch.arange(3.0), half=torch.ones(2).half(), count=torch.tensor(7))


class Calls:
    """Unpickles to a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def history(monkeypatch):
    """An object as mmengine leaves it in its checkpoints, of a class that is gone when they are read."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    buffer = type("HistoryBuffer", (), {"__module__": module.__name__})
    module.HistoryBuffer = buffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    made = buffer()
    made.values = np.arange(3.0)
    return made


def saved(file, content, *, new=True):
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file


def refusal(file):
    with pytest.raises(InputError) as error:
        read_checkpoint(file)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)
    assert len(str(error.value)) < 300 + len(str(file))
    return str(error.value)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w}, lambda w: {"model": w, "epoch": 3}])
def test_weights_are_found_wherever_codes_put_them(tmp_path, wrap, new):
    read = read_checkpoint(saved(tmp_path / "c.pth", wrap(WEIGHTS), new=new)).weights
    assert {name: value.tolist() for name, value in read.items()} == {"a": [0, 1, 2], "half": [1, 1], "count": 7}
    assert [value.dtype for value in read.values()] == [torch.float32, torch.float32, torch.int64]


def test_prefix_of_a_model_on_many_gpus_is_left_out(tmp_path):
    read = read_checkpoint(saved(tmp_path / "c.pth", {f"module.{name}": value for name, value in WEIGHTS.items()}))
    assert list(read.weights) == list(WEIGHTS)


def test_safetensors_are_read(tmp_path):
    save_file(dict(WEIGHTS), tmp_path / "c.pth")  # told by its content, not by its name
    assert set(read_checkpoint(tmp_path / "c.pth").weights) == set(WEIGHTS)


@pytest.mark.parametrize("new", [True, False])
def test_objects_of_known_packages_are_stood_for_and_plain_values_kept(tmp_path, history, new, monkeypatch):
    content = {
        "state_dict": WEIGHTS,
        "meta": {
            "cfg": "model = dict()",
            "dataset_meta": {"CLASSES": ("a", "b"), "palette": np.arange(3)},
            "rate": np.float64(0.5),
            "log": history,
            "options": argparse.Namespace(lr=0.1, out=Path("x")),
            "counts": collections.defaultdict(list, {1: [2]}),
        },
    }
    file = saved(tmp_path / "c.pth", content, new=new)
    for name in [name for name in sys.modules if name.split(".")[0] == "mmengine"]:
        monkeypatch.delitem(sys.modules, name)
    allowed = set(torch.serialization.get_safe_globals())
    read = read_checkpoint(file)
    assert list(read.weights) == list(WEIGHTS)
    assert read.meta["cfg"] == "model = dict()"
    assert read.meta["dataset_meta"]["CLASSES"] == ("a", "b")
    assert read.meta["counts"] == {1: [2]}
    assert isinstance(read.meta["log"], Inert)
    assert isinstance(read.meta["dataset_meta"]["palette"], Inert)
    assert isinstance(read.meta["options"], Inert)
    assert "mmengine" not in sys.modules
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "system"),
        (eval, "builtins.eval"),
        (exec, "builtins.exec"),
        (subprocess.call, "subprocess.call"),
        (__import__, "builtins.__import__"),
        (torch.hub.load, "torch.hub.load"),
    ],
)
def test_pickle_that_would_run_code_is_refused_and_named(tmp_path, function, name, new):
    trace = tmp_path / "trace"
    content = {"state_dict": WEIGHTS, "meta": Calls(function, f"open({str(trace)!r}, 'w')")}
    assert name in refusal(saved(tmp_path / "c.pth", content, new=new))
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_bare_pickle_that_would_run_code_is_refused_and_named(tmp_path, protocol):
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Calls(os.system, f"touch {tmp_path}/trace"), protocol))
    assert "system" in refusal(tmp_path / "c.pth")
    assert not (tmp_path / "trace").exists()


def test_stood_for_getattr_reaches_nothing(tmp_path):
    """getattr is a name that mmengine leaves; here it must not lead from a harmless object to a harmful one."""
    file = saved(tmp_path / "c.pth", {"state_dict": WEIGHTS, "meta": {"x": Calls(getattr, WEIGHTS, "clear")}})
    assert isinstance(read_checkpoint(file).meta["x"], Inert)


@pytest.mark.parametrize("new", [True, False])
def test_truncated_checkpoint_is_one_line(tmp_path, new):
    whole = saved(tmp_path / "c.pth", WEIGHTS, new=new).read_bytes()
    for size in (0, 1, 9, 200, len(whole) - 20):
        (tmp_path / "cut.pth").write_bytes(whole[:size])
        assert re.search("refused|not a read", refusal(tmp_path / "cut.pth"))  # a name that is cut is no name either


def test_truncated_safetensors_is_one_line(tmp_path):
    save_file(dict(WEIGHTS), tmp_path / "c.safetensors")
    (tmp_path / "cut").write_bytes((tmp_path / "c.safetensors").read_bytes()[:-3])
    assert "not a readable safetensors file" in refusal(tmp_path / "cut")


def test_other_files_are_one_line(tmp_path):
    assert "no such file" in refusal(tmp_path / "nothing.pth")
    (tmp_path / "text").write_text("weights " * 100)
    assert "not a readable checkpoint" in refusal(tmp_path / "text")
    assert "a folder; expected a file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "found nothing"),
        ({"lr": 0.1}, "'lr': a float"),
        ([torch.ones(1)], "found a list"),
        (torch.ones(1), "Tensor"),
    ],
)
def test_what_holds_no_weights_is_named(tmp_path, content, found):
    assert found in refusal(saved(tmp_path / "c.pth", content))


def test_torchscript_is_named(tmp_path):
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "c.pt"))
    assert "TorchScript" in refusal(tmp_path / "c.pt")
