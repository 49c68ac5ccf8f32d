"""Detect in files: photos, folders of photos, videos. Each is drawn, and all boxes are written as COCO JSON."""

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
from focaldet.files import check_out, replacing, write_json
from focaldet.photos.depth import depth_note
from focaldet.photos.draw import draw_detections
from focaldet.photos.folder import photos_below, skipped_line
from focaldet.photos.images import IMAGE_SUFFIXES, decode_photo
from focaldet.runtime.model import DetectionArrays, Model
from focaldet.runtime.results import coco_results
from focaldet.runtime.video import VIDEO_SUFFIXES, read_video, write_video


def predict_files(
    model: Model, paths: Sequence[Path], out: Path, *, score: float = 0.3, say: Callable[[str], None] = print
) -> list[str]:
    """Detect in photos and videos, and write each drawn and all as ``predictions.json``.

    Args:
        paths: files, or folders of photos, whose sub-folders are looked into too.
        out: folder for ``<photo>.png``, ``<video>.mp4`` and ``predictions.json``, in which each frame of a video is an
            image with the video's name, its ``frame`` and ``seconds``. Photos of sub-folders are drawn into sub-folders
            of the same names.
        score: boxes have a higher one.
        say: prints a line: which files of folders were skipped, and which photos were brightened.

    Returns:
        A line for each file that could not be read; the others are done.

    Raises:
        InputError: nothing is there to look at, or the folder cannot be written, or holds something else.
    """
    check_out(out, "predictions")
    listed, skipped = list_images(paths, out)
    if line := skipped_line(skipped):
        say(line)
    record = _Record(model, score)
    faults: list[str] = []
    whites: list[int] = []
    found = out / "predictions.json"
    if not found.exists():
        write_json(found, record.document)  # from here on it shows what the folder is for
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
                drawn = _draw(photo, record.look(photo, file), model.class_names)
                with replacing(out / name) as beside:
                    drawn.save(beside, format="PNG")
    finally:  # Ctrl-C keeps what was found before it
        write_json(found, record.document)
    if line := depth_note(whites):
        say(line)
    return faults


class _Record:
    """Detects, and keeps what ``predictions.json`` holds."""

    def __init__(self, model: Model, score: float) -> None:
        self.model, self.score = model, score
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(model.class_names)]
        self.document: dict[str, list[Any]] = {"images": [], "categories": categories, "annotations": []}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """What was noted since is forgotten when an error ends it: a video that is damaged in its middle."""
        before = {key: len(entries) for key, entries in self.document.items()}
        try:
            yield
        except InputError:
            for key, length in before.items():
                del self.document[key][length:]
            raise

    def look(self, photo: NDArray[np.uint8], file: Path, **more: Any) -> DetectionArrays:
        """The objects in a photo, which is noted."""
        (found,) = self.model.detect([self.model.prepare(photo)])
        found = found.above(self.score)
        number = len(self.document["images"]) + 1
        size = {"width": photo.shape[1], "height": photo.shape[0]}
        self.document["images"].append({"id": number, "file_name": str(file), **size, **more})
        self.document["annotations"] += coco_results(number, found)
        return found


def _frames(record: _Record, file: Path, faults: list[str]) -> Iterator[tuple[Image.Image, Fraction]]:
    """The drawn frames of a video, one after the other: no two are in memory."""
    for number, frame in enumerate(read_video(file, note=faults.append)):
        found = record.look(frame.photo, file, frame=number, seconds=round(frame.seconds, 3))
        yield _draw(frame.photo, found, record.model.class_names, scale=1, legend=False), frame.rate


def _draw(photo: NDArray[np.uint8], found: DetectionArrays, class_names: Sequence[str], **options: Any) -> Image.Image:
    return draw_detections(
        photo, found.boxes_xyxy, found.labels, found.scores, class_names, found.side_std_px, **options
    )


class Listed(NamedTuple):
    """A photo or video to look at.

    Args:
        file: where it is.
        place: its folder below the one that was given; "." of what was given itself.
    """

    file: Path
    place: Path


def list_images(paths: Sequence[Path], out: Path) -> tuple[list[Listed], Counter[str]]:
    """The photos and videos that files name, the photos in folders, and what else is there, by its suffix.

    Args:
        out: where pictures will be drawn; below a folder of photos it is not looked into.

    Raises:
        InputError: a path is not there, or there is no photo at all.
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
            raise InputError(f"{path}: cannot be looked at ({error.strerror})") from error
    if not listed:
        line = f"; {skipped_line(skipped)}" if skipped else ""
        looked = f"looked for {', '.join(sorted(IMAGE_SUFFIXES))}{line}"
        raise InputError(f"{paths[0] if paths else 'images'}: no photo in it; {looked}")
    return listed, skipped


def _drawn_names(listed: Sequence[Listed], out: Path) -> list[Path]:
    """A name for each file's picture: the file's, longer or numbered when another one has it already."""
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
            raise InputError(f"--out {out}: would write over {drawn} itself; choose another folder")
    return list(names)
