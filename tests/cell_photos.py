"""Data folders of a few real photos."""

import shutil
from pathlib import Path

import pytest

BCCD = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "bccd"


def write_cells(root: Path, splits: dict[str, range]) -> Path:
    """Photos of BCCD, numbered by name, as a Pascal VOC folder with these splits."""
    if not BCCD.is_dir():
        pytest.skip("needs bccd beside the repository, in ../shared/data")
    names = sorted(file.stem for file in (BCCD / "JPEGImages").iterdir())
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, indices in splits.items():
        chosen = [names[index] for index in indices]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(chosen))
        for name in chosen:
            shutil.copy(BCCD / "JPEGImages" / f"{name}.jpg", root / "JPEGImages")
            shutil.copy(BCCD / "Annotations" / f"{name}.xml", root / "Annotations")
    return root
