"""The documentation site builds without a warning and contains every public name."""

import subprocess
import sys
from pathlib import Path

import pytest

import focaldet

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_holds_every_public_name(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "-q", "-c", ROOT / "docs" / "site"]
    done = subprocess.run(
        [*build, "-d", tmp_path / "doctrees", ROOT, tmp_path / "site"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reference = (tmp_path / "site" / "docs" / "site" / "api.html").read_text(encoding="utf-8")
    documented = [name for name in focaldet.__all__ if callable(getattr(focaldet, name))]
    assert [name for name in documented if f'id="focaldet.{name}"' not in reference] == []
    assert "docs/site/index.html" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
