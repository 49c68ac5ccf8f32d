"""Data folders of a few real photos, or of drawn digits if these are missing."""

import shutil
from pathlib import Path

from drawn_photos import drawn_cells

BCCD = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "bccd"


def write_cells(root: Path, splits: dict[str, range]) -> Path:
    """Photos of BCCD, numbered by name, as a Pascal VOC folder with these splits."""
    source = BCCD if BCCD.is_dir() else drawn_cells()
    names = sorted(file.stem for file in (source / "JPEGImages").iterdir())
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, indices in splits.items():
        chosen = [names[index] for index in indices]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(chosen))
        for name in chosen:
            shutil.copy(source / "JPEGImages" / f"{name}.jpg", root / "JPEGImages")
            shutil.copy(source / "Annotations" / f"{name}.xml", root / "Annotations")
    return root
