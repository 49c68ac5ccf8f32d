"""The workflow for GitHub says the same as pyproject.toml and the Makefile."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILE = ROOT / ".github" / "workflows" / "ci.yml"
TEXT = FILE.read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def matrix() -> dict[str, Any]:
    matrix: dict[str, Any] = yaml.safe_load(TEXT)["jobs"]["quick"]["strategy"]["matrix"]
    return matrix


def test_the_oldest_torch_and_python_are_those_that_the_package_allows(matrix: dict[str, Any]) -> None:
    least = dict(
        re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in PROJECT["optional-dependencies"]["train"]
    )
    assert f'"torch=={least["torch"]}.*" "torchvision=={least["torchvision"]}.*"' in TEXT
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    oldest = [entry["os"] for entry in matrix["include"] if entry["torch"] == "oldest"]
    assert sorted(oldest) == sorted(matrix["os"])


def test_every_part_of_make_check_is_run() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^(?:lint|quick):.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    parts = [line.split("#")[0].strip() for target in targets for line in target.splitlines()]
    assert len(parts) == 4
    for part in parts:
        assert part.replace("$(BIN)/", "").removeprefix("OMP_NUM_THREADS=1 ") in TEXT
