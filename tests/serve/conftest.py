"""A served run."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from focaldet.engine.load import load_model
from focaldet.runtime.model import Model
from focaldet.serve.app import create_app


@pytest.fixture(scope="session")
def eager(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run, which has hardly learned anything, with a score threshold of 0."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("served") / "run"))
    document = json.loads((run / "model.json").read_text())
    document["reading"]["score_threshold"] = 0.0
    (run / "model.json").write_text(json.dumps(document))
    return run


@pytest.fixture(scope="session")
def model(eager: Path) -> Model:
    return load_model(eager)


@pytest.fixture
def client(model: Model) -> Iterator[TestClient]:
    with TestClient(create_app(model, name="cells", score=0.0)) as client:
        yield client


@pytest.fixture(scope="session")
def photo(cells: Path) -> Path:
    return sorted((cells / "JPEGImages").iterdir())[0]
