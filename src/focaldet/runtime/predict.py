"""Detection in files: photos, folders of photos and videos. Writes a picture of each, and all boxes as COCO JSON."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focaldet.checks import InputError
from focaldet.files import replacing, write_json
from focaldet.folders import check_out
from focaldet.photos.depth import depth_note
from focaldet.photos.folder import photos_below, skipped_line
from focaldet.photos.images import IMAGE_SUFFIXES, decode_photo
from focaldet.runtime.model import DetectionArrays, Model
from focaldet.runtime.prediction import draw_found
from focaldet.runtime.results import coco_results
from focaldet.runtime.selection import Selection, select_by_score
from focaldet.runtime.video import VIDEO_SUFFIXES, read_video, write_video


def predict_files(
    model: Model,
    paths: Sequence[Path],
    out: Path,
    *,
    score: float = 0.3,
    select: Selection | None = None,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Detect objects in photos and videos; write drawn copies and ``predictions.json``.

    Args:
        paths: files, or folders of photos including sub-folders.
        out: folder for ``<photo>.png``, ``<video>.mp4`` and ``predictions.json``. In the latter, each frame of a video
            is an image with the video's name, its ``frame`` and ``seconds``. Photos in sub-folders are drawn into
            sub-folders of the same names.
        score: confidence threshold; boxes have a higher score.
        select: chooses the boxes, instead of ``score``.
        say: prints a line about files skipped in folders or photos that were brightened.

    Returns:
        A line for each file that could not be read. All others are processed.

    Raises:
        InputError: there is no photo or video, or the folder cannot be written or contains something else.
    """
    check_out(out, "predictions")
    listed, skipped = list_images(paths, out)
    if line := skipped_line(skipped):
        say(line)
    record = _Record(model, select_by_score(len(model.class_names), score) if select is None else select)
    faults: list[str] = []
    whites: list[int] = []
    found = out / "predictions.json"
    if not found.exists():
        write_json(found, record.document)  # marks the folder as one of predictions
    try:
        for (file, _), name in zip(listed, _drawn_names(listed, out), strict=True):
            video = file.suffix.lower() in VIDEO_SUFFIXES
            try:
                if video:
                    with record.whole():
                        write_video(out / name, _frames(record, file, faults))
                else:
                    photo, white = decode_photo(file)
                    whites.append(white)
            except InputError as error:
                faults.append(str(error))
                continue
            if not video:
                drawn = draw_found(photo, record.look(photo, file), model.class_names, record.select.coverage)
                with replacing(out / name) as beside:
                    drawn.save(beside, format="PNG")
    finally:  # keeps the results so far after Ctrl-C
        write_json(found, record.document)
    if line := depth_note(whites):
        say(line)
    return faults


class _Record:
    """Detects objects and collects the content of ``predictions.json``."""

    def __init__(self, model: Model, select: Selection) -> None:
        self.model, self.select = model, select
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(model.class_names)]
        self.document: dict[str, list[Any]] = {"images": [], "categories": categories, "annotations": []}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Discard the entries added inside if an error occurs, as in a video damaged halfway."""
        before = {key: len(entries) for key, entries in self.document.items()}
        try:
            yield
        except InputError:
            for key, length in before.items():
                del self.document[key][length:]
            raise

    def look(self, photo: NDArray[np.uint8], file: Path, **more: Any) -> DetectionArrays:
        """Detect the objects in a photo and add it to the document."""
        (found,) = self.model.detect([self.model.prepare(photo)])
        found = self.select(found, (photo.shape[0], photo.shape[1]))
        number = len(self.document["images"]) + 1
        size = {"width": photo.shape[1], "height": photo.shape[0]}
        self.document["images"].append({"id": number, "file_name": str(file), **size, **more})
        self.document["annotations"] += coco_results(number, found)
        return found


def _frames(record: _Record, file: Path, faults: list[str]) -> Iterator[tuple[Image.Image, Fraction]]:
    """Yield the drawn frames of a video one at a time, so that only one is in memory."""
    for number, frame in enumerate(read_video(file, note=faults.append)):
        found = record.look(frame.photo, file, frame=number, seconds=round(frame.seconds, 3))
        coverage = record.select.coverage
        yield draw_found(frame.photo, found, record.model.class_names, coverage, scale=1, legend=False), frame.rate


class Listed(NamedTuple):
    """A photo or video to process.

    Args:
        file: path of the file.
        place: its folder relative to the given one; "." for a file that was given itself.
    """

    file: Path
    place: Path


def list_images(paths: Sequence[Path], out: Path) -> tuple[list[Listed], Counter[str]]:
    """List given photos and videos and the photos in given folders; count other files by suffix.

    Args:
        paths: files and folders.
        out: folder for the results, which is skipped if it is inside a folder of photos.

    Raises:
        InputError: a path does not exist, or there is no photo or video.
    """
    listed: list[Listed] = []
    skipped: Counter[str] = Counter()
    for path in paths:
        try:
            if path.is_dir():
                photos, others = photos_below(path, without=[out] if out.resolve() != path.resolve() else [])
                listed += [Listed(photo, photo.parent.relative_to(path)) for photo in photos]
                skipped += others
            elif path.exists():
                listed.append(Listed(path, Path()))
            else:
                raise InputError(f"{path}: no such file or folder")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not listed:
        line = f"; {skipped_line(skipped)}" if skipped else ""
        looked = f"looked for {', '.join(sorted(IMAGE_SUFFIXES))}{line}"
        raise InputError(f"{paths[0] if paths else 'images'}: contains no photo; {looked}")
    return listed, skipped


def _drawn_names(listed: Sequence[Listed], out: Path) -> list[Path]:
    """A unique name for the picture of each file: that of the file, extended or numbered if taken."""
    names: dict[Path, None] = {}
    for file, place in listed:
        kind = ".mp4" if file.suffix.lower() in VIDEO_SUFFIXES else ".png"
        candidates = chain(
            [file.stem, file.name, f"{file.parent.name}-{file.name}"], (f"{file.stem}-{n}" for n in count(2))
        )
        names[next(drawn for name in candidates if (drawn := place / (name + kind)) not in names)] = None
    sources = {file.resolve() for file, _ in listed}
    for drawn in names:
        if (out / drawn).resolve() in sources:
            raise InputError(f"--out {out}: would overwrite {drawn} itself; choose another folder")
    return list(names)
