"""Detect in photos, folders of photos and videos. Writes a drawn copy of each, and all boxes as COCO JSON."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import chain, count, groupby
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
from focaldet.photos.georeference import read_georeference
from focaldet.photos.images import IMAGE_SUFFIXES, decode_photo
from focaldet.photos.regions import PhotoRegions, open_regions
from focaldet.runtime.cameras import Camera, camera_frames
from focaldet.runtime.geojson import geojson
from focaldet.runtime.model import DetectionArrays, Model
from focaldet.runtime.prediction import draw_found
from focaldet.runtime.results import coco_results
from focaldet.runtime.selection import Selection, select_by_score
from focaldet.runtime.shift import ShiftCheck
from focaldet.runtime.video import VIDEO_SUFFIXES, read_video, write_video
from focaldet.runtime.window_stream import look, look_at
from focaldet.system.progress import Progress

DRAWN_PIXELS, DRAWN_SIDE = 16_000_000, 4096
"""Longer side at which larger photos are drawn when detecting in windows."""

Seen = Callable[[Path, tuple[int, int], DetectionArrays, DetectionArrays], None]
"""Takes a photo, its size (width, height), all its detections, and the detections to show."""


def predict_files(
    model: Model,
    paths: Sequence[Path],
    out: Path,
    *,
    score: float = 0.3,
    select: Selection | None = None,
    shift: ShiftCheck | None = None,
    seen: Seen | None = None,
    cameras: Sequence[Camera] = (),
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> list[str]:
    """Detect objects in photos and videos; write drawn copies and ``predictions.json``.

    For a GeoTIFF, also write ``<photo>.geojson`` with the boxes in the file's coordinates.

    Args:
        paths: files, or folders of photos including sub-folders.
        out: folder for ``<photo>.png``, ``<video>.mp4`` and ``predictions.json``. In the latter, each frame of a video
            is an image with the video's name, its ``frame`` and ``seconds``. Photos in sub-folders are drawn into
            sub-folders of the same names.
        score: confidence threshold; boxes have a higher score.
        select: chooses the boxes, instead of ``score``.
        shift: warns if the photos do not resemble the calibration photos.
        seen: called with each photo or frame, its size (width, height), all its detections, and the chosen ones.
        cameras: read after the files, each until it ends or Ctrl-C is pressed, and drawn like a video.
        say: prints a line about files skipped in folders, photos that were brightened, or a shift.
        progress: called with the number of windows, if the model detects in windows.

    Returns:
        A line for each file that could not be read, or only in part. All others are processed.

    Raises:
        InputError: there is no photo or video, or the folder cannot be written or contains something else.
    """
    check_out(out, "predictions")
    listed, skipped = list_images(paths, out) if paths or not cameras else ([], Counter())
    if line := skipped_line(skipped):
        say(line)
    record = _Record(model, select_by_score(len(model.class_names), score) if select is None else select, shift, seen)
    faults: list[str] = []
    whites: list[int] = []
    found = out / "predictions.json"
    if not found.exists():
        write_json(found, record.document)  # marks the folder as one of predictions
    try:
        named = [(file, name) for (file, _), name in zip(listed, _drawn_names(listed, out), strict=True)]
        if model.tiling is not None:
            _in_windows(record, named, out, faults, progress)
            named = []
        for file, name in named:
            video = _is_video(file)
            try:
                if video:
                    _write_film(record, file, out / name, faults)
                else:
                    photo, white = decode_photo(file)
                    whites.append(white)
            except InputError as error:
                faults.append(str(error))
                continue
            if not video:
                found_here = record.look(photo, file)
                _save(draw_found(photo, found_here, model.class_names, record.select.coverage), out / name)
                _write_geojson(record, file, found_here, out / name)
        for camera in cameras:
            try:
                _write_film(record, camera, _free(out, camera.name), faults, say)
            except InputError as error:
                faults.append(str(error))
    finally:  # keeps the results so far after Ctrl-C
        write_json(found, record.document)
    if line := depth_note(whites):
        say(line)
    if shift is not None and (warning := shift.line()):
        say(warning)
    return faults


class _Record:
    """Detects objects and collects the content of ``predictions.json``."""

    def __init__(self, model: Model, select: Selection, shift: ShiftCheck | None, seen: Seen | None) -> None:
        self.model, self.select, self.shift, self.seen = model, select, shift, seen
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
        if self.model.tiling is None:
            (found,) = self.model.detect([self.model.prepare(photo)])
        else:
            found = look_at(self.model, photo, self.model.tiling)
        return self.add(found, (photo.shape[1], photo.shape[0]), file, **more)

    def add(self, found: DetectionArrays, photo_size: tuple[int, int], file: Path, **more: Any) -> DetectionArrays:
        """Add a photo (width, height) to the document; return the detections to show."""
        if self.shift is not None:
            self.shift.add(file, found)
        everything, found = found, self.select(found, photo_size[::-1])
        if self.seen is not None:
            self.seen(file, photo_size, everything, found)
        number = len(self.document["images"]) + 1
        size = {"width": photo_size[0], "height": photo_size[1]}
        self.document["images"].append({"id": number, "file_name": str(file), **size, **more})
        self.document["annotations"] += coco_results(number, found)
        return found


def _in_windows(
    record: _Record, named: Sequence[tuple[Path, Path]], out: Path, faults: list[str], progress: Progress | None
) -> None:
    """Process the files in windows, with one stream over consecutive photos of the list."""
    model, tiling = record.model, record.model.tiling
    assert tiling is not None
    for video, group in groupby(named, key=lambda entry: _is_video(entry[0])):
        files = list(group)
        if video:
            for file, name in files:
                try:
                    _write_film(record, file, out / name, faults)
                except InputError as error:
                    faults.append(str(error))
            continue
        stream = look(model, [partial(open_regions, file) for file, _ in files], tiling, progress=progress)
        for (file, name), looked in zip(files, stream, strict=True):
            if looked.fault is not None:
                faults.append(str(looked.fault))
                continue
            assert looked.photo is not None
            assert looked.found is not None
            found = record.add(looked.found, looked.photo.size, file)
            _save(_draw_regions(looked.photo, found, model.class_names, record.select.coverage), out / name)
            _write_geojson(record, file, found, out / name)
            if looked.photo.problem:
                faults.append(looked.photo.problem)


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES


def _save(drawn: Image.Image, file: Path) -> None:
    with replacing(file) as beside:
        drawn.save(beside, format="PNG")


def _write_geojson(record: _Record, file: Path, found: DetectionArrays, drawn: Path) -> None:
    if (place := read_georeference(file)) is not None:
        write_json(drawn.with_suffix(".geojson"), geojson(found, record.model.class_names, place))


def _free(out: Path, name: str) -> Path:
    """A name for a camera's video that keeps its earlier videos."""
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(film for each in names if not (film := out / f"{each}.mp4").exists())


def _write_film(
    record: _Record, source: Path | Camera, drawn: Path, faults: list[str], say: Callable[[str], None] = print
) -> None:
    with record.whole():
        write_video(drawn, _frames(record, source, faults, say))


def _frames(
    record: _Record, source: Path | Camera, faults: list[str], say: Callable[[str], None]
) -> Iterator[tuple[Image.Image, Fraction]]:
    """Yield the drawn frames of a video one at a time, so that only one is in memory."""
    if isinstance(source, Camera):
        frames, file = camera_frames(source, say=say), Path(source.name)
    else:
        frames, file = read_video(source, note=faults.append), source
    for number, frame in enumerate(frames):
        found = record.look(frame.photo, file, frame=number, seconds=round(frame.seconds, 3))
        coverage = record.select.coverage
        yield draw_found(frame.photo, found, record.model.class_names, coverage, scale=1, legend=False), frame.rate


def _draw_regions(
    photo: PhotoRegions, found: DetectionArrays, class_names: Sequence[str], coverage: float | None
) -> Image.Image:
    """Draw on a photo that may be too large to be drawn at full size."""
    width, height = photo.size
    if width * height <= DRAWN_PIXELS:
        return draw_found(photo.read(0, 0, width, height), found, class_names, coverage)
    pixels = photo.reduced(DRAWN_SIDE)
    return draw_found(pixels, found.scaled(pixels.shape[1] / width, pixels.shape[0] / height), class_names, coverage)


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
    """A unique name for the picture of each file: the file's own name, extended or numbered if taken."""
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
